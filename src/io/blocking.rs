//! Blocking I/O: each call waits until it is done, so each connection needs a thread of its own.
//!
//! There are no events here, hence no driver: the same operations as plain calls, with the same
//! flags and the same counting as their event-driven twins.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, SockFlag, accept4, recv, send, shutdown};

use super::{Counts, Ender, Listener, Single, Waker, listener};
use crate::measure::probe::{Asked, Probe, Stage};

/// Offered to each `recv`, as on epoll.
pub const RECEIVE_BYTES: usize = 64 * 1024;

/// Why blocking I/O cannot be used here, if so.
pub fn check() -> Result<(), String> {
    Ok(())
}

/// The listening side of a shard.
pub struct Acceptor {
    listener: Option<Listener>,
    waker: Waker,
}

/// What `Acceptor::wait` saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// A connection may be waiting.
    pub acceptable: bool,
    /// Somebody used the waker.
    pub woken: bool,
}

impl Acceptor {
    /// # Errors
    /// When no eventfd can be had.
    pub fn open(listener: Listener) -> io::Result<Self> {
        Ok(Self {
            listener: Some(listener),
            waker: Waker::new()?,
        })
    }

    /// Waits for a connection (if `accepting`), a wake-up, or `timeout_ms` milliseconds.
    ///
    /// # Errors
    /// What poll(2) said; interruptions are hidden.
    pub fn wait<P: Probe>(
        &self,
        accepting: bool,
        timeout_ms: u16,
        counts: &Counts,
    ) -> io::Result<Seen> {
        let waker = PollFd::new(self.waker.as_fd(), PollFlags::POLLIN);
        let listener = self.listener.as_ref().filter(|_| accepting);
        let listener = match listener {
            Some(listener) => PollFd::new(listener.as_fd(), PollFlags::POLLIN),
            // In its place, so that nothing is allocated: it is asked for nothing.
            None => PollFd::new(self.waker.as_fd(), PollFlags::empty()),
        };
        let mut watched = [waker, listener];
        counts.poll.add(1);
        let polled = P::within(Stage::Poll, || {
            poll(&mut watched, PollTimeout::from(timeout_ms))
        });
        match polled {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let seen = |watched: &PollFd<'_>| watched.any().unwrap_or(false);
        let woken = seen(&watched[0]);
        if woken {
            counts.read.add(1);
            P::within(Stage::EventRead, || self.waker.clear());
        }
        Ok(Seen {
            acceptable: seen(&watched[1]),
            woken,
        })
    }

    /// The next connection, or `None` when none is waiting.
    ///
    /// # Errors
    /// What accept4(2) said, EMFILE and ENFILE among it.
    pub fn accept<P: Probe>(&self, counts: &Counts) -> io::Result<Option<Connection>> {
        let Some(listener) = &self.listener else {
            return Ok(None);
        };
        loop {
            counts.accept4.add(1);
            // The accepted socket blocks; only the listener does not, so that a client that left
            // while it waited cannot hold up the acceptor.
            let accepted = P::within(Stage::Accept, || {
                accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)
            });
            match accepted {
                // SAFETY: accept4 just opened this descriptor for us, and nobody else has it.
                Ok(fd) => return Ok(Some(Connection(unsafe { OwnedFd::from_raw_fd(fd) }))),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) if listener::is_the_clients(errno) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Stops listening: who comes now is refused by the kernel.
    pub fn close(&mut self) {
        self.listener = None;
    }

    /// Wakes `wait` from another thread.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

/// A connected, blocking socket.
#[derive(Debug)]
pub struct Connection(OwnedFd);

impl Connection {
    /// Waits for bytes; 0 is the peer's FIN, or an [`Ender`] at work.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn receive<P: Probe>(&self, buffer: &mut [u8], counts: &Counts) -> io::Result<usize> {
        loop {
            counts.recv.add(1);
            let received = P::within(Stage::BlockingReceive, || {
                recv(self.0.as_raw_fd(), buffer, MsgFlags::empty())
            });
            match received {
                Err(Errno::EINTR) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Sends all of it.
    ///
    /// # Errors
    /// When the peer can no longer be reached.
    pub fn send<P: Probe>(&self, bytes: &[u8], counts: &Counts) -> io::Result<()> {
        let mut from = 0;
        while from < bytes.len() {
            counts.send.add(1);
            let sent = P::within(Stage::BlockingSend, || {
                send(self.0.as_raw_fd(), &bytes[from..], MsgFlags::MSG_NOSIGNAL)
            });
            match sent {
                Ok(n) => from += n,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Sends FIN after what was sent; receiving goes on.
    pub fn shut_down<P: Probe>(&self, counts: &Counts) {
        counts.shutdown.add(1);
        // A failure means that the peer is gone; receiving will say so.
        let _ = P::within(Stage::Shutdown, || {
            shutdown(self.0.as_raw_fd(), Shutdown::Write)
        });
    }
}

impl Single for Connection {
    fn ender(&self) -> Ender {
        Ender::of(&self.0)
    }

    fn close(self, counts: &Counts) {
        counts.close.add(1);
        Asked::within(Stage::Close, || drop(self));
    }
}
