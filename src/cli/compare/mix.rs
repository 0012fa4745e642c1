//! `ringlab compare --measure mix`: light requests beside heavy ones, under each offload policy.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::super::{Exit, Refusal, fail};
use super::{Arguments, Measure, Opening, Shown};
use crate::experiment::ExperimentError;
use crate::experiment::mix::analysis::analyse;
use crate::experiment::mix::result::{FORMAT, Mix};
use crate::experiment::mix::{self, Heavy, Plan};
use crate::experiment::plan::{Arm, arms, control_of};
use crate::experiment::setting::Setting;
use crate::measure::host::Host;
use crate::measure::noise::Limits;
use crate::measure::smt;
use crate::measure::stats::Level;
use crate::report;
use crate::sandbox::Source;

/// What the light requests ask for.
const LIGHT: &str = "hello";
/// Rounds, if nobody says how many.
const ROUNDS: u32 = 2;
/// The measured part of a block, if nobody says how long: at the default rate all rounds together have a
/// 99.9th percentile, with a few arrivals more than it needs, as they come at random.
const WINDOW: Duration = Duration::from_millis(1350);
/// The models, if nobody says which: those that have every policy, the usual and the newest.
const MODELS: [&str; 2] = ["epoll", "io_uring"];

pub fn run(arguments: &Arguments) -> Exit {
    let plan = match arguments.mix() {
        Ok(plan) => plan,
        Err((exit, sentence)) => return fail(exit, sentence),
    };
    if arguments.dry_run {
        print!("{}", describe(&plan));
        return Exit::Done;
    }
    if let Err((exit, sentence)) = arguments.check_destination() {
        return fail(exit, sentence);
    }
    if !arguments.quiet {
        eprint!("{}", describe(&plan));
    }
    let stop = Arc::new(AtomicBool::new(false));
    super::super::stop_on_signal(stop.clone());
    match carry_out(plan, &stop, arguments.quiet) {
        Ok(mix) => finish(arguments, &mix),
        Err(error @ (ExperimentError::Plan(_) | ExperimentError::Answer { .. })) => {
            fail(Exit::BadInput, error)
        }
        Err(error) => fail(Exit::HostCannot, error),
    }
}

fn carry_out(plan: Plan, stop: &Arc<AtomicBool>, quiet: bool) -> Result<Mix, ExperimentError> {
    let started_s = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let facts = super::super::build_facts(&Source::parse("spin"));
    let host = Host::read("/".as_ref(), facts);
    let noise_limits = Limits::default();
    let mut shown = Shown::new(quiet);
    let result = mix::run::run(&plan, &noise_limits, stop, &mut shown);
    shown.bar.finish_and_clear();
    let run = result?;
    Ok(Mix {
        mix_format: FORMAT,
        started_s,
        host,
        analysis: analyse(&plan, &run.blocks, &noise_limits),
        plan,
        noise_limits,
        partial: run.partial,
        blocks: run.blocks,
    })
}

/// Stores, prints, and says with which code the process ends.
fn finish(arguments: &Arguments, mix: &Mix) -> Exit {
    let path = arguments.destination();
    // Stored first: what is printed may find nobody who reads it to the end.
    let stored = mix.store(&path);
    super::super::say(report::mix(mix));
    if let Err(error) = stored {
        return fail(Exit::HostCannot, error);
    }
    super::super::say(format_args!(
        "\nThe full result is in {}.\n",
        path.display()
    ));
    match mix.analysis.verdict.level {
        _ if mix.partial => Exit::Interrupted,
        Level::Invalid => Exit::Invalid,
        Level::Noisy if arguments.strict => Exit::Invalid,
        Level::Noisy | Level::Valid => Exit::Done,
    }
}

fn describe(plan: &Plan) -> String {
    let heavy: Vec<_> = plan.heavy.iter().map(Heavy::to_string).collect();
    let (rate, heavy) = (report::count(plan.rate), heavy.join(", "));
    Opening {
        runners: &plan.setting.runners(),
        what: format!("; hello at {rate}/s beside nothing and spin {heavy}"),
        server_cores: &plan.setting.server_cores,
        client_cores: &plan.setting.client_cores,
        rounds: plan.rounds.to_string(),
        estimate: plan.estimate(),
        left_out: &plan.setting.left_out,
    }
    .to_string()
}

impl Arguments {
    /// Whether light requests beside heavy ones are measured.
    pub(super) fn is_mix(&self) -> bool {
        let several = || self.offload.len() > 1 || self.offload.iter().any(|name| name == "all");
        match self.measure {
            Some(measure) => measure == Measure::Mix,
            None => several() && self.again.is_none(),
        }
    }

    /// The plan of a mix.
    fn mix(&self) -> Result<Plan, Refusal> {
        let bad = |sentence: String| (Exit::BadInput, sentence);
        self.check_no_cost().map_err(bad)?;
        let ([isolation], [layout]) = (
            &self.isolations().map_err(bad)?[..],
            &self.layouts().map_err(bad)?[..],
        ) else {
            return Err(bad("a mix compares policies and models, at one isolation and one layout; name one of each".to_string()));
        };
        let (models, mut left_out) = self.models(&MODELS).map_err(bad)?;
        if models.is_empty() {
            return Err((Exit::HostCannot, left_out.join("; ")));
        }
        let offloads = self.offloads().map_err(bad)?;
        let arms = arms(
            &models,
            &[*isolation],
            &[*layout],
            &offloads,
            &[LIGHT.to_string()],
        );
        let arms = Self::possible(arms, &mut left_out, |arm| {
            if !arm.has_clients() {
                return Err(format!(
                    "{} n/a: it has its requests in itself, and no mix of them",
                    arm.model
                ));
            }
            arm.check()?;
            let light = self.light.map(|light| Arm {
                offload: light.to_string(),
                ..arm.clone()
            });
            light.map_or(Ok(()), |light| light.check())
        })?;
        let (server_cores, client_cores) = self.split_cores().map_err(bad)?;
        let mut warnings = smt::warnings(&server_cores, &client_cores, smt::physical_core);
        let heavy = match self.heavy.is_empty() {
            true => Heavy::DEFAULT.to_vec(),
            false => self.heavy.clone(),
        };
        let cores = server_cores.len();
        let rate = self.rate.unwrap_or(mix::LIGHT_RATE * cores as f64);
        if rate.is_nan() || rate < 1.0 {
            return Err(bad("a rate is at least 1 request per second".to_string()));
        }
        let wanted = match self.connections == Arguments::default().connections {
            true => mix::connections(rate, &heavy, cores),
            false => self.connections as usize,
        };
        let wanted = wanted.max(client_cores.len());
        let (connections, fewer) = Self::affordable(wanted, &server_cores)?;
        warnings.extend(fewer);
        Ok(Plan {
            setting: Setting {
                control_of: control_of(&arms),
                arms,
                left_out,
                warnings,
                server_cores,
                client_cores,
            },
            light: self.light.map(|light| light.to_string()),
            rate,
            connections,
            heavy,
            rounds: self.rounds.unwrap_or(ROUNDS) as usize,
            warm_up: self.warm_up.into(),
            window: self.window_or(WINDOW),
            seed: self.seed,
        })
    }

    /// Refuses what has a meaning for --measure cost only.
    fn check_no_cost(&self) -> Result<(), String> {
        let usual = Arguments::default();
        if self.handler != usual.handler || self.path != usual.path {
            return Err(
                "a mix has its own handlers, hello and spin; leave out --handler and --path, or say --measure cost"
                    .to_string(),
            );
        }
        let given = [
            (
                "--equal-rate-rounds",
                self.equal_rate_rounds != usual.equal_rate_rounds,
            ),
            ("--ledger-rounds", self.ledger_rounds != usual.ledger_rounds),
            ("--until", self.until.is_some()),
            ("--again", self.again.is_some()),
            ("--profile", self.profile.is_some()),
            ("--threshold", self.threshold.is_some()),
        ];
        match given.iter().find(|(_, given)| *given) {
            Some((name, _)) => Err(format!(
                "{name} means nothing in a mix; leave it out, or say --measure cost"
            )),
            None => Ok(()),
        }
    }
}
