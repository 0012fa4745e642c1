//! What slices say about rows that are fixed beforehand: where work was put it is found, and nowhere else.
//! Statistics alone: no server, no clock.
//!
//! What must not be is asked first: a row that is certainly off is wrong, however badly others are known.
//! That all is right takes more: each row must be shown to be where it should. In between nothing is shown,
//! and it is said which row would take how long.
//!
//! A sample is the mean of two rounds in a row, with the doses in either order: whatever comes of the order,
//! or grows all the time, is not in it. Means are without their tails, since a core that somebody else had
//! for milliseconds is no sample, and on a shared host one slice in four is none; their errors are those of
//! the samples with the tails drawn in (K. K. Yuen, "The two-sample trimmed t for unequal population
//! variances", Biometrika 61, 1974, with one sample).

use std::fmt;

use ringlab::measure::probe::Stage;
use ringlab::measure::stats::student_t_quantile;

use super::ELSEWHERE;
use super::patient::INJECTED_NS;

/// How far a row may be from what was injected.
pub const OFF_NS: f64 = 50.0;
/// Smaller changes than this are none, however long it was measured: the processor works on what is
/// before and behind a stage's border at once, and on neither while it spins at that border.
const NOTHING_NS: f64 = 10.0;
/// How often anything may be called wrong that is not, whatever is looked at and however often.
const SIGNIFICANCE: f64 = 0.05;
/// How sure one must be of each row that all are right: none may be in doubt, so this needs no correction.
const SURE: f64 = 0.95;
/// Of the samples at either end, by value, this part counts for nothing.
const TRIMMED: f64 = 0.2;

/// The stages, then what is left.
pub const ROWS: usize = Stage::ALL.len() + 1;

/// Of a row.
pub fn name(row: usize) -> &'static str {
    Stage::ALL
        .get(row)
        .map_or("unexplained", |stage| stage.name())
}

/// What came with one dose, for each request.
pub struct Slice {
    /// Nanoseconds: the stages, then what is left of the threads' CPU time.
    pub rows: Vec<f64>,
    pub entered: Vec<f64>,
    pub injected_ns: f64,
}

/// Two doses that are compared, one right after the other; a slice of each a round.
pub struct Pair {
    /// The stage that has the work; it belongs there in the first, and elsewhere in the second.
    pub at: Stage,
    /// In rounds with an odd number the second was taken first.
    pub slices: [Vec<Slice>; 2],
}

impl Pair {
    pub fn new(at: Stage) -> Self {
        Self {
            at,
            slices: [const { Vec::new() }; 2],
        }
    }

    pub fn rounds(&self) -> usize {
        self.slices[1].len()
    }

    /// How much more there is in `row` with the first dose than with the second, in a round.
    pub fn difference(&self, row: usize, round: usize) -> f64 {
        let [first, second] = &self.slices;
        first[round].rows[row] - second[round].rows[row]
    }
}

/// A mean without its tails.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    pub ns: f64,
    /// Its standard error.
    error_ns: f64,
    /// Degrees of freedom.
    df: f64,
}

impl Mean {
    /// Of so many rounds, of which two make a sample.
    pub fn of(rounds: usize, value: impl Fn(usize) -> f64) -> Mean {
        let sample = |nth: usize| (value(2 * nth) + value(2 * nth + 1)) / 2.0;
        let mut sorted: Vec<f64> = (0..rounds / 2).map(sample).collect();
        sorted.sort_by(f64::total_cmp);
        let cut = (sorted.len() as f64 * TRIMMED) as usize;
        let kept = &sorted[cut..sorted.len() - cut];
        let (n, h) = (sorted.len() as f64, kept.len() as f64);
        let drawn_in = |d: &f64| d.clamp(kept[0], kept[kept.len() - 1]);
        let around = sorted.iter().map(drawn_in).sum::<f64>() / n;
        let squares = sorted.iter().map(|d| (drawn_in(d) - around).powi(2));
        Mean {
            ns: kept.iter().sum::<f64>() / h,
            error_ns: (squares.sum::<f64>() / (h * (h - 1.0))).sqrt(),
            df: h - 1.0,
        }
    }

    /// How far it may be off to one side, with a probability of 95 %.
    pub fn bound(&self) -> f64 {
        student_t_quantile(SURE, self.df) * self.error_ns
    }
}

/// By how much a row seems to move, at most, between two doses that are the same. Nothing smaller means
/// anything.
pub fn floor(control: &Pair, row: usize) -> f64 {
    let moved = Mean::of(control.rounds(), |round| control.difference(row, round));
    (moved.ns.abs() + moved.bound()).max(NOTHING_NS)
}

/// A row, with the work in one stage.
#[derive(Clone, Debug)]
pub struct Cell {
    at: Stage,
    row: usize,
    /// How far it is from what it should be, and how far that may be off: to be called right, and wrong.
    off_ns: f64,
    bound_ns: f64,
    far_bound_ns: f64,
    /// From here on it is wrong.
    wrong_ns: f64,
    /// What may be called right is no further off.
    right_ns: f64,
    /// Doses that are the same move it by more than may be overlooked.
    floor_ns: f64,
}

impl Cell {
    /// Whether that row is found to have more than it should, or less if not, with the work in `at`.
    pub fn says(&self, at: Stage, row: Stage, more: bool) -> bool {
        let is_more = self.off_ns.is_sign_positive();
        (self.at, self.row, is_more) == (at, row as usize, more)
    }

    fn is_wrong(&self) -> bool {
        self.off_ns.abs() - self.far_bound_ns > self.wrong_ns
    }

    fn is_right(&self) -> bool {
        self.off_ns.abs() + self.bound_ns <= self.right_ns && self.floor_ns <= self.right_ns
    }

    /// The same finding in another study.
    fn is_again(&self, other: &Cell) -> bool {
        let same_sign = self.off_ns.is_sign_positive() == other.off_ns.is_sign_positive();
        (self.at, self.row) == (other.at, other.row) && same_sign
    }

    /// In how many times the time it would be known on which side it is: errors shrink with the root.
    pub fn times(&self) -> f64 {
        let off = self.off_ns.abs();
        // Who is right at the border can be shown to be neither.
        let short_of = |distance: f64, error: f64| (error / distance.max(OFF_NS / 10.0)).powi(2);
        let row = match off < self.right_ns {
            true => short_of(self.right_ns - off, self.bound_ns),
            false => short_of(off - self.wrong_ns, self.far_bound_ns),
        };
        row.max((self.floor_ns / self.right_ns).powi(2)).max(1.0)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (off, bound) = (self.off_ns, self.bound_ns);
        write!(
            f,
            "{}, with the work in {}, is {:+.1} to {:+.1} ns from what it should be, where {:.0} may be (the \
             same doses: {:.1})",
            name(self.row),
            self.at.name(),
            off - bound,
            off + bound,
            self.right_ns,
            self.floor_ns,
        )
    }
}

/// What may be concluded.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// These are certainly not as they should be.
    Wrong(Vec<Cell>),
    /// Of these nobody knows.
    Inconclusive(Vec<Cell>),
    Right,
}

impl Verdict {
    /// Whether anything is.
    pub fn is_one(&self) -> bool {
        !matches!(self, Verdict::Inconclusive(_))
    }
}

/// Of the work in each of those stages, and of doses that are the same, when it is looked at for the
/// `look`th time, from 1: there must be twice as many rounds each time. A row that should not move must be known
/// within `beside_ns`.
pub fn verdict(stages: &[Pair], control: &Pair, beside_ns: f64, look: i32) -> Verdict {
    let floors: Vec<f64> = (0..ROWS).map(|row| floor(control, row)).collect();
    // All have as many samples; there are ROWS - 2 others, and each of the two in two ways.
    let looked_at = stages.len() * (ROWS + 2);
    // Half of what is left of it each time.
    let each = SIGNIFICANCE / 2f64.powi(look) / (2 * looked_at) as f64;
    let df = Mean::of(control.rounds(), |_| 0.0).df;
    let [near, far] = [SURE, 1.0 - each].map(|sure| student_t_quantile(sure, df));
    let cell =
        |pair: &Pair, row: usize, [right_ns, wrong_ns]: [f64; 2], off: &dyn Fn(usize) -> f64| {
            let off = Mean::of(pair.rounds(), off);
            Cell {
                at: pair.at,
                row,
                off_ns: off.ns,
                bound_ns: near * off.error_ns,
                far_bound_ns: far * off.error_ns,
                wrong_ns,
                right_ns,
                floor_ns: floors[row],
            }
        };
    let mut cells = Vec::new();
    for pair in stages {
        let (own, elsewhere) = (pair.at as usize, ELSEWHERE as usize);
        let injected = INJECTED_NS as f64;
        let spent = |which: usize, round: usize| pair.slices[which][round].injected_ns;
        let [gained, lost] = [own, elsewhere].map(|row| move |round| pair.difference(row, round));
        // What was asked for, and what was spent on it.
        cells.push(cell(pair, own, [OFF_NS; 2], &|round| {
            gained(round) - injected
        }));
        cells.push(cell(pair, own, [OFF_NS; 2], &|round| {
            gained(round) - spent(0, round)
        }));
        cells.push(cell(pair, elsewhere, [OFF_NS; 2], &|round| {
            lost(round) + injected
        }));
        cells.push(cell(pair, elsewhere, [OFF_NS; 2], &|round| {
            lost(round) + spent(1, round)
        }));
        for row in (0..ROWS).filter(|row| ![own, elsewhere].contains(row)) {
            let off = |round| pair.difference(row, round);
            cells.push(cell(pair, row, [beside_ns, floors[row]], &off));
        }
    }
    let those = |is: fn(&Cell) -> bool| -> Vec<Cell> {
        cells.iter().filter(|cell| is(cell)).cloned().collect()
    };
    let (wrong, unknown) = (those(Cell::is_wrong), those(|cell| !cell.is_right()));
    match (wrong.is_empty(), unknown.is_empty()) {
        (false, _) => Verdict::Wrong(wrong),
        (true, false) => Verdict::Inconclusive(unknown),
        (true, true) => Verdict::Right,
    }
}

/// Of two studies with servers of their own, the second made because of what the first called wrong: only
/// what is wrong in both, and in the same direction, is.
pub fn again(first: Vec<Cell>, second: Verdict) -> Verdict {
    let Verdict::Wrong(second) = second else {
        return Verdict::Inconclusive(first);
    };
    let is_again = |cell: &&Cell| second.iter().any(|other| cell.is_again(other));
    let twice: Vec<Cell> = first.iter().filter(is_again).cloned().collect();
    match twice.is_empty() {
        true => Verdict::Inconclusive(first),
        false => Verdict::Wrong(twice),
    }
}

mod tests;
