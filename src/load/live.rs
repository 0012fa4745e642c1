//! Totals that can be read while the run goes on.
//!
//! Each thread alone writes its own [`Live`]; others read it, relaxed. So a
//! count is a plain load and store, with no locked instruction and no shared
//! cache line on the request's path. The percentiles here are for a progress
//! line only (buckets of 6 %); results come from the histograms.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per doubling.
const STEPS: u64 = 16;
/// Values below [`STEPS`] have a bucket each, then [`STEPS`] per doubling.
const BUCKETS: usize = 61 * STEPS as usize;

/// One thread's running totals.
#[derive(Debug)]
#[repr(align(128))] // two cache lines: the adjacent-line prefetcher pairs them
pub struct Live {
    pub sent: Count,
    pub answered: Count,
    pub failed: Count,
    /// Connections that are open now.
    pub open: Count,
    latency: Box<[Count]>,
}

/// A number with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Adds; only the writing thread may call it.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0
            .store(self.0.load(Relaxed).wrapping_add(more), Relaxed);
    }

    /// Sets; only the writing thread may call it.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }
}

impl Default for Live {
    fn default() -> Self {
        Self {
            sent: Count::default(),
            answered: Count::default(),
            failed: Count::default(),
            open: Count::default(),
            latency: (0..BUCKETS).map(|_| Count::default()).collect(),
        }
    }
}

impl Live {
    /// Notes a latency of the measured window.
    #[inline]
    pub fn record(&self, latency_ns: u64) {
        self.latency[bucket_of(latency_ns)].add(1);
    }
}

/// Where in the run a moment lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    WarmUp,
    Window,
    /// Nothing is sent any more; answers to what was sent are awaited.
    Drain,
}

/// The run so far, over all threads of all classes. Totals are of the whole run.
#[derive(Clone, Debug)]
pub struct Progress {
    pub phase: Phase,
    /// Since the start of the warm-up.
    pub elapsed: Duration,
    /// Warm-up and window together, as planned.
    pub planned: Duration,
    pub sent: u64,
    pub answered: u64,
    pub failed: u64,
    pub open_connections: u64,
    /// Median latency in the window so far, within 6 %; `None` before the
    /// first answer of the window.
    pub latency_ns_p50: Option<u64>,
    /// Likewise, once the window holds 1 000 answers.
    pub latency_ns_p99: Option<u64>,
}

impl Progress {
    /// Sums up the threads' totals.
    pub(super) fn of(
        lives: &[Vec<Live>],
        phase: Phase,
        elapsed: Duration,
        planned: Duration,
    ) -> Self {
        let lives = || lives.iter().flatten();
        let sum = |field: fn(&Live) -> &Count| lives().map(|live| field(live).get()).sum();
        let mut merged = vec![0; BUCKETS];
        for live in lives() {
            for (sum, bucket) in merged.iter_mut().zip(&live.latency) {
                *sum += bucket.get();
            }
        }
        Self {
            phase,
            elapsed,
            planned,
            sent: sum(|live| &live.sent),
            answered: sum(|live| &live.answered),
            failed: sum(|live| &live.failed),
            open_connections: sum(|live| &live.open),
            latency_ns_p50: quantile(&merged, 0.50, 1),
            latency_ns_p99: quantile(&merged, 0.99, 1000),
        }
    }
}

/// The value below which the share `q` of at least `least` samples lies.
fn quantile(buckets: &[u64], q: f64, least: u64) -> Option<u64> {
    let total: u64 = buckets.iter().sum();
    if total < least {
        return None;
    }
    let rank = (q * total as f64).ceil().max(1.0) as u64;
    let mut below = 0;
    let bucket = buckets.iter().position(|count| {
        below += count;
        below >= rank
    })?;
    Some(value_of(bucket))
}

#[inline]
fn bucket_of(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let doubling = u64::from(value.ilog2());
    ((doubling - 3) * STEPS + (value >> (doubling - 4)) % STEPS) as usize
}

/// The lowest value of a bucket.
fn value_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    (STEPS + bucket % STEPS) << (bucket / STEPS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_a_bucket_at_most_6_percent_wide() {
        for value in (0..64)
            .flat_map(|shift| {
                [
                    1_u64 << shift,
                    (1 << shift) | (1 << shift >> 1),
                    (1 << shift) - 1,
                ]
            })
            .chain([u64::MAX, 1_000_000])
        {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS, "{value}");
            let low = value_of(bucket);
            assert!(
                low <= value && value - low <= value / STEPS,
                "{value} in {low}"
            );
            assert_eq!(bucket_of(low), bucket, "{value}");
        }
    }

    #[test]
    fn progress_sums_threads_and_gives_no_percentile_without_samples() {
        let lives = [vec![Live::default()], vec![Live::default()]];
        let progress = || {
            Progress::of(
                &lives,
                Phase::Window,
                Duration::ZERO,
                Duration::from_secs(1),
            )
        };
        assert_eq!(progress().latency_ns_p50, None);
        for latency in 1..=1000 {
            lives[latency as usize % 2][0].record(latency * 1000);
            lives[0][0].answered.add(1);
        }
        let got = progress();
        assert_eq!(got.answered, 1000);
        let near = |got: Option<u64>, expected: f64| {
            let got = got.unwrap() as f64;
            assert!((got / expected - 1.0).abs() < 0.07, "{got}, not {expected}");
        };
        near(got.latency_ns_p50, 500_000.0);
        near(got.latency_ns_p99, 990_000.0);
    }
}
