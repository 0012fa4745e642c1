//! Numbers with as many digits as they carry.

use std::time::Duration;

use crate::measure::stats::Interval;

/// Nanoseconds as microseconds, three digits that count: `3.87`, `12.4`, `845`.
pub fn microseconds(ns: f64) -> String {
    digits(ns / 1000.0)
}

/// A count, shortened: `845`, `12.4 k`, `218 k`, `1.20 M`.
pub fn count(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{} M", digits(v / 1e6)),
        v if v >= 1e4 => format!("{} k", digits(v / 1e3)),
        v => format!("{v:.0}"),
    }
}

/// `45 s`, `3 min 20 s`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds} s"),
        (minutes, 0) => format!("{minutes} min"),
        (minutes, seconds) => format!("{minutes} min {seconds} s"),
    }
}

/// The bounds of a ratio as a change in percent: `-0.4 to +2.1`.
pub(super) fn percent_bounds(interval: &Interval) -> String {
    let percent = |ratio: f64| format!("{:+.1}", (ratio - 1.0) * 100.0);
    format!("{} to {}", percent(interval.low), percent(interval.high))
}

pub(super) fn digits(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        v if v >= 0.9995 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// A count per request, 0 only if nothing was counted.
pub(super) fn per_request(value: f64) -> String {
    match value {
        0.0 => "0".to_string(),
        v if v < 0.0005 => "<0.001".to_string(),
        v => digits(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_have_signs() {
        let (low, high) = (0.996, 1.0214);
        let bounds = percent_bounds(&Interval { low, high });
        assert_eq!(bounds, "-0.4 to +2.1");
    }

    #[test]
    fn few_are_not_none() {
        assert_eq!(per_request(0.0), "0");
        assert_eq!(per_request(0.0004), "<0.001");
        assert_eq!(per_request(0.0006), "0.001");
        assert_eq!(per_request(2.0), "2.00");
    }

    #[test]
    fn three_digits_count() {
        assert_eq!(microseconds(3_871.0), "3.87");
        assert_eq!(microseconds(12_351.0), "12.4");
        assert_eq!(microseconds(845_200.0), "845");
        assert_eq!(microseconds(26.4), "0.026");
        assert_eq!(count(218_431.0), "218 k");
        assert_eq!(count(1_204_000.0), "1.20 M");
        assert_eq!(count(8_450.0), "8450");
        assert_eq!(duration(Duration::from_secs(200)), "3 min 20 s");
    }
}
