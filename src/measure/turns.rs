//! How long a loop is away from its events: what a turn with them takes, on request.
//!
//! Counting turns costs an addition each. Their lengths cost two looks at a clock a turn, which is
//! why they are recorded only where somebody asked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::counter::Counter;
use super::probe::Moment;
use crate::control::monotonic_ns;
use crate::served::Served;

/// The longest turns, of which each has a record.
pub const KEPT: usize = 8;

/// The turns of one loop, as they grow.
#[derive(Debug, Default)]
pub struct Turns {
    turns: Counter,
    away_ns: Counter,
    longest_ns: AtomicU64,
    most_answered: AtomicU64,
    /// The shortest of those kept, so that most turns need no look at them.
    kept_from_ns: AtomicU64,
    kept: Mutex<[Turn; KEPT]>,
}

/// One turn, from its events' coming to its next look for some.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Turn {
    /// How long it took; 0 where there was none.
    pub away_ns: u64,
    /// When it began, CLOCK_MONOTONIC, as reckoned at its end.
    pub at_ns: u64,
    /// What was done in it.
    pub work: Work,
}

/// What a loop has done, until some moment or between two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Work {
    /// Requests answered.
    pub answered: u64,
    /// Slices in which a suspended handler went on.
    pub resumed: u64,
    /// Requests that came back from other threads.
    pub come_home: u64,
    /// Times that it had to be woken for those.
    pub woken: u64,
    /// How long those that came to be answered had waited to be begun, together.
    pub queued_ns: u64,
}

impl Work {
    /// Until now.
    pub fn of(served: &Served) -> Work {
        Work {
            answered: served.answered.get(),
            resumed: served.resumed.get(),
            come_home: served.come_home.get(),
            woken: served.woken.get(),
            queued_ns: served.queued_ns.get(),
        }
    }

    fn since(&self, earlier: &Work) -> Work {
        Work {
            answered: self.answered - earlier.answered,
            resumed: self.resumed - earlier.resumed,
            come_home: self.come_home - earlier.come_home,
            woken: self.woken - earlier.woken,
            queued_ns: self.queued_ns - earlier.queued_ns,
        }
    }
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
    /// The longest turns since the server began, the longest first, where they are recorded.
    #[serde(default)]
    pub longest: [Turn; KEPT],
}

/// A turn that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    at: Moment,
    before: Work,
}

impl Turns {
    /// Events have come. `recorded`: the turn is to be measured, by what the loop counts in `served`.
    #[inline]
    pub fn begin(&self, recorded: bool, served: &Served) -> Option<Begun> {
        self.turns.add(1);
        recorded.then(|| Begun {
            at: Moment::now(),
            before: Work::of(served),
        })
    }

    /// The loop looks for events again. Only the loop's own thread may call this.
    pub fn end(&self, begun: Begun, served: &Served) {
        let Begun { at, before } = begun;
        let away_ns = at.elapsed_ns();
        let work = Work::of(served).since(&before);
        self.away_ns.add(away_ns);
        raise(&self.longest_ns, away_ns);
        raise(&self.most_answered, work.answered);
        if away_ns > self.kept_from_ns.load(Relaxed) {
            self.keep(Turn {
                away_ns,
                at_ns: monotonic_ns().saturating_sub(away_ns),
                work,
            });
        }
    }

    /// Takes the place of the shortest that is kept.
    fn keep(&self, turn: Turn) {
        let mut kept = self.kept();
        *kept = longest_of(kept.iter().copied().chain([turn]));
        raise(&self.kept_from_ns, kept[KEPT - 1].away_ns);
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn kept(&self) -> MutexGuard<'_, [Turn; KEPT]> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures now.
    pub fn snapshot(&self) -> TurnsSnapshot {
        TurnsSnapshot {
            turns: self.turns.get(),
            away_ns: self.away_ns.get(),
            longest_ns: self.longest_ns.load(Relaxed),
            most_answered: self.most_answered.load(Relaxed),
            longest: *self.kept(),
        }
    }
}

/// The longest of several, the longest first.
fn longest_of(turns: impl Iterator<Item = Turn>) -> [Turn; KEPT] {
    let mut turns: Vec<Turn> = turns.collect();
    turns.sort_unstable_by(|one, other| other.cmp(one));
    std::array::from_fn(|nth| turns.get(nth).copied().unwrap_or_default())
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
            longest: longest_of(self.longest.into_iter().chain(other.longest)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_stays_and_the_rest_adds_up() {
        let (turns, served) = (Turns::default(), Served::default());
        served.answered.add(10);
        for answered in [3, 1] {
            let begun = turns.begin(true, &served).expect("it is recorded");
            served.answered.add(answered);
            turns.end(begun, &served);
        }
        let first = turns.snapshot();
        assert_eq!((first.turns, first.most_answered), (2, 3));
        assert!(first.longest_ns <= first.away_ns);
        assert!(turns.begin(false, &served).is_none());
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

    #[test]
    fn the_longest_turns_are_kept_with_what_was_done_in_them() {
        let turn = |away_ns| Turn {
            away_ns,
            at_ns: 1,
            work: Work {
                resumed: away_ns,
                ..Work::default()
            },
        };
        let turns = Turns::default();
        for away_ns in [5, 900, 2, 7, 1, 8, 3, 6, 4, 9] {
            turns.keep(turn(away_ns));
        }
        let kept = turns.snapshot().longest;
        assert_eq!(kept, [900, 9, 8, 7, 6, 5, 4, 3].map(turn));
        assert_eq!(turns.kept_from_ns.load(Relaxed), 3);
        let both = turns.snapshot().plus(&turns.snapshot()).longest;
        assert_eq!(both, [900, 900, 9, 9, 8, 8, 7, 7].map(turn));
    }
}
