//! Ends the calls that somebody else waits in on a connection, from outside: shutdown(2). For the
//! models that have no driver, where a connection does a single thing at a time.

use std::os::fd::{AsRawFd, RawFd};

use nix::sys::socket::{Shutdown, shutdown};

use super::Counts;
use crate::measure::probe::{Asked, Probe, Stage};

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
        self.shut(Shutdown::Read, counts);
    }

    /// Whether neither end has sent its FIN. A socket that is shut down for reading alone says at once
    /// that its stream is over, once its bytes are taken, and yet delivers what comes later
    /// (tcp_recvmsg; seen on Linux 6.18): so a stream that ended may go on.
    pub fn is_established(&self, counts: &Counts) -> bool {
        /// `TCP_ESTABLISHED` of include/net/tcp_states.h.
        const ESTABLISHED: u8 = 1;
        counts.getsockopt.add(1);
        // `tcpi_state` of `struct tcp_info`, which begins with it.
        let mut state = 0_u8;
        let mut length: libc::socklen_t = 1;
        // SAFETY: both point to values of this function, and the kernel writes at most as many bytes of
        // the first as the second says (tcp(7), TCP_INFO).
        let asked = unsafe {
            libc::getsockopt(
                self.0,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut state).cast(),
                &raw mut length,
            )
        };
        asked == 0 && state == ESTABLISHED
    }

    /// Makes every waiting call return.
    pub fn end_all(&self, counts: &Counts) {
        self.shut(Shutdown::Both, counts);
    }

    fn shut(&self, what: Shutdown, counts: &Counts) {
        counts.shutdown.add(1);
        // A failure means that the peer is gone, and with it what was to be ended.
        let _ = Asked::within(Stage::Shutdown, || shutdown(self.0, what));
    }
}

/// A connection that does a single thing at a time.
pub trait Single {
    /// A hold on its socket for somebody else, who can end its calls with it.
    fn ender(&self) -> Ender;

    /// Ends it.
    fn close(self, counts: &Counts);
}
