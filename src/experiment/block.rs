//! One arm under one load, once: a fresh server process, a warm-up, a measured window.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::ExperimentError;
use super::child::{CONNECTIONS, Server};
use super::plan::{Arm, Load, Plan};
use super::stretch::{Stretch, Tracer};
use crate::control::Report;
use crate::load::{self, Arrivals, Mode, Observer, Phase, Progress, Severity};
use crate::measure::cpu_clock::non_idle;
use crate::measure::noise::{Mark, Noise, Snapshot};
use crate::measure::reading::Reading;

/// How often an observer without a generator looks, about as often as one with it.
const TICK: Duration = Duration::from_millis(50);

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Block {
    /// The arm's place among the runners.
    pub arm: usize,
    /// Under which load.
    pub load: Load,
    /// What was recorded besides.
    pub pass: Pass,
    /// In which round of that load and pass, from 0.
    pub round: usize,
    /// Whether page faults were timed besides.
    #[serde(default)]
    pub times_faults: bool,
    /// What the server did in the window, by its own count and clock.
    pub server: Report,
    /// The same for the first half of the window.
    pub first_half: Option<Report>,
    /// Non-idle time of all cores in the window, in nanoseconds: the generator's is in it.
    pub machine_ns: Reading<u64>,
    /// System calls by both counts, and switches and faults by the kernel's, of a stretch before the
    /// window. Of counting blocks only.
    pub calls: Option<Stretch>,
    /// Cycles and what else the processor counts, of a stretch of its own before the window, in which
    /// nothing is traced. Of counting blocks only; older results have it of the window.
    #[serde(default)]
    pub work: Option<Stretch>,
    /// What the generator did.
    pub client: Client,
    /// What disturbed it.
    pub noise: Noise,
    /// Why the block counts as disturbed; it is kept all the same.
    pub marks: Vec<Mark>,
    /// Memory of the server at the end of the window, in bytes: PSS, all its processes together.
    #[serde(default = "no_memory")]
    pub memory_bytes: Reading<u64>,
    /// From planned or actual send to answer, of this block alone.
    #[serde(skip, default = "empty")]
    pub latency: Histogram<u64>,
}

/// What is recorded in a block. Observers have their price, so each has blocks of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pass {
    /// Nothing besides what is counted anyway: the blocks that are compared.
    Plain,
    /// The same as `Plain`, next to the blocks that have an observer, which are read against it.
    Beside,
    /// The same once more, in the same rounds: what lies between it and `Beside` is no observer's
    /// price, and none that is smaller can be told.
    Again,
    /// Where the server's time goes.
    Time,
    /// By the kernel's count: system calls, switches and faults, and cycles where there are counters.
    /// All before the window: tracing puts every system call on a slower path, and each counter is
    /// taken off and put on at every switch between threads. The loops' turns are timed throughout.
    Counts,
}

/// Results of before memory was asked for.
fn no_memory() -> Reading<u64> {
    Reading::missing("not asked for")
}

fn empty() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are within range")
}

/// The generator's side of a block.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Client {
    /// Requests sent, answered and failed over the whole block, warm-up included.
    pub sent: u64,
    /// See `sent`.
    pub answered: u64,
    /// See `sent`.
    pub failed: u64,
    /// Requests that the server says it had, over the whole block.
    pub seen_by_server: u64,
    /// Open loop: planned in the window, and not sent before it closed.
    pub unsent: u64,
    /// Median and 99th percentile of latency, in nanoseconds.
    pub latency_ns_p50: Option<u64>,
    /// See `latency_ns_p50`.
    pub latency_ns_p99: Option<u64>,
    /// The 99th percentile of each thousand answers in a row, in nanoseconds, and of those the median.
    /// Older results have none.
    #[serde(default)]
    pub typical_p99_ns: Option<u64>,
    /// 99th percentile from planned to actual send, in nanoseconds; open loop only.
    pub pacing_error_ns_p99: Option<u64>,
    /// CPU time of the generator's threads in the window, in nanoseconds.
    pub cpu_ns: u64,
    /// Context switches of the generator's threads in the window.
    pub switches: u64,
    /// Events per `epoll_wait`.
    pub events_per_wait: Option<f64>,
    /// What its audit found, each with cause and remedy.
    pub invalid: Vec<Finding>,
    /// Stopped before its time.
    pub partial: bool,
}

/// One finding of the generator's audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Fact and cause.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

impl From<load::Finding> for Finding {
    fn from(finding: load::Finding) -> Finding {
        Finding {
            cause: finding.cause,
            remedy: finding.remedy.to_string(),
        }
    }
}

impl Block {
    /// Requests answered by the server in the window.
    pub fn requests(&self) -> u64 {
        self.server.figures.served.answered
    }

    /// Page faults of the server in the window.
    pub fn faults(&self) -> u64 {
        self.server.minor_faults + self.server.major_faults
    }

    /// `total` per request of the window; `None` without requests.
    pub fn per_request(&self, total: f64) -> Option<f64> {
        (self.requests() > 0).then(|| total / self.requests() as f64)
    }

    /// CPU time of the server per request, in nanoseconds.
    pub fn cpu_ns_per_request(&self) -> Option<f64> {
        self.per_request(self.server.cpu_ns as f64)
    }

    /// Requests per second of wall time.
    pub fn throughput(&self) -> f64 {
        self.requests() as f64 * 1e9 / self.server.now_ns.max(1) as f64
    }

    /// CPU time per request in each half of the window.
    pub fn halves(&self) -> (Option<f64>, Option<f64>) {
        let per_request = |report: &Report| {
            let requests = report.figures.served.answered;
            (requests > 0).then(|| report.cpu_ns as f64 / requests as f64)
        };
        match &self.first_half {
            Some(first) => (per_request(first), per_request(&self.server.since(first))),
            None => (None, None),
        }
    }

    /// The part of its cores' time that the server used.
    pub fn server_busy(&self, cores: usize) -> f64 {
        self.server.cpu_ns as f64 / (self.server.now_ns.max(1) as f64 * cores as f64)
    }
}

/// Where a block is in the experiment.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// The arm's place among the runners.
    pub arm: usize,
    /// Under which load.
    pub load: Load,
    /// What is recorded besides.
    pub pass: Pass,
    /// In which round of that load and pass.
    pub round: usize,
    /// Requests per second, at the equal rate.
    pub rate: f64,
    /// Whether page faults are timed besides, where time is recorded.
    pub times_faults: bool,
}

/// Runs one block.
///
/// # Errors
/// The server or the generator could not run at all; failed requests are in the block.
pub fn run(
    plan: &Plan,
    arm: &Arm,
    place: Place,
    limits: &crate::measure::noise::Limits,
    stop: &Arc<AtomicBool>,
) -> Result<Block, ExperimentError> {
    let mut options = vec!["--handler", &arm.handler];
    match place.pass {
        Pass::Time => options.push("--probed"),
        Pass::Counts => options.push("--turns"),
        Pass::Plain | Pass::Beside | Pass::Again => {}
    }
    if place.times_faults {
        options.push("--time-faults");
    }
    if !arm.has_clients() {
        options.extend(["--canned", &plan.path]);
    }
    let mut server = Server::start(arm, &plan.setting.server_cores, CONNECTIONS, &options, stop)?;
    let mut work = saturation(plan, server.address());
    work.seed = plan.seed.wrapping_add(place.round as u64);
    if place.load == Load::EqualRate {
        work.mode = Mode::Open {
            rate: place.rate,
            arrivals: Arrivals::Poisson,
        };
    }
    let counting = place.pass == Pass::Counts;
    let beside = plan.counts_beside(place.load, place.pass);
    let connections = match arm.has_clients() {
        true => plan.connections as u64,
        false => 0,
    };
    // Before the load starts: threads born later inherit the counters.
    let tracer = counting
        .then(|| Tracer::attach(&mut server, arm, connections, beside.is_some()))
        .transpose()?;
    let takes = tracer.as_ref().map_or(Duration::ZERO, Tracer::takes);
    work.warm_up += beside.unwrap_or(takes);
    let mut watch = Watch {
        tracer,
        warm: plan.warm_up,
        half: Some(work.warm_up + plan.window / 2),
        ..Watch::new(server, &plan.setting.server_cores)
    };
    let outcome = if arm.has_clients() {
        Some(load::run(&work, stop, &mut watch)?)
    } else {
        watch_alone(&work, stop, &mut watch);
        None
    };
    let whole = watch.server.report()?;
    let (server, noise) = watch.window(arm)?;
    let (Some(opened), Some(closed)) = (watch.opened, watch.closed) else {
        unreachable!("there was a window");
    };
    let machine_ns = match (opened.machine_ns, closed.machine_ns) {
        (Reading::Value(before), Reading::Value(after)) => Reading::Value(after - before),
        (Reading::Missing(reason), _) | (_, Reading::Missing(reason)) => Reading::Missing(reason),
    };
    let counted = watch.tracer.map(|tracer| tracer.counted(&server));
    let (calls, processor) = counted.unzip();
    Ok(Block {
        calls,
        work: processor,
        arm: place.arm,
        load: place.load,
        pass: place.pass,
        round: place.round,
        times_faults: place.times_faults,
        server,
        first_half: watch
            .half_way
            .map(|half_way| half_way.since(&opened.report)),
        machine_ns,
        client: match &outcome {
            Some(outcome) => client(outcome, whole.figures.served.answered),
            None => no_client(whole.figures.served.answered, stop),
        },
        marks: limits.marks(&noise),
        noise,
        memory_bytes: watch.memory_bytes,
        latency: outcome.map_or_else(empty, |outcome| outcome.latency),
    })
}

/// What the generator does at saturation.
pub(super) fn saturation(plan: &Plan, server: SocketAddr) -> load::Plan {
    let mut work = plan.setting.load(&plan.path, server);
    work.connections = plan.connections;
    work.warm_up = plan.warm_up;
    work.duration = plan.window;
    work.request_timeout = Duration::from_secs(2);
    work.seed = plan.seed;
    work
}

fn client(outcome: &load::Outcome, seen_by_server: u64) -> Client {
    let invalid = load::audit(outcome)
        .into_iter()
        .filter(|finding| finding.severity == Severity::Invalid)
        .map(Finding::from)
        .collect();
    Client {
        sent: outcome.sent,
        answered: outcome.answered,
        failed: outcome.failed.total(),
        seen_by_server,
        unsent: outcome.in_window.unsent,
        latency_ns_p50: outcome.latency_ns(0.5),
        latency_ns_p99: outcome.latency_ns(0.99),
        typical_p99_ns: outcome.typical_p99_ns(),
        pacing_error_ns_p99: outcome.pacing_error_ns(0.99),
        cpu_ns: outcome.client.cpu_ns,
        switches: outcome.client.voluntary_switches + outcome.client.involuntary_switches,
        events_per_wait: outcome.events_per_wait(),
        invalid,
        partial: outcome.is_partial(),
    }
}

/// Lets a server that has its requests in itself run for as long as others are loaded.
fn watch_alone(work: &load::Plan, stop: &AtomicBool, watch: &mut Watch) {
    let started = Instant::now();
    let planned = work.warm_up + work.duration;
    let progress = |phase| Progress {
        phase,
        elapsed: started.elapsed(),
        planned,
        sent: 0,
        answered: 0,
        failed: 0,
        open_connections: 0,
        latency_ns_p50: None,
        latency_ns_p99: None,
    };
    let until = |time: Duration, phase, watch: &mut Watch| {
        while started.elapsed() < time && !stop.load(Ordering::Relaxed) {
            watch.tick(&progress(phase));
            thread::sleep(TICK.min(time.saturating_sub(started.elapsed())));
        }
    };
    until(work.warm_up, Phase::WarmUp, watch);
    watch.window_opens(&progress(Phase::Window));
    until(planned, Phase::Window, watch);
    watch.window_closes(&progress(Phase::Window));
}

/// Of a server that has its requests in itself.
fn no_client(answered: u64, stop: &AtomicBool) -> Client {
    Client {
        sent: answered,
        answered,
        failed: 0,
        seen_by_server: answered,
        unsent: 0,
        latency_ns_p50: None,
        latency_ns_p99: None,
        typical_p99_ns: None,
        pacing_error_ns_p99: None,
        cpu_ns: 0,
        switches: 0,
        events_per_wait: None,
        invalid: Vec::new(),
        partial: stop.load(Ordering::Relaxed),
    }
}

/// The server and the machine at one edge of the window.
struct Edge {
    report: Report,
    noise: Snapshot,
    machine_ns: Reading<u64>,
}

/// Reads a server's own figures at both edges of the window.
pub(super) struct Watch {
    tracer: Option<Tracer>,
    /// Whose.
    pub(super) server: Server,
    cores: Vec<usize>,
    /// When the server has warmed up, from the start of the load.
    warm: Duration,
    /// When the window is half over, from the start of the load, if anybody asks.
    half: Option<Duration>,
    opened: Option<Edge>,
    half_way: Option<Report>,
    closed: Option<Edge>,
    /// Memory of the server at the end of the window, in bytes.
    pub(super) memory_bytes: Reading<u64>,
}

impl Watch {
    /// Of a server on `cores`, whose kernel counts nothing for it.
    pub(super) fn new(server: Server, cores: &[usize]) -> Watch {
        Watch {
            tracer: None,
            server,
            cores: cores.to_vec(),
            warm: Duration::ZERO,
            half: None,
            opened: None,
            half_way: None,
            closed: None,
            memory_bytes: no_memory(),
        }
    }

    /// What the server of `arm` did in the window, and what disturbed it.
    ///
    /// # Errors
    /// There was no whole window.
    pub(super) fn window(&self, arm: &Arm) -> Result<(Report, Noise), ExperimentError> {
        let (Some(opened), Some(closed)) = (&self.opened, &self.closed) else {
            return Err(ExperimentError::Server {
                arm: arm.label.clone(),
                what: "died, or the run was interrupted, before the window closed".to_string(),
            });
        };
        let server = closed.report.since(&opened.report);
        let wall = Duration::from_nanos(server.now_ns);
        Ok((server, Noise::between(&opened.noise, &closed.noise, wall)))
    }

    fn edge(&mut self) -> Option<Edge> {
        let proc = Path::new("/proc");
        let report = self.server.report().ok()?;
        Some(Edge {
            report,
            noise: Snapshot::take(proc, self.server.pids(), &self.cores),
            machine_ns: non_idle(proc).map(|non_idle| non_idle.ns),
        })
    }
}

impl Observer for Watch {
    fn window_opens(&mut self, _: &Progress) {
        if let Some(tracer) = &mut self.tracer {
            tracer.rest();
        }
        self.opened = self.edge();
    }

    fn tick(&mut self, progress: &Progress) {
        if progress.elapsed >= self.warm
            && let Some(tracer) = &mut self.tracer
        {
            tracer.count(&mut self.server);
        }
        let in_window = self.opened.is_some() && self.closed.is_none();
        let is_half_over = self.half.is_some_and(|half| progress.elapsed >= half);
        if in_window && self.half_way.is_none() && is_half_over {
            self.half_way = self.server.report().ok();
        }
    }

    fn window_closes(&mut self, _: &Progress) {
        self.closed = self.edge();
        // Reading it walks every page: after the window, while the connections are still there.
        let processes = self.server.processes();
        self.memory_bytes = Reading::from(processes).and_then(|all| all.memory_bytes);
    }
}
