//! Whether the program's count of a stretch's system calls and the kernel's are of the same.
//!
//! The program is asked before and after the kernel is, so that its count is known between a least and a
//! most. What it does not count of a name ([`ProgramCounts`], and [`UNCOUNTED`]) the kernel may have more.

use super::names;
use super::{ALL_CALLS, UNCOUNTED};
use crate::experiment::plan::{Arm, ProgramCounts};
use crate::experiment::stretch::Stretch;
use crate::io::CountsSnapshot;
use crate::measure::perf::Counted;
use crate::measure::reading::Reading;
use crate::measure::stats::{Level, Verdict};
use crate::models::{self, Shape};

/// What the two counts of one name may differ by, as a part of the kernel's.
pub const TOLERANCE: f64 = 0.01;
/// A difference so small is none: a thread may be between the call and its own note of it.
pub(super) const IN_PASSING: u64 = 10;

/// The most that a thread born for a connection calls which the program does not count: some 40, of the C
/// library for its stack, its signals and its heap, of its timer, and for its first instance; twice that, since
/// the C library's versions differ.
const CALLS_AT_BIRTH: u64 = 80;

/// What of the calls of a stretch the program counts. Threads are born for connections, and have begun, before
/// it, as a rule.
pub(super) fn program_counts(arm: &Arm, calls: &Stretch) -> ProgramCounts {
    let model = models::find(&arm.model);
    let is_born_for_each = model.is_some_and(|model| model.shape == Shape::ThreadPerConnection);
    let beginning = if is_born_for_each { calls.unsettled } else { 0 };
    match arm.program_counts() {
        ProgramCounts::All => match calls.most.figures.io.clone3.max(beginning) {
            0 => ProgramCounts::All,
            threads => ProgramCounts::AllButBirths(threads),
        },
        counts => counts,
    }
}

/// The kernel's count of a call that the program counts under `name`.
fn kernel_of(counted: &Counted, name: &str) -> Reading<u64> {
    let mut named = counted.by_name.iter();
    let found = named.find(|(known, _)| known == names::kernel_name(name));
    found.map_or_else(
        || Reading::missing("not asked of the kernel"),
        |(_, reading)| reading.clone(),
    )
}

/// The program's counts of a system call between the kernel's two readings.
pub(super) struct Pair {
    pub(super) name: &'static str,
    /// The least and the most that there can have been.
    pub(super) least: u64,
    pub(super) most: u64,
    /// So many more the kernel may have, which the program does not count. [`u64::MAX`]: nobody knows how many.
    uncounted: u64,
    /// The kernel's own.
    pub(super) kernel: Reading<u64>,
}

impl Pair {
    /// The program counts some of them alone.
    pub(super) fn at_least(&self) -> bool {
        self.uncounted > 0
    }
}

/// Of all system calls together, and of each that there was.
pub(super) fn pairs(calls: &Stretch, program: ProgramCounts) -> Vec<Pair> {
    let (least, most) = (&calls.least.figures.io, &calls.most.figures.io);
    let uncounted = match program {
        ProgramCounts::AllBut(_) => u64::MAX,
        ProgramCounts::AllButBirths(threads) => threads * CALLS_AT_BIRTH,
        ProgramCounts::All | ProgramCounts::None => 0,
    };
    let all = Pair {
        name: ALL_CALLS,
        least: least.system_calls(),
        most: most.system_calls(),
        uncounted,
        kernel: calls.kernel.system_calls.clone(),
    };
    let named = least.named().into_iter().zip(most.named());
    let named = named
        .filter(|((name, _), _)| CountsSnapshot::is_system_call(name))
        .map(|((name, least), (_, most))| Pair {
            name,
            least,
            most,
            // Locks call it besides.
            uncounted: match UNCOUNTED.contains(&name) {
                true => u64::MAX,
                false => 0,
            },
            kernel: kernel_of(&calls.kernel, name),
        })
        .filter(|pair| pair.most > 0 || (!pair.at_least() && pair.kernel.value() > Some(&0)));
    match program {
        ProgramCounts::None => Vec::new(),
        ProgramCounts::All | ProgramCounts::AllBut(_) | ProgramCounts::AllButBirths(_) => {
            std::iter::once(all).chain(named).collect()
        }
    }
}

/// The kernel's count of what the program counts, too: of all system calls of an arm whose program
/// counts all but [`UNCOUNTED`], without those. `n/a` unless the kernel tells of each.
fn counted_twice(pair: &Pair, kernel: &Counted) -> Reading<u64> {
    if pair.name != ALL_CALLS || pair.uncounted == u64::MAX {
        return pair.kernel.clone();
    }
    let uncounted = UNCOUNTED.iter().map(|name| kernel_of(kernel, name));
    uncounted.fold(pair.kernel.clone(), |all, one| {
        all.and_then(|all| one.map(|one| all.saturating_sub(one)))
    })
}

/// Says where they are of different things, by more than [`TOLERANCE`].
pub(super) fn check(calls: &Stretch, program: ProgramCounts, label: &str, verdict: &mut Verdict) {
    for pair in pairs(calls, program) {
        let kernel = match counted_twice(&pair, &calls.kernel) {
            Reading::Value(kernel) => kernel,
            // That the kernel counts nothing stands in the row; that it counts all but one of those to be
            // taken off does not.
            Reading::Missing(reason) if pair.kernel.value().is_some() => {
                let what = format!(
                    "{label}: the program's count of all {} is held against none of the kernel's, which has \
                     others in it that cannot be told apart: {reason}",
                    pair.name
                );
                if !verdict.causes.iter().any(|cause| cause.what == what) {
                    let remedy = "compare the calls one by one, as the table does";
                    verdict.add(Level::Valid, what, remedy);
                }
                continue;
            }
            Reading::Missing(_) => continue,
        };
        let Pair {
            name,
            least,
            most,
            uncounted,
            ..
        } = pair;
        let besides = match uncounted {
            0 | u64::MAX => String::new(),
            calls => format!(" and {calls} at most when threads were born"),
        };
        let slack = (TOLERANCE * kernel as f64) as u64 + IN_PASSING;
        if kernel + slack < least || kernel > (most + slack).saturating_add(uncounted) {
            verdict.add(
                Level::Noisy,
                format!(
                    "{label}: the program counts {least} to {most} {name}{besides}, the kernel {kernel} of the \
                     same: more than 1 % apart"
                ),
                "report this: one of the two counts is wrong",
            );
        }
    }
}

/// The most by which a count of the program's may differ from the kernel's unseen.
pub(super) fn compared_within(calls: &Stretch, program: ProgramCounts) -> Option<f64> {
    let pairs = pairs(calls, program).into_iter();
    let widths = pairs.filter(|pair| !pair.at_least()).filter_map(|pair| {
        let kernel = *counted_twice(&pair, &calls.kernel).value()?;
        let apart = kernel.abs_diff(pair.least).max(kernel.abs_diff(pair.most));
        Some(apart.saturating_sub(IN_PASSING) as f64 / kernel.max(1) as f64)
    });
    widths.max_by(f64::total_cmp)
}
