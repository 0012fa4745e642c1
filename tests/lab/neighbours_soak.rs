//! How long good requests wait beside bad ones: with one bad request a second, no longer than twice
//! what they wait without. No part of `cargo test`, since it means something on an idle machine only:
//! `cargo test --release --test lab neighbours_soak -- --ignored --nocapture --test-threads 1`, some
//! 80 s a pair; a pair is named by its module, such as `neighbours_soak::epoll_fresh`.
//!
//! At half of the capacity a handler that keeps its core for a time delays all who come meanwhile and,
//! until they are worked off, as many again. So a 99th percentile over seconds moves once a misdeed
//! takes half of a hundredth of its second: 5 ms. How long each takes on an idle server is measured first,
//! which noise does little to. `loop` takes its 10 ms and what the ticks add, and is on its own.
//!
//! A window is a second with one bad request in it, or with none. Each disturbed window lies between
//! two undisturbed ones, of which one belongs to either of two arms: their difference is what this
//! machine's noise does by itself. There are two views: an arm's latencies, merged before the
//! percentile is taken, and each disturbed window against the two around it. A view whose undisturbed
//! arms are farther apart than what is claimed shows nothing; where neither shows anything the run
//! fails, and says that this is why.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ringlab::config::cores;
use ringlab::load::{self, Arrivals, Failure, Mode, Outcome, Plan, Target};
use ringlab::measure::stats::{Interval, paired_log_ratio};

use crate::Lab;
use crate::client::get;
use crate::misbehaving_builtins::{Misdeed, misdeeds};
use crate::neighbours::{plan, serve};
use crate::server::{Server, some_core};

/// Of load.
const WINDOW: Duration = Duration::from_secs(1);
/// Before each window. The constant arrivals of one bad request a second begin with it, so the second
/// one falls into the window.
const WARM_UP: Duration = Duration::from_millis(250);
/// In each, every kind has one window, and there is one more without any.
const ROUNDS: usize = 4;
/// The most that the 99th percentile may grow by, as a factor.
const P99_RATIO: f64 = 2.0;
/// Times that each misdeed is done alone, to learn how long it keeps its core.
const ALONE: usize = 21;
/// What a misdeed may take of its second before a 99th percentile at half of the capacity notices.
const NOTICED_FROM: Duration = Duration::from_millis(5);

/// Makes an ignored test `model_isolation::waits` of each pair.
macro_rules! soaks {
    ($($name:ident: $model:literal, $isolation:ident;)+) => {
        $(mod $name {
            #[test]
            #[ignore = "a measurement: 80 s of load, and means something on an idle machine only"]
            fn waits() {
                let isolation = ringlab::sandbox::Isolation::$isolation;
                crate::run($model, isolation, super::waits_beside_bad_ones);
            }
        })+
    };
}

soaks! {
    blocking_fresh: "blocking", Fresh;
    nonblocking_reuse: "nonblocking", Reuse;
    epoll_reuse: "epoll", Reuse;
    epoll_fresh: "epoll", Fresh;
    signal_on_demand: "signal", OnDemand;
    io_uring_reuse: "io_uring", Reuse;
    io_uring_reset: "io_uring", Reset;
    tokio_uring_reset: "tokio_uring", Reset;
}

/// What a window is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    /// Nobody is bad; in one of two arms that are alike.
    Undisturbed(usize),
    /// The misdeed at this place.
    Beside(usize),
}

/// The windows of a round. Every other round goes backwards, so that what changes steadily changes all
/// arms alike.
fn order(round: usize, misdeeds: usize) -> Vec<Arm> {
    let mut arms = vec![Arm::Undisturbed(0)];
    for place in 0..misdeeds {
        arms.push(Arm::Beside((place + round) % misdeeds));
        arms.push(Arm::Undisturbed((place + 1) % 2));
    }
    if !round.is_multiple_of(2) {
        arms.reverse();
    }
    arms
}

/// What may be concluded.
#[derive(Debug, PartialEq)]
enum Verdict {
    Holds,
    Broken,
    /// The machine moves percentiles by more than what is claimed.
    ShowsNothing,
}

/// The windows of an arm taken together: 99th percentiles in nanoseconds.
#[derive(Debug)]
struct Merged {
    /// Of the two undisturbed arms.
    apart: [u64; 2],
    /// Of both together.
    undisturbed: u64,
    /// Of all windows in which somebody is bad, and is not `loop`.
    disturbed: u64,
}

impl Merged {
    /// How far apart the undisturbed arms are, as a factor of at least 1.
    fn control(&self) -> f64 {
        let [one, other] = self.apart.map(|ns| ns as f64);
        (one / other).max(other / one)
    }

    fn ratio(&self) -> f64 {
        self.disturbed as f64 / self.undisturbed as f64
    }

    fn verdict(&self) -> Verdict {
        if self.control() > P99_RATIO {
            Verdict::ShowsNothing
        } else if self.ratio() > P99_RATIO {
            Verdict::Broken
        } else {
            Verdict::Holds
        }
    }
}

/// Window by window, the geometric mean of ratios of 99th percentiles, in bounds of 95 %. A burst of
/// noise that decides about all windows taken together is one of many here.
#[derive(Debug)]
struct ByWindow {
    /// A disturbed window over the two around it.
    ratio: Interval,
    /// One of those two over the other.
    control: Interval,
}

impl ByWindow {
    fn verdict(&self) -> Verdict {
        let within =
            |interval: &Interval| 1.0 / P99_RATIO <= interval.low && interval.high <= P99_RATIO;
        if !within(&self.control) || (self.ratio.low..self.ratio.high).contains(&P99_RATIO) {
            Verdict::ShowsNothing
        } else if self.ratio.low > P99_RATIO {
            Verdict::Broken
        } else {
            Verdict::Holds
        }
    }
}

/// Neither view may say that the claim is broken, and one of them must be able to say that it holds.
fn verdict(merged: &Merged, by_window: &ByWindow) -> Verdict {
    let both = [merged.verdict(), by_window.verdict()];
    if both.contains(&Verdict::Broken) {
        Verdict::Broken
    } else if both.contains(&Verdict::Holds) {
        Verdict::Holds
    } else {
        Verdict::ShowsNothing
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Holds => "holds",
            Verdict::Broken => "does not hold",
            Verdict::ShowsNothing => "shows nothing, for noise",
        })
    }
}

impl fmt::Display for Merged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let us = |ns: u64| ns as f64 / 1e3;
        write!(
            f,
            "p99 {:.0} us undisturbed, control {:.2} x; {:.0} us beside bad ones, {:.2} x: {}",
            us(self.undisturbed),
            self.control(),
            us(self.disturbed),
            self.ratio(),
            self.verdict(),
        )
    }
}

impl fmt::Display for ByWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ratio, control } = self;
        write!(
            f,
            "control {:.2} to {:.2} x; beside bad ones {:.2} to {:.2} x: {}",
            control.low,
            control.high,
            ratio.low,
            ratio.high,
            self.verdict(),
        )
    }
}

/// The 99th percentile of windows taken together.
fn p99_ns<'a>(windows: impl IntoIterator<Item = &'a Outcome>) -> u64 {
    let latencies = windows.into_iter().map(|window| window.latency.clone());
    let merged = latencies.reduce(|mut merged, latency| {
        merged.add(latency).expect("they have one shape");
        merged
    });
    merged.map_or(0, |merged| merged.value_at_quantile(0.99))
}

/// Each window of the arms that count, and the two around it.
fn by_window(windows: &[(Arm, Outcome)], counts: impl Fn(Arm) -> bool) -> ByWindow {
    let p99 = |nth: usize| p99_ns([&windows[nth].1]) as f64;
    let (mut disturbed, mut around, mut apart) =
        (Vec::new(), Vec::new(), [const { Vec::new() }; 2]);
    for nth in (0..windows.len()).filter(|&nth| counts(windows[nth].0)) {
        let both = [nth - 1, nth + 1].map(p99);
        disturbed.push(Some(p99(nth)));
        around.push(Some((both[0] * both[1]).sqrt()));
        // By its arm, not by its place.
        let first = usize::from(windows[nth - 1].0 != Arm::Undisturbed(0));
        apart[0].push(Some(both[first]));
        apart[1].push(Some(both[1 - first]));
    }
    let interval = |arm: &[_], base: &[_]| {
        let ratio = paired_log_ratio(arm, base, 0.95);
        ratio.expect("there are many, and none is 0").interval
    };
    ByWindow {
        ratio: interval(&disturbed, &around),
        control: interval(&apart[0], &apart[1]),
    }
}

/// The first misdeed of each handler.
fn one_of_each() -> Vec<Misdeed> {
    let handler = |misdeed: &Misdeed| misdeed.target.split('?').next().map(str::to_owned);
    let mut all = misdeeds();
    all.dedup_by_key(|misdeed| handler(misdeed));
    all
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
fn may_take_too_long(misdeed: &Misdeed, status: u16) -> bool {
    misdeed.target == "/hog" && status == 504
}

/// How long an idle server is busy with the misdeed, what is cleaned up after it included: until a good
/// request behind it on the same connection is answered. The median of [`ALONE`].
fn keeps_its_core(server: &Server, misdeed: &Misdeed) -> Duration {
    let mut client = server.connect();
    let mut took = [(); ALONE].map(|()| {
        let begun = Instant::now();
        client.send([get(&misdeed.target), get("/fine")].concat());
        let [bad, good] = [client.receive().status, client.receive().status];
        assert!(
            bad == misdeed.status || may_take_too_long(misdeed, bad),
            "{misdeed:?}: {bad}"
        );
        assert_eq!(good, 200, "{misdeed:?}");
        begun.elapsed()
    });
    took.sort();
    took[ALONE / 2]
}

/// A window of good requests, and of the misdeed, if there is one.
fn window(good: &Plan, misdeed: Option<&Misdeed>) -> Outcome {
    let mut plans = vec![good.clone()];
    plans.extend(misdeed.map(|misdeed| Plan {
        mode: Mode::Open {
            rate: 1.0 / WINDOW.as_secs_f64(),
            arrivals: Arrivals::Constant,
        },
        connections: 1,
        targets: vec![bad_target(misdeed)],
        ..good.clone()
    }));
    let outcomes = load::run_together(&plans, &AtomicBool::new(false), &mut ());
    let mut outcomes = outcomes.expect("it can be loaded");
    if let Some(misdeed) = misdeed {
        let bad = outcomes.pop().expect("one for each plan");
        let wrong_status = bad.failed.of(Failure::WrongStatus);
        let found = (bad.in_window.answered, bad.failed.total() - wrong_status);
        assert_eq!(found, (1, 0), "{misdeed:?}: {:?}", bad.failed);
        assert!(
            wrong_status == 0 || may_take_too_long(misdeed, 504),
            "{misdeed:?}"
        );
    }
    let good = outcomes.pop().expect("one for each plan");
    assert_eq!(good.failed.total(), 0, "{misdeed:?}: {:?}", good.failed);
    good
}

fn at(rate: f64) -> Mode {
    Mode::Open {
        rate,
        arrivals: Arrivals::Poisson,
    }
}

/// The rate, a second, at which the server's core is half busy. In closed loop requests come together
/// and share wake-ups, so half of what is answered there may be more than a server of threads can do
/// when they come one by one.
fn half_of_capacity(lab: Lab, server: &mut Server, good: &Plan) -> f64 {
    let capacity = window(good, None).throughput();
    let mut rate = capacity.expect("the window opened") / 2.0;
    if lab.model.name == "nonblocking" {
        // It is always busy, and wakes nobody.
        return rate;
    }
    // Fewer requests share less, so the first estimate is too high.
    for _ in 0..2 {
        let before = server.report();
        let mode = at(rate);
        window(
            &Plan {
                mode,
                ..good.clone()
            },
            None,
        );
        let used = server.report().since(&before);
        let half_a_second_ns = 0.5e9;
        let most = half_a_second_ns * used.figures.served.answered as f64 / used.cpu_ns as f64;
        rate = rate.min(most);
    }
    rate
}

/// The 99th percentile of good requests at half of the capacity, with one bad request a second and
/// without.
fn waits_beside_bad_ones(lab: Lab) {
    assert!(cores().len() > 1, "server and client need a core each");
    let mut server = serve(lab, "10ms");
    let misdeeds = one_of_each();
    let alone: Vec<_> = (misdeeds.iter())
        .map(|misdeed| keeps_its_core(&server, misdeed))
        .collect();
    let mut good = plan(&server, WINDOW);
    good.warm_up = WARM_UP;
    // The next in turn after the server's own.
    good.cores = vec![some_core()];
    let rate = half_of_capacity(lab, &mut server, &good);
    good.mode = at(rate);
    let mut windows = Vec::new();
    for round in 0..ROUNDS {
        // The same arrivals for all arms of a round.
        good.seed = round as u64;
        for arm in order(round, misdeeds.len()) {
            let misdeed = match arm {
                Arm::Undisturbed(_) => None,
                Arm::Beside(nth) => Some(&misdeeds[nth]),
            };
            windows.push((arm, window(&good, misdeed)));
        }
    }
    let p99_of = |of: &dyn Fn(Arm) -> bool| {
        let own = windows.iter().filter(|(arm, _)| of(*arm));
        p99_ns(own.map(|(_, window)| window))
    };
    let is_loop = |nth: usize| misdeeds[nth].target == "/loop";
    let counts = |arm: Arm| matches!(arm, Arm::Beside(nth) if !is_loop(nth));
    let merged = Merged {
        apart: [0, 1].map(|half| p99_of(&|arm| arm == Arm::Undisturbed(half))),
        undisturbed: p99_of(&|arm| matches!(arm, Arm::Undisturbed(_))),
        disturbed: p99_of(&counts),
    };
    let by_window = by_window(&windows, counts);
    let verdict = verdict(&merged, &by_window);
    println!(
        "{} {} at {rate:.0} requests/s: {verdict}\n  all windows: {merged}\n  by window: {by_window}",
        lab.model.name, lab.isolation
    );
    for (nth, misdeed) in misdeeds.iter().enumerate() {
        let beside_ns = p99_of(&|arm| arm == Arm::Beside(nth));
        let ratio = beside_ns as f64 / merged.undisturbed as f64;
        println!(
            "  {}: {:.2} ms of its core; all windows {ratio:.2} x",
            misdeed.target,
            alone[nth].as_secs_f64() * 1e3
        );
    }
    let bad = (ALONE + 2 * ROUNDS) * misdeeds.len();
    let figures = server.figures();
    assert_eq!(figures.served.failed, bad as u64);
    // `loop` always does.
    let each = (ALONE + 2 * ROUNDS) as u64;
    let late = figures.served.deadline_passed - each;
    println!("  /hog ended by its deadline: {late} of {each}");
    for (nth, misdeed) in misdeeds.iter().enumerate() {
        let unnoticed = is_loop(nth) || alone[nth] < NOTICED_FROM;
        assert!(unnoticed, "{misdeed:?} takes {:?}", alone[nth]);
    }
    assert_eq!(verdict, Verdict::Holds, "see above");
}

#[test]
fn a_verdict_needs_a_control_that_is_closer_than_the_claim() {
    use Verdict::{Broken, Holds, ShowsNothing};
    let merged = |one, other, disturbed| Merged {
        apart: [one, other],
        undisturbed: 100,
        disturbed,
    };
    let by_window = |control: (f64, f64), ratio: (f64, f64)| {
        let [control, ratio] = [control, ratio].map(|(low, high)| Interval { low, high });
        ByWindow { ratio, control }
    };
    let all = [
        (merged(100, 100, 200), Holds),
        (merged(100, 200, 201), Broken),
        (merged(201, 100, 201), ShowsNothing),
        (merged(100, 201, 100), ShowsNothing),
    ];
    let windows = [
        (by_window((0.5, 2.0), (0.4, 1.9)), Holds),
        (by_window((0.5, 2.0), (2.1, 3.0)), Broken),
        (by_window((0.5, 2.0), (0.9, 2.1)), ShowsNothing),
        (by_window((0.4, 1.9), (0.9, 1.1)), ShowsNothing),
        (by_window((0.9, 2.1), (2.1, 3.0)), ShowsNothing),
    ];
    for (merged, expected) in &all {
        assert_eq!(merged.verdict(), *expected, "{merged}");
    }
    for (by_window, expected) in &windows {
        assert_eq!(by_window.verdict(), *expected, "{by_window}");
    }
    for (one, other, expected) in [
        (0, 0, Holds),
        (0, 2, Holds),
        (3, 0, Holds),
        (3, 3, ShowsNothing),
    ] {
        assert_eq!(verdict(&all[one].0, &windows[other].0), expected);
    }
    for (one, other) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
        assert_eq!(verdict(&all[one].0, &windows[other].0), Broken);
    }
}

#[test]
fn each_disturbed_window_lies_between_two_undisturbed_ones_of_different_arms() {
    for round in 0..4 {
        let order = order(round, 7);
        let (undisturbed, beside): (Vec<_>, Vec<_>) = order
            .iter()
            .partition(|arm| matches!(arm, Arm::Undisturbed(_)));
        assert!(
            (0..7).all(|nth| beside.contains(&&Arm::Beside(nth))),
            "{order:?}"
        );
        for half in [0, 1] {
            let own = undisturbed
                .iter()
                .filter(|arm| ***arm == Arm::Undisturbed(half));
            assert_eq!(own.count(), 4, "{order:?}");
        }
        for around in order.windows(3).step_by(2) {
            assert!(matches!(around[1], Arm::Beside(_)), "{order:?}");
            assert_ne!(around[0], around[2], "{order:?}");
        }
    }
}
