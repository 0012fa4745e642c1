//! Fine ticks on one thread: two timers in turn, each half as often.
//!
//! Two, since the kernel sets a timer anew when its signal is delivered (`posixtimer_rearm`,
//! kernel/time/posix-timers.c), after the interrupt has set the clock's hardware for whatever comes
//! next: one timer alone is next again, and the hardware is set twice a tick. Of two, the other one is
//! next. On a virtual machine each setting leaves the guest: there a tick took 14.6 µs with two and
//! 19.2 µs with one (Linux 6.18, nested KVM; 500 µs, a loop that reads the clock). A single shot set by
//! whom it met took as much as one timer, and a system call more.
//!
//! CLOCK_MONOTONIC: CPU clocks look at nothing finer than the kernel's tick.

use super::{deadline, ticks};
use crate::measure::probe::{Asked, Probe, Stage};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use std::io;
use std::time::Duration;

/// Ticks on the thread that made them, which must hear [`deadline::SIGNAL`]; none until they are set.
pub(super) struct Beats {
    timers: [Timer; 2],
}

impl Beats {
    /// On the calling thread.
    ///
    /// # Errors
    /// As for [`deadline::timer`].
    pub(super) fn new() -> io::Result<Beats> {
        let timer = || deadline::timer(ClockId::CLOCK_MONOTONIC);
        Ok(Beats {
            timers: [timer()?, timer()?],
        })
    }

    /// A tick `every` from now, and every so often after that, until [`Beats::stop`].
    ///
    /// # Errors
    /// As for `timer_settime(2)`, which refuses only times that are none.
    pub(super) fn set(&mut self, every: Duration) -> io::Result<()> {
        let [first, second] = &mut self.timers;
        for (timer, at) in [(first, every), (second, 2 * every)] {
            let expiration = Expiration::IntervalDelayed(at.into(), (2 * every).into());
            Asked::within(Stage::Timer, || {
                timer.set(expiration, TimerSetTimeFlags::empty())
            })?;
        }
        ticks::are_fine(true);
        Ok(())
    }

    /// No tick until they are set again.
    pub(super) fn stop(&mut self) {
        for timer in &mut self.timers {
            deadline::disarm(timer);
        }
        ticks::are_fine(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_timers_beat_in_turn_until_they_are_stopped() {
        let hour = Duration::from_secs(3600);
        let mut beats = Beats::new().expect("there are timers");
        let left = |beats: &Beats| {
            let timers = beats.timers.iter();
            timers
                .map(|timer| match timer.get().expect("it is there") {
                    None => None,
                    Some(Expiration::IntervalDelayed(left, every)) => {
                        assert_eq!(Duration::from(every), 2 * hour);
                        Some(Duration::from(left))
                    }
                    Some(other) => panic!("{other:?}"),
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(left(&beats), [None, None]);
        beats.set(hour).expect("an hour is a time");
        let [Some(first), Some(second)] = left(&beats)[..] else {
            panic!("one of them rests");
        };
        // Between the two calls passes what passes, and less than an hour.
        assert!(first <= hour, "{first:?}");
        assert!(second > hour && second <= 2 * hour, "{second:?}");
        beats.stop();
        assert_eq!(left(&beats), [None, None]);
    }
}
