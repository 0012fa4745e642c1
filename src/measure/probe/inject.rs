//! Work put into a stage on purpose, to see whether the ledger finds it there and nowhere else.
//!
//! It is real work: the thread spins on its counter. A stage may be entered several times for a
//! request, or once for many of them; so each request owes its part, and the next entry into the
//! stage pays what is owed. What a spin took too long is taken off the next.
//!
//! Where each connection has a thread, some stages are entered before its request: a thread that is born
//! owes for its first request from its birth. And some by another thread, which accepts and never has a
//! request: it owes for each thread that it begets, in the stages that are its own. What a thread worked
//! too long that ends, the next to be born owes less.
//!
//! The counter is read before the work is noted and again before its end is. What lies behind each
//! reading and before the row changes is the same code, so neither row has more of it; how much was spent
//! is booked behind the second change, in the same row whichever the work belongs to.
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
    /// What threads that have ended worked too long.
    overspent_ticks: AtomicU64,
}

impl Dose {
    /// So many nanoseconds of work for each request, at most a million, in `stage`.
    pub fn new(stage: Stage, ns: u64) -> Self {
        let dose = Self {
            set: AtomicU64::new(0),
            spent_ticks: AtomicU64::new(0),
            overspent_ticks: AtomicU64::new(0),
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
        self.overspent_ticks.store(0, Relaxed);
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
    /// What a look at the counter takes.
    look_ticks: u64,
    /// Where the thread is.
    stage: Stage,
    /// No request has come to it.
    is_unasked: bool,
    /// The first request is owed for.
    is_prepaid: bool,
}

impl Injector {
    pub(super) fn new(injection: Injection, clocks: &mut impl Clocks) -> Self {
        let packed = injection.dose.set.load(Relaxed);
        let set = Set::unpacked(packed);
        let overspent = injection.dose.overspent_ticks.swap(0, Relaxed);
        Self {
            dose: injection.dose,
            packed,
            set,
            owed_ticks: i64::from(set.ticks) - overspent.cast_signed(),
            look_ticks: clocks.look_ticks(),
            stage: Stage::Loop,
            is_unasked: true,
            is_prepaid: true,
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
            let spent = end - start;
            if self.set.elsewhere != self.stage {
                if self.set.elsewhere != self.set.row {
                    enter(self.set.elsewhere);
                    end = clocks.ticks();
                }
                // On from there, where nothing lies between: neither row gets what it takes to begin again.
                clocks.spin(end, u64::from(self.set.ticks));
            }
            self.book(spent);
        }
        enter(stage);
        let before = std::mem::replace(&mut self.stage, stage);
        let packed = self.dose.set.load(Relaxed);
        if packed != self.packed {
            self.packed = packed;
            self.set = Set::unpacked(packed);
            self.owed_ticks = 0;
            self.is_prepaid = false;
        }
        let begins = before == Stage::Sandbox && stage == Stage::Guest;
        let is_asked = begins || stage == Stage::HandOver;
        let owes = match is_asked {
            true => !std::mem::replace(&mut self.is_prepaid, false),
            false => self.is_unasked && stage == Stage::Clone && is_acceptors(self.set.stage),
        };
        self.is_unasked &= !is_asked;
        if owes {
            self.owed_ticks += i64::from(self.set.ticks);
        }
        if !stage.may_sleep() && self.is_due() {
            // A thread that has slept may find neither row's counters in its caches. The one that has the work
            // must find them as the other does: what is fetched behind the work is the stage's time.
            enter(self.set.elsewhere);
            enter(stage);
            let start = clocks.settled_ticks();
            enter(self.set.row);
            let end = self.work(clocks, start);
            enter(stage);
            self.book(end - start);
        }
        before
    }

    /// Whether work is owed, and this is where.
    fn is_due(&self) -> bool {
        self.stage == self.set.stage && self.owed_ticks > 0
    }

    /// Works for as long as is owed, from `start` on; when that was done.
    fn work(&self, clocks: &mut impl Clocks, start: u64) -> u64 {
        clocks.spin(start, self.owed_ticks.cast_unsigned());
        clocks.ticks()
    }

    /// So much was spent on what is owed.
    fn book(&mut self, spent: u64) {
        self.dose.spent_ticks.fetch_add(spent, Relaxed);
        // What goes beyond a request's part was no spin too long but a preemption: no work.
        let least = -i64::from(self.set.ticks);
        self.owed_ticks = (self.owed_ticks - spent.cast_signed()).max(least);
    }
}

/// Whether a thread enters it that only accepts, and for each connection.
fn is_acceptors(stage: Stage) -> bool {
    matches!(stage, Stage::Accept | Stage::Poll | Stage::Clone)
}

impl Drop for Injector {
    fn drop(&mut self) {
        // Of another dose it was forgiven.
        if self.dose.set.load(Relaxed) != self.packed {
            return;
        }
        let overspent = self.owed_ticks.min(0).unsigned_abs();
        self.dose.overspent_ticks.fetch_add(overspent, Relaxed);
    }
}

#[cfg(test)]
mod tests;
