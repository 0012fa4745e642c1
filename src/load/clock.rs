//! The generator's clocks: monotonic time, and what a thread has cost so far.
//!
//! Only `worker` and `run` read them. `client`, `response` and `schedule` get
//! the time as an argument, so that their tests need no waiting.

use nix::sys::resource::{UsageWho, getrusage};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`, read without a system call on the usual
/// clock sources (vdso(7)).
#[inline]
pub fn monotonic_ns() -> u64 {
    read(ClockId::CLOCK_MONOTONIC)
}

/// What the calling thread has used since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ThreadUsage {
    /// `CLOCK_THREAD_CPUTIME_ID`: exact, not sampled by the tick.
    pub cpu_ns: u64,
    /// Times the thread gave the core away by waiting (getrusage(2), `RUSAGE_THREAD`).
    pub voluntary_switches: u64,
    /// Times the core was taken from it: somebody else ran there.
    pub involuntary_switches: u64,
}

impl ThreadUsage {
    /// Reads the calling thread's clock and counts: two system calls.
    pub fn now() -> Self {
        // RUSAGE_THREAD with a valid pointer cannot fail since Linux 2.6.26.
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("getrusage of the calling thread");
        Self {
            cpu_ns: read(ClockId::CLOCK_THREAD_CPUTIME_ID),
            voluntary_switches: usage.voluntary_context_switches() as u64,
            involuntary_switches: usage.involuntary_context_switches() as u64,
        }
    }

    /// What was used since `earlier`, a reading of the same thread.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            voluntary_switches: self.voluntary_switches - earlier.voluntary_switches,
            involuntary_switches: self.involuntary_switches - earlier.involuntary_switches,
        }
    }

    /// The sum of two threads' use.
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu_ns: self.cpu_ns + other.cpu_ns,
            voluntary_switches: self.voluntary_switches + other.voluntary_switches,
            involuntary_switches: self.involuntary_switches + other.involuntary_switches,
        }
    }
}

#[inline]
fn read(clock: ClockId) -> u64 {
    // Both clocks exist on every Linux; clock_gettime(2) has no other error here.
    let time = clock_gettime(clock).expect("clock_gettime of a clock that always exists");
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}
