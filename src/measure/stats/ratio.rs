//! The ratio of two arms, with its interval: geometric mean of paired ratios.
//!
//! Pairs are blocks of one round, so what drifts over the run (heat, neighbours, page cache)
//! cancels. Logarithms make "twice" and "half" equally far from 1, and the interval's bounds
//! positive.

use super::bootstrap::Bootstrap;
use super::student::{student_t_quantile, student_t_tail};
use serde::{Deserialize, Serialize};

/// Complete pairs from which on the bootstrap is used. Below it Student's t
/// has to be trusted: a bootstrap of so few has nothing to resample.
pub const BOOTSTRAP_FROM: usize = 30;

/// How an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// Student's t of the log ratios: exact when the noise is log-normal.
    StudentT,
    /// The studentised bootstrap; see `bootstrap.rs` for why this one.
    Bootstrap,
    /// The median pair and the sign test; see `median_ratio.rs` for what it is for.
    Median,
}

/// Bounds of a ratio, both positive and finite, `low <= high`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

impl Interval {
    pub fn contains(&self, ratio: f64) -> bool {
        self.low <= ratio && ratio <= self.high
    }

    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// An arm over its base, from paired blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// Geometric mean, or median, of the pairs' ratios; 1 is no difference.
    pub ratio: f64,
    pub interval: Interval,
    /// The interval's, as a part of 1.
    pub confidence: f64,
    /// Pairs used.
    pub n: usize,
    /// Pairs left out because one block, or both, has no value.
    pub missing: usize,
    pub method: Method,
    /// Two-sided, of "the true ratio is 1"; not yet corrected for the number of rows.
    pub p_value: f64,
}

/// No ratio can be formed.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum RatioError {
    #[error(
        "{n} of {rounds} rounds have a value for both arms, and an interval needs 2; run more rounds"
    )]
    TooFewPairs { n: usize, rounds: usize },
    /// A value of 0 or less is no cost, rate or time; were it left out, the ratio would flatter.
    #[error(
        "round {round} measured {value}, which has no logarithm; compare this row by difference, not by ratio"
    )]
    NotPositive { round: usize, value: f64 },
}

/// Mean and its standard error of at least two logarithms.
#[derive(Debug, Clone, Copy)]
pub struct Moments {
    pub mean: f64,
    pub standard_error: f64,
}

impl Moments {
    /// What is smaller than this, 1e-10 percent, is rounding and becomes 0: else counts that repeat
    /// exactly would have a spread, and equal arms a certain difference.
    const ROUNDING: f64 = 1e-12;

    /// None below two values.
    pub fn of(logs: &[f64]) -> Option<Self> {
        let unless_rounding = |value: f64| {
            if value.abs() < Self::ROUNDING {
                0.0
            } else {
                value
            }
        };
        Some(Self {
            mean: unless_rounding(mean(logs)?),
            standard_error: unless_rounding(standard_deviation(logs)? / (logs.len() as f64).sqrt()),
        })
    }
}

/// Arithmetic mean; None of no values.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The middle value, or the mean of the two middle ones; None of no values.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    Some(if sorted.len() % 2 == 1 {
        upper
    } else {
        // Halved first, so that two huge values do not overflow.
        sorted[sorted.len() / 2 - 1] / 2.0 + upper / 2.0
    })
}

/// Sample standard deviation, with n - 1; None below two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let mean = mean(values)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
}

/// The ratio of `arm` to `base`, block `i` of one against block `i` of the other, with an interval
/// of `confidence` (0.95 for rows). None marks a block that yielded no value; its pair is left out
/// and counted.
///
/// # Errors
/// See [`RatioError`].
///
/// # Panics
/// If the arms differ in length, or `confidence` is not strictly between 0 and 1.
pub fn paired_log_ratio(
    arm: &[Option<f64>],
    base: &[Option<f64>],
    confidence: f64,
) -> Result<Ratio, RatioError> {
    let [ratio] = paired_log_ratios(arm, base, [confidence])?;
    Ok(ratio)
}

/// As [`paired_log_ratio`], at several confidences for the price of one bootstrap.
pub(super) fn paired_log_ratios<const N: usize>(
    arm: &[Option<f64>],
    base: &[Option<f64>],
    confidences: [f64; N],
) -> Result<[Ratio; N], RatioError> {
    assert_eq!(arm.len(), base.len(), "blocks are paired by their round");
    let logs = log_ratios(arm, base)?;
    let n = logs.len();
    let moments = Moments::of(&logs).ok_or(RatioError::TooFewPairs {
        n,
        rounds: arm.len(),
    })?;
    let bootstrap = (n >= BOOTSTRAP_FROM)
        .then(|| Bootstrap::of(&logs, moments))
        .flatten();
    let df = (n - 1) as f64;

    Ok(confidences.map(|confidence| {
        let (low, high) = match &bootstrap {
            Some(bootstrap) => bootstrap.interval(confidence),
            None => {
                let t = student_t_quantile((1.0 + confidence) / 2.0, df);
                (
                    moments.mean - t * moments.standard_error,
                    moments.mean + t * moments.standard_error,
                )
            }
        };
        Ratio {
            ratio: moments.mean.exp(),
            interval: Interval {
                low: low.exp(),
                high: high.exp(),
            },
            confidence,
            n,
            missing: arm.len() - n,
            method: match bootstrap {
                Some(_) => Method::Bootstrap,
                None => Method::StudentT,
            },
            p_value: match &bootstrap {
                Some(bootstrap) => bootstrap.p_value(),
                None => student_t_p_value(moments, df),
            },
        }
    }))
}

/// The logarithm of each complete pair's ratio.
pub(super) fn log_ratios(
    arm: &[Option<f64>],
    base: &[Option<f64>],
) -> Result<Vec<f64>, RatioError> {
    let mut logs = Vec::with_capacity(arm.len());
    for (round, pair) in arm.iter().zip(base).enumerate() {
        let (&Some(arm), &Some(base)) = pair else {
            continue;
        };
        for value in [arm, base] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(RatioError::NotPositive { round, value });
            }
        }
        logs.push((arm / base).ln());
    }
    Ok(logs)
}

fn student_t_p_value(moments: Moments, df: f64) -> f64 {
    // Exact counts may repeat to the last digit: without spread any difference is certain.
    if moments.mean == 0.0 {
        return 1.0;
    }
    2.0 * student_t_tail((moments.mean / moments.standard_error).abs(), df)
}

/// Half the width of the interval in percent of the ratio: for the bounds 1/1.02 and 1.02 it is 2.
/// This is what `--until 2%` waits for.
pub fn half_width_percent(ratio: &Ratio) -> f64 {
    ((ratio.interval.high / ratio.interval.low).sqrt() - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(values: &[f64]) -> Vec<Option<f64>> {
        values.iter().copied().map(Some).collect()
    }

    fn check(arm: &[Option<f64>], base: &[Option<f64>], expected: (f64, f64, f64, usize, usize)) {
        let ratio = paired_log_ratio(arm, base, 0.95).unwrap();
        let (middle, low, high, n, missing) = expected;
        let close = |a: f64, b: f64| (a - b).abs() < 1e-6;
        assert!(
            close(ratio.ratio, middle)
                && close(ratio.interval.low, low)
                && close(ratio.interval.high, high)
                && (ratio.n, ratio.missing) == (n, missing),
            "{ratio:?}"
        );
    }

    #[test]
    fn mean_median_and_deviation() {
        assert_eq!(mean(&[1.0, 2.0, 6.0]), Some(3.0));
        assert_eq!(median(&[6.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[6.0, 1.0, 2.0, 4.0]), Some(3.0));
        let values = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!(standard_deviation(&values), Some((32.0f64 / 7.0).sqrt()));
        assert_eq!((mean(&[]), median(&[])), (None, None));
        assert_eq!(standard_deviation(&[1.0]), None);
    }

    #[test]
    fn the_interval_is_students_of_the_log_ratios() {
        // Log ratios -d, 0, d: mean 0, deviation d, so the bound is t(0.975, 2) d / sqrt 3.
        let d: f64 = 0.01;
        let bound = (4.302_652_730 * d / 3f64.sqrt()).exp();
        let arm = some(&[(-d).exp(), 2.0, 3.0 * d.exp()]);
        check(
            &arm,
            &some(&[1.0, 2.0, 3.0]),
            (1.0, 1.0 / bound, bound, 3, 0),
        );
    }

    #[test]
    fn missing_blocks_leave_their_pair_out_and_are_counted() {
        check(
            &[Some(2.0), None, Some(4.0), Some(1.0)],
            &[Some(1.0), Some(1.0), Some(2.0), None],
            (2.0, 2.0, 2.0, 2, 2),
        );
    }

    #[test]
    fn counts_that_repeat_exactly_have_an_interval_without_width() {
        for rounds in [12, 40] {
            let one = vec![Some(1.0); rounds];
            let half = vec![Some(0.5); rounds];
            check(&half, &one, (0.5, 0.5, 0.5, rounds, 0));
            let p_value = |arm| paired_log_ratio(arm, &one, 0.95).unwrap().p_value;
            assert_eq!(p_value(&half), 0.0);
            assert_eq!(p_value(&one), 1.0);
        }
        // 0.3 / 0.1 and 0.6 / 0.2 are not the same number, but the same ratio.
        let (arm, base) = (some(&[0.3, 0.6]), some(&[0.1, 0.2]));
        assert_eq!(paired_log_ratio(&arm, &base, 0.95).unwrap().p_value, 0.0);
    }

    #[test]
    fn ties_send_the_bootstrap_back_to_student() {
        let one = vec![Some(1.0); 40];
        let mut arm = one.clone();
        arm[7] = Some(1.1);
        let ratio = paired_log_ratio(&arm, &one, 0.95).unwrap();
        assert_eq!(ratio.method, Method::StudentT);
        assert!(ratio.interval.high.is_finite());
    }

    #[test]
    fn what_has_no_ratio_is_an_error_with_its_reason() {
        let check = |arm: &[Option<f64>], base: &[Option<f64>], expected: &str| {
            let error = paired_log_ratio(arm, base, 0.95).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        };
        check(&[], &[], "0 of 0 rounds");
        check(
            &[Some(1.0), None],
            &[Some(1.0), Some(1.0)],
            "1 of 2 rounds have a value",
        );
        check(
            &some(&[1.0, 0.0]),
            &some(&[1.0, 1.0]),
            "round 1 measured 0,",
        );
        check(
            &some(&[1.0, 1.0]),
            &some(&[f64::NAN, 1.0]),
            "round 0 measured NaN",
        );
    }

    #[test]
    fn half_the_width_is_relative() {
        let mut ratio = paired_log_ratio(&[Some(1.0); 3], &[Some(4.0); 3], 0.95).unwrap();
        assert_eq!(half_width_percent(&ratio), 0.0);
        ratio.interval = Interval {
            low: 0.25 / 1.02,
            high: 0.25 * 1.02,
        };
        assert!((half_width_percent(&ratio) - 2.0).abs() < 1e-9);
    }
}
