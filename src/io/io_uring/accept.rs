//! The listening socket: one multishot accept, whose connections go straight into the ring's table of
//! files.
//!
//! It deliberately does not know who is let in and who is refused: whoever drives it decides.

use std::io;

use io_uring::types::{CancelBuilder, Fd, Fixed};
use io_uring::{cqueue, opcode};
use nix::errno::Errno;

use super::receive::Receive;
use super::user_data::{Kind, pack};
use super::{Connection, IoUring};
use crate::io::ring::Completion;
use crate::io::{Done, Op, Outcome, Submitted, Token, listener, no_place};
use crate::measure::probe::Probe;

impl<P: Probe> IoUring<P> {
    pub(super) fn submit_to_listener(&mut self, op: Op) -> Submitted {
        match op {
            Op::Receive => self.accepting = true,
            Op::Pause | Op::Close => {
                self.accepting = false;
                if self.accept_armed {
                    let of_accept = CancelBuilder::user_data(pack(Kind::Accept, Token::LISTENER));
                    self.push(
                        opcode::AsyncCancel2::new(of_accept).build(),
                        Kind::Cancel,
                        Token::LISTENER,
                    );
                }
                if matches!(op, Op::Close) {
                    self.listener = None;
                    return Submitted::Done(Outcome::Closed);
                }
            }
            Op::Send { .. } | Op::Shutdown => {
                unreachable!("a listener neither sends nor shuts down")
            }
        }
        Submitted::Queued
    }

    pub(super) fn arm_accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .allocate_file_index(true)
            .build();
        self.accept_armed = true;
        self.push(entry, Kind::Accept, Token::LISTENER);
    }

    pub(super) fn accepted(&mut self, completion: Completion) -> Option<(Token, Done<'static>)> {
        self.accept_armed = cqueue::more(completion.flags);
        if completion.result < 0 {
            let errno = -completion.result;
            // Ended by us, or by the waiting client; the latter is armed again.
            let ours = matches!(errno, libc::ECANCELED | libc::EBADF);
            if ours || listener::is_the_clients(Errno::from_raw(errno)) {
                return None;
            }
            self.accepting = false;
            // The ring's own table of files, before the machine's.
            let error = match errno {
                libc::ENFILE if self.connections.len() >= self.files => no_place(),
                _ => io::Error::from_raw_os_error(errno),
            };
            return Some((Token::LISTENER, Done::AcceptFailed(error)));
        }
        let connection = Connection {
            file: Fixed(completion.result as u32),
            receiving: false,
            receive: Receive::Idle,
            sending: None,
            closing: false,
            closed: false,
        };
        match self.connections.insert(connection) {
            Ok(token) => Some((token, Done::Accepted)),
            Err(connection) => {
                let entry = opcode::Close::new(connection.file).build();
                self.push(entry, Kind::Cancel, Token::LISTENER);
                self.accepting = false;
                Some((Token::LISTENER, Done::AcceptFailed(no_place())))
            }
        }
    }
}
