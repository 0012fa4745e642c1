//! What the table of saturation means, in two sentences: what was found, and why that may be.

use super::units::per_request;
use crate::experiment::analysis::{Analysis, LoadTable, Row};
use crate::experiment::counts::ALL_CALLS;
use crate::measure::stats::Outcome;

/// What the table means, in two sentences: what was found, and why that may be.
pub(super) fn sentences(analysis: &Analysis) -> Vec<String> {
    let Some(table) = analysis.tables.first() else {
        return vec!["Nothing was measured.".to_string()];
    };
    let first = of_saturation(table);
    let calls = table.rows[..table.rows.len() - 1]
        .iter()
        .map(|row| format!("{} {}", row.label, calls_of(row, analysis)))
        .collect::<Vec<_>>()
        .join(", ");
    vec![
        format!("At saturation, {first}."),
        format!(
            "System calls per request: {calls}; fewer calls are not less time, since the work they \
             asked for is still done."
        ),
    ]
}

/// What the ratios say: found, no larger than the control's own, not proven, or not to be had.
fn of_saturation(table: &LoadTable) -> String {
    let base = &table.rows[0];
    let (mut found, mut same, mut open, mut unknown) = (vec![], vec![], vec![], None);
    // What the control shows of an arm and itself is no difference.
    let floor = table.control.as_ref().map_or(1.0, |control| control.floor);
    for row in &table.rows[1..table.rows.len() - 1] {
        let outcome = row.claim.as_ref().map(|claim| claim.outcome);
        match (&row.cpu_ratio, outcome.unwrap_or(Outcome::NotSignificant)) {
            (Ok(ratio), Outcome::FindingCandidate) if ratio.ratio < 1.0 => found.push(format!(
                "{} needs {:.0} % less server CPU per request than {}",
                row.label,
                (1.0 - ratio.ratio) * 100.0,
                base.label
            )),
            (Ok(ratio), Outcome::FindingCandidate) => found.push(format!(
                "{} needs {:.0} % more server CPU per request than {}",
                row.label,
                (ratio.ratio - 1.0) * 100.0,
                base.label
            )),
            (Ok(ratio), _) if ratio.interval.low > 1.0 / floor && ratio.interval.high < floor => {
                same.push(row.label.clone());
            }
            (Ok(ratio), _) => open.push(format!(
                "{} {:.2} times ({:.2} to {:.2})",
                row.label, ratio.ratio, ratio.interval.low, ratio.interval.high
            )),
            (Err(reason), _) => unknown = Some(reason),
        }
    }
    let mut parts = Vec::new();
    if !found.is_empty() {
        parts.push(found.join(", and "));
    }
    if !same.is_empty() {
        let same = same.join(", ");
        parts.push(format!(
            "between {same} and {} this run shows no difference",
            base.label
        ));
    }
    if !open.is_empty() {
        let open = open.join(", ");
        parts.push(format!("not proven against {}: {open}", base.label));
    }
    if let Some(reason) = unknown {
        parts.push(format!("no ratio: {reason}"));
    }
    if parts.is_empty() {
        parts.push(format!("{} was measured alone", base.label));
    }
    parts.join("; ")
}

/// System calls per request, with whose count it is where that is not the program's.
fn calls_of(row: &Row, analysis: &Analysis) -> String {
    let counted = analysis.counts.iter().find(|arm| arm.label == row.label);
    let by_kernel = counted.and_then(|arm| arm.rows.iter().find(|row| row.name == ALL_CALLS));
    let by_kernel = by_kernel.and_then(|row| row.kernel.value());
    match (row.system_calls, row.system_calls_at_least, by_kernel) {
        (Some(calls), ..) => per_request(calls),
        (None, Some(_), Some(all)) => format!("{} (by the kernel's count)", per_request(*all)),
        (None, Some(own), None) => format!("at least {}", per_request(own)),
        (None, None, Some(all)) => {
            format!(
                "{} (its runtime's, by the kernel's count)",
                per_request(*all)
            )
        }
        (None, None, None) => "n/a (its runtime's are counted by the kernel alone)".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::plan::Load;
    use crate::measure::stats::{Claim, Control, Interval};
    use crate::report::terminal::tests::row;

    #[test]
    fn what_is_not_proven_is_not_said_to_be_the_same() {
        let check = |low: f64, high: f64, outcome: Outcome, expected: &str| {
            let mut other = row("reset", false);
            let ratio = (low * high).sqrt();
            if let Ok(of_other) = &mut other.cpu_ratio {
                (of_other.ratio, of_other.interval) = (ratio, Interval { low, high });
            }
            other.claim = Some(Claim {
                outcome,
                sentence: String::new(),
            });
            let bounds = Interval {
                low: 0.95,
                high: 1.04,
            };
            let table = LoadTable {
                load: Load::Saturation,
                rate: None,
                rows: vec![row("reuse", false), other, row("reuse (control)", false)],
                control: Ok(Control {
                    interval_99: bounds,
                    interval_95: bounds,
                    floor: 1.0 / 0.95,
                    n: 12,
                    missing: 0,
                }),
                latency: None,
            };
            assert_eq!(of_saturation(&table), expected);
        };
        let same = "between reset and reuse this run shows no difference";
        check(0.97, 1.03, Outcome::BelowFloor, same);
        let open = "not proven against reuse: reset 1.00 times (0.90 to 1.11)";
        check(0.9, 1.0 / 0.9, Outcome::BelowFloor, open);
        let open = "not proven against reuse: reset 12.00 times (6.00 to 24.00)";
        check(6.0, 24.0, Outcome::ControlInvalid, open);
        let found = "reset needs 41 % more server CPU per request than reuse";
        check(1.4, 1.42, Outcome::FindingCandidate, found);
    }

    #[test]
    fn arms_without_ratios_were_not_measured_alone() {
        let mut other = row("reset", false);
        other.cpu_ratio = Err("two rounds are needed".to_string());
        let mut table = LoadTable {
            load: Load::Saturation,
            rate: None,
            rows: vec![row("reuse", false), other, row("reuse (control)", false)],
            control: Err("none".to_string()),
            latency: None,
        };
        assert_eq!(of_saturation(&table), "no ratio: two rounds are needed");
        table.rows.remove(1);
        assert_eq!(of_saturation(&table), "reuse was measured alone");
    }
}
