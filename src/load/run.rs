//! One run from plan to outcome: threads, their common start, and the sum.
//!
//! Several plans may be carried out side by side, as classes of requests: each has threads of its own,
//! and all have one timetable. The caller's thread sends nothing. It opens the idle connections, lets the
//! threads begin together, calls the observer on time, and merges.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use core_affinity::CoreId;

use super::check::Checks;
use super::clock::{ThreadUsage, monotonic_ns};
use super::descriptors;
use super::driver::WaitCounts;
use super::error::LoadError;
use super::live::{Live, Phase, Progress};
use super::plan::Plan;
use super::request;
use super::result::{Ended, Failures, Outcome, WindowCounts, histogram};
use super::short_slices;
use super::tally::Timetable;
use super::typical::Typical;
use super::worker::{Job, Report, Worker};

/// From the agreement on the start to the start, so that every thread is awake.
const START_AHEAD_NS: u64 = 2_000_000;
/// The observer's `tick` comes this often, and the caller's stop is seen.
const TICK: Duration = Duration::from_millis(100);
/// Pause between attempts to open an idle connection.
const RETRY: Duration = Duration::from_millis(50);

/// Is told how the run goes, on the caller's thread.
///
/// The window's edges are when a server's own clocks are to be read. Totals
/// come along, taken at the same moment: a late wake-up of the caller moves
/// both alike, and a quotient of their differences stays right.
pub trait Observer {
    /// The measured window has just opened.
    fn window_opens(&mut self, _progress: &Progress) {}
    /// The measured window has just closed; nothing is sent any more.
    fn window_closes(&mut self, _progress: &Progress) {}
    /// About ten times a second, from the start to the last answer.
    fn tick(&mut self, _progress: &Progress) {}
}

/// Observes nothing.
impl Observer for () {}

/// Carries out a plan. Returns when the last answer came or was given up: at
/// most `request_timeout` after the window closed, or within 100 ms after
/// `stop` was set.
///
/// # Errors
/// Only what kept the run from taking place; failed requests are in the outcome.
pub fn run(
    plan: &Plan,
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Outcome, LoadError> {
    let mut outcomes = run_together(std::slice::from_ref(plan), stop, observer)?;
    Ok(outcomes.pop().expect("a plan has an outcome"))
}

/// Carries out several plans at a time, each a class of requests with its own loop, connections and
/// counts; returns an outcome for each. There is at least one. Their threads may share cores, which each class's audit judges.
///
/// # Errors
/// As [`run`], and if the plans differ in their times.
pub fn run_together(
    plans: &[Plan],
    stop: &AtomicBool,
    observer: &mut dyn Observer,
) -> Result<Vec<Outcome>, LoadError> {
    for plan in plans {
        plan.check()?;
        check_cores(plan)?;
        if (plan.warm_up, plan.duration) != (plans[0].warm_up, plans[0].duration) {
            let sentence =
                "classes of requests that run together have one warm-up and one duration";
            return Err(LoadError::Plan(sentence.into()));
        }
    }
    descriptors::check(plans)?;
    let give_up = AtomicBool::new(false);
    let mut idle = Vec::new();
    let mut jobs = Vec::new();
    for plan in plans {
        jobs.push(Job {
            plan,
            requests: request::render_all(plan)?,
            checks: Checks::new(&plan.targets),
            stop,
            give_up: &give_up,
        });
        idle.push(open_idle(plan, stop)?);
    }
    let lives_of = |plan: &Plan| (0..plan.threads()).map(|_| Live::default()).collect();
    let lives: Vec<Vec<Live>> = plans.iter().map(lives_of).collect();
    let started_at = SystemTime::now();
    let (times, reports) = thread::scope(|scope| {
        let (news, from_threads) = mpsc::channel();
        let mut crew = Crew {
            jobs: &jobs,
            lives: &lives,
            starts: Vec::new(),
            from_threads,
            reports: plans.iter().map(|_| Vec::new()).collect(),
            error: None,
        };
        'spawning: for (class, job) in jobs.iter().enumerate() {
            for (index, live) in lives[class].iter().enumerate() {
                let (start, from_caller) = mpsc::channel();
                let news = news.clone();
                crew.starts.push(start);
                let name = format!("load-{}", crew.starts.len() - 1);
                let spawned = thread::Builder::new()
                    .name(name)
                    .spawn_scoped(scope, move || {
                        work(job, live, (class, index), &news, &from_caller)
                    });
                if let Err(source) = spawned {
                    let call = "starting a thread";
                    crew.fail(LoadError::Kernel { call, source });
                    break 'spawning;
                }
            }
        }
        drop(news);
        crew.conduct(observer)
    })?;
    let all = plans.iter().zip(&lives).zip(reports).zip(idle);
    Ok(all
        .map(|(((plan, lives), reports), idle)| {
            merge(plan, started_at, times, lives, reports, idle)
        })
        .collect())
}

/// A generator thread's messages to the caller's.
enum News<'a> {
    Ready,
    /// Of which class, and what it brings.
    Done(usize, Box<Report<'a>>),
    Failed(LoadError),
}

/// A generator thread, from its core to its report.
fn work<'a>(
    job: &'a Job<'a>,
    live: &'a Live,
    (class, index): (usize, usize),
    news: &mpsc::Sender<News<'a>>,
    start: &mpsc::Receiver<Timetable>,
) {
    let life = || -> Result<Option<Report<'a>>, LoadError> {
        if let Some(&core) = job.plan.cores.get(index)
            && !core_affinity::set_for_current(CoreId { id: core })
        {
            return Err(unusable(core));
        }
        // Timeouts may otherwise be late by the default slack of 50 µs (prctl(2)).
        nix::sys::prctl::set_timerslack(1)
            .map_err(LoadError::kernel("prctl(PR_SET_TIMERSLACK)"))?;
        if let Err(error) = short_slices::ask() {
            tracing::debug!(%error, "a generator thread waits for its core as others do");
        }
        let mut worker = Worker::new(job, live, index)?;
        worker.connect_all()?;
        // The receiver outlives the scope: a send cannot fail.
        let _ = news.send(News::Ready);
        match start.recv() {
            Ok(times) => worker.drive(times).map(Some),
            // The caller gave the run up.
            Err(mpsc::RecvError) => Ok(None),
        }
    };
    let last = match life() {
        Ok(Some(report)) => News::Done(class, Box::new(report)),
        Ok(None) => return,
        Err(error) => {
            // The others end too: a part of the load would not be the plan's.
            job.give_up.store(true, Relaxed);
            News::Failed(error)
        }
    };
    let _ = news.send(last);
}

/// The caller's view of the threads.
struct Crew<'a> {
    /// One for each class; they share their flags and their times.
    jobs: &'a [Job<'a>],
    /// Of each class, one for each thread.
    lives: &'a [Vec<Live>],
    /// Dropping these lets threads that wait for the start go home.
    starts: Vec<mpsc::Sender<Timetable>>,
    from_threads: mpsc::Receiver<News<'a>>,
    /// Of each class.
    reports: Vec<Vec<Report<'a>>>,
    /// The first thing that went wrong.
    error: Option<LoadError>,
}

impl<'a> Crew<'a> {
    /// Start, window, end. On an error it waits until no thread is left.
    fn conduct(
        mut self,
        observer: &mut dyn Observer,
    ) -> Result<(Timetable, Vec<Vec<Report<'a>>>), LoadError> {
        let mut ready = 0;
        while ready < self.starts.len() && self.error.is_none() {
            match self.from_threads.recv() {
                Ok(News::Ready) => ready += 1,
                Ok(other) => self.hear(other),
                Err(mpsc::RecvError) => break,
            }
        }
        let plan = self.jobs[0].plan;
        let start_ns = monotonic_ns() + START_AHEAD_NS;
        let opens_ns = start_ns + plan.warm_up.as_nanos() as u64;
        let times = Timetable {
            start_ns,
            opens_ns,
            closes_ns: opens_ns + plan.duration.as_nanos() as u64,
        };
        if self.error.is_none() {
            for start in &self.starts {
                let _ = start.send(times);
            }
        }
        self.starts.clear();
        self.watch(times, observer);
        match self.error {
            Some(error) => Err(error),
            None => Ok((times, self.reports)),
        }
    }

    /// Calls the observer on time until every thread is done.
    fn watch(&mut self, times: Timetable, observer: &mut dyn Observer) {
        let mut phase = Phase::WarmUp;
        let mut next_tick_ns = times.start_ns;
        loop {
            let job = &self.jobs[0];
            let called_off = job.stop.load(Relaxed) || job.give_up.load(Relaxed);
            let edge_ns = match phase {
                _ if called_off => u64::MAX,
                Phase::WarmUp => times.opens_ns,
                Phase::Window => times.closes_ns,
                Phase::Drain => u64::MAX,
            };
            let wait_ns = edge_ns.min(next_tick_ns).saturating_sub(monotonic_ns());
            let wait = Duration::from_nanos(wait_ns);
            let is_over = match self.from_threads.recv_timeout(wait) {
                Ok(news) => {
                    self.hear(news);
                    false
                }
                Err(mpsc::RecvTimeoutError::Timeout) => false,
                Err(mpsc::RecvTimeoutError::Disconnected) => true,
            };
            let now_ns = monotonic_ns();
            // Even if this thread slept through both edges, each is told.
            if now_ns >= edge_ns {
                let opens = phase == Phase::WarmUp;
                phase = if opens { Phase::Window } else { Phase::Drain };
                let progress = self.progress(phase, times);
                if opens {
                    observer.window_opens(&progress);
                } else {
                    observer.window_closes(&progress);
                }
            } else if is_over {
                return;
            } else if now_ns >= next_tick_ns {
                next_tick_ns = now_ns + TICK.as_nanos() as u64;
                observer.tick(&self.progress(phase, times));
            }
        }
    }

    fn hear(&mut self, news: News<'a>) {
        match news {
            News::Ready => {}
            News::Done(class, report) => self.reports[class].push(*report),
            News::Failed(error) => self.fail(error),
        }
    }

    fn fail(&mut self, error: LoadError) {
        self.jobs[0].give_up.store(true, Relaxed);
        self.error.get_or_insert(error);
    }

    fn progress(&self, phase: Phase, times: Timetable) -> Progress {
        let elapsed = Duration::from_nanos(monotonic_ns().saturating_sub(times.start_ns));
        let planned = self.jobs[0].plan.warm_up + self.jobs[0].plan.duration;
        Progress::of(self.lives, phase, elapsed, planned)
    }
}

/// Sums the threads up; the window is the shortest of theirs.
fn merge(
    plan: &Plan,
    started_at: SystemTime,
    times: Timetable,
    lives: &[Live],
    reports: Vec<Report>,
    idle: Vec<TcpStream>,
) -> Outcome {
    let closed_ns = reports.iter().map(|report| report.closed_ns).min();
    let window_ns = closed_ns.unwrap_or(0).saturating_sub(times.opens_ns);
    let mut outcome = Outcome {
        mode: plan.mode,
        ended: Ended::Complete,
        started_at,
        window: Duration::from_nanos(window_ns),
        threads: plan.threads(),
        connections: plan.connections,
        planned: 0,
        sent: lives.iter().map(|live| live.sent.get()).sum(),
        answered: lives.iter().map(|live| live.answered.get()).sum(),
        failed: Failures::default(),
        in_flight_at_end: 0,
        unsent: 0,
        waited: 0,
        in_window: WindowCounts::default(),
        answered_in_part: 0.0,
        reconnects: 0,
        connect_failures: 0,
        last_connect_error: None,
        unsolicited: 0,
        idle_connections: idle.len(),
        idle_open_at_end: idle.into_iter().filter_map(still_open).count(),
        bytes_in: 0,
        bytes_out: 0,
        latency: histogram(),
        service_time: histogram(),
        pacing_error: histogram(),
        typical: Typical::new(),
        client: ThreadUsage::default(),
        waits: WaitCounts::default(),
    };
    for Report {
        tally,
        ended,
        closed_ns: _,
        in_flight,
        reconnects,
        connect_failures,
        last_connect_error,
        unsolicited,
        bytes_in,
        bytes_out,
        client,
        waits,
    } in reports
    {
        if ended != Ended::Complete {
            outcome.ended = ended;
        }
        outcome.planned += tally.planned;
        outcome.failed.merge(&tally.failed);
        outcome.in_flight_at_end += in_flight;
        outcome.unsent += tally.unsent;
        outcome.waited += tally.waited;
        outcome.in_window.planned += tally.in_window.planned;
        outcome.in_window.unsent += tally.in_window.unsent;
        outcome.in_window.answered += tally.in_window.answered;
        outcome.in_window.failed += tally.in_window.failed;
        outcome.in_window.completed += tally.in_window.completed;
        outcome.answered_in_part += tally.answered_in_part;
        outcome.reconnects += reconnects;
        outcome.connect_failures += connect_failures;
        if let Some(errno) = last_connect_error.filter(|_| connect_failures > 0) {
            outcome.last_connect_error = Some(errno.desc().to_owned());
        }
        outcome.unsolicited += unsolicited;
        outcome.bytes_in += bytes_in;
        outcome.bytes_out += bytes_out;
        for (sum, more) in [
            (&mut outcome.latency, tally.latency),
            (&mut outcome.service_time, tally.service_time),
            (&mut outcome.pacing_error, tally.pacing_error),
        ] {
            sum.add(more).expect("all histograms have one shape");
        }
        outcome.typical.merge(&tally.typical);
        outcome.client = outcome.client.plus(client);
        outcome.waits = outcome.waits.plus(waits);
    }
    outcome
}

/// Refuses cores that are not there or not this process's.
fn check_cores(plan: &Plan) -> Result<(), LoadError> {
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    match (plan.cores.iter()).find(|&&core| !usable.iter().any(|id| id.id == core)) {
        Some(&core) => Err(unusable(core)),
        None => Ok(()),
    }
}

fn unusable(core: usize) -> LoadError {
    let usable = core_affinity::get_core_ids().unwrap_or_default();
    LoadError::Core {
        core,
        usable: usable.into_iter().map(|id| id.id).collect(),
    }
}

/// Opens the connections that will carry nothing, within the start timeout.
fn open_idle(plan: &Plan, stop: &AtomicBool) -> Result<Vec<TcpStream>, LoadError> {
    let began = Instant::now();
    let mut open = Vec::with_capacity(plan.idle_connections);
    while open.len() < plan.idle_connections && !stop.load(Relaxed) {
        let left = plan.start_timeout.saturating_sub(began.elapsed());
        // connect_timeout refuses a timeout of zero.
        let connected = TcpStream::connect_timeout(&plan.address, left.max(RETRY))
            .and_then(|stream| stream.set_nonblocking(true).map(|()| stream));
        match connected {
            Ok(stream) => open.push(stream),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                return Err(descriptors::error(plan));
            }
            Err(cause) if left.is_zero() => {
                return Err(LoadError::Unreachable {
                    address: plan.address,
                    connected: open.len(),
                    wanted: plan.idle_connections,
                    waited: began.elapsed(),
                    cause,
                });
            }
            Err(_) => thread::sleep(RETRY),
        }
    }
    Ok(open)
}

/// The connection, if the server has neither closed it nor said anything.
fn still_open(mut stream: TcpStream) -> Option<TcpStream> {
    match stream.read(&mut [0]) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Some(stream),
        _ => None,
    }
}
