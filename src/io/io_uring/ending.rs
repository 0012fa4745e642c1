//! The ends: of a connection, once nothing of it is under way, and of the driver, once the kernel has
//! let go of everything.
//!
//! A file is never closed, and memory never freed, under the kernel's hands: what it does not let go of
//! in time is leaked.

use io_uring::opcode;
use io_uring::types::CancelBuilder;

use super::IoUring;
use super::receive::Receive;
use super::user_data::Kind;
use crate::io::slots::Slots;
use crate::io::woken_by::WokenBy;
use crate::io::{Driver, Token};
use crate::measure::probe::Probe;

/// Rounds of cancelling and reaping before a ring is given up with what it holds.
const ENDING_ROUNDS: usize = 100;

impl<P: Probe> IoUring<P> {
    /// Closes a connection once nothing of it is under way. An armed receive holds the file, and
    /// with it the FIN: closing earlier would leave the peer waiting.
    pub(super) fn close_if_quiet(&mut self, token: Token) {
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        let receiving = matches!(connection.receive, Receive::Armed | Receive::Cancelled);
        if !connection.closing || connection.closed || receiving || connection.sending.is_some() {
            return;
        }
        connection.closed = true;
        let entry = opcode::Close::new(connection.file).build();
        self.push(entry, Kind::Close, token);
    }
}

impl<P: Probe> Drop for IoUring<P> {
    /// Buffers go only after the kernel has let go of them: everything is cancelled and reaped.
    fn drop(&mut self) {
        self.ending = true;
        self.woken_by.end();
        self.accepting = false;
        self.listener = None;
        for _ in 0..ENDING_ROUNDS {
            let everything = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
            self.push(everything, Kind::Cancel, Token::LISTENER);
            if self.enter(true).is_err() {
                break;
            }
            let before = self.in_flight;
            while self.next().is_some() {}
            match self.in_flight {
                0 => return,
                // One of the kernel's own threads is at work on it.
                left if left >= before => std::thread::sleep(std::time::Duration::from_millis(1)),
                _ => {}
            }
        }
        // The kernel may still write to what it was given: leaking it is the safe end.
        std::mem::forget(std::mem::replace(&mut self.connections, Slots::new(0)));
        if let WokenBy::Event { count, .. } = &mut self.woken_by {
            std::mem::forget(std::mem::take(count));
        }
        self.buffers.leak();
    }
}
