//! All blocks of a mix, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::ExperimentError;
use super::super::run::Progress;
use super::block::{self, Block, Place};
use super::{Heavy, Plan};
use crate::measure::noise::Limits;
use crate::measure::order::rounds;

/// Of the light requests that fell due with nothing beside them, so many must be answered in the
/// window: whoever cannot do that has no latency but that of a queue which grows.
const ANSWERED_ALONE: f64 = 0.9;

/// A machine that had other things to do for a moment looks the same as a rate that is too high, in one
/// window; in so many in a row it does not.
const TRIES_ALONE: usize = 3;

/// What a mix brought.
pub struct Run {
    /// Every block, in the order in which they ran.
    pub blocks: Vec<Block>,
    /// It was interrupted; what is there was measured.
    pub partial: bool,
}

/// Runs a plan. `stop` ends it early, with what was measured.
///
/// # Errors
/// An arm that does not run at all, or does not reach the light requests' rate by itself. Whatever
/// else goes wrong is in the blocks.
pub fn run(
    plan: &Plan,
    limits: &Limits,
    stop: &Arc<AtomicBool>,
    progress: &mut dyn Progress,
) -> Result<Run, ExperimentError> {
    let mut blocks = Vec::new();
    let result = all(plan, limits, stop, progress, &mut blocks);
    let partial = stop.load(Ordering::Relaxed);
    match result {
        // What an interrupted block leaves behind looks like a failure; it is none.
        Err(_) if partial => {}
        result => result?,
    }
    Ok(Run { blocks, partial })
}

fn all(
    plan: &Plan,
    limits: &Limits,
    stop: &Arc<AtomicBool>,
    progress: &mut dyn Progress,
    blocks: &mut Vec<Block>,
) -> Result<(), ExperimentError> {
    let runners = plan.setting.runners();
    // For all arms the same work, whatever the time that it takes on each.
    let step_ns = block::time_alone(plan, &runners[0], stop)?;
    let order = rounds(runners.len(), plan.rounds, plan.seed);
    for (round, arms) in order.into_iter().enumerate() {
        for (step, heavy) in plan.steps().into_iter().enumerate() {
            for &arm in &arms {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let beside = heavy.map_or_else(|| "nothing".to_string(), |h: Heavy| h.to_string());
                let next = format!("{} beside {beside}", runners[arm].label);
                progress.block(blocks.len(), plan.blocks(), &next);
                let place = Place { arm, step, round };
                let block = || block::run(plan, &runners[arm], place, step_ns, limits, stop);
                let Some(block) = reaching_its_rate(plan, stop, block)? else {
                    return Ok(());
                };
                blocks.push(block);
            }
        }
    }
    Ok(())
}

/// The first block of a few tries in which the light requests, if nothing is beside them, were answered
/// as they came; `None` if it was cut off, since such a block is none.
pub(super) fn reaching_its_rate(
    plan: &Plan,
    stop: &AtomicBool,
    mut block: impl FnMut() -> Result<Block, ExperimentError>,
) -> Result<Option<Block>, ExperimentError> {
    let mut tries = 1;
    loop {
        let block = block()?;
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match check_alone(plan, &block) {
            Err(ExperimentError::Plan(_)) if tries < TRIES_ALONE => tries += 1,
            checked => return checked.map(|()| Some(block)),
        }
    }
}

/// Refuses a rate of light requests that an arm does not reach with no heavy one beside them.
fn check_alone(plan: &Plan, block: &Block) -> Result<(), ExperimentError> {
    let light = &block.light;
    let runners = plan.setting.runners();
    let arm = &runners[block.arm];
    if light.answered == 0 && light.sent > 0 && block.step == 0 {
        return Err(ExperimentError::Answer {
            arm: arm.label.clone(),
            sent: light.sent,
            path: "/".to_string(),
        });
    }
    if block.step > 0 || light.completed as f64 >= ANSWERED_ALONE * light.planned as f64 {
        return Ok(());
    }
    Err(ExperimentError::Plan(format!(
        "with no heavy request beside them, {} answered {} of {} light ones in time: ask for fewer with --rate",
        arm.label, light.completed, light.planned
    )))
}
