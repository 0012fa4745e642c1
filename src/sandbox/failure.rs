//! The ways in which one call fails. Every one of them harms its own request only.

use wasmtime::Trap;

/// What a guest was refused during a request. It may live with it; if it traps, that is why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// More memory.
    Memory,
    /// More entries of a table.
    Table,
    /// More memory than the module itself lets its memory have: no limit of the host's.
    OwnMemory,
    /// The same of a table.
    OwnTable,
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Failure {
        let class = match refused {
            Refused::Memory => return Failure::Memory,
            Refused::Table => return Failure::Table,
            Refused::OwnMemory => "memory at the module's own maximum",
            Refused::OwnTable => "table at the module's own maximum",
        };
        Failure::Trap { class }
    }
}

/// Why a call has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The guest did what WebAssembly forbids.
    #[error("the handler trapped: {class}")]
    Trap {
        /// What it did, in a few words.
        class: &'static str,
    },
    /// A native handler panicked. (Guests cannot: theirs is a trap.)
    #[error("the handler panicked")]
    Panic,
    /// The guest used up its CPU time.
    #[error("the handler passed its deadline")]
    Deadline,
    /// The guest used up its stack.
    #[error("the handler needs more stack than its limit")]
    Stack,
    /// The guest trapped after it was refused more memory.
    #[error("the handler needs more memory than its limit")]
    Memory,
    /// The guest trapped after it was refused more entries of a table.
    #[error("the handler needs a larger table than its limit")]
    Table,
    /// The request does not fit the guest's request area.
    #[error("the request is larger than the handler can take")]
    RequestTooLarge,
    /// The body is over its limit.
    #[error("the handler's answer is larger than its limit")]
    ResponseTooLarge,
    /// The header lines are over theirs.
    #[error("the handler's header lines are larger than their limit")]
    HeaderLinesTooLarge,
    /// What `handle` returned is no record of an answer.
    #[error("the handler's record is invalid: {0}")]
    BadRecord(&'static str),
    /// The header lines would break the framing of the response.
    #[error("the handler's header lines are invalid: {0}")]
    BadHeaderLines(&'static str),
    /// The guest asks for what only later hosts do.
    #[error("the handler asks the host to {0}, which this host cannot")]
    Unsupported(&'static str),
    /// No instance was to be had in time, or the host could not make one.
    #[error("no instance of the handler is free")]
    Exhausted,
    /// No route covers the request's path.
    #[error("no route covers the path")]
    NoRoute,
    /// More requests wait for a thread than may.
    #[error("too many requests wait for a thread")]
    QueueFull,
    /// The kernel refused a thread.
    #[error("no thread can be started for the request")]
    NoThread,
    /// The server ended before the request had its turn.
    #[error("the server ends")]
    ShuttingDown,
}

impl Failure {
    /// The HTTP status that tells the client: 404, 413, 500, 503 or 504.
    pub fn status(&self) -> u16 {
        match self {
            Failure::NoRoute => 404,
            Failure::RequestTooLarge => 413,
            Failure::Exhausted | Failure::QueueFull | Failure::NoThread | Failure::ShuttingDown => {
                503
            }
            Failure::Deadline => 504,
            Failure::Trap { .. }
            | Failure::Panic
            | Failure::Stack
            | Failure::Memory
            | Failure::Table
            | Failure::ResponseTooLarge
            | Failure::HeaderLinesTooLarge
            | Failure::BadRecord(_)
            | Failure::BadHeaderLines(_)
            | Failure::Unsupported(_) => 500,
        }
    }

    /// The class of the failure, for response bodies and counters: one of a fixed few, with
    /// nothing of the request or the guest in it.
    pub fn reason(&self) -> &'static str {
        match self {
            Failure::Trap { class } => class,
            Failure::Panic => "panic",
            Failure::Deadline => "deadline",
            Failure::Stack => "stack overflow",
            Failure::Memory => "memory limit",
            Failure::Table => "table limit",
            Failure::RequestTooLarge => "request too large",
            Failure::ResponseTooLarge => "response too large",
            Failure::HeaderLinesTooLarge => "header lines too large",
            Failure::BadRecord(_) => "bad record",
            Failure::BadHeaderLines(_) => "bad header lines",
            Failure::Unsupported(_) => "unsupported ask",
            Failure::Exhausted => "no instance free",
            Failure::NoRoute => "no route",
            Failure::QueueFull => "queue full",
            Failure::NoThread => "no thread",
            Failure::ShuttingDown => "shutting down",
        }
    }

    /// What an error of wasmtime's, from instantiating or calling, means for the request.
    ///
    /// `refused`: what the guest was refused during this request. An allocator that is refused
    /// aborts, so what follows as a plain trap is named by its cause.
    pub(super) fn from_wasmtime(error: &wasmtime::Error, refused: Option<Refused>) -> Failure {
        let Some(trap) = error.downcast_ref::<Trap>() else {
            return Failure::Exhausted;
        };
        let class = match trap {
            // Only the watch's callback interrupts.
            Trap::Interrupt => return Failure::Deadline,
            Trap::StackOverflow => return Failure::Stack,
            Trap::UnreachableCodeReached | Trap::MemoryOutOfBounds | Trap::TableOutOfBounds
                if let Some(refused) = refused =>
            {
                return refused.into();
            }
            Trap::UnreachableCodeReached => "unreachable",
            Trap::MemoryOutOfBounds => "memory out of bounds",
            Trap::IntegerDivisionByZero => "integer division by zero",
            Trap::IntegerOverflow => "integer overflow",
            Trap::BadConversionToInteger => "float out of integer range",
            Trap::TableOutOfBounds => "table out of bounds",
            Trap::IndirectCallToNull => "call of a null function",
            Trap::BadSignature => "call of a function of another type",
            _ => "another trap",
        };
        Failure::Trap { class }
    }
}
