//! Student's t distribution, from the regularised incomplete beta function.
//!
//! Formulae are cited by their number in the NIST Digital Library of Mathematical Functions (DLMF).

use std::f64::consts::PI;

/// The t below which Student's distribution with `df` degrees of freedom has probability `p`.
/// Right to 1e-9 of its value for p from 1e-6 to 1 - 1e-6 and `df` up to 10,000; beyond that the
/// logarithms of the gamma function cancel more digits.
///
/// # Panics
/// If `p` is not strictly between 0 and 1, or `df` is not positive: no data can cause that.
pub fn student_t_quantile(p: f64, df: f64) -> f64 {
    assert!(p > 0.0 && p < 1.0, "a probability of {p} has no quantile");
    if p < 0.5 {
        return -student_t_quantile(1.0 - p, df);
    }
    let tail = 1.0 - p;
    let (mut low, mut high) = (0.0, 1.0);
    while student_t_tail(high, df) > tail {
        low = high;
        high *= 2.0;
    }
    // Bisection: the tail falls strictly, so it cannot fail, and 60 halvings cost microseconds.
    loop {
        let middle = low + (high - low) / 2.0;
        if middle <= low || middle >= high {
            return middle;
        }
        if student_t_tail(middle, df) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// The probability that Student's t with `df` degrees of freedom exceeds `t`.
///
/// # Panics
/// If `df` is not positive.
pub fn student_t_tail(t: f64, df: f64) -> f64 {
    assert!(df > 0.0, "{df} degrees of freedom");
    if t < 0.0 {
        return 1.0 - student_t_tail(-t, df);
    }
    // df / (df + t²) and its complement, each without the cancellation of 1 - x.
    let square = t * t;
    let x = 1.0 / (1.0 + square / df);
    let y = if square.is_finite() {
        square / (df + square)
    } else {
        1.0
    };
    0.5 * incomplete_beta(x, y, df / 2.0, 0.5)
}

/// The regularised incomplete beta function I_x(a, b) with `y` = 1 - x.
fn incomplete_beta(x: f64, y: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if y <= 0.0 {
        return 1.0;
    }
    // The fraction converges fast below this point; above it DLMF 8.17.4 swaps the ends.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(y, x, b, a);
    }
    let ln_beta = ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b);
    (a * x.ln() + b * y.ln() - ln_beta).exp() / a * beta_fraction(x, a, b)
}

/// The continued fraction of DLMF 8.17.22, by Lentz's method as modified by Thompson and Barnett
/// (Journal of Computational Physics 64, 1986).
fn beta_fraction(x: f64, a: f64, b: f64) -> f64 {
    /// Stands in for a denominator of 0, as the method asks.
    const TINY: f64 = 1e-300;
    /// Where the method is used, it converges in O(sqrt(max(a, b))) terms; this bounds it.
    const MOST_TERMS: u32 = 10_000;
    let nonzero = |value: f64| if value.abs() < TINY { TINY } else { value };

    let coefficient = |term: u32| {
        let m = f64::from(term / 2);
        if term.is_multiple_of(2) {
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m))
        } else {
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0))
        }
    };
    // The fraction up to its first coefficient, 1 / (1 + d1); each later one multiplies it.
    let mut numerator = 1.0;
    let mut denominator = 1.0 / nonzero(1.0 + coefficient(1));
    let mut fraction = denominator;
    for term in 2..MOST_TERMS {
        numerator = nonzero(1.0 + coefficient(term) / numerator);
        denominator = 1.0 / nonzero(1.0 + coefficient(term) * denominator);
        let change = numerator * denominator;
        fraction *= change;
        if (change - 1.0).abs() < 1e-15 {
            break;
        }
    }
    fraction
}

/// ln Γ(x) for x > 0 by Stirling's series, DLMF 5.11.1, after the recurrence has brought x to 10 or
/// more, where the first term left out is below 2e-14.
fn ln_gamma(x: f64) -> f64 {
    let mut x = x;
    let mut shifted = 0.0;
    while x < 10.0 {
        shifted += x.ln();
        x += 1.0;
    }
    let inverse = 1.0 / x;
    let square = inverse * inverse;
    let series = inverse
        * (1.0 / 12.0
            - square
                * (1.0 / 360.0
                    - square * (1.0 / 1260.0 - square * (1.0 / 1680.0 - square / 1188.0))));
    (x - 0.5) * x.ln() - x + 0.5 * (2.0 * PI).ln() + series - shifted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(p: f64, df: f64, expected: f64) {
        let t = student_t_quantile(p, df);
        assert!((t - expected).abs() < 1e-6, "t({p}, {df}) = {t}");
        assert!((student_t_quantile(1.0 - p, df) + expected).abs() < 1e-6);
        assert!((student_t_tail(t, df) - (1.0 - p)).abs() < 1e-11);
    }

    /// Values for 1 and 2 degrees of freedom have closed forms, tan(π (p - ½)) and
    /// (2 p - 1) / sqrt(2 p (1 - p)); the others are those of published tables.
    #[test]
    fn quantiles_match_the_tables() {
        check(0.975, 1.0, 12.706_204_736);
        check(0.995, 1.0, 63.656_741_163);
        check(0.95, 2.0, 2.919_985_580);
        check(0.975, 2.0, 4.302_652_730);
        check(0.995, 3.0, 5.840_909_310);
        check(0.975, 5.0, 2.570_581_836);
        check(0.95, 10.0, 1.812_461_123);
        check(0.975, 10.0, 2.228_138_852);
        check(0.975, 11.0, 2.200_985_160);
        check(0.995, 11.0, 3.105_806_516);
        check(0.975, 29.0, 2.045_229_642);
        check(0.995, 29.0, 2.756_385_904);
        check(0.975, 30.0, 2.042_272_456);
        check(0.975, 100.0, 1.983_971_519);
        check(0.975, 1000.0, 1.962_339_081);
        check(0.5, 4.0, 0.0);
    }

    #[test]
    fn the_far_tail_neither_loops_nor_leaves_its_range() {
        assert_eq!(student_t_tail(f64::INFINITY, 5.0), 0.0);
        assert_eq!(student_t_tail(f64::NEG_INFINITY, 5.0), 1.0);
        let t = student_t_quantile(1.0 - 1e-12, 1.0);
        assert!((t * PI * 1e-12 - 1.0).abs() < 1e-3, "{t}");
    }
}
