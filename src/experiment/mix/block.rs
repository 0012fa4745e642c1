//! One arm at one step, once: a fresh server process, its heavy handler timed, a warm-up, a window.
//!
//! What a heavy request's own guest takes is measured in each block's own process, by the same handler
//! on a route of its own that runs inline, before the load and after it: hosts grow faster and slower.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::super::ExperimentError;
use super::super::block::{Finding, Watch};
use super::super::child::Server;
use super::super::plan::Arm;
use super::{Heavy, Plan, Share};
use crate::control::Report;
use crate::load::{self, Arrivals, Mode, Observer, Outcome, Progress, Severity};
use crate::measure::noise::{Limits, Mark, Noise};
use crate::measure::reading::Reading;

/// Steps of `spin` whose time is taken: some 40 ms, of which the way there and back is a thousandth.
const TIMED_STEPS: u64 = 24_000_000;
/// Before them, so that the handler is there.
const FIRST_STEPS: u64 = 1000;
/// How long the server may take for them.
const TIMED_LIMIT: Duration = Duration::from_secs(20);
/// A request without an answer for so long has failed, besides four times what all heavy ones together
/// take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Block {
    /// The arm's place among the runners.
    pub arm: usize,
    /// The step's place among the plan's.
    pub step: usize,
    /// From 0.
    pub round: usize,
    /// What the server did in the window, by its own count and clock.
    pub server: Report,
    /// What it used from the load's begin to the last answer.
    pub whole: Whole,
    /// CPU time of one step of the heavy handler in this process, alone, in nanoseconds: the mean of
    /// before the load and after it.
    pub spin_step_ns: f64,
    /// How far each of these two is from their mean, as a part of it.
    pub spin_step_error: f64,
    /// The light requests.
    pub light: Light,
    /// The heavy ones, if there were any.
    pub heavy: Option<HeavyDone>,
    /// What disturbed it.
    pub noise: Noise,
    /// Why the block counts as disturbed; it is kept all the same.
    pub marks: Vec<Mark>,
    /// Memory of the server at the end of the window, in bytes: PSS, all its processes together.
    pub memory_bytes: Reading<u64>,
}

/// Light requests of one block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Light {
    /// Sent, answered and failed over the whole block, warm-up included.
    pub sent: u64,
    /// See `sent`.
    pub answered: u64,
    /// See `sent`.
    pub failed: u64,
    /// Fell due in the window.
    pub planned: u64,
    /// Of those, could not be sent in it, since all connections waited.
    pub unsent: u64,
    /// Right answers that came while the window was open.
    pub completed: u64,
    /// 99th percentile from planned to actual send, in nanoseconds.
    pub pacing_error_ns_p99: Option<u64>,
    /// What the generator's audit found that makes its numbers worthless, each with cause and remedy.
    pub invalid: Vec<Finding>,
    /// From the planned send to the answer, in nanoseconds, of those planned in the window.
    #[serde(with = "super::result::as_pairs")]
    pub latency_ns: Histogram<u64>,
}

/// Heavy requests of one block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeavyDone {
    /// Steps of `spin` that each took.
    pub spin_steps: u64,
    /// Sent, answered and failed over the whole block, warm-up included.
    pub sent: u64,
    /// See `sent`.
    pub answered: u64,
    /// See `sent`.
    pub failed: u64,
    /// Answered in the window, those at its edges in part.
    pub done: f64,
    /// From send to answer, in nanoseconds, of those that count to the window.
    #[serde(with = "super::result::as_pairs")]
    pub latency_ns: Histogram<u64>,
}

/// A server from the load's begin to the last answer. No heavy request lies across an edge of that, as
/// one does across the window's, when nobody knows how much of it was done inside.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Whole {
    /// How long that was, in nanoseconds.
    pub wall_ns: u64,
    /// CPU time of the server's processes in it, in nanoseconds.
    pub cpu_ns: u64,
}

impl Block {
    /// CPU time that the heavy requests' own guests used, of all that were answered, in nanoseconds.
    pub fn heavy_ns(&self) -> f64 {
        let steps = |heavy: &HeavyDone| heavy.answered as f64 * heavy.spin_steps as f64;
        self.heavy.as_ref().map_or(0.0, steps) * self.spin_step_ns
    }
}

/// Reads the server's figures when the load begins, too.
struct FromTheBegin {
    watch: Watch,
    began: Option<Report>,
}

impl Observer for FromTheBegin {
    fn window_opens(&mut self, progress: &Progress) {
        self.watch.window_opens(progress);
    }

    fn window_closes(&mut self, progress: &Progress) {
        self.watch.window_closes(progress);
    }

    /// The first one comes with the first request; all connections are there.
    fn tick(&mut self, progress: &Progress) {
        if self.began.is_none() {
            self.began = self.watch.server.report().ok();
        }
        self.watch.tick(progress);
    }
}

/// Where a block is in the experiment.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The arm's place among the runners.
    pub arm: usize,
    /// The step's place among the plan's.
    pub step: usize,
    /// From 0.
    pub round: usize,
}

/// Starts the server of `arm`. Nothing is refused in it for want of room: who waits is the subject.
fn start(plan: &Plan, arm: &Arm, stop: &Arc<AtomicBool>) -> Result<Server, ExperimentError> {
    let light = plan.light.as_deref().unwrap_or(&arm.offload);
    let route = |path: &str, handler: &str, offload: &str| {
        format!("{path}={handler},{},{offload}", arm.isolation)
    };
    let all = plan.connections
        + plan
            .heavy
            .iter()
            .map(|heavy| most(plan, heavy))
            .sum::<usize>();
    let longest = plan.heavy.iter().map(|heavy| heavy.length).max();
    // By far more than any takes: the deadline is not looked at here.
    let deadline = longest.unwrap_or_default() * 10 + Duration::from_secs(10);
    let options = [
        "--route",
        &route("/", &arm.handler, light),
        "--route",
        &route("/spin", "spin", &arm.offload),
        "--route",
        &route("/alone", "spin", "inline"),
        "--queue",
        &all.to_string(),
        "--deadline",
        &humantime::format_duration(deadline).to_string(),
    ];
    // One more, to time the handler.
    Server::start(arm, &plan.setting.server_cores, all + 1, &options, stop)
}

/// Connections that the heavy requests have: in open loop enough for all that may be there at a time.
fn most(plan: &Plan, heavy: &Heavy) -> usize {
    let for_each = match heavy.share {
        Share::Percent(_) => super::ALWAYS_MAX,
        Share::Always(count) => count,
    };
    for_each * plan.setting.server_cores.len()
}

/// CPU time in nanoseconds that one step of `spin` takes on an idle server of `arm`, to find out how
/// many make a heavy request.
///
/// # Errors
/// The server did not start, or does not answer.
pub fn time_alone(plan: &Plan, arm: &Arm, stop: &Arc<AtomicBool>) -> Result<f64, ExperimentError> {
    step_ns(&mut start(plan, arm, stop)?, arm)
}

fn step_ns(server: &mut Server, arm: &Arm) -> Result<f64, ExperimentError> {
    let address = server.address();
    let ask = |steps: u64| {
        let path = format!("/alone?iterations={steps}");
        get(address, &path).map_err(|error| ExperimentError::Server {
            arm: arm.label.clone(),
            what: format!("did not answer GET {path}: {error}"),
        })
    };
    ask(FIRST_STEPS)?;
    let before = server.report()?;
    ask(TIMED_STEPS)?;
    let took = server.report()?.since(&before);
    Ok(took.cpu_ns as f64 / TIMED_STEPS as f64)
}

/// One request on a connection of its own; its answer must be a 200.
fn get(address: SocketAddr, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(TIMED_LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    match answer.starts_with(b"HTTP/1.1 200 ") {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "{:?}",
            String::from_utf8_lossy(&answer[..answer.len().min(80)])
        ))),
    }
}

/// Runs one block, whose heavy requests take their length at `step_ns` a step.
///
/// # Errors
/// The server or the generator could not run at all; failed requests are in the block.
pub fn run(
    plan: &Plan,
    arm: &Arm,
    place: Place,
    step_ns_alone: f64,
    limits: &Limits,
    stop: &Arc<AtomicBool>,
) -> Result<Block, ExperimentError> {
    let mut server = start(plan, arm, stop)?;
    let step_ns_before = step_ns(&mut server, arm)?;
    let heavy = plan.steps()[place.step];
    let spin_steps = heavy.map(|heavy| steps_in(heavy.length, step_ns_alone));
    let address = server.address();
    let mut works = vec![light_load(plan, address)];
    if let (Some(heavy), Some(steps)) = (&heavy, spin_steps) {
        works.push(heavy_load(plan, heavy, steps, address));
    }
    let backlog = heavy.map_or(Duration::ZERO, |heavy| heavy.backlog());
    for (class, work) in works.iter_mut().enumerate() {
        work.warm_up = plan.warm_up(heavy);
        work.request_timeout = REQUEST_TIMEOUT + 4 * backlog;
        // The same arrivals for all arms of a round and step.
        let seed = plan
            .seed
            .wrapping_add((place.round * 1000 + place.step) as u64);
        work.seed = seed.wrapping_mul(2).wrapping_add(class as u64);
    }
    let mut watch = FromTheBegin {
        watch: Watch::new(server, &plan.setting.server_cores),
        began: None,
    };
    let outcomes = load::run_together(&works, stop, &mut watch)?;
    let FromTheBegin { mut watch, began } = watch;
    let (server, noise) = watch.window(arm)?;
    let ended = watch.server.report()?;
    let began = began.ok_or_else(|| ExperimentError::Server {
        arm: arm.label.clone(),
        what: "did not say what it had done when the load began".to_string(),
    })?;
    let whole = ended.since(&began);
    let step_ns_after = step_ns(&mut watch.server, arm)?;
    let spin_step_ns = (step_ns_before + step_ns_after) / 2.0;
    let mut outcomes = outcomes.into_iter();
    let light = outcomes.next().expect("there are always light ones");
    Ok(Block {
        arm: place.arm,
        step: place.step,
        round: place.round,
        server,
        whole: Whole {
            wall_ns: whole.now_ns,
            cpu_ns: whole.cpu_ns,
        },
        spin_step_ns,
        spin_step_error: (step_ns_after - spin_step_ns).abs() / spin_step_ns,
        light: of_light(light),
        heavy: outcomes.next().zip(spin_steps).map(of_heavy),
        marks: limits.marks(&noise),
        noise,
        memory_bytes: watch.memory_bytes,
    })
}

fn steps_in(length: Duration, step_ns: f64) -> u64 {
    (length.as_nanos() as f64 / step_ns).round().max(1.0) as u64
}

fn light_load(plan: &Plan, server: SocketAddr) -> load::Plan {
    let mut work = plan.setting.load("/", server);
    work.duration = plan.window;
    work.connections = plan.connections;
    work.mode = Mode::Open {
        rate: plan.rate,
        arrivals: Arrivals::Poisson,
    };
    work
}

fn heavy_load(plan: &Plan, heavy: &Heavy, steps: u64, server: SocketAddr) -> load::Plan {
    let path = format!("/spin?iterations={steps}");
    let mut work = plan.setting.load(&path, server);
    work.duration = plan.window;
    work.connections = most(plan, heavy);
    // A thread of the generator needs a connection of its own.
    work.cores.truncate(work.connections);
    // The light ones are sent from the same cores, and theirs is the latency that is looked at.
    work.spins = false;
    if let Share::Percent(percent) = heavy.share {
        let cores = plan.setting.server_cores.len() as f64;
        work.mode = Mode::Open {
            rate: percent / 100.0 * cores / heavy.length.as_secs_f64(),
            arrivals: Arrivals::Constant,
        };
    }
    work
}

fn of_light(outcome: Outcome) -> Light {
    let invalid = load::audit_sending(&outcome)
        .into_iter()
        .filter(|finding| finding.severity == Severity::Invalid)
        .map(Finding::from)
        .collect();
    Light {
        sent: outcome.sent,
        answered: outcome.answered,
        failed: outcome.failed.total(),
        planned: outcome.in_window.planned,
        unsent: outcome.in_window.unsent,
        completed: outcome.in_window.completed,
        pacing_error_ns_p99: outcome.pacing_error_ns(0.99),
        invalid,
        latency_ns: outcome.latency,
    }
}

fn of_heavy((outcome, spin_steps): (Outcome, u64)) -> HeavyDone {
    HeavyDone {
        spin_steps,
        sent: outcome.sent,
        answered: outcome.answered,
        failed: outcome.failed.total(),
        done: outcome.answered_in_part,
        latency_ns: outcome.latency,
    }
}
