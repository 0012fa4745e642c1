//! What one request may use. Plain numbers; others enforce them.

use std::time::Duration;

/// The most CPU time of a start function when a module is loaded, whatever the deadline of requests is:
/// nobody could end a server, or an exchange, that waits for one that does not return.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(2);

/// Stack a thread needs besides the guest's: the caller's own frames, wasmtime's entry and
/// library calls, and a signal frame, which holds every vector register (11 KiB with AMX).
const HOST_STACK_BYTES: usize = 256 * 1024;

/// The same for the compiler, whose recursion grows with the functions that it compiles.
const COMPILER_STACK_BYTES: usize = 4 * 1024 * 1024;

/// What one request may use. `native` obeys [`Limits::response_bytes`] and
/// [`Limits::header_line_bytes`] only: nothing can stop linked-in code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// CPU time of the calling thread per request. How exactly it is kept: see `deadline`. `None`:
    /// nothing ends a guest that does not return, and without a quantum it is compiled without looking
    /// at the time. When a module is loaded its start function has 2 s at most.
    pub deadline: Option<Duration>,
    /// The guest runs on a stack of its own and is suspended when it has run so long; CPU time of
    /// the calling thread, kept as exactly as [`Slicer`](super::Slicer) says. `None`: it runs on the
    /// caller's stack, to its end.
    pub quantum: Option<Duration>,
    /// The most linear memory that a module may begin with, in bytes; with more it is refused at
    /// load.
    pub first_memory_bytes: usize,
    /// The most linear memory that an instance may grow to, in bytes: beyond, its `memory.grow`
    /// fails. One that began with more has what it began with, and may not grow.
    pub memory_bytes: usize,
    /// Stack for compiled wasm, in bytes; running out is a trap. It lies on the calling thread's
    /// own stack: see [`Limits::thread_stack_bytes`].
    pub stack_bytes: usize,
    /// The most entries of a table. A module that starts with more is refused at load; one that
    /// grows beyond sees its `table.grow` fail.
    pub table_entries: usize,
    /// The longest body that a handler may answer with, in bytes.
    pub response_bytes: usize,
    /// The most bytes of header lines that a handler may answer with, all of them together.
    pub header_line_bytes: usize,
    /// The most instances of one shard at any time, kept and running together, but for those that have
    /// answered under `fresh` and wait for their store to go; at least 1.
    pub instances: usize,
    /// How long a call waits for one of them; then it fails with
    /// [`Failure::Exhausted`](super::Failure::Exhausted).
    pub instance_wait: Duration,
    /// No limit: whether the guest's functions are listed in `/tmp/perf-PID.map`, by which perf
    /// names them. It costs a write for each function when a shard starts, and no request anything.
    pub perf_map: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            deadline: Some(Duration::from_secs(1)),
            quantum: None,
            // Emscripten's modules begin with a heap of 16 MiB, and their stack and data besides
            // (INITIAL_HEAP in its settings). What nobody writes to is no memory, but in the copy that
            // `reset` keeps.
            first_memory_bytes: 32 * 1024 * 1024,
            // Who takes and fills it keeps a core for as long as the kernel needs to zero it. With
            // twice as much, one a second doubled a 99th percentile of those beside it now and then.
            memory_bytes: 4 * 1024 * 1024,
            stack_bytes: 256 * 1024,
            // Rust's function table has one entry per function whose address is taken: hundreds.
            table_entries: 10_000,
            response_bytes: 1024 * 1024,
            header_line_bytes: 8 * 1024,
            instances: 64,
            // Longer than most calls, and no longer than most clients wait.
            instance_wait: Duration::from_secs(5),
            perf_map: false,
        }
    }
}

impl Limits {
    /// Lets instances have `bytes` of linear memory, whether they begin with them or grow.
    pub fn set_memory(&mut self, bytes: usize) {
        self.first_memory_bytes = bytes;
        self.memory_bytes = bytes;
    }

    /// These limits for instances that begin with `first_bytes` of linear memory.
    pub(super) fn for_memory_of(&self, first_bytes: usize) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.max(first_bytes),
            ..self.clone()
        }
    }

    /// The stack that a thread calling a [`Sandbox`](super::Sandbox) must have, in bytes. With
    /// less, a deeply recursing guest ends the process instead of its request.
    pub fn thread_stack_bytes(&self) -> usize {
        self.stack_bytes.saturating_add(HOST_STACK_BYTES)
    }

    /// Whether compiled code looks at the epoch, without which nothing interrupts it.
    pub(super) fn is_interruptible(&self) -> bool {
        self.deadline.is_some() || self.quantum.is_some()
    }

    /// The stack of a thread that compiles handlers and tries them, in bytes.
    pub fn compiler_stack_bytes(&self) -> usize {
        self.thread_stack_bytes()
            .saturating_add(COMPILER_STACK_BYTES)
    }
}
