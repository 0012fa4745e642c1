//! What a loop's turns and its offload policy did: rows that stand where there is something to count.
//!
//! By the program's count alone, of a counting block's whole window; turns are timed in such blocks
//! only, at two looks at a clock each.

use super::{CountRow, PROGRAMS_ALONE, row};
use crate::experiment::block::Block;
use crate::measure::reading::Reading;

/// Of a loop that takes turns there is such a row.
pub const REQUESTS_PER_TURN: &str = "requests per turn";

/// The mean length of a turn, without its wait.
pub const TURN_NS: &str = "turn, ns";
/// The longest one.
pub const LONGEST_TURN_NS: &str = "longest turn since the start, ns";

/// Turns, slices, ticks, and the way to other threads and back.
pub(super) fn rows(block: &Block) -> Vec<CountRow> {
    let turns = &block.server.figures.turns;
    let served = &block.server.figures.served;
    let per_request = [
        ("queue wait, ns", served.queued_ns),
        ("answers of other threads", served.come_home),
        ("wake-ups by them", served.woken),
        ("suspended", served.half_run),
        ("slices after the first", served.resumed),
        ("ticks", block.server.ticks),
    ];
    let per_request = per_request.into_iter().filter(|(_, count)| *count > 0);
    let per_request = per_request.map(|(name, count)| row(block, name, Some(count), of_nobody()));
    let a_turn = |count: u64| count as f64 / turns.turns as f64;
    let of_turns = [
        (REQUESTS_PER_TURN, a_turn(served.answered)),
        (TURN_NS, a_turn(turns.away_ns)),
        (LONGEST_TURN_NS, turns.longest_ns as f64),
    ];
    let has_turns = turns.turns > 0;
    let of_turns = of_turns
        .into_iter()
        .filter(|(_, value)| has_turns && *value > 0.0);
    let of_turns = of_turns.map(|(name, value)| CountRow {
        name: name.to_string(),
        program: Some(value),
        at_least: false,
        kernel: of_nobody(),
    });
    of_turns.chain(per_request).collect()
}

/// The kernel knows nothing of these.
fn of_nobody<T>() -> Reading<T> {
    Reading::missing(PROGRAMS_ALONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::block;

    #[test]
    fn a_row_stands_where_there_is_something_to_count() {
        let plain = block(0, 0, 4000.0);
        assert!(rows(&plain).is_empty(), "{:?}", rows(&plain));
        let mut block = plain;
        let requests = block.requests();
        let figures = &mut block.server.figures;
        figures.turns.turns = requests / 4;
        figures.turns.away_ns = requests / 4 * 900;
        figures.turns.longest_ns = 5_000_000;
        figures.served.half_run = requests / 10;
        figures.served.resumed = requests * 3;
        figures.served.queued_ns = requests * 250;
        let rows = rows(&block);
        let named: Vec<_> = rows.iter().map(|row| (&*row.name, row.program)).collect();
        assert_eq!(
            named,
            [
                ("requests per turn", Some(4.0)),
                ("turn, ns", Some(900.0)),
                ("longest turn since the start, ns", Some(5e6)),
                ("queue wait, ns", Some(250.0)),
                ("suspended", Some(0.1)),
                ("slices after the first", Some(3.0)),
            ]
        );
        block.server.figures.served.come_home = requests;
        block.server.figures.served.woken = requests / 2;
        let row = |name: &str| {
            let rows = super::rows(&block);
            rows.into_iter().find(|row| row.name == name).expect(name)
        };
        assert_eq!(row("answers of other threads").program, Some(1.0));
        assert_eq!(row("wake-ups by them").program, Some(0.5));
    }
}
