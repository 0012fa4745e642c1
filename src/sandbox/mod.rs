//! WHAT runs: one handler, behind the isolation that was asked for.
//!
//! May touch: wasmtime, the handler's file, the thread's CPU clock and one timer on it.
//! Deliberately lacks: sockets, HTTP, queues of requests, and any idea of where a request came
//! from. A caller hands in the parts of a parsed request and is lent the parts of an answer.
//!
//! ```text
//! Handler      loaded, checked and compiled once           any thread, cheap to clone
//!   └ ShardSandbox   an engine, its code, its slots        one a shard, shared by its threads
//!       └ Sandbox    one leased slot and a deadline ticker one a thread that runs guests
//!           └ Instance   a guest in its store              kept (`reuse`, `reset`) or one a call
//! ```
//!
//! | file | subject |
//! |---|---|
//! | `handler` | from a name or a file to a checked and compiled handler |
//! | `load_all` | several handlers at once, each module compiled once |
//! | `builtin` | the handlers that come with this program |
//! | `load_error` | why a handler cannot be loaded, in sentences |
//! | `inspect` | what a module is, told from its bytes |
//! | `image` | what a memory begins with, apart from the module |
//! | `packed` | a module without the zeros at the ends of its data |
//! | `artifact` | from WebAssembly to machine code whose exports are right |
//! | `engine` | every switch of wasmtime that this program sets, with its reason |
//! | `blueprint` | a module made ready to run |
//! | `instance` | one running copy of it, and the next one in its store |
//! | `afterwards` | what becomes of an instance that has answered, by isolation |
//! | `resettable` | whether a module's state can be put back, and the module rewritten so that it can |
//! | `entry` | the way into a guest, whose type is looked at once |
//! | `host` | what the host keeps beside an instance, and grants it |
//! | `home` | where the instances of one engine have their memories |
//! | `growth` | pages for memory that guests grow into |
//! | `reservation` | addresses for one memory, what it may grow into, and its guards |
//! | `memories` | the memories of `fresh` and `reuse` instances, and who has them |
//! | `memory` | one of them: mapped, filled, watched, zeroed |
//! | `snapshot` | how an instance began, and how it is put back |
//! | `sticky` | which of them are put back after a request |
//! | `written_pages` | which pages a request may have written |
//! | `abi` | the guest ABI: requests into guest memory, records out of it |
//! | `limits` | what one request may use, and what it may use by default |
//! | `deadline` | CPU time per request: the ticker and the watch |
//! | `beats` | fine ticks, while a request is half run |
//! | `quantum` | how long a slice is where nobody says |
//! | `slice` | the slice that a thread's guest runs in, and the timer that ends it |
//! | `slicer` | a handler called on stacks of their guests' own, a slice at a time |
//! | `slots` | how many instances a shard may have, and who waits when all are out |
//! | `ticks` | how many interruptions those take, and what one costs |
//! | `tally` | what many threads count: requests, bytes put back |
//! | `native` | the same handler without a sandbox |
//! | `trial` | one request to one instance, and what it leaves written |
//! | `first_bytes` | what an instance's memory began with, reached at once |
//! | `failure` | the ways in which a call fails, and their HTTP status |
//!
//! A call copies the request once, into guest memory, and copies no answer: the caller's closure
//! gets it where the guest left it. A steady-state call under `native` and `reuse` allocates
//! nothing; under `reset` neither; under `fresh` and `on-demand` wasmtime does, a constant number of
//! times. None makes a system call but `on-demand`, whose point that is, as long as
//!
//! - under `reset` and `fresh` requests write the same pages, or what they write together is 64 KiB at most,
//!   above which those left alone are protected again every 256 requests that a memory has had, above 256 KiB
//!   every 8;
//! - under `fresh` the guest's memory never grows, and a request writes 4 MiB of it at most, above
//!   which the kernel drops its pages; where its module has more than 64 KiB of data, or it runs in
//!   slices, its memory starts with 256 KiB at most.

mod abi;
mod afterwards;
mod artifact;
mod beats;
mod blueprint;
mod builtin;
#[cfg(test)]
pub(crate) mod counted;
mod deadline;
mod engine;
mod entry;
mod failure;
mod first_bytes;
mod growth;
mod handler;
mod home;
mod host;
mod image;
mod inspect;
mod instance;
mod limits;
mod load_all;
mod load_error;
mod loans;
mod memories;
mod memory;
mod native;
mod packed;
mod quantum;
mod reservation;
mod resettable;
mod slice;
mod slicer;
mod slots;
mod snapshot;
mod sticky;
mod tally;
#[cfg(test)]
mod tests;
mod ticks;
mod trial;
mod written_pages;

pub use deadline::stoppable;
pub use failure::Failure;
pub use handler::{Description, Handler, ModuleIdentity, Source};
pub use inspect::Inspection;
pub use limits::Limits;
pub use load_all::{Wanted, load_all};
pub use load_error::{Fault, LoadError};
pub use quantum::Quantum;
pub use slicer::{HalfRun, Sliced, Slicer};
pub use slots::{CheckHeaderLines, Sandbox, ShardSandbox, reset_bytes};
pub use ticks::{coarse_tick_ns, coarse_ticks, tick_ns, ticks};
pub use trial::{PAGE_BYTES, Touched, touched};

use std::fmt;
use std::str::FromStr;

/// What stands between two requests to the same handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// No sandbox: the handler is linked in. Only for built-in handlers.
    Native,
    /// A kept instance answers one request after another.
    Reuse,
    /// A kept instance, with all state that a request may change put back after it.
    Reset,
    /// Every request gets an instance of its own.
    Fresh,
    /// The same, without a pool: memory is mapped and unmapped for each.
    OnDemand,
}

impl Isolation {
    /// Every isolation, weakest first.
    pub const ALL: [Isolation; 5] = [
        Isolation::Native,
        Isolation::Reuse,
        Isolation::Reset,
        Isolation::Fresh,
        Isolation::OnDemand,
    ];

    /// One sentence for listings.
    pub fn sentence(self) -> &'static str {
        match self {
            Isolation::Native => {
                "The same handler source linked in: no sandbox, no deadline, no limits on memory."
            }
            Isolation::Reuse => {
                "A kept instance serves one request at a time; its state outlives the request."
            }
            Isolation::Reset => {
                "A kept instance whose memory and globals are put back after every request; only for \
                 modules that can be shown to have no other state."
            }
            Isolation::Fresh => {
                "A new instance from a pool for every request; nothing outlives the request."
            }
            Isolation::OnDemand => {
                "A new instance for every request, mapped and unmapped: what a pool saves."
            }
        }
    }

    /// Whether a module compiled for this one can run under `other`: `native` compiles none, and
    /// `reset` another than was loaded.
    fn runs_code_of(self, other: Isolation) -> bool {
        let of_its_own = |one| matches!(one, Isolation::Native | Isolation::Reset);
        self == other || !of_its_own(self) && !of_its_own(other)
    }

    fn name(self) -> &'static str {
        match self {
            Isolation::Native => "native",
            Isolation::Reuse => "reuse",
            Isolation::Reset => "reset",
            Isolation::Fresh => "fresh",
            Isolation::OnDemand => "on-demand",
        }
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No isolation has this name.
#[derive(Debug, thiserror::Error)]
#[error("no isolation is called {0:?}; choose one of native, reuse, reset, fresh, on-demand")]
pub struct UnknownIsolation(String);

impl FromStr for Isolation {
    type Err = UnknownIsolation;

    fn from_str(text: &str) -> Result<Isolation, UnknownIsolation> {
        Isolation::ALL
            .into_iter()
            .find(|isolation| isolation.name() == text)
            .ok_or_else(|| UnknownIsolation(text.to_owned()))
    }
}

/// One request, as the parser found it.
///
/// `method`, `target` and every header's name and value lie within `head`: the guest gets `head`
/// as one block and the rest as places in it. A part that lies elsewhere is a caller's bug and
/// panics, unless it is empty.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The method as sent, such as `GET`.
    pub method: &'a str,
    /// The request target as sent, such as `/count?n=3`.
    pub target: &'a str,
    /// The raw head, from the request line on.
    pub head: &'a [u8],
    /// The header fields in the order sent, names in the case sent.
    pub headers: &'a [httparse::Header<'a>],
    /// The body with transfer codings removed.
    pub body: &'a [u8],
}

/// A handler's answer, lent until the closure that got it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// 200 to 599.
    pub status: u16,
    /// Zero or more `name: value CRLF`, accepted by the shard's [`CheckHeaderLines`].
    pub header_lines: &'a [u8],
    /// At most [`Limits::response_bytes`].
    pub body: &'a [u8],
}
