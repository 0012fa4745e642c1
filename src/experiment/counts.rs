//! What was done for a request: system calls and the ring's own work, by the program's count and by
//! the kernel's, with turns, hand-offs, switches, faults and, where there are counters, cycles.
//!
//! The program counts what it calls; the kernel counts what it is called. Where the two differ by
//! more than [`TOLERANCE`] one of them is wrong, and the verdict says so. The kernel's count is of
//! the threads that serve, and of stretches before the window: tracing puts every system call on a
//! slower path, so no figure of time comes from there. Where an async runtime owns the loop, its
//! system calls are in the kernel's count alone.

#[cfg(test)]
mod tests;
pub mod turns;

use serde::{Deserialize, Serialize};

use super::block::{Block, Pass};
use super::ledger::{cpu_ns_beside, cpu_ns_per_request, interval};
use super::plan::{Load, Plan};
use super::stretch::Stretch;
use crate::control::Report;
use crate::io::CountsSnapshot;
use crate::measure::perf::Counted;
use crate::measure::reading::Reading;
use crate::measure::stats::{Interval, Level, Verdict};

/// What the two counts of one name may differ by, as a part of the kernel's.
const TOLERANCE: f64 = 0.01;
/// A difference so small is none: a thread may be between the call and its own note of it.
const IN_PASSING: u64 = 10;

/// System calls that the kernel is asked about by name. Each takes time to be detached.
pub const KERNEL_NAMES: &[&str] = &[
    "recvfrom",
    "sendto",
    "epoll_wait",
    "io_uring_enter",
    "futex",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "rt_sigreturn",
    "clock_gettime",
];

/// Those that are not the driver's, and that nobody in the program counts: of locks, of the guest's
/// memory, and of the ticks that bound the guest's time (the handler's return; the CPU clock).
const UNCOUNTED: &[&str] = &[
    "futex",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "rt_sigreturn",
    "clock_gettime",
];

/// The row of guests' memory that was put back.
pub const RESET_BYTES: &str = "bytes put back";

/// The row of what this program copied; what is and is not in it says
/// [`ServedSnapshot::bytes_copied`](crate::served::ServedSnapshot::bytes_copied).
pub const COPIED_BYTES: &str = "bytes copied by ringlab";

/// One arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountColumn {
    /// The arm.
    pub label: String,
    /// A figure a row, per request.
    pub rows: Vec<CountRow>,
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
    let checked = counted.iter().filter(|_| arm.counts_its_calls());
    for calls in checked.filter_map(|block| block.calls.as_ref()) {
        check(calls, &arm.label, verdict);
    }
    let last = counted.last()?;
    let calls = last.calls.as_ref()?;
    let mut rows = if arm.counts_its_calls() {
        system_calls(calls)
    } else {
        kernel_calls(calls)
    };
    rows.extend(moved(calls));
    rows.extend(turns::rows(last));
    rows.extend(scheduling(last, calls));
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
    Some(CountColumn {
        label: arm.label.clone(),
        rows,
        price: price(cpu_ns_per_request(&counted)),
        price_interval: interval(&counted, &beside),
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

/// The program's name of a call that the kernel's tracepoints call otherwise.
fn kernel_name(name: &str) -> &str {
    match name {
        "recv" => "recvfrom",
        "send" => "sendto",
        name => name,
    }
}

/// The kernel's count of a call that the program counts under `name`.
fn kernel_of(counted: &Counted, name: &str) -> Reading<u64> {
    let mut named = counted.by_name.iter();
    let found = named.find(|(known, _)| known == kernel_name(name));
    found.map_or_else(
        || Reading::missing("not asked for"),
        |(_, reading)| reading.clone(),
    )
}

/// All system calls but those that the program does not count. `n/a` unless the kernel tells of
/// each.
fn kernel_counted(counted: &Counted) -> Reading<u64> {
    let uncounted = UNCOUNTED.iter().map(|name| kernel_of(counted, name));
    uncounted.fold(counted.system_calls.clone(), |all, one| {
        all.and_then(|all| one.map(|one| all.saturating_sub(one)))
    })
}

/// The program's counts of system calls between the kernel's two readings: the least and the most
/// that there can have been, with the kernel's own.
fn pairs(calls: &Stretch) -> Vec<(&'static str, u64, u64, Reading<u64>)> {
    let (least, most) = (&calls.least.figures.io, &calls.most.figures.io);
    let all = (
        "system calls",
        least.system_calls(),
        most.system_calls(),
        kernel_counted(&calls.kernel),
    );
    let named = least.named().into_iter().zip(most.named());
    let named = named
        .filter(|((name, _), (_, most))| CountsSnapshot::is_system_call(name) && *most > 0)
        .map(|((name, least), (_, most))| (name, least, most, kernel_of(&calls.kernel, name)));
    std::iter::once(all).chain(named).collect()
}

fn check(calls: &Stretch, label: &str, verdict: &mut Verdict) {
    for (name, least, most, kernel) in pairs(calls) {
        let Some(&kernel) = kernel.value() else {
            continue;
        };
        let slack = (TOLERANCE * kernel as f64) as u64 + IN_PASSING;
        if kernel + slack < least || kernel > most + slack {
            verdict.add(
                Level::Noisy,
                format!(
                    "{label}: the program counts {least} to {most} {name}, the kernel {kernel}: \
                     more than 1 % apart"
                ),
                "report this: one of the two counts is wrong",
            );
        }
    }
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
        program: program.map(per_request),
        kernel: kernel.map(|count| per_request(count as f64)),
    }
}

fn system_calls(calls: &Stretch) -> Vec<CountRow> {
    let both = pairs(calls).into_iter().map(|(name, least, most, kernel)| {
        row_of_stretch(calls, name, Some((least + most) as f64 / 2.0), kernel)
    });
    both.chain(by_kernel(calls, UNCOUNTED)).collect()
}

/// The system calls of an arm whose runtime calls the kernel by itself: the kernel's count alone.
fn kernel_calls(calls: &Stretch) -> Vec<CountRow> {
    let all = calls.kernel.system_calls.clone();
    let all = row_of_stretch(calls, "system calls", None, all);
    let named = by_kernel(calls, KERNEL_NAMES);
    std::iter::once(all).chain(named).collect()
}

fn by_kernel<'a>(calls: &'a Stretch, names: &'a [&str]) -> impl Iterator<Item = CountRow> + 'a {
    let row = |name: &&str| row_of_stretch(calls, name, None, kernel_of(&calls.kernel, name));
    names.iter().map(row)
}

/// What went through the rings, and bytes: of the stretch too, so that entries and system calls go
/// together.
fn moved(calls: &Stretch) -> Vec<CountRow> {
    let of = &calls.most;
    let (io, served) = (&of.figures.io, &of.figures.served);
    let row = |name: &str, total: u64| CountRow {
        name: name.to_string(),
        program: Some(total as f64 / served.answered.max(1) as f64),
        kernel: Reading::missing("no system call"),
    };
    let mut rows: Vec<CountRow> = io
        .named()
        .into_iter()
        .filter(|(name, value)| !CountsSnapshot::is_system_call(name) && *value > 0)
        .map(|(name, value)| row(name, value))
        .collect();
    if io.io_uring_enter > 0 {
        rows.push(CountRow {
            name: "cqe per enter".to_string(),
            program: Some(io.cqe as f64 / io.io_uring_enter as f64),
            kernel: Reading::missing("no system call"),
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
fn scheduling(block: &Block, calls: &Stretch) -> Vec<CountRow> {
    let missing = || Reading::missing("not counted");
    let both = |name: &str, program: Option<fn(&Report) -> u64>, kernel: Reading<u64>| {
        let mean =
            |count: fn(&Report) -> u64| (count(&calls.least) + count(&calls.most)) as f64 / 2.0;
        row_of_stretch(calls, name, program.map(mean), kernel)
    };
    let kernel = &calls.kernel;
    let wait = block.noise.run_queue_wait_ns.clone();
    vec![
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
        both("io-wq punts", None, kernel.io_wq_punts.clone()),
        row(block, "run-queue wait, ns", None, wait),
        row(block, "off-CPU, ns", None, block.noise.off_cpu_ns.clone()),
    ]
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
        program: program.map(per_request),
        kernel: kernel.map(per_request),
    }
}
