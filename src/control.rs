//! What a server tells the laboratory that started it: one line in, one line of JSON out, over its
//! standard streams. The end of input is the end of the server, so that none outlives its
//! laboratory.

use std::io::{self, BufRead, Write};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::measure::cpu_clock;
use crate::measure::probe;
use crate::measure::reading::Reading;
use crate::sandbox;
use crate::server::Handle;
use crate::shard::{Figures, Stage};

/// A server at one moment.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Report {
    /// CLOCK_MONOTONIC, in nanoseconds.
    pub now_ns: u64,
    /// CPU time of the process, in nanoseconds: ended threads and the kernel's own io_uring workers
    /// are in it.
    pub cpu_ns: u64,
    /// Of that, the time of threads that do not serve: signals, this report, the kernel's workers.
    pub helpers_ns: u64,
    /// Of that, the time of threads that run handlers for the loops: the workers of `pool`, and the
    /// threads of `spawn`, ended ones among them.
    #[serde(default)]
    pub workers_ns: u64,
    /// What the shards counted.
    pub figures: Figures,
    /// Of that, the system calls, all together.
    pub system_calls: u64,
    /// Context switches because a thread waited.
    pub voluntary_switches: u64,
    /// Context switches because somebody else's turn had come.
    pub involuntary_switches: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
    /// Bytes of guests' memory put back: see [`sandbox::reset_bytes`].
    #[serde(default)]
    pub reset_bytes: u64,
    /// Interruptions of guests, and of whatever else their threads did: see [`sandbox::ticks`].
    #[serde(default)]
    pub ticks: u64,
    /// Of those, the coarse ones: see [`sandbox::coarse_ticks`].
    #[serde(default)]
    pub coarse_ticks: u64,
    /// Threads that were to time their page faults and could not, for want of memory to lock or of descriptors.
    #[serde(default)]
    pub untimed_threads: u64,
    /// What each of the others took, in nanoseconds: see [`sandbox::tick_ns`].
    #[serde(default)]
    pub tick_ns: Option<u64>,
    /// What each of the coarse ones took: see [`sandbox::coarse_tick_ns`].
    #[serde(default)]
    pub coarse_tick_ns: Option<u64>,
}

impl Report {
    /// CPU time of the ticks, in nanoseconds: as many of each kind as there were, at what one takes.
    /// `None`: nobody knows what that is.
    pub fn ticks_ns(&self) -> Option<u64> {
        let of = |ticks: u64, each: Option<u64>| match ticks {
            0 => Some(0),
            ticks => each.map(|each| each * ticks),
        };
        // The two are not read at one moment.
        let fine = of(self.ticks.saturating_sub(self.coarse_ticks), self.tick_ns)?;
        Some(fine + of(self.coarse_ticks, self.coarse_tick_ns)?)
    }

    /// What came since `earlier`.
    pub fn since(&self, earlier: &Report) -> Report {
        Report {
            now_ns: self.now_ns - earlier.now_ns,
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            helpers_ns: self.helpers_ns.saturating_sub(earlier.helpers_ns),
            workers_ns: self.workers_ns.saturating_sub(earlier.workers_ns),
            figures: self.figures.since(&earlier.figures),
            system_calls: self.system_calls - earlier.system_calls,
            voluntary_switches: self.voluntary_switches - earlier.voluntary_switches,
            involuntary_switches: self.involuntary_switches - earlier.involuntary_switches,
            minor_faults: self.minor_faults - earlier.minor_faults,
            major_faults: self.major_faults - earlier.major_faults,
            reset_bytes: self.reset_bytes - earlier.reset_bytes,
            ticks: self.ticks - earlier.ticks,
            coarse_ticks: self.coarse_ticks - earlier.coarse_ticks,
            untimed_threads: self.untimed_threads,
            tick_ns: self.tick_ns,
            coarse_tick_ns: self.coarse_tick_ns,
        }
    }

    /// Of two processes together, at the later of two moments.
    pub fn plus(&self, other: &Report) -> Report {
        Report {
            now_ns: self.now_ns.max(other.now_ns),
            cpu_ns: self.cpu_ns + other.cpu_ns,
            helpers_ns: self.helpers_ns + other.helpers_ns,
            workers_ns: self.workers_ns + other.workers_ns,
            figures: self.figures.plus(&other.figures),
            system_calls: self.system_calls + other.system_calls,
            voluntary_switches: self.voluntary_switches + other.voluntary_switches,
            involuntary_switches: self.involuntary_switches + other.involuntary_switches,
            minor_faults: self.minor_faults + other.minor_faults,
            major_faults: self.major_faults + other.major_faults,
            reset_bytes: self.reset_bytes + other.reset_bytes,
            ticks: self.ticks + other.ticks,
            coarse_ticks: self.coarse_ticks + other.coarse_ticks,
            untimed_threads: self.untimed_threads + other.untimed_threads,
            tick_ns: self.tick_ns.max(other.tick_ns),
            coarse_tick_ns: self.coarse_tick_ns.max(other.coarse_tick_ns),
        }
    }

    /// Of this process, which only helps others to serve.
    pub fn of_a_parent() -> Report {
        let cpu_ns = cpu_clock::own_process_ns();
        Report {
            helpers_ns: cpu_ns,
            ..Report::of_this_process(cpu_ns, Figures::default())
        }
    }

    fn of_a_server(handle: &Handle, helpers: &[i32]) -> Report {
        // The first time this takes a while, which is none of what is reported.
        let (tick_ns, coarse_tick_ns) = (sandbox::tick_ns(), sandbox::coarse_tick_ns());
        // The clock and the requests stand side by side: whatever delays one delays both.
        let serving = handle.serving_threads();
        let threads = cpu_clock::own_threads_ns();
        let (mut helpers_ns, mut workers_ns, mut alive_ns) = (0, 0, 0);
        for (thread, ns) in threads {
            alive_ns += ns;
            if helpers.contains(&thread) {
                helpers_ns += ns;
            } else if !serving.contains(&thread) {
                match whose(name(thread).trim_end()) {
                    Whose::Worker => workers_ns += ns,
                    Whose::Helper => helpers_ns += ns,
                    Whose::Unknown => {}
                }
            }
        }
        let cpu_ns = cpu_clock::own_process_ns();
        if handle.spawns() {
            // The process's clock keeps the time of threads that have ended.
            workers_ns += cpu_ns.saturating_sub(alive_ns);
        }
        let figures = handle.figures();
        Report {
            helpers_ns,
            workers_ns,
            untimed_threads: probe::threads_with_untimed_faults(),
            tick_ns,
            coarse_tick_ns,
            ..Report::of_this_process(cpu_ns, figures)
        }
    }

    /// But whose time is what.
    fn of_this_process(cpu_ns: u64, figures: Figures) -> Report {
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        let count = |read: fn(&nix::sys::resource::Usage) -> i64| {
            usage.as_ref().map_or(0, |usage| read(usage) as u64)
        };
        Report {
            now_ns: monotonic_ns(),
            cpu_ns,
            helpers_ns: 0,
            workers_ns: 0,
            figures,
            system_calls: figures.io.system_calls(),
            voluntary_switches: count(nix::sys::resource::Usage::voluntary_context_switches),
            involuntary_switches: count(nix::sys::resource::Usage::involuntary_context_switches),
            minor_faults: count(nix::sys::resource::Usage::minor_page_faults),
            major_faults: count(nix::sys::resource::Usage::major_page_faults),
            reset_bytes: sandbox::reset_bytes(),
            // In this order, so that the part is never more than the whole.
            coarse_ticks: sandbox::coarse_ticks(),
            ticks: sandbox::ticks(),
            untimed_threads: 0,
            tick_ns: None,
            coarse_tick_ns: None,
        }
    }
}

/// What threads are called that run handlers for the loops; those of a pool have numbers besides.
const WORKERS: [&str; 2] = ["worker ", "request"];

/// Who has a thread that does not serve.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Whose {
    /// It runs handlers for the loops.
    Worker,
    /// It is one of [`HELPERS`], or the kernel's own for a ring.
    Helper,
    /// Nobody says: what it takes is unexplained.
    Unknown,
}

/// Of a thread of that name.
fn whose(name: &str) -> Whose {
    if WORKERS.iter().any(|worker| name.starts_with(worker)) {
        Whose::Worker
    } else if HELPERS.contains(&name) || name.starts_with("iou-") {
        Whose::Helper
    } else {
        Whose::Unknown
    }
}

/// The name of a thread of this process; none if it has ended. Those that the kernel runs for a ring
/// are called `iou-` and more.
fn name(thread: i32) -> String {
    std::fs::read_to_string(format!("/proc/self/task/{thread}/comm")).unwrap_or_default()
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    // This clock always exists; reading it cannot fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

/// Names of the threads of a server that do not serve, besides the main thread.
pub const HELPERS: [&str; 6] = ["control", "signals", "swap", "socket", "watch", "compile"];

/// Starts the helper of that name, one of [`HELPERS`].
///
/// # Panics
/// The kernel has no thread left, of which a server at its start needs many more.
pub fn helper(name: &str, work: impl FnOnce() + Send + 'static) {
    let born = std::thread::Builder::new()
        .name(name.to_string())
        .spawn(work);
    born.expect("a thread for a helper; raise `ulimit -u`");
}

/// The processes of a server.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Processes {
    /// Their ids; of a cluster, the parent's first.
    pub pids: Vec<i32>,
    /// Their memory together, in bytes: resident pages, each divided by the number of processes that
    /// share it (PSS; /proc/PID/smaps_rollup, Linux 4.14).
    pub memory_bytes: Reading<u64>,
}

impl Processes {
    /// The calling one.
    pub fn this_one() -> Processes {
        let rollup = procfs::process::Process::myself().and_then(|this| this.smaps_rollup());
        let memory_bytes = match rollup {
            Ok(rollup) => {
                let maps = rollup.memory_map_rollup;
                let pss = maps.iter().find_map(|map| map.extension.map.get("Pss"));
                pss.map_or_else(
                    || Reading::missing("/proc/PID/smaps_rollup has no Pss"),
                    |&bytes| Reading::Value(bytes),
                )
            }
            Err(error) => Reading::missing(format!("/proc/PID/smaps_rollup: {error}")),
        };
        Processes {
            pids: vec![nix::unistd::getpid().as_raw()],
            memory_bytes,
        }
    }

    /// These and those.
    pub fn plus(mut self, other: Processes) -> Processes {
        self.pids.extend(other.pids);
        let sum = |bytes| other.memory_bytes.map(|more| bytes + more);
        self.memory_bytes = self.memory_bytes.and_then(sum);
        self
    }
}

/// Whoever answers for a server.
pub trait Answers: Send + 'static {
    /// What it has done so far.
    ///
    /// # Errors
    /// A process of the server does not answer.
    fn report(&mut self) -> io::Result<Report>;

    /// Which processes it has, and their memory.
    ///
    /// # Errors
    /// As above.
    fn processes(&mut self) -> io::Result<Processes>;

    /// Nobody asks any more: it drains.
    fn end(&mut self);
}

/// Answers for the server in this process.
pub struct Single {
    handle: Handle,
    /// The thread that waits for the server's end.
    waiter: i32,
}

impl Single {
    /// To be made by the thread that waits for the server's end; it and the one that answers count as
    /// helpers.
    pub fn new(handle: Handle) -> Single {
        let waiter = nix::unistd::gettid().as_raw();
        Single { handle, waiter }
    }
}

impl Answers for Single {
    fn report(&mut self) -> io::Result<Report> {
        let helpers = [self.waiter, nix::unistd::gettid().as_raw()];
        Ok(Report::of_a_server(&self.handle, &helpers))
    }

    fn processes(&mut self) -> io::Result<Processes> {
        Ok(Processes::this_one())
    }

    fn end(&mut self) {
        self.handle.advance(Stage::Draining);
    }
}

/// Tells whoever started this process what it did, when nothing more will be.
pub fn last_words(figures: &Figures) {
    // Whoever does not listen has ended.
    let _ = writeln!(io::stdout(), "{}", to_json(figures));
}

/// Answers until standard input ends, on a thread of its own: `processes` with a [`Processes`],
/// everything else with a [`Report`]; then ends the server.
pub fn answer(mut server: impl Answers) {
    helper(HELPERS[0], move || {
        for line in io::stdin().lock().lines() {
            let Ok(line) = line else { break };
            let answer = match line.trim() {
                "processes" => server.processes().map(|answer| to_json(&answer)),
                _ => server.report().map(|answer| to_json(&answer)),
            };
            let told = answer.and_then(|answer| writeln!(io::stdout(), "{answer}"));
            if told.is_err() {
                break;
            }
        }
        server.end();
    });
}

fn to_json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).expect("an answer is plain data")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// By the names that they really have.
    #[test]
    fn helpers_are_told_from_workers_and_from_who_serves() {
        for helps in HELPERS {
            let (tell, told) = mpsc::channel();
            helper(helps, move || {
                let name = name(nix::unistd::gettid().as_raw());
                tell.send(name).expect("it is waited for");
            });
            let name = told.recv().expect("it tells");
            assert_eq!(whose(name.trim_end()), Whose::Helper, "{name:?}");
        }
        for (name, expected) in [
            ("iou-wrk-1234", Whose::Helper),
            ("iou-sqp-1234", Whose::Helper),
            ("worker 3", Whose::Worker),
            ("request", Whose::Worker),
            ("shard 0", Whose::Unknown),
            ("watchful", Whose::Unknown),
            ("", Whose::Unknown),
        ] {
            assert_eq!(whose(name), expected, "{name}");
        }
    }
}
