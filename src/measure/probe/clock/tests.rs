//! Each division of a thread's time, with clocks that the tests move by hand.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::measure::counter::Counter;
use crate::measure::cpu_clock::READ;
use crate::measure::probe::StageNs;
use crate::measure::probe::spans::SpanTicks;

fn clock() -> StageClock<OfThread> {
    StageClock::new(OfThread::default(), Arc::default())
}

/// Where each connection has a thread, two hundred readings at its birth would be most of what it takes.
#[test]
fn a_thread_that_is_born_to_be_recorded_reads_its_clock_once() {
    let births = |times: u64| {
        let before = READ.get();
        (0..times).for_each(|_| drop(clock()));
        READ.get() - before
    };
    // On each core that this thread may get to it is found out what a reading takes.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    births(1);
    assert!(births(1000) <= 1000 + 200 * cores);
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
    clock.take_back_preemption(8_000_000, 1);
    let ns = clock.times.snapshot().ns;
    let near = |stage: Stage, expected: i64| ns[stage as usize].abs_diff(expected) < 1000;
    assert!(near(Stage::Guest, 2_000_000), "{ns:?}");
    assert!(near(Stage::Http, 1_000_000), "{ns:?}");
}

/// A clock that stands still but where the test moves it: wall ticks, and nanoseconds of CPU.
#[derive(Clone, Default)]
struct ByHand(Rc<Cell<(u64, u64)>>);

impl ByHand {
    fn pass(&self, wall_ns: u64, cpu_ns: u64) {
        let (ticks, cpu) = self.0.get();
        self.0.set((ticks + ns_to_ticks(wall_ns), cpu + cpu_ns));
    }
}

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
    let time = ByHand::default();
    let mut clock = StageClock::new(time.clone(), Arc::default());
    for round in 0..1000 {
        clock.enter(Stage::Http);
        time.pass(1000, 1000);
        clock.enter(Stage::Guest);
        // Every hundredth time somebody else has the core for 4 ms.
        let gone = if round % 100 == 50 { 4_000_000 } else { 0 };
        time.pass(1000 + gone, 1000);
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
        let clocks = Spanning(ByHand::default(), None);
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

/// A counter that each look at it takes time of, and the CPU's.
struct Slow(u64);

impl Clocks for Slow {
    fn ticks(&mut self) -> u64 {
        self.0 += 1000;
        self.0
    }

    fn cpu_ns(&mut self) -> u64 {
        ticks_to_ns(self.0)
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

/// Of which a reading of the CPU's takes so many nanoseconds, half of them before it is read.
#[derive(Clone, Default)]
struct Dear {
    time: ByHand,
    reading_ns: u64,
    /// Somebody else has the core for so long behind each.
    gone_ns: u64,
    readings: Rc<Cell<u64>>,
}

impl Clocks for Dear {
    fn ticks(&mut self) -> u64 {
        self.time.ticks()
    }

    fn cpu_ns(&mut self) -> u64 {
        self.readings.set(self.readings.get() + 1);
        let half = self.reading_ns / 2;
        self.time.pass(half, half);
        let read = self.time.cpu_ns();
        self.time.pass(half + self.gone_ns, half);
        read
    }
}

/// Turns of 3 µs of CPU in a sleep and 7 in HTTP, and where somebody else has the core for `gone_ns` in every
/// tenth: microseconds of the two and of recording, for each turn, and how often the CPU clock was read.
fn turns_beside_another(gone_ns: u64, reading_ns: u64) -> ([f64; 3], u64) {
    let dear = Dear {
        reading_ns,
        ..Dear::default()
    };
    let mut clock = StageClock::new(dear.clone(), Arc::default());
    clock.enter(Stage::EpollWait);
    clock.enter(Stage::Http);
    let (noted, read) = (clock.times.snapshot(), dear.readings.get());
    for turn in 0..TURNS {
        dear.time
            .pass(7000 + if turn % 10 == 5 { gone_ns } else { 0 }, 7000);
        clock.enter(Stage::EpollWait);
        dear.time.pass(50_000, 3000);
        clock.enter(Stage::Http);
    }
    let us = us_of_a_turn(clock.times.snapshot().since(&noted));
    (us, dear.readings.get() - read)
}

/// In the sleep, in HTTP, and in recording itself.
fn us_of_a_turn(times: StageNs) -> [f64; 3] {
    let rows = [Stage::EpollWait, Stage::Http, Stage::Recording];
    rows.map(|row| times.ns[row as usize] as f64 / TURNS as f64 / 1000.0)
}

const TURNS: u64 = 80_000;

/// Each row is what it would be if the clock were read at both ends of each sleep, and it is read little more
/// than once.
#[test]
fn the_cpu_clock_is_read_once_a_sleep_and_again_where_it_may_tell_more() {
    let check = |gone_ns: u64, reading_ns: u64, off_us: f64, long: f64| {
        let ([slept, awake, recording], readings) = turns_beside_another(gone_ns, reading_ns);
        let readings = readings as f64 / TURNS as f64;
        let found = format!("{slept}, {awake}, {recording}, {readings}; {gone_ns}, {reading_ns}");
        let near = |us: f64, expected: f64, off: f64| (us - expected).abs() < off;
        assert!(
            near(slept, 3.0, off_us) && near(awake, 7.0, off_us),
            "{found}"
        );
        assert!(
            near(recording, readings * reading_ns as f64 / 1000.0, 0.01),
            "{found}"
        );
        // Once, where it was long again, and of the others one in eight.
        assert!(
            near(readings, 1.0 + long + (1.0 - long) / 8.0, 0.01),
            "{found}"
        );
    };
    for reading_ns in [0, 400] {
        check(0, reading_ns, 0.01, 0.0);
        check(4_000_000, reading_ns, 0.01, 0.1);
        // Too short to be read in any case, and longer than the sleep or not: of such a tenth of an eighth
        // tells.
        check(2000, reading_ns, 0.02, 0.0);
        check(12_000, reading_ns, 0.1, 0.0);
    }
}

#[test]
fn who_is_preempted_where_it_looks_loses_nothing_for_it() {
    let dear = Dear {
        reading_ns: 400,
        gone_ns: 4_000_000,
        ..Dear::default()
    };
    let mut clock = StageClock::new(dear.clone(), Arc::default());
    dear.readings.set(0);
    for _ in 0..10_000 {
        clock.enter(Stage::Http);
        dear.time.pass(1000, 1000);
        clock.enter(Stage::Guest);
        dear.time.pass(1000, 1000);
    }
    clock.enter(Stage::Loop);
    let ns = clock.times.snapshot().ns;
    let near = |stage: Stage| ns[stage as usize].abs_diff(10_000_000) < 20_000;
    assert!(near(Stage::Http) && near(Stage::Guest), "{ns:?}");
    assert!(dear.readings.get() > 50, "it was looked at");
}

/// As where interrupts are told apart: the counter goes faster than the CPU clock, by too little for anybody
/// to have been preempted. It is no stage's, and so remains unexplained.
#[test]
fn what_the_clocks_differ_by_is_not_the_sleeping_stages() {
    let time = ByHand::default();
    let mut clock = StageClock::new(time.clone(), Arc::default());
    for _ in 0..TURNS {
        clock.enter(Stage::EpollWait);
        time.pass(50_000, 3000);
        clock.enter(Stage::Http);
        time.pass(7300, 7000);
    }
    let [slept, awake, _] = us_of_a_turn(clock.times.snapshot());
    assert!(
        (slept - 3.0).abs() < 0.03 && (awake - 7.3).abs() < 0.03,
        "{slept}, {awake}"
    );
}

/// Somebody else has the core for 4 ms at the look at the counter that comes after so many others.
#[derive(Clone, Default)]
struct Interrupted {
    time: ByHand,
    looks: Rc<Cell<Option<u64>>>,
}

impl Clocks for Interrupted {
    fn ticks(&mut self) -> u64 {
        let looks = self.looks.get();
        self.looks.set(looks.and_then(|looks| looks.checked_sub(1)));
        if looks == Some(0) {
            self.time.pass(4_000_000, 0);
        }
        self.time.ticks()
    }

    fn cpu_ns(&mut self) -> u64 {
        self.time.cpu_ns()
    }
}

#[test]
fn who_is_preempted_while_it_notes_loses_nothing_for_it() {
    let turns = |falls_asleep: bool, one_in: u64| {
        let clocks = Interrupted::default();
        let clock = StageClock::new(clocks.clone(), Arc::default());
        let mut clock = clock.sampling(one_in);
        for turn in 0..TURNS {
            // The second look at the counter is that at the end of the noting.
            let looks = (turn % 10 == 5).then_some(1);
            clocks.looks.set(looks.filter(|_| falls_asleep));
            clock.enter(Stage::EpollWait);
            clocks.time.pass(50_000, 3000);
            clocks.looks.set(looks.filter(|_| !falls_asleep));
            clock.enter(Stage::Http);
            clocks.time.pass(7000, 7000);
        }
        clock.enter(Stage::EpollWait);
        clock.times.snapshot()
    };
    let check = |falls_asleep: bool, one_in: u64, off_us: f64| {
        let us = us_of_a_turn(turns(falls_asleep, one_in));
        let mut near = us.iter().zip([3.0, 7.0, 0.0]);
        assert!(
            near.all(|(us, expected)| (us - expected).abs() < off_us),
            "{falls_asleep}, {one_in}: {us:?}"
        );
    };
    for falls_asleep in [true, false] {
        check(falls_asleep, 1, 0.01);
        check(falls_asleep, 4, 0.3);
    }
}

/// Which turns are checked has nothing to do with which are recorded, from the first on.
#[test]
fn threads_of_few_turns_are_measured_as_those_of_many() {
    let time = ByHand::default();
    let times: Arc<StageTimes> = Arc::default();
    for thread in 0..TURNS / 2 {
        time.pass(thread % 1000, 0);
        let clock = StageClock::new(time.clone(), times.clone());
        let mut clock = clock.sampling(4);
        for _ in 0..2 {
            clock.enter(Stage::BlockingReceive);
            time.pass(50_000, 3000);
            clock.enter(Stage::Http);
            // For 2 µs somebody else has the core.
            time.pass(9000, 7000);
        }
        clock.enter(Stage::BlockingReceive);
        time.pass(50_000, 3000);
        clock.enter(Stage::Loop);
    }
    let ns = times.snapshot().ns;
    let us = |row: Stage, turns: u64| ns[row as usize] as f64 / turns as f64 / 1000.0;
    let slept = us(Stage::BlockingReceive, TURNS / 2 * 3);
    let awake = us(Stage::Http, TURNS);
    assert!(
        (slept - 3.0).abs() < 0.15 && (awake - 7.0).abs() < 0.15,
        "{slept}, {awake}"
    );
}

/// What one turn has too much is taken from a row for eight: which may not have had so much yet.
#[test]
fn a_row_of_few_turns_may_be_less_than_nothing() {
    let time = ByHand::default();
    let mut clock = StageClock::new(time.clone(), Arc::default());
    let mut least = [0; 2];
    for turn in 1..=TURNS {
        clock.enter(Stage::EpollWait);
        time.pass(50_000, 3000);
        clock.enter(Stage::Http);
        time.pass(12_000, 100);
        let ns = clock.times.snapshot().ns;
        for (row, least) in [Stage::EpollWait, Stage::Http].into_iter().zip(&mut least) {
            *least = ns[row as usize].min(*least);
        }
        let most = 1_000_000 + turn.cast_signed() * 10_000;
        assert!(ns.iter().all(|ns| ns.abs() < most), "{turn}: {ns:?}");
    }
    assert!(least.iter().all(|least| *least < -1000), "{least:?}");
    let [slept, awake, _] = us_of_a_turn(clock.times.snapshot());
    assert!(
        (slept - 3.0).abs() < 0.5 && (awake - 0.1).abs() < 0.5,
        "{slept}, {awake}"
    );
}

/// Turns of 1 µs in HTTP, 2 µs in a guest and 3 µs of CPU in a `recv` that also sleeps.
fn turns_of_a_sleeper(one_in: u64) -> StageNs {
    let time = ByHand::default();
    let clock = StageClock::new(time.clone(), Arc::default());
    let mut clock = clock.sampling(one_in);
    for _ in 0..10_000 {
        clock.enter(Stage::BlockingReceive);
        time.pass(50_000, 3000);
        clock.enter(Stage::Http);
        time.pass(1000, 1000);
        clock.enter(Stage::Guest);
        time.pass(2000, 2000);
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
        let ns = |times: &StageNs| times.ns[at].cast_unsigned();
        assert!(near(ns(&all), us * 10_000_000, 1000), "{stage:?}: {all:?}");
        assert!(near(ns(&some), us * 10_000_000, 20), "{stage:?}: {some:?}");
        assert!(near(some.entered[at], 10_000, 20), "{stage:?}: {some:?}");
        assert_ne!(some.ns[at], all.ns[at], "drawn, and every one is not");
    }
}
