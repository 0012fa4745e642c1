//! `ringlab compare`, the main job, and what `ringlab` does without a command.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fmt, fs};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

mod axes;
mod mix;

use super::{Cores, Exit, Refusal, fail, not_loaded, parse_cores};
use crate::experiment::analysis::analyse;
use crate::experiment::mix::Heavy;
use crate::experiment::plan::{Arm, Plan, arms, control_of};
use crate::experiment::result::{Experiment, FORMAT};
use crate::experiment::setting::Setting;
use crate::experiment::{ExperimentError, profile, run};
use crate::layout::Layout;
use crate::measure::host::{self, Host};
use crate::measure::noise::Limits;
use crate::measure::stats::Level;
use crate::measure::{probe, smt};
use crate::offload::Policy;
use crate::report;
use crate::sandbox::{Handler, Source};
use crate::whole_file::check_writable;

/// Compare I/O models, isolations or handlers: what a request costs on each; or offload policies: what
/// heavy requests do to light ones
#[derive(Debug, Parser)]
pub struct Arguments {
    /// I/O models, or `all` [default: blocking,epoll,io_uring; of the mix epoll,io_uring]
    #[arg(long, value_delimiter = ',')]
    model: Vec<String>,
    /// Isolations, or `all`
    #[arg(long, value_delimiter = ',', default_value = "reuse")]
    isolation: Vec<String>,
    /// Layouts of the server's cores, threads and processes, or `all`
    #[arg(long, value_delimiter = ',', default_value = "threads")]
    layout: Vec<String>,
    /// Where and when handlers run: offload policies, or `all`; workers share the server's cores.
    /// Several are compared by --measure mix, unless another is asked for
    #[arg(long, value_delimiter = ',', default_value = "inline")]
    offload: Vec<String>,
    /// Handlers: built-in names, or files of wasm or its text format
    #[arg(long, value_delimiter = ',', default_value = "hello")]
    handler: Vec<String>,
    /// What is requested
    #[arg(long, default_value = "/")]
    path: String,
    /// `cost`: CPU time per request, throughput, latency. `mix`: light requests (`hello`, in open loop)
    /// beside heavy ones (`spin`), in some four minutes by default, and in one with
    /// `--rounds 1 --window 300ms`, which has no p99.9 [default: cost; mix where
    /// several --offload are compared]
    #[arg(long, value_enum)]
    measure: Option<Measure>,
    /// The mix: what runs beside the light requests, in turn, as TIME:SHARE: how long each takes, and
    /// which part of the server's cores all take (`10ms:50%`, evenly in open loop) or how many always
    /// run for each core (`100ms:8`, in closed loop) [default:
    /// 1ms:25%,1ms:50%,10ms:25%,10ms:50%,100ms:50%,100ms:8]
    #[arg(long, value_delimiter = ',', value_name = "TIME:SHARE")]
    heavy: Vec<Heavy>,
    /// The mix: where light requests run, for who knows beforehand which those are [default: as --offload
    /// says, like the heavy ones]
    #[arg(long, value_name = "OFFLOAD")]
    light: Option<Policy>,
    /// Cores of the server [default: the last one]
    #[arg(long, value_parser = parse_cores)]
    cores: Option<Cores>,
    /// Cores of the generator [default: up to two others for each of the server's]
    #[arg(long, value_parser = parse_cores)]
    client_cores: Option<Cores>,
    /// Lets server and generator share a core; the result is marked
    #[arg(long)]
    share_cores: bool,
    /// Connections of the generator; in the mix for the light requests, by default as many as may wait
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: u32,
    /// Rounds at saturation, or of the mix [default: 12; 2 of the mix]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: Option<u32>,
    /// Rounds at the equal rate; 0 leaves it out
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    equal_rate_rounds: u32,
    /// Rounds in which time is recorded and the kernel counts; 0 leaves both ledgers out, and from 4
    /// on their prices have intervals and a control
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    ledger_rounds: u32,
    /// Requests per second at the equal rate, or of the mix's light ones [default: half the slowest
    /// arm's capacity; 4000 of the mix for each of the server's cores]
    #[arg(long)]
    rate: Option<f64>,
    /// Load before measuring, in every block
    #[arg(long, default_value = "100ms", value_name = "TIME")]
    warm_up: humantime::Duration,
    /// The measured part of every block [default: 450ms; 1350ms of the mix]
    #[arg(long, value_name = "TIME")]
    window: Option<humantime::Duration>,
    /// Adds rounds until every ratio at saturation is known this well, such as `2%`
    #[arg(long, value_parser = parse_percent, value_name = "PERCENT")]
    until: Option<f64>,
    /// No round is added after this time
    #[arg(long, default_value = "10m", value_name = "TIME")]
    max_time: humantime::Duration,
    /// Decides the order of the blocks and the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Repeats the experiment stored in FILE and says whether both runs agree
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "isolation", "layout", "offload", "handler", "rounds"])]
    again: Option<PathBuf>,
    /// Where the whole result goes, as JSON
    #[arg(long, default_value = "ringlab-result.json", value_name = "FILE")]
    json: PathBuf,
    /// Draws a flame graph of each arm, by perf, into DIR, after everything else
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "ringlab-profile")]
    profile: Option<PathBuf>,
    /// Says nothing but the result
    #[arg(long)]
    quiet: bool,
    /// Says what would be done, and how long it would take
    #[arg(long)]
    dry_run: bool,
    /// Exit code 1 if an arm surely needs more than RATIO times the first arm's CPU per request
    #[arg(long, value_name = "RATIO")]
    threshold: Option<f64>,
    /// Counts NOISY as INVALID
    #[arg(long)]
    strict: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Measure {
    Cost,
    Mix,
}

/// The models, if nobody says which.
const MODELS: [&str; 3] = ["blocking", "epoll", "io_uring"];
/// Rounds at saturation, if nobody says how many.
const ROUNDS: u32 = 12;
/// The measured part of a block, if nobody says how long.
const WINDOW: Duration = Duration::from_millis(450);

fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    match number.parse() {
        Ok(percent) if percent > 0.0 && percent < 100.0 => Ok(percent),
        _ => Err(format!("{text:?} is no percentage; write `2%`")),
    }
}

impl Default for Arguments {
    fn default() -> Self {
        Self::parse_from(["compare"])
    }
}

pub fn run(arguments: &Arguments) -> Exit {
    if arguments.is_mix() {
        return mix::run(arguments);
    }
    let before = match &arguments.again {
        None => None,
        Some(path) => match Experiment::load(path) {
            Ok(experiment) => Some(experiment),
            Err(error) => return fail(Exit::BadInput, error),
        },
    };
    let plan = match &before {
        Some(before) => Ok(before.plan.clone()),
        None => arguments.plan(),
    };
    let plan = match plan {
        Ok(plan) => plan,
        Err((exit, sentence)) => return fail(exit, sentence),
    };
    if arguments.dry_run {
        print!("{}{}", describe(&plan), arguments.profile_planned());
        return Exit::Done;
    }
    if let Some(directory) = &arguments.profile
        && let Err(error) = fs::create_dir_all(directory)
    {
        return fail(
            Exit::BadInput,
            format_args!(
                "there can be no directory {}: {error}; name another one with --profile",
                directory.display()
            ),
        );
    }
    if let Err((exit, sentence)) = arguments.check_destination() {
        return fail(exit, sentence);
    }
    if !arguments.quiet {
        eprint!("{}{}", describe(&plan), arguments.profile_planned());
    }
    let stop = Arc::new(AtomicBool::new(false));
    super::stop_on_signal(stop.clone());
    let experiment = match carry_out(plan, &stop, arguments.quiet) {
        Ok(experiment) => experiment,
        Err(error @ (ExperimentError::Plan(_) | ExperimentError::Answer { .. })) => {
            return fail(Exit::BadInput, error);
        }
        Err(error) => return fail(Exit::HostCannot, error),
    };
    let exit = finish(arguments, &experiment, before.as_ref());
    if let Some(directory) = &arguments.profile {
        let search = env::var_os("PATH").unwrap_or_default();
        for sentence in profile::profile(&experiment.plan, directory, &search, &stop) {
            println!("{}", report::wrap(&sentence));
        }
    }
    exit
}

/// Prints, stores, and says with which code the process ends.
fn finish(arguments: &Arguments, experiment: &Experiment, before: Option<&Experiment>) -> Exit {
    // Stored first: what is printed may find nobody who reads it to the end.
    let path = arguments.destination();
    let stored = experiment.store(&path);
    if let Some(before) = before {
        let differences = host::differences(&before.host, &experiment.host);
        super::say(report::unlike_hosts(&differences));
    }
    super::say(report::experiment(experiment, before.is_some()));
    if let Some(before) = before {
        super::say(report::agreement(&before.analysis, &experiment.analysis));
    }
    if let Err(error) = stored {
        return fail(Exit::HostCannot, error);
    }
    super::say(format_args!(
        "\nThe full result is in {}.\n",
        path.display()
    ));
    match experiment.analysis.verdict.level {
        _ if experiment.partial => Exit::Interrupted,
        Level::Invalid => Exit::Invalid,
        Level::Noisy if arguments.strict => Exit::Invalid,
        _ if over(experiment, arguments.threshold) => Exit::Threshold,
        Level::Noisy | Level::Valid => Exit::Done,
    }
}

/// Whether an arm's whole interval lies above the threshold; says which.
fn over(experiment: &Experiment, threshold: Option<f64>) -> bool {
    let Some(threshold) = threshold else {
        return false;
    };
    let last = experiment.plan.setting.arms.len();
    let mut any = false;
    for table in &experiment.analysis.tables {
        for row in &table.rows[1..last] {
            if let Ok(ratio) = &row.cpu_ratio
                && ratio.interval.low > threshold
            {
                any = true;
                super::say(format_args!(
                    "Over the threshold of {threshold}: {} at {}.\n",
                    row.label,
                    table.load.name()
                ));
            }
        }
    }
    any
}

fn carry_out(
    plan: Plan,
    stop: &Arc<AtomicBool>,
    quiet: bool,
) -> Result<Experiment, ExperimentError> {
    let handler = Source::parse(&plan.setting.arms[0].handler);
    let started_s = SystemTime::UNIX_EPOCH
        .elapsed()
        .map_or(0, |since| since.as_secs());
    let host = Host::read("/".as_ref(), super::build_facts(&handler));
    let noise_limits = Limits::default();
    let mut shown = Shown::new(quiet);
    let result = run::run(&plan, &noise_limits, stop, &mut shown);
    shown.bar.finish_and_clear();
    let run = result?;
    let analysis = analyse(&plan, &run.blocks, run.rate, &noise_limits);
    Ok(Experiment {
        format: FORMAT,
        started_s,
        host,
        plan,
        noise_limits,
        rate: run.rate,
        partial: run.partial || stop.load(Ordering::Relaxed),
        until: run.until,
        analysis,
        blocks: run.blocks,
    })
}

fn describe(plan: &Plan) -> String {
    Opening {
        runners: &plan.setting.runners(),
        what: format!(" on {}", plan.setting.arms[0].handler),
        server_cores: &plan.setting.server_cores,
        client_cores: &plan.setting.client_cores,
        rounds: format!("{} + {}", plan.rounds, plan.equal_rate_rounds),
        estimate: plan.estimate(),
        left_out: &plan.setting.left_out,
    }
    .to_string()
}

/// What is said of any experiment before it begins.
struct Opening<'a> {
    runners: &'a [Arm],
    /// What they are asked; follows their names.
    what: String,
    server_cores: &'a [usize],
    client_cores: &'a [usize],
    rounds: String,
    estimate: Duration,
    left_out: &'a [String],
}

impl fmt::Display for Opening<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels: Vec<_> = self.runners.iter().map(|arm| &*arm.label).collect();
        writeln!(
            f,
            "ringlab: {}{}; server on core {:?}, generator on core {:?}; {} rounds, about {}",
            labels.join(", "),
            self.what,
            self.server_cores,
            self.client_cores,
            self.rounds,
            report::duration(self.estimate),
        )?;
        let mut reasons = self.left_out.iter();
        reasons.try_for_each(|reason| writeln!(f, "ringlab: left out: {reason}"))
    }
}

struct Shown {
    bar: ProgressBar,
    started: Instant,
}

impl Shown {
    fn new(quiet: bool) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")
            .expect("the template is correct");
        Self {
            bar: bar.with_style(style),
            started: Instant::now(),
        }
    }
}

impl run::Progress for Shown {
    fn block(&mut self, done: usize, of: usize, next: &str) {
        let left = run::time_left(self.started, done, of).map_or_else(String::new, |left| {
            format!(", {} left", report::duration(left))
        });
        self.bar.set_length(of as u64);
        self.bar.set_position(done as u64);
        self.bar.set_message(format!("{next}{left}"));
    }
}

impl Arguments {
    /// Where the result goes. A stored run stays what it is: its repetition goes beside it.
    fn destination(&self) -> PathBuf {
        match &self.again {
            Some(_) => self.json.with_extension("again.json"),
            None => self.json.clone(),
        }
    }

    /// Refuses a place for the result before anything is measured.
    fn check_destination(&self) -> Result<(), Refusal> {
        let path = self.destination();
        check_writable(&path).map_err(|error| {
            let sentence = format!(
                "the result cannot be written to {}: {error}; name another file with --json",
                path.display()
            );
            (Exit::BadInput, sentence)
        })
    }

    fn window_or(&self, default: Duration) -> Duration {
        let window = self.window.map_or(default, Duration::from);
        window.max(Duration::from_millis(1))
    }

    /// What comes after the plan's blocks.
    fn profile_planned(&self) -> String {
        self.profile.as_ref().map_or_else(String::new, |directory| {
            format!(
                "ringlab: then a flame graph of each arm into {}\n",
                directory.display()
            )
        })
    }

    fn plan(&self) -> Result<Plan, Refusal> {
        let bad = |sentence: String| (Exit::BadInput, sentence);
        if !self.heavy.is_empty() || self.light.is_some() {
            let sentence =
                "--heavy and --light are of the mix; leave them out, or say --measure mix";
            return Err(bad(sentence.to_string()));
        }
        let mut isolations = self.isolations().map_err(bad)?;
        let layouts = self.layouts().map_err(bad)?;
        let (models, mut left_out) = self.models(&MODELS).map_err(bad)?;
        if models.is_empty() {
            return Err((Exit::HostCannot, left_out.join("; ")));
        }
        let asked_for_all = self.isolation.iter().any(|name| name == "all");
        for handler in &self.handler {
            let mut refused = Vec::new();
            for isolation in &isolations {
                let source = Source::parse(handler);
                match Handler::load(&source, *isolation, &Default::default()) {
                    Ok(_) => {}
                    Err(error) if asked_for_all && refused.len() + 1 < isolations.len() => {
                        left_out.push(format!("{isolation} n/a: {error}"));
                        refused.push(*isolation);
                    }
                    Err(error) => return Err(not_loaded(error)),
                }
            }
            isolations.retain(|isolation| !refused.contains(isolation));
        }
        if !self.path.starts_with('/')
            || self
                .path
                .contains(|c: char| c.is_ascii_control() || c == ' ')
        {
            return Err(bad(format!(
                "{:?} is no path; write it as in `--path /count?n=100`",
                self.path
            )));
        }
        if self.rate.is_some_and(|rate| rate.is_nan() || rate < 1.0) {
            return Err(bad("a rate is at least 1 request per second".to_string()));
        }
        let (server_cores, client_cores) = self.split_cores().map_err(bad)?;
        let mut warnings = smt::warnings(&server_cores, &client_cores, smt::physical_core);
        let wanted = self.connections as usize;
        let (connections, fewer) = Self::affordable(wanted, &server_cores)?;
        warnings.extend(fewer);
        let mut ledger_rounds = self.ledger_rounds as usize;
        if let Err(reason) = probe::check() {
            left_out.push(format!("the time ledger n/a: {reason}"));
            ledger_rounds = 0;
        }
        if layouts.contains(&Layout::Processes) && server_cores.len() == 1 {
            warnings.push(
                "on one core the layouts differ in little but a parent process; give the server more with --cores"
                    .to_string(),
            );
        }
        let offloads = self.offloads().map_err(bad)?;
        let arms = arms(&models, &isolations, &layouts, &offloads, &self.handler);
        let arms = Self::possible(arms, &mut left_out, Arm::check)?;
        Ok(Plan {
            setting: Setting {
                control_of: control_of(&arms),
                arms,
                left_out,
                warnings,
                server_cores,
                client_cores,
            },
            path: self.path.clone(),
            connections,
            rounds: self.rounds.unwrap_or(ROUNDS) as usize,
            equal_rate_rounds: self.equal_rate_rounds as usize,
            ledger_rounds,
            count_rounds: self.ledger_rounds as usize,
            warm_up: self.warm_up.into(),
            window: self.window_or(WINDOW),
            rate: self.rate,
            seed: self.seed,
            until_percent: self.until,
            max_time: self.max_time.into(),
        })
    }
}
