//! How long good requests wait beside bad ones: with one bad request a second, no longer than twice
//! what they wait without. No part of `cargo test`, since it means something on an idle machine only:
//! `cargo test --release --test lab neighbours_soak -- --ignored --nocapture --test-threads 1`, some
//! 165 s a pair; a pair is named by its module, such as `neighbours_soak::epoll_fresh`. `RINGLAB_ROUNDS`
//! asks for other than [`ROUNDS`] rounds, of 16 s each.
//!
//! At half of the capacity a handler that keeps its core for a time delays all who come meanwhile and,
//! until they are worked off, as many again. So a 99th percentile over seconds moves once a misdeed
//! takes half of a hundredth of its second: 5 ms. How long each takes on an idle server is measured first,
//! which noise does little to. `loop` takes its 10 ms and what the ticks add, and nothing is claimed of it
//! but that no good request fails beside it; how long they wait there is told all the same.
//!
//! A window is a second without a bad request, or the tenth of one around a bad request, of which there
//! is one a second all the time; `verdict` makes of both what is claimed. Misdeeds that take next to
//! nothing are one kind, since those who wait cannot tell them apart; each of the others is claimed of on
//! its own. Two controls say whether a pass could have failed: a good request in a bad one's place must not
//! break the claim, and the same with the whole server stopped for 15 ms must. `loop` is no such control,
//! since with a thread for each connection the kernel shares the core between it and the others. There are
//! two views: the typical second, and all seconds together. A view whose controls fail shows nothing, nor
//! does one whose 99th percentile without any misdeed is so long that one of 5 ms would hide in it; where
//! neither shows anything the run fails, and says that this is why.

mod verdict;
mod windows;

use std::env;
use std::time::{Duration, Instant};

use ringlab::config::cores;
use ringlab::load::{Arrivals, Mode, Plan};
use ringlab::measure::stats::{Interval, median};

use self::verdict::{Of, P99_RATIO, Seconds, Verdict, View, Window};
use self::windows::{
    AROUND, Arm, SECOND, WARM_UP, around, around_a_stall, may_take_too_long, order, without,
};
use crate::Lab;
use crate::client::get;
use crate::misbehaving_builtins::{Misdeed, misdeeds};
use crate::neighbours::{plan, serve};
use crate::server::{Server, some_core};

/// Of some 16 s.
const ROUNDS: usize = 10;
/// Times that each misdeed is done alone, to learn how long it keeps its core.
const ALONE: usize = 21;
/// What a misdeed may take of its second before a 99th percentile at half of the capacity notices.
const NOTICED_FROM: Duration = Duration::from_millis(5);
/// Whoever takes less is one of a kind with all who do.
const NEXT_TO_NOTHING: Duration = Duration::from_micros(500);

/// Makes an ignored test `model_isolation::waits` of each pair.
macro_rules! soaks {
    ($($name:ident: $model:literal, $isolation:ident;)+) => {
        $(mod $name {
            #[test]
            #[ignore = "a measurement: 165 s of load, and means something on an idle machine only"]
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

/// The first misdeed of each handler.
fn one_of_each() -> Vec<Misdeed> {
    let handler = |misdeed: &Misdeed| misdeed.target.split('?').next().map(str::to_owned);
    let mut all = misdeeds();
    all.dedup_by_key(|misdeed| handler(misdeed));
    all
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
    let capacity = without(good).throughput();
    let mut rate = capacity.expect("the window opened") / 2.0;
    if lab.model.name == "nonblocking" {
        // It is always busy, and wakes nobody.
        return rate;
    }
    // Fewer requests share less, so the first estimate is too high.
    for _ in 0..2 {
        let before = server.report();
        let mode = at(rate);
        without(&Plan {
            mode,
            ..good.clone()
        });
        let used = server.report().since(&before);
        let half_a_second_ns = 0.5e9;
        let most = half_a_second_ns * used.figures.served.answered as f64 / used.cpu_ns as f64;
        rate = rate.min(most);
    }
    rate
}

/// How many rounds are asked for.
fn rounds() -> usize {
    let Ok(asked) = env::var("RINGLAB_ROUNDS") else {
        return ROUNDS;
    };
    let rounds = asked.parse().ok().filter(|rounds| *rounds > 0);
    rounds.unwrap_or_else(|| panic!("RINGLAB_ROUNDS={asked} is no number of rounds; try {ROUNDS}"))
}

/// The kinds that are told apart, by the places of their misdeeds: those that take next to nothing, and
/// each of the others.
fn kinds(misdeeds: &[Misdeed], alone: &[Duration]) -> Vec<(String, Vec<usize>)> {
    let counted = (0..misdeeds.len()).filter(|nth| !is_loop(&misdeeds[*nth]));
    let (quick, slow): (Vec<_>, Vec<_>) = counted.partition(|nth| alone[*nth] < NEXT_TO_NOTHING);
    let one = |nth: usize| (misdeeds[nth].target.clone(), vec![nth]);
    let mut kinds: Vec<_> = slow.into_iter().map(one).collect();
    if !quick.is_empty() {
        kinds.push(("the others".to_owned(), quick));
    }
    kinds
}

fn is_loop(misdeed: &Misdeed) -> bool {
    misdeed.target == "/loop"
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
    let mut good = plan(&server, SECOND);
    good.warm_up = WARM_UP;
    // The next in turn after the server's own.
    good.cores = vec![some_core()];
    let rate = half_of_capacity(lab, &mut server, &good);
    good.mode = at(rate);
    let kinds = kinds(&misdeeds, &alone);
    let mut arms = vec![Arm::Harmless, Arm::Stalled, Arm::Harmless];
    for (nth, misdeed) in misdeeds.iter().enumerate() {
        // One that is alone in its kind has two windows a round.
        let is_one_of_many =
            |(_, places): &(String, Vec<usize>)| places.len() > 1 && places.contains(&nth);
        let once = is_loop(misdeed) || kinds.iter().any(is_one_of_many);
        arms.extend(vec![Arm::Beside(nth); if once { 1 } else { 2 }]);
    }
    let mut windows = Vec::new();
    let mut stalls_ms = Vec::new();
    let mut bad = ALONE * misdeeds.len();
    for round in 0..rounds() {
        // The same arrivals for all arms of a round.
        good.seed = round as u64;
        for arm in order(round, &arms) {
            let outcome = match arm {
                Arm::Without => without(&good),
                Arm::Harmless => around(&good, None),
                Arm::Stalled => {
                    let (outcome, took) = around_a_stall(&good, &server);
                    stalls_ms.push(took.as_secs_f64() * 1e3);
                    outcome
                }
                Arm::Beside(nth) => around(&good, Some(&misdeeds[nth])),
            };
            bad += 2 * usize::from(matches!(arm, Arm::Beside(_)));
            windows.push((arm, Window::new(&outcome.latency)));
        }
    }
    let of = |counts: &dyn Fn(Arm) -> bool| -> Vec<&Window> {
        let own = windows.iter().filter(|(arm, _)| counts(*arm));
        own.map(|(_, window)| window).collect()
    };
    let beside =
        |places: &[usize]| of(&|arm| matches!(arm, Arm::Beside(nth) if places.contains(&nth)));
    let place_of_loop = misdeeds.iter().position(is_loop).expect("it is one of all");
    let beside_loop = beside(&[place_of_loop]);
    let harmless = of(&|arm| arm == Arm::Harmless);
    let stalled = of(&|arm| arm == Arm::Stalled);
    let seconds = Seconds {
        without: &of(&|arm| arm == Arm::Without),
        part: AROUND.as_secs_f64() / SECOND.as_secs_f64(),
    };
    let views = [Of::TypicalSecond, Of::AllTogether].map(|of| View {
        of,
        without_ns: seconds.p99_ns(of),
        shortest_ns: NOTICED_FROM.as_nanos() as f64,
        harmless: seconds.ratio(of, &harmless),
        stalled: seconds.ratio(of, &stalled),
        beside: (kinds.iter())
            .map(|(_, places)| seconds.ratio(of, &beside(places)))
            .collect(),
    });
    let verdict = verdict::verdict(&views);
    println!(
        "{} {} at {rate:.0} requests/s: {verdict}",
        lab.model.name, lab.isolation
    );
    let stall_ms = median(&stalls_ms).expect("there are rounds");
    let stall = format!("a stall of {stall_ms:.1} ms");
    for view in &views {
        let without_us = view.without_ns / 1e3;
        println!(
            "  {:?}: {}; p99 without {without_us:.0} us",
            view.of,
            view.verdict()
        );
        let unclaimed = seconds.ratio(view.of, &beside_loop);
        let others = [
            ("/loop, of which nothing is claimed", &unclaimed),
            ("a good one", &view.harmless),
            (&stall, &view.stalled),
        ];
        let named = kinds.iter().map(|(kind, _)| &**kind).zip(&view.beside);
        for (kind, Interval { low, high }) in named.chain(others) {
            println!("    beside {kind}: {low:.2} to {high:.2} x");
        }
    }
    for (kind, places) in &kinds {
        let over = 100.0 * seconds.over(&beside(places));
        println!("  beside {kind}: {over:.0} % of seconds are over {P99_RATIO} x");
    }
    for (misdeed, alone) in misdeeds.iter().zip(&alone) {
        let alone_ms = alone.as_secs_f64() * 1e3;
        println!("  {}: {alone_ms:.2} ms of its core", misdeed.target);
    }
    let figures = server.figures();
    assert_eq!(figures.served.failed, bad as u64);
    assert_ne!(verdict, Verdict::ShowsNothing, "noise decided: see above");
    for (misdeed, alone) in misdeeds.iter().zip(&alone) {
        let unnoticed = is_loop(misdeed) || *alone < NOTICED_FROM;
        assert!(unnoticed, "{misdeed:?} takes {alone:?}");
    }
    assert_eq!(verdict, Verdict::Holds, "see above");
}

#[test]
fn who_takes_next_to_nothing_is_one_kind_and_loop_is_none() {
    let misdeeds = one_of_each();
    let at = |target: &str| {
        let place = misdeeds.iter().position(|misdeed| misdeed.target == target);
        place.expect("it is one of all")
    };
    let mut alone = vec![Duration::from_micros(100); misdeeds.len()];
    alone[at("/loop")] = Duration::from_millis(16);
    alone[at("/hog")] = Duration::from_millis(2);
    let found = kinds(&misdeeds, &alone);
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!(found[0], ("/hog".to_owned(), vec![at("/hog")]));
    let (others, places) = (&found[1].0, &found[1].1);
    assert_eq!(
        (&**others, places.len()),
        ("the others", misdeeds.len() - 2)
    );
    assert!(!places.contains(&at("/loop")) && !places.contains(&at("/hog")));
    alone.fill(Duration::from_millis(1));
    assert_eq!(kinds(&misdeeds, &alone).len(), misdeeds.len() - 1);
}
