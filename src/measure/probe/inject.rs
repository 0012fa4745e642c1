//! Work put into a stage on purpose, to see whether the ledger finds it there and nowhere else.
//!
//! It is real work: the thread spins on its counter. A stage may be entered several times for a
//! request, or once for many of them; so each request owes its part, and the next entry into the
//! stage pays what is owed. What a spin took too long is taken off the next.
//!
//! A stage in which the thread may sleep pays when it is left: what comes while the thread works
//! before a wait would be done in the wait, and not where it is done otherwise.

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
    /// The stage above, the ticks for each request below: what is read is of one piece.
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
        let ticks = ns_to_ticks(ns.min(LONGEST_NS)).min(u64::from(u32::MAX));
        self.set.store((stage as u64) << 32 | ticks, Relaxed);
    }

    /// What was really injected so far, in nanoseconds, by the clock of the stages.
    pub fn spent_ns(&self) -> u64 {
        ticks_to_ns(self.spent_ticks.load(Relaxed))
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
    set: u64,
    /// Not yet worked off; negative if too much was.
    owed_ticks: i64,
    /// Where the thread is.
    stage: Stage,
}

impl Injector {
    pub(super) fn new(injection: Injection) -> Self {
        Self {
            dose: injection.dose,
            set: 0,
            owed_ticks: 0,
            stage: Stage::Loop,
        }
    }

    /// The thread is about to leave the stage that it is in.
    pub(super) fn leave(&mut self, clocks: &mut impl Clocks) {
        if self.stage.may_sleep() {
            self.work(clocks);
        }
    }

    /// The thread is in `stage` from now on; returns where it was. A request is one entry into the
    /// guest, which calls nobody and so is never come back to.
    pub(super) fn enter(&mut self, stage: Stage, clocks: &mut impl Clocks) -> Stage {
        let before = std::mem::replace(&mut self.stage, stage);
        let set = self.dose.set.load(Relaxed);
        if set != self.set {
            self.set = set;
            self.owed_ticks = 0;
        }
        if stage == Stage::Guest {
            self.owed_ticks += self.ticks();
        }
        if !stage.may_sleep() {
            self.work(clocks);
        }
        before
    }

    /// Of each request.
    fn ticks(&self) -> i64 {
        (self.set & u64::from(u32::MAX)).cast_signed()
    }

    /// Works off what is owed, if this is where.
    fn work(&mut self, clocks: &mut impl Clocks) {
        if self.stage as u64 == self.set >> 32 && self.owed_ticks > 0 {
            let spent = clocks.spin(self.owed_ticks.cast_unsigned());
            self.dose.spent_ticks.fetch_add(spent, Relaxed);
            // What goes beyond a request's part was no spin too long but a preemption: no work.
            self.owed_ticks = (self.owed_ticks - spent.cast_signed()).max(-self.ticks());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;

    use super::*;
    use crate::measure::probe::clock::{StageClock, StageTimes};
    use crate::measure::probe::ticks::ticks_to_ns;

    /// Time that passes only where a test says so, and a tick at each look.
    #[derive(Clone, Default)]
    struct ByHand {
        awake_ticks: Rc<Cell<u64>>,
        asleep_ticks: Rc<Cell<u64>>,
    }

    impl ByHand {
        fn pass(counter: &Cell<u64>, ticks: u64) {
            counter.set(counter.get() + ticks);
        }
    }

    impl Clocks for ByHand {
        fn ticks(&mut self) -> u64 {
            Self::pass(&self.awake_ticks, 1);
            self.awake_ticks.get() + self.asleep_ticks.get()
        }

        fn cpu_ns(&mut self) -> u64 {
            ticks_to_ns(self.awake_ticks.get())
        }
    }

    /// What a loop enters for eight requests that came in one turn, each stage for 300 ticks.
    const TURN: &[&[Stage]] = &[
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
            Stage::Sandbox,
            Stage::Http,
            Stage::Sandbox,
            Stage::Loop,
            Stage::Send,
            Stage::Loop,
        ],
    ];
    const REQUESTS: u64 = 8;
    const TURNS: u64 = 200;

    /// Nanoseconds of each stage for each request.
    fn run(injection: Option<Injection>) -> Vec<(Stage, f64)> {
        let times: Arc<StageTimes> = Arc::default();
        let mut time = ByHand::default();
        let mut clock = StageClock::new(time.clone(), times.clone());
        let mut injector = injection.map(Injector::new);
        let mut enter = |stage: Stage| {
            if let Some(injector) = &mut injector {
                injector.leave(&mut time);
                clock.enter(stage);
                injector.enter(stage, &mut time);
            } else {
                clock.enter(stage);
            }
            if stage == Stage::EpollWait {
                ByHand::pass(&time.asleep_ticks, 100_000);
            }
            ByHand::pass(&time.awake_ticks, 300);
        };
        for _ in 0..TURNS {
            TURN[0].iter().copied().for_each(&mut enter);
            for _ in 0..REQUESTS {
                TURN[1].iter().copied().for_each(&mut enter);
            }
        }
        let ns = times.snapshot().ns;
        let per_request = |ns: u64| ns as f64 / (REQUESTS * TURNS) as f64;
        let stages = Stage::ALL.iter();
        stages
            .map(|&stage| (stage, per_request(ns[stage as usize])))
            .collect()
    }

    #[test]
    fn work_put_into_a_stage_is_found_there_and_nowhere_else() {
        let without = run(None);
        let entered: Vec<Stage> = TURN.concat();
        for stage in entered {
            let injection = Injection {
                dose: Arc::new(Dose::new(stage, 500)),
                recorded: true,
            };
            for ((row, with), (_, without)) in run(Some(injection)).iter().zip(&without) {
                let moved = with - without;
                // What the last turn owes may still be owed.
                let expected = if *row == stage { 500.0 } else { 0.0 };
                assert!(
                    (moved - expected).abs() < 5.0,
                    "500 ns of {} moved {} by {moved:.1}",
                    stage.name(),
                    row.name(),
                );
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
