//! What a server tells the laboratory that started it: one line in, one line of JSON out, over its
//! standard streams. The end of input is the end of the server, so that none outlives its
//! laboratory.

use std::io::{BufRead, Write};

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::measure::cpu_clock;
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
    /// What the shards counted.
    pub figures: Figures,
    /// Context switches because a thread waited.
    pub voluntary_switches: u64,
    /// Context switches because somebody else's turn had come.
    pub involuntary_switches: u64,
    /// Page faults without I/O.
    pub minor_faults: u64,
    /// Page faults with I/O.
    pub major_faults: u64,
}

impl Report {
    /// What came since `earlier`.
    pub fn since(&self, earlier: &Report) -> Report {
        Report {
            now_ns: self.now_ns - earlier.now_ns,
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            helpers_ns: self.helpers_ns.saturating_sub(earlier.helpers_ns),
            figures: self.figures.since(&earlier.figures),
            voluntary_switches: self.voluntary_switches - earlier.voluntary_switches,
            involuntary_switches: self.involuntary_switches - earlier.involuntary_switches,
            minor_faults: self.minor_faults - earlier.minor_faults,
            major_faults: self.major_faults - earlier.major_faults,
        }
    }

    fn of_this_process(handle: &Handle, helpers: &[i32]) -> Report {
        let usage = getrusage(UsageWho::RUSAGE_SELF);
        let count = |read: fn(&nix::sys::resource::Usage) -> i64| {
            usage.as_ref().map_or(0, |usage| read(usage) as u64)
        };
        // The clock and the requests stand side by side: whatever delays one delays both.
        let serving = handle.serving_threads();
        let threads = cpu_clock::own_threads_ns();
        let helps = |thread: i32| helpers.contains(&thread) || is_kernel_worker(thread, &serving);
        let helpers_ns = threads
            .iter()
            .filter(|(thread, _)| helps(*thread))
            .map(|(_, ns)| ns)
            .sum();
        let cpu_ns = cpu_clock::own_process_ns();
        let figures = handle.figures();
        Report {
            now_ns: monotonic_ns(),
            cpu_ns,
            helpers_ns,
            figures,
            voluntary_switches: count(nix::sys::resource::Usage::voluntary_context_switches),
            involuntary_switches: count(nix::sys::resource::Usage::involuntary_context_switches),
            minor_faults: count(nix::sys::resource::Usage::minor_page_faults),
            major_faults: count(nix::sys::resource::Usage::major_page_faults),
        }
    }
}

/// Whether a thread is one of those that the kernel runs for a ring.
fn is_kernel_worker(thread: i32, serving: &[i32]) -> bool {
    let name = || std::fs::read_to_string(format!("/proc/self/task/{thread}/comm"));
    !serving.contains(&thread) && name().is_ok_and(|name| name.starts_with("iou-"))
}

/// CLOCK_MONOTONIC, in nanoseconds.
pub fn monotonic_ns() -> u64 {
    // This clock always exists; reading it cannot fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
    })
}

/// Names of the threads of a server that do not serve, besides the main thread.
pub const HELPERS: [&str; 2] = ["control", "signals"];

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

/// Answers until standard input ends, on a thread of its own; then drains the server. The calling
/// thread and that one count as helpers.
pub fn answer(handle: Handle) {
    let asker = nix::unistd::gettid().as_raw();
    helper(HELPERS[0], move || {
        let helpers = [asker, nix::unistd::gettid().as_raw()];
        for line in std::io::stdin().lock().lines() {
            if line.is_err() {
                break;
            }
            let report = Report::of_this_process(&handle, &helpers);
            let line = serde_json::to_string(&report).expect("a report is plain data");
            if writeln!(std::io::stdout(), "{line}").is_err() {
                break;
            }
        }
        handle.advance(Stage::Draining);
    });
}
