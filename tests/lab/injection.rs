//! Work put into each stage in turn: the ledger must find it in that row and in no other.
//!
//! One server is compared with itself while it serves the same connections, with the same work at the
//! same moment of each request; where each connection has a thread and keeps it, with another that serves beside it.
//! Only the row changes that the work belongs to: the stage's own, or [`ELSEWHERE`]. Work at another
//! moment would make another server, whose other rows may well differ: that is no mistake of the
//! ledger's, and what it is is printed beside.
//!
//! What a request on a kept connection seldom enters or never is looked at under loads in which each does: one
//! connection for each request, a worker that answers, a guest that grows.
//!
//! The figures are a measurement, so no part of `cargo test`; `scripts/soak.sh` takes them:
//! `cargo test --release --test lab injection -- --ignored --nocapture --test-threads 1`. `verdict` says
//! what follows from them: work in another's row is `WRONG ROW` on a noisy machine too; what noise hides is
//! `INCONCLUSIVE`, with the time (`RINGLAB_SECONDS`) that might tell. What needs
//! no idle machine is tested always: a dose that dwarfs all else, here; every nanosecond, by a
//! clock that is wound by hand, in `measure::probe`; and, in `misplaced`, that the verdict tells a live
//! server whose work is in another row than is believed.

mod entered;
mod misplaced;
mod patient;
mod study;
mod verdict;

use std::sync::Arc;

use ringlab::config::Config;
use ringlab::measure::probe::{self, Dose, Injection, Stage, StageNs};
use ringlab::offload::Policy;
use ringlab::sandbox::{Isolation, Source};
use ringlab::server::Server;

use self::patient::Load;
use self::study::{Question, Study};
use self::verdict::{Cell, Verdict};
use crate::client::{Client, get};
use crate::server::some_core;
use crate::{Lab, on_every_model, on_every_model_that_sleeps};

on_every_model![a_stage_with_a_large_dose_is_the_row_that_grows_most];

// Busy polling grows by whatever a thread elsewhere takes longer.
on_every_model_that_sleeps![
    the_same_where_a_pool_answers,
    the_same_where_threads_are_born_to_answer,
];

/// A server that records its stages and takes a dose. If a pool answers, then of so many workers on the
/// server's core, or of as many as usual wherever.
fn start(
    lab: Lab,
    handler: &str,
    policy: Policy,
    core: usize,
    workers: Option<usize>,
) -> (Server, Arc<Dose>) {
    probe::calibrate();
    let dose = Arc::new(Dose::new(Stage::Loop, 0));
    let mut config = Config::new(Source::parse(handler), vec![core]);
    config.model = lab.model;
    config.isolation = lab.isolation;
    config.offload = policy;
    if let Some(workers) = workers {
        config.workers = workers;
        config.worker_cores = vec![core];
    }
    config.probed = true;
    config.injection = Some(Injection {
        dose: dose.clone(),
        recorded: true,
    });
    let server = Server::start(config).expect("a server can be started");
    (server, dose)
}

fn a_stage_with_a_large_dose_is_the_row_that_grows_most(lab: Lab) {
    let expected = [Stage::Copy, Stage::Guest, Stage::Sandbox, Stage::Http];
    check_large(lab, Policy::Inline, &expected);
}

fn the_same_where_a_pool_answers(lab: Lab) {
    let expected = [Stage::Copy, Stage::HandOver, Stage::FutexWake, Stage::Http];
    check_large(lab, Policy::Pool, &[&expected, told_by(lab)].concat());
}

fn the_same_where_threads_are_born_to_answer(lab: Lab) {
    let expected = [Stage::Copy, Stage::HandOver, Stage::Clone, Stage::Http];
    check_large(lab, Policy::Spawn, &[&expected, told_by(lab)].concat());
}

/// What a thread enters when it is told of an answer, where that is an operation of its own.
fn told_by(lab: Lab) -> &'static [Stage] {
    match lab.model.name {
        "blocking" => &[Stage::FutexWait],
        "epoll" | "tokio_uring" => &[Stage::EventRead],
        _ => &[],
    }
}

/// Each stage that requests enter, the `expected` ones among them, gets a dose in turn.
fn check_large(lab: Lab, policy: Policy, expected: &[Stage]) {
    const REQUESTS: u64 = 20;
    const LARGE_NS: u64 = 1_000_000;
    const MOST_ROUNDS: usize = 30;
    const ATTEMPTS: usize = 10;
    /// How much more than was spent a row may have grown by, as a part of it, and how much it did at least.
    const OFF: f64 = 0.1;
    const LEAST: f64 = 0.25;
    /// What another row may have grown by, as a part of that.
    const NEXT: f64 = 0.25;
    // Where a thread is told of the answer it has fallen asleep by then: elsewhere the handler works for
    // some 0.2 ms.
    let told = policy != Policy::Inline && !told_by(lab).is_empty();
    let handler = if told { "spin" } else { "hello" };
    let (server, dose) = start(lab, handler, policy, some_core(), None);
    let handle = server.handle();
    let mut client = Client::connect(server.address());
    let request = get("/?iterations=120000");
    let mut ask = || {
        client.send(&request);
        assert_eq!(client.receive().status, 200);
    };
    ask();
    // Requests are sent until so much was spent in that stage: whether a thread waits for the next one
    // is the machine's to say.
    let mut take = |stage: Stage, ns: u64, least_ns: u64| {
        dose.set(stage, ns);
        let (before, spent_ns) = (handle.figures().stages, dose.spent_ns());
        for _ in 0..MOST_ROUNDS {
            (0..REQUESTS).for_each(|_| ask());
            if dose.spent_ns() - spent_ns >= least_ns {
                break;
            }
        }
        let spent_ns = dose.spent_ns() - spent_ns;
        (handle.figures().stages.since(&before), spent_ns)
    };
    let name = lab.model.name;
    let mut without = take(Stage::Loop, 0, 0).0;
    let is_entered = |stage: &Stage, rows: &StageNs| rows.entered[*stage as usize] >= REQUESTS / 2;
    for _ in 0..MOST_ROUNDS {
        // An answer that comes before its thread has fallen asleep wakes nobody.
        if expected.iter().all(|stage| is_entered(stage, &without)) {
            break;
        }
        without = without.plus(&take(Stage::Loop, 0, 0).0);
    }
    let stages = Stage::ALL
        .iter()
        .filter(|stage| is_entered(stage, &without));
    let stages: Vec<&Stage> = stages.collect();
    for stage in expected {
        assert!(stages.contains(&stage), "{name}, {stage:?}: {without:?}");
    }
    let enough_ns = REQUESTS / 2 * LARGE_NS;
    for &stage in stages {
        let mut found = String::new();
        // What others have of the core while it works is spent by the clock that is spun on, and in no row: so
        // its row may have less than was spent, on a busy machine by half.
        let is_found = (0..ATTEMPTS).any(|_| {
            let (with, spent_ns) = take(stage, LARGE_NS, enough_ns);
            assert!(spent_ns >= enough_ns, "{name}, {stage:?}: {spent_ns} ns");
            // Busy polling enters some stages as often as the client lets it: by so much they grow anyway.
            let grown = |stage: Stage| {
                let at = stage as usize;
                let times = with.entered[at] as f64 / without.entered[at].max(1) as f64;
                with.ns[at] as f64 - without.ns[at] as f64 * times
            };
            let others = Stage::ALL.iter().filter(|other| **other != stage);
            let (own, next) = (grown(stage), others.map(|other| grown(*other)));
            let (next, spent) = (next.fold(0.0, f64::max), spent_ns as f64);
            found = format!("{own} of {spent} ns, {next} in another row: {without:?}, {with:?}");
            own < (1.0 + OFF) * spent && own > LEAST * spent && next < NEXT * own
        });
        assert!(
            is_found,
            "{name}, {stage:?} never has what was spent in it, but {found}"
        );
    }
    server.drain();
}

/// The row of work that belongs to no stage under test: no request and no connection enters it, since the
/// memory of a guest that is kept and does not grow is never asked for. (Where a memory is mapped for each
/// request, or grows, each enters it, with either of two doses.)
const ELSEWHERE: Stage = Stage::Protect;

/// Work at each of those stages that a thread enters under that load.
fn check(lab: Lab, load: Load, stages: fn(Stage) -> bool) {
    let study = || {
        let question = Question {
            stages: &stages,
            misplaced: None,
            longest: study::longest(),
            is_enough: &Verdict::is_one,
        };
        let study = study::study(lab, load, question);
        study.print(lab.model.name, load);
        study
    };
    let (verdict, needed) = conclude(study);
    let name = lab.model.name;
    match verdict {
        Verdict::Right => {}
        Verdict::Wrong(cells) => panic!("WRONG ROW: {name}:{}", list(&cells)),
        Verdict::Inconclusive(cells) => panic!("{}", inconclusive(lab, &cells, needed)),
    }
}

/// What follows of a study, or of two: a server may be an odd one, so if one is called wrong another is asked.
/// And for how many seconds it might have to go on.
fn conclude(study: impl Fn() -> Study) -> (Verdict, u64) {
    let first = study();
    let needed = first.needed();
    let verdict = match first.verdict {
        Verdict::Wrong(cells) => {
            cells.iter().for_each(|cell| println!("  once: {cell}"));
            verdict::again(cells, study().verdict)
        }
        verdict => verdict,
    };
    (verdict, needed)
}

fn inconclusive(lab: Lab, cells: &[Cell], needed: u64) -> String {
    format!(
        "INCONCLUSIVE: {}, the machine is too busy, or the time too short; RINGLAB_SECONDS={needed} may do:{}",
        lab.model.name,
        list(cells)
    )
}

fn list(cells: &[Cell]) -> String {
    let lines = cells.iter().map(|cell| format!("\n  {cell}"));
    lines.collect()
}

/// A test each, so that each can be asked for.
mod figures {
    use super::{Isolation, Load, Stage, check};

    fn is_of_a_connection(stage: Stage) -> bool {
        matches!(
            stage,
            Stage::Accept | Stage::EpollControl | Stage::FileControl | Stage::Close
        )
    }

    /// Where each has a thread: what the one does that accepts, and what the other does first and last.
    fn is_of_a_birth(stage: Stage) -> bool {
        matches!(
            stage,
            Stage::Accept | Stage::Poll | Stage::Clone | Stage::Timer | Stage::Close
        )
    }

    /// Where a loop owes work for all its connections, and enters each before the next slice.
    fn is_of_a_pool(stage: Stage) -> bool {
        matches!(stage, Stage::HandOver | Stage::FutexWake | Stage::EventRead)
    }

    /// Where each connection's thread owes its own: it seldom has a worker to wake, and what it owes at the
    /// end of a slice is forgiven.
    fn is_of_each_answer(stage: Stage) -> bool {
        matches!(stage, Stage::HandOver | Stage::FutexWait)
    }

    /// Where a memory is mapped for each request, or what grew is given back.
    fn is_of_memory(stage: Stage) -> bool {
        matches!(stage, Stage::Map | Stage::Advise)
    }

    macro_rules! figures {
        ($($name:ident: $model:literal, $isolation:ident, $load:expr, $stages:expr;)+) => {
            $(#[test]
            #[ignore = "a measurement: takes minutes, and means something on an idle machine only"]
            fn $name() {
                crate::run($model, Isolation::$isolation, |lab| check(lab, $load, $stages));
            })+
        };
    }
    figures! {
        blocking: "blocking", Reuse, Load::Kept(64), |_| true;
        epoll: "epoll", Reuse, Load::Kept(64), |_| true;
        io_uring: "io_uring", Reuse, Load::Kept(64), |_| true;
        // With many it never waits; and what it does besides is seen there.
        io_uring_of_one: "io_uring", Reuse, Load::Kept(1), Stage::may_sleep;
        // What no other model enters.
        signal: "signal", Reuse, Load::Kept(64), |stage| stage == Stage::SignalRead;
        tokio_uring: "tokio_uring", Reuse, Load::Kept(64), |stage| stage == Stage::Runtime;
        // What a connection takes that is kept is too seldom in a request's time.
        epoll_of_visits: "epoll", Reuse, Load::Visits(8), is_of_a_connection;
        signal_of_visits: "signal", Reuse, Load::Visits(8), is_of_a_connection;
        blocking_of_births: "blocking", Reuse, Load::Births(8), is_of_a_birth;
        epoll_of_lingering: "epoll", Reuse, Load::LingeringVisits(8), |stage| stage == Stage::Shutdown;
        // A worker is woken, and wakes.
        epoll_of_a_pool: "epoll", Reuse, Load::Pool(16), is_of_a_pool;
        io_uring_of_a_pool: "io_uring", Reuse, Load::Pool(16), is_of_a_pool;
        blocking_of_a_pool: "blocking", Reuse, Load::Pool(16), is_of_each_answer;
        // Each request has a memory of its own.
        epoll_on_demand: "epoll", OnDemand, Load::Kept(16), is_of_memory;
        epoll_of_growth: "epoll", Fresh, Load::Growing(16), is_of_memory;
    }
}
