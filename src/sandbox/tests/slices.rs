//! Slices: which ticks come while a guest is half run, and which do not.

use super::*;
use crate::measure::probe::Off;
use crate::sandbox::deadline::is_ticking;

/// What is asked of a guest that never returns, and is suspended by whatever ticks.
fn endless_slicer(quantum: Duration) -> Slicer {
    let limits = Limits {
        deadline: None,
        quantum: Some(quantum),
        ..limits()
    };
    let endless = misbehaving("(loop $again (br $again))");
    Slicer::new(shard(&endless, Isolation::Reuse, &limits)).expect("timers can be made")
}

fn begin(slicer: &mut Slicer) -> HalfRun {
    let sliced = parsed(BAD, b"x", |call| slicer.start::<Off, _>(call, |_| ()));
    let Sliced::HalfRun(half_run) = sliced else {
        panic!("it never returns");
    };
    half_run
}

fn go_on(slicer: &mut Slicer, half_run: HalfRun) -> HalfRun {
    let Sliced::HalfRun(half_run) = slicer.resume::<Off, _>(half_run, |_| ()) else {
        panic!("it never returns");
    };
    half_run
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
