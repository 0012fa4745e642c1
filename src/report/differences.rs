//! Where the arms of a time ledger differ from the first: each row's change, and a sentence.

use std::collections::HashMap;
use std::fmt::Write;

use super::side_by_side::{Line, tables};
use super::terminal::wrap;
use super::units::digits;
use crate::experiment::differences::{Change, differences};
use crate::experiment::ledger::Column;

/// System calls per request of each arm that counts them, by its label.
pub(super) type Calls = HashMap<String, f64>;

/// An arm that has no such row, or one that does not differ in it.
const NOTHING: &str = "–";
/// In the place of a share: see [`Change::is_apart`].
const OVERLAPS: &str = "~";
/// Rows that a sentence names on either side.
const NAMED: usize = 3;
/// Nanoseconds per request that round to none.
const LEAST_NS: f64 = 0.5;
/// System calls per request that make no difference.
const LEAST_CALLS: f64 = 0.05;

/// A table and a sentence for each arm but the first; nothing if there is no other. Of a total that is no
/// larger than what the control shows, `floor`, a ratio, no shares are told.
pub(super) fn text(columns: &[Column], calls: &Calls, floor: Option<f64>) -> String {
    let Some((base, others)) = columns
        .split_first()
        .filter(|(_, others)| !others.is_empty())
    else {
        return String::new();
    };
    let made_up_ns = floor.map_or(0.0, |floor| (floor - 1.0) * base.total_ns);
    let mut text = format!("\n{}\n", table(base, others, made_up_ns));
    if others.iter().any(|column| {
        let changes = differences(base, column);
        changes.iter().any(|change| !change.is_apart)
    }) {
        let note = format!(
            "{OVERLAPS}: some round of the one arm was above, and some below, one of the other's: no more \
             than what an arm differs by from itself."
        );
        let _ = write!(text, "\n{}\n", wrap(&note));
    }
    for column in others {
        let sentence = sentence(base, column, calls, made_up_ns);
        let _ = write!(text, "\n{}", wrap(&sentence));
    }
    text.push('\n');
    text
}

fn signed(ns: f64) -> String {
    format!("{ns:+.0}")
}

/// Each row's change and its share of the whole, the largest of any arm first; then the remainder,
/// and the whole.
fn table(base: &Column, others: &[Column], made_up_ns: f64) -> String {
    let changes: Vec<_> = others
        .iter()
        .map(|column| differences(base, column))
        .collect();
    let mut largest: Vec<(&str, f64)> = Vec::new();
    for Change { name, ns, .. } in changes.iter().flatten() {
        match largest.iter_mut().find(|(known, _)| known == name) {
            Some((_, most)) => *most = most.max(ns.abs()),
            None => largest.push((name, ns.abs())),
        }
    }
    largest.sort_by(|a, b| b.1.total_cmp(&a.1));
    let whole = |column: &Column| column.total_ns - base.total_ns;
    let cells = |column: &Column, change: f64, is_apart: bool| {
        let whole = whole(column);
        let share = if !is_apart {
            OVERLAPS.to_string()
        } else if whole.abs() < made_up_ns.max(LEAST_NS) {
            NOTHING.to_string()
        } else {
            // Without the sign of a zero.
            format!("{:.0} %", (change / whole * 100.0).round() + 0.0)
        };
        vec![signed(change), share]
    };
    let mut lines: Vec<Line> = largest
        .iter()
        .map(|(name, _)| Line {
            name: name.to_string(),
            cells: others
                .iter()
                .zip(&changes)
                .map(|(column, changes)| {
                    let change = changes.iter().find(|change| change.name == *name);
                    change.map_or(vec![NOTHING.to_string(); 2], |change| {
                        cells(column, change.ns, change.is_apart)
                    })
                })
                .collect(),
        })
        .collect();
    let line = |name: &str, change: &dyn Fn(&Column) -> f64| Line {
        name: name.to_string(),
        cells: others
            .iter()
            .map(|column| cells(column, change(column), true))
            .collect(),
    };
    // What is left of the whole as it is shown: the shown ones sum to it.
    lines.push(line("unexplained", &|column| {
        let rows = differences(base, column);
        let rows: f64 = rows.iter().map(|change| change.ns.round_ties_even()).sum();
        whole(column).round_ties_even() - rows
    }));
    lines.push(line("total, recording", &whole));
    let heading = Line {
        name: format!("ns against {}", base.label),
        cells: others
            .iter()
            .map(|column| vec![column.label.clone(), "share".to_string()])
            .collect(),
    };
    tables(&heading, &lines, |cell| cell != NOTHING)
}

/// What the arm saves, and what it spends more.
fn sentence(base: &Column, column: &Column, calls: &Calls, made_up_ns: f64) -> String {
    let changes = differences(base, column);
    let list = |sign: f64| {
        let these = changes
            .iter()
            .filter(|change| change.is_apart && change.ns * sign > 0.0);
        let named: Vec<_> = these
            .take(NAMED)
            .map(|change| format!("{} µs in {}", digits(change.ns.abs() / 1000.0), change.name))
            .collect();
        if named.is_empty() {
            "nothing".to_string()
        } else {
            named.join(", ")
        }
    };
    let of = |column: &Column| calls.get(&column.label);
    let fewer = match (of(base), of(column)) {
        (Some(base), Some(here)) if (base - here).abs() < LEAST_CALLS => {
            "makes as many system calls and ".to_string()
        }
        (Some(base), Some(here)) => format!(
            "makes {:.1} system calls {} and ",
            (base - here).abs(),
            if here < base { "fewer" } else { "more" }
        ),
        _ => String::new(),
    };
    let whole = column.total_ns - base.total_ns;
    let remainder = column.unexplained_ns - base.unexplained_ns;
    let unexplained = if remainder.abs() < LEAST_NS {
        String::new()
    } else {
        format!("; {} µs of it is unexplained", micros(remainder))
    };
    let of_noise = if whole.abs() < made_up_ns {
        format!(
            ", no more than the control's ±{} µs",
            digits(made_up_ns / 1000.0)
        )
    } else {
        String::new()
    };
    format!(
        "{} against {}: {} µs{of_noise}. It {fewer}saves {}, and spends {} more{unexplained}.",
        column.label,
        base.label,
        micros(whole),
        list(-1.0),
        list(1.0),
    )
}

/// With its sign.
fn micros(ns: f64) -> String {
    let sign = if ns < 0.0 { "−" } else { "+" };
    format!("{sign}{}", digits(ns.abs() / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::ledger::Entry;
    use crate::measure::probe::Stage;
    use crate::measure::stats::Interval;

    fn column(label: &str, rows: &[(Stage, f64)], unexplained_ns: f64) -> Column {
        let entry = |&(stage, ns): &(Stage, f64)| Entry {
            stage,
            ns,
            rounds: None,
            times: 1.0,
        };
        Column {
            label: label.to_string(),
            rows: rows.iter().map(entry).collect(),
            unexplained_ns,
            total_ns: rows.iter().map(|(_, ns)| ns).sum::<f64>() + unexplained_ns,
            ..Column::default()
        }
    }

    fn said(calls: &[(&str, f64)], floor: Option<f64>) -> String {
        let columns = [
            column(
                "epoll",
                &[(Stage::Receive, 800.0), (Stage::Http, 100.0)],
                5.0,
            ),
            column(
                "io_uring",
                &[(Stage::EnterTaskWork, 290.0), (Stage::Http, 110.0)],
                405.0,
            ),
        ];
        let calls = calls
            .iter()
            .map(|(label, calls)| (label.to_string(), *calls));
        text(&columns, &calls.collect(), floor)
    }

    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_rows_change_has_its_share_and_the_largest_is_first() {
        let text = words(&said(&[], None));
        let table = "ns against epoll io_uring share recv -800 800 % io_uring_enter, task work +290 \
                     -290 % HTTP +10 -10 % unexplained +400 -400 % total, recording -100 100 %";
        assert!(text.contains(table), "{text}");
    }

    /// Of whichever arm: what is small in one may be what tells another apart.
    #[test]
    fn rows_are_in_the_order_of_the_largest_change_of_any_arm() {
        let columns = [
            column("first", &[(Stage::Receive, 800.0)], 0.0),
            column(
                "second",
                &[(Stage::Receive, 700.0), (Stage::Send, 20.0)],
                0.0,
            ),
            column(
                "third",
                &[(Stage::Receive, 790.0), (Stage::Send, 900.0)],
                0.0,
            ),
        ];
        let text = words(&text(&columns, &Calls::new(), None));
        let table = "ns against first second share third share send +20 -25 % +900 101 % recv -100 \
                     125 % -10 -1 %";
        assert!(text.contains(table), "{text}");
    }

    /// It is 100 of 905 ns.
    #[test]
    fn what_the_control_shows_too_has_no_shares() {
        let check = |floor: f64, within: bool| {
            let text = words(&said(&[], Some(floor)));
            assert_eq!(text.contains("recv -800 – "), within, "{floor}: {text}");
            assert_eq!(text.contains("recv -800 800 %"), !within, "{floor}: {text}");
            let sentence = "io_uring against epoll: −0.100 µs, no more than the control's ±";
            assert_eq!(text.contains(sentence), within, "{floor}: {text}");
        };
        check(1.0, false);
        check(1.1, false);
        check(1.12, true);
        check(1.5, true);
    }

    /// However large it is.
    #[test]
    fn a_remainder_is_said_apart_and_is_no_cause() {
        let text = words(&said(&[], None));
        let sentence = "io_uring against epoll: −0.100 µs. It saves 0.800 µs in recv, and spends 0.290 \
                        µs in io_uring_enter, task work, 0.010 µs in HTTP more; +0.400 µs of it is \
                        unexplained.";
        assert!(text.ends_with(sentence), "{text}");
    }

    #[test]
    fn system_calls_are_said_where_both_are_known() {
        let check = |calls: &[(&str, f64)], expected: &str| {
            let text = words(&said(calls, None));
            let said = text.contains(expected);
            assert!(said, "{calls:?}: {text}");
        };
        let fewer = "It makes 1.9 system calls fewer and saves 0.800";
        check(&[("epoll", 2.1), ("io_uring", 0.2)], fewer);
        let more = "It makes 1.9 system calls more and saves 0.800";
        check(&[("epoll", 0.2), ("io_uring", 2.1)], more);
        let same = "It makes as many system calls and saves 0.800";
        check(&[("epoll", 2.0), ("io_uring", 2.01)], same);
        check(&[("epoll", 2.0)], "µs. It saves 0.800");
    }

    /// 800 ns less in recv is said of rounds that are apart alone.
    #[test]
    fn what_rounds_of_both_arms_have_is_no_cause() {
        let check = |[first, other]: [[f64; 2]; 2], is_apart: bool| {
            let of = |label: &str, ns: f64, [low, high]: [f64; 2]| {
                let mut column = column(label, &[(Stage::Receive, ns)], 0.0);
                column.rows[0].rounds = Some(Interval { low, high });
                column
            };
            let columns = [of("epoll", 1000.0, first), of("io_uring", 200.0, other)];
            let text = words(&text(&columns, &Calls::new(), None));
            let of_recv = if is_apart { "100 %" } else { "~" };
            assert!(
                text.contains(&format!("recv -800 {of_recv} unexplained")),
                "{text}"
            );
            let saved = if is_apart {
                "0.800 µs in recv"
            } else {
                "nothing"
            };
            assert!(
                text.contains(&format!("It saves {saved}, and spends nothing")),
                "{text}"
            );
            assert_eq!(text.contains("~: some round"), !is_apart, "{text}");
        };
        check([[900.0, 1100.0], [100.0, 300.0]], true);
        check([[900.0, 1100.0], [100.0, 899.0]], true);
        check([[900.0, 1100.0], [100.0, 901.0]], false);
        check([[100.0, 1900.0], [150.0, 250.0]], false);
    }

    #[test]
    fn one_arm_differs_from_nobody() {
        assert_eq!(text(&[column("epoll", &[], 0.0)], &Calls::new(), None), "");
    }
}
