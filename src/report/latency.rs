//! How long requests typically take on each arm, against the first, below the table of that load.

use comfy_table::{CellAlignment, Table, presets};

use super::terminal::{is_itself, wrap};
use super::units::microseconds;
use crate::experiment::latency::{Latency, LatencyRow};
use crate::measure::stats::Outcome;

/// A row for each arm and the control, and what the control allows.
pub fn latency(latency: &Latency) -> String {
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    shown.set_header(["typical p99", "µs", "ratio", "95 % CI", ""]);
    for row in &latency.rows {
        shown.add_row(cells(row));
    }
    for (nth, column) in shown.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if (1..4).contains(&nth) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let allows = match &latency.control {
        Ok(control) => format!(
            "Of every thousand answers in a row the 99th percentile, of those the median; {} pairs, one a \
             round. The control is an arm against itself: effects under {:.1} % are not claimed.",
            control.n,
            (control.floor - 1.0) * 100.0
        ),
        Err(why) => format!("There is no A/A control, so nothing is claimed: {why}."),
    };
    let table = shown.to_string();
    let lines: Vec<_> = table.lines().map(str::trim_end).collect();
    format!("{}\n\n{}\n", lines.join("\n"), wrap(&allows))
}

fn cells(row: &LatencyRow) -> [String; 5] {
    let (ratio, interval) = match &row.ratio {
        Ok(ratio) if is_itself(ratio) => ("1".to_string(), String::new()),
        Ok(ratio) => (
            format!("{:.3}", ratio.ratio),
            format!("{:.3}–{:.3}", ratio.interval.low, ratio.interval.high),
        ),
        Err(_) => ("n/a".to_string(), String::new()),
    };
    let said = match (&row.ratio, row.claim.as_ref().map(|claim| claim.outcome)) {
        (Ok(ratio), Some(Outcome::FindingCandidate)) if ratio.ratio < 1.0 => "lower",
        (Ok(_), Some(Outcome::FindingCandidate)) => "higher",
        (Ok(_), Some(Outcome::BelowFloor)) => "within the control",
        (Ok(_), Some(Outcome::NotSignificant)) => "may be chance",
        (Ok(_), Some(Outcome::ControlInvalid)) => "the control failed",
        _ => "",
    };
    [
        row.label.clone(),
        row.p99_ns.map_or_else(|| "n/a".to_string(), microseconds),
        ratio,
        interval,
        said.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stats::{Claim, Control, Interval, Method, Ratio};
    use crate::report::terminal::COLUMNS;

    fn row(label: &str, low: f64, high: f64, outcome: Option<Outcome>) -> LatencyRow {
        let ratio = Ratio {
            ratio: (low * high).sqrt(),
            interval: Interval { low, high },
            p_value: 0.01,
            confidence: 0.95,
            n: 40,
            missing: 0,
            method: Method::Bootstrap,
        };
        let claim = outcome.map(|outcome| Claim {
            outcome,
            sentence: String::new(),
        });
        LatencyRow {
            label: label.to_string(),
            p99_ns: Some(123_456.0),
            ratio: Ok(ratio),
            claim,
        }
    }

    #[test]
    fn each_arm_is_read_against_the_first_and_the_control_says_what_counts() {
        let wide = Interval {
            low: 0.9,
            high: 1.1,
        };
        let said = Latency {
            rows: vec![
                row("epoll", 1.0, 1.0, None),
                row("io_uring", 0.5, 0.6, Some(Outcome::FindingCandidate)),
                row("signal", 1.5, 1.6, Some(Outcome::FindingCandidate)),
                row("tokio_uring", 0.96, 1.08, Some(Outcome::BelowFloor)),
                row("epoll (control)", 0.93, 1.06, None),
            ],
            control: Ok(Control {
                interval_99: wide,
                interval_95: wide,
                floor: 1.075,
                n: 40,
                missing: 0,
            }),
        };
        let text = latency(&said);
        let line = |label: &str| {
            let line = text.lines().find(|line| line.starts_with(label)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(line("epoll "), "epoll 123 1");
        assert_eq!(line("io_uring"), "io_uring 123 0.548 0.500–0.600 lower");
        assert_eq!(line("signal"), "signal 123 1.549 1.500–1.600 higher");
        assert!(
            line("tokio_uring").ends_with("within the control"),
            "{text}"
        );
        assert!(line("epoll (control)").ends_with("0.930–1.060"), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for said in ["40 pairs, one a round", "effects under 7.5 %"] {
            assert!(words.contains(said), "{text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(COLUMNS), "{text}");
    }
}
