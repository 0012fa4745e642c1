//! The shard's time, read once a turn: coarse clocks, which cost a memory read each and step with
//! the kernel's tick (1 to 10 ms; clock_gettime(2)). Nobody's deadline is finer than that.

use std::io::Write;
use std::time::{Duration, SystemTime};

use httpdate::HttpDate;
use nix::time::{ClockId, clock_getres, clock_gettime};

use crate::measure::probe::Probe;
use crate::session::Context;

/// Where a shard's time comes from: the kernel, or a simulation.
pub trait Time {
    /// A time that never goes back, in milliseconds.
    fn now_ms(&self) -> u64;
    /// The time of day, since 1970.
    fn of_day(&self) -> Duration;
    /// A step of [`Time::now_ms`] and one more, in milliseconds: a timer set so much later fires
    /// when this clock is sure to show its time.
    fn step_ms(&self) -> u64;
}

/// The kernel's coarse clocks.
#[derive(Clone, Copy, Debug)]
pub struct Coarse;

impl Time for Coarse {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn of_day(&self) -> Duration {
        coarse(ClockId::CLOCK_REALTIME_COARSE)
    }

    fn step_ms(&self) -> u64 {
        let step = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
        step.map_or(10, |step| step.as_millis() as u64) + 1
    }
}

/// Keeps a [`Context`]'s time and date.
#[derive(Debug)]
pub struct Clock<T> {
    time: T,
    second: i64,
}

impl<T: Time> Clock<T> {
    /// A clock that goes by `time`.
    pub fn new(time: T) -> Self {
        Self { time, second: 0 }
    }

    /// Brings the context up to date; the date is written anew when its second has changed.
    pub fn tick<P: Probe>(&mut self, context: &mut Context<P>) {
        context.now_ms = self.time.now_ms();
        let wall = self.time.of_day();
        let second = wall.as_secs() as i64;
        if second != self.second {
            self.second = second;
            context.date = date(wall);
        }
    }
}

/// CLOCK_MONOTONIC, coarse, in milliseconds.
pub fn now_ms() -> u64 {
    coarse(ClockId::CLOCK_MONOTONIC_COARSE).as_millis() as u64
}

fn coarse(clock: ClockId) -> Duration {
    // These clocks exist since Linux 2.6.32; reading one cannot fail.
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

fn date(since_epoch: Duration) -> [u8; 29] {
    let mut text = [0; 29];
    let date = HttpDate::from(SystemTime::UNIX_EPOCH + since_epoch);
    write!(&mut text[..], "{date}").expect("an HTTP date has 29 bytes (RFC 9110, section 5.6.7)");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_is_written_as_http_has_it() {
        assert_eq!(
            &date(Duration::from_secs(784_111_777)),
            b"Sun, 06 Nov 1994 08:49:37 GMT"
        );
    }
}
