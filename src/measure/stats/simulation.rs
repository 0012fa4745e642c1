//! Whether the statistics keep their word on simulated runs whose truth is known. Tests only; every
//! seed is fixed.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::f64::consts::TAU;

/// Blocks whose noise is log-normal and, in part, shared by the arms of a round.
struct Lab {
    random: StdRng,
}

impl Lab {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// A standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.random.random::<f64>()).ln()).sqrt();
        radius * (TAU * self.random.random::<f64>()).cos()
    }

    /// One run: for each cost the blocks of that arm. A round's moment varies by 10 %, a block
    /// by 2 %.
    fn run<const ARMS: usize>(
        &mut self,
        rounds: usize,
        costs: [f64; ARMS],
    ) -> [Vec<Option<f64>>; ARMS] {
        let mut arms = [const { Vec::new() }; ARMS];
        for _ in 0..rounds {
            let moment = 0.10 * self.normal();
            for (arm, cost) in arms.iter_mut().zip(costs) {
                arm.push(Some(cost * (moment + 0.02 * self.normal()).exp()));
            }
        }
        arms
    }
}

/// The share of `trials` runs of two equal arms whose 95 % interval contains 1.
fn coverage(rounds: usize, trials: u32, method: Method) -> f64 {
    let mut lab = Lab::new(rounds as u64);
    let mut covered = 0;
    for _ in 0..trials {
        let [base, arm] = lab.run(rounds, [4.0, 4.0]);
        let ratio = paired_log_ratio(&arm, &base, 0.95).unwrap();
        assert_eq!(ratio.method, method);
        assert_eq!(
            ratio.interval.contains(1.0),
            ratio.p_value > 0.05,
            "interval and p-value are one test: {ratio:?}"
        );
        covered += u32::from(ratio.interval.contains(1.0));
    }
    f64::from(covered) / f64::from(trials)
}

#[test]
fn students_interval_covers_what_it_says() {
    for rounds in [6, 12, 29] {
        let share = coverage(rounds, 4_000, Method::StudentT);
        assert!((share - 0.95).abs() <= 0.015, "{rounds} rounds: {share}");
    }
}

#[test]
fn the_bootstrap_covers_what_it_says() {
    let share = coverage(30, 600, Method::Bootstrap);
    assert!((0.92..=0.98).contains(&share), "{share}");
}

/// Skewed noise is what the bootstrap is for: here a block is now and then disturbed, never
/// helped.
#[test]
fn the_bootstrap_covers_under_skewed_noise() {
    let mut lab = Lab::new(5);
    let (trials, true_mean) = (300, 0.05);
    let mut covered = 0;
    for _ in 0..trials {
        let arm: Vec<_> = (0..60)
            .map(|_| -true_mean * (1.0 - lab.random.random::<f64>()).ln())
            .map(|log: f64| Some(log.exp()))
            .collect();
        let ratio = paired_log_ratio(&arm, &[Some(1.0); 60], 0.95).unwrap();
        covered += u32::from(ratio.interval.contains(f64::exp(true_mean)));
    }
    let share = f64::from(covered) / f64::from(trials);
    assert!(share >= 0.92, "{share}");
}

/// Runs with a control: is the control valid, and what may be claimed about an arm? Of 20 runs two
/// may come out otherwise, since a 99 % control fails by chance in one of a hundred.
fn check(rounds: usize, control_cost: f64, arm_cost: f64, expected: Outcome) {
    let as_expected = (0..20)
        .filter(|&seed| {
            let [base, again, arm] = Lab::new(seed).run(rounds, [4.0, control_cost, arm_cost]);
            let control = Control::new(&base, &again).unwrap();
            let ratio = paired_log_ratio(&arm, &base, 0.95).unwrap();
            let adjusted = holm(&[ratio.p_value, 0.5, 0.9]);
            claim(&ratio, &control, adjusted[0]).outcome == expected
        })
        .count();
    assert!(as_expected >= 18, "{as_expected} of 20 are {expected:?}");
}

#[test]
fn an_arm_that_does_less_work_is_found() {
    check(12, 4.0, 3.6, Outcome::FindingCandidate);
    check(40, 4.0, 3.6, Outcome::FindingCandidate);
}

#[test]
fn a_biased_control_is_rejected_and_nothing_is_claimed() {
    check(12, 4.4, 3.6, Outcome::ControlInvalid);
    check(40, 4.4, 3.6, Outcome::ControlInvalid);
}

/// Of runs without any difference few may claim one: the floor and Holm's correction both guard.
#[test]
fn no_difference_is_seldom_claimed() {
    let mut lab = Lab::new(3);
    let mut claimed = 0;
    for _ in 0..1_000 {
        let [base, again, one, two] = lab.run(12, [4.0; 4]);
        let control = Control::new(&base, &again).unwrap();
        let rows = [&one, &two].map(|arm| paired_log_ratio(arm, &base, 0.95).unwrap());
        let adjusted = holm(&rows.map(|row| row.p_value));
        let any = rows
            .iter()
            .zip(adjusted)
            .any(|(row, p)| claim(row, &control, p).outcome == Outcome::FindingCandidate);
        claimed += u32::from(any);
    }
    assert!(claimed <= 50, "{claimed} of 1000");
}

#[test]
fn an_arm_slowed_in_its_second_half_is_flagged() {
    let unsteady = |second_cost| {
        (0..50)
            .filter(|&seed| {
                let [first, second] = Lab::new(seed).run(12, [4.0, second_cost]);
                !steadiness(&first, &second).unwrap().steady
            })
            .count()
    };
    assert_eq!(unsteady(4.4), 50);
    assert!(unsteady(4.0) <= 2, "steady arms are left alone");
    assert!(unsteady(4.02) <= 2, "so are drifts too small to matter");
}
