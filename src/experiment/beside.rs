//! Blocks that look closer against the plain ones that stand beside them, round by round: what looking costs.

use std::collections::BTreeSet;

use super::block::Block;
use super::plan::PRICED_FROM;
use crate::measure::stats::{Interval, Ratio, paired_log_ratio};

/// CPU per request of `beside`, in nanoseconds, if each block that `observed` has one beside it:
/// otherwise the one sum would be of other times than the other.
pub(super) fn cpu_ns_beside(observed: &[&Block], beside: &[&Block]) -> Option<f64> {
    cpu_ns_per_request(&partners(observed, beside)?)
}

/// Those of `beside` that stand beside `observed` ones, if each of these has one.
pub(super) fn partners<'a>(observed: &[&Block], beside: &[&'a Block]) -> Option<Vec<&'a Block>> {
    let rounds =
        |blocks: &[&Block]| -> BTreeSet<usize> { blocks.iter().map(|block| block.round).collect() };
    let partners: Vec<&Block> = beside
        .iter()
        .filter(|block| rounds(observed).contains(&block.round))
        .copied()
        .collect();
    (rounds(&partners) == rounds(observed)).then_some(partners)
}

/// Where the ratio of `observed` to `beside` lies with 95 % certainty, in CPU per request, from the
/// rounds that have both.
pub(super) fn interval(observed: &[&Block], beside: &[&Block]) -> Option<Interval> {
    paired(observed, beside).map(|ratio| ratio.interval)
}

/// The same with the ratio itself: that of sums may lie outside of what the rounds say.
pub(super) fn paired(observed: &[&Block], beside: &[&Block]) -> Option<Ratio> {
    let rounds = observed.iter().map(|block| block.round + 1).max()?;
    let column = |blocks: &[&Block]| -> Vec<Option<f64>> {
        let of = |round: usize| blocks.iter().find(|block| block.round == round);
        let cpu_ns = |round| of(round)?.cpu_ns_per_request();
        (0..rounds).map(cpu_ns).collect()
    };
    let ratio = paired_log_ratio(&column(observed), &column(beside), 0.95).ok()?;
    (ratio.n >= PRICED_FROM).then_some(ratio)
}

/// CPU per request of all `blocks` together, in nanoseconds; `None` without requests.
pub(super) fn cpu_ns_per_request(blocks: &[&Block]) -> Option<f64> {
    let requests: u64 = blocks.iter().map(|block| block.requests()).sum();
    let cpu_ns: u64 = blocks.iter().map(|block| block.server.cpu_ns).sum();
    (requests > 0).then(|| cpu_ns as f64 / requests as f64)
}
