//! Slices: which ticks come while a guest is half run, and which do not; what becomes of an instance.

use super::*;
use crate::measure::counter::Counter;
use crate::measure::probe::Off;
use crate::sandbox::deadline::is_ticking;

/// What calls a guest that does `worst`, and is suspended by whatever ticks.
fn slicer(worst: &str, quantum: Duration) -> Slicer {
    slicer_of(&misbehaving(worst), quantum)
}

pub(super) fn slicer_of(guest: &str, quantum: Duration) -> Slicer {
    let limits = Limits {
        deadline: None,
        quantum: Some(quantum),
        ..limits()
    };
    Slicer::new(shard(guest, Isolation::Reuse, &limits)).expect("timers can be made")
}

fn endless_slicer(quantum: Duration) -> Slicer {
    slicer("(loop $again (br $again))", quantum)
}

fn begin(slicer: &mut Slicer) -> HalfRun {
    let sliced = parsed(BAD, b"x", |call| {
        slicer.start::<Off, _>(call, &Counter::default(), |_| ())
    });
    let Sliced::HalfRun(half_run) = sliced else {
        panic!("it never returns");
    };
    half_run
}

fn go_on(slicer: &mut Slicer, half_run: HalfRun) -> HalfRun {
    let Sliced::HalfRun(half_run) = slicer.resume::<Off, _>(half_run, &Counter::default(), |_| ())
    else {
        panic!("it never returns");
    };
    half_run
}

/// How many slices a request took, and its answer's body.
pub(super) fn to_the_end(
    slicer: &mut Slicer,
    head: &str,
    body: &[u8],
) -> (u32, Result<Vec<u8>, Failure>) {
    let take = |answer: Result<Answer<'_>, Failure>| answer.map(|answer| answer.body.to_vec());
    let mut sliced = parsed(head, body, |call| {
        slicer.start::<Off, _>(call, &Counter::default(), take)
    });
    for slices in 1.. {
        match sliced {
            Sliced::Over(answer) => return (slices, answer),
            Sliced::HalfRun(half_run) => {
                sliced = slicer.resume::<Off, _>(half_run, &Counter::default(), take)
            }
        }
    }
    unreachable!("it ends")
}

/// Fine ticks come more often, and each takes the thread's time.
#[test]
fn coarse_ticks_rest_while_fine_ones_come() {
    let mut slicer = endless_slicer(Duration::from_micros(500));
    assert!(is_ticking());
    // The first slice is ended by a coarse tick, the second by a fine one: there is no other.
    let half_run = begin(&mut slicer);
    let half_run = go_on(&mut slicer, half_run);
    assert!(!is_ticking());
    let other = begin(&mut slicer);
    drop(half_run);
    assert!(!is_ticking(), "one is half run still");
    drop(other);
    assert!(is_ticking());
    drop(begin(&mut slicer));
}

/// Else a deadline would be looked at once a second.
#[test]
fn coarse_ticks_come_between_rare_fine_ones() {
    let mut slicer = endless_slicer(Duration::from_millis(20));
    let half_run = begin(&mut slicer);
    let half_run = go_on(&mut slicer, half_run);
    assert!(is_ticking());
    drop(half_run);
}

/// What it wrote before is gone with it: nobody knows what else it left half done.
#[test]
fn a_trap_in_a_later_slice_costs_the_instance() {
    // A hundred milliseconds' work and more, in a memory that has nothing else there.
    let count = "(i32.const 8192)";
    let spoil_run_and_trap = format!(
        "(i32.store8 (i32.const {}) (i32.const 33))
        (loop $again
            (i32.store {count} (i32.add (i32.load {count}) (i32.const 1)))
            (br_if $again (i32.ne (i32.load {count}) (i32.const 200000000))))
        (unreachable)",
        TEXTS + 6
    );
    let mut slicer = slicer(&spoil_run_and_trap, Duration::from_micros(500));
    let (slices, trapped) = to_the_end(&mut slicer, BAD, b"x");
    assert!(slices > 1, "{trapped:?}");
    assert!(matches!(trapped, Err(Failure::Trap { .. })), "{trapped:?}");
    let (_, next) = to_the_end(&mut slicer, GOOD, b"");
    assert_eq!(next, Ok(b"fine".to_vec()));
}

/// Counts its requests in its memory; at one with a body it then runs for ever.
fn counts_and_stays() -> String {
    guest(
        record(0, 200, (0, 0), (TEXTS, 1)),
        b"0",
        &format!(
            "(i32.store8 (i32.const {TEXTS}) (i32.add (i32.load8_u (i32.const {TEXTS}))
                (i32.const 1)))
            (if (i32.load (i32.const {})) (then (loop $again (br $again))))
            (i32.const {RECORD})",
            AREA + 8 + 24
        ),
    )
}

/// Where instances are used again, what is gone shows that a request began again, and that none did.
#[test]
fn only_the_first_that_outlasts_its_slice_is_begun_again() {
    let mut slicer = slicer_of(&counts_and_stays(), Duration::from_micros(500));
    let count = |slicer: &mut Slicer| to_the_end(slicer, GOOD, b"");
    assert_eq!(count(&mut slicer), (1, Ok(b"1".to_vec())));
    assert_eq!(count(&mut slicer), (1, Ok(b"2".to_vec())));
    let first = begin(&mut slicer);
    assert!(first.is_begun_again());
    // It has had no slice since, and nothing on its stack.
    assert_eq!(first.held_bytes(), 64 << 10);
    assert_eq!(count(&mut slicer).1, Ok(b"1".to_vec()));
    let second = begin(&mut slicer);
    assert!(!second.is_begun_again());
    assert!(second.held_bytes() > 64 << 10);
    drop((first, second));
    let (_, next) = count(&mut slicer);
    assert_eq!(
        next,
        Ok(b"1".to_vec()),
        "a suspended one's instance is its own"
    );
    assert_eq!(count(&mut slicer).1, Ok(b"2".to_vec()));
}

/// Its time counts anew, and is as long as another's.
#[test]
fn the_deadline_holds_for_what_is_begun_again() {
    let limits = Limits {
        deadline: Some(Duration::from_millis(40)),
        quantum: Some(Duration::from_millis(1)),
        ..limits()
    };
    let guest = misbehaving("(loop $again (br $again))");
    let mut slicer = Slicer::new(shard(&guest, Isolation::Reset, &limits)).expect("timers");
    let half_run = begin(&mut slicer);
    assert!(half_run.is_begun_again());
    let mut sliced = Sliced::HalfRun(half_run);
    let over = loop {
        match sliced {
            Sliced::Over(answer) => break answer,
            Sliced::HalfRun(half_run) => {
                sliced = slicer
                    .resume::<Off, _>(half_run, &Counter::default(), |answer| answer.map(drop));
            }
        }
    };
    assert_eq!(over, Err(Failure::Deadline));
}
