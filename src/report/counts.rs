//! The count ledger as text: the program's count, and the kernel's where it has one.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::side_by_side::{Line, tables};
use super::terminal::wrap;
use super::units::{digits, percent_bounds};
use crate::experiment::counts::turns::REQUESTS_PER_TURN;
use crate::experiment::counts::{ALL_CALLS, CountColumn, CountRow, OTHER_CALLS, UNCOUNTED};
use crate::experiment::plan::PRICED_FROM;
use crate::measure::reading::Reading;

/// A figure that could not be had; the reason stands below.
const ABSENT: &str = "n/a";

/// Before a count that lacks some.
pub(super) const AT_LEAST: &str = "≥ ";

/// The counts of every arm.
pub(super) fn text(columns: &[CountColumn]) -> String {
    let heading = Line {
        name: "per request, at saturation".to_string(),
        cells: columns
            .iter()
            .map(|column| vec![column.label.clone(), "kernel".to_string()])
            .collect(),
    };
    let mut names: Vec<&str> = Vec::new();
    for row in columns.iter().flat_map(|column| &column.rows) {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    let find = |column: &'_ CountColumn, name: &str| -> Option<CountRow> {
        column.rows.iter().find(|row| row.name == name).cloned()
    };
    let lines: Vec<Line> = names
        .iter()
        .map(|name| Line {
            name: name.to_string(),
            cells: columns
                .iter()
                .map(|column| find(column, name).map_or_else(|| vec![String::new(); 2], cells))
                .collect(),
        })
        .collect();
    // Lines of which nobody has a figure are named below alone, with the reason.
    let shown = tables(&heading, &lines, |cell| !matches!(cell, "" | ABSENT));
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        for row in columns.iter().filter_map(|column| find(column, name)) {
            if let (None, Reading::Missing(reason)) = (row.program, row.kernel) {
                let names = reasons.entry(reason).or_default();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
        }
    }
    let mut text = format!("Counts\n\n{shown}\n");
    let bounds = |column: &CountColumn| -> Option<String> {
        let price = percent_bounds(column.price_interval.as_ref()?);
        let control = percent_bounds(column.control_interval.as_ref()?);
        Some(format!(" ({price}; of nothing {control})"))
    };
    let prices = |price: fn(&CountColumn) -> Option<f64>,
                  bounds: &dyn Fn(&CountColumn) -> Option<String>| {
        let of = |column: &CountColumn| {
            let price = format!("{} {:+.1} %", column.label, price(column)? * 100.0);
            Some(price + &bounds(column).unwrap_or_default())
        };
        let prices: Vec<_> = columns.iter().filter_map(of).collect();
        (!prices.is_empty()).then(|| prices.join(", "))
    };
    if let Some(prices) = prices(|column| column.price, &bounds) {
        // Blocks are made alike where a price is to be told.
        let rough = match columns.iter().all(|column| column.price_interval.is_none()) {
            true => format!(
                " Those had served for less long: {PRICED_FROM} --ledger-rounds or more tell it well."
            ),
            false => String::new(),
        };
        let sentence = format!(
            "Counting has blocks of its own; its price, against blocks beside them: {prices}.{rough}"
        );
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    let has_turns = |column: &CountColumn| {
        let mut names = column.rows.iter().map(|row| row.name.as_str());
        names.any(|name| name == REQUESTS_PER_TURN)
    };
    if columns.iter().any(has_turns) {
        let sentence = "Turns and waits are of the window, all else is of a stretch before it, in which \
             more or fewer may have come at once.";
        let _ = write!(text, "\n{}", wrap(sentence));
    }
    if let Some(prices) = prices(|column| column.price_of_tracing, &|_| None) {
        let sentence =
            format!("The kernel counts before the window only, where it costs: {prices}.");
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    for column in columns
        .iter()
        .filter(|column| !column.multiplexed.is_empty())
    {
        let share = |(name, share): &(String, f64)| format!("{name} {:.0} %", share * 100.0);
        let shares: Vec<_> = column.multiplexed.iter().map(share).collect();
        let sentence = format!(
            "{}: the processor has fewer counters than were asked for, so they took turns and these \
             are estimates, from so much of the time: {}.",
            column.label,
            shares.join(", ")
        );
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    let alone = kernels_alone(columns);
    if !alone.is_empty() {
        let sentence = format!(
            "In the kernel's \"{ALL_CALLS}\" and in no count of the program's: {}.",
            alone.join(", ")
        );
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    for column in columns {
        let Some(what) = &column.not_counted else {
            continue;
        };
        let sentence = format!(
            "{}: the program counts its own calls, at least so many; not {what}.",
            column.label
        );
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    for (reason, names) in reasons {
        let _ = write!(
            text,
            "\n{}",
            wrap(&format!("n/a: {}: {reason}.", names.join("; ")))
        );
    }
    text.push('\n');
    text
}

/// Names of system calls that the kernel has met in an arm whose program counts others alone.
fn kernels_alone(columns: &[CountColumn]) -> Vec<&str> {
    let mut names = Vec::new();
    for column in columns {
        let is_all = |row: &&CountRow| row.name == ALL_CALLS;
        let counts = column.rows.iter().find(is_all);
        if counts.is_none_or(|all| all.program.is_none()) {
            continue;
        }
        let met = |row: &&CountRow| row.program.is_none() && row.kernel.value() > Some(&0.0);
        for row in column.rows.iter().filter(met) {
            let name = row.name.as_str();
            if (UNCOUNTED.contains(&name) || name == OTHER_CALLS) && !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// The program's count and the kernel's.
fn cells(row: CountRow) -> Vec<String> {
    let kernel = match (&row.program, &row.kernel) {
        (_, Reading::Value(value)) => figure(*value),
        (None, Reading::Missing(_)) => ABSENT.to_string(),
        (Some(_), Reading::Missing(_)) => String::new(),
    };
    let least = if row.at_least { AT_LEAST } else { "" };
    let program = |count| format!("{least}{}", figure(count));
    vec![row.program.map_or_else(String::new, program), kernel]
}

/// A count per request, 0 only if nothing was counted.
pub(super) fn figure(value: f64) -> String {
    match value {
        0.0 => "0".to_string(),
        v if v < 0.0005 => "<0.001".to_string(),
        v => digits(v),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::stats::Interval;
    use crate::report::terminal::COLUMNS;

    #[test]
    fn a_price_stands_beside_the_price_of_nothing() {
        let interval = |low, high| Some(Interval { low, high });
        let text = text(&[CountColumn {
            label: "epoll".to_string(),
            rows: Vec::new(),
            not_counted: None,
            price: Some(0.009),
            price_interval: interval(0.991, 1.031),
            control_interval: interval(0.98, 1.02),
            price_of_tracing: Some(0.2),
            multiplexed: Vec::new(),
        }]);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let said = "epoll +0.9 % (-0.9 to +3.1; of nothing -2.0 to +2.0).";
        assert!(words.contains(said), "{text}");
        assert!(words.contains("it costs: epoll +20.0 %."), "{text}");
        assert!(!words.contains("served for less long"), "{text}");
    }

    #[test]
    fn the_counts_of_six_arms_fit() {
        let row = |name: &str, program, kernel| CountRow {
            name: name.to_string(),
            program,
            at_least: false,
            kernel,
        };
        let absent = || Reading::missing("a reason");
        let labels = [
            "native",
            "reuse",
            "reset",
            "fresh",
            "on-demand",
            "tokio_uring",
        ];
        let columns = labels.map(|label| CountColumn {
            label: label.to_string(),
            rows: vec![
                row("involuntary switches", Some(0.0123), absent()),
                row("run-queue wait, ns", None, Reading::Value(12_345_678.0)),
                row("cycles, user", None, absent()),
            ],
            not_counted: None,
            price: Some(0.012),
            price_interval: None,
            control_interval: None,
            price_of_tracing: None,
            multiplexed: vec![("cache misses".to_string(), 0.43)],
        });
        let text = text(&columns);
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(COLUMNS), "{text}");
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for label in labels {
            assert!(words.contains(&format!("{label} +1.2 %")), "{text}");
            let heads = text.lines().filter(|line| line.starts_with("per request"));
            assert_eq!(
                heads.filter(|line| line.contains(label)).count(),
                1,
                "{text}"
            );
        }
        assert!(text.contains("n/a: cycles, user: a reason."), "{text}");
        assert!(
            words.contains("Those had served for less long: 4 --ledger-rounds"),
            "{text}"
        );
        let took_turns = "estimates, from so much of the time: cache misses 43 %.";
        assert_eq!(words.matches(took_turns).count(), 6, "{text}");
    }
}
