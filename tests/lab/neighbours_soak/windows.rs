//! The windows of which a round is made: good requests for a second without a bad one, or for a tenth of
//! one around a bad one. Which they are, and how each is come by; `verdict` says what follows from them.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringlab::load::{self, Arrivals, Failure, Mode, Outcome, Plan, Target};

use crate::misbehaving_builtins::Misdeed;

/// Between two bad requests, and of a window without one.
pub const SECOND: Duration = Duration::from_secs(1);
/// Before a window without a bad request.
pub const WARM_UP: Duration = Duration::from_millis(100);
/// The window around a bad request: several times as long as what [`NOTICED_FROM`](super::NOTICED_FROM)
/// allows it and those who wait for it.
pub const AROUND: Duration = Duration::from_millis(100);
/// So much of it is before the bad request. Of these there is one a second from the beginning on, so the
/// second one falls into the window.
const BEFORE: Duration = Duration::from_millis(10);

/// What a window is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// Nobody is bad.
    Without,
    /// A good request takes the bad one's place.
    Harmless,
    /// The misdeed at this place.
    Beside(usize),
}

/// The windows of a round, with these around requests: four, and a second without, and so on. Each round
/// begins with another, and every other one goes backwards, so that what changes steadily changes all
/// alike.
pub fn order(round: usize, around: &[Arm]) -> Vec<Arm> {
    let mut around = around.to_vec();
    let begins_with = round % around.len();
    around.rotate_left(begins_with);
    let mut arms = Vec::new();
    for some in around.chunks(4) {
        arms.extend(some);
        arms.push(Arm::Without);
    }
    if !round.is_multiple_of(2) {
        arms.reverse();
    }
    arms
}

/// The misdeed as the generator asks for it, and what it must get.
fn bad_target(misdeed: &Misdeed) -> Target {
    let mut target = Target::get(&misdeed.target);
    target.expect.status = Some(misdeed.status);
    target.expect.body = Some(format!("{}\n", misdeed.reason).into_bytes());
    target
}

/// Whether its deadline may end the misdeed first, with this status: `hog`, where memory comes from the host of a
/// virtual machine, which may take its time for pages that nobody has had before.
pub fn may_take_too_long(misdeed: &Misdeed, status: u16) -> bool {
    misdeed.target == "/hog" && status == 504
}

/// A second of good requests.
pub fn without(good: &Plan) -> Outcome {
    let outcome = load::run(good, &AtomicBool::new(false), &mut ());
    let outcome = outcome.expect("it can be loaded");
    assert_eq!(outcome.failed.total(), 0, "{:?}", outcome.failed);
    outcome
}

/// Good requests around this misdeed, of which there is one a second; `None`: a good request in its place.
pub fn around(good: &Plan, misdeed: Option<&Misdeed>) -> Outcome {
    let good = Plan {
        warm_up: SECOND - BEFORE,
        duration: AROUND,
        ..good.clone()
    };
    let bad = Plan {
        mode: Mode::Open {
            rate: 1.0 / SECOND.as_secs_f64(),
            arrivals: Arrivals::Constant,
        },
        connections: 1,
        targets: misdeed.map_or(good.targets.clone(), |misdeed| vec![bad_target(misdeed)]),
        ..good.clone()
    };
    let outcomes = load::run_together(&[good, bad], &AtomicBool::new(false), &mut ());
    let [good, bad] = <[_; 2]>::try_from(outcomes.expect("it can be loaded")).expect("two plans");
    let wrong_status = bad.failed.of(Failure::WrongStatus);
    let others = bad.failed.total() - wrong_status;
    let planned = bad.in_window.planned;
    assert_eq!((planned, others), (1, 0), "{misdeed:?}: {:?}", bad.failed);
    let may = misdeed.is_some_and(|misdeed| may_take_too_long(misdeed, 504));
    assert!(wrong_status == 0 || may, "{misdeed:?}");
    assert_eq!(good.failed.total(), 0, "{misdeed:?}: {:?}", good.failed);
    good
}

#[test]
fn every_round_has_all_windows_at_other_places() {
    let beside = |place: usize| Arm::Beside(place);
    let around: Vec<_> = [0, 1, 2, 3, 4, 4, 5, 5].map(beside).into();
    let around = [&around[..], &[Arm::Harmless; 2]].concat();
    let rounds: Vec<_> = (0..10).map(|round| order(round, &around)).collect();
    for arms in &rounds {
        let mut own: Vec<_> = arms.clone();
        own.retain(|arm| *arm != Arm::Without);
        assert_eq!(arms.len() - own.len(), 3, "{arms:?}");
        let sorted = |arms: &[Arm]| {
            let mut names: Vec<_> = arms.iter().map(|arm| format!("{arm:?}")).collect();
            names.sort();
            names
        };
        assert_eq!(sorted(&own), sorted(&around));
    }
    for place in 0..13 {
        let first = rounds[0][place];
        let moves = rounds.iter().any(|arms| arms[place] != first);
        assert!(moves, "{first:?} is always at {place}");
    }
}
