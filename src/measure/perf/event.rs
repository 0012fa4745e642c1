//! What can be counted, and how the kernel is asked for it.
//!
//! Whether the kernel's side is counted decides who may count: with
//! `kernel.perf_event_paranoid` at 2, the default, only CAP_PERFMON may (perf_event_open(2)).
//! An event that happens inside the kernel and is asked for without the kernel's side is accepted
//! and reads 0 for ever. So nothing here is asked for in a lesser form when it is refused.

use std::fmt::{self, Display};

use perf_event::Builder;
use perf_event::events::{Hardware, Software};

use super::tracefs::Tracefs;

/// One thing to count; [`Counted`](super::Counted) says what each means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    SystemCalls,
    /// With the name as the tracepoint has it.
    SystemCall(String),
    ContextSwitches,
    Migrations,
    MinorFaults,
    MajorFaults,
    IoWqPunts,
    CyclesUser,
    CyclesKernel,
    InstructionsUser,
    InstructionsKernel,
    CacheMisses,
    BranchMisses,
}

/// Where the processor must be for an event to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    User,
    Kernel,
    Both,
}

/// Who counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Tracepoint,
    Software,
    /// The performance monitoring unit.
    Hardware,
}

impl Event {
    /// Counted by the kernel itself, and at places that are no system call's entry.
    pub(super) const SOFTWARE: &[Event] = &[
        Event::ContextSwitches,
        Event::Migrations,
        Event::MinorFaults,
        Event::MajorFaults,
    ];

    /// Counted by the processor, where a virtual machine lets it.
    pub(super) const HARDWARE: &[Event] = &[
        Event::CyclesUser,
        Event::CyclesKernel,
        Event::InstructionsUser,
        Event::InstructionsKernel,
        Event::CacheMisses,
        Event::BranchMisses,
    ];

    /// A counter that starts at once and that threads and child processes inherit; on which thread
    /// is still to be said.
    pub(super) fn builder(&self, tracefs: &Tracefs) -> Result<Builder<'static>, String> {
        let mut builder = match self {
            Self::SystemCalls => Builder::new(tracefs.find_event("raw_syscalls", "sys_enter")?),
            Self::SystemCall(name) => {
                Builder::new(tracefs.find_event("syscalls", &format!("sys_enter_{name}"))?)
            }
            Self::IoWqPunts => {
                Builder::new(tracefs.find_event("io_uring", "io_uring_queue_async_work")?)
            }
            Self::ContextSwitches => Builder::new(Software::CONTEXT_SWITCHES),
            Self::Migrations => Builder::new(Software::CPU_MIGRATIONS),
            Self::MinorFaults => Builder::new(Software::PAGE_FAULTS_MIN),
            Self::MajorFaults => Builder::new(Software::PAGE_FAULTS_MAJ),
            Self::CyclesUser | Self::CyclesKernel => Builder::new(Hardware::CPU_CYCLES),
            Self::InstructionsUser | Self::InstructionsKernel => {
                Builder::new(Hardware::INSTRUCTIONS)
            }
            Self::CacheMisses => Builder::new(Hardware::CACHE_MISSES),
            Self::BranchMisses => Builder::new(Hardware::BRANCH_MISSES),
        };
        builder
            .exclude_user(self.side() == Side::Kernel)
            .exclude_kernel(self.side() == Side::User)
            .inherit(true)
            .enabled(true);
        Ok(builder)
    }

    pub(super) fn is_system_call(&self) -> bool {
        matches!(self, Self::SystemCalls | Self::SystemCall(_))
    }

    pub(super) fn source(&self) -> Source {
        match self {
            Self::SystemCalls | Self::SystemCall(_) | Self::IoWqPunts => Source::Tracepoint,
            other if Self::HARDWARE.contains(other) => Source::Hardware,
            _ => Source::Software,
        }
    }

    pub(super) fn side(&self) -> Side {
        match self {
            // `syscalls:*` are judged by the registers of the program that calls, `raw_syscalls:*`
            // by those of the kernel at the tracepoint (kernel/trace/trace_syscalls.c).
            Self::SystemCall(_) | Self::CyclesUser | Self::InstructionsUser => Side::User,
            Self::CyclesKernel | Self::InstructionsKernel => Side::Kernel,
            _ => Side::Both,
        }
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SystemCalls => "system calls",
            Self::SystemCall(name) => name,
            Self::ContextSwitches => "context switches",
            Self::Migrations => "migrations",
            Self::MinorFaults => "minor faults",
            Self::MajorFaults => "major faults",
            Self::IoWqPunts => "io-wq punts",
            Self::CyclesUser => "cycles, user",
            Self::CyclesKernel => "cycles, kernel",
            Self::InstructionsUser => "instructions, user",
            Self::InstructionsKernel => "instructions, kernel",
            Self::CacheMisses => "cache misses",
            Self::BranchMisses => "branch misses",
        })
    }
}
