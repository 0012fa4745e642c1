//! How often this process was interrupted to look at its guests' watches, and what that costs.
//!
//! The kernel gives the time of an interrupt to whoever is interrupted, mostly the guest, so no clock
//! of ours tells the ticks' time from its. What one costs is measured instead, on a thread that does
//! nothing else, when somebody asks; how many there are is counted always.

use super::beats::Beats;
use super::deadline;
use nix::sys::signal::SigSet;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Ticks of all threads so far. A signal handler adds to it.
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Ticks that are measured: 10 ms of them.
const MEASURED: usize = 50;
const MEASURED_EVERY: Duration = Duration::from_micros(200);
/// Where the kernel brings none, it is not waited for longer.
const PATIENCE: Duration = Duration::from_millis(100);

/// One more. Async-signal-safe.
pub(super) fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
}

/// Ticks in this process so far, of deadlines and of slices, on all its threads.
pub fn ticks() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// What a fine tick takes from the thread that it interrupts, in nanoseconds: the timer's interrupt, the
/// signal's way to the handler and back, and under a hypervisor what that does meanwhile. What the guest
/// then does about it is not in it. The first call measures, for some 10 ms, on a thread of its own.
/// `None`: there is no timer to be had, or no tick came.
pub fn tick_ns() -> Option<u64> {
    static TICK_NS: OnceLock<Option<u64>> = OnceLock::new();
    *TICK_NS.get_or_init(|| {
        let measuring = thread::Builder::new().spawn(measure);
        measuring.ok()?.join().ok()?.ok()?
    })
}

/// The median of what a loop that reads the clock loses to each.
fn measure() -> io::Result<Option<u64>> {
    deadline::install_handler()?;
    let mut signals = SigSet::empty();
    signals.add(deadline::SIGNAL);
    signals.thread_unblock()?;
    let mut beats = Beats::new()?;
    beats.set(MEASURED_EVERY)?;
    let begun = Instant::now();
    let mut lost = Vec::with_capacity(MEASURED);
    let (mut before, mut last, mut seen) = (begun, begun, ticks());
    while lost.len() < MEASURED && last.duration_since(begun) < PATIENCE {
        let count = ticks();
        let now = Instant::now();
        if count != seen {
            // It came after the count was read last: before the clock was, or after.
            lost.push(now.duration_since(before));
            seen = count;
        }
        (before, last) = (last, now);
    }
    lost.sort_unstable();
    Ok(lost.get(lost.len() / 2).map(|lost| lost.as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_counted_and_takes_some_time() {
        let before = ticks();
        // A thread that does not get a core in time sees few of them, or none: it looks again.
        let all_came = || {
            let before = ticks();
            let ns = measure().expect("a timer");
            ns.filter(|_| ticks() - before >= MEASURED as u64)
        };
        let ns = (0..100).find_map(|_| all_came()).expect("ticks come");
        assert!(ticks() > before);
        // Two switches between user and kernel at the least, and no time slice of another's.
        assert!((100..1_000_000).contains(&ns), "{ns} ns");
    }
}
