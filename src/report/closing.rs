//! What a server says at its end of how its loops and its policies did.

use comfy_table::{CellAlignment, Table, presets};

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
        parts.push(format!(
            "handlers suspended {}, resumed {}, each holding {held_kib:.0} KiB (its instance's memory \
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

#[cfg(test)]
mod tests {
    use super::*;

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
