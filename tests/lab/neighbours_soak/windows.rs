//! The windows of which a round is made: good requests for a second without a bad one, or for a tenth of
//! one around a bad one. Which they are, and how each is come by; `verdict` says what follows from them.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ringlab::load::{self, Arrivals, Failure, Mode, Observer, Outcome, Plan, Progress, Target};

use super::NOTICED_FROM;
use super::verdict::{Of, Seconds, Window};
use crate::misbehaving_builtins::Misdeed;
use crate::server::Server;

/// Between two bad requests, and of a window without one.
pub const SECOND: Duration = Duration::from_secs(1);
/// Before a window without a bad request.
pub const WARM_UP: Duration = Duration::from_millis(100);
/// The window around a bad request: several times as long as what [`NOTICED_FROM`] allows it and those
/// who wait for it.
pub const AROUND: Duration = Duration::from_millis(100);
/// So much of it is before the bad request. Of these there is one a second from the beginning on, so the
/// second one falls into the window.
const BEFORE: Duration = Duration::from_millis(10);
/// For how long the whole server stands still: as `loop` has its core where nobody takes it away, which is
/// its 10 ms and what the ticks add.
const STALL: Duration = Duration::from_millis(15);

/// What a window is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// Nobody is bad.
    Without,
    /// A good request takes the bad one's place.
    Harmless,
    /// The same, and the server is stopped at that moment for [`STALL`].
    Stalled,
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
    observed_around(good, misdeed, &mut ())
}

/// Good requests around a stall of the server, with a good request in a bad one's place; and for how long
/// it stood still, which is longer than [`STALL`] by what the kernel takes to stop it and to wake this
/// thread.
pub fn around_a_stall(good: &Plan, server: &Server) -> (Outcome, Duration) {
    let mut stall = Stall {
        server,
        took: Duration::ZERO,
    };
    let outcome = observed_around(good, None, &mut stall);
    (outcome, stall.took)
}

/// Stops all threads of a server, whatever it waits with and however many they are, for [`STALL`] from the
/// moment of a bad request on. That is a disturbance of known length on every model, where `loop` is none:
/// with a thread for each connection the kernel takes its core away from it in favour of the others.
struct Stall<'a> {
    server: &'a Server,
    took: Duration,
}

impl Observer for Stall<'_> {
    fn window_opens(&mut self, progress: &Progress) {
        thread::sleep(SECOND.saturating_sub(progress.elapsed));
        let begun = Instant::now();
        self.server.while_stopped(|| thread::sleep(STALL));
        self.took = begun.elapsed();
    }
}

fn observed_around(good: &Plan, misdeed: Option<&Misdeed>, observer: &mut dyn Observer) -> Outcome {
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
    let outcomes = load::run_together(&[good, bad], &AtomicBool::new(false), observer);
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
    let around = [&around[..], &[Arm::Harmless; 2], &[Arm::Stalled]].concat();
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
    for place in 0..14 {
        let first = rounds[0][place];
        // Those without are spread evenly anyhow.
        let moves = first == Arm::Without || rounds.iter().any(|arms| arms[place] != first);
        assert!(moves, "{first:?} is always at {place}");
    }
}

/// What who comes every 20 µs to a server that takes 10 µs for each finds, if it stands still for a time.
fn half_busy(length: Duration, stall: Duration) -> Window {
    let mut latency = Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("bounds");
    let stalls_at_ns = BEFORE.as_nanos() as u64;
    let mut free_at_ns = 0;
    for due_ns in (0..length.as_nanos() as u64).step_by(20_000) {
        if due_ns == stalls_at_ns {
            free_at_ns = due_ns + stall.as_nanos() as u64;
        }
        free_at_ns = due_ns.max(free_at_ns) + 10_000;
        latency.record(free_at_ns - due_ns).expect("within bounds");
    }
    Window::new(&latency)
}

#[test]
fn a_99th_percentile_grows_by_what_exceeds_5_ms() {
    let without = half_busy(SECOND, Duration::ZERO);
    let seconds = Seconds {
        without: &[&without],
        part: AROUND.as_secs_f64() / SECOND.as_secs_f64(),
    };
    let of = Of::TypicalSecond;
    let p99_beside_ns = |stall: Duration| {
        let ratio = seconds.ratio(of, &[&half_busy(AROUND, stall)]);
        ratio.low * seconds.p99_ns(of)
    };
    let near = |ns: f64, expected: Duration| (ns / expected.as_nanos() as f64 - 1.0).abs() < 0.05;
    for unnoticed in [Duration::ZERO, NOTICED_FROM.mul_f64(0.98)] {
        let found_ns = p99_beside_ns(unnoticed);
        assert!(
            near(found_ns, Duration::from_micros(10)),
            "{unnoticed:?}: {found_ns} ns"
        );
    }
    for noticed in [NOTICED_FROM * 2, STALL] {
        let found_ns = p99_beside_ns(noticed);
        assert!(
            near(found_ns, noticed - NOTICED_FROM),
            "{noticed:?}: {found_ns} ns"
        );
    }
}
