//! The time ledger as text: the arms side by side, and where they differ.

use std::fmt::Write;

use super::differences::{self, Calls};
use super::side_by_side::{Line, tables};
use super::terminal::wrap;
use super::units::per_request;
use super::units::percent_bounds;
use crate::experiment::ledger::{Column, Ledger};
use crate::measure::probe::Stage;
use crate::measure::stats::Interval;

/// Where an arm does not go.
const NOWHERE: &str = "–";

/// What is not measured; the reason stands below.
const ABSENT: &str = "n/a";
/// A row of less than this in every arm, in nanoseconds, is named below alone.
const LEAST_NS: f64 = 0.5;

/// The time ledger of one load, and where its arms differ, of which `calls` knows the system calls, and the
/// control that an arm differs from itself by up to `floor`, a ratio.
pub(super) fn text(ledger: &Ledger, calls: &Calls, floor: Option<f64>) -> String {
    let columns = &ledger.columns;
    let line = |name: &str, cell: &dyn Fn(&Column) -> String| Line {
        name: name.to_string(),
        cells: columns.iter().map(|column| vec![cell(column)]).collect(),
    };
    let absent = || ABSENT.to_string();
    let bounds = |interval: &Option<Interval>| {
        let bounds = interval.as_ref().map(percent_bounds);
        bounds.unwrap_or_else(|| NOWHERE.to_string())
    };
    // Without the sign of a zero.
    let whole = |ns: f64| format!("{:.0}", ns.round_ties_even() + 0.0);
    let heading = line("ns of server CPU per request", &|column| {
        column.label.clone()
    });
    let most = |stage: Stage| {
        let all = columns.iter().filter_map(|column| column.ns(stage));
        all.map(f64::abs).max_by(f64::total_cmp)
    };
    // Of page faults it is always told what there is to tell.
    let is_large = |stage: &&Stage| {
        **stage == Stage::PageFaults || most(**stage).is_some_and(|ns| ns >= LEAST_NS)
    };
    let none = |column: &Column, stage: Stage| match (stage, column.faults) {
        (Stage::PageFaults, _) if column.faults_untimed.is_some() => absent(),
        (Stage::PageFaults, Some(0.0)) => "0".to_string(),
        _ => NOWHERE.to_string(),
    };
    let mut lines: Vec<Line> = Stage::ALL
        .iter()
        .filter(is_large)
        .map(|stage| {
            line(stage.name(), &|column| {
                let ns = column.ns(*stage).map(whole);
                ns.unwrap_or_else(|| none(column, *stage))
            })
        })
        .collect();
    // Which policies without workers have none of.
    if columns.iter().any(|column| column.workers_ns >= 0.5) {
        lines.push(line("workers", &|column| whole(column.workers_ns)));
    }
    let absent_or_whole = |ns: Option<f64>| ns.map_or_else(absent, whole);
    lines.extend([
        line("helper threads", &|column| whole(column.helpers_ns)),
        line("unexplained", &|column| {
            let shown = Stage::ALL.iter().filter(is_large);
            let shown: f64 = shown
                .filter_map(|stage| column.ns(*stage))
                .map(f64::round_ties_even)
                .sum();
            remainder(
                column.total_ns,
                [shown, column.workers_ns, column.helpers_ns],
            )
        }),
        line("total, recording", &|column| whole(column.total_ns)),
        line("of that, ticks", &|column| {
            column.ticks_ns.map_or_else(absent, |ns| format!("{ns:.1}"))
        }),
        line("of that, wasmtime's own calls", &|column| {
            let untimed = column.calls_untimed.is_some();
            if untimed { ABSENT } else { NOWHERE }.to_string()
        }),
        line("total, not recording", &|column| {
            absent_or_whole(column.plain_ns)
        }),
        line("price of recording", &|column| {
            let price = column.price();
            price.map_or_else(absent, |price| format!("{:+.1} %", price * 100.0))
        }),
        line("  its 95 % interval", &|column| {
            bounds(&column.price_interval)
        }),
        line("  the same of nothing", &|column| {
            bounds(&column.control_interval)
        }),
        line("all cores meanwhile", &|column| {
            absent_or_whole(column.machine_ns)
        }),
        line("  the generator's of it", &|column| {
            absent_or_whole(column.generator_ns)
        }),
        line("  nobody's of the two", &|column| {
            let known = [column.plain_ns, column.generator_ns];
            let known = known.map(|ns| ns.map(f64::round_ties_even));
            absent_or_whole(match (column.machine_ns, known) {
                (Some(all), [Some(server), Some(generator)]) => {
                    Some(all.round_ties_even() - server - generator)
                }
                _ => None,
            })
        }),
    ]);
    let shown = tables(&heading, &lines, |cell| cell != NOWHERE);
    let mut text = format!("Ledger at {}\n\n{shown}\n", ledger.load.name());
    let waits = |column: &Column| column.ns(Stage::EnterWait).is_some();
    if columns.iter().any(waits) {
        let note = "io_uring_enter's task work is what was there before the wait; what comes \
                    during it is done within, and cannot be told from it.";
        let _ = writeln!(text, "\n{}", wrap(note));
    }
    for note in not_measured(columns) {
        let _ = writeln!(text, "\n{}", wrap(&note));
    }
    let small: Vec<&str> = Stage::ALL
        .iter()
        .filter(|stage| most(**stage).is_some_and(|ns| ns < LEAST_NS))
        .map(|stage| stage.name())
        .collect();
    if !small.is_empty() {
        let note = format!("Less than {LEAST_NS} ns each: {}.", small.join("; "));
        let _ = writeln!(text, "\n{}", wrap(&note));
    }
    text + &differences::text(columns, calls, floor)
}

/// What rounded `rows` leave of the rounded `total`, so that what is shown sums to the nanosecond. Rounded
/// as text is: halves to the even.
fn remainder(total: f64, rows: [f64; 3]) -> String {
    let rows: f64 = rows.into_iter().map(f64::round_ties_even).sum();
    // Without the sign of a zero.
    format!("{:.0}", total.round_ties_even() - rows + 0.0)
}

/// Page faults per request of the arms that time them.
fn timed_faults(columns: &[Column]) -> Option<String> {
    let timed = columns.iter().filter_map(|column| {
        let mut rows = column.rows.iter();
        let row = rows.find(|row| row.stage == Stage::PageFaults)?;
        let [all, own] = [column.faults?, row.times].map(per_request);
        Some(format!("{} {own} of {all}", column.label))
    });
    let timed: Vec<String> = timed.collect();
    (!timed.is_empty()).then(|| {
        format!(
            "Page faults are those of the server's own code; the others are within system calls, in whose \
             rows their time is. Per request: {}.",
            timed.join(", ")
        )
    })
}

/// Why some of what the kernel does has no row of its own, and in which rows it is.
fn not_measured(columns: &[Column]) -> Vec<String> {
    let faults = by_reason(columns, |column| {
        let arm = format!("{} {}", column.label, per_request(column.faults?));
        Some((column.faults_untimed.as_deref()?, arm))
    });
    let faults = faults.into_iter().map(|(why, arms)| {
        format!(
            "n/a: page faults: {why}; their time is within the rows in which they happen. Per request: \
             {arms}."
        )
    });
    let calls = by_reason(columns, |column| {
        Some((column.calls_untimed.as_deref()?, column.label.clone()))
    });
    let calls = calls.into_iter().map(|(why, arms)| {
        format!(
            "n/a: mmap, munmap and mprotect by wasmtime: {why}; their time is within sandbox. Of: {arms}."
        )
    });
    timed_faults(columns)
        .into_iter()
        .chain(faults)
        .chain(calls)
        .collect()
}

/// Each reason once, with the arms that have it.
fn by_reason<'a>(
    columns: &'a [Column],
    of: impl Fn(&'a Column) -> Option<(&'a str, String)>,
) -> Vec<(&'a str, String)> {
    let mut reasons: Vec<(&str, String)> = Vec::new();
    for (why, arm) in columns.iter().filter_map(of) {
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, arms)) => *arms = format!("{arms}, {arm}"),
            None => reasons.push((why, arm)),
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::ledger::Entry;
    use crate::experiment::plan::Load;
    use crate::report::terminal::COLUMNS;

    #[test]
    fn what_is_shown_sums_to_what_is_shown() {
        let stages = [
            Stage::Guest,
            Stage::Copy,
            Stage::Http,
            Stage::Send,
            Stage::Close,
        ];
        // What is less than nothing is not little.
        let rows = stages.into_iter().zip([10.5, 20.6, 30.7, -39.7, 0.4]);
        let rows = rows.map(|(stage, ns)| Entry {
            stage,
            ns,
            rounds: None,
            times: 1.0,
        });
        let column = Column {
            label: "epoll".to_string(),
            rows: rows.collect(),
            helpers_ns: 5.5,
            workers_ns: 7.6,
            unexplained_ns: 3.3,
            total_ns: 78.6,
            ..Column::default()
        };
        let ledger = Ledger {
            load: Load::Saturation,
            columns: vec![column],
        };
        let text = text(&ledger, &Calls::new(), None);
        let figure = |line: &str| line.split_whitespace().last().and_then(|n| n.parse().ok());
        let shown = text.lines().skip_while(|line| !line.starts_with("ns of"));
        let shown: Vec<f64> = shown.skip(1).map_while(figure).collect();
        let total = shown.iter().position(|ns| *ns == 79.0).expect("the total");
        let rows = [10.0, 21.0, 31.0, -40.0, 8.0, 6.0, 43.0];
        assert_eq!(shown[..total], rows, "{text}");
    }

    #[test]
    fn the_ledgers_of_six_arms_fit() {
        let entry = |stage, ns| Entry {
            stage,
            ns,
            rounds: None,
            times: 1.0,
        };
        let interval = |low, high| Some(Interval { low, high });
        let column = |nth: usize| Column {
            label: format!("io_uring inline {nth}"),
            rows: vec![
                entry(Stage::Guest, 123_456.0),
                entry(Stage::EnterWait, nth as f64),
                entry(
                    if nth == 1 {
                        Stage::PageFaults
                    } else {
                        Stage::Http
                    },
                    1500.0,
                ),
                entry(Stage::Close, 0.3),
                entry(Stage::FutexWake, 0.4),
            ],
            workers_ns: 12_345.0,
            ticks_ns: Some(12.3),
            faults: Some([0.0, 2.04, 2.5, 0.001, 0.002, 0.003][nth]),
            faults_untimed: [
                None,
                None,
                Some("it is forbidden"),
                Some("too few"),
                Some("too few"),
                None,
            ][nth]
                .map(str::to_owned),
            calls_untimed: (nth == 1).then(|| "tracefs is not mounted".to_owned()),
            unexplained_ns: -1234.0,
            total_ns: 234_567.0,
            plain_ns: Some(223_456.0),
            price_interval: interval(0.91, 1.23),
            control_interval: interval(0.89, 1.11),
            machine_ns: Some(345_678.0),
            generator_ns: Some(123_456.0),
            ..Column::default()
        };
        let ledger = Ledger {
            load: Load::Saturation,
            columns: (0..6).map(column).collect(),
        };
        let text = text(&ledger, &Calls::new(), None);
        let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
        for price in [
            "price of recording +5.0 %",
            "its 95 % interval -9.0 to +23.0",
            "the same of nothing -11.0 to +11.0",
            "unexplained -",
            "page faults 0 1500 workers",
            "page faults n/a n/a workers",
            "of that, wasmtime's own calls – n/a",
            "in whose rows their time is. Per request: io_uring inline 1 1.00 of 2.04.",
            "n/a: page faults: it is forbidden; their time is within the rows in which they happen. Per \
             request: io_uring inline 2 2.50.",
            "too few; their time is within the rows in which they happen. Per request: io_uring inline 3 \
             0.001, io_uring inline 4 0.002.",
            "n/a: mmap, munmap and mprotect by wasmtime: tracefs is not mounted; their time is within \
             sandbox. Of: io_uring inline 1.",
            "Less than 0.5 ns each: futex, waking; close.",
        ] {
            assert!(words.contains(price), "{price}: {text}");
        }
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(COLUMNS), "{text}");
        for nth in 0..6 {
            let heads = text.lines().filter(|line| line.starts_with("ns of server"));
            let label = format!("io_uring inline {nth}");
            assert!(nth == 0 || text.contains(&format!("{label} against io_uring inline 0")));
            assert_eq!(
                heads.filter(|line| line.contains(&label)).count(),
                1,
                "{text}"
            );
        }
    }
}
