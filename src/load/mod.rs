//! The load generator: a product of its own (`ringlab load`) and the lab's
//! instrument (`ringlab compare` calls it in its own process).
//!
//! It is always the same client, whatever the server uses: nonblocking sockets
//! and edge-triggered epoll, one pinned thread per generator core. A closed
//! loop finds capacity, an open loop finds latency. It starts no server, reads
//! no server's clock (an [`Observer`] may), and prints nothing.
//!
//! ```text
//! plan ── run ──┬─ worker ─┬─ driver     the kernel: sockets, epoll
//!               │          ├─ client     one connection, sans I/O
//!               │          │   └─ response   bytes in, answers out
//!               │          ├─ schedule   when the next request is due
//!               │          ├─ check      is the answer right?
//!               │          └─ tally      what counts where
//!               │              └─ typical    latency, but for a few moments
//!               ├─ short_slices       its core back from others soon
//!               └─ result ── audit       may the result be believed?
//! ```
//!
//! Requests of unlike kinds, each with a loop of its own, are plans that
//! [`run_together`] carries out side by side.
//!
//! Only `driver` makes calls on sockets that carry load, only `worker` and
//! `run` read clocks, and what belongs to the measured window is decided in
//! `tally` alone.

pub mod audit;
mod check;
mod client;
mod clock;
mod descriptors;
mod driver;
mod error;
mod live;
mod plan;
mod request;
mod response;
mod result;
mod run;
mod schedule;
mod short_slices;
mod tally;
#[cfg(test)]
mod tests;
mod typical;
mod url;
mod worker;

pub use audit::{Finding, Severity, audit, audit_sending};
pub use clock::ThreadUsage;
pub use driver::WaitCounts;
pub use error::LoadError;
pub use live::{Phase, Progress};
pub use plan::{BodyLength, ConnectionUse, Expect, Mode, Plan, Target, limits};
pub use result::{Ended, Failure, Failures, Outcome, WindowCounts};
pub use run::{Observer, run, run_together};
pub use schedule::{Arrivals, Schedule};
pub use url::{Url, UrlError};
