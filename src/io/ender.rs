//! Ends the calls that somebody else waits in on a connection, from outside: shutdown(2). For the
//! models that have no driver, where a connection does a single thing at a time.

use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::{Shutdown, shutdown};

use super::Counts;

/// Ends another's calls on a connection. Valid while the connection is open, which whoever holds it
/// must see to.
#[derive(Debug)]
pub struct Ender(RawFd);

impl Ender {
    pub(super) fn of(socket: &impl AsRawFd) -> Self {
        Self(socket.as_raw_fd())
    }

    /// Makes a waiting receive return 0; bytes that are there already are still delivered.
    pub fn end_receiving(&self, counts: &Counts) {
        counts.shutdown.add(1);
        let _ = shutdown(self.0, Shutdown::Read);
    }

    /// Makes every waiting call return.
    pub fn end_all(&self, counts: &Counts) {
        counts.shutdown.add(1);
        let _ = shutdown(self.0, Shutdown::Both);
    }
}

/// A connection that does a single thing at a time.
pub trait Single {
    /// A hold on its socket for somebody else, who can end its calls with it.
    fn ender(&self) -> Ender;

    /// Ends it.
    fn close(self, counts: &Counts);
}
