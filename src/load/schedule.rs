//! When requests are due: an open loop's arrivals, as offsets from the start.
//!
//! Pure arithmetic over a seed. It knows no clock: a request that is due and
//! cannot be sent stays due, which is what makes the loop open.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How an open loop's requests are spread over time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Independent arrivals: exponential gaps, as many unrelated users make them.
    #[default]
    Poisson,
    /// Equal gaps. Kinder than reality: no two requests ever come at once.
    Constant,
}

/// One thread's arrivals, in order, until the end of the run.
#[derive(Debug)]
pub struct Schedule {
    arrivals: Arrivals,
    random: StdRng,
    /// Mean gap between this thread's arrivals. Float, because a gap rounded
    /// to whole nanoseconds would drift at high rates.
    gap_ns: f64,
    /// The last arrival; below 2^53 for any run shorter than 104 days, so exact.
    last_ns: f64,
    length_ns: u64,
}

impl Schedule {
    /// The arrivals of thread `index` of `threads`, together `rate` requests
    /// per second for `length_ns`.
    ///
    /// Threads draw from unlike seeds, and the sum of independent Poisson
    /// processes is a Poisson process of the summed rate. Constant arrivals
    /// interleave: each thread starts its share of a gap later.
    pub fn new(
        arrivals: Arrivals,
        rate: f64,
        (index, threads): (usize, usize),
        seed: u64,
        length_ns: u64,
    ) -> Self {
        let gap_ns = 1e9 * threads as f64 / rate;
        let before_first_ns = match arrivals {
            Arrivals::Poisson => 0.0,
            // One gap is added before the first arrival.
            Arrivals::Constant => gap_ns * (index as f64 / threads as f64 - 1.0),
        };
        Self {
            arrivals,
            random: StdRng::seed_from_u64(thread_seed(seed, index)),
            gap_ns,
            last_ns: before_first_ns,
            length_ns,
        }
    }
}

impl Iterator for Schedule {
    type Item = u64;

    /// The next arrival in nanoseconds from the start; `None` at the end.
    #[inline]
    fn next(&mut self) -> Option<u64> {
        self.last_ns += match self.arrivals {
            Arrivals::Constant => self.gap_ns,
            // Inverse transform; 1 - u lies in (0, 1], where the logarithm is finite.
            Arrivals::Poisson => -self.gap_ns * (1.0 - self.random.random::<f64>()).ln(),
        };
        let at_ns = self.last_ns.round() as u64;
        (at_ns < self.length_ns).then_some(at_ns)
    }
}

/// A seed for thread `index`, far from its neighbours' (a step of 2^64 / φ).
pub fn thread_seed(seed: u64, index: usize) -> u64 {
    seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn all(arrivals: Arrivals, rate: f64, thread: (usize, usize), seed: u64) -> Vec<u64> {
        Schedule::new(arrivals, rate, thread, seed, SECOND_NS).collect()
    }

    #[test]
    fn constant_arrivals_of_two_threads_interleave_evenly() {
        let mut both = all(Arrivals::Constant, 1000.0, (0, 2), 1);
        both.extend(all(Arrivals::Constant, 1000.0, (1, 2), 1));
        both.sort_unstable();
        assert_eq!(both.len(), 1000);
        assert!(both.windows(2).all(|pair| pair[1] - pair[0] == 1_000_000));
        assert_eq!(both[0], 0);
    }

    #[test]
    fn poisson_gaps_are_exponential() {
        // Quantiles of the exponential: Q(p) = -mean × ln(1 - p). With 200 000
        // gaps each lies within 2 % for any reasonable seed.
        for seed in [1, 2, 3] {
            let times = all(Arrivals::Poisson, 200_000.0, (0, 1), seed);
            let mut gaps: Vec<f64> = times.windows(2).map(|p| (p[1] - p[0]) as f64).collect();
            gaps.sort_unstable_by(f64::total_cmp);
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let close = |got: f64, expected: f64| (got / expected - 1.0).abs() < 0.02;
            assert!(close(mean, 5_000.0), "seed {seed}: mean {mean}");
            for p in [0.25, 0.5, 0.9, 0.99] {
                let got = gaps[(p * gaps.len() as f64) as usize];
                let expected = -5_000.0 * (1.0_f64 - p).ln();
                let tolerance = if p > 0.95 { 0.04 } else { 0.02 };
                assert!(
                    (got / expected - 1.0).abs() < tolerance,
                    "seed {seed}: quantile {p} is {got}, expected {expected}"
                );
            }
        }
    }

    #[test]
    fn poisson_counts_vary_as_poisson_counts_do() {
        // Variance of the number in a millisecond equals its mean.
        let times = all(Arrivals::Poisson, 50_000.0, (0, 1), 7);
        let mut counts = [0_f64; 1000];
        for at in times {
            counts[(at / 1_000_000) as usize] += 1.0;
        }
        let mean = counts.iter().sum::<f64>() / 1000.0;
        let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / 999.0;
        assert!(
            (0.85..1.15).contains(&(variance / mean)),
            "{variance} / {mean}"
        );
    }

    #[test]
    fn a_seed_gives_one_schedule_and_threads_differ() {
        let of = |thread, seed| all(Arrivals::Poisson, 1000.0, thread, seed);
        assert_eq!(of((0, 2), 5), of((0, 2), 5));
        assert_ne!(of((0, 2), 5), of((0, 2), 6));
        assert_ne!(of((0, 2), 5), of((1, 2), 5));
    }
}
