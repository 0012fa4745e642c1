//! Divides a thread's time among stages: the counter between two readings, the CPU clock where the
//! thread may sleep.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Stage;
use super::spans::{SpanClock, SpanTicks};
use super::ticks::{ns_to_ticks, ticks, ticks_to_ns};
use crate::measure::counter::Counter;
use crate::measure::cpu_clock;

/// Where the time comes from: the thread's, or a test's.
pub(super) trait Clocks {
    /// The counter, which counts sleep too.
    fn ticks(&mut self) -> u64;

    /// The calling thread's CPU time, in nanoseconds.
    fn cpu_ns(&mut self) -> u64;

    /// What the kernel did within the stages since this was last asked, if it is timed and there was any.
    #[inline(always)]
    fn spans(&mut self) -> Option<[SpanTicks; 4]> {
        None
    }

    /// Works until at least so many ticks since `start` have passed; says how many.
    fn spin(&mut self, start: u64, ticks: u64) -> u64 {
        loop {
            let spent = self.ticks().saturating_sub(start);
            if spent >= ticks {
                return spent;
            }
        }
    }
}

/// The calling thread's clocks.
#[derive(Default)]
pub(super) struct OfThread {
    pub(super) spans: Option<SpanClock>,
}

impl Clocks for OfThread {
    #[inline(always)]
    fn ticks(&mut self) -> u64 {
        ticks()
    }

    fn cpu_ns(&mut self) -> u64 {
        cpu_clock::thread_ns()
    }

    #[inline(always)]
    fn spans(&mut self) -> Option<[SpanTicks; 4]> {
        self.spans.as_mut()?.take()
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
pub(super) struct StageClock<C> {
    clocks: C,
    times: Arc<StageTimes>,
    stage: Stage,
    since_ticks: u64,
    /// The CPU clock when the thread last fell asleep or woke.
    since_cpu_ns: u64,
    /// What reading the CPU clock takes.
    reading_ns: u64,
    /// Ticks since the thread last woke, or was last looked at.
    awake_ticks: u64,
    /// How many there may be before it is looked at.
    look_ticks: u64,
    /// The longest stretch in one stage since then.
    longest: (Stage, u64),
    /// What the turn under way counts for; 0: it is not recorded.
    weight: u64,
    sample: Sample,
}

/// Which turns, from one waking to the next, are recorded.
struct Sample {
    /// One in so many, and for as many it counts.
    one_in: u64,
    /// Drawn, not counted off: what comes round in turns must not fall into step with it.
    random: u64,
}

impl Sample {
    /// What the next turn counts for.
    fn weight(&mut self) -> u64 {
        if self.one_in == 1 {
            return 1;
        }
        // Xorshift (Marsaglia 2003): never zero, and good enough to draw lots.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        match (self.random >> 32).is_multiple_of(self.one_in) {
            true => self.one_in,
            false => 0,
        }
    }
}

impl<C: Clocks> StageClock<C> {
    pub(super) fn new(mut clocks: C, times: Arc<StageTimes>) -> Self {
        let reading_ns = reading_ns(&mut clocks);
        Self {
            times,
            stage: Stage::Loop,
            since_ticks: clocks.ticks(),
            since_cpu_ns: clocks.cpu_ns(),
            clocks,
            reading_ns,
            awake_ticks: 0,
            look_ticks: ns_to_ticks(LOOK_NS),
            longest: (Stage::Loop, 0),
            weight: 1,
            sample: Sample {
                one_in: 1,
                random: 0,
            },
        }
    }

    /// Records one turn in `one_in`, drawn at random, for all of them: for a thread that sleeps at
    /// every request, and whose two readings of the CPU clock would weigh more than its work.
    pub(super) fn sampling(mut self, one_in: u64) -> Self {
        self.sample = Sample {
            one_in,
            // Another for each thread: they need not record the same turns.
            random: self.since_ticks | 1,
        };
        self
    }

    #[inline]
    pub(super) fn enter(&mut self, stage: Stage) -> Stage {
        if self.stage.may_sleep() || stage.may_sleep() {
            return self.cross_sleep(stage);
        }
        if self.weight == 0 {
            return std::mem::replace(&mut self.stage, stage);
        }
        let now = self.clocks.ticks();
        let before = self.switch(stage, now);
        if self.awake_ticks > self.look_ticks {
            self.look();
        }
        before
    }

    /// Sees whether a thread that does not sleep was preempted.
    #[cold]
    fn look(&mut self) {
        let cpu_ns = self.clocks.cpu_ns();
        let now = self.clocks.ticks();
        let used_ns = cpu_ns.saturating_sub(self.since_cpu_ns);
        self.take_back_preemption(used_ns);
        // A system call's end is where a preemption likes to be: what is beyond is no reading.
        let reading = ns_to_ticks(2 * self.reading_ns);
        let looked = now.saturating_sub(self.since_ticks).min(reading);
        self.times.ticks[Stage::Recording as usize].add(looked);
        self.since_ticks = now;
        self.since_cpu_ns = cpu_ns;
        self.awake_ticks = 0;
        self.longest = (self.stage, 0);
    }

    /// Ends the stage at `now` and begins the next.
    #[inline]
    fn switch(&mut self, stage: Stage, now: u64) -> Stage {
        let before = std::mem::replace(&mut self.stage, stage);
        let mut stretch = now.saturating_sub(self.since_ticks);
        self.awake_ticks += stretch;
        if let Some(spans) = self.clocks.spans() {
            stretch -= self.note_spans(before, stretch, spans);
        }
        self.times.ticks[before as usize].add(stretch * self.weight);
        if stretch > self.longest.1 {
            self.longest = (before, stretch);
        }
        self.times.entered[stage as usize].add(self.weight);
        self.since_ticks = now;
        before
    }

    /// Of the `stretch` of the stage `before`, so much was within `spans`. Those of a stage in which the
    /// thread may sleep stay in it, since its time is the CPU clock's; and what a stage is there for, too.
    #[cold]
    fn note_spans(&mut self, before: Stage, stretch: u64, spans: [SpanTicks; 4]) -> u64 {
        let mut left = stretch;
        for span in spans {
            let is_its_own = matches!(before, Stage::Map | Stage::Protect | Stage::Advise)
                && span.stage != Stage::PageFaults;
            if span.count == 0 || before.may_sleep() || is_its_own {
                continue;
            }
            let row = span.row.min(left);
            let recording = span.recording.min(left - row);
            for (stage, ticks) in [(span.stage, row), (Stage::Recording, recording)] {
                self.times.ticks[stage as usize].add(ticks * self.weight);
            }
            self.times.entered[span.stage as usize].add(span.count * self.weight);
            if row > self.longest.1 {
                self.longest = (span.stage, row);
            }
            left -= row + recording;
        }
        stretch - left
    }

    /// Into or out of a stage that may sleep: the CPU clock is read on the inner side, so that its
    /// own cost falls on this stage and not on the thread's work. What is noted besides, of a thread
    /// whose caches are another's when it wakes, takes longer than some stages: it is told apart too.
    fn cross_sleep(&mut self, stage: Stage) -> Stage {
        let slept = self.stage.may_sleep();
        let next = match slept {
            true => self.sample.weight(),
            false => self.weight,
        };
        if self.weight == 0 && next == 0 {
            return std::mem::replace(&mut self.stage, stage);
        }
        let before = if slept {
            let cpu_ns = self.clocks.cpu_ns();
            let now = self.clocks.ticks();
            let before = self.switch(stage, now);
            let used_ns = self.cpu_ns_used(cpu_ns);
            // Half of the reading at each end lies within, as a whole: one of the two.
            let slept_ns = used_ns.saturating_sub(self.reading_ns);
            self.times.cpu_ns[before as usize].add(slept_ns * self.weight);
            self.note_recording(now);
            before
        } else {
            let now = self.clocks.ticks();
            let before = self.switch(stage, now);
            self.note_recording(now);
            let cpu_ns = self.clocks.cpu_ns();
            let used_ns = self.cpu_ns_used(cpu_ns);
            self.take_back_preemption(used_ns);
            before
        };
        self.weight = next;
        self.awake_ticks = 0;
        self.longest = (stage, 0);
        before
    }

    /// Nanoseconds of CPU since this was last asked, and `cpu_ns` now.
    fn cpu_ns_used(&mut self, cpu_ns: u64) -> u64 {
        cpu_ns.saturating_sub(std::mem::replace(&mut self.since_cpu_ns, cpu_ns))
    }

    /// What came since `start` was no stage's, nor is the reading of the CPU clock. What recording
    /// takes is not sampled: it counts as it is.
    fn note_recording(&mut self, start: u64) {
        let now = self.clocks.ticks();
        let noted = now.saturating_sub(start) + ns_to_ticks(self.reading_ns);
        self.times.ticks[Stage::Recording as usize].add(noted);
        self.since_ticks = now;
    }

    /// The thread was awake for `awake_ticks` by the counter, and ran for `used_ns`.
    fn take_back_preemption(&mut self, used_ns: u64) {
        let excess_ns = ticks_to_ns(self.awake_ticks).saturating_sub(used_ns);
        if excess_ns > PREEMPTION_NS {
            let excess = ns_to_ticks(excess_ns).min(self.longest.1);
            let excess = excess * self.weight;
            self.times.ticks[self.longest.0 as usize].add(excess.wrapping_neg());
        }
    }
}

/// What reading the CPU clock takes, in nanoseconds of that clock: the least of many times.
fn reading_ns(clocks: &mut impl Clocks) -> u64 {
    let pair = |_| {
        let first = clocks.cpu_ns();
        clocks.cpu_ns() - first
    };
    (0..100).map(pair).min().unwrap_or(0)
}

/// What the two clocks may differ by without anybody having been preempted, in nanoseconds: they
/// are not read in one instant.
const PREEMPTION_NS: u64 = 500;

/// A thread that does not sleep is looked at this often, in nanoseconds of wall time: often enough
/// that two preemptions seldom come between, and for a thousandth of the time.
const LOOK_NS: u64 = 200_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> StageClock<OfThread> {
        StageClock::new(OfThread::default(), Arc::default())
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

    /// A clock that stands still but where the test moves it: wall ticks, and nanoseconds of CPU.
    struct ByHand(std::rc::Rc<std::cell::Cell<(u64, u64)>>);

    impl Clocks for ByHand {
        fn ticks(&mut self) -> u64 {
            self.0.get().0
        }

        fn cpu_ns(&mut self) -> u64 {
            self.0.get().1
        }
    }

    #[test]
    fn a_thread_that_never_sleeps_is_looked_at_too() {
        let time = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
        let pass = |wall_ns: u64, cpu_ns: u64| {
            let (ticks, cpu) = time.get();
            time.set((ticks + ns_to_ticks(wall_ns), cpu + cpu_ns));
        };
        let mut clock = StageClock::new(ByHand(time.clone()), Arc::default());
        for round in 0..1000 {
            clock.enter(Stage::Http);
            pass(1000, 1000);
            clock.enter(Stage::Guest);
            // Every hundredth time somebody else has the core for 4 ms.
            let gone = if round % 100 == 50 { 4_000_000 } else { 0 };
            pass(1000 + gone, 1000);
        }
        clock.enter(Stage::Loop);
        let ns = clock.times.snapshot().ns;
        let near = |stage: Stage| ns[stage as usize].abs_diff(1_000_000) < 10_000;
        assert!(near(Stage::Http) && near(Stage::Guest), "{ns:?}");
    }

    /// A thread whose next stretch has spans in it.
    struct Spanning(ByHand, Option<[SpanTicks; 4]>);

    impl Clocks for Spanning {
        fn ticks(&mut self) -> u64 {
            self.0.ticks()
        }

        fn cpu_ns(&mut self) -> u64 {
            self.0.cpu_ns()
        }

        fn spans(&mut self) -> Option<[SpanTicks; 4]> {
            self.1.take()
        }
    }

    #[test]
    fn spans_are_taken_out_of_the_stage_that_they_interrupt() {
        let time = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
        let span = |stage: Stage, count: u64| SpanTicks {
            stage,
            count,
            row: 150 * count,
            recording: 50 * count,
        };
        let [fault, map, protect, advise] =
            [Stage::PageFaults, Stage::Map, Stage::Protect, Stage::Advise];
        // A stretch of so many ticks in a stage; what is noted of it, of faults, of mprotect(2), and for
        // the recording; and the longest of all.
        let check = |stage: Stage, stretch: u64, noted: [u64; 4], longest: (Stage, u64)| {
            let clocks = Spanning(ByHand(time.clone()), None);
            let mut clock = StageClock::new(clocks, Arc::default());
            clock.switch(stage, 0);
            let spans = [
                span(fault, 2),
                span(map, 0),
                span(protect, 1),
                span(advise, 0),
            ];
            clock.clocks.1 = Some(spans);
            clock.switch(Stage::Loop, stretch);
            let ticks = |stage: Stage| clock.times.ticks[stage as usize].get();
            let stages = [stage, fault, protect, Stage::Recording];
            assert_eq!(stages.map(ticks), noted, "{stage:?} for {stretch}");
            let counters = clock.times.ticks.iter();
            let sum: u64 = counters.map(Counter::get).sum();
            assert_eq!(sum, stretch, "nothing is lost");
            assert_eq!(clock.longest, longest);
            let entered = clock.times.entered[fault as usize].get();
            assert_eq!(entered, if stage.may_sleep() { 0 } else { 2 });
        };
        let guest = Stage::Guest;
        check(guest, 2000, [1400, 300, 150, 150], (guest, 1400));
        check(guest, 700, [100, 300, 150, 150], (fault, 300));
        check(guest, 450, [0, 300, 50, 100], (fault, 300));
        check(guest, 50, [0, 50, 0, 0], (fault, 50));
        let sleeper = Stage::BlockingReceive;
        check(sleeper, 1000, [1000, 0, 0, 0], (sleeper, 1000));
        // Its own call is what it is there for.
        check(protect, 1000, [600, 300, 600, 100], (protect, 600));
    }

    /// A counter that each look at it takes time of, and a thread that uses no CPU.
    struct Slow(u64);

    impl Clocks for Slow {
        fn ticks(&mut self) -> u64 {
            self.0 += 1000;
            self.0
        }

        fn cpu_ns(&mut self) -> u64 {
            0
        }
    }

    #[test]
    fn what_is_noted_around_a_sleep_is_no_stages() {
        let mut clock = StageClock::new(Slow(0), Arc::default());
        let before = clock.times.ticks[Stage::Recording as usize].get();
        for _ in 0..100 {
            clock.enter(Stage::EpollWait);
            clock.enter(Stage::Http);
        }
        let ticks = |stage: Stage| clock.times.ticks[stage as usize].get();
        // From one look to the next at either end; and once between them, but for the last.
        assert_eq!(ticks(Stage::Recording) - before, 200_000);
        assert_eq!(ticks(Stage::Http), 99_000);
    }

    /// Turns of 1 µs in HTTP, 2 µs in a guest and 3 µs of CPU in a `recv` that also sleeps.
    fn turns_of_a_sleeper(one_in: u64) -> StageNs {
        let time = std::rc::Rc::new(std::cell::Cell::new((0, 0)));
        let pass = |wall_ns: u64, cpu_ns: u64| {
            let (ticks, cpu) = time.get();
            time.set((ticks + ns_to_ticks(wall_ns), cpu + cpu_ns));
        };
        let clock = StageClock::new(ByHand(time.clone()), Arc::default());
        let mut clock = clock.sampling(one_in);
        for _ in 0..10_000 {
            clock.enter(Stage::BlockingReceive);
            pass(50_000, 3000);
            clock.enter(Stage::Http);
            pass(1000, 1000);
            clock.enter(Stage::Guest);
            pass(2000, 2000);
        }
        clock.times.snapshot()
    }

    #[test]
    fn some_turns_stand_for_all() {
        let stages = [Stage::BlockingReceive, Stage::Http, Stage::Guest];
        let [all, some] = [1, 4].map(turns_of_a_sleeper);
        for (stage, us) in stages.into_iter().zip([3, 1, 2]) {
            let at = stage as usize;
            let near = |value: u64, of: u64, one_in: u64| value.abs_diff(of) <= of / one_in;
            assert!(
                near(all.ns[at], us * 10_000_000, 1000),
                "{stage:?}: {all:?}"
            );
            assert!(
                near(some.ns[at], us * 10_000_000, 20),
                "{stage:?}: {some:?}"
            );
            assert!(near(some.entered[at], 10_000, 20), "{stage:?}: {some:?}");
            assert_ne!(some.ns[at], all.ns[at], "drawn, and every one is not");
        }
    }
}
