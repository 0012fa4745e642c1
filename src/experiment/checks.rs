//! What makes an experiment less than it seems.

use super::block::{Block, Finding};
use super::ledger::Ledger;
use super::plan::{Load, Plan};
use crate::measure::noise::{Limits, Noise};
use crate::measure::stats::{Level, Verdict};

/// A ledger that leaves more than this part of an arm's time unexplained, or has as much twice, is in doubt.
const UNEXPLAINED_LIMIT: f64 = 0.1;

/// What limits all of it, whatever it says.
pub(super) fn check(plan: &Plan, blocks: &[Block], limits: &Limits, verdict: &mut Verdict) {
    for load in Load::ALL {
        let of_load: Vec<&Block> = blocks.iter().filter(|block| block.load == load).collect();
        let noises: Vec<Noise> = of_load.iter().map(|block| block.noise.clone()).collect();
        if !noises.is_empty() {
            let mut noise = limits.verdict(&noises);
            for cause in &mut noise.causes {
                cause.what = format!("at {}, {}", load.name(), cause.what);
            }
            verdict.merge(noise);
        }
        check_generator(&of_load, load, verdict);
        check_answers(plan, &of_load, load, verdict);
    }
    let failed: u64 = blocks.iter().map(|block| block.client.failed).sum();
    if failed > 0 {
        verdict.add(
            Level::Invalid,
            format!("{failed} requests failed or were answered otherwise than expected"),
            "run `ringlab serve` and `ringlab load` by hand to see which",
        );
    }
    let lost: u64 = blocks
        .iter()
        .map(|block| block.client.answered.abs_diff(block.client.seen_by_server))
        .max()
        .unwrap_or(0);
    let may_be_under_way = plan.connections as u64;
    if lost > may_be_under_way {
        verdict.add(
            Level::Invalid,
            format!(
                "client and server differ by {lost} requests in a block, more than were in flight"
            ),
            "report this: the generator or the server miscounts",
        );
    }
    warn(
        &plan.setting.warnings,
        plan.setting.shares_a_core(),
        verdict,
    );
}

/// What was known to limit a run before it began.
pub(super) fn warn(warnings: &[String], shares_a_core: bool, verdict: &mut Verdict) {
    for warning in warnings {
        verdict.add(
            Level::Valid,
            warning.clone(),
            "choose other cores, or take it into account",
        );
    }
    if shares_a_core {
        verdict.add(
            Level::Noisy,
            "server and generator share a core, so throughput and latency measure both",
            "use a machine with two cores or more; CPU per request stands",
        );
    }
}

/// A block without an answer says nothing of its arm, and takes its round's pair with it.
fn check_answers(plan: &Plan, blocks: &[&Block], load: Load, verdict: &mut Verdict) {
    for (arm, runner) in plan.setting.runners().iter().enumerate() {
        let own: Vec<_> = blocks.iter().filter(|block| block.arm == arm).collect();
        let silent = own.iter().filter(|block| block.requests() == 0).count();
        if silent > 0 {
            verdict.add(
                share_of_blocks(silent, own.len()),
                format!(
                    "at {}, {} answered nothing in {silent} of {} blocks",
                    load.name(),
                    runner.label,
                    own.len()
                ),
                "quiet the machine, or give it a longer --window",
            );
        }
    }
}

/// One disturbed block of many does not undo the others, which is what the rounds are for.
fn share_of_blocks(affected: usize, blocks: usize) -> Level {
    if affected * 4 > blocks {
        Level::Invalid
    } else {
        Level::Noisy
    }
}

fn check_generator(blocks: &[&Block], load: Load, verdict: &mut Verdict) {
    let found: Vec<_> = blocks
        .iter()
        .map(|block| block.client.invalid.first())
        .collect();
    generator(&found, &format!("at {}, ", load.name()), verdict);
}

/// One cause for what the generator's audit found in blocks that belong together, however many have
/// it. `place` begins the sentence.
pub(super) fn generator(found: &[Option<&Finding>], place: &str, verdict: &mut Verdict) {
    let affected = found.iter().flatten().count();
    let Some(first) = found.iter().flatten().next() else {
        return;
    };
    let level = share_of_blocks(affected, found.len());
    let what = format!(
        "{place}the generator's audit failed in {affected} of {} blocks; the first: {}",
        found.len(),
        first.cause
    );
    verdict.add(level, what, first.remedy.clone());
}

/// A ledger that does not know where much of the time went says little of where the rest did.
pub(super) fn check_unexplained(ledgers: &[Ledger], verdict: &mut Verdict) {
    for ledger in ledgers {
        for column in &ledger.columns {
            let part = column.unexplained();
            if part.abs() > UNEXPLAINED_LIMIT {
                verdict.add(
                    Level::Noisy,
                    format!(
                        "at {}, {:.0} % of {}'s time is unexplained, more than {:.0} %",
                        ledger.load.name(),
                        part * 100.0,
                        column.label,
                        UNEXPLAINED_LIMIT * 100.0
                    ),
                    "quiet the machine, or add --ledger-rounds; what stays is work that no row is for",
                );
            }
        }
    }
}
