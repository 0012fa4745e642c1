//! Each division of a thread's time, with clocks that the tests move by hand.

use super::*;
use crate::measure::counter::Counter;
use crate::measure::probe::StageNs;
use crate::measure::probe::spans::SpanTicks;

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
struct Spanning(ByHand, Option<SpansTicks>);

impl Clocks for Spanning {
    fn ticks(&mut self) -> u64 {
        self.0.ticks()
    }

    fn cpu_ns(&mut self) -> u64 {
        self.0.cpu_ns()
    }

    fn spans(&mut self) -> Option<SpansTicks> {
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
