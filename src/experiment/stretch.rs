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
use crate::measure::perf::{Counted, Counters};
use crate::served::ServedSnapshot;

/// How long connections may take to be accepted before anything is counted: a thread that is born
/// with a dozen counters takes a millisecond or two, and makes calls that only the kernel counts. While many
/// threads want the same core a question alone may wait for a tenth of a second.
const SETTLING: Duration = Duration::from_millis(300);
/// Requests on each connection, on average, by which a thread that was born for one has begun.
const BEGINNING: u64 = 4;
/// How long the kernel counts, in either stretch.
const STRETCH: Duration = Duration::from_millis(150);
/// Until tracepoints are gone: the kernel waits some 40 ms for each, and an arm has 10 to 18.
const DETACHING: Duration = Duration::from_millis(700);
/// For so long after the last counter of a thread is gone the kernel still calls perf at each switch between
/// threads: it takes that back a second later (`perf_sched_work`, kernel/events/core.c, Linux 6.18). Where
/// threads switch at each request that would be a part of the window's cost, and of no block's but this.
pub const LINGERING: Duration = Duration::from_millis(1_100);
/// What a counting block takes longer than another, without the processor's counters.
pub(super) const CALLS_COUNTED: Duration =
    SETTLING.saturating_add(STRETCH).saturating_add(DETACHING);
/// The same with them, and until nothing lingers: the most that it takes.
pub(super) const ALL_COUNTED: Duration = CALLS_COUNTED
    .saturating_add(SETTLING)
    .saturating_add(STRETCH)
    .saturating_add(LINGERING);

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
    /// Connections of which some were perhaps not served yet when it began: all or none.
    #[serde(default)]
    pub unsettled: u64,
}

impl Stretch {
    /// Where the kernel counts nothing: why not, beside what the program counted in the window.
    fn none(window: &Report, counters: Option<Counters>) -> Self {
        Self {
            least: *window,
            most: *window,
            kernel: counters.map_or_else(Counted::default, |mut counters| counters.take()),
            unsettled: 0,
        }
    }
}

/// Counts before the window opens, and is gone when it does.
pub(super) struct Tracer {
    /// Of system calls, switches and faults.
    calls: Option<Counters>,
    /// Of the processor.
    work: Option<Counters>,
    /// How many connections there will be.
    connections: u64,
    /// Waits for the kernel to take the counters off.
    detaching: Option<thread::JoinHandle<()>>,
    /// When the last of them was gone.
    gone: Option<Instant>,
    /// Whether anything is held against the window.
    is_priced: bool,
    counted_calls: Option<Stretch>,
    counted_work: Option<Stretch>,
}

impl Tracer {
    /// Attaches to the threads that serve `arm`, so that the laboratory's own questions are not counted.
    /// Nothing is counted before there are so many `connections`. The window `is_priced` if others are held
    /// against it.
    pub(super) fn attach(
        server: &mut Server,
        arm: &Arm,
        connections: u64,
        is_priced: bool,
    ) -> Result<Self, ExperimentError> {
        // Whoever answers has all its helpers, and they have their names.
        server.report()?;
        let pids = server.pids();
        let helps = |tid: i32, name: &str| pids.contains(&tid) || HELPERS.contains(&name);
        let attach = |selection| Some(Counters::attach_but(pids, helps, selection));
        let [calls, work] = counts::selections(arm);
        Ok(Self {
            calls: attach(&calls),
            work: attach(&work),
            connections,
            detaching: None,
            gone: None,
            is_priced,
            counted_calls: None,
            counted_work: None,
        })
    }

    /// How much later the window opens for it, if nothing is held against it.
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
            let unsettled = settle(server, self.connections)?;
            let (counted, counters) = count(counters, server, unsettled)?;
            self.counted_calls = Some(counted);
            self.detaching = Some(thread::spawn(move || drop(counters)));
        }
        if let Some(counters) = self.work.take_if(counts) {
            self.detach();
            let unsettled = settle(server, self.connections)?;
            self.counted_work = Some(count(counters, server, unsettled)?.0);
            self.gone = Some(Instant::now());
        }
        Some(())
    }

    /// Returns when nothing is counted any more.
    fn detach(&mut self) {
        if let Some(detaching) = self.detaching.take() {
            // It does nothing that could panic, and the window may open in any case.
            let _ = detaching.join();
            self.gone = Some(Instant::now());
        }
    }

    /// Returns when nothing is left of it, as far as it matters: at once, if there was time enough.
    pub(super) fn rest(&mut self) {
        self.detach();
        if let Some(gone) = self.gone.filter(|_| self.is_priced) {
            thread::sleep(LINGERING.saturating_sub(gone.elapsed()));
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

/// One stretch, which begins while so many connections are perhaps not served yet, and its counters to be
/// taken off.
fn count(
    mut counters: Counters,
    server: &mut Server,
    unsettled: u64,
) -> Option<(Stretch, Counters)> {
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
        unsettled,
    };
    Some((stretch, counters))
}

/// Waits until so many `connections` are being served, or for as long as [`SETTLING`]: how many are perhaps not
/// then. `None` if the server is gone.
fn settle(server: &mut Server, connections: u64) -> Option<u64> {
    const BETWEEN: Duration = Duration::from_millis(10);
    let start = Instant::now();
    let mut arrivals = Arrivals::of(connections);
    loop {
        if arrivals.are_served(&server.report().ok()?.figures.served) {
            return Some(0);
        }
        if start.elapsed() >= SETTLING {
            return Some(connections);
        }
        thread::sleep(BETWEEN);
    }
}

/// Connections that are accepted one by one, each perhaps by a thread that is born for it.
struct Arrivals {
    connections: u64,
    /// Requests that were answered when the last was accepted.
    answered: Option<u64>,
}

impl Arrivals {
    fn of(connections: u64) -> Arrivals {
        Arrivals {
            connections,
            answered: None,
        }
    }

    /// Whether all have come, and whoever serves the last has had time to begin.
    fn are_served(&mut self, served: &ServedSnapshot) -> bool {
        if served.accepted < self.connections {
            return false;
        }
        let answered = *self.answered.get_or_insert(served.answered);
        served.answered - answered >= BEGINNING * self.connections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_came_is_waited_for_and_what_it_takes_to_begin() {
        let mut arrivals = Arrivals::of(64);
        let mut are_served = |accepted, answered| {
            arrivals.are_served(&ServedSnapshot {
                accepted,
                answered,
                ..ServedSnapshot::default()
            })
        };
        assert!(!are_served(63, 9_000));
        assert!(!are_served(63, 19_000), "one does not come soon");
        assert!(!are_served(64, 19_010));
        assert!(!are_served(64, 19_010 + 4 * 64 - 1));
        assert!(are_served(64, 19_010 + 4 * 64));
        let nobody_comes = Arrivals::of(0).are_served(&ServedSnapshot::default());
        assert!(nobody_comes);
    }

    #[test]
    fn a_window_opens_when_nothing_of_the_counting_lingers() {
        const LEFT: Duration = Duration::from_millis(60);
        let tracer = |gone: Option<Instant>, detaching: Option<Duration>| Tracer {
            calls: None,
            work: None,
            connections: 0,
            detaching: detaching.map(|time| thread::spawn(move || thread::sleep(time))),
            gone,
            is_priced: true,
            counted_calls: None,
            counted_work: None,
        };
        let rests = |mut tracer: Tracer| {
            let started = Instant::now();
            tracer.rest();
            started.elapsed()
        };
        let now = Instant::now();
        let before = now.checked_sub(LINGERING - LEFT);
        assert!(rests(tracer(before, None)) + now.elapsed() >= LEFT);
        // Who is still detached is gone later.
        assert!(rests(tracer(None, Some(LEFT))) >= LEFT + LINGERING);
        assert!(rests(tracer(None, None)) < LINGERING, "nobody counted");
        let unpriced = Tracer {
            is_priced: false,
            ..tracer(Some(Instant::now()), None)
        };
        assert!(rests(unpriced) < LINGERING, "nobody asks for a price");
        assert!(ALL_COUNTED >= CALLS_COUNTED + LINGERING);
    }
}
