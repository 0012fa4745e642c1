//! The async/await runtime: the `tokio-uring` crate, a task for each connection.
//!
//! The runtime owns the loop, so there is no driver here: the same operations as plain calls that
//! are awaited, in the order of their blocking twins. It sleeps in epoll, which watches its ring, and
//! submits what tasks asked for just before. Those system calls are its own and are not counted
//! here; entries and completions are counted where a task asks for them.
//!
//! What the crate (0.5) lacks, and nothing here makes up for: multishot operations, provided buffers,
//! fixed files on accept, deferred task work (its completions would never appear). A buffer under
//! way belongs to the ring, so each connection has a receive buffer even when it is silent.
//!
//! An operation that is dropped goes on in the ring and keeps its socket open. So none is dropped
//! while its task lives: an [`Ender`] shuts the socket down, and the operation returns.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::pin::Pin;
use std::task::{self, Poll};
use std::time::Duration;

use ::tokio_uring::buf::BoundedBuf;
use ::tokio_uring::{Runtime, net};
use nix::errno::Errno;
use nix::sys::socket::{self, SockFlag, accept4};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::{Buf, Counts, Ender, Listener, Single, Waker, listener, ring_refusal};
use crate::measure::probe::{Asked, Probe, Stage};

/// Offered to each read, as on epoll.
pub const RECEIVE_BYTES: usize = 64 * 1024;

/// Entries written before they must be pushed: the crate's own choice.
const SUBMISSIONS: u32 = 256;

/// Why the runtime cannot be used here, if so.
pub fn check() -> Result<(), String> {
    let lacks = "what tokio-uring asks for; it needs Linux 5.11";
    open(1)
        .map(drop)
        .map_err(|error| ring_refusal::explain(&error, lacks))
}

/// A runtime on the calling thread whose completions always have room: each of `connections` has at
/// most one operation under way.
///
/// # Errors
/// When there can be no ring, or no epoll set.
pub fn open(connections: usize) -> io::Result<Runtime> {
    let build = |cooperative: bool| {
        let mut ring = ::tokio_uring::uring_builder();
        ring.setup_cqsize((connections as u32 + 1).max(2 * SUBMISSIONS))
            .setup_clamp();
        if cooperative {
            // Completions wait for the thread's next system call instead of interrupting a handler.
            ring.setup_coop_taskrun();
        }
        let mut builder = ::tokio_uring::builder();
        Runtime::new(builder.entries(SUBMISSIONS).uring_builder(&ring))
    };
    match build(true) {
        // Before Linux 5.19.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => build(false),
        result => result,
    }
}

/// Runs a task beside the others of this thread.
pub fn spawn<P: Probe>(task: impl Future<Output = ()> + 'static) {
    ::tokio_uring::spawn(async {
        P::enter(Stage::Loop);
        task.await;
        P::enter(Stage::Runtime);
    });
}

/// Rests for so long.
pub async fn sleep<P: Probe>(time_ms: u64) {
    awaiting::<P, _>(tokio::time::sleep(Duration::from_millis(time_ms))).await
}

/// What came first of two things that a task waits for.
pub enum Either<O, R> {
    /// The operation is over, and gone from where it was.
    Operation(O),
    /// The other thing; the operation, if any, goes on.
    Other(R),
}

/// Waits for `operation`, if there is one, or for `other`.
pub async fn either<P: Probe, F: Future, R>(
    mut operation: Pin<&mut Option<F>>,
    mut other: impl FnMut(&mut task::Context<'_>) -> Poll<R>,
) -> Either<F::Output, R> {
    awaiting::<P, _>(poll_fn(|context| {
        if let Some(under_way) = operation.as_mut().as_pin_mut()
            && let Poll::Ready(output) = under_way.poll(context)
        {
            operation.set(None);
            return Poll::Ready(Either::Operation(output));
        }
        other(context).map(Either::Other)
    }))
    .await
}

/// While a task waits, the thread's time is the runtime's, until some task goes on.
async fn awaiting<P: Probe, F: Future>(what: F) -> F::Output {
    P::enter(Stage::Runtime);
    let result = what.await;
    P::enter(Stage::Loop);
    result
}

/// The listening side of a shard.
pub struct Acceptor {
    listener: net::TcpListener,
    waker: AsyncFd<Watched>,
}

/// A waker as the runtime's epoll set takes it.
struct Watched(Waker);

impl AsRawFd for Watched {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Acceptor {
    /// Must be called by a task.
    ///
    /// # Errors
    /// When no eventfd can be had, or epoll does not take it.
    pub fn open(listener: Listener) -> io::Result<Self> {
        let waker = Watched(Waker::new()?);
        // SAFETY: the eventfd is open while the waker in there is, and the waker never changes it.
        let waker = unsafe { AsyncFd::register_with_interest(waker, Interest::READABLE) };
        Ok(Self {
            listener: net::TcpListener::from_std(TcpListener::from(listener)),
            waker: waker?,
        })
    }

    /// Waits for a wake-up, or `timeout_ms` milliseconds.
    ///
    /// # Errors
    /// When the runtime is going down.
    pub async fn wait<P: Probe>(&self, timeout_ms: u64, counts: &Counts) -> io::Result<()> {
        let woken = tokio::time::timeout(Duration::from_millis(timeout_ms), self.waker.readable());
        if let Ok(ready) = awaiting::<P, _>(woken).await {
            counts.read.add(1);
            P::within(Stage::EventRead, || self.waker.get_ref().0.clear());
            ready?.clear_ready();
        }
        Ok(())
    }

    /// Waits for the next connection. Must not be dropped before it is done: a connection that the
    /// ring accepts for nobody stays open for good.
    ///
    /// # Errors
    /// What accept4(2) would say, EMFILE and ENFILE among it; EINVAL after [`Acceptor::close`].
    pub async fn accept<P: Probe>(&self, counts: &Counts) -> io::Result<Connection> {
        loop {
            counts.sqe.add(1);
            let accepted = awaiting::<P, _>(self.listener.accept()).await;
            counts.cqe.add(1);
            match accepted {
                Ok((stream, _)) => return Ok(Connection(stream)),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next connection that waits already, or `None`.
    ///
    /// # Errors
    /// What accept4(2) said.
    pub fn accept_waiting<P: Probe>(&self, counts: &Counts) -> io::Result<Option<Connection>> {
        loop {
            counts.accept4.add(1);
            // The listener does not block; the connection would, and never does in a ring.
            let accepted = P::within(Stage::Accept, || {
                accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            });
            match accepted {
                Ok(fd) => {
                    // SAFETY: accept4 just opened this descriptor for us, and nobody else has it.
                    let stream = unsafe { net::TcpStream::from_raw_fd(fd) };
                    return Ok(Some(Connection(stream)));
                }
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) if listener::is_the_clients(errno) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stops listening: who comes now is refused by the kernel, and a waiting `accept` returns.
    pub fn close(&self, counts: &Counts) {
        counts.shutdown.add(1);
        // It is listening, so it can be shut down.
        let _ = Asked::within(Stage::Shutdown, || {
            socket::shutdown(self.listener.as_raw_fd(), socket::Shutdown::Both)
        });
    }

    /// Wakes `wait` from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.get_ref().0.clone()
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(listener::is_the_clients)
}

/// A connected socket.
pub struct Connection(net::TcpStream);

impl Connection {
    /// Waits for bytes: `buffer` comes back with them instead of what was in it. None is the peer's
    /// FIN, or an [`Ender`] at work. To be waited for by [`either`].
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn receive(&self, mut buffer: Buf, counts: &Counts) -> (io::Result<()>, Buf) {
        buffer.clear();
        loop {
            counts.sqe.add(1);
            let (received, back) = self.0.read(buffer).await;
            counts.cqe.add(1);
            buffer = back;
            match received {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return (result.map(drop), buffer),
            }
        }
    }

    /// Sends all of it; here it is back. The crate writes, it does not send: a peer that is gone
    /// raises SIGPIPE, which every Rust program ignores from its start.
    ///
    /// # Errors
    /// When the peer can no longer be reached.
    pub async fn send<P: Probe>(&self, mut buf: Buf, counts: &Counts) -> (io::Result<()>, Buf) {
        let mut from = 0;
        while from < buf.len() {
            counts.sqe.add(1);
            let write = self.0.write(buf.slice(from..)).submit();
            let (written, slice) = awaiting::<P, _>(write).await;
            counts.cqe.add(1);
            buf = slice.into_inner();
            match written {
                Ok(n) => from += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Sends FIN after what was sent; receiving goes on.
    pub fn shut_down<P: Probe>(&self, counts: &Counts) {
        counts.shutdown.add(1);
        // A failure means that the peer is gone; receiving will say so.
        let _ = P::within(Stage::Shutdown, || self.0.shutdown(Shutdown::Write));
    }
}

impl Single for Connection {
    fn ender(&self) -> Ender {
        Ender::of(&self.0)
    }

    fn close(self, counts: &Counts) {
        // By the crate, at once: no operation is under way.
        counts.close.add(1);
        Asked::within(Stage::Close, || drop(self));
    }
}
