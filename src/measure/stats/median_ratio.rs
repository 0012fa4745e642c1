//! The ratio of two arms by the median pair, for what is disturbed now and then by orders of magnitude.
//!
//! A block's 99th percentile is such a thing: one preemption of a millisecond makes it ten times what
//! it was. A mean of logarithms then has hardly an interval, and which arm was hit decides its sign;
//! the median gives each pair one vote, however far it lies. Its interval is the sign test's (W. Conover,
//! "Practical Nonparametric Statistics", 1999, sections 3.2 and 3.4): exact whatever the noise, and at
//! most a quarter wider than Student's where that is exact.

use super::ratio::{
    BOOTSTRAP_FROM, Interval, Method, Ratio, RatioError, log_ratios, median, paired_log_ratio,
};

/// As [`paired_log_ratio`], with the median pair in the mean's place. Below [`BOOTSTRAP_FROM`] complete
/// pairs it is that: so few votes decide nothing.
///
/// # Errors
/// See [`RatioError`].
///
/// # Panics
/// If the arms differ in length, or `confidence` is not strictly between 0 and 1.
pub fn paired_median_ratio(
    arm: &[Option<f64>],
    base: &[Option<f64>],
    confidence: f64,
) -> Result<Ratio, RatioError> {
    assert_eq!(arm.len(), base.len(), "blocks are paired by their round");
    let mut logs = log_ratios(arm, base)?;
    let n = logs.len();
    if n < BOOTSTRAP_FROM {
        return paired_log_ratio(arm, base, confidence);
    }
    logs.sort_unstable_by(f64::total_cmp);
    let left_out = votes_beyond(n, (1.0 - confidence) / 2.0);
    let (low, high) = (logs[left_out], logs[n - 1 - left_out]);
    let middle = median(&logs).expect("there are some");
    let below = logs.iter().filter(|log| **log < 0.0).count();
    let above = logs.iter().filter(|log| **log > 0.0).count();
    let fewer = tail(below + above, below.min(above));
    Ok(Ratio {
        ratio: middle.exp(),
        interval: Interval {
            low: low.exp(),
            high: high.exp(),
        },
        confidence,
        n,
        missing: arm.len() - n,
        method: Method::Median,
        p_value: (2.0 * fewer).min(1.0),
    })
}

/// How many of `n` pairs lie beyond each bound: one fewer than the most of which so few on one side of
/// the median have a probability of `tail` at most.
fn votes_beyond(n: usize, tail: f64) -> usize {
    let mut sum = 0.0;
    let within = probabilities(n).take_while(|probability| {
        sum += probability;
        sum <= tail
    });
    within.count().saturating_sub(1)
}

/// The probability of at most `most` heads of `n` fair coins.
fn tail(n: usize, most: usize) -> f64 {
    probabilities(n).take(most + 1).sum()
}

/// The probability of 0, 1, … heads of `n` fair coins. By logarithms: 2⁻ⁿ may be too small for a
/// number.
fn probabilities(n: usize) -> impl Iterator<Item = f64> {
    let mut log = -(n as f64) * std::f64::consts::LN_2;
    (0..=n).map(move |heads| {
        let probability = log.exp();
        log += ((n - heads) as f64 / (heads + 1) as f64).ln();
        probability
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    fn ratio(logs: &[f64]) -> Ratio {
        let arm: Vec<_> = logs.iter().map(|log| Some(log.exp())).collect();
        paired_median_ratio(&arm, &vec![Some(1.0); logs.len()], 0.95).unwrap()
    }

    #[test]
    fn the_ranks_are_those_of_the_tables() {
        // Of 30, 9 at each end; of 100, 39 (Conover, table A3).
        assert_eq!(votes_beyond(30, 0.025), 9);
        assert_eq!(votes_beyond(100, 0.025), 39);
        assert!((tail(10, 1) - 11.0 / 1024.0).abs() < 1e-12);
        assert!((tail(5000, 5000) - 1.0).abs() < 1e-9);
        let logs: Vec<_> = (0..30).map(|nth| f64::from(nth) / 100.0).collect();
        let found = ratio(&logs);
        assert_eq!(found.method, Method::Median);
        assert!((found.ratio.ln() - 0.145).abs() < 1e-9);
        assert!((found.interval.low.ln() - 0.09).abs() < 1e-9);
        assert!((found.interval.high.ln() - 0.20).abs() < 1e-9);
        assert!(found.p_value < 1e-6, "{found:?}");
    }

    #[test]
    fn few_pairs_are_students() {
        let found = ratio(&[0.1; 29]);
        assert_eq!(found.method, Method::StudentT);
    }

    #[test]
    fn the_same_on_both_sides_is_no_difference() {
        let logs: Vec<_> = (0..40).map(|nth| f64::from(nth % 2) - 0.5).collect();
        assert_eq!(ratio(&logs).p_value, 1.0);
        assert_eq!(ratio(&[0.0; 40]).p_value, 1.0);
    }

    /// Blocks that differ by 5 % and of which a third is disturbed up to a hundredfold: the interval
    /// covers what it says, and is narrow where the mean's is of no use.
    #[test]
    fn disturbed_blocks_leave_the_median_where_it_was() {
        const TRIALS: u32 = 400;
        let mut random = StdRng::seed_from_u64(7);
        let mut block = |cost: f64| {
            let wobble = 0.05 * (random.random::<f64>() - 0.5);
            let disturbed = random.random::<f64>() < 0.33;
            let hit = if disturbed {
                random.random::<f64>() * 4.6
            } else {
                0.0
            };
            Some(cost * (wobble + hit).exp())
        };
        let (mut covered, mut narrower) = (0, 0);
        for _ in 0..TRIALS {
            let arm: Vec<_> = (0..100).map(|_| block(0.9)).collect();
            let base: Vec<_> = (0..100).map(|_| block(1.0)).collect();
            let found = paired_median_ratio(&arm, &base, 0.95).unwrap();
            covered += u32::from(found.interval.contains(0.9));
            let mean = paired_log_ratio(&arm, &base, 0.95).unwrap();
            let width = |ratio: &Ratio| ratio.interval.high / ratio.interval.low;
            narrower += u32::from(width(&found) < width(&mean));
        }
        assert!(covered * 100 >= TRIALS * 93, "{covered} of {TRIALS}");
        assert_eq!(narrower, TRIALS);
    }
}
