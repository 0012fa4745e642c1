//! Work put into a stage on purpose, to see whether the ledger finds it there and nowhere else.
//!
//! It is real work: the thread spins on its counter. A stage may be entered several times for a
//! request, or once for many of them; so each request owes its part, and the next entry into the
//! stage pays what is owed. What a spin took too long is taken off the next.
//!
//! A stage in which the thread may sleep pays when it is left: what comes while the thread works
//! before a wait would be done in the wait, and not where it is done otherwise.
//!
//! Where the work is done and which row it belongs to are two things. A server that works at another
//! moment is another server: it finds other things in its caches, and its clients elsewhere. So the
//! ledger is held against the same server, with the same work at the same moment, in which that work
//! belongs to another row.
//!
//! What comes next runs some 30 ns longer right behind the system call that reads the CPU clock than
//! behind work. So a stage in which the thread may sleep is followed by as much work again, which
//! belongs to that other row in either server.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Stage;
use super::clock::Clocks;
use super::ticks::{ns_to_ticks, ticks_to_ns};

/// The most that a request may owe: 1 ms.
const LONGEST_NS: u64 = 1_000_000;

/// What is injected into the threads of a server, and where. It may be changed while they run, so
/// that one server can be compared with itself.
#[derive(Debug)]
pub struct Dose {
    /// A [`Set`] in one piece, so that no thread reads half of one.
    set: AtomicU64,
    /// Ticks that were spent on it, by all threads.
    spent_ticks: AtomicU64,
}

impl Dose {
    /// So many nanoseconds of work for each request, at most a million, in `stage`.
    pub fn new(stage: Stage, ns: u64) -> Self {
        let dose = Self {
            set: AtomicU64::new(0),
            spent_ticks: AtomicU64::new(0),
        };
        dose.set(stage, ns);
        dose
    }

    /// From now on this much, and there. What is still owed of the dose before is forgiven.
    pub fn set(&self, stage: Stage, ns: u64) {
        self.store(stage, stage, stage, ns);
    }

    /// One of two doses that are held against each other: the same work at the same moment, which
    /// belongs to `stage` in the one, and in the other, which is `moved`, to `elsewhere`, where a
    /// thread must not sleep. In either a stage in which it may is followed by as much again `elsewhere`.
    pub fn set_one_of_two(&self, stage: Stage, elsewhere: Stage, moved: bool, ns: u64) {
        assert!(!elsewhere.may_sleep(), "{elsewhere:?} tells no work");
        let row = if moved { elsewhere } else { stage };
        self.store(stage, row, elsewhere, ns);
    }

    fn store(&self, stage: Stage, row: Stage, elsewhere: Stage, ns: u64) {
        let ticks = ns_to_ticks(ns.min(LONGEST_NS)).min(u64::from(u32::MAX));
        let set = Set {
            stage,
            row,
            elsewhere,
            ticks: u32::try_from(ticks).expect("it was bounded"),
        };
        self.set.store(set.packed(), Relaxed);
    }

    /// What was really injected so far, in nanoseconds, by the clock of the stages.
    pub fn spent_ns(&self) -> u64 {
        ticks_to_ns(self.spent_ticks.load(Relaxed))
    }
}

/// What a dose is set to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Set {
    /// Where the work is done.
    stage: Stage,
    /// To which row it belongs.
    row: Stage,
    /// To which the work belongs that follows a sleep; `stage` if none does.
    elsewhere: Stage,
    /// How much of it for each request.
    ticks: u32,
}

impl Set {
    fn packed(self) -> u64 {
        let stages = [self.stage, self.row, self.elsewhere];
        let packed = stages
            .iter()
            .fold(0, |packed, &stage| packed << 8 | stage as u64);
        packed << 32 | u64::from(self.ticks)
    }

    fn unpacked(packed: u64) -> Self {
        let stage = |shift: u32| Stage::ALL[usize::from((packed >> shift) as u8)];
        Self {
            stage: stage(48),
            row: stage(40),
            elsewhere: stage(32),
            ticks: packed as u32,
        }
    }
}

/// What is to be injected.
#[derive(Clone, Debug)]
pub struct Injection {
    /// How much, and where.
    pub dose: Arc<Dose>,
    /// Whether time is recorded besides. Without, the process's CPU clock alone shows the work.
    pub recorded: bool,
}

impl FromStr for Injection {
    type Err = String;

    /// As `HTTP=500`: a row of the time ledger, and nanoseconds.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, ns) = text
            .rsplit_once('=')
            .ok_or_else(|| format!("{text:?} names no time; write it as `HTTP=500`"))?;
        let stage = Stage::ALL.iter().find(|stage| stage.name() == name);
        let names = || Stage::ALL.iter().map(|stage| format!("`{}`", stage.name()));
        let stage = stage.ok_or_else(|| {
            let names: Vec<_> = names().collect();
            format!("{name:?} is no stage; choose from {}", names.join(", "))
        })?;
        match ns.parse() {
            Ok(ns) if ns <= LONGEST_NS => Ok(Self {
                dose: Arc::new(Dose::new(*stage, ns)),
                recorded: false,
            }),
            _ => Err(format!("{ns:?} is no time from 0 to {LONGEST_NS} ns")),
        }
    }
}

/// Does the work of an injection on one thread.
pub(super) struct Injector {
    dose: Arc<Dose>,
    /// The dose when it was last looked at.
    packed: u64,
    set: Set,
    /// Not yet worked off; negative if too much was.
    owed_ticks: i64,
    /// Spent, and not yet said to be.
    unsaid_ticks: u64,
    /// What a look at the counter takes.
    look_ticks: u64,
    /// Where the thread is.
    stage: Stage,
}

impl Injector {
    pub(super) fn new(injection: Injection, clocks: &mut impl Clocks) -> Self {
        let packed = injection.dose.set.load(Relaxed);
        Self {
            dose: injection.dose,
            packed,
            set: Set::unpacked(packed),
            owed_ticks: 0,
            unsaid_ticks: 0,
            look_ticks: look_ticks(clocks),
            stage: Stage::Loop,
        }
    }

    /// The thread goes into `stage`, which is noted by `enter`; returns where it was. A request is one
    /// entry into the guest from the sandbox, to which whatever it calls does not belong, or one handing
    /// over, which calls nobody and so is never come back to.
    pub(super) fn enter(
        &mut self,
        stage: Stage,
        clocks: &mut impl Clocks,
        enter: &mut impl FnMut(Stage),
    ) -> Stage {
        if self.stage.may_sleep() && self.is_due() {
            // A wait that is left into itself would be one more. And to leave it takes a reading of the
            // CPU clock, which is no part of the work.
            let start = match self.set.row == self.stage {
                // To look at the counter before is one, for nothing else in this row begins with it.
                true => clocks.ticks() - self.look_ticks,
                false => {
                    enter(self.set.row);
                    clocks.ticks()
                }
            };
            let mut end = self.work(clocks, start);
            if self.set.elsewhere != self.stage {
                if self.set.elsewhere != self.set.row {
                    enter(self.set.elsewhere);
                    end = clocks.ticks();
                }
                // On from there, where nothing lies between: neither row gets what it takes to begin again.
                clocks.spin(end, u64::from(self.set.ticks));
            }
        }
        enter(stage);
        let before = std::mem::replace(&mut self.stage, stage);
        let packed = self.dose.set.load(Relaxed);
        if packed != self.packed {
            self.packed = packed;
            self.set = Set::unpacked(packed);
            self.owed_ticks = 0;
        }
        let begins = before == Stage::Sandbox && stage == Stage::Guest;
        if begins || stage == Stage::HandOver {
            self.owed_ticks += i64::from(self.set.ticks);
        }
        if !stage.may_sleep() && self.is_due() {
            // The same steps whatever the row; to note it is a part of the work.
            let start = clocks.ticks();
            enter(self.set.row);
            self.work(clocks, start);
            enter(stage);
        }
        before
    }

    /// Whether work is owed, and this is where.
    fn is_due(&self) -> bool {
        self.stage == self.set.stage && self.owed_ticks > 0
    }

    /// Works off what is owed, from `start` on; when that was done. To note it, for which another core's cache
    /// may have to give up a line, is a part of the work: so it is noted beforehand, and with the next what
    /// went beyond.
    fn work(&mut self, clocks: &mut impl Clocks, start: u64) -> u64 {
        let owed = self.owed_ticks.cast_unsigned();
        self.say_spent(owed);
        let spent = clocks.spin(start, owed);
        let beyond = spent - owed;
        self.unsaid_ticks = beyond;
        // What goes beyond a request's part was no spin too long but a preemption: no work.
        let most_ahead = u64::from(self.set.ticks);
        if beyond > most_ahead {
            self.say_spent(0);
        }
        self.owed_ticks = -beyond.min(most_ahead).cast_signed();
        start + spent
    }

    fn say_spent(&mut self, ticks: u64) {
        let spent = ticks + std::mem::take(&mut self.unsaid_ticks);
        self.dose.spent_ticks.fetch_add(spent, Relaxed);
    }
}

/// The least of many times.
fn look_ticks(clocks: &mut impl Clocks) -> u64 {
    let pair = |_| {
        let first = clocks.ticks();
        clocks.ticks() - first
    };
    (0..100).map(pair).min().unwrap_or(0)
}

impl Drop for Injector {
    fn drop(&mut self) {
        self.say_spent(0);
    }
}

#[cfg(test)]
mod tests {
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
        awake_ticks: Rc<Cell<u64>>,
        asleep_ticks: Rc<Cell<u64>>,
    }

    impl ByHand {
        fn new(look: u64) -> Self {
            Self {
                look,
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
    /// What is entered once a turn, and for each request.
    type Turn = [&'static [Stage]; 2];
    const REQUESTS: u64 = 8;
    const TURNS: u64 = 200;

    /// Nanoseconds of each stage for each request.
    fn run(turn: Turn, dose: Option<Dose>) -> Vec<(Stage, f64)> {
        run_by(ByHand::new(1), turn, dose)
    }

    fn run_by(mut time: ByHand, turn: Turn, dose: Option<Dose>) -> Vec<(Stage, f64)> {
        let injection = dose.map(|dose| Injection {
            dose: Arc::new(dose),
            recorded: true,
        });
        let times: Arc<StageTimes> = Arc::default();
        let mut clock = StageClock::new(time.clone(), times.clone());
        let mut injector = injection.map(|injection| Injector::new(injection, &mut time));
        let mut enter = |stage: Stage| {
            let mut enter = |stage: Stage| {
                clock.enter(stage);
            };
            if let Some(injector) = &mut injector {
                injector.enter(stage, &mut time, &mut enter);
            } else {
                enter(stage);
            }
            if stage.may_sleep() {
                ByHand::pass(&time.asleep_ticks, 100_000);
            }
            ByHand::pass(&time.awake_ticks, 300);
        };
        for _ in 0..TURNS {
            turn[0].iter().copied().for_each(&mut enter);
            for _ in 0..REQUESTS {
                turn[1].iter().copied().for_each(&mut enter);
            }
        }
        let ns = times.snapshot().ns;
        let per_request = |ns: u64| ns as f64 / (REQUESTS * TURNS) as f64;
        let stages = Stage::ALL.iter();
        stages
            .map(|&stage| (stage, per_request(ns[stage as usize])))
            .collect()
    }

    /// By how much each row moves from one to the other must be 500 ns in `row`, as much the other way
    /// in `from`, if that is a row, and nothing elsewhere.
    fn check(before: &[(Stage, f64)], after: &[(Stage, f64)], row: Stage, from: Option<Stage>) {
        for ((here, after), (_, before)) in after.iter().zip(before) {
            let moved = after - before;
            let expected = match *here {
                here if here == row => 500.0,
                here if Some(here) == from => -500.0,
                _ => 0.0,
            };
            // What the last turn owes may still be owed.
            assert!(
                (moved - expected).abs() < 5.0,
                "500 ns in the row {} moved {} by {moved:.1}",
                row.name(),
                here.name(),
            );
        }
    }

    #[test]
    fn work_put_into_a_stage_is_found_in_its_row_and_nowhere_else() {
        for turn in [TURN, TURN_OF_A_POOL] {
            let without = run(turn, None);
            for stage in turn.concat() {
                let with = run(turn, Some(Dose::new(stage, 500)));
                check(&without, &with, stage, None);
            }
        }
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

    /// Where the work is noted beforehand, what it took too long comes with the next, or in the end.
    #[test]
    fn all_that_was_spent_is_said() {
        for stage in [Stage::Guest, Stage::EpollWait] {
            let dose = Arc::new(Dose::new(stage, 500));
            let injection = Injection {
                dose: dose.clone(),
                recorded: true,
            };
            let mut time = ByHand::new(1);
            let mut injector = Injector::new(injection, &mut time);
            let mut spent = 0;
            for nth in 0..10 {
                injector.owed_ticks += i64::from(injector.set.ticks);
                let (start, owed) = (nth * 100_000, injector.owed_ticks.cast_unsigned());
                // Somebody else has the core once: a hundred times as long as it was to be.
                let late = if nth == 5 { 100 * owed } else { 7 };
                time.awake_ticks.set(start + owed + late - 1);
                let end = injector.work(&mut time, start);
                assert_eq!(end, start + owed + late);
                spent += owed + late;
                let said = dose.spent_ticks.load(Relaxed);
                assert!(said <= spent && spent - said <= 7, "{said} of {spent}");
                if late != 7 {
                    injector.owed_ticks = 0;
                }
            }
            drop(injector);
            assert_eq!(dose.spent_ticks.load(Relaxed), spent);
        }
    }

    /// In either of two doses it is followed by the same.
    #[test]
    fn a_sleep_is_followed_by_as_much_work_elsewhere() {
        let dose = Dose::new(Stage::Loop, 0);
        dose.set_one_of_two(Stage::EpollWait, Stage::Close, false, 500);
        let with = run(TURN, Some(dose));
        let without = run(TURN, None);
        let at = Stage::Close as usize;
        let follows = with[at].1 - without[at].1;
        // Once a turn, of eight requests.
        assert!((follows - 500.0 / REQUESTS as f64).abs() < 5.0, "{follows}");
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
}
