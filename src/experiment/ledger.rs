//! Where each request's time goes: rows of nanoseconds that sum to what the kernel says was used.
//!
//! Every row is measured, in blocks of its own; only *unexplained* is a remainder, of the process
//! CPU clock's total. It may be negative: the stages' clock goes on while the thread is preempted,
//! and the CPU clock does not.

use serde::{Deserialize, Serialize};

use super::block::{Block, Pass};
use super::plan::{Load, Plan};
use crate::measure::probe::{Stage, StageNs};

/// The ledger of one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// Which load.
    pub load: Load,
    /// An arm a column.
    pub columns: Vec<Column>,
}

/// One arm's ledger, in nanoseconds of server CPU per request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The arm.
    pub label: String,
    /// What each stage took, those that never ran left out.
    pub rows: Vec<Entry>,
    /// Threads that do not serve: signals, the laboratory's questions, the kernel's workers.
    pub helpers_ns: f64,
    /// The total less all of the above.
    pub unexplained_ns: f64,
    /// The process CPU clock's total, with the recording going on.
    pub total_ns: f64,
    /// The same without it.
    pub plain_ns: f64,
    /// Non-idle time of all cores per request without it, the generator's in it: work that the
    /// kernel does elsewhere, such as softirqs, shows only here.
    pub machine_ns: Option<f64>,
}

/// A row of one arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Of what.
    pub stage: Stage,
    /// Nanoseconds per request.
    pub ns: f64,
    /// Times per request.
    pub times: f64,
}

impl Column {
    /// Nanoseconds per request of a stage; `None` where it never ran.
    pub fn ns(&self, stage: Stage) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| row.stage == stage)
            .map(|row| row.ns)
    }

    /// What recording costs, as a part of what there is without.
    pub fn price(&self) -> f64 {
        self.total_ns / self.plain_ns - 1.0
    }
}

/// A ledger for each load that has blocks with recorded time.
pub fn ledgers(plan: &Plan, blocks: &[Block]) -> Vec<Ledger> {
    let of = |load: Load, pass: Pass, arm: usize| -> Vec<&Block> {
        let matches = |block: &&Block| block.load == load && block.pass == pass && block.arm == arm;
        blocks.iter().filter(matches).collect()
    };
    Load::ALL
        .into_iter()
        .filter_map(|load| {
            let columns: Vec<Column> = (0..plan.arms.len())
                .filter_map(|arm| {
                    let label = &plan.arms[arm].label;
                    column(
                        label,
                        &of(load, Pass::Time, arm),
                        &of(load, Pass::Plain, arm),
                    )
                })
                .collect();
            (!columns.is_empty()).then_some(Ledger { load, columns })
        })
        .collect()
}

fn column(label: &str, recorded: &[&Block], plain: &[&Block]) -> Option<Column> {
    let requests = |blocks: &[&Block]| blocks.iter().map(|block| block.requests()).sum::<u64>();
    let cpu_ns = |blocks: &[&Block]| blocks.iter().map(|block| block.server.cpu_ns).sum::<u64>();
    let n = requests(recorded);
    if n == 0 {
        return None;
    }
    let per_request = |total: u64| total as f64 / n as f64;
    let stages = recorded.iter().fold(StageNs::default(), |sum, block| {
        sum.plus(&block.server.figures.stages)
    });
    let rows: Vec<Entry> = Stage::ALL
        .iter()
        .enumerate()
        .filter(|(at, _)| stages.ns[*at] > 0)
        .map(|(at, stage)| Entry {
            stage: *stage,
            ns: per_request(stages.ns[at]),
            times: per_request(stages.entered[at]),
        })
        .collect();
    let helpers: u64 = recorded.iter().map(|block| block.server.helpers_ns).sum();
    let total = cpu_ns(recorded);
    let explained: u64 = stages.ns.iter().sum::<u64>() + helpers;
    Some(Column {
        label: label.to_string(),
        rows,
        helpers_ns: per_request(helpers),
        unexplained_ns: (total as f64 - explained as f64) / n as f64,
        total_ns: per_request(total),
        plain_ns: cpu_ns(plain) as f64 / requests(plain).max(1) as f64,
        machine_ns: machine_ns(plain),
    })
}

/// `None` where the kernel does not tell.
fn machine_ns(blocks: &[&Block]) -> Option<f64> {
    let requests: u64 = blocks.iter().map(|block| block.requests()).sum();
    let total = blocks
        .iter()
        .try_fold(0, |sum, block| Some(sum + block.machine_ns.value()?))?;
    (requests > 0).then(|| total as f64 / requests as f64)
}

/// What makes `column` dearer or cheaper than `base`, the largest change first.
pub fn differences(base: &Column, column: &Column) -> Vec<(&'static str, f64)> {
    let mut changes: Vec<(&str, f64)> = Stage::ALL
        .iter()
        .map(|stage| {
            let change = column.ns(*stage).unwrap_or(0.0) - base.ns(*stage).unwrap_or(0.0);
            (stage.name(), change)
        })
        .chain([
            ("helper threads", column.helpers_ns - base.helpers_ns),
            ("unexplained", column.unexplained_ns - base.unexplained_ns),
        ])
        .filter(|(_, change)| change.abs() >= 0.5)
        .collect();
    changes.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    changes
}
