//! What verdicts follow from slices that are made up.

use std::f64::consts::TAU;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const STAGES: [Stage; 4] = [Stage::Http, Stage::Guest, Stage::Send, Stage::EpollWait];
/// Where a part of the work is found in whose row it does not belong.
const LEAK: Stage = Stage::Receive;
/// What slices differ by, one with another, on a calm machine.
const DEVIATION_NS: f64 = 20.0;
const ROUNDS: usize = 224;

/// A ledger, and the machine that it is taken on.
#[derive(Clone, Copy)]
struct Machine {
    /// How much slices differ, as so many times [`DEVIATION_NS`].
    noise: f64,
    /// What the row of HTTP gains of its work.
    gained_ns: f64,
    /// What the row of [`LEAK`] gains of it.
    leaked_ns: f64,
}

const CALM: Machine = Machine {
    noise: 1.0,
    gained_ns: 500.0,
    leaked_ns: 0.0,
};

impl Machine {
    /// One slice in ten is disturbed by far more than the others differ by.
    fn noise_ns(&self, random: &mut StdRng) -> f64 {
        // G. E. P. Box and M. E. Muller, "A note on the generation of random normal deviates", 1958.
        let radius = (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
        let normal = radius * (TAU * random.random::<f64>()).cos();
        let ns = normal * self.noise * DEVIATION_NS;
        match random.random_range(0..10) {
            0 => 10.0 * ns.abs(),
            _ => ns,
        }
    }

    fn slice(&self, random: &mut StdRng, gained: &[(usize, f64)]) -> Slice {
        let mut rows: Vec<f64> = (0..ROWS).map(|_| 0.0).collect();
        for row in STAGES.iter().chain(&[LEAK, ELSEWHERE]) {
            rows[*row as usize] = 1_000.0 + self.noise_ns(random);
        }
        rows[ROWS - 1] = self.noise_ns(random);
        gained.iter().for_each(|(row, ns)| rows[*row] += ns);
        Slice {
            rows,
            entered: Vec::new(),
            injected_ns: INJECTED_NS as f64,
        }
    }

    fn verdict(&self, seed: u64) -> Verdict {
        let random = &mut StdRng::seed_from_u64(seed);
        let moved = &[(ELSEWHERE as usize, 500.0)];
        let mut control = Pair::new(Stage::Loop);
        let mut pairs = STAGES.map(Pair::new);
        for _ in 0..ROUNDS {
            for slices in &mut control.slices {
                slices.push(self.slice(random, moved));
            }
            for pair in &mut pairs {
                let (gained, leaked) = match pair.at {
                    Stage::Http => (self.gained_ns, self.leaked_ns),
                    _ => (500.0, 0.0),
                };
                let here = &[(pair.at as usize, gained), (LEAK as usize, leaked)];
                pair.slices[0].push(self.slice(random, here));
                pair.slices[1].push(self.slice(random, moved));
            }
        }
        verdict(&pairs, &control, OFF_NS, 1)
    }
}

#[test]
fn what_is_as_it_should_be_is_right() {
    for seed in 0..100 {
        let verdict = CALM.verdict(seed);
        assert!(matches!(verdict, Verdict::Right), "{seed}: {verdict:?}");
    }
}

#[test]
fn a_noisy_machine_shows_nothing_and_calls_nothing_wrong() {
    let noisy = Machine {
        noise: 10.0,
        ..CALM
    };
    for seed in 0..1000 {
        let verdict = noisy.verdict(seed);
        let Verdict::Inconclusive(cells) = verdict else {
            panic!("{seed}: {verdict:?}");
        };
        let times = cells.iter().map(Cell::times).fold(0.0, f64::max);
        assert!(times > 4.0, "{seed}: {times}");
    }
}

/// However noisy the machine, as long as it is known to better than what was misplaced.
#[test]
fn work_in_anothers_row_is_wrong_on_a_noisy_machine_too() {
    for noise in [1.0, 8.0] {
        let misplaced = Machine {
            noise,
            gained_ns: 0.0,
            leaked_ns: 500.0,
        };
        for seed in 0..100 {
            let verdict = misplaced.verdict(seed);
            let Verdict::Wrong(cells) = verdict else {
                panic!("{seed}: {verdict:?}");
            };
            for (row, sign) in [(Stage::Http, -1.0), (LEAK, 1.0)] {
                let named = cells
                    .iter()
                    .any(|cell| cell.row == row as usize && cell.off_ns.signum() == sign);
                assert!(named, "{seed}: {cells:?}");
            }
            assert!(cells.iter().all(|cell| cell.at == Stage::Http), "{cells:?}");
        }
    }
}

#[test]
fn work_of_which_half_leaks_is_wrong_and_never_right() {
    let leaks = |noise| Machine {
        noise,
        gained_ns: 250.0,
        leaked_ns: 250.0,
    };
    for seed in 0..100 {
        let verdict = leaks(1.0).verdict(seed);
        assert!(matches!(verdict, Verdict::Wrong(_)), "{seed}: {verdict:?}");
        let verdict = leaks(8.0).verdict(seed);
        assert!(!matches!(verdict, Verdict::Right), "{seed}");
    }
}

#[test]
fn what_is_just_too_far_off_is_not_right() {
    for gained_ns in [440.0, 560.0] {
        for (noise, most) in [(0.5, 0), (1.0, 0), (3.0, 5), (10.0, 5)] {
            let off = Machine {
                noise,
                gained_ns,
                leaked_ns: 0.0,
            };
            let is_right = |seed: &u64| matches!(off.verdict(*seed), Verdict::Right);
            let right = (0..100).filter(is_right).count();
            // Who is sure to 95 % is wrong as often.
            assert!(right <= most, "{right}: {noise} x, {gained_ns} ns");
        }
    }
}

#[test]
fn what_is_wrong_once_is_wrong_only_if_it_is_so_again() {
    let wrong = |gained_ns| {
        let verdict = Machine { gained_ns, ..CALM }.verdict(0);
        let Verdict::Wrong(cells) = verdict else {
            panic!("{verdict:?}");
        };
        cells
    };
    let (less, more) = (wrong(0.0), wrong(1_000.0));
    let same = again(less.clone(), Verdict::Wrong(wrong(100.0)));
    assert!(matches!(same, Verdict::Wrong(_)), "{same:?}");
    let others = [
        Verdict::Wrong(more),
        Verdict::Right,
        CALM.verdict(1),
        Verdict::Inconclusive(less.clone()),
    ];
    for other in others {
        let verdict = again(less.clone(), other);
        assert!(matches!(verdict, Verdict::Inconclusive(_)), "{verdict:?}");
    }
}

/// Doses that are the same and move a row by more than a row may be off show nothing of it.
#[test]
fn a_floor_above_what_may_be_overlooked_is_never_right() {
    let random = &mut StdRng::seed_from_u64(0);
    let moved = &[(ELSEWHERE as usize, 500.0)];
    let mut control = Pair::new(Stage::Loop);
    let mut pair = Pair::new(Stage::Http);
    for _ in 0..ROUNDS {
        // Both pairs find this.
        for pair in [&mut control, &mut pair] {
            let more = match pair.at {
                Stage::Http => (Stage::Http as usize, 500.0),
                _ => moved[0],
            };
            let [first, second] = &mut pair.slices;
            first.push(CALM.slice(random, &[more, (LEAK as usize, 70.0)]));
            second.push(CALM.slice(random, moved));
        }
    }
    let pairs = [pair];
    let within = |beside_ns| verdict(&pairs, &control, beside_ns, 1);
    let near_enough = within(2.0 * OFF_NS);
    assert!(matches!(near_enough, Verdict::Right), "{near_enough:?}");
    let verdict = within(OFF_NS);
    let Verdict::Inconclusive(cells) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(cells.len(), 1, "{cells:?}");
    assert_eq!(cells[0].row, LEAK as usize);
    assert!(cells[0].to_string().contains("recv"), "{}", cells[0]);
}

/// What grows with time, and what the first of two slices has more of, is no difference.
#[test]
fn order_and_drift_are_no_difference() {
    let mut pair = Pair::new(Stage::Http);
    for round in 0..ROUNDS {
        let swapped = round % 2;
        for (which, slices) in pair.slices.iter_mut().enumerate() {
            let place = (which + swapped) % 2;
            let ns = (2 * round + place) as f64 * 3.0 + 40.0 * place as f64;
            slices.push(Slice {
                rows: vec![ns; ROWS],
                entered: Vec::new(),
                injected_ns: 0.0,
            });
        }
    }
    let mean = Mean::of(ROUNDS, |round| pair.difference(0, round));
    assert!(mean.ns.abs() < 1e-9 && mean.bound() < 1e-9, "{mean:?}");
}
