//! What to record of where a thread's time goes: nothing, or the time of each stage.
//!
//! A probe is a type, not a value. [`Off`] has empty functions, which compile to nothing; [`On`]
//! keeps a clock in a thread-local; [`Injecting`] puts work into a stage besides, to see whether the
//! ledger finds it. Code under measurement says which stage it enters and goes back
//! to the one before, so every moment belongs to exactly one stage and the stages sum to the whole.
//! Code that is called back by others, and so has no such type, asks the thread ([`Asked`]).
//!
//! The clock is the time-stamp counter where the processor has one that neither stops nor changes
//! its rate (`constant_tsc` and `nonstop_tsc` in /proc/cpuinfo), and CLOCK_MONOTONIC elsewhere. It
//! counts sleep too. So stages in which a thread may sleep ([`Stage::may_sleep`]) are taken from the
//! thread's CPU clock instead. To read it costs a system call, so it is read when the thread wakes, and only
//! in some turns, drawn at random, before it may sleep as well. In those the sleeping stage is measured by that clock
//! alone, and so is by how much the counter went too far while the thread was awake: it may have been
//! preempted, or interrupted where the kernel tells that apart. In the others the sleeping stage has what the
//! one clock counted and the other did not; and what is wrong with that is put right by those drawn, each
//! for as many as it stands for. So every row is on average what it would be if both readings were always made.
//!
//! What the counter went too far by is taken from the longest single stretch, where a preemption most likely
//! was. After a stretch that is long enough for one the CPU clock is read in any case.
//!
//! A thread that sleeps at every request would pay for such readings at every request. So only
//! some of its turns are recorded, drawn at random, each for several ([`begin`]'s `one_in`).

mod clock;
mod inject;
mod spans;
mod ticks;
mod times;

use std::cell::RefCell;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use clock::{OfThread, StageClock};
use inject::Injector;
use spans::SpanClock;

pub use inject::{Dose, Injection};
#[cfg(test)]
pub(in crate::measure) use spans::Pages;
pub use spans::{can_time_faults, can_time_memory_calls, threads_with_untimed_faults, time_faults};
pub use ticks::{Moment, calibrate, check};
pub use times::{StageNs, StageTimes};

macro_rules! stages {
    ($($(#[$doc:meta])* $stage:ident = $name:literal $(, $sleeps:ident)?;)*) => {
        /// A row of the time ledger.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[repr(u8)]
        pub enum Stage { $($(#[$doc])* $stage,)* }

        impl Stage {
            /// Every stage, in the order of the ledger.
            pub const ALL: &[Stage] = &[$(Stage::$stage,)*];

            /// As the ledger calls it.
            pub fn name(self) -> &'static str {
                match self { $(Stage::$stage => $name,)* }
            }

            /// Whether a thread may sleep in it.
            pub fn may_sleep(self) -> bool {
                match self { $(Stage::$stage => stages!(@sleeps $($sleeps)?),)* }
            }
        }
    };
    (@sleeps sleeps) => { true };
    (@sleeps) => { false };
}

stages! {
    /// The handler's own code.
    Guest = "guest";
    /// Into and out of the sandbox: leases, instances, checks of what the guest answered. What the
    /// kernel is asked for by wasmtime itself is here and in the guest's row, but for memory where that is
    /// timed ([`can_time_memory_calls`]).
    Sandbox = "sandbox";
    /// Requests copied into the guest's memory, parts carried over.
    Copy = "copies";
    /// Requests parsed, answers written.
    Http = "HTTP";
    /// Sessions, buffers, the loop itself. Here is also what a lock takes that somebody else holds.
    Loop = "loop, session";
    /// A request put where another thread finds it. Of a request that stays on its thread there is none.
    HandOver = "handing over";
    /// accept4(2).
    Accept = "accept4";
    /// recv(2) on a socket that does not block.
    Receive = "recv";
    /// send(2) on a socket that does not block.
    Send = "send";
    /// recv(2) on a socket that blocks.
    BlockingReceive = "recv (blocking)", sleeps;
    /// send(2) on a socket that blocks. It seldom does; when it does, that is taken back as a
    /// preemption would be.
    BlockingSend = "send (blocking)";
    /// epoll_wait(2).
    EpollWait = "epoll_wait", sleeps;
    /// epoll_ctl(2).
    EpollControl = "epoll_ctl";
    /// io_uring_enter(2), taking entries in: sends are done here.
    EnterSubmit = "io_uring_enter, submit";
    /// io_uring_enter(2), doing the task work that is there already: receives are done here.
    EnterTaskWork = "io_uring_enter, task work";
    /// io_uring_enter(2), waiting, with the task work that comes meanwhile: the kernel does both in
    /// one loop, and no clock of ours reaches in between.
    EnterWait = "io_uring_enter, wait", sleeps;
    /// read(2) of a signalfd.
    SignalRead = "read (signalfd)", sleeps;
    /// read(2) of the eventfd by which other threads wake this one.
    EventRead = "read (eventfd)";
    /// poll(2).
    Poll = "poll", sleeps;
    /// futex(2), waking a thread that waits: a worker that is given a request, a thread that is given an
    /// instance. Who is woken on this core may be given it at once, which is a sleep to the other.
    FutexWake = "futex, waking", sleeps;
    /// futex(2), waiting: for a handler on another thread, or for an instance.
    FutexWait = "futex, waiting", sleeps;
    /// A thread's birth: clone3(2), and before it mmap(2) and mprotect(2) of its stack. The newborn may be
    /// given the core, too.
    Clone = "clone3, its stack", sleeps;
    /// mmap(2) and munmap(2) of a guest's memory by this program; and by whatever it runs, where they are
    /// timed ([`can_time_memory_calls`]). So are mprotect(2) and madvise(2).
    Map = "mmap, munmap";
    /// mprotect(2) of a guest's memory by this program. Where a guest's first write to a page asks for it,
    /// that is in the guest's row, whom it interrupts, unless it is timed.
    Protect = "mprotect";
    /// madvise(2) of a guest's memory by this program: pages given before they are touched, or dropped.
    Advise = "madvise";
    /// Pages that the kernel gives when they are touched, whatever stage that is in. Faults within a system
    /// call are that call's, and those that end in a signal the stage's.
    PageFaults = "page faults";
    /// timerfd_settime(2), timer_settime(2).
    Timer = "timer(fd)_settime";
    /// fcntl(2): a socket that is to send signals.
    FileControl = "fcntl";
    /// shutdown(2).
    Shutdown = "shutdown";
    /// close(2) of a connection.
    Close = "close";
    /// An async runtime, between two tasks of ours: its scheduler, its ring, its epoll.
    Runtime = "async runtime", sleeps;
    /// What recording takes for itself: reading the CPU clock, which is a system call, and the samples of
    /// page faults.
    Recording = "recording itself";
}

/// What to record.
pub trait Probe: 'static {
    /// Whether anything is recorded.
    const ON: bool;

    /// The thread's time belongs to `stage` from now on; returns the stage it belonged to.
    fn enter(stage: Stage) -> Stage;

    /// Runs `work` in `stage`.
    #[inline(always)]
    fn within<R>(stage: Stage, work: impl FnOnce() -> R) -> R {
        let before = Self::enter(stage);
        let result = work();
        Self::enter(before);
        result
    }
}

/// Records nothing and costs nothing.
pub struct Off;

impl Probe for Off {
    const ON: bool = false;

    #[inline(always)]
    fn enter(stage: Stage) -> Stage {
        stage
    }
}

/// Records the time of each stage of this thread, once [`begin`] was called on it.
pub struct On;

impl Probe for On {
    const ON: bool = true;

    #[inline]
    fn enter(stage: Stage) -> Stage {
        CLOCK.with_borrow_mut(|clock| match clock {
            Some(clock) => clock.enter(stage),
            None => stage,
        })
    }
}

/// As [`On`], and does the work of an [`Injection`] in its stage.
pub struct Injecting;

impl Probe for Injecting {
    const ON: bool = true;

    fn enter(stage: Stage) -> Stage {
        INJECTOR.with_borrow_mut(|injector| match injector {
            Some(injector) => injector.enter(stage, &mut OfThread::default(), &mut note),
            None => On::enter(stage),
        })
    }
}

/// One copy of the code, so that no change of rows takes longer than another for want of a cache line.
#[inline(never)]
fn note(stage: Stage) {
    On::enter(stage);
}

/// Whatever the calling thread records: for code that has no probe's type, such as what wasmtime calls
/// back. It looks at a thread-local each time, also where nothing is recorded, so it is for the surroundings
/// of system calls alone.
pub struct Asked;

impl Probe for Asked {
    const ON: bool = true;

    fn enter(stage: Stage) -> Stage {
        Injecting::enter(stage)
    }
}

thread_local! {
    static CLOCK: RefCell<Option<StageClock<OfThread>>> = const { RefCell::new(None) };
    static INJECTOR: RefCell<Option<Injector>> = const { RefCell::new(None) };
}

/// The calling thread's time is recorded in `times` from now on, if `P` records at all: of one turn
/// in `one_in`, at least 1, for as many. And the work of `injection` is done on it, if `P` does that;
/// it is looked for in every turn, since in one of four it would take four times as long to see.
pub fn begin<P: Probe>(times: &Arc<StageTimes>, one_in: u64, injection: Option<Injection>) {
    if P::ON
        && injection
            .as_ref()
            .is_none_or(|injection| injection.recorded)
    {
        let spans = SpanClock::begin();
        let clock = StageClock::new(OfThread { spans }, times.clone());
        let one_in = if injection.is_some() { 1 } else { one_in };
        CLOCK.set(Some(clock.sampling(one_in)));
    }
    INJECTOR.set(injection.map(|injection| Injector::new(injection, &mut OfThread::default())));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_is_off_has_no_size_and_no_state() {
        assert_eq!(size_of::<Off>(), 0);
        assert_eq!(Off::enter(Stage::Guest), Stage::Guest);
        assert_eq!(
            On::enter(Stage::Guest),
            Stage::Guest,
            "not begun on this thread"
        );
    }

    #[test]
    fn a_stage_within_a_stage_gives_the_time_back() {
        let times = Arc::new(StageTimes::default());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begin::<On>(&times, 1, None);
                let result = On::within(Stage::Http, || On::within(Stage::Guest, || 7));
                assert_eq!(result, 7);
                assert_eq!(On::enter(Stage::Loop), Stage::Loop, "back where it began");
            });
        });
        let entered = times.snapshot().entered;
        assert_eq!(entered[Stage::Guest as usize], 1);
        assert_eq!(
            entered[Stage::Http as usize],
            2,
            "entered, and come back to"
        );
    }
}
