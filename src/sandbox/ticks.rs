//! How often this process was interrupted to look at its guests' watches, and what that costs.
//!
//! The kernel gives the time of an interrupt to whoever is interrupted, mostly the guest, so no clock
//! of ours tells the ticks' time from its. What one costs is measured instead, on a thread that does
//! nothing else, when somebody asks; how many there are is counted always.
//!
//! There are two kinds. A fine tick (see `beats`) has an interrupt to itself. A coarse one is a timer on
//! a CPU clock, which the kernel looks at in its own tick: that comes anyway, and what the coarse one
//! adds to it is its signal.

use super::beats::Beats;
use super::deadline;
use nix::sys::signal::{SigSet, raise};
use nix::unistd::getppid;
use std::cell::Cell;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Ticks of all threads so far. A signal handler adds to it.
static COUNT: AtomicU64 = AtomicU64::new(0);
/// Of those, the coarse ones.
static COARSE: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Whether this thread has fine ticks. Without a destructor and with a constant initial value,
    /// reading it is a plain memory access and so async-signal-safe.
    static FINE: Cell<bool> = const { Cell::new(false) };
}

/// Ticks that are measured: 10 ms of them.
const MEASURED: usize = 50;
const MEASURED_EVERY: Duration = Duration::from_micros(200);
/// Where the kernel brings none, it is not waited for longer.
const PATIENCE: Duration = Duration::from_millis(100);

/// One more. Async-signal-safe.
pub(super) fn count() {
    COUNT.fetch_add(1, Ordering::Relaxed);
    if !FINE.get() {
        COARSE.fetch_add(1, Ordering::Relaxed);
    }
}

/// The calling thread's ticks are fine ones from now on, or coarse ones again. Coarse ones that come
/// between rare fine ones (a quantum of more than 4 ms) count as such.
pub(super) fn are_fine(fine: bool) {
    FINE.set(fine);
}

/// Ticks in this process so far, of deadlines and of slices, on all its threads.
pub fn ticks() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// Of those, the coarse ones.
pub fn coarse_ticks() -> u64 {
    COARSE.load(Ordering::Relaxed)
}

/// What a fine tick takes from the thread that it interrupts, in nanoseconds: the timer's interrupt, the
/// signal's way to the handler and back, and under a hypervisor what that does meanwhile. What the guest
/// then does about it is not in it. The first call measures, for some 10 ms, on a thread of its own.
/// `None`: there is no timer to be had, or no tick came.
pub fn tick_ns() -> Option<u64> {
    static TICK_NS: OnceLock<Option<u64>> = OnceLock::new();
    *TICK_NS.get_or_init(|| apart(measure))
}

/// What a coarse tick takes from the thread that it interrupts, in nanoseconds, as [`tick_ns`] does for
/// a fine one: its signal's way to the handler and back, measured by one that the thread sends itself.
/// The kernel's look at the timer, in its own tick, is not in it. The first call takes some 100 µs.
pub fn coarse_tick_ns() -> Option<u64> {
    static TICK_NS: OnceLock<Option<u64>> = OnceLock::new();
    *TICK_NS.get_or_init(|| apart(measure_coarse))
}

/// What `measure` finds on a thread of its own.
fn apart(measure: fn() -> io::Result<Option<u64>>) -> Option<u64> {
    let measuring = thread::Builder::new().spawn(measure);
    measuring.ok()?.join().ok()?.ok()?
}

/// The calling thread hears ticks.
fn listen() -> io::Result<()> {
    deadline::install_handler()?;
    let mut signals = SigSet::empty();
    signals.add(deadline::SIGNAL);
    Ok(signals.thread_unblock()?)
}

/// The median of what a loop that reads the clock loses to each.
fn measure() -> io::Result<Option<u64>> {
    listen()?;
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

/// The median of what a signal takes, less that of a system call, which a tick is not.
fn measure_coarse() -> io::Result<Option<u64>> {
    listen()?;
    let median = |act: &dyn Fn() -> io::Result<()>| -> io::Result<Duration> {
        let mut took = Vec::with_capacity(MEASURED);
        for _ in 0..MEASURED {
            let begun = Instant::now();
            act()?;
            took.push(begun.elapsed());
        }
        took.sort_unstable();
        Ok(took[MEASURED / 2])
    };
    let signal = median(&|| Ok(raise(deadline::SIGNAL)?))?;
    let call = median(&|| {
        getppid();
        Ok(())
    })?;
    Ok(Some(signal.saturating_sub(call).as_nanos() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_tick_is_told_from_a_fine_one_and_takes_less() {
        let before = coarse_ticks();
        let ns = apart(measure_coarse).expect("a signal");
        assert!(coarse_ticks() - before >= MEASURED as u64);
        // Into the kernel and out of it twice at the least.
        assert!((100..1_000_000).contains(&ns), "{ns} ns");
        let fine = (0..100).find_map(|_| apart(measure)).expect("ticks come");
        assert!(ns < fine, "{ns} ns, and {fine} with an interrupt");
    }

    #[test]
    fn a_thread_whose_ticks_are_fine_counts_no_coarse_ones() {
        // Other tests' threads have ticks of their own.
        let coarse_of_this = |fine: bool| {
            let (all, coarse) = (ticks(), coarse_ticks());
            are_fine(fine);
            (0..1000).for_each(|_| count());
            are_fine(false);
            (ticks() - all, coarse_ticks() - coarse)
        };
        let (all, coarse) = coarse_of_this(true);
        assert!(all >= 1000 && coarse < 500, "{coarse} of {all}");
        let (_, coarse) = coarse_of_this(false);
        assert!(coarse >= 1000, "{coarse}");
    }

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
