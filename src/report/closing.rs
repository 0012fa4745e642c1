//! What a server says at its end of how its loops and its policies did.

use comfy_table::{CellAlignment, Table, presets};

use super::terminal::wrap;
use super::units::{count, microseconds};
use crate::measure::turns::{Turn, TurnsSnapshot};
use crate::served::ServedSnapshot;

/// How the turns of the loops were, and the longest of them one by one.
pub fn turns(turns: &TurnsSnapshot) -> String {
    let mean_ns = turns.away_ns as f64 / turns.turns.max(1) as f64;
    let mut text = format!(
        "turns: {}; away from events for {} µs in the mean, {} µs at most; at most {} requests \
         answered in one\n",
        turns.turns,
        microseconds(mean_ns),
        microseconds(turns.longest_ns as f64),
        turns.most_answered,
    );
    let longest = turns.longest.iter().filter(|turn| turn.away_ns > 0);
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "longest turns, µs",
        "began at, s",
        "answered",
        "resumed",
        "came home",
        "woken",
        "their wait, µs",
    ]);
    for turn in longest {
        table.add_row(row(turn));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    if !table.is_empty() {
        text += &format!("{table}\n");
    }
    text
}

/// Times by CLOCK_MONOTONIC, as tracers have them.
fn row(turn: &Turn) -> [String; 7] {
    let work = &turn.work;
    [
        microseconds(turn.away_ns as f64),
        format!("{:.6}", turn.at_ns as f64 / 1e9),
        work.answered.to_string(),
        work.resumed.to_string(),
        work.come_home.to_string(),
        work.woken.to_string(),
        microseconds(work.queued_ns as f64),
    ]
}

/// What the policies did besides running handlers at once, if anything.
pub fn offload(served: &ServedSnapshot) -> Option<String> {
    let mut parts = Vec::new();
    if served.come_home > 0 {
        parts.push(format!(
            "{} answers of other threads for {} wake-ups, {} spared",
            count(served.come_home as f64),
            count(served.woken as f64),
            count(served.come_home.saturating_sub(served.woken) as f64),
        ));
    }
    if served.half_run > 0 {
        let held_kib = served.held_bytes as f64 / served.half_run as f64 / 1024.0;
        let begun_again = match served.begun_again {
            0 => String::new(),
            again => format!(" ({again} of them begun again, the first of their handlers)"),
        };
        parts.push(format!(
            "handlers suspended {}{begun_again}, resumed {}, each holding {held_kib:.0} KiB (its instance's memory \
             and what it had touched of its stack)",
            served.half_run, served.resumed,
        ));
    }
    if served.queued > 0 {
        let mean_ns = served.queued_ns as f64 / served.queued as f64;
        parts.push(format!(
            "{} requests waited to be begun, {} µs in the mean",
            count(served.queued as f64),
            microseconds(mean_ns),
        ));
    }
    if served.cancelled > 0 {
        parts.push(format!("{} given up by their clients", served.cancelled));
    }
    (!parts.is_empty()).then(|| format!("offload: {}\n", parts.join("; ")))
}

/// What went wrong for clients, class by class, if anything: as the bodies of the answers have it, but that all
/// traps are one class.
pub fn faults(served: &ServedSnapshot) -> Option<String> {
    let classes = [
        (served.deadline_passed, "deadline"),
        (served.trapped, "trap"),
        (served.stack_overflowed, "stack overflow"),
        (served.memory_refused, "memory limit"),
        (served.table_refused, "table limit"),
        (served.panicked, "panic"),
        (served.request_too_large, "request too large"),
        (served.response_too_large, "response too large"),
        (served.header_lines_too_large, "header lines too large"),
        (served.bad_records, "bad record"),
        (served.bad_header_lines, "bad header lines"),
        (served.no_instance, "no instance free"),
        (served.no_route, "no route"),
        (served.queue_full, "queue full"),
        (served.no_thread, "no thread"),
        (served.shut_down, "shutting down"),
    ];
    let streams = [
        (served.target_too_long, "target too long"),
        (served.head_too_large, "head too large"),
        (served.body_too_large, "body too large"),
    ];
    let mut parts = Vec::new();
    if served.failed > 0 {
        let (failed, of) = (served.failed, served.answered);
        parts.push(format!(
            "failed {failed} of {of} requests: {}",
            list(&classes)
        ));
    }
    if served.rejected > 0 {
        let known: u64 = streams.iter().map(|(n, _)| n).sum();
        let other = [(served.rejected.saturating_sub(known), "other")];
        let reasons = list(&[&streams[..], &other[..]].concat());
        parts.push(format!("rejected {} streams: {reasons}", served.rejected));
    }
    if served.refused > 0 {
        parts.push(format!(
            "refused {} connections over the limit",
            served.refused
        ));
    }
    if served.timed_out > 0 {
        parts.push(format!("timed out {} connections", served.timed_out));
    }
    if served.accept_failed > 0 {
        parts.push(format!("could not accept {} times", served.accept_failed));
    }
    (!parts.is_empty()).then(|| format!("{}\n", wrap(&parts.join("; "))))
}

/// Those that happened: `deadline 1, trap 3`.
fn list(counted: &[(u64, &str)]) -> String {
    let happened = counted.iter().filter(|(n, _)| *n > 0);
    let each = happened.map(|(n, name)| format!("{name} {n}"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Failure;
    use crate::served::Served;

    #[test]
    fn each_fault_is_said_in_its_class() {
        assert_eq!(faults(&ServedSnapshot::default()), None);
        let served = ServedSnapshot {
            answered: 9,
            failed: 4,
            deadline_passed: 1,
            trapped: 3,
            // A refused connection is rejected too.
            rejected: 4,
            body_too_large: 2,
            refused: 1,
            timed_out: 5,
            ..ServedSnapshot::default()
        };
        let said = faults(&served).expect("something happened");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            said,
            "failed 4 of 9 requests: deadline 1, trap 3; rejected 4 streams: body too large 2, other \
             2; refused 1 connections over the limit; timed out 5 connections"
        );
    }

    /// By the name that its client was told.
    #[test]
    fn each_failure_has_a_counter_and_is_said_by_its_name() {
        let named = [
            Failure::Panic,
            Failure::Deadline,
            Failure::Stack,
            Failure::Memory,
            Failure::Table,
            Failure::RequestTooLarge,
            Failure::ResponseTooLarge,
            Failure::HeaderLinesTooLarge,
            Failure::BadRecord("its kind is unknown"),
            Failure::BadHeaderLines("a CR"),
            Failure::Exhausted,
            Failure::NoRoute,
            Failure::QueueFull,
            Failure::NoThread,
            Failure::ShuttingDown,
        ];
        let named = named.map(|failure| (failure, failure.reason()));
        let grouped = [
            (
                Failure::Trap {
                    class: "unreachable",
                },
                "trap",
            ),
            (Failure::Unsupported("wait"), "bad record"),
        ];
        for (failure, name) in named.into_iter().chain(grouped) {
            let served = Served::default();
            served.answered.add(1);
            served.fail(&failure);
            let said = faults(&served.snapshot());
            let expected = format!("failed 1 of 1 requests: {name} 1\n");
            assert_eq!(said, Some(expected), "{failure}");
        }
    }

    #[test]
    fn what_did_not_happen_is_not_said() {
        assert_eq!(offload(&ServedSnapshot::default()), None);
        let served = ServedSnapshot {
            half_run: 2,
            resumed: 30,
            held_bytes: 2 * 136 * 1024,
            queued: 4,
            queued_ns: 10_000,
            ..ServedSnapshot::default()
        };
        let said = offload(&served).expect("something happened");
        assert!(said.contains("suspended 2, resumed 30, each holding 136 KiB"));
        assert!(said.contains("4 requests waited to be begun, 2.50 µs"));
        assert!(!said.contains("wake-ups"));
        let served = ServedSnapshot {
            begun_again: 1,
            ..served
        };
        let said = offload(&served).expect("something happened");
        assert!(
            said.contains("suspended 2 (1 of them begun again, the first of their handlers), res")
        );
        let served = ServedSnapshot {
            come_home: 7,
            woken: 3,
            ..ServedSnapshot::default()
        };
        let said = offload(&served).expect("something happened");
        assert_eq!(
            said,
            "offload: 7 answers of other threads for 3 wake-ups, 4 spared\n"
        );
    }

    #[test]
    fn turns_without_a_record_are_one_line() {
        let plain = TurnsSnapshot {
            turns: 10,
            ..TurnsSnapshot::default()
        };
        assert_eq!(turns(&plain).lines().count(), 1);
        let mut recorded = plain;
        recorded.longest[0].away_ns = 2_500_000;
        recorded.longest[0].work.resumed = 1;
        assert_eq!(turns(&recorded).lines().count(), 3);
        assert!(turns(&recorded).contains("2500"));
    }
}
