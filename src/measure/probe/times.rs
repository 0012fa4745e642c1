//! The figures of a thread's stages: how long it was in each, and how often.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::ticks::ticks_to_ns;
use crate::measure::counter::Counter;

/// Time of each stage of one thread, in ticks of its clock; one thread writes, any may read. Some of it is
/// taken back again, for other turns too, so a sum may be below zero for a while: both are signed, and stored
/// modulo 2^64.
#[derive(Debug, Default)]
pub struct StageTimes {
    pub(super) ticks: [Counter; Stage::ALL.len()],
    /// Times that a stage was entered.
    pub(super) entered: [Counter; Stage::ALL.len()],
    /// Nanoseconds from the thread's CPU clock, for the stages in which it may sleep.
    pub(super) cpu_ns: [Counter; Stage::ALL.len()],
}

/// Nanoseconds of each stage, in the order of [`Stage::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageNs {
    /// Time. Of few turns it may be less than nothing, since what one turn was found to have too much is
    /// taken from a row for others as well.
    pub ns: [i64; Stage::ALL.len()],
    /// Times entered.
    pub entered: [u64; Stage::ALL.len()],
}

impl StageTimes {
    /// The times now.
    pub fn snapshot(&self) -> StageNs {
        let mut snapshot = StageNs::default();
        for (at, stage) in Stage::ALL.iter().enumerate() {
            snapshot.ns[at] = if stage.may_sleep() {
                self.cpu_ns[at].get().cast_signed()
            } else {
                let ticks = self.ticks[at].get().cast_signed();
                ticks_to_ns(ticks.unsigned_abs()).cast_signed() * ticks.signum()
            };
            snapshot.entered[at] = self.entered[at].get();
        }
        snapshot
    }
}

impl StageNs {
    /// What came since `earlier`. A stage that was cut by the earlier reading counts from there.
    pub fn since(&self, earlier: &StageNs) -> StageNs {
        StageNs {
            ns: each(&self.ns, &earlier.ns, i64::wrapping_sub),
            entered: each(&self.entered, &earlier.entered, u64::saturating_sub),
        }
    }

    /// Both together.
    pub fn plus(&self, other: &StageNs) -> StageNs {
        StageNs {
            ns: each(&self.ns, &other.ns, i64::wrapping_add),
            entered: each(&self.entered, &other.entered, u64::wrapping_add),
        }
    }
}

fn each<T: Copy, const N: usize>(a: &[T; N], b: &[T; N], with: impl Fn(T, T) -> T) -> [T; N] {
    std::array::from_fn(|at| with(a[at], b[at]))
}
