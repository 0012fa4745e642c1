//! Slices of servers with the same work in one row and in another, and what follows.
//!
//! A server is compared with itself, and yet two may not be quite the same: with the work in `close`, one had
//! 41 ns more in the loop, known within 9 after fifteen minutes, and another, asked for three, -36 to +25. (Why
//! is not known.) So no server is asked for long: others take its place. Samples of all are taken together:
//! what is found is so of the servers that were asked, whose number is printed.

use std::time::{Duration, Instant};

use ringlab::measure::order;
use ringlab::measure::probe::Stage;

use super::ELSEWHERE;
use super::patient::{Given, Load, Misplaced, Patient, under_load};
use super::verdict::{self, Cell, Mean, Pair, ROWS, Slice, Verdict, name};
use crate::Lab;

/// For so long slices are added until something is shown; `RINGLAB_SECONDS` is another time.
const LONGEST: Duration = Duration::from_secs(900);
/// How long a server, or two that are looked at as one, is asked.
const LIFE: Duration = Duration::from_secs(40);
/// Where the control's work is done.
const CONTROL: Stage = Stage::Loop;

/// How long that is for a measurement.
pub fn longest() -> Duration {
    let asked = std::env::var("RINGLAB_SECONDS").ok();
    let asked = asked.and_then(|seconds| seconds.parse().ok());
    asked.map_or(LONGEST, Duration::from_secs)
}

/// What is to be found out.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// Of the stages that are entered, those in which work is done.
    pub stages: &'a (dyn Fn(Stage) -> bool + Sync),
    /// Doses go astray.
    pub misplaced: Option<Misplaced>,
    /// For so long at most, or a little longer,
    pub longest: Duration,
    /// unless a verdict is enough before.
    pub is_enough: &'a (dyn Fn(&Verdict) -> bool + Sync),
}

/// A pair of slices of each stage in each round.
pub struct Study {
    /// Work in the stage's row and elsewhere, for each stage.
    stages: Vec<Pair>,
    /// Elsewhere, twice.
    control: Pair,
    started: Instant,
    took: Duration,
    /// Designs of rounds so far, and how often they were looked at.
    designs: u64,
    looks: i32,
    lives: u32,
    /// What follows.
    pub verdict: Verdict,
}

/// A slice of each of two doses, the first of which belongs to the stage's own row unless it is `moved`.
fn take(pair: &mut Pair, moved: bool, patient: &mut Patient) {
    let at = pair.at;
    let given = [moved, true].map(|moved| Given { at, moved });
    let swapped = pair.rounds() % 2 == 1;
    for (slices, slice) in pair.slices.iter_mut().zip(patient.pair(&given, swapped)) {
        slices.push(slice);
    }
}

impl Study {
    fn rounds(&self) -> usize {
        self.control.rounds()
    }

    /// A design of rounds more, which is balanced whatever the number of stages.
    fn add(&mut self, patient: &mut Patient, seed: u64) {
        let pairs = self.stages.len() + 1;
        // Two designs at a time: an even number of rounds.
        for round in order::rounds(pairs, 4 * pairs, seed) {
            for pair in round {
                match self.stages.get_mut(pair) {
                    Some(pair) => take(pair, false, patient),
                    None => take(&mut self.control, true, patient),
                }
            }
        }
    }

    /// For how many seconds it might have to go on until something is shown, if nothing is.
    pub fn needed(&self) -> u64 {
        let times = match &self.verdict {
            Verdict::Inconclusive(cells) => cells.iter().map(Cell::times).fold(1.0, f64::max),
            Verdict::Wrong(_) | Verdict::Right => 1.0,
        };
        (self.took.as_secs_f64() * times * 1.2).ceil() as u64
    }

    /// What was found, a line for each stage.
    pub fn print(&self, model: &str, load: Load) {
        let floors = (0..ROWS).map(|row| verdict::floor(&self.control, row));
        println!(
            "{model}, {load}: {} rounds of two {} ms slices a stage in {:.0} s, {} lives; the \
             highest A/A floor is {:.1} ns",
            self.rounds(),
            load.slice().as_millis(),
            self.took.as_secs_f64(),
            self.lives,
            floors.fold(0.0, f64::max),
        );
        self.stages.iter().for_each(|pair| self.print_one(pair));
    }

    fn print_one(&self, pair: &Pair) {
        let moved = |row: usize| Mean::of(self.rounds(), |round| pair.difference(row, round));
        let own = moved(pair.at as usize);
        let injected = Mean::of(self.rounds(), |round| pair.slices[0][round].injected_ns);
        let others = (0..ROWS).filter(|row| ![pair.at as usize, ELSEWHERE as usize].contains(row));
        let others = others.map(|row| (row, moved(row), verdict::floor(&self.control, row)));
        let beyond = |(_, moved, floor): &(usize, Mean, f64)| moved.ns.abs() / floor;
        let nearest = others.max_by(|a, b| beyond(a).total_cmp(&beyond(b)));
        let (row, most, floor) = nearest.expect("there are other rows");
        println!(
            "  {:<25} {:+.1} ±{:.1} of {:.1}; most beside: {} {:+.1} ±{:.1}, floor {floor:.1}; {}",
            pair.at.name(),
            own.ns,
            own.bound(),
            injected.ns,
            name(row),
            most.ns,
            most.bound(),
            self.of_the_moment(pair),
        );
    }

    /// What the server itself makes of work at this moment and not at others, the work being in no row
    /// of its own: the row that moves most but that in which it is.
    fn of_the_moment(&self, pair: &Pair) -> String {
        let here = &pair.slices[1];
        let pairs = self.stages.iter().chain([&self.control]);
        let others: Vec<_> = pairs.filter(|other| other.at != pair.at).collect();
        let moved = |row: usize| {
            Mean::of(self.rounds(), |round| {
                let elsewhere = others.iter().map(|other| other.slices[1][round].rows[row]);
                here[round].rows[row] - elsewhere.sum::<f64>() / others.len() as f64
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
            moved.bound()
        )
    }
}

/// Pairs of doses in balanced rounds, until something is shown: one for each stage that is asked for and
/// entered.
pub fn study(lab: Lab, load: Load, question: Question<'_>) -> Study {
    let mut study = Study {
        stages: Vec::new(),
        control: Pair::new(CONTROL),
        started: Instant::now(),
        took: Duration::ZERO,
        designs: 0,
        looks: 0,
        lives: 0,
        verdict: Verdict::Inconclusive(Vec::new()),
    };
    while !under_load(lab, load, |patient| study.live(patient, &question)) {}
    study
}

impl Study {
    /// Asks one server; says whether that was the last.
    fn live(&mut self, patient: &mut Patient, question: &Question<'_>) -> bool {
        if let Some(misplaced) = question.misplaced {
            patient.misplace(misplaced);
        }
        if self.stages.is_empty() {
            self.stages = entered(patient, question.stages);
        }
        self.lives += 1;
        let born = Instant::now();
        while born.elapsed() < LIFE {
            self.designs += 1;
            self.add(patient, self.designs);
            self.took = self.started.elapsed();
            let is_over = self.took > question.longest;
            // Who looks all the time finds something at some time.
            if self.designs.is_power_of_two() || is_over {
                self.looks += 1;
                let beside_ns = patient.beside_ns();
                self.verdict = verdict::verdict(&self.stages, &self.control, beside_ns, self.looks);
            }
            if is_over || (question.is_enough)(&self.verdict) {
                return true;
            }
        }
        false
    }
}

/// A pair for each of those stages that a request enters, or a turn with few hundred of them.
fn entered(patient: &mut Patient, stages: &dyn Fn(Stage) -> bool) -> Vec<Pair> {
    let anywhere = Given {
        at: CONTROL,
        moved: true,
    };
    let [Slice { entered, .. }, _] = patient.pair(&[anywhere; 2], false);
    let is_entered = |stage: &Stage| *stage != ELSEWHERE && entered[*stage as usize] > 0.005;
    let all = Stage::ALL.iter().copied();
    let entered = all.filter(is_entered).filter(|stage| stages(*stage));
    let pairs: Vec<Pair> = entered.map(Pair::new).collect();
    assert!(!pairs.is_empty(), "none of those stages is entered");
    pairs
}
