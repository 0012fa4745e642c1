//! Wakes a driver from another thread, in the way that its model waits.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::OFlag;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::{pipe2, read, write};

/// Cheap to clone; works from any thread, and from none at all once the driver is gone.
#[derive(Clone, Debug)]
pub struct Waker(Means);

#[derive(Clone, Debug)]
enum Means {
    /// A descriptor that becomes readable.
    Event(Arc<EventFd>),
    /// A pipe that becomes readable: unlike an eventfd it can send a signal (fcntl(2), O_ASYNC).
    Pipe(Arc<OwnedFd>),
    /// A flag that is looked at in every turn.
    Flag(Flag),
}

impl Waker {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let event = EventFd::from_value_and_flags(0, flags)?;
        Ok(Self(Means::Event(Arc::new(event))))
    }

    /// The waker, and the end of the pipe that becomes readable.
    pub(super) fn pipe() -> io::Result<(Self, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        Ok((Self(Means::Pipe(Arc::new(writer))), reader))
    }

    /// Makes the driver's `wait` return and its `next` say `Woken`. Many wakes before it looks are
    /// one.
    pub fn wake(&self) {
        // The only failure is a counter at its maximum, or a full pipe: the driver has been woken
        // often enough. (Nobody reads from the pipe of a driver that is gone; SIGPIPE is ignored by
        // the Rust runtime.)
        match &self.0 {
            Means::Event(event) => drop(event.write(1)),
            Means::Pipe(pipe) => drop(write(pipe, &[1])),
            Means::Flag(flag) => flag.0.store(true, Ordering::Release),
        }
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }

    /// Only of a waker made by [`Waker::new`].
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Means::Event(event) => event.as_fd(),
            Means::Pipe(_) | Means::Flag(_) => unreachable!("its driver does not watch it so"),
        }
    }

    /// Takes the wake-up back, so that the descriptor is quiet until the next one; says whether
    /// there was one. Only of a waker made by [`Waker::new`].
    pub(super) fn clear(&self) -> bool {
        match &self.0 {
            Means::Event(event) => event.read().is_ok(),
            Means::Pipe(_) | Means::Flag(_) => false,
        }
    }
}

/// Empties the pipe of a waker.
pub(super) fn clear_pipe(reader: &OwnedFd) {
    let mut bytes = [0; 64];
    while matches!(read(reader, &mut bytes), Ok(n) if n == bytes.len()) {}
}

/// A waker's flag, for a driver that never sleeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Flag(Arc<AtomicBool>);

impl Flag {
    pub(super) fn waker(&self) -> Waker {
        Waker(Means::Flag(self.clone()))
    }

    /// Whether somebody woke since this was asked last. Nearly always not: a plain read.
    pub(super) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Acquire)
    }
}
