//! The count ledger as text: the program's count, and the kernel's where it has one.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::side_by_side::{Line, tables};
use super::terminal::wrap;
use super::units::{per_request, percent_bounds};
use crate::experiment::counts::turns::REQUESTS_PER_TURN;
use crate::experiment::counts::{
    ALL_CALLS, CountColumn, CountRow, NOT_PER_REQUEST, OTHER_CALLS, PROGRAMS_ALONE, TOLERANCE,
    UNCOUNTED,
};
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
    let names = names(columns);
    let find = |column: &'_ CountColumn, name: &str| -> Option<CountRow> {
        column.rows.iter().find(|row| row.name == name).cloned()
    };
    let line = |name: &str| Line {
        name: name.to_string(),
        cells: columns
            .iter()
            .map(|column| find(column, name).map_or_else(|| vec![String::new(); 2], cells))
            .collect(),
    };
    let is_other = |name: &&&str| NOT_PER_REQUEST.contains(*name);
    let others: Vec<_> = names
        .iter()
        .filter(is_other)
        .map(|name| line(name))
        .collect();
    let lines: Vec<_> = names
        .iter()
        .filter(|name| !is_other(name))
        .map(|name| line(name))
        .collect();
    // Lines of which nobody has a figure are named below alone, with the reason.
    let says = |cell: &str| !matches!(cell, "" | ABSENT);
    let mut shown = tables(&heading, &lines, says);
    if !others.is_empty() {
        let heading = Line {
            name: "each, not per request".to_string(),
            cells: heading.cells,
        };
        shown += &format!("\n\n{}", tables(&heading, &others, says));
    }
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    let mut alone = false;
    for name in names {
        for row in columns.iter().filter_map(|column| find(column, name)) {
            if let Some(reason) = missing(&row) {
                alone |= row.program.is_some();
                let names = reasons.entry(reason.to_string()).or_default();
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
    let kernels = kernels_alone(columns);
    if !kernels.is_empty() {
        let sentence = format!(
            "In the kernel's \"{ALL_CALLS}\" and in no count of the program's: {}.",
            kernels.join(", ")
        );
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    let width = |column: &CountColumn| {
        let width = column.compared_within.filter(|width| *width > TOLERANCE)?;
        Some(format!("{} {:.1} %", column.label, width * 100.0))
    };
    let widths: Vec<_> = columns.iter().filter_map(width).collect();
    if !widths.is_empty() {
        let sentence = format!(
            "The program is asked before and after the kernel is, so the two counts were compared to \
             within so much, at the widest, where that is more than 1 %: {}.",
            widths.join(", ")
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
    if alone {
        let sentence =
            "Where the program has a figure and the kernel n/a, nobody compared the two.";
        let _ = write!(text, "\n{}", wrap(sentence));
    }
    text.push('\n');
    text
}

/// Every row's name once, in an order that is each column's own: what a column has besides stands where
/// it stands there.
fn names(columns: &[CountColumn]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for column in columns {
        let mut at = 0;
        for row in &column.rows {
            match names.iter().position(|name| *name == row.name) {
                Some(known) => at = known + 1,
                None => {
                    names.insert(at, &row.name);
                    at += 1;
                }
            }
        }
    }
    names
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

/// Why the kernel has no count where it could have one.
fn missing(row: &CountRow) -> Option<&str> {
    match &row.kernel {
        Reading::Missing(reason) if reason != PROGRAMS_ALONE => Some(reason),
        _ => None,
    }
}

/// The program's count and the kernel's.
fn cells(row: CountRow) -> Vec<String> {
    let kernel = match (&row.kernel, missing(&row)) {
        (Reading::Value(value), _) => per_request(*value),
        (Reading::Missing(_), Some(_)) => ABSENT.to_string(),
        (Reading::Missing(_), None) => String::new(),
    };
    let least = if row.at_least { AT_LEAST } else { "" };
    let program = |count| format!("{least}{}", per_request(count));
    vec![row.program.map_or_else(String::new, program), kernel]
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
            compared_within: None,
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

    /// Without prices.
    fn column(label: &str, rows: Vec<CountRow>) -> CountColumn {
        CountColumn {
            label: label.to_string(),
            rows,
            ..CountColumn::default()
        }
    }

    /// The program's figure stands alone then, and looked like one that was compared.
    #[test]
    fn a_count_that_the_kernel_refused_says_so_beside_the_programs() {
        let row = |name: &str, reason: &str| CountRow {
            name: name.to_string(),
            program: Some(2.0),
            at_least: false,
            kernel: Reading::missing(reason),
        };
        let rows = [("system calls", "refused"), ("bytes in", PROGRAMS_ALONE)];
        let rows = rows.map(|(name, reason)| row(name, reason)).into();
        let text = text(&[column("epoll", rows)]);
        let line = |name: &str| text.lines().find(|line| line.starts_with(name));
        let words = |name| line(name).map(|line| line.split_whitespace().collect::<Vec<_>>());
        assert_eq!(
            words("system calls"),
            Some(vec!["system", "calls", "2.00", "n/a"])
        );
        assert_eq!(
            words("bytes in"),
            Some(vec!["bytes", "in", "2.00"]),
            "{text}"
        );
        assert!(text.contains("n/a: system calls: refused."), "{text}");
        assert!(text.contains("nobody compared the two"), "{text}");
    }

    #[test]
    fn calls_stay_together_and_what_is_no_share_of_a_request_apart() {
        let column = |label: &str, names: &[&str]| {
            let row = |name: &&str| CountRow {
                name: name.to_string(),
                program: Some(1.0),
                at_least: false,
                kernel: Reading::missing(PROGRAMS_ALONE),
            };
            column(label, names.iter().map(row).collect())
        };
        let columns = [
            column("blocking", &["system calls", "recv", "bytes in"]),
            column(
                "epoll",
                &["system calls", "epoll_wait", "turn, ns", "bytes in"],
            ),
        ];
        let text = text(&columns);
        let places = ["recv", "epoll_wait", "bytes in", "each, not", "turn, ns"];
        let places = places.map(|name| text.find(&format!("\n{name}")));
        assert!(places.iter().all(Option::is_some), "{text}");
        assert!(places[0].max(places[1]) < places[2], "{text}");
        assert!(places[2..].is_sorted(), "{text}");
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
                row(
                    "involuntary switches",
                    Some(0.0123),
                    Reading::missing(PROGRAMS_ALONE),
                ),
                row("run-queue wait, ns", None, Reading::Value(12_345_678.0)),
                row("cycles, user", None, absent()),
            ],
            not_counted: None,
            compared_within: None,
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
