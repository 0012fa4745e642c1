//! Whether arms differ in how long their requests take: the typical 99th percentile of blocks that ran
//! side by side, under an offered rate.
//!
//! Pure. It deliberately leaves out the closed loop: latency there is queueing, and says again what
//! throughput said. The percentiles that tables print are of all blocks together, their worst moments
//! among them; a ratio needs pairs, and a shared machine holds up now one arm and now the other, by orders
//! of magnitude. So each block has its own figure here: of every thousand answers in a row the 99th
//! percentile, and of those the median ([`crate::load::Outcome::typical_p99_ns`]).

use serde::{Deserialize, Serialize};

use super::analysis::column;
use super::block::Block;
use super::plan::{Load, Plan};
use crate::measure::stats::{Claim, Control, Level, Ratio, Verdict, median, paired_median_ratio};

/// The arms of one table against its first, by their 99th percentiles.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Latency {
    /// In the order of the table's rows: the first arm and the control are among them.
    pub rows: Vec<LatencyRow>,
    /// What the A/A control allows; `Err` with the reason when there is none.
    pub control: Result<Control, String>,
}

/// One arm's 99th percentile against another's.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LatencyRow {
    /// The arm.
    pub label: String,
    /// In nanoseconds: the median over the blocks.
    pub p99_ns: Option<f64>,
    /// Against the first arm; of the control: against its twin.
    pub ratio: Result<Ratio, String>,
    /// What may be said of that ratio. `None` for the first arm and the control.
    pub claim: Option<Claim>,
}

/// Compares the arms' latency under `load`; nothing in the closed loop.
pub(super) fn latency(
    plan: &Plan,
    blocks: &[Block],
    load: Load,
    verdict: &mut Verdict,
) -> Option<Latency> {
    if load == Load::Saturation {
        return None;
    }
    let p99 = |arm| column(blocks, load, arm, block_p99);
    let runners = plan.setting.runners();
    let twin = runners.len() - 1;
    let rows = runners.iter().enumerate().map(|(arm, runner)| {
        let base = if arm == twin {
            plan.setting.control_of
        } else {
            0
        };
        LatencyRow {
            label: runner.label.clone(),
            p99_ns: median(&p99(arm).into_iter().flatten().collect::<Vec<_>>()),
            ratio: paired_median_ratio(&p99(arm), &p99(base), 0.95).map_err(|why| why.to_string()),
            claim: None,
        }
    });
    let rows = rows.collect();
    let control = Control::by_median(&p99(plan.setting.control_of), &p99(twin))
        .map_err(|why| why.to_string());
    if let Ok(control) = &control
        && !control.valid()
    {
        verdict.add(
            Level::Noisy,
            format!(
                "at {}, the A/A control of p99 sees a difference between an arm and itself: its 99 % \
                 interval {:.3} to {:.3} leaves out 1, so no latency is compared",
                load.name(),
                control.interval_99.low,
                control.interval_99.high
            ),
            "run it again on a quieter machine, with more --equal-rate-rounds",
        );
    }
    Some(Latency { rows, control })
}

fn block_p99(block: &Block) -> Option<f64> {
    block.client.typical_p99_ns.map(|ns| ns as f64)
}

#[cfg(test)]
mod tests {
    use super::super::analysis::{Analysis, LoadTable, analyse};
    use super::super::tests::{block, plan};
    use super::*;
    use crate::measure::noise::Limits;
    use crate::measure::stats::Outcome;

    const ROUNDS: usize = 12;

    /// Arms whose slowest requests take `slow_us` (epoll, io_uring, the control), in blocks that vary
    /// by 1 % within a round, and twofold between rounds; `carried`: there are enough of them.
    fn analysis(load: Load, slow_us: [f64; 3], carried: bool) -> Analysis {
        let mut blocks = Vec::new();
        for round in 0..ROUNDS {
            for (arm, slow_us) in slow_us.into_iter().enumerate() {
                let mut block = block(arm, round, 4000.0);
                let moment = 1.0 + (round % 3) as f64 / 2.0;
                let wobble = 1.0 + 0.01 * ((round * 7 + arm * 5) as f64).sin();
                let slow_ns = (slow_us * moment * wobble * 1000.0) as u64;
                block.load = load;
                block.client.typical_p99_ns = carried.then_some(slow_ns);
                blocks.push(block);
            }
        }
        analyse(&plan(), &blocks, 1000.0, &Limits::default())
    }

    fn table(slow_us: [f64; 3]) -> (LoadTable, Verdict) {
        let mut analysis = analysis(Load::EqualRate, slow_us, true);
        (analysis.tables.remove(0), analysis.verdict)
    }

    #[test]
    fn an_arm_is_read_against_the_first_within_each_round() {
        let check = |ratio: f64, outcome| {
            let (table, verdict) = table([100.0, 100.0 * ratio, 100.0]);
            assert_eq!(verdict.causes, [], "{ratio}");
            let latency = table.latency.expect("the rate is offered");
            assert!(latency.control.is_ok_and(|control| control.floor < 1.02));
            let row = &latency.rows[1];
            let found = row.ratio.as_ref().unwrap();
            assert!((found.ratio / ratio - 1.0).abs() < 0.01, "{found:?}");
            assert_eq!(found.n, ROUNDS);
            let claim = row.claim.as_ref().expect("there is a control");
            assert_eq!(claim.outcome, outcome, "{}", claim.sentence);
            assert!(latency.rows[0].claim.is_none() && latency.rows[2].claim.is_none());
        };
        check(0.8, Outcome::FindingCandidate);
        check(1.3, Outcome::FindingCandidate);
        check(1.0, Outcome::BelowFloor);
    }

    #[test]
    fn a_biased_control_lets_nothing_be_said_of_latency_alone() {
        let (table, verdict) = table([100.0, 80.0, 110.0]);
        assert_eq!(verdict.level, Level::Noisy);
        assert!(verdict.causes[0].what.contains("no latency is compared"));
        let latency = table.latency.unwrap();
        let claim = latency.rows[1].claim.as_ref().unwrap();
        assert_eq!(claim.outcome, Outcome::ControlInvalid);
        let cost = table.rows[1].claim.as_ref().unwrap();
        assert_ne!(cost.outcome, Outcome::ControlInvalid);
    }

    #[test]
    fn a_closed_loop_and_a_block_with_few_requests_are_left_out() {
        let saturated = analysis(Load::Saturation, [100.0; 3], true);
        assert!(saturated.tables[0].latency.is_none());
        let few = analysis(Load::EqualRate, [100.0; 3], false);
        let latency = few.tables[0].latency.as_ref().unwrap();
        assert!(latency.control.is_err() && latency.rows[1].ratio.is_err());
    }

    #[test]
    fn a_result_from_before_has_none() {
        let (table, _) = table([100.0; 3]);
        let mut stored = serde_json::to_value(&table).unwrap();
        stored.as_object_mut().unwrap().remove("latency");
        let back: LoadTable = serde_json::from_value(stored).unwrap();
        assert!(back.latency.is_none());
    }
}
