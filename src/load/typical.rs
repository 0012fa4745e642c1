//! The 99th percentile of a typical moment: of each thousand answers in a row, and of those the median.
//!
//! Whatever else runs on the machine holds up the server or the generator now and then, for a
//! millisecond, and with it every answer that is due: the 99th percentile of a whole window is then that
//! of its worst moments. A thousand in a row are as few as carry the percentile, so most of them are
//! undisturbed. It deliberately says nothing of the worst moments: the histograms have them.

use crate::measure::stats::median;

/// Answers in a row: at least ten lie beyond their 99th percentile.
const ROW: usize = 1000;
/// Below it lies all of a row but a hundredth.
const RANK: usize = ROW * 99 / 100 - 1;

/// Collects latencies in the order in which answers came.
#[derive(Clone, Debug)]
pub(super) struct Typical {
    row: Vec<u64>,
    /// Of each row that was full: eight bytes for a thousand answers.
    p99s_ns: Vec<u64>,
}

impl Typical {
    pub fn new() -> Self {
        Self {
            row: Vec::with_capacity(ROW),
            p99s_ns: Vec::new(),
        }
    }

    /// An answer came.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.row.push(latency_ns);
        if self.row.len() == ROW {
            self.end_row();
        }
    }

    /// Once in a thousand answers; takes some microseconds.
    #[cold]
    fn end_row(&mut self) {
        let (_, p99_ns, _) = self.row.select_nth_unstable(RANK);
        self.p99s_ns.push(*p99_ns);
        self.row.clear();
    }

    /// Takes in what another thread saw; an unfinished row is lost.
    pub fn merge(&mut self, other: &Self) {
        self.p99s_ns.extend_from_slice(&other.p99s_ns);
    }

    /// In nanoseconds; `None` without a full row.
    pub fn p99_ns(&self) -> Option<u64> {
        let all: Vec<f64> = self.p99s_ns.iter().map(|ns| *ns as f64).collect();
        median(&all).map(|ns| ns as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of 1 to 1000 µs, shuffled; `disturbed` answers of each of the first `rows` take a second.
    fn of(all_rows: usize, rows: usize, disturbed: u64) -> Option<u64> {
        let mut typical = Typical::new();
        for row in 0..all_rows {
            for nth in 0..ROW as u64 {
                let held_up = row < rows && nth < disturbed;
                let us = if held_up {
                    1_000_000
                } else {
                    nth * 7 % 1000 + 1
                };
                typical.record(us * 1000);
            }
        }
        typical.p99_ns()
    }

    #[test]
    fn one_row_is_its_own_percentile() {
        assert_eq!(of(1, 0, 0), Some(990_000));
        assert_eq!(of(0, 0, 0), None);
    }

    #[test]
    fn moments_in_which_much_is_held_up_do_not_count_while_they_are_few() {
        assert_eq!(of(11, 5, 300), Some(990_000));
        assert_eq!(of(11, 6, 300), Some(1_000_000_000));
    }

    #[test]
    fn threads_are_put_together_and_unfinished_rows_left_out() {
        let mut one = Typical::new();
        let mut other = Typical::new();
        (0..ROW as u64 - 1).for_each(|ns| one.record(ns));
        (0..ROW as u64 + 5).for_each(|ns| other.record(ns));
        assert_eq!(one.p99_ns(), None);
        one.merge(&other);
        assert_eq!(one.p99_ns(), Some(989));
    }
}
