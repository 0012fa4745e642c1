//! How long a loop is away from its events: what a turn with them takes, on request.
//!
//! Counting turns costs an addition each. Their lengths cost two looks at a clock a turn, which is
//! why they are recorded only where somebody asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

use super::counter::Counter;
use crate::control::monotonic_ns;

/// The turns of one loop, as they grow.
#[derive(Debug, Default)]
pub struct Turns {
    turns: Counter,
    away_ns: Counter,
    longest_ns: AtomicU64,
    most_answered: AtomicU64,
}

/// The same at one moment, or of several loops, or what came between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnsSnapshot {
    /// Times that the loop took in what had happened.
    pub turns: u64,
    /// Between its events' coming and its next look for some; 0 where it is not recorded.
    pub away_ns: u64,
    /// The longest such time, in one turn of one loop, since the server began.
    pub longest_ns: u64,
    /// The most requests answered in one turn, since the server began; 0 where it is not recorded.
    pub most_answered: u64,
}

/// A turn that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    at_ns: u64,
    answered: u64,
}

impl Turns {
    /// Events have come. `recorded`: the turn is to be measured, with so many requests answered until
    /// now.
    #[inline]
    pub fn begin(&self, recorded: bool, answered: impl FnOnce() -> u64) -> Option<Begun> {
        self.turns.add(1);
        recorded.then(|| Begun {
            at_ns: monotonic_ns(),
            answered: answered(),
        })
    }

    /// The loop looks for events again. Only the loop's own thread may call this.
    pub fn end(&self, begun: Begun, answered: u64) {
        let away_ns = monotonic_ns().saturating_sub(begun.at_ns);
        self.away_ns.add(away_ns);
        raise(&self.longest_ns, away_ns);
        raise(&self.most_answered, answered - begun.answered);
    }

    /// The figures now.
    pub fn snapshot(&self) -> TurnsSnapshot {
        TurnsSnapshot {
            turns: self.turns.get(),
            away_ns: self.away_ns.get(),
            longest_ns: self.longest_ns.load(Relaxed),
            most_answered: self.most_answered.load(Relaxed),
        }
    }
}

/// One thread writes, so that no locked instruction is needed.
fn raise(most: &AtomicU64, to: u64) {
    if to > most.load(Relaxed) {
        most.store(to, Relaxed);
    }
}

impl TurnsSnapshot {
    /// What came since `earlier`. The longest and the most cannot be taken apart: they stay.
    pub fn since(&self, earlier: &TurnsSnapshot) -> TurnsSnapshot {
        TurnsSnapshot {
            turns: self.turns.wrapping_sub(earlier.turns),
            away_ns: self.away_ns.wrapping_sub(earlier.away_ns),
            ..*self
        }
    }

    /// Of both together.
    pub fn plus(&self, other: &TurnsSnapshot) -> TurnsSnapshot {
        TurnsSnapshot {
            turns: self.turns + other.turns,
            away_ns: self.away_ns + other.away_ns,
            longest_ns: self.longest_ns.max(other.longest_ns),
            most_answered: self.most_answered.max(other.most_answered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stays_and_the_rest_adds_up() {
        let turns = Turns::default();
        for answered in [3, 1] {
            let begun = turns.begin(true, || 10).expect("it is recorded");
            turns.end(begun, 10 + answered);
        }
        let first = turns.snapshot();
        assert_eq!((first.turns, first.most_answered), (2, 3));
        assert!(first.longest_ns <= first.away_ns);
        assert!(turns.begin(false, || 0).is_none());
        let since = turns.snapshot().since(&first);
        assert_eq!((since.turns, since.away_ns), (1, 0));
        assert_eq!(
            (since.longest_ns, since.most_answered),
            (first.longest_ns, 3)
        );
        let longer = TurnsSnapshot {
            longest_ns: u64::MAX,
            ..since
        };
        assert_eq!(first.plus(&longer).longest_ns, u64::MAX);
        assert_eq!(first.plus(&longer).turns, 3);
    }
}
