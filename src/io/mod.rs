//! How bytes move. One file per I/O model; two models may differ here and nowhere else.
//!
//! This folder knows sockets, rings and readiness. It deliberately does not know HTTP, handlers or
//! policies, and it never reads a clock: whoever drives it brings the time and takes the figures.
//!
//! The event-driven models implement [`Driver`] and are driven by [`crate::event_loop`]; they are
//! twins, the same functions in the same order, so that a diff of two files shows what differs
//! between the kernel's interfaces. `blocking` has no events to wait for, and `tokio_uring`
//! has a loop of its own, so neither can be a driver: they have the same operations as plain calls,
//! for [`crate::thread_per_connection`], and as calls to await, for [`crate::task_per_connection`].

pub mod blocking;
pub mod counts;
mod ender;
pub mod epoll;
pub mod io_uring;
pub mod listener;
pub mod nonblocking;
pub mod null;
mod provided_buffers;
mod readiness;
mod ring;
mod ring_message;
mod ring_refusal;
pub mod signal;
#[cfg(test)]
pub(crate) mod simulated;
mod slots;
pub mod tokio_uring;
mod waker;
mod woken_by;

use std::io;

pub use counts::{Counts, CountsSnapshot};
pub use ender::{Ender, Single};
pub use listener::Listener;
pub use waker::Waker;

/// A time that has passed: who waits until then looks for events and does not sleep.
pub const NOW_NS: u64 = 1;

/// Why a connection could not be let in: so many are there to be refused that there is no place for
/// one more. It is closed unheard.
pub fn no_place() -> io::Error {
    io::Error::other("more came at once than there are places to refuse them in")
}

/// A buffer on its way out. It is owned by exactly one side at a time, session or driver, so the
/// kernel may read from it for as long as the driver holds it.
pub type Buf = Vec<u8>;

/// Names one connection of one shard, once: the index is used again after `Closed`, the pair is
/// not, so that a late completion or a stale readiness event finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    index: u32,
    generation: u32,
}

impl Token {
    /// The listening socket: takes `Op::Receive` (accept), `Op::Pause` and `Op::Close`.
    pub const LISTENER: Token = Token {
        index: u32::MAX,
        generation: 0,
    };

    /// The token of the connection that was the `number`th, where there is no driver to give one.
    pub fn numbered(number: u64) -> Token {
        Token {
            index: (number & 0x7fff_ffff) as u32,
            generation: (number >> 31) as u32,
        }
    }

    /// Where the owner of the connections keeps what belongs to this one.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// What a shard asks of its driver.
#[derive(Debug)]
pub enum Op {
    /// Deliver what arrives until told otherwise. Stays in force: the driver hides re-arming. Asked
    /// again meanwhile: make sure that there is nothing which the kernel has not told of. On
    /// [`Token::LISTENER`]: accept connections; after [`Done::AcceptFailed`] it must be asked anew.
    Receive,
    /// Deliver nothing more for now; what had been received by the kernel's hand may still come.
    Pause,
    /// Move the whole buffer, or fail. At most one is under way for a token.
    Send {
        /// What to send.
        buf: Buf,
        /// Something is to follow as soon as it is over. Otherwise the driver may say so late: with
        /// the next thing that happens, or at the next deadline.
        awaited: bool,
    },
    /// Send FIN after what was sent; receiving goes on.
    Shutdown,
    /// End it all. The last event of the token is [`Done::Closed`] (or [`Outcome::Closed`]).
    Close,
}

/// What became of an operation at once.
#[derive(Debug)]
pub enum Submitted {
    /// It is over; no event will follow. Readiness models mostly end here.
    Done(Outcome),
    /// An event will tell, or (`Receive`, `Pause`, `Shutdown`) nothing needs telling.
    Queued,
}

/// How an operation ended.
#[derive(Debug)]
pub enum Outcome {
    /// The whole buffer was taken by the kernel; here it is back.
    Sent(Buf),
    /// The peer can no longer be reached.
    SendFailed(Buf, io::Error),
    /// The token is gone.
    Closed,
}

/// What a driver has to tell.
#[derive(Debug)]
pub enum Done<'a> {
    /// A connection, with its new token.
    Accepted,
    /// No connection could be accepted (mostly: no descriptors). Accepting rests until asked anew.
    AcceptFailed(io::Error),
    /// Bytes, lent until the next call.
    Received(&'a [u8]),
    /// The peer sent FIN; sending still works.
    EndOfStream,
    /// The connection is broken.
    Reset(io::Error),
    /// An operation that had been [`Submitted::Queued`].
    Finished(Outcome),
    /// Somebody used the [`Waker`].
    Woken,
}

/// One I/O model, on one thread, with one listening socket and the connections it accepted.
///
/// The caller never asks for more than one `Send` at a time on a token and asks for nothing after
/// `Close`. Everything a driver holds is bounded by `connections`.
pub trait Driver: Sized {
    /// Opens the driver on the thread that will use it.
    ///
    /// # Errors
    /// What the kernel answered, with the step that failed in the message.
    fn open(
        listener: Listener,
        connections: usize,
        counts: std::sync::Arc<Counts>,
    ) -> io::Result<Self>;

    /// Asks for `op` on `token`. Nothing happens for a token whose connection is gone.
    fn submit(&mut self, token: Token, op: Op) -> Submitted;

    /// Pushes out what was submitted and waits until something happened, or until `until`
    /// (CLOCK_MONOTONIC, nanoseconds). May return early and with nothing.
    ///
    /// # Errors
    /// Only what makes the driver unusable; interruptions are hidden.
    fn wait(&mut self, until: Option<u64>) -> io::Result<()>;

    /// The next thing that happened, or `None` when it is time to wait.
    fn next(&mut self) -> Option<(Token, Done<'_>)>;

    /// Wakes this driver from another thread.
    fn waker(&self) -> Waker;
}
