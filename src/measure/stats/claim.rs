//! What may be said about a ratio: Holm's correction, the A/A control, the claim, steadiness, and
//! whether two runs agree.
//!
//! Nothing here knows whether less is better: sentences say lower and higher.

use super::median_ratio::paired_median_ratio;
use super::ratio::{Interval, Ratio, RatioError, paired_log_ratio, paired_log_ratios};
use serde::{Deserialize, Serialize};

/// Adjusted p-values below this are significant.
const SIGNIFICANCE: f64 = 0.05;

/// A drift between the halves of a block that is too small to matter, as a ratio. A test of many
/// blocks finds ever smaller drifts, and below this one the interval is wider anyway.
pub const SMALLEST_DRIFT: f64 = 1.02;

/// Holm's adjusted p-values, in the order given: each is below 0.05 exactly when its row is
/// significant with an error of 5 % over all rows together. Valid however the rows depend on
/// each other, as they do here through the shared base (S. Holm, "A simple sequentially rejective
/// multiple test procedure", Scandinavian Journal of Statistics 6, 1979).
pub fn holm(p_values: &[f64]) -> Vec<f64> {
    let mut ascending: Vec<usize> = (0..p_values.len()).collect();
    ascending.sort_by(|&a, &b| p_values[a].total_cmp(&p_values[b]));
    let mut adjusted = vec![0.0; p_values.len()];
    let mut at_least: f64 = 0.0;
    for (rank, &row) in ascending.iter().enumerate() {
        let still_open = (p_values.len() - rank) as f64;
        at_least = at_least.max((p_values[row] * still_open).min(1.0));
        adjusted[row] = at_least;
    }
    adjusted
}

/// The same arm measured twice as if it were two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Control {
    pub interval_99: Interval,
    pub interval_95: Interval,
    /// The smallest effect that may be claimed, as a ratio of at least 1: the bound of the 95 %
    /// interval that is farther from 1, taken both ways.
    pub floor: f64,
    pub n: usize,
    pub missing: usize,
}

impl Control {
    /// From the blocks of the two arms that are one.
    ///
    /// # Errors
    /// As [`paired_log_ratio`]: without a control nothing may be claimed.
    ///
    /// # Panics
    /// If the arms differ in length.
    pub fn new(a: &[Option<f64>], again: &[Option<f64>]) -> Result<Self, RatioError> {
        let [wide, narrow] = paired_log_ratios(again, a, [0.99, 0.95])?;
        Ok(Self::of(&wide, &narrow))
    }

    /// The same by the median pair.
    ///
    /// # Errors
    /// As [`paired_median_ratio`].
    ///
    /// # Panics
    /// If the arms differ in length.
    pub fn by_median(a: &[Option<f64>], again: &[Option<f64>]) -> Result<Self, RatioError> {
        let at = |confidence| paired_median_ratio(again, a, confidence);
        Ok(Self::of(&at(0.99)?, &at(0.95)?))
    }

    /// From the ratio at 99 % and at 95 %.
    fn of(wide: &Ratio, narrow: &Ratio) -> Self {
        Self {
            interval_99: wide.interval,
            interval_95: narrow.interval,
            floor: narrow.interval.high.max(1.0 / narrow.interval.low),
            n: narrow.n,
            missing: narrow.missing,
        }
    }

    /// Whether the lab sees no difference where there is none.
    pub fn valid(&self) -> bool {
        self.interval_99.contains(1.0)
    }
}

/// What a row may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Beyond the floor and significant: a finding once a second run agrees, not before.
    FindingCandidate,
    /// Not larger than what the lab sees between an arm and itself.
    BelowFloor,
    /// Larger than the floor, but chance may have done it.
    NotSignificant,
    /// The control failed, so no row may claim anything.
    ControlInvalid,
}

/// A row's outcome and the sentence that says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub outcome: Outcome,
    pub sentence: String,
}

/// What one run may claim about `ratio`, beside its A/A `control` and with its p-value adjusted by
/// [`holm`] over all rows.
pub fn claim(ratio: &Ratio, control: &Control, adjusted_p: f64) -> Claim {
    let effect = ratio.ratio.max(1.0 / ratio.ratio);
    let measured = format!(
        "{} ({:.0} % interval {:.3} to {:.3})",
        change(ratio.ratio),
        ratio.confidence * 100.0,
        ratio.interval.low,
        ratio.interval.high
    );
    let floor = format!("{:.1} %", (control.floor - 1.0) * 100.0);
    let (outcome, sentence) = if !control.valid() {
        (
            Outcome::ControlInvalid,
            format!(
                "{measured}, which means nothing: the A/A control saw a difference between an arm and itself ({:.3} to {:.3} at 99 %).",
                control.interval_99.low, control.interval_99.high
            ),
        )
    } else if effect <= control.floor {
        (
            Outcome::BelowFloor,
            format!("{measured}: no larger than the {floor} seen between an arm and itself."),
        )
    } else if adjusted_p < SIGNIFICANCE {
        (
            Outcome::FindingCandidate,
            format!(
                "{measured}: beyond the floor of {floor}, p = {adjusted_p:.2e} after Holm's correction; a finding once a second run agrees."
            ),
        )
    } else {
        (
            Outcome::NotSignificant,
            format!(
                "{measured}: beyond the floor of {floor}, but chance may have done it (p = {adjusted_p:.2} after Holm's correction)."
            ),
        )
    };
    Claim { outcome, sentence }
}

/// "8.8 % lower", "twofold" being "100.0 % higher".
fn change(ratio: f64) -> String {
    let percent = (ratio - 1.0) * 100.0;
    let word = if percent < 0.0 { "lower" } else { "higher" };
    format!("{:.1} % {word}", percent.abs())
}

/// Whether an arm measured the same in both halves of its blocks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Steadiness {
    /// Second half over first half, at 99 %.
    pub drift: Ratio,
    pub steady: bool,
}

/// Compares the halves of the same blocks: element `i` of both belongs to block `i`.
///
/// An arm is unsteady when its drift is both beyond doubt (the 99 % interval leaves out 1: 99 and
/// not 95, since every arm at every load is tested) and more than [`SMALLEST_DRIFT`].
///
/// # Errors
/// As [`paired_log_ratio`].
///
/// # Panics
/// If the halves differ in length.
pub fn steadiness(
    first_half: &[Option<f64>],
    second_half: &[Option<f64>],
) -> Result<Steadiness, RatioError> {
    let drift = paired_log_ratio(second_half, first_half, 0.99)?;
    let small = drift.ratio.max(1.0 / drift.ratio) <= SMALLEST_DRIFT;
    Ok(Steadiness {
        drift,
        steady: small || drift.interval.contains(1.0),
    })
}

/// Which side of 1 a whole interval lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    Lower,
    Higher,
    /// The interval contains 1.
    Undecided,
}

/// The direction that a ratio's interval shows.
pub fn direction(ratio: &Ratio) -> Direction {
    if ratio.interval.high < 1.0 {
        Direction::Lower
    } else if ratio.interval.low > 1.0 {
        Direction::Higher
    } else {
        Direction::Undecided
    }
}

/// Whether two runs some time apart tell the same story.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Agreement {
    /// The intervals overlap and lie on the same side of 1. Only this makes a finding.
    Agree(Direction),
    /// The intervals overlap and both contain 1: twice no difference was seen.
    BothUndecided,
    /// The intervals overlap, but only one of them leaves out 1: a third run decides.
    OneUndecided,
    /// Same side of 1, but the intervals do not meet: the direction holds, the size does not.
    SizeDiffers(Direction),
    /// The intervals do not meet, nor lie on the same side of 1: at least one run was fooled.
    Disagree,
}

impl Agreement {
    /// Whether a claim that both runs make is now a finding.
    pub fn confirms(self) -> bool {
        matches!(self, Self::Agree(_))
    }

    /// What `compare --again` prints.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Agree(Direction::Lower) => "both runs agree: lower",
            Self::Agree(_) => "both runs agree: higher",
            Self::BothUndecided => "both runs agree: no difference seen",
            Self::OneUndecided => "only one of the runs shows a difference: run once more",
            Self::SizeDiffers(_) => {
                "the runs agree on the direction but not on the size: state no size"
            }
            Self::Disagree => "the runs disagree: look for what changed between them",
        }
    }
}

/// Compares the same row of two runs, each at its own interval.
///
/// Overlap is asked of the intervals and not a test of the two runs' difference, because the
/// variation between runs is just what no interval within a run knows; a test would call two very
/// tight runs different for a hundredth. That case is [`Agreement::SizeDiffers`] here.
pub fn agreement(first: &Ratio, second: &Ratio) -> Agreement {
    use Direction::Undecided;
    let overlap = first.interval.overlaps(&second.interval);
    match (direction(first), direction(second)) {
        (Undecided, Undecided) => Agreement::BothUndecided,
        (one, other) if one == other && overlap => Agreement::Agree(one),
        (one, other) if one == other => Agreement::SizeDiffers(one),
        (Undecided, _) | (_, Undecided) if overlap => Agreement::OneUndecided,
        _ => Agreement::Disagree,
    }
}

#[cfg(test)]
mod tests {
    use super::super::ratio::Method;
    use super::*;

    fn ratio(low: f64, high: f64) -> Ratio {
        Ratio {
            ratio: (low * high).sqrt(),
            interval: Interval { low, high },
            confidence: 0.95,
            n: 12,
            missing: 0,
            method: Method::StudentT,
            p_value: 0.001,
        }
    }

    fn control(low: f64, high: f64, floor: f64) -> Control {
        Control {
            interval_99: Interval { low, high },
            interval_95: Interval {
                low: 1.0 / floor,
                high: floor,
            },
            floor,
            n: 12,
            missing: 0,
        }
    }

    #[test]
    fn holm_adjusts_step_by_step_and_keeps_the_order() {
        let check = |p: &[f64], expected: &[f64]| {
            for (adjusted, expected) in holm(p).iter().zip(expected) {
                assert!((adjusted - expected).abs() < 1e-12, "{:?}", holm(p));
            }
        };
        // Worked by hand: 4 · 0.005, 3 · 0.01, 2 · 0.03, and 0.04 raised to the one before it.
        check(&[0.01, 0.04, 0.03, 0.005], &[0.03, 0.06, 0.06, 0.02]);
        check(&[0.5, 0.6], &[1.0, 1.0]);
        check(&[0.04], &[0.04]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn a_claim_needs_control_floor_and_significance() {
        let good = control(0.98, 1.02, 1.015);
        let check = |ratio: &Ratio, control: &Control, p, outcome, words: &str| {
            let claim = claim(ratio, control, p);
            assert_eq!(claim.outcome, outcome, "{}", claim.sentence);
            assert!(claim.sentence.contains(words), "{}", claim.sentence);
        };
        use Outcome::*;
        let lower = ratio(0.9, 0.92);
        check(&lower, &good, 0.001, FindingCandidate, "9.0 % lower");
        check(&lower, &good, 0.05, NotSignificant, "chance");
        check(&ratio(1.005, 1.015), &good, 0.001, BelowFloor, "1.5 %");
        // The floor holds both ways: 1/1.015 is 0.985.
        check(
            &ratio(0.986, 0.988),
            &good,
            0.001,
            BelowFloor,
            "1.3 % lower",
        );
        let biased = control(1.01, 1.03, 1.025);
        check(&lower, &biased, 0.001, ControlInvalid, "means nothing");
    }

    #[test]
    fn the_floor_is_the_farther_bound_both_ways() {
        let one = [Some(1.0); 3];
        let check = |again: [f64; 3]| {
            let control = Control::new(&one, &again.map(Some)).unwrap();
            let Interval { low, high } = control.interval_95;
            assert!(control.interval_99.low < low && high < control.interval_99.high);
            assert!(control.floor >= high && control.floor >= 1.0 / low);
            assert!(control.floor == high || control.floor == 1.0 / low);
        };
        check([1.0, 1.01, 1.02]);
        check([1.0, 0.99, 0.98]);
    }

    #[test]
    fn two_runs_agree_by_side_and_overlap() {
        let check = |first: (f64, f64), second: (f64, f64), expected| {
            let first = ratio(first.0, first.1);
            let second = ratio(second.0, second.1);
            assert_eq!(agreement(&first, &second), expected);
            assert_eq!(agreement(&second, &first), expected);
        };
        use Agreement::*;
        check((0.90, 0.95), (0.94, 0.97), Agree(Direction::Lower));
        check((1.10, 1.20), (1.15, 1.30), Agree(Direction::Higher));
        check((0.98, 1.02), (0.99, 1.01), BothUndecided);
        check((0.90, 0.98), (0.97, 1.02), OneUndecided);
        check((0.45, 0.47), (0.95, 0.97), SizeDiffers(Direction::Lower));
        check((0.45, 0.47), (0.98, 1.02), Disagree);
        check((0.90, 0.95), (1.05, 1.10), Disagree);
        assert!(Agree(Direction::Lower).confirms() && !BothUndecided.confirms());
    }
}
