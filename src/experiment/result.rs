//! What is kept of an experiment, and how it gets to disk whole.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use super::analysis::Analysis;
use super::block::Block;
use super::plan::Plan;
use crate::measure::host::Host;
use crate::measure::noise::Limits;
use crate::whole_file::write_whole;

/// The version of this format; another one is not read.
pub const FORMAT: u32 = 3;

/// An experiment, whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Experiment {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// When it began, seconds since the epoch.
    pub started_s: u64,
    /// The host that it ran on.
    pub host: Host,
    /// What was asked for.
    pub plan: Plan,
    /// What counted as a disturbance, set before the run.
    pub noise_limits: Limits,
    /// Requests per second at the equal rate.
    pub rate: f64,
    /// It was interrupted.
    pub partial: bool,
    /// Whether the intervals asked for were reached.
    pub until: Option<String>,
    /// What follows from the blocks.
    pub analysis: Analysis,
    /// Every block.
    pub blocks: Vec<Block>,
}

/// An experiment could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It did not get to disk; nothing half-written is left there.
    #[error("the result cannot be written to {}: {error}; name another file with --json", .path.display())]
    Write {
        /// Where to.
        path: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// It cannot be read.
    #[error("{} is no stored result: {what}; store one with `ringlab compare --json FILE`", .path.display())]
    Read {
        /// Where from.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

impl Experiment {
    /// Writes it so that the file is either the whole result or what it was before.
    ///
    /// # Errors
    /// The directory cannot be written to, or is full.
    pub fn store(&self, path: &Path) -> Result<(), StoreError> {
        store(self, path)
    }

    /// Reads a stored one.
    ///
    /// # Errors
    /// It is missing, not a result, or of another format.
    pub fn load(path: &Path) -> Result<Experiment, StoreError> {
        let failed = |what: String| StoreError::Read {
            path: path.to_path_buf(),
            what,
        };
        let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } = serde_json::from_str(&text).map_err(|_| {
            let what = match text.contains("\"mix_format\"") {
                true => "it is of a mix, which is repeated by its options",
                false => "it names no format",
            };
            failed(what.to_string())
        })?;
        if format != FORMAT {
            return Err(failed(format!(
                "it has format {format}, and this program reads {FORMAT}"
            )));
        }
        serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
    }
}

/// Writes a result whole.
pub(super) fn store(result: &impl Serialize, path: &Path) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec(result).expect("a result is plain data");
    text.push(b'\n');
    write_whole(path, &text).map_err(|error| StoreError::Write {
        path: path.to_path_buf(),
        error,
    })
}
