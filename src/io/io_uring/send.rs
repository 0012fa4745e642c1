//! The send of a connection, loud or silent.
//!
//! **Silent sends.** A send that nobody waits for is tried without waiting (MSG_DONTWAIT) and its
//! success is not reported (IOSQE_CQE_SKIP_SUCCESS). The kernel tries it while it takes the entry
//! in, so when `io_uring_enter` returns, either a completion says how much did not fit, or all of it
//! went and the buffer is free. The rest, if any, is sent with a completion, whenever there is room.
//! A completion for each send would cost more than its own time: `io_uring_enter` waits for one
//! event, and the completion of a send just submitted would always be that one.
//!
//! It deliberately lacks a queue: a connection has one send at a time, and holds its buffer until the
//! kernel has let go of it.

use std::io;

use io_uring::opcode;
use io_uring::squeue::Flags;

use super::IoUring;
use super::user_data::Kind;
use crate::io::ring::Completion;
use crate::io::{Buf, Outcome, Token};
use crate::measure::probe::Probe;

/// A send under way.
pub(super) struct Sending {
    pub(super) buf: Buf,
    /// Bytes that the kernel has taken.
    pub(super) from: usize,
    /// With a completion: somebody waits for its end, or a silent send did not do it all.
    pub(super) loud: bool,
}

impl<P: Probe> IoUring<P> {
    pub(super) fn push_send(&mut self, token: Token) {
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        let Some(sending) = &connection.sending else {
            return;
        };
        let rest = &sending.buf[sending.from..];
        let loud = sending.loud;
        let wait = if loud { 0 } else { libc::MSG_DONTWAIT };
        // The bytes stay where they are until the end: `sending` owns the buffer, and a moved Vec
        // does not move its bytes. Waiting for all makes a short send a failure, which is reported.
        let entry = opcode::Send::new(connection.file, rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL | wait)
            .build();
        if loud {
            self.push(entry, Kind::Send, token);
        } else {
            self.push(entry.flags(Flags::SKIP_SUCCESS), Kind::Send, token);
            self.silent.push_back((self.ring.written(), token));
        }
    }

    /// The next send that the kernel has taken in and not complained about.
    pub(super) fn sent_silently(&mut self) -> Option<(Token, Outcome)> {
        while let Some(&(place, token)) = self.silent.front() {
            if place > self.ring.taken() {
                return None;
            }
            self.silent.pop_front();
            let Some(connection) = self.connections.get(token) else {
                continue;
            };
            match connection.sending.take() {
                Some(sending) if !sending.loud => {
                    self.in_flight -= 1;
                    if connection.closing {
                        self.close_if_quiet(token);
                        continue;
                    }
                    return Some((token, Outcome::Sent(sending.buf)));
                }
                // It complained, and the rest is on its way.
                rest => connection.sending = rest,
            }
        }
        None
    }

    /// A silent send that did not do it all, seen as soon as the kernel says so: before anybody may
    /// take its silence for success.
    pub(super) fn complained(&mut self, token: Token, result: i32) {
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        if let Some(sending) = &mut connection.sending {
            sending.loud = true;
            sending.from += usize::try_from(result).unwrap_or(0);
        }
    }

    /// A send's completion: of a silent one, that it did not do it all; of a loud one, its end.
    pub(super) fn sent(&mut self, token: Token, completion: Completion) -> Option<Outcome> {
        let connection = self.connections.get(token)?;
        let sending = connection.sending.as_mut()?;
        let result = completion.result;
        let left = sending.from < sending.buf.len();
        let goes_on = result >= 0 || -result == libc::EAGAIN || -result == libc::EINTR;
        if left && goes_on && !connection.closing && !self.ending {
            self.push_send(token);
            return None;
        }
        let Sending { buf, .. } = connection.sending.take().expect("just seen");
        if connection.closing {
            self.close_if_quiet(token);
            return None;
        }
        if left {
            return Some(Outcome::SendFailed(
                buf,
                io::Error::from_raw_os_error(-result),
            ));
        }
        Some(Outcome::Sent(buf))
    }
}
