//! An experiment: arms that differ in one thing, run in turn as blocks, and what may be concluded.
//!
//! | file | subject |
//! |---|---|
//! | `plan` | which arms, under which loads, in which order |
//! | `setting` | what is compared, and on which cores: of every plan |
//! | `child` | a server process of one block |
//! | `block` | one arm under one load, once |
//! | `stretch` | what the kernel counts of it, before the window |
//! | `run` | all blocks of a plan, one after the other |
//! | `ledger` | where each request's time goes, in rows that sum to the whole |
//! | `differences` | what one column of it has more or less of than another |
//! | `beside` | what looking closer costs: blocks against those beside them |
//! | `counts` | what was done for a request, by the program's count and the kernel's |
//! | `latency` | 99th percentiles against each other, under an offered rate |
//! | `analysis` | blocks in, rows with intervals and a verdict out |
//! | `checks` | what makes an experiment less than it seems |
//! | `mix` | light requests beside heavy ones, under each offload policy |
//! | `profile` | a flame graph of each arm, by perf |
//! | `result` | what is kept of it all, and how it gets to disk whole |
//!
//! Nothing here prints.

pub mod analysis;
mod beside;
pub mod block;
mod checks;
mod child;
pub mod counts;
pub mod differences;
pub mod latency;
pub mod ledger;
pub mod mix;
pub mod plan;
pub mod profile;
pub mod result;
pub mod run;
pub mod setting;
pub mod stretch;
#[cfg(test)]
mod tests;

use crate::load::LoadError;

/// Why an experiment could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// It contradicts itself.
    #[error("{0}")]
    Plan(String),
    /// A server did not start, or said nothing when asked.
    #[error("the server of arm {arm} {what}")]
    Server {
        /// Whose.
        arm: String,
        /// What it did, and what it said.
        what: String,
    },
    /// An arm does not answer as it should.
    #[error(
        "arm {arm} answered none of {sent} requests as expected (status 200 to GET {path}); try it with `ringlab serve` and curl"
    )]
    Answer {
        /// Whose.
        arm: String,
        /// How many were sent.
        sent: u64,
        /// What was asked for.
        path: String,
    },
    /// The generator could not run.
    #[error(transparent)]
    Load(#[from] LoadError),
}
