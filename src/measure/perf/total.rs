//! A counter summed over the threads of a process, and counters that took turns.
//!
//! A PMU has some four to eight counters. When more are wanted the kernel lets them take turns and
//! tells how long each was wanted (enabled) and how long it counted (running); count × enabled /
//! running is an estimate of the whole (perf_event_open(2)). Software events and tracepoints never
//! wait for a turn.

use std::io;

use perf_event::Counter;

use crate::measure::reading::Reading;

/// Sums over threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) count: u64,
    /// Time in which the threads ran and wanted to be counted.
    pub(super) enabled_ns: u64,
    /// Time of it in which they were counted.
    pub(super) running_ns: u64,
}

impl Total {
    pub(super) fn read(threads: &mut [Counter]) -> io::Result<Self> {
        let mut total = Self::default();
        for thread in threads {
            let read = thread.read_count_and_time()?;
            total.count += read.count;
            total.enabled_ns += read.time_enabled;
            total.running_ns += read.time_running;
        }
        Ok(total)
    }

    pub(super) fn since(&self, earlier: &Self) -> Self {
        Self {
            count: self.count.saturating_sub(earlier.count),
            enabled_ns: self.enabled_ns.saturating_sub(earlier.enabled_ns),
            running_ns: self.running_ns.saturating_sub(earlier.running_ns),
        }
    }

    /// The part of the time that was counted, 0 to 1; below 1 the count is an estimate. Threads
    /// that never ran missed nothing.
    pub(super) fn share_of_time(&self) -> f64 {
        if self.enabled_ns == 0 {
            return 1.0;
        }
        self.running_ns as f64 / self.enabled_ns as f64
    }

    /// The count for the whole time.
    pub(super) fn estimate(&self) -> Reading<u64> {
        if self.running_ns >= self.enabled_ns {
            return Reading::Value(self.count);
        }
        if self.running_ns == 0 {
            return Reading::missing(
                "the PMU never had room for this counter: stop what else uses it, as `perf`",
            );
        }
        let product = u128::from(self.count) * u128::from(self.enabled_ns);
        Reading::Value((product / u128::from(self.running_ns)) as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: u64, enabled_ns: u64, running_ns: u64, share: f64, expected: Option<u64>) {
        let total = Total {
            count,
            enabled_ns,
            running_ns,
        };
        assert_eq!(total.share_of_time(), share, "{total:?}");
        assert_eq!(total.estimate().value().copied(), expected, "{total:?}");
    }

    #[test]
    fn a_counter_that_took_turns_is_scaled_and_one_without_a_turn_is_missing() {
        check(500, 1_000_000, 1_000_000, 1.0, Some(500));
        check(0, 1_000_000, 1_000_000, 1.0, Some(0));
        check(500, 1_000_000, 250_000, 0.25, Some(2000));
        check(0, 1_000_000, 0, 0.0, None);
        check(0, 0, 0, 1.0, Some(0));
        check(1 << 62, 3 << 40, 2 << 40, 2.0 / 3.0, Some(3 << 61));
    }
}
