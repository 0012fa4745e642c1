//! What the kernel counts of a server, in stretches between the warm-up and the window.
//!
//! Nothing of it is left when the window opens, so no figure of time is taken while somebody counts.
//! Two stretches, one after the other: system calls, switches and faults; then, where the processor
//! has counters, cycles and the like, which would count the tracing too.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::ExperimentError;
use super::child::Server;
use super::counts;
use super::plan::Arm;
use crate::control::{HELPERS, Report};
use crate::measure::perf::{Counted, Counters, Selection};

/// How long connections may take to be accepted before anything is counted: a thread that is born
/// with a dozen counters takes a millisecond or two, and makes calls that nobody counts.
const SETTLING: Duration = Duration::from_millis(150);
/// How long the kernel counts, in either stretch.
const STRETCH: Duration = Duration::from_millis(150);
/// Until tracepoints are gone: the kernel waits some 40 ms for each, and an arm has 10 to 18.
const DETACHING: Duration = Duration::from_millis(700);
/// What a counting block takes longer than another, without the processor's counters.
pub(super) const CALLS_COUNTED: Duration =
    SETTLING.saturating_add(STRETCH).saturating_add(DETACHING);
/// The same with them: the most that it takes.
pub(super) const ALL_COUNTED: Duration = CALLS_COUNTED
    .saturating_add(SETTLING)
    .saturating_add(STRETCH);

/// One stretch, by the program's count and the kernel's.
///
/// Both cannot be read at one moment. So the program is asked before and after the kernel is, at
/// either end: what the kernel counted lies between two counts of the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stretch {
    /// From after the kernel's first reading to before its last: not more than what it counted.
    pub least: Report,
    /// From before its first reading to after its last: not less than what it counted.
    pub most: Report,
    /// The kernel's count.
    pub kernel: Counted,
}

impl Stretch {
    /// Where the kernel counts nothing: why not, beside what the program counted in the window.
    fn none(window: &Report, counters: Option<Counters>) -> Self {
        Self {
            least: *window,
            most: *window,
            kernel: counters.map_or_else(Counted::default, |mut counters| counters.take()),
        }
    }
}

/// Counts before the window opens, and is gone when it does.
pub(super) struct Tracer {
    /// Of system calls, switches and faults.
    calls: Option<Counters>,
    /// Of the processor.
    work: Option<Counters>,
    /// Waits for the kernel to take the counters off.
    detaching: Option<thread::JoinHandle<()>>,
    counted_calls: Option<Stretch>,
    counted_work: Option<Stretch>,
}

impl Tracer {
    /// Attaches to the threads that serve `arm`, so that the laboratory's own questions are not counted.
    pub(super) fn attach(server: &mut Server, arm: &Arm) -> Result<Self, ExperimentError> {
        // Whoever answers has all its helpers, and they have their names.
        server.report()?;
        let pids = server.pids();
        let helps = |tid: i32, name: &str| pids.contains(&tid) || HELPERS.contains(&name);
        let calls = Selection {
            software: true,
            ..Selection::calls(&counts::kernel_names(arm))
        };
        let attach = |selection| Some(Counters::attach_but(pids, helps, selection));
        Ok(Self {
            calls: attach(&calls),
            work: attach(&Selection::processor()),
            detaching: None,
            counted_calls: None,
            counted_work: None,
        })
    }

    /// How much later the window opens for it.
    pub(super) fn takes(&self) -> Duration {
        let counts =
            |counters: &Option<Counters>| counters.as_ref().is_some_and(Counters::is_counting);
        let calls = u32::from(counts(&self.calls));
        let work = u32::from(counts(&self.work));
        CALLS_COUNTED * calls + (SETTLING + STRETCH) * work
    }

    /// Counts one stretch after the other, when it is called first; then detaches, the tracepoints on
    /// a thread of their own. `None` if the server is gone.
    pub(super) fn count(&mut self, server: &mut Server) -> Option<()> {
        let counts = |counters: &mut Counters| counters.is_counting();
        if let Some(counters) = self.calls.take_if(counts) {
            settle(server)?;
            let (counted, counters) = count(counters, server)?;
            self.counted_calls = Some(counted);
            self.detaching = Some(thread::spawn(move || drop(counters)));
        }
        if let Some(counters) = self.work.take_if(counts) {
            self.detach();
            settle(server)?;
            self.counted_work = Some(count(counters, server)?.0);
        }
        Some(())
    }

    /// Returns when nothing is counted any more.
    pub(super) fn detach(&mut self) {
        if let Some(detaching) = self.detaching.take() {
            // It does nothing that could panic, and the window may open in any case.
            let _ = detaching.join();
        }
    }

    /// What was counted: system calls, switches and faults; and what the processor did.
    pub(super) fn counted(self, window: &Report) -> (Stretch, Stretch) {
        let calls = self.counted_calls;
        let work = self.counted_work;
        (
            calls.unwrap_or_else(|| Stretch::none(window, self.calls)),
            work.unwrap_or_else(|| Stretch::none(window, self.work)),
        )
    }
}

/// One stretch, and its counters to be taken off.
fn count(mut counters: Counters, server: &mut Server) -> Option<(Stretch, Counters)> {
    let mut end = || {
        Some((
            server.report().ok()?,
            counters.take(),
            server.report().ok()?,
        ))
    };
    let (before, _, began) = end()?;
    thread::sleep(STRETCH);
    let (ended, kernel, after) = end()?;
    let stretch = Stretch {
        least: ended.since(&began),
        most: after.since(&before),
        kernel,
    };
    Some((stretch, counters))
}

/// Waits until no more connections are being accepted, or for as long as [`SETTLING`]. `None` if the
/// server is gone.
fn settle(server: &mut Server) -> Option<()> {
    const BETWEEN: Duration = Duration::from_millis(10);
    let start = Instant::now();
    let mut before = None;
    while start.elapsed() < SETTLING {
        let accepted = Some(server.report().ok()?.figures.served.accepted);
        if accepted == before {
            break;
        }
        before = accepted;
        thread::sleep(BETWEEN);
    }
    Some(())
}
