//! Wakes a driver from another thread, through an eventfd that each model watches in its own way.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Cheap to clone; works from any thread, and from none at all once the driver is gone.
#[derive(Clone, Debug)]
pub struct Waker(Arc<EventFd>);

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        Ok(Self(Arc::new(EventFd::from_value_and_flags(0, flags)?)))
    }

    /// Makes the driver's `wait` return and its `next` say `Woken`. Many wakes before it looks are
    /// one.
    pub fn wake(&self) {
        // The only failure is a counter at its maximum: the driver has been woken often enough.
        let _ = self.0.write(1);
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Takes the wake-up back, so that the descriptor is quiet until the next one.
    pub(super) fn clear(&self) {
        let _ = self.0.read();
    }
}
