//! Where injected work is found, by a clock that the tests move by hand.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use super::*;
use crate::measure::probe::StageTimes;
use crate::measure::probe::clock::StageClock;
use crate::measure::probe::ticks::ticks_to_ns;

/// Time that passes only where a test says so, and so many ticks at each look.
#[derive(Clone)]
struct ByHand {
    look: u64,
    /// Behind a spin: a branch that was not foreseen.
    branch: u64,
    awake_ticks: Rc<Cell<u64>>,
    asleep_ticks: Rc<Cell<u64>>,
}

impl ByHand {
    fn new(look: u64) -> Self {
        Self {
            look,
            branch: 40,
            awake_ticks: Rc::default(),
            asleep_ticks: Rc::default(),
        }
    }

    fn pass(counter: &Cell<u64>, ticks: u64) {
        counter.set(counter.get() + ticks);
    }
}

impl Clocks for ByHand {
    fn ticks(&mut self) -> u64 {
        Self::pass(&self.awake_ticks, self.look);
        self.awake_ticks.get() + self.asleep_ticks.get()
    }

    fn cpu_ns(&mut self) -> u64 {
        ticks_to_ns(self.awake_ticks.get())
    }

    fn spin(&mut self, start: u64, ticks: u64) {
        while self.ticks() - start < ticks {}
        Self::pass(&self.awake_ticks, self.branch);
    }
}

/// What a loop enters for eight requests that came in one turn, each stage for 300 ticks.
const TURN: Turn = [
    &[Stage::EpollWait, Stage::Loop],
    &[
        Stage::Receive,
        Stage::Loop,
        Stage::Http,
        Stage::Loop,
        Stage::Sandbox,
        Stage::Copy,
        Stage::Sandbox,
        Stage::Guest,
        // It grows.
        Stage::Advise,
        Stage::Guest,
        Stage::Sandbox,
        Stage::Http,
        Stage::Sandbox,
        Stage::Loop,
        Stage::Send,
        Stage::Loop,
    ],
];
/// The same where other threads answer, each of which wakes and is woken, and the loop waits in
/// futex(2) besides.
const TURN_OF_A_POOL: Turn = [
    &[Stage::EpollWait, Stage::Loop, Stage::FutexWait, Stage::Loop],
    &[
        Stage::Receive,
        Stage::Loop,
        Stage::Http,
        Stage::Loop,
        Stage::Copy,
        Stage::Loop,
        Stage::HandOver,
        Stage::Loop,
        Stage::FutexWake,
        Stage::Loop,
        Stage::EventRead,
        Stage::Loop,
        Stage::Http,
        Stage::Loop,
        Stage::Send,
        Stage::Loop,
    ],
];
/// The same where each request has a thread born.
const TURN_OF_BIRTHS: Turn = [
    &[Stage::EpollWait, Stage::Loop],
    &[Stage::HandOver, Stage::Loop, Stage::Clone, Stage::Loop],
];
/// What a thread that accepts enters for a connection, and the one that is born for it.
const BIRTH: [&[Stage]; 2] = [
    &[
        Stage::Poll,
        Stage::Loop,
        Stage::Accept,
        Stage::Loop,
        Stage::Clone,
        Stage::Loop,
    ],
    &[
        Stage::Timer,
        Stage::Loop,
        Stage::BlockingReceive,
        Stage::Loop,
        Stage::Http,
        Stage::Sandbox,
        Stage::Guest,
        Stage::Sandbox,
        Stage::Http,
        Stage::Loop,
        Stage::BlockingSend,
        Stage::Loop,
        Stage::Close,
        Stage::Loop,
    ],
];
/// What is entered once a turn, and for each request.
type Turn = [&'static [Stage]; 2];
const REQUESTS: u64 = 8;
const TURNS: u64 = 200;

/// Nanoseconds of each stage for each request, and what was spent.
type Rows = (Vec<(Stage, f64)>, f64);

fn run(turn: Turn, dose: Option<Dose>) -> Rows {
    run_by(ByHand::new(1), turn, dose)
}

fn run_by(time: ByHand, turn: Turn, dose: Option<Dose>) -> Rows {
    let server = Server::new(dose);
    let mut thread = server.thread(time);
    for _ in 0..TURNS {
        thread.enter_all(turn[0]);
        (0..REQUESTS).for_each(|_| thread.enter_all(turn[1]));
    }
    server.rows(REQUESTS * TURNS)
}

/// A connection for each request.
fn run_births(dose: Option<Dose>) -> Rows {
    const CONNECTIONS: u64 = 400;
    let server = Server::new(dose);
    let mut acceptor = server.thread(ByHand::new(1));
    for _ in 0..CONNECTIONS {
        acceptor.enter_all(BIRTH[0]);
        server.thread(ByHand::new(1)).enter_all(BIRTH[1]);
    }
    server.rows(CONNECTIONS)
}

/// What its threads have in common.
struct Server {
    dose: Arc<Dose>,
    times: Arc<StageTimes>,
}

struct Thread {
    time: ByHand,
    clock: StageClock<ByHand>,
    injector: Injector,
}

impl Server {
    fn new(dose: Option<Dose>) -> Self {
        Self {
            dose: Arc::new(dose.unwrap_or_else(|| Dose::new(Stage::Loop, 0))),
            times: Arc::default(),
        }
    }

    fn thread(&self, mut time: ByHand) -> Thread {
        let injection = Injection {
            dose: self.dose.clone(),
            recorded: true,
        };
        Thread {
            clock: StageClock::new(time.clone(), self.times.clone()),
            injector: Injector::new(injection, &mut time),
            time,
        }
    }

    fn rows(&self, requests: u64) -> Rows {
        let ns = self.times.snapshot().ns;
        let per_request = |ns: f64| ns / requests as f64;
        let stages = Stage::ALL.iter();
        let rows = stages.map(|&stage| (stage, per_request(ns[stage as usize] as f64)));
        let spent_ns = self.dose.spent_ns() as f64;
        (rows.collect(), per_request(spent_ns))
    }
}

impl Thread {
    fn enter_all(&mut self, stages: &[Stage]) {
        for &stage in stages {
            let mut enter = |stage: Stage| {
                self.clock.enter(stage);
            };
            self.injector.enter(stage, &mut self.time, &mut enter);
            if stage.may_sleep() {
                ByHand::pass(&self.time.asleep_ticks, 100_000);
            }
            ByHand::pass(&self.time.awake_ticks, 300);
        }
    }
}

/// By how much each row moves from one to the other must be what was spent in `row`, some 500 ns, as much the
/// other way in `from`, if that is a row, and nothing elsewhere.
fn check((before, _): &Rows, (after, spent): &Rows, row: Stage, from: Option<Stage>) {
    // What the last turn owes may still be owed.
    assert!((spent - 500.0).abs() < 5.0, "{spent} spent in {row:?}");
    for ((here, after), (_, before)) in after.iter().zip(before) {
        let moved = after - before;
        let expected = match *here {
            here if here == row => *spent,
            here if Some(here) == from => -spent,
            _ => 0.0,
        };
        assert!(
            (moved - expected).abs() < 5.0,
            "{spent:.1} ns in the row {} moved {} by {moved:.1}",
            row.name(),
            here.name(),
        );
    }
}

#[test]
fn work_put_into_a_stage_is_found_in_its_row_and_nowhere_else() {
    for turn in [TURN, TURN_OF_A_POOL, TURN_OF_BIRTHS] {
        let without = run(turn, None);
        for stage in turn.concat() {
            let with = run(turn, Some(Dose::new(stage, 500)));
            check(&without, &with, stage, None);
        }
    }
}

/// Whichever of its threads enters it, before the request or after.
#[test]
fn what_a_connection_takes_is_owed_for_when_it_is_there_for_one_request() {
    let without = run_births(None);
    for stage in BIRTH.concat() {
        let with = run_births(Some(Dose::new(stage, 500)));
        check(&without, &with, stage, None);
    }
}

/// A dose is owed for from the next request on, whoever was born before, and of the one before nothing is.
#[test]
fn a_dose_that_is_changed_is_not_paid_with_the_one_before() {
    let server = Server::new(Some(Dose::new(Stage::Close, 500)));
    let mut idle = server.thread(ByHand::new(1));
    let mut ending = server.thread(ByHand::new(1));
    ending.enter_all(BIRTH[1]);
    assert!(ending.injector.owed_ticks < 0, "no spin is exact");
    server.dose.set(Stage::Guest, 500);
    let spent = server.dose.spent_ticks.load(Relaxed);
    drop(ending);
    assert_eq!(server.dose.overspent_ticks.load(Relaxed), 0);
    idle.enter_all(BIRTH[1]);
    let spent = server.dose.spent_ticks.load(Relaxed) - spent;
    assert!(spent >= ns_to_ticks(500), "{spent} ticks");
    // And what was left of it before.
    drop(idle);
    assert_ne!(server.dose.overspent_ticks.load(Relaxed), 0);
    server.dose.set(Stage::Close, 500);
    assert_eq!(server.dose.overspent_ticks.load(Relaxed), 0);
}

#[test]
fn the_same_work_at_the_same_moment_moves_from_one_row_to_another() {
    let with = |turn, stage, elsewhere, moved| {
        let dose = Dose::new(stage, 0);
        dose.set_one_of_two(stage, elsewhere, moved, 500);
        // As long as a look takes where the hypervisor has a hand in it.
        run_by(ByHand::new(60), turn, Some(dose))
    };
    let all = |turn: Turn| turn.concat().into_iter().map(move |stage| (turn, stage));
    for (turn, stage) in all(TURN).chain(all(TURN_OF_A_POOL)) {
        for elsewhere in [Stage::Close, Stage::Http] {
            let [here, there] = [false, true].map(|moved| with(turn, stage, elsewhere, moved));
            if stage == elsewhere {
                assert_eq!(here, there);
            } else {
                check(&there, &here, stage, Some(elsewhere));
            }
        }
    }
}

/// What a spin took too long is taken off the next, but for what somebody else did meanwhile.
#[test]
fn what_was_spent_is_said_and_no_longer_owed() {
    let dose = Arc::new(Dose::new(Stage::Guest, 500));
    let injection = Injection {
        dose: dose.clone(),
        recorded: true,
    };
    let mut injector = Injector::new(injection, &mut ByHand::new(1));
    let ticks = i64::from(injector.set.ticks);
    injector.owed_ticks = 0;
    let mut spent = 0;
    for (late, owed) in [(7, -7), (0, 0), (ticks + 9, -ticks), (3, -3)] {
        injector.owed_ticks += ticks;
        let took = (injector.owed_ticks + late).cast_unsigned();
        injector.book(took);
        spent += took;
        assert_eq!(dose.spent_ticks.load(Relaxed), spent);
        assert_eq!(injector.owed_ticks, owed);
    }
}

/// In either of two doses it is followed by the same.
#[test]
fn a_sleep_is_followed_by_as_much_work_elsewhere() {
    let close = |dose: Option<Dose>| run(TURN, dose).0[Stage::Close as usize].1;
    let without = close(None);
    for (moved, work) in [(false, 0.0), (true, 500.0)] {
        let dose = Dose::new(Stage::Loop, 0);
        dose.set_one_of_two(Stage::EpollWait, Stage::Close, moved, 500);
        // Once a turn, of eight requests.
        let follows = close(Some(dose)) - without - work;
        assert!(
            (follows - 500.0 / REQUESTS as f64).abs() < 10.0,
            "{follows}"
        );
    }
}

#[test]
fn what_a_dose_is_set_to_is_of_one_piece() {
    for &stage in Stage::ALL {
        for (row, elsewhere) in [(stage, Stage::Accept), (Stage::Close, stage)] {
            let ticks = u32::MAX - stage as u32;
            let set = Set {
                stage,
                row,
                elsewhere,
                ticks,
            };
            assert_eq!(Set::unpacked(set.packed()), set);
        }
    }
}

#[test]
fn an_injection_is_read_from_a_rows_name_and_refused_in_words() {
    let check = |text: &str, expected: Result<(Stage, u64), &str>| {
        let read = text.parse::<Injection>();
        match (read, expected) {
            (Ok(read), Ok((stage, ns))) => {
                let dose = Dose::new(stage, ns).set.into_inner();
                assert_eq!(read.dose.set.load(Relaxed), dose, "{text}");
            }
            (Err(why), Err(expected)) => assert!(why.contains(expected), "{why}"),
            (read, _) => panic!("{text}: {read:?}"),
        }
    };
    for stage in Stage::ALL {
        check(&format!("{}=500", stage.name()), Ok((*stage, 500)));
    }
    check("HTTP=0", Ok((Stage::Http, 0)));
    check("HTTP=1000001", Err("from 0 to 1000000"));
    check("HTTP=much", Err("\"much\""));
    check("http=5", Err("choose from `guest`"));
    check("HTTP", Err("names no time"));
}
