//! Divides a thread's time among stages: the counter between two readings, the CPU clock where the
//! thread may sleep.

use std::sync::{Arc, OnceLock};

use nix::sched::sched_getcpu;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::Stage;
use super::spans::{SpanClock, SpansTicks};
use super::ticks::{ns_to_ticks, settled_ticks, ticks, ticks_to_ns};
use super::times::StageTimes;
use crate::measure::cpu_clock;

/// Where the time comes from: the thread's, or a test's.
pub(super) trait Clocks {
    /// The counter, which counts sleep too.
    fn ticks(&mut self) -> u64;

    /// The same once all that came before is done.
    fn settled_ticks(&mut self) -> u64 {
        self.ticks()
    }

    /// What a look at the counter takes: the least of many times.
    fn look_ticks(&mut self) -> u64 {
        least(|| self.ticks())
    }

    /// The calling thread's CPU time, in nanoseconds.
    fn cpu_ns(&mut self) -> u64;

    /// What reading that takes, in nanoseconds of the same clock: the least of many times.
    fn reading_ns(&mut self) -> u64 {
        least(|| self.cpu_ns())
    }

    /// What the kernel did within the stages since this was last asked, if it is timed and there was any.
    #[inline(always)]
    fn spans(&mut self) -> Option<SpansTicks> {
        None
    }

    /// Works until at least so many ticks since `start` have passed.
    fn spin(&mut self, start: u64, ticks: u64) {
        while self.ticks().saturating_sub(start) < ticks {}
    }
}

/// The calling thread's clocks. What they take is found out once for each core, on the first thread that is
/// born there: where each connection has a thread, that takes longer than its request.
#[derive(Default)]
pub(super) struct OfThread {
    pub(super) spans: Option<SpanClock>,
}

impl Clocks for OfThread {
    #[inline(always)]
    fn ticks(&mut self) -> u64 {
        ticks()
    }

    fn settled_ticks(&mut self) -> u64 {
        settled_ticks()
    }

    fn look_ticks(&mut self) -> u64 {
        static TAKES: OfCores = OfCores::new();
        TAKES.get_or_find(|| least(ticks))
    }

    fn cpu_ns(&mut self) -> u64 {
        cpu_clock::thread_ns()
    }

    fn reading_ns(&mut self) -> u64 {
        static TAKES: OfCores = OfCores::new();
        TAKES.get_or_find(|| least(cpu_clock::thread_ns))
    }

    #[inline(always)]
    fn spans(&mut self) -> Option<SpansTicks> {
        self.spans.as_mut()?.take()
    }
}

/// A figure of each core, of which those share one that are this far apart.
struct OfCores([OnceLock<u64>; 256]);

impl OfCores {
    const fn new() -> Self {
        Self([const { OnceLock::new() }; 256])
    }

    /// The figure of the core that the calling thread is on.
    fn get_or_find(&self, find: impl FnOnce() -> u64) -> u64 {
        let core = sched_getcpu().unwrap_or(0);
        *self.0[core % self.0.len()].get_or_init(find)
    }
}

/// What lies between two readings of a clock, at least, of a hundred.
fn least(mut read: impl FnMut() -> u64) -> u64 {
    let pair = |_| {
        let first = read();
        read() - first
    };
    (0..100).map(pair).min().unwrap_or(0)
}

/// Divides a thread's time among stages.
pub(super) struct StageClock<C> {
    clocks: C,
    times: Arc<StageTimes>,
    stage: Stage,
    since_ticks: u64,
    /// The CPU clock when it was last read: as a rule when the thread last woke.
    read_cpu_ns: u64,
    /// The counter when the thread went on after that, or fell asleep.
    read_ticks: u64,
    /// What reading the CPU clock takes.
    reading_ns: u64,
    /// Ticks after which a thread that does not sleep is looked at.
    look_ticks: u64,
    /// The longest stretch in one stage since the CPU clock was read.
    longest: (Stage, u64),
    /// The CPU clock is read before the thread may sleep, too, if a stretch was longer than this.
    trusted_ticks: u64,
    /// What the turn under way counts for; 0: it is not recorded.
    weight: u64,
    /// Of the turns, from one waking to the next, one in so many is recorded, and counts for as many.
    recorded_one_in: u64,
    /// Turns are drawn, not counted off: what comes round in turns must not fall into step with it.
    lots: Lots,
}

/// Seeded anew for each thread, since they need not draw the same.
struct Lots(SmallRng);

impl Lots {
    /// What the next of one in `one_in` counts for.
    fn weight(&mut self, one_in: u64) -> u64 {
        if one_in == 1 || self.0.random_range(0..one_in) == 0 {
            one_in
        } else {
            0
        }
    }
}

impl<C: Clocks> StageClock<C> {
    pub(super) fn new(mut clocks: C, times: Arc<StageTimes>) -> Self {
        let reading_ns = clocks.reading_ns();
        let read_cpu_ns = clocks.cpu_ns();
        let read_ticks = clocks.ticks();
        Self {
            times,
            stage: Stage::Loop,
            since_ticks: read_ticks,
            read_cpu_ns,
            read_ticks,
            clocks,
            reading_ns,
            look_ticks: ns_to_ticks(LOOK_NS),
            longest: (Stage::Loop, 0),
            trusted_ticks: ns_to_ticks(TRUSTED_NS),
            weight: 1,
            recorded_one_in: 1,
            lots: Lots(SmallRng::seed_from_u64(read_ticks)),
        }
    }

    /// Records one turn in `one_in`, drawn at random, for all of them: for a thread that sleeps at
    /// every request, and whose readings of the CPU clock would weigh more than its work.
    pub(super) fn sampling(mut self, one_in: u64) -> Self {
        self.recorded_one_in = one_in;
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
        if now.saturating_sub(self.read_ticks) > self.look_ticks {
            self.look();
        }
        before
    }

    /// Sees whether a thread that does not sleep was preempted.
    #[cold]
    fn look(&mut self) {
        let used_ns = self.read_cpu_clock();
        let now = self.clocks.ticks();
        let beyond_ns = self.beyond(used_ns);
        self.take_back_preemption(beyond_ns, 1);
        // A system call's end is where a preemption likes to be: what is beyond is no reading, and no stage's.
        let reading = ns_to_ticks(2 * self.reading_ns);
        let looked = now.saturating_sub(self.since_ticks).min(reading);
        self.times.ticks[Stage::Recording as usize].add(looked);
        self.since_ticks = now;
        self.read_ticks = now;
        self.longest = (self.stage, 0);
    }

    /// Ends the stage at `now` and begins the next.
    #[inline]
    fn switch(&mut self, stage: Stage, now: u64) -> Stage {
        let before = std::mem::replace(&mut self.stage, stage);
        let mut stretch = now.saturating_sub(self.since_ticks);
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
    fn note_spans(&mut self, before: Stage, stretch: u64, spans: SpansTicks) -> u64 {
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

    /// Into or out of a stage that may sleep. What is noted besides, of a thread whose caches are
    /// another's when it wakes, takes longer than some stages: it is told apart too.
    fn cross_sleep(&mut self, stage: Stage) -> Stage {
        let slept = self.stage.may_sleep();
        let next = match slept {
            true => self.lots.weight(self.recorded_one_in),
            false => self.weight,
        };
        if self.weight == 0 && next == 0 {
            return std::mem::replace(&mut self.stage, stage);
        }
        let before = match slept {
            true => self.wake(stage, next),
            false => self.fall_asleep(stage),
        };
        self.weight = next;
        before
    }

    /// What the CPU clock counted since it was last read, and the counter did not while the thread was awake,
    /// is the sleeping stage's. Less than nothing, if somebody else had the core meanwhile. What begins counts
    /// for `next`.
    fn wake(&mut self, stage: Stage, next: u64) -> Stage {
        let used_ns = self.read_cpu_clock();
        let now = self.clocks.ticks();
        let slept_ns = -self.beyond(used_ns);
        let before = self.switch(stage, now);
        self.note_sleep(before, slept_ns, self.weight);
        self.read_ticks = now;
        self.longest = (stage, 0);
        self.note_reading();
        self.note_recording(now);
        let (noting, ticks) = self.longest;
        // Nobody looks at a turn that is not recorded.
        if next == 0 && ticks > self.trusted_ticks {
            self.times.ticks[noting as usize].add(ticks.wrapping_neg());
        }
        before
    }

    /// The stage that may sleep begins when all is noted.
    fn fall_asleep(&mut self, stage: Stage) -> Stage {
        let now = self.clocks.ticks();
        let before = self.switch(stage, now);
        let drawn = self.lots.weight(CHECKED_ONE_IN);
        self.note_recording(now);
        let is_long = self.longest.1 > self.trusted_ticks;
        if drawn == 0 && !is_long {
            return before;
        }
        let used_ns = self.read_cpu_clock();
        self.note_reading();
        let beyond_ns = self.beyond(used_ns);
        // Those that are long stand for themselves, being all read.
        let stands_for = if is_long { 1 } else { drawn };
        self.take_back_preemption(beyond_ns, stands_for);
        // By so much the sleeping stage has too little in each turn that this one stands for.
        self.note_sleep(stage, beyond_ns, (stands_for - 1) * self.weight);
        self.read_ticks = self.since_ticks;
        self.longest = (stage, 0);
        before
    }

    /// Nanoseconds of CPU since this was last asked. Half of the reading at each end lies within, as a whole: one
    /// of the two.
    fn read_cpu_clock(&mut self) -> u64 {
        let cpu_ns = self.clocks.cpu_ns();
        let used_ns = cpu_ns.saturating_sub(std::mem::replace(&mut self.read_cpu_ns, cpu_ns));
        used_ns.saturating_sub(self.reading_ns)
    }

    /// By how many nanoseconds the counter went further than the CPU clock, of which the thread `used_ns`,
    /// from where it was last read until the stage began that it is in.
    fn beyond(&self, used_ns: u64) -> i64 {
        let awake = self.since_ticks.saturating_sub(self.read_ticks);
        ticks_to_ns(awake).cast_signed() - used_ns.cast_signed()
    }

    /// The stage `asleep` has so much more, in each of as many turns as this is the `weight` of.
    fn note_sleep(&mut self, asleep: Stage, ns: i64, weight: u64) {
        let ns = ns.wrapping_mul(weight.cast_signed());
        self.times.cpu_ns[asleep as usize].add(ns.cast_unsigned());
    }

    /// What came since `start` was no stage's. What recording takes is not sampled: it counts as it is.
    fn note_recording(&mut self, start: u64) {
        let now = self.clocks.ticks();
        let noted = now.saturating_sub(start);
        self.times.ticks[Stage::Recording as usize].add(noted);
        if noted > self.longest.1 {
            self.longest = (Stage::Recording, noted);
        }
        self.since_ticks = now;
    }

    /// Nor is a reading of the CPU clock.
    fn note_reading(&self) {
        self.times.ticks[Stage::Recording as usize].add(ns_to_ticks(self.reading_ns));
    }

    /// The counter went `beyond_ns` further than the CPU clock, in as many of the turns that are recorded as
    /// this one stands for.
    fn take_back_preemption(&mut self, beyond_ns: i64, stands_for: u64) {
        if beyond_ns > PREEMPTION_NS {
            let (stage, longest) = self.longest;
            let weight = match stage {
                Stage::Recording => stands_for,
                _ => stands_for * self.weight,
            };
            let excess = ns_to_ticks(beyond_ns.cast_unsigned()).min(longest) * weight;
            self.times.ticks[stage as usize].add(excess.wrapping_neg());
        }
    }
}

/// What the two clocks may differ by without anybody having been preempted, in nanoseconds: they
/// are not read in one instant.
const PREEMPTION_NS: i64 = 500;

/// After a stretch that was longer than this the CPU clock is read in any case: most preemptions are that
/// long, and one of milliseconds is none to be known of by lot.
const TRUSTED_NS: u64 = 20_000;

/// Of the other turns it is read in one in so many before the thread may sleep. The readings of an eighth of
/// them cost little, and each of the errors, some tens of nanoseconds, counts seven times then.
const CHECKED_ONE_IN: u64 = 8;

/// A thread that does not sleep is looked at this often, in nanoseconds of wall time: often enough
/// that two preemptions seldom come between, and for a thousandth of the time.
const LOOK_NS: u64 = 200_000;

#[cfg(test)]
mod tests;
