//! All blocks of a plan, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::ExperimentError;
use super::analysis;
use super::block::{self, Block, Pass, Place};
use super::plan::{Arm, FAULTS_UNTIMED, Load, Plan};
use crate::measure::noise::Limits;
use crate::measure::order::rounds;
use crate::measure::stats::median;

/// Told how far the experiment is.
pub trait Progress {
    /// `done` of about `of` blocks are over; next is `next`.
    fn block(&mut self, done: usize, of: usize, next: &str);
}

/// What an experiment brought.
pub struct Run {
    /// Every block, in the order in which they ran.
    pub blocks: Vec<Block>,
    /// Requests per second offered at the equal rate; 0 if it did not come to that.
    pub rate: f64,
    /// It was interrupted; what is there was measured.
    pub partial: bool,
    /// Why rounds were added or not, when an interval had been asked for.
    pub until: Option<String>,
}

/// Runs a plan. `stop` ends it early, with what was measured.
///
/// # Errors
/// An arm that does not run at all. Whatever goes wrong within blocks is in the blocks.
pub fn run(
    plan: &Plan,
    limits: &Limits,
    stop: &Arc<AtomicBool>,
    progress: &mut dyn Progress,
) -> Result<Run, ExperimentError> {
    let mut runner = Runner {
        plan,
        limits,
        stop,
        progress,
        runners: plan.setting.runners(),
        faults: vec![(0, 0); plan.setting.arms.len() + 1],
        run: Run {
            blocks: Vec::new(),
            rate: 0.0,
            partial: false,
            until: None,
        },
        started: Instant::now(),
        done: 0,
    };
    match runner.all() {
        // What an interrupted block leaves behind looks like a failure; it is none.
        Err(_) if stop.load(Ordering::Relaxed) => runner.run.partial = true,
        result => result?,
    }
    runner.run.partial |= stop.load(Ordering::Relaxed);
    Ok(runner.run)
}

struct Runner<'a> {
    plan: &'a Plan,
    limits: &'a Limits,
    stop: &'a Arc<AtomicBool>,
    progress: &'a mut dyn Progress,
    runners: Vec<Arm>,
    /// Page faults of each so far, and requests.
    faults: Vec<(u64, u64)>,
    run: Run,
    started: Instant,
    done: usize,
}

impl Runner<'_> {
    fn all(&mut self) -> Result<(), ExperimentError> {
        self.pilot()?;
        self.rounds(Load::Saturation, self.plan.rounds, 0)?;
        self.until()?;
        let some_have_clients = self.runners.iter().any(Arm::has_clients);
        if self.plan.equal_rate_rounds > 0 && some_have_clients && !self.stopped() {
            self.run.rate = self
                .plan
                .rate
                .or_else(|| self.half_the_slowest())
                .unwrap_or(1.0);
            self.rounds(Load::EqualRate, self.plan.equal_rate_rounds, 0)?;
        }
        self.observe()
    }

    /// Every arm once, thrown away: it shows that each runs, and pages everything in.
    fn pilot(&mut self) -> Result<(), ExperimentError> {
        for arm in 0..self.plan.setting.arms.len() {
            let place = self.place(arm, Load::Saturation, Pass::Plain, 0);
            let block = self.block("pilot", place)?;
            if let Some(block) = block.filter(|block| block.client.answered == 0) {
                return Err(ExperimentError::Answer {
                    arm: self.runners[arm].label.clone(),
                    sent: block.client.sent,
                    path: self.plan.path.clone(),
                });
            }
        }
        Ok(())
    }

    fn rounds(&mut self, load: Load, count: usize, from: usize) -> Result<(), ExperimentError> {
        let order = rounds(self.runners.len(), count, self.plan.seed);
        for (round, arms) in order.into_iter().enumerate().skip(from) {
            for arm in arms {
                if !self.can_run(arm, load) {
                    continue;
                }
                let place = self.place(arm, load, Pass::Plain, round);
                if let Some(block) = self.block(load.name(), place)? {
                    self.run.blocks.push(block);
                }
            }
        }
        Ok(())
    }

    /// Every arm once a round and load, with each observer, beside a block that has none. What
    /// stands first is swapped from round to round and from arm to arm, so that a machine that
    /// grows faster favours nobody.
    fn observe(&mut self) -> Result<(), ExperimentError> {
        let passes = Load::ALL.map(|load| (load, self.plan.observed(load)));
        let count = passes.iter().map(|(_, rounds)| rounds.len()).max();
        let order = rounds(
            self.plan.setting.arms.len(),
            count.unwrap_or(0),
            self.plan.seed,
        );
        for (round, arms) in order.into_iter().enumerate() {
            for (load, passes) in &passes {
                let Some(passes) = passes.get(round) else {
                    continue;
                };
                for &arm in &arms {
                    if !self.can_run(arm, *load) {
                        continue;
                    }
                    let mut passes = passes.clone();
                    if (round + arm) % 2 == 1 {
                        passes.reverse();
                    }
                    for pass in passes {
                        let place = self.place(arm, *load, pass, round);
                        if let Some(block) = self.block("ledger", place)? {
                            self.run.blocks.push(block);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds rounds, one design at a time, until the intervals are as narrow as asked for.
    fn until(&mut self) -> Result<(), ExperimentError> {
        let Some(goal) = self.plan.until_percent else {
            return Ok(());
        };
        let mut rounds_run = self.plan.rounds;
        loop {
            let widest = analysis::widest_percent(self.plan, &self.run.blocks);
            let spent = self.started.elapsed();
            self.run.until = Some(match widest {
                Some(widest) if widest <= goal => {
                    format!(
                        "every ratio at saturation is known to ±{widest:.1} % after {rounds_run} rounds"
                    )
                }
                _ if spent >= self.plan.max_time || self.stopped() => format!(
                    "the widest ratio at saturation is ±{:.1} %, not ±{goal} %, after {rounds_run} rounds: \
                     --max-time was up",
                    widest.unwrap_or(f64::INFINITY)
                ),
                _ => {
                    let from = rounds_run;
                    rounds_run += 2;
                    self.rounds(Load::Saturation, rounds_run, from)?;
                    continue;
                }
            });
            return Ok(());
        }
    }

    fn place(&self, arm: usize, load: Load, pass: Pass, round: usize) -> Place {
        let (faults, requests) = self.faults[arm];
        let faults_often = faults as f64 > FAULTS_UNTIMED * requests as f64;
        Place {
            arm,
            load,
            pass,
            round,
            rate: self.run.rate,
            times_faults: pass == Pass::Time && faults_often,
        }
    }

    /// `None` once the experiment was stopped.
    fn block(&mut self, what: &str, place: Place) -> Result<Option<Block>, ExperimentError> {
        if self.stopped() {
            return Ok(None);
        }
        let of = self.plan.blocks().max(self.done + 1);
        let arm = &self.runners[place.arm];
        self.progress
            .block(self.done, of, &format!("{what}: {}", arm.label));
        self.done += 1;
        let block = block::run(self.plan, arm, place, self.limits, self.stop)?;
        let (faults, requests) = &mut self.faults[place.arm];
        *faults += block.faults();
        *requests += block.requests();
        Ok((!block.client.partial || !self.stopped()).then_some(block))
    }

    /// An arm without clients has no arrivals that could have a rate.
    fn can_run(&self, arm: usize, load: Load) -> bool {
        load == Load::Saturation || self.runners[arm].has_clients()
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Half the capacity of the slowest arm, to two digits.
    fn half_the_slowest(&self) -> Option<f64> {
        let slowest = (0..self.plan.setting.arms.len())
            .filter(|&arm| self.can_run(arm, Load::EqualRate))
            .filter_map(|arm| {
                let of_arm = self.run.blocks.iter().filter(|block| block.arm == arm);
                median(&of_arm.map(Block::throughput).collect::<Vec<_>>())
            })
            .min_by(f64::total_cmp)?;
        let half = (slowest / 2.0).max(1.0);
        let unit = 10f64.powf(half.log10().floor() - 1.0);
        Some((half / unit).floor() * unit)
    }
}

impl Load {
    /// As it is called everywhere.
    pub fn name(self) -> &'static str {
        match self {
            Load::Saturation => "saturation",
            Load::EqualRate => "equal rate",
        }
    }
}

/// Says nothing.
impl Progress for () {
    fn block(&mut self, _: usize, _: usize, _: &str) {}
}

/// How long is left, judged by what was done.
pub fn time_left(started: Instant, done: usize, of: usize) -> Option<Duration> {
    (done > 0).then(|| started.elapsed() * (of - done) as u32 / done as u32)
}
