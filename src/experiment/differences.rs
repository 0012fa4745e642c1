//! What one column of a ledger has more or less of than another.

use super::ledger::Column;
use crate::measure::probe::Stage;
use crate::measure::stats::Interval;

/// What a row of one arm is against the same row of the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// The row.
    pub name: &'static str,
    /// Nanoseconds per request; negative where the arm saves.
    pub ns: f64,
    /// Whether every round of the one arm was above every round of the other, as far as it is known. What
    /// is not is no more than what an arm differs by from itself.
    pub is_apart: bool,
}

/// What makes `column` dearer or cheaper than `base`, the largest change first. What is unexplained
/// is not among it: a remainder is no cause.
pub fn differences(base: &Column, column: &Column) -> Vec<Change> {
    const NEVER: Interval = Interval {
        low: 0.0,
        high: 0.0,
    };
    let of_stage = |column: &Column, stage: Stage| {
        let row = column.entry(stage);
        row.map_or((0.0, Some(NEVER)), |row| (row.ns, row.rounds))
    };
    let workers = |column: &Column| (column.workers_ns, column.workers_rounds);
    let helpers = |column: &Column| (column.helpers_ns, column.helpers_rounds);
    let change = |name, [before, after]: [(f64, Option<Interval>); 2]| Change {
        name,
        ns: after.0 - before.0,
        is_apart: match (before.1, after.1) {
            (Some(before), Some(after)) => before.high < after.low || after.high < before.low,
            _ => true,
        },
    };
    let stages = Stage::ALL.iter().map(|stage| {
        let both = [base, column].map(|column| of_stage(column, *stage));
        change(stage.name(), both)
    });
    let mut changes: Vec<Change> = stages
        .chain([
            change("workers", [base, column].map(workers)),
            change("helper threads", [base, column].map(helpers)),
        ])
        .filter(|change| change.ns.abs() >= 0.5)
        .collect();
    changes.sort_by(|a, b| b.ns.abs().total_cmp(&a.ns.abs()));
    changes
}
