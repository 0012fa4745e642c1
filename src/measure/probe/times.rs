//! The figures of a thread's stages: how long it was in each, and how often.

use serde::{Deserialize, Serialize};

use super::Stage;
use super::ticks::ticks_to_ns;
use crate::measure::counter::Counter;

/// Time of each stage of one thread, in ticks of its clock; one thread writes, any may read.
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
    /// Time.
    pub ns: [u64; Stage::ALL.len()],
    /// Times entered.
    pub entered: [u64; Stage::ALL.len()],
}

impl StageTimes {
    /// The times now.
    pub fn snapshot(&self) -> StageNs {
        let mut snapshot = StageNs::default();
        for (at, stage) in Stage::ALL.iter().enumerate() {
            snapshot.ns[at] = if stage.may_sleep() {
                self.cpu_ns[at].get()
            } else {
                ticks_to_ns(self.ticks[at].get())
            };
            snapshot.entered[at] = self.entered[at].get();
        }
        snapshot
    }
}

impl StageNs {
    /// What came since `earlier`. A stage that was cut by the earlier reading counts from there.
    pub fn since(&self, earlier: &StageNs) -> StageNs {
        self.each(earlier, u64::saturating_sub)
    }

    /// Both together.
    pub fn plus(&self, other: &StageNs) -> StageNs {
        self.each(other, u64::wrapping_add)
    }

    fn each(&self, other: &StageNs, with: impl Fn(u64, u64) -> u64) -> StageNs {
        let zip = |a: &[u64], b: &[u64]| std::array::from_fn(|at| with(a[at], b[at]));
        StageNs {
            ns: zip(&self.ns, &other.ns),
            entered: zip(&self.entered, &other.entered),
        }
    }
}
