//! Slices of a server with the same work in one row and in another, and what follows.

use std::time::{Duration, Instant};

use ringlab::measure::order;
use ringlab::measure::probe::Stage;
use ringlab::measure::stats::student_t_quantile;

use super::ELSEWHERE;
use super::patient::{Given, INJECTED_NS, Patient, SLICE, Slice};

/// How far a row may be from what was injected.
const OFF_NS: f64 = 50.0;
/// Slices are added until the machine makes up less than this in any row.
const FLOOR_NS: f64 = 40.0;
/// Or until this time is up; `RINGLAB_SECONDS` is another, after which the floor is what it is.
const LONGEST: Duration = Duration::from_secs(600);
/// Or that many times as long, while what was injected is not known well enough to be judged.
const PATIENCE: u32 = 3;
/// Smaller changes than this are none, however long it was measured: the processor works on what is
/// before and behind a stage's border at once, and on neither while it spins at that border.
const NOTHING_NS: f64 = 10.0;
/// What may be wrong among all that is looked at.
const SIGNIFICANCE: f64 = 0.05;
/// Of the slices at either end, by value, this part counts for nothing: a core that somebody else
/// had for milliseconds is no sample, and on a shared host one slice in four is none.
const TRIMMED: f64 = 0.2;
/// Where the control's work is done.
const CONTROL: Stage = Stage::Loop;

/// The stages, then what is left.
const ROWS: usize = Stage::ALL.len() + 1;

/// Of a row.
pub fn name(row: usize) -> &'static str {
    Stage::ALL
        .get(row)
        .map_or("unexplained", |stage| stage.name())
}

/// Two doses that are compared, one right after the other.
struct Pair {
    /// The first is held against the second.
    given: [Given; 2],
    slices: [Vec<Slice>; 2],
}

impl Pair {
    fn new(at: Stage, moved: [bool; 2]) -> Self {
        Self {
            given: moved.map(|moved| Given { at, moved }),
            slices: [const { Vec::new() }; 2],
        }
    }

    /// A slice of each, in turns as first and as second.
    fn take(&mut self, patient: &mut Patient, swapped: bool) {
        let pair = patient.pair(&self.given, swapped);
        for (slices, slice) in self.slices.iter_mut().zip(pair) {
            slices.push(slice);
        }
    }
}

/// A mean, and how far it may be off.
#[derive(Clone, Copy)]
struct Moved {
    ns: f64,
    error_ns: f64,
}

/// A pair of slices of each stage in each round.
pub struct Study {
    /// Work in the stage's row and elsewhere, for each stage; the last is the control: elsewhere, twice.
    pairs: Vec<Pair>,
    took: Duration,
}

impl Study {
    fn rounds(&self) -> usize {
        self.pairs[0].slices[0].len()
    }

    /// The mean of one difference a round, without its tails, and `quantile` of Student's times its
    /// error (K. K. Yuen, "The two-sample trimmed t for unequal population variances", Biometrika
    /// 61, 1974, with one sample).
    fn mean(&self, difference: impl Fn(usize) -> f64) -> Moved {
        let mut sorted: Vec<f64> = (0..self.rounds()).map(difference).collect();
        sorted.sort_by(f64::total_cmp);
        let cut = (sorted.len() as f64 * TRIMMED) as usize;
        let kept = &sorted[cut..sorted.len() - cut];
        let (n, h) = (sorted.len() as f64, kept.len() as f64);
        let ns = kept.iter().sum::<f64>() / h;
        let winsorized = |d: &f64| d.clamp(kept[0], kept[kept.len() - 1]);
        let around = sorted.iter().map(winsorized).sum::<f64>() / n;
        let squares = sorted.iter().map(|d| (winsorized(d) - around).powi(2));
        let error = (squares.sum::<f64>() / (h * (h - 1.0))).sqrt();
        let looks = (self.pairs.len() * ROWS) as f64;
        let quantile = student_t_quantile(1.0 - SIGNIFICANCE / 2.0 / looks, h - 1.0);
        Moved {
            ns,
            error_ns: quantile * error,
        }
    }

    /// How much more there is in `row` with the first dose of `pair` than with its second.
    fn moved(&self, pair: &Pair, row: usize) -> Moved {
        let [first, second] = &pair.slices;
        self.mean(|round| first[round].rows[row] - second[round].rows[row])
    }

    /// The smallest change of a row that means anything: by how much it seems to move between two
    /// doses that are the same.
    fn floor(&self, row: usize) -> f64 {
        let control = self.pairs.last().expect("there is a control");
        let moved = self.moved(control, row);
        (moved.ns.abs() + moved.error_ns).max(NOTHING_NS)
    }

    /// How far what was injected may be off, where that is known least.
    fn widest(&self) -> f64 {
        let stages = &self.pairs[..self.pairs.len() - 1];
        let own = stages
            .iter()
            .map(|pair| self.moved(pair, pair.given[0].at as usize));
        own.map(|moved| moved.error_ns).fold(0.0, f64::max)
    }

    /// Whether anything can be said; if not, what was found is chance.
    pub fn is_conclusive(&self) -> bool {
        self.widest() <= OFF_NS
    }

    fn highest_floor(&self) -> f64 {
        (0..ROWS).map(|row| self.floor(row)).fold(0.0, f64::max)
    }

    /// Prints what was found; returns each row that is not as it should be, with the stage that had
    /// the work.
    pub fn judge(&self, model: &str, connections: usize) -> Vec<(Stage, usize)> {
        println!(
            "{model}, {connections} connections: {} rounds of two {} ms slices a stage in {:.0} s; the \
             highest A/A floor is {:.1} ns",
            self.rounds(),
            SLICE.as_millis(),
            self.took.as_secs_f64(),
            self.highest_floor(),
        );
        let stages = &self.pairs[..self.pairs.len() - 1];
        stages
            .iter()
            .flat_map(|pair| self.judge_one(pair))
            .collect()
    }

    fn judge_one(&self, pair: &Pair) -> Vec<(Stage, usize)> {
        let stage = pair.given[0].at;
        let injected = |which: usize| {
            let slices = &pair.slices[which];
            self.mean(|round| slices[round].injected_ns).ns
        };
        let own = self.moved(pair, stage as usize);
        let elsewhere = self.moved(pair, ELSEWHERE as usize);
        let is_off = |ns: f64, injected_ns: f64| {
            (ns - INJECTED_NS as f64).abs() > OFF_NS || (ns - injected_ns).abs() > OFF_NS
        };
        let mut wrong = Vec::new();
        if is_off(own.ns, injected(0)) {
            wrong.push((stage, stage as usize));
        }
        if is_off(-elsewhere.ns, injected(1)) {
            wrong.push((stage, ELSEWHERE as usize));
        }
        let others = (0..ROWS).filter(|row| ![stage as usize, ELSEWHERE as usize].contains(row));
        let others: Vec<_> = others
            .map(|row| (row, self.moved(pair, row).ns, self.floor(row)))
            .collect();
        let beyond = |(_, ns, floor): &(usize, f64, f64)| ns.abs() / floor;
        let nearest = others.iter().max_by(|a, b| beyond(a).total_cmp(&beyond(b)));
        let &(row, most, floor) = nearest.expect("there are other rows");
        println!(
            "  {:<25} {:+.1} ±{:.1} of {:.1}; most beside: {} {most:+.1}, floor {floor:.1}; {}",
            stage.name(),
            own.ns,
            own.error_ns,
            injected(0),
            name(row),
            self.of_the_moment(pair),
        );
        let moved = others.iter().filter(|other| beyond(other) > 1.0);
        wrong.extend(moved.map(|(row, ..)| (stage, *row)));
        wrong
    }

    /// What the server itself makes of work at this moment and not at others, the work being in no row
    /// of its own: the row that moves most but that in which it is.
    fn of_the_moment(&self, pair: &Pair) -> String {
        let here = &pair.slices[1];
        let others = self
            .pairs
            .iter()
            .filter(|other| other.given[1] != pair.given[1]);
        let others: Vec<_> = others.map(|other| &other.slices[1]).collect();
        let moved = |row: usize| {
            self.mean(|round| {
                let elsewhere: f64 = others.iter().map(|slices| slices[round].rows[row]).sum();
                here[round].rows[row] - elsewhere / others.len() as f64
            })
        };
        let rows = (0..ROWS).filter(|row| *row != ELSEWHERE as usize);
        let rows = rows.map(|row| (row, moved(row)));
        let most = rows.max_by(|a, b| a.1.ns.abs().total_cmp(&b.1.ns.abs()));
        let (row, moved) = most.expect("there are rows");
        format!(
            "the moment itself: {} {:+.1} ±{:.1}",
            name(row),
            moved.ns,
            moved.error_ns
        )
    }
}

/// Pairs of doses in balanced rounds, until the floor is low enough: one for each of those `stages` that
/// are entered.
pub fn study(patient: &mut Patient, stages: fn(Stage) -> bool) -> Study {
    let control = Pair::new(CONTROL, [true; 2]);
    let [Slice { entered, .. }, _] = patient.pair(&control.given, false);
    // What a request enters, or a turn with few hundred of them.
    let is_entered = |stage: &&Stage| **stage != ELSEWHERE && entered[**stage as usize] > 0.005;
    let entered = Stage::ALL
        .iter()
        .filter(is_entered)
        .filter(|stage| stages(**stage));
    let pairs = entered.map(|stage| Pair::new(*stage, [false, true]));
    let mut study = Study {
        pairs: pairs.chain([control]).collect(),
        took: Duration::ZERO,
    };
    let longest = std::env::var("RINGLAB_SECONDS").ok();
    let longest = longest.and_then(|seconds| seconds.parse().ok());
    let longest = longest.map_or(LONGEST, Duration::from_secs).min(LONGEST);
    let started = Instant::now();
    let stages = study.pairs.len();
    for seed in 0.. {
        // Two designs at a time, which are balanced whatever the number of stages.
        for round in order::rounds(stages, 4 * stages, seed) {
            let swapped = study.rounds() % 2 == 1;
            for pair in round {
                study.pairs[pair].take(patient, swapped);
            }
        }
        study.took = started.elapsed();
        let (is_known, patience) = match study.is_conclusive() {
            true => (study.highest_floor() <= FLOOR_NS, 1),
            false => (false, PATIENCE),
        };
        if is_known || study.took > longest * patience {
            break;
        }
    }
    study
}
