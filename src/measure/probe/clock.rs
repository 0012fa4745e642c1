//! Divides a thread's time among stages: the counter between two readings, the CPU clock where the
//! thread may sleep.

use std::sync::Arc;

use super::Stage;
use super::spans::{SpanClock, SpansTicks};
use super::ticks::{ns_to_ticks, ticks, ticks_to_ns};
use super::times::StageTimes;
use crate::measure::cpu_clock;

/// Where the time comes from: the thread's, or a test's.
pub(super) trait Clocks {
    /// The counter, which counts sleep too.
    fn ticks(&mut self) -> u64;

    /// The calling thread's CPU time, in nanoseconds.
    fn cpu_ns(&mut self) -> u64;

    /// What the kernel did within the stages since this was last asked, if it is timed and there was any.
    #[inline(always)]
    fn spans(&mut self) -> Option<SpansTicks> {
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
    fn spans(&mut self) -> Option<SpansTicks> {
        self.spans.as_mut()?.take()
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
mod tests;
