//! What was done for a request: system calls and the ring's own work, by the program's count and by
//! the kernel's, with turns, hand-offs, switches, faults and, where there are counters, cycles.
//!
//! The program counts what it calls; the kernel counts what it is called. Where the two differ by
//! more than [`TOLERANCE`] one of them is wrong, and the verdict says so. The kernel's count is of
//! the threads that serve, and of stretches before the window: tracing puts every system call on a
//! slower path, so no figure of time comes from there. What the program does not count
//! ([`ProgramCounts`]) is in the kernel's count alone, and is no disagreement.

mod agreement;
mod names;
#[cfg(test)]
mod tests;
pub mod turns;

pub use agreement::TOLERANCE;
pub use names::{UNCOUNTED, kernel_names, selections};

use serde::{Deserialize, Serialize};

use super::beside::{cpu_ns_beside, cpu_ns_per_request, interval, paired};
use super::block::{Block, Pass};
use super::plan::{Load, Plan, ProgramCounts};
use super::stretch::Stretch;
use crate::control::Report;
use crate::measure::reading::Reading;
use crate::measure::stats::{Interval, Verdict};
use agreement::{IN_PASSING, Pair, check, compared_within, pairs, program_counts};

/// Why the kernel has no count of what is no event of its own: nothing is missing.
pub const PROGRAMS_ALONE: &str = "the program's own";

/// The row of all of them together.
pub const ALL_CALLS: &str = "system calls";

/// The row of those that the kernel was not asked about by name.
pub const OTHER_CALLS: &str = "other system calls";

/// How many completions an io_uring_enter brought.
pub const CQES_PER_ENTER: &str = "CQEs per enter";

/// Rows of which a figure is not a request's share.
pub const NOT_PER_REQUEST: [&str; 4] = [
    CQES_PER_ENTER,
    turns::REQUESTS_PER_TURN,
    turns::TURN_NS,
    turns::LONGEST_TURN_NS,
];

/// The row of guests' memory that was put back.
pub const RESET_BYTES: &str = "bytes put back";

/// The row of what this program copied; what is and is not in it says
/// [`ServedSnapshot::bytes_copied`](crate::served::ServedSnapshot::bytes_copied).
pub const COPIED_BYTES: &str = "bytes copied by ringlab";

/// One arm.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CountColumn {
    /// The arm.
    pub label: String,
    /// A figure a row, per request.
    pub rows: Vec<CountRow>,
    /// What the program's count of system calls lacks, if it has one that lacks something.
    #[serde(default)]
    pub not_counted: Option<String>,
    /// How closely the two counts could be compared, as a part of the kernel's: of the calls counted
    /// twice, the widest. The program is asked before and after the kernel is, so that its count is
    /// known between a least and a most.
    #[serde(default)]
    pub compared_within: Option<f64>,
    /// What the counting blocks' windows cost, as a part of the CPU per request of those beside.
    pub price: Option<f64>,
    /// The bounds of that; `None` of too few rounds.
    #[serde(default)]
    pub price_interval: Option<Interval>,
    /// The same of nothing: of blocks in which nobody counts.
    #[serde(default)]
    pub control_interval: Option<Interval>,
    /// The price of the stretch in which the kernel counted system calls, where it did.
    pub price_of_tracing: Option<f64>,
    /// Counters that took turns, so that their figures are estimates, with the part of the time that
    /// each one counted, between 0 and 1.
    #[serde(default)]
    pub multiplexed: Vec<(String, f64)>,
}

/// One figure of one arm, per request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountRow {
    /// Of what.
    pub name: String,
    /// By the program's count, if it counts that.
    pub program: Option<f64>,
    /// The program counts some of these alone: see [`CountColumn::not_counted`].
    #[serde(default)]
    pub at_least: bool,
    /// By the kernel's.
    pub kernel: Reading<f64>,
}

/// A column for each arm that was counted.
pub fn counts(plan: &Plan, blocks: &[Block], verdict: &mut Verdict) -> Vec<CountColumn> {
    (0..plan.setting.arms.len())
        .filter_map(|arm| column(plan, blocks, arm, verdict))
        .collect()
}

fn column(plan: &Plan, blocks: &[Block], arm: usize, verdict: &mut Verdict) -> Option<CountColumn> {
    let of = |pass: Pass| -> Vec<&Block> {
        let matches = |block: &&Block| {
            block.load == Load::Saturation && block.arm == arm && block.pass == pass
        };
        blocks.iter().filter(matches).collect()
    };
    let counted = of(Pass::Counts);
    let beside = of(Pass::Beside);
    let beside_ns = cpu_ns_beside(&counted, &beside);
    let price = |ns: Option<f64>| Some(ns? / beside_ns? - 1.0);
    let arm = &plan.setting.arms[arm];
    // Every round is checked; the last is shown.
    for calls in counted.iter().filter_map(|block| block.calls.as_ref()) {
        check(calls, program_counts(arm, calls), &arm.label, verdict);
    }
    let last = counted.last()?;
    let calls = last.calls.as_ref()?;
    let program = program_counts(arm, calls);
    let mut rows = system_calls(calls, program);
    rows.extend(moved(calls, &arm.model));
    rows.extend(turns::rows(last));
    rows.extend(scheduling(last, calls, &arm.model));
    rows.extend(processor(last));
    let traced = calls.kernel.system_calls.value().is_some();
    let calls_ns = |block: &&Block| block.calls.as_ref().map(|calls| calls.most);
    let traced_ns = traced.then(|| {
        let stretches = counted.iter().filter_map(calls_ns);
        let (ns, requests) = stretches.fold((0, 0), |(ns, requests), report: Report| {
            (
                ns + report.cpu_ns,
                requests + report.figures.served.answered,
            )
        });
        (requests > 0).then(|| ns as f64 / requests as f64)
    });
    let paired = paired(&counted, &beside);
    Some(CountColumn {
        label: arm.label.clone(),
        rows,
        not_counted: match program {
            ProgramCounts::AllBut(what) => Some(what.to_string()),
            ProgramCounts::AllButBirths(threads) => Some(format!(
                "what {threads} threads at most call at their birth, late for connections"
            )),
            ProgramCounts::All | ProgramCounts::None => None,
        },
        compared_within: compared_within(calls, program),
        // Of rounds enough the estimate that the bounds belong to.
        price: paired
            .map(|ratio| ratio.ratio - 1.0)
            .or_else(|| price(cpu_ns_per_request(&counted))),
        price_interval: paired.map(|ratio| ratio.interval),
        control_interval: interval(&of(Pass::Again), &beside),
        price_of_tracing: price(traced_ns.flatten()),
        multiplexed: last
            .work
            .iter()
            .chain(&last.calls)
            .flat_map(|stretch| stretch.kernel.multiplexed.clone())
            .collect(),
    })
}

/// A row of a stretch: per request, of which the kernel's interval had as many as lie between the
/// least and the most that the program saw.
fn row_of_stretch(
    calls: &Stretch,
    name: &str,
    program: Option<f64>,
    kernel: Reading<u64>,
) -> CountRow {
    let requests = |report: &Report| report.figures.served.answered as f64;
    let (least, most) = (requests(&calls.least), requests(&calls.most));
    let per_request = |count: f64| count / ((least + most) / 2.0).max(1.0);
    CountRow {
        name: name.to_string(),
        at_least: false,
        program: program.map(per_request),
        kernel: kernel.map(|count| per_request(count as f64)),
    }
}

/// All system calls, those that the program counts, those that the kernel was asked about besides, and
/// the remainder of its total.
fn system_calls(calls: &Stretch, program: ProgramCounts) -> Vec<CountRow> {
    let pairs = pairs(calls, program);
    let both = |pair: &Pair| {
        let mean = (pair.least + pair.most) as f64 / 2.0;
        CountRow {
            at_least: pair.at_least(),
            ..row_of_stretch(calls, pair.name, Some(mean), pair.kernel.clone())
        }
    };
    let mut rows: Vec<_> = pairs.iter().map(both).collect();
    let kernel = &calls.kernel;
    if pairs.is_empty() {
        let all = kernel.system_calls.clone();
        rows.push(row_of_stretch(calls, ALL_CALLS, None, all));
    }
    let shown = |name: &str| {
        let mut shown = pairs.iter().map(|pair| names::kernel_name(pair.name));
        shown.any(|shown| shown == name)
    };
    for (name, reading) in &kernel.by_name {
        // What the program counts, too, is a pair where there was any.
        if !shown(name) && (pairs.is_empty() || UNCOUNTED.contains(&&**name)) {
            rows.push(row_of_stretch(calls, name, None, reading.clone()));
        }
    }
    let named = kernel.by_name.iter().map(|(_, reading)| reading.clone());
    let others = named.fold(kernel.system_calls.clone(), |rest, one| {
        rest.and_then(|rest| one.map(|one| rest.saturating_sub(one)))
    });
    if others.value().is_some_and(|&others| others > IN_PASSING) {
        rows.push(row_of_stretch(calls, OTHER_CALLS, None, others));
    }
    rows
}

/// What went through the rings, and bytes: of the stretch too, so that entries and system calls go
/// together.
fn moved(calls: &Stretch, model: &str) -> Vec<CountRow> {
    let of = &calls.most;
    let (io, served) = (&of.figures.io, &of.figures.served);
    let row = |name: &str, total: u64| CountRow {
        name: name.to_string(),
        at_least: false,
        program: Some(total as f64 / served.answered.max(1) as f64),
        kernel: Reading::missing(PROGRAMS_ALONE),
    };
    let mut rows: Vec<CountRow> = io
        .named()
        .into_iter()
        // One row with the kernel's, below.
        .filter(|(name, _)| *name != "io_wq")
        .filter_map(|(name, value)| {
            let term = names::ring_term(name)?;
            (value > 0 || names::can_have(model, name)).then(|| row(term, value))
        })
        .collect();
    if io.io_uring_enter > 0 {
        rows.push(CountRow {
            name: CQES_PER_ENTER.to_string(),
            at_least: false,
            program: Some(io.cqe as f64 / io.io_uring_enter as f64),
            kernel: Reading::missing(PROGRAMS_ALONE),
        });
    }
    rows.push(row("bytes in", served.bytes_in));
    rows.push(row("bytes out", served.bytes_out));
    rows.push(row(COPIED_BYTES, served.bytes_copied));
    if of.reset_bytes > 0 {
        rows.push(row(RESET_BYTES, of.reset_bytes));
    }
    rows
}

/// Switches and faults: of the stretch, by whoever counts them.
fn scheduling(block: &Block, calls: &Stretch, model: &str) -> Vec<CountRow> {
    let missing = || Reading::missing(PROGRAMS_ALONE);
    let both = |name: &str, program: Option<fn(&Report) -> u64>, kernel: Reading<u64>| {
        let mean =
            |count: fn(&Report) -> u64| (count(&calls.least) + count(&calls.most)) as f64 / 2.0;
        row_of_stretch(calls, name, program.map(mean), kernel)
    };
    let kernel = &calls.kernel;
    let wait = block.noise.run_queue_wait_ns.clone();
    let punts = names::has_ring(model).then(|| {
        both(
            "io-wq punts",
            names::can_have(model, "io_wq").then_some(|report| report.figures.io.io_wq),
            kernel.io_wq_punts.clone(),
        )
    });
    let rows = [
        both(
            "voluntary switches",
            Some(|report| report.voluntary_switches),
            missing(),
        ),
        both(
            "involuntary switches",
            Some(|report| report.involuntary_switches),
            missing(),
        ),
        both(
            "context switches",
            Some(|report| report.voluntary_switches + report.involuntary_switches),
            kernel.context_switches.clone(),
        ),
        both("migrations", None, kernel.migrations.clone()),
        both(
            "minor faults",
            Some(|report| report.minor_faults),
            kernel.minor_faults.clone(),
        ),
        both(
            "major faults",
            Some(|report| report.major_faults),
            kernel.major_faults.clone(),
        ),
    ];
    let waits = [
        row(block, "run-queue wait, ns", None, wait),
        row(block, "off-CPU, ns", None, block.noise.off_cpu_ns.clone()),
    ];
    rows.into_iter().chain(punts).chain(waits).collect()
}

fn processor(block: &Block) -> Vec<CountRow> {
    let Some(work) = &block.work else {
        return Vec::new();
    };
    let counted = &work.kernel;
    [
        ("cycles, user", &counted.cycles_user),
        ("cycles, kernel", &counted.cycles_kernel),
        ("instructions, user", &counted.instructions_user),
        ("instructions, kernel", &counted.instructions_kernel),
        ("cache misses", &counted.cache_misses),
        ("branch misses", &counted.branch_misses),
    ]
    .into_iter()
    .map(|(name, reading)| row_of_stretch(work, name, None, reading.clone()))
    .collect()
}

fn row(block: &Block, name: &str, program: Option<u64>, kernel: Reading<u64>) -> CountRow {
    let per_request = |total: u64| total as f64 / block.requests().max(1) as f64;
    CountRow {
        name: name.to_string(),
        at_least: false,
        program: program.map(per_request),
        kernel: kernel.map(per_request),
    }
}
