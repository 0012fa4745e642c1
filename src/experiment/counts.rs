//! What was done for a request: system calls and the ring's own work, by the program's count and by
//! the kernel's, with switches, faults and, where there are counters, cycles.
//!
//! The program counts what it calls; the kernel counts what it is called. Where the two differ by
//! more than [`TOLERANCE`] one of them is wrong, and the verdict says so. The kernel's count covers
//! the whole process, the answers to the laboratory's own questions among it. Where an async runtime
//! owns the loop, its system calls are in the kernel's count alone.

use serde::{Deserialize, Serialize};

use super::block::{Block, Pass};
use super::plan::{Load, Plan};
use crate::io::CountsSnapshot;
use crate::measure::perf::Counted;
use crate::measure::reading::Reading;
use crate::measure::stats::{Level, Verdict};

/// What the two counts of one name may differ by, as a part of the kernel's.
const TOLERANCE: f64 = 0.01;
/// Calls a window may have beyond the program's count: the laboratory's question at its end.
const OWN_CALLS: u64 = 500;

/// System calls that the kernel is asked about by name. Each costs in the pass that counts them.
pub const KERNEL_NAMES: &[&str] = &[
    "recvfrom",
    "sendto",
    "epoll_wait",
    "io_uring_enter",
    "futex",
    "madvise",
];

/// One arm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountColumn {
    /// The arm.
    pub label: String,
    /// A figure a row, per request.
    pub rows: Vec<CountRow>,
    /// What counting by the kernel cost, as a part of the CPU per request without.
    pub price: Option<f64>,
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
    (0..plan.arms.len())
        .filter_map(|arm| column(plan, blocks, arm, verdict))
        .collect()
}

fn column(plan: &Plan, blocks: &[Block], arm: usize, verdict: &mut Verdict) -> Option<CountColumn> {
    let of = |pass: Pass| {
        let matches = move |block: &&Block| {
            block.load == Load::Saturation && block.arm == arm && block.pass == pass
        };
        blocks.iter().filter(matches)
    };
    let calls = of(Pass::Calls).next()?;
    let work = of(Pass::Work).next()?;
    let label = &plan.arms[arm].label;
    let mut rows = if plan.arms[arm].counts_its_calls() {
        system_calls(calls, label, verdict)
    } else {
        kernel_calls(calls)
    };
    rows.extend(ring(calls));
    rows.extend(scheduling(work));
    rows.extend(hardware(work));
    let plain: Vec<&Block> = of(Pass::Plain).collect();
    let plain_ns: u64 = plain.iter().map(|block| block.server.cpu_ns).sum();
    let plain_requests: u64 = plain.iter().map(|block| block.requests()).sum();
    let price = (plain_requests > 0 && plain_ns > 0)
        .then(|| {
            calls
                .cpu_ns_per_request()
                .map(|ns| ns * plain_requests as f64 / plain_ns as f64 - 1.0)
        })
        .flatten();
    Some(CountColumn {
        label: label.clone(),
        rows,
        price,
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

fn system_calls(block: &Block, label: &str, verdict: &mut Verdict) -> Vec<CountRow> {
    let io = &block.server.figures.io;
    let all = all_by_kernel(block);
    disagreement(label, "system calls", io.system_calls(), &all, verdict);
    let mut rows = vec![row(block, "system calls", Some(io.system_calls()), all)];
    for (name, value) in io.named() {
        if CountsSnapshot::is_system_call(name) && value > 0 {
            let kernel = by_kernel(block, name);
            disagreement(label, name, value, &kernel, verdict);
            rows.push(row(block, name, Some(value), kernel));
        }
    }
    for name in ["futex", "madvise"] {
        rows.push(row(block, name, None, by_kernel(block, name)));
    }
    rows
}

/// The system calls of an arm whose runtime calls the kernel by itself: the kernel's count alone.
fn kernel_calls(block: &Block) -> Vec<CountRow> {
    let mut rows = vec![row(block, "system calls", None, all_by_kernel(block))];
    for name in KERNEL_NAMES {
        rows.push(row(block, name, None, by_kernel(block, name)));
    }
    rows
}

fn all_by_kernel(block: &Block) -> Reading<u64> {
    let counted = block.kernel.as_ref();
    counted.map_or_else(
        || Reading::missing("not counted"),
        |counted| counted.system_calls.clone(),
    )
}

fn by_kernel(block: &Block, name: &str) -> Reading<u64> {
    let counted = block.kernel.as_ref();
    let named = counted.and_then(|counted| {
        let mut named = counted.by_name.iter();
        named.find(|(known, _)| known == kernel_name(name))
    });
    named.map_or_else(
        || Reading::missing("not asked for"),
        |(_, reading)| reading.clone(),
    )
}

fn disagreement(
    label: &str,
    name: &str,
    program: u64,
    kernel: &Reading<u64>,
    verdict: &mut Verdict,
) {
    let Some(&kernel) = kernel.value() else {
        return;
    };
    let apart = kernel.abs_diff(program);
    if apart > OWN_CALLS && apart as f64 > TOLERANCE * kernel as f64 {
        verdict.add(
            Level::Noisy,
            format!("{label}: the program counts {program} {name}, the kernel {kernel}"),
            "report this: one of the two counts is wrong",
        );
    }
}

fn ring(block: &Block) -> Vec<CountRow> {
    let io = &block.server.figures.io;
    let served = &block.server.figures.served;
    let unasked = || Reading::missing("no system call");
    let mut rows: Vec<CountRow> = io
        .named()
        .into_iter()
        .filter(|(name, value)| !CountsSnapshot::is_system_call(name) && *value > 0)
        .map(|(name, value)| row(block, name, Some(value), unasked()))
        .collect();
    if io.io_uring_enter > 0 {
        rows.push(CountRow {
            name: "cqe per enter".to_string(),
            program: Some(io.cqe as f64 / io.io_uring_enter as f64),
            kernel: Reading::missing("no system call"),
        });
    }
    rows.push(row(block, "bytes in", Some(served.bytes_in), unasked()));
    rows.push(row(block, "bytes out", Some(served.bytes_out), unasked()));
    rows
}

fn scheduling(block: &Block) -> Vec<CountRow> {
    let server = &block.server;
    let missing = || Reading::missing("not counted");
    let kernel = |field: fn(&Counted) -> &Reading<u64>| {
        block
            .kernel
            .as_ref()
            .map_or_else(missing, |counted| field(counted).clone())
    };
    let switches = server.voluntary_switches + server.involuntary_switches;
    let wait = block.noise.run_queue_wait_ns.clone();
    vec![
        row(
            block,
            "voluntary switches",
            Some(server.voluntary_switches),
            missing(),
        ),
        row(
            block,
            "involuntary switches",
            Some(server.involuntary_switches),
            missing(),
        ),
        row(
            block,
            "context switches",
            Some(switches),
            kernel(|counted| &counted.context_switches),
        ),
        row(
            block,
            "migrations",
            None,
            kernel(|counted| &counted.migrations),
        ),
        row(
            block,
            "minor faults",
            Some(server.minor_faults),
            kernel(|counted| &counted.minor_faults),
        ),
        row(
            block,
            "major faults",
            Some(server.major_faults),
            kernel(|counted| &counted.major_faults),
        ),
        row(
            block,
            "io-wq punts",
            None,
            kernel(|counted| &counted.io_wq_punts),
        ),
        row(block, "run-queue wait, ns", None, wait),
    ]
}

fn hardware(block: &Block) -> Vec<CountRow> {
    let Some(counted) = &block.kernel else {
        return Vec::new();
    };
    [
        ("cycles, user", &counted.cycles_user),
        ("cycles, kernel", &counted.cycles_kernel),
        ("instructions, user", &counted.instructions_user),
        ("instructions, kernel", &counted.instructions_kernel),
        ("cache misses", &counted.cache_misses),
        ("branch misses", &counted.branch_misses),
    ]
    .into_iter()
    .map(|(name, reading)| row(block, name, None, reading.clone()))
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
