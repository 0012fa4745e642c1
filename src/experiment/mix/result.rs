//! What is kept of a mix, and how its histograms look in JSON.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::super::result::{StoreError, store};
use super::Plan;
use super::analysis::Analysis;
use super::block::Block;
use crate::measure::host::Host;
use crate::measure::noise::Limits;

/// The version of this format.
pub const FORMAT: u32 = 2;

/// A mix, whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Mix {
    /// [`FORMAT`] of whoever wrote it; named so that no other result is taken for it.
    pub mix_format: u32,
    /// When it began, seconds since the epoch.
    pub started_s: u64,
    /// The host that it ran on.
    pub host: Host,
    /// What was asked for.
    pub plan: Plan,
    /// What counted as a disturbance, set before the run.
    pub noise_limits: Limits,
    /// It was interrupted.
    pub partial: bool,
    /// What follows from the blocks.
    pub analysis: Analysis,
    /// Every block.
    pub blocks: Vec<Block>,
}

impl Mix {
    /// Writes it so that the file is either the whole result or what it was before.
    ///
    /// # Errors
    /// The directory cannot be written to, or is full.
    pub fn store(&self, path: &Path) -> Result<(), StoreError> {
        store(self, path)
    }
}

/// A histogram as pairs of a value and how often it was recorded, the least first.
pub(super) mod as_pairs {
    use hdrhistogram::Histogram;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(
        histogram: &Histogram<u64>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let recorded = histogram.iter_recorded();
        serializer.collect_seq(recorded.map(|at| (at.value_iterated_to(), at.count_at_value())))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Histogram<u64>, D::Error> {
        let mut histogram = Histogram::new(3).map_err(D::Error::custom)?;
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            histogram.record_n(value, count).map_err(D::Error::custom)?;
        }
        Ok(histogram)
    }
}
