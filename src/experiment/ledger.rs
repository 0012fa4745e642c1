//! Where each request's time goes: rows of nanoseconds that sum to what the kernel says was used.
//!
//! Every row is measured, in blocks of its own; only *unexplained* is a remainder, of the process
//! CPU clock's total. It may be negative: the stages' clock goes on while the thread is preempted,
//! and the CPU clock does not.

use serde::{Deserialize, Serialize};

use super::beside::{cpu_ns_per_request, interval, paired, partners};
use super::block::{Block, Pass};
use super::plan::{Load, Plan};
use crate::measure::probe::{self, Stage, StageNs};
use crate::measure::stats::Interval;

/// The ledger of one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ledger {
    /// Which load.
    pub load: Load,
    /// An arm a column.
    pub columns: Vec<Column>,
}

/// One arm's ledger, in nanoseconds of server CPU per request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// The arm.
    pub label: String,
    /// What each stage took, those that never ran left out.
    pub rows: Vec<Entry>,
    /// Threads that do not serve: signals, the laboratory's questions, the kernel's workers.
    pub helpers_ns: f64,
    /// Least and most of a round; `None` of a single one. Older results have none.
    #[serde(default)]
    pub helpers_rounds: Option<Interval>,
    /// Threads that run handlers for the loops: the workers of `pool`, the threads of `spawn`.
    #[serde(default)]
    pub workers_ns: f64,
    /// See `helpers_rounds`.
    #[serde(default)]
    pub workers_rounds: Option<Interval>,
    /// Of all of these, the time of ticks, which interrupt whatever runs; `None` where nobody knows.
    #[serde(default)]
    pub ticks_ns: Option<f64>,
    /// Page faults per request, those within system calls among them. Older results have none.
    #[serde(default)]
    pub faults: Option<f64>,
    /// Why those of the server's own code are not in a row of their own, or not all of them, if there were any.
    #[serde(default)]
    pub faults_untimed: Option<String>,
    /// Why the calls for memory that the sandbox's runtime makes at each request are in the sandbox's row and
    /// in none of their own, if it makes any.
    #[serde(default)]
    pub calls_untimed: Option<String>,
    /// The total less stages, helpers and workers.
    pub unexplained_ns: f64,
    /// The process CPU clock's total, with the recording going on.
    pub total_ns: f64,
    /// The same without it, of the blocks beside those; `None` if there are none.
    pub plain_ns: Option<f64>,
    /// What recording costs, as a part of what there is without, from the rounds; `None` of fewer than
    /// [`PRICED_FROM`](super::plan::PRICED_FROM).
    #[serde(default)]
    pub paired_price: Option<f64>,
    /// The bounds of what recording costs; `None` of fewer rounds than [`PRICED_FROM`](super::plan::PRICED_FROM).
    #[serde(default)]
    pub price_interval: Option<Interval>,
    /// The same of nothing: of blocks that record no more than those beside.
    #[serde(default)]
    pub control_interval: Option<Interval>,
    /// Non-idle time of all cores per request in the same blocks as `plain_ns`, the generator's in it: work
    /// that the kernel does elsewhere, such as softirqs, shows only here.
    pub machine_ns: Option<f64>,
    /// CPU time of the generator's threads in those blocks. Older results have none.
    #[serde(default)]
    pub generator_ns: Option<f64>,
}

/// A row of one arm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Of what.
    pub stage: Stage,
    /// Nanoseconds per request.
    pub ns: f64,
    /// Least and most of a round; `None` of a single one. Older results have none.
    #[serde(default)]
    pub rounds: Option<Interval>,
    /// Times per request.
    pub times: f64,
}

impl Column {
    /// Nanoseconds per request of a stage; `None` where it never ran.
    pub fn ns(&self, stage: Stage) -> Option<f64> {
        self.entry(stage).map(|row| row.ns)
    }

    pub(super) fn entry(&self, stage: Stage) -> Option<&Entry> {
        self.rows.iter().find(|row| row.stage == stage)
    }

    /// What is unexplained, as a part of the total.
    pub fn unexplained(&self) -> f64 {
        self.unexplained_ns / self.total_ns
    }

    /// What recording costs, as a part of what there is without.
    pub fn price(&self) -> Option<f64> {
        let of_sums = || Some(self.total_ns / self.plain_ns? - 1.0);
        self.paired_price.or_else(of_sums)
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
            let columns: Vec<Column> = (0..plan.setting.arms.len())
                .filter_map(|arm| {
                    let recorded = of(load, Pass::Time, arm);
                    let beside = of(load, Pass::Beside, arm);
                    let mut column = column(&plan.setting.arms[arm].label, &recorded)?;
                    if let Some(partners) = partners(&recorded, &beside) {
                        column.plain_ns = cpu_ns_per_request(&partners);
                        let machine_ns = |block: &Block| block.machine_ns.value().copied();
                        column.machine_ns = per_request(&partners, machine_ns);
                        column.generator_ns =
                            per_request(&partners, |block| Some(block.client.cpu_ns));
                    }
                    let paired = paired(&recorded, &beside);
                    column.paired_price = paired.map(|ratio| ratio.ratio - 1.0);
                    column.price_interval = paired.map(|ratio| ratio.interval);
                    column.control_interval = interval(&of(load, Pass::Again, arm), &beside);
                    // Who maps by calls of ringlab's own has a row of them.
                    let has_none = column.entry(Stage::Map).is_none();
                    if has_none && plan.setting.arms[arm].maps_for_each_request() {
                        column.calls_untimed = why_calls_untimed(&recorded);
                    }
                    Some(column)
                })
                .collect();
            (!columns.is_empty()).then_some(Ledger { load, columns })
        })
        .collect()
}

/// All but what is read from other blocks.
fn column(label: &str, recorded: &[&Block]) -> Option<Column> {
    let requests = |blocks: &[&Block]| blocks.iter().map(|block| block.requests()).sum::<u64>();
    let cpu_ns = |blocks: &[&Block]| blocks.iter().map(|block| block.server.cpu_ns).sum::<u64>();
    let n = requests(recorded);
    if n == 0 {
        return None;
    }
    let per_request = |total: f64| total / n as f64;
    let stages = recorded.iter().fold(StageNs::default(), |sum, block| {
        sum.plus(&block.server.figures.stages)
    });
    let rows: Vec<Entry> = Stage::ALL
        .iter()
        .enumerate()
        .filter(|(at, _)| stages.ns[*at] != 0)
        .map(|(at, stage)| Entry {
            stage: *stage,
            ns: per_request(stages.ns[at] as f64),
            rounds: rounds(recorded, |block| block.server.figures.stages.ns[at] as f64),
            times: per_request(stages.entered[at] as f64),
        })
        .collect();
    let helpers: u64 = recorded.iter().map(|block| block.server.helpers_ns).sum();
    let total = cpu_ns(recorded);
    let workers: u64 = recorded.iter().map(|block| block.server.workers_ns).sum();
    let faults: u64 = recorded.iter().map(|block| block.faults()).sum();
    let ticks: Option<u64> = recorded.iter().map(|block| block.server.ticks_ns()).sum();
    let staged: i64 = stages.ns.iter().sum();
    let explained = staged as f64 + (helpers + workers) as f64;
    Some(Column {
        label: label.to_string(),
        rows,
        helpers_ns: per_request(helpers as f64),
        helpers_rounds: rounds(recorded, |block| block.server.helpers_ns as f64),
        workers_ns: per_request(workers as f64),
        workers_rounds: rounds(recorded, |block| block.server.workers_ns as f64),
        ticks_ns: ticks.map(|ticks| per_request(ticks as f64)),
        faults: Some(per_request(faults as f64)),
        faults_untimed: why_untimed(per_request(faults as f64), recorded, &stages),
        unexplained_ns: per_request(total as f64 - explained),
        total_ns: per_request(total as f64),
        ..Column::default()
    })
}

/// Why page faults, of which there were so many per request, are not timed; `None`: they are, or there were none.
fn why_untimed(faults: f64, recorded: &[&Block], stages: &StageNs) -> Option<String> {
    let threads = recorded
        .iter()
        .map(|block| block.server.untimed_threads)
        .max();
    if let Some(threads @ 1..) = threads {
        return Some(format!(
            "{threads} threads could not have samples of them, for want of memory to lock (`ulimit -l \
             unlimited`) or of descriptors (`ulimit -n`)"
        ));
    }
    if faults == 0.0 || stages.entered[Stage::PageFaults as usize] > 0 {
        return None;
    }
    if !recorded.iter().any(|block| block.times_faults) {
        return Some("too few to be timed".to_owned());
    }
    let refused = probe::can_time_faults().err();
    Some(
        refused.unwrap_or_else(|| {
            "all of them within system calls, in whose rows they are".to_owned()
        }),
    )
}

/// Why the calls for memory of others' code are not timed; `None`: they are.
fn why_calls_untimed(recorded: &[&Block]) -> Option<String> {
    match recorded.iter().any(|block| block.times_faults) {
        true => probe::can_time_memory_calls().err(),
        false => Some("they are timed where requests fault, and hardly any did".to_owned()),
    }
}

/// `None` of no blocks, or where the kernel does not tell.
fn per_request(blocks: &[&Block], figure: impl Fn(&Block) -> Option<u64>) -> Option<f64> {
    let requests: u64 = blocks.iter().map(|block| block.requests()).sum();
    let total: u64 = blocks
        .iter()
        .map(|block| figure(block))
        .sum::<Option<_>>()?;
    (requests > 0).then(|| total as f64 / requests as f64)
}

/// Least and most of a round, per request; `None` of a single one.
fn rounds(recorded: &[&Block], total: impl Fn(&Block) -> f64) -> Option<Interval> {
    let each = recorded
        .iter()
        .filter_map(|block| block.per_request(total(block)));
    let mut each: Vec<f64> = each.collect();
    each.sort_by(f64::total_cmp);
    match *each {
        [low, .., high] => Some(Interval { low, high }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::plan::PRICED_FROM;
    use crate::experiment::tests::{block, plan};
    use crate::measure::reading::Reading;

    /// Blocks of the first arm: recorded ones, and as many beside them, by nanoseconds of a round.
    fn blocks(of: &[(Pass, &[f64])]) -> Vec<Block> {
        let mut blocks = Vec::new();
        for (pass, rounds) in of {
            for (round, ns) in rounds.iter().enumerate() {
                let mut block = block(0, round, *ns);
                block.pass = *pass;
                block.server.figures.stages.ns[Stage::Http as usize] = 1_000_000;
                blocks.push(block);
            }
        }
        blocks
    }

    fn first(blocks: &[Block]) -> Column {
        ledgers(&plan(), blocks)[0].columns[0].clone()
    }

    /// A round that was cut short has a block beside none.
    #[test]
    fn what_stands_beside_the_total_is_of_the_same_blocks() {
        let of = |beside: &[f64]| {
            let mut blocks = blocks(&[(Pass::Beside, beside), (Pass::Time, &[6300.0; 2])]);
            for block in &mut blocks {
                let times = if block.round == 2 { 9 } else { 1 };
                block.machine_ns = Reading::Value(times * 2_000_000_000);
                block.client.cpu_ns = times * 1_000_000_000;
            }
            let column = first(&blocks);
            (column.plain_ns, column.machine_ns, column.generator_ns)
        };
        let two = of(&[6000.0; 2]);
        assert!(two.0.is_some() && two.1.is_some() && two.2.is_some());
        assert_eq!(of(&[6000.0; 3]), two);
        assert_eq!(of(&[6000.0]), (None, None, None));
    }

    /// A round in which the machine was slow, and more so beside, weighs no more than another.
    #[test]
    fn a_price_lies_within_its_bounds() {
        let blocks = blocks(&[
            (Pass::Beside, &[6000.0, 6000.0, 6000.0, 6000.0, 30_000.0]),
            (Pass::Time, &[6300.0, 6301.0, 6299.0, 6300.0, 31_500.0]),
        ]);
        let mut blocks = blocks;
        for block in &mut blocks {
            let slow = block.round == 4 && block.pass == Pass::Time;
            // Of sums the round with the most requests weighs most.
            let times = if slow { 100 } else { 1 };
            block.server.cpu_ns *= times;
            block.server.figures.served.answered *= times;
        }
        let column = first(&blocks);
        let (price, bounds) = (
            column.price().expect("it has rounds"),
            column.price_interval,
        );
        let bounds = bounds.expect("it has rounds enough");
        assert!(bounds.contains(1.0 + price), "{price} {bounds:?}");
        assert!((price - 0.05).abs() < 0.001, "{price}");
    }

    #[test]
    fn the_price_is_read_against_the_blocks_beside_and_not_against_the_drift() {
        // The machine grew faster by a fifth after the plain blocks, and again by as much between
        // the rounds.
        let plain: &[f64] = &[7200.0; 6];
        let drifting = blocks(&[
            (Pass::Plain, plain),
            (Pass::Beside, &[6000.0, 5000.0]),
            (Pass::Time, &[6300.0, 5250.0]),
        ]);
        let price = first(&drifting).price().expect("it has pairs");
        assert!((price - 0.05).abs() < 0.005, "{price}");
    }

    #[test]
    fn a_price_has_bounds_and_so_has_the_price_of_nothing() {
        let check = |rounds: usize, expected: bool| {
            let of = |ns: f64| vec![ns; rounds];
            let blocks = blocks(&[
                (Pass::Beside, &of(6000.0)),
                (Pass::Again, &of(6000.0)),
                (Pass::Time, &of(6300.0)),
            ]);
            let column = first(&blocks);
            let [price, control] = [column.price_interval, column.control_interval];
            assert_eq!(price.is_some(), expected, "{rounds} rounds: {price:?}");
            assert_eq!(control.is_some(), expected, "{rounds} rounds: {control:?}");
            let holds = |interval: Option<Interval>, ratio: f64| {
                interval.is_none_or(|interval| {
                    interval.low - 1e-9 < ratio && ratio < interval.high + 1e-9
                })
            };
            assert!(holds(price, 1.05) && !price.is_some_and(|price| price.contains(1.0)));
            assert!(holds(control, 1.0));
        };
        check(2, false);
        check(PRICED_FROM - 1, false);
        check(PRICED_FROM, true);
        check(12, true);
    }

    #[test]
    fn half_a_pair_has_no_price() {
        let check = |beside: &[f64], expected: bool| {
            let blocks = blocks(&[(Pass::Beside, beside), (Pass::Time, &[6300.0, 5250.0])]);
            assert_eq!(first(&blocks).price().is_some(), expected, "{beside:?}");
        };
        check(&[6000.0, 5000.0], true);
        check(&[6000.0, 5000.0, 4000.0], true);
        check(&[6000.0], false);
        check(&[], false);
    }

    #[test]
    fn why_faults_have_no_row_is_said() {
        let untimed = |change: &dyn Fn(&mut Block)| {
            let mut blocks = blocks(&[(Pass::Time, &[6300.0, 6300.0])]);
            blocks.iter_mut().for_each(change);
            first(&blocks).faults_untimed
        };
        let is = |untimed: Option<String>, why: &str| {
            assert!(
                untimed.as_ref().is_some_and(|said| said.contains(why)),
                "{untimed:?}"
            );
        };
        assert_eq!(untimed(&|_| ()), None, "there were none");
        let some = |block: &mut Block| block.server.minor_faults = 100;
        is(untimed(&some), "too few");
        let asked = |block: &mut Block| {
            some(block);
            block.times_faults = true;
        };
        if probe::can_time_faults().is_ok() {
            is(untimed(&asked), "within system calls");
        }
        let timed = |block: &mut Block| {
            asked(block);
            block.server.figures.stages.entered[Stage::PageFaults as usize] = 90;
        };
        assert_eq!(untimed(&timed), None);
        let some_timed = |block: &mut Block| {
            timed(block);
            block.server.untimed_threads = 3;
        };
        is(untimed(&some_timed), "3 threads could not have");
    }

    #[test]
    fn ticks_are_counted_and_priced() {
        let mut blocks = blocks(&[(Pass::Time, &[6300.0, 6300.0])]);
        let requests: u64 = blocks.iter().map(|block| block.requests()).sum();
        for block in &mut blocks {
            block.server.ticks = 200;
        }
        assert_eq!(first(&blocks).ticks_ns, None, "nobody knows what one takes");
        for block in &mut blocks {
            block.server.tick_ns = Some(5500);
        }
        let expected = 400.0 * 5500.0 / requests as f64;
        assert_eq!(first(&blocks).ticks_ns, Some(expected));
        // Coarse ones are cheaper, and have to have a price of their own.
        for block in &mut blocks {
            block.server.coarse_ticks = 150;
        }
        assert_eq!(
            first(&blocks).ticks_ns,
            None,
            "nobody knows what these take"
        );
        for block in &mut blocks {
            block.server.coarse_tick_ns = Some(1000);
        }
        let expected = (100.0 * 5500.0 + 300.0 * 1000.0) / requests as f64;
        assert_eq!(first(&blocks).ticks_ns, Some(expected));
    }

    /// To the nanosecond: the rows are whole ones, divided by one number.
    #[test]
    fn rows_sum_to_the_total_with_a_remainder_that_may_be_negative() {
        let check = |stage_ns: i64, helpers_ns: u64, negative: bool| {
            let mut blocks = blocks(&[(Pass::Time, &[6300.0])]);
            let server = &mut blocks[0].server;
            server.figures.stages.ns[Stage::Guest as usize] = stage_ns;
            server.helpers_ns = helpers_ns;
            server.workers_ns = 3 * helpers_ns;
            let (cpu_ns, n) = (server.cpu_ns, server.figures.served.answered);
            let column = first(&blocks);
            assert_eq!(
                column.ticks_ns,
                Some(0.0),
                "they are in the others and in no sum"
            );
            let rows: f64 = column.rows.iter().map(|row| row.ns).sum();
            let sum =
                (rows + column.helpers_ns + column.workers_ns + column.unexplained_ns) * n as f64;
            assert_eq!(sum.round() as u64, cpu_ns);
            assert_eq!((column.total_ns * n as f64).round() as u64, cpu_ns);
            assert_eq!(column.unexplained_ns < 0.0, negative, "{column:?}");
        };
        check(0, 0, false);
        check(123_456_789, 1, false);
        check(5_000_000_000, 17, true);
        check(1, 900_000_000, true);
        // A row that is less than nothing, of few turns.
        check(-80_000, 1, false);
    }
}
