//! What to record of where a thread's time goes: nothing, or the time of each stage.
//!
//! A probe is a type, not a value. [`Off`] has empty functions, which compile to nothing; [`On`]
//! keeps a clock in a thread-local. Code under measurement says which stage it enters and goes back
//! to the one before, so every moment belongs to exactly one stage and the stages sum to the whole.
//!
//! The clock is the time-stamp counter where the processor has one that neither stops nor changes
//! its rate (`constant_tsc` and `nonstop_tsc` in /proc/cpuinfo), and CLOCK_MONOTONIC elsewhere. It
//! counts sleep too. So stages in which a thread may sleep ([`Stage::may_sleep`]) are taken from the
//! thread's CPU clock instead, which costs a system call at each end, but only once a turn.
//!
//! Between two such readings the thread may be preempted, and the counter counts that too. The CPU
//! clock tells by how much it went too far; the excess is taken from the longest single stretch,
//! where the preemption most likely was.

use std::cell::RefCell;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::counter::Counter;
use super::cpu_clock;

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
    /// Into and out of the sandbox: leases, instances, checks of what the guest answered.
    Sandbox = "sandbox";
    /// Requests copied into the guest's memory, parts carried over.
    Copy = "copies";
    /// Requests parsed, answers written.
    Http = "HTTP";
    /// Sessions, buffers, the loop itself.
    Loop = "loop, session";
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
    /// io_uring_enter(2), waiting and doing task work: receives are done here.
    EnterWait = "io_uring_enter, wait + task work", sleeps;
    /// read(2) of a signalfd.
    SignalRead = "read (signalfd)", sleeps;
    /// poll(2).
    Poll = "poll", sleeps;
    /// An async runtime, between two tasks of ours: its scheduler, its ring, its epoll.
    Runtime = "async runtime", sleeps;
    /// What else is asked of the kernel: timers, shutdown, close, threads.
    OtherCalls = "other calls";
    /// Reading the CPU clock, which is a system call: what recording takes for itself.
    Recording = "reading the CPU clock";
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

thread_local! {
    static CLOCK: RefCell<Option<StageClock>> = const { RefCell::new(None) };
}

/// The calling thread's time is recorded in `times` from now on, if `P` records at all.
pub fn begin<P: Probe>(times: &Arc<StageTimes>) {
    if P::ON {
        CLOCK.set(Some(StageClock::new(times.clone())));
    }
}

/// Time of each stage of one thread, in ticks of its clock; one thread writes, any may read.
#[derive(Debug, Default)]
pub struct StageTimes {
    ticks: [Counter; Stage::ALL.len()],
    /// Times that a stage was entered.
    entered: [Counter; Stage::ALL.len()],
    /// Nanoseconds from the thread's CPU clock, for the stages in which it may sleep.
    cpu_ns: [Counter; Stage::ALL.len()],
}

/// Nanoseconds of each stage, in the order of [`Stage::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageNs {
    /// Time.
    pub ns: [u64; Stage::ALL.len()],
    /// Times entered.
    pub entered: [u64; Stage::ALL.len()],
}

impl StageTimes {
    /// The times now.
    pub fn snapshot(&self) -> StageNs {
        let mut snapshot = StageNs::default();
        for (at, stage) in Stage::ALL.iter().enumerate() {
            snapshot.ns[at] = if stage.may_sleep() {
                self.cpu_ns[at].get()
            } else {
                ticks_to_ns(self.ticks[at].get())
            };
            snapshot.entered[at] = self.entered[at].get();
        }
        snapshot
    }
}

impl StageNs {
    /// What came since `earlier`. A stage that was cut by the earlier reading counts from there.
    pub fn since(&self, earlier: &StageNs) -> StageNs {
        self.each(earlier, u64::saturating_sub)
    }

    /// Both together.
    pub fn plus(&self, other: &StageNs) -> StageNs {
        self.each(other, u64::wrapping_add)
    }

    fn each(&self, other: &StageNs, with: impl Fn(u64, u64) -> u64) -> StageNs {
        let zip = |a: &[u64], b: &[u64]| std::array::from_fn(|at| with(a[at], b[at]));
        StageNs {
            ns: zip(&self.ns, &other.ns),
            entered: zip(&self.entered, &other.entered),
        }
    }
}

/// Divides a thread's time among stages.
struct StageClock {
    times: Arc<StageTimes>,
    stage: Stage,
    since_ticks: u64,
    /// The CPU clock when the thread last fell asleep or woke.
    since_cpu_ns: u64,
    /// What reading the CPU clock takes.
    reading_ns: u64,
    /// Ticks since the thread last woke.
    awake_ticks: u64,
    /// The longest stretch in one stage since then.
    longest: (Stage, u64),
}

impl StageClock {
    fn new(times: Arc<StageTimes>) -> Self {
        Self {
            times,
            stage: Stage::Loop,
            since_ticks: ticks(),
            since_cpu_ns: cpu_clock::thread_ns(),
            reading_ns: reading_ns(),
            awake_ticks: 0,
            longest: (Stage::Loop, 0),
        }
    }

    #[inline]
    fn enter(&mut self, stage: Stage) -> Stage {
        if self.stage.may_sleep() || stage.may_sleep() {
            return self.cross_sleep(stage);
        }
        self.switch(stage, ticks())
    }

    /// Ends the stage at `now` and begins the next.
    #[inline]
    fn switch(&mut self, stage: Stage, now: u64) -> Stage {
        let before = std::mem::replace(&mut self.stage, stage);
        let stretch = now.saturating_sub(self.since_ticks);
        self.times.ticks[before as usize].add(stretch);
        self.awake_ticks += stretch;
        if stretch > self.longest.1 {
            self.longest = (before, stretch);
        }
        self.times.entered[stage as usize].add(1);
        self.since_ticks = now;
        before
    }

    /// Into or out of a stage that may sleep: the CPU clock is read on the inner side, so that its
    /// own cost falls on this stage and not on the thread's work.
    fn cross_sleep(&mut self, stage: Stage) -> Stage {
        let (now, cpu_ns) = if self.stage.may_sleep() {
            let cpu_ns = cpu_clock::thread_ns();
            (ticks(), cpu_ns)
        } else {
            let now = ticks();
            (now, cpu_clock::thread_ns())
        };
        let used_ns = cpu_ns.saturating_sub(self.since_cpu_ns);
        self.since_cpu_ns = cpu_ns;
        let slept = self.stage.may_sleep();
        let before = self.switch(stage, now);
        if slept {
            // Half of the reading at each end lies within, as a whole: one of the two.
            self.times.cpu_ns[before as usize].add(used_ns.saturating_sub(self.reading_ns));
            self.times.ticks[Stage::Recording as usize].add(ns_to_ticks(2 * self.reading_ns));
        } else {
            self.take_back_preemption(used_ns);
        }
        self.awake_ticks = 0;
        self.longest = (stage, 0);
        before
    }

    /// The thread was awake for `awake_ticks` by the counter, and ran for `used_ns`.
    fn take_back_preemption(&mut self, used_ns: u64) {
        let excess_ns = ticks_to_ns(self.awake_ticks).saturating_sub(used_ns);
        if excess_ns > PREEMPTION_NS {
            let excess = ns_to_ticks(excess_ns).min(self.longest.1);
            self.times.ticks[self.longest.0 as usize].add(excess.wrapping_neg());
        }
    }
}

/// What reading the CPU clock takes, in nanoseconds of that clock: the least of many times.
fn reading_ns() -> u64 {
    let pair = |_| {
        let first = cpu_clock::thread_ns();
        cpu_clock::thread_ns() - first
    };
    (0..100).map(pair).min().unwrap_or(0)
}

/// What the two clocks may differ by without anybody having been preempted, in nanoseconds: they
/// are not read in one instant.
const PREEMPTION_NS: u64 = 500;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn ticks() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and Linux does not forbid it to programs
    // unless asked to by prctl(PR_SET_TSC), which nobody here does.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// When the clocks were first read together.
fn origin() -> &'static (u64, Instant) {
    static ORIGIN: OnceLock<(u64, Instant)> = OnceLock::new();
    ORIGIN.get_or_init(|| (ticks(), Instant::now()))
}

/// Nanoseconds of a tick, measured once, over 10 ms or what has passed since [`calibrate`].
fn tick_ns() -> f64 {
    static TICK_NS: OnceLock<f64> = OnceLock::new();
    *TICK_NS.get_or_init(|| {
        let (start, instant) = origin();
        let left = CALIBRATION.saturating_sub(instant.elapsed());
        std::thread::sleep(left);
        // Read as close together as at the start.
        let (now, elapsed) = (ticks(), instant.elapsed());
        elapsed.as_nanos() as f64 / now.saturating_sub(*start).max(1) as f64
    })
}

/// Over this time a clock that is read 25 ns late is wrong by 2.5 in a million.
const CALIBRATION: std::time::Duration = std::time::Duration::from_millis(10);

/// Measures the length of a tick, if that is not known yet. Takes up to 10 ms.
pub fn calibrate() {
    tick_ns();
}

fn ticks_to_ns(count: u64) -> u64 {
    (count as f64 * tick_ns()) as u64
}

fn ns_to_ticks(ns: u64) -> u64 {
    (ns as f64 / tick_ns()) as u64
}

/// Why stage times cannot be trusted here, if so.
pub fn check() -> Result<(), String> {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let steady = ["constant_tsc", "nonstop_tsc"]
        .iter()
        .all(|flag| flags.contains(flag));
    if cfg!(target_arch = "x86_64") && !steady {
        return Err(
            "the processor's time-stamp counter is not constant, so stages cannot be timed".into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> StageClock {
        StageClock::new(Arc::default())
    }

    #[test]
    fn every_tick_belongs_to_one_stage() {
        let mut clock = clock();
        let start = clock.since_ticks;
        assert_eq!(clock.switch(Stage::Http, start + 10), Stage::Loop);
        assert_eq!(clock.switch(Stage::Guest, start + 30), Stage::Http);
        assert_eq!(clock.switch(Stage::Http, start + 530), Stage::Guest);
        assert_eq!(clock.switch(Stage::Loop, start + 535), Stage::Http);
        let ticks = |stage: Stage| clock.times.ticks[stage as usize].get();
        assert_eq!(ticks(Stage::Loop), 10);
        assert_eq!(ticks(Stage::Http), 25);
        assert_eq!(ticks(Stage::Guest), 500);
        assert_eq!(
            Stage::ALL.iter().map(|stage| ticks(*stage)).sum::<u64>(),
            535
        );
    }

    #[test]
    fn sleep_is_not_counted() {
        let mut clock = clock();
        clock.enter(Stage::EpollWait);
        std::thread::sleep(std::time::Duration::from_millis(100));
        clock.enter(Stage::Loop);
        let waited = clock.times.snapshot().ns[Stage::EpollWait as usize];
        assert!(waited < 50_000_000, "{waited} ns of CPU in 100 ms of sleep");
        assert!(waited > 0, "falling asleep takes some");
    }

    #[test]
    fn a_preemption_is_taken_from_where_it_was() {
        let mut clock = clock();
        let start = clock.since_ticks;
        let ms = ns_to_ticks(1_000_000);
        clock.switch(Stage::Http, start);
        clock.switch(Stage::Guest, start + ms);
        // In the guest for 10 ms, of which the thread ran 2.
        clock.switch(Stage::Loop, start + 11 * ms);
        clock.take_back_preemption(3_000_000);
        let ns = clock.times.snapshot().ns;
        let near = |stage: Stage, expected: u64| ns[stage as usize].abs_diff(expected) < 1000;
        assert!(near(Stage::Guest, 2_000_000), "{ns:?}");
        assert!(near(Stage::Http, 1_000_000), "{ns:?}");
    }

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
                begin::<On>(&times);
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
