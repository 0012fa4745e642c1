//! How long a slice is where nobody says.

use super::ticks::tick_ns;
use std::fmt;
use std::time::Duration;

/// As long as most light requests will wait for, and few heavy ones need.
const WANTED: Duration = Duration::from_micros(500);

/// Percent of a core that ticks may take while a request is half run.
const TICKS_PERCENT: u64 = 3;

/// A light request may wait for a slice and still be answered within a millisecond.
const LONGEST: Duration = Duration::from_micros(900);

/// CPU time of a slice: 500 µs, or up to 900 µs where ticks would take more than 3 % of a core, one a
/// slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantum {
    length: Duration,
    tick_ns: Option<u64>,
}

impl Quantum {
    /// What suits this host, as [`tick_ns`] finds it: the first call takes some 10 ms.
    pub fn measured() -> Quantum {
        Quantum::for_ticks_of(tick_ns())
    }

    /// Where a tick takes so many nanoseconds. `None`: nobody knows.
    pub fn for_ticks_of(tick_ns: Option<u64>) -> Quantum {
        let affordable = Duration::from_nanos(tick_ns.unwrap_or(0)) * 100 / TICKS_PERCENT as u32;
        Quantum {
            length: affordable.clamp(WANTED, LONGEST),
            tick_ns,
        }
    }

    /// CPU time of a slice.
    pub fn length(self) -> Duration {
        self.length
    }
}

/// A sentence's end, to stand by itself as well.
impl fmt::Display for Quantum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length_us = self.length.as_nanos() as f64 / 1e3;
        write!(f, "slices last {length_us:.0} µs, ")?;
        let Some(tick_ns) = self.tick_ns else {
            return f.write_str("and nobody knows what a tick takes of that");
        };
        let tick_us = tick_ns as f64 / 1e3;
        let percent = tick_us / length_us * 100.0;
        write!(f, "of which a tick takes {tick_us:.1} µs, {percent:.1} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_as_long_as_its_tick_allows_within_bounds() {
        let check = |tick_ns: Option<u64>, length_us: u128, said: &str| {
            let quantum = Quantum::for_ticks_of(tick_ns);
            assert_eq!(quantum.length().as_micros(), length_us);
            assert!(quantum.to_string().contains(said), "{quantum}");
        };
        check(None, 500, "slices last 500 µs, and nobody knows");
        check(Some(2_000), 500, "of which a tick takes 2.0 µs, 0.4 %");
        check(Some(15_000), 500, "3.0 %");
        check(
            Some(18_040),
            601,
            "last 601 µs, of which a tick takes 18.0 µs, 3.0 %",
        );
        check(Some(36_000), 900, "4.0 %");
        check(Some(u64::MAX), 900, "900 µs");
    }
}
