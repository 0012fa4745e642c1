//! The multishot receive of a connection: armed, cancelled, and what its completions mean.
//!
//! Bytes arrive in buffers that the kernel picks. It deliberately copies none of them and keeps none: a
//! buffer is lent by the driver's `next` and goes back with the following call.

use std::io;

use io_uring::types::CancelBuilder;
use io_uring::{cqueue, opcode};

use super::user_data::{Kind, pack};
use super::{Connection, IoUring, RECEIVE_GROUP};
use crate::io::Token;
use crate::io::ring::Completion;
use crate::measure::probe::Probe;

/// The multishot receive of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Receive {
    Idle,
    /// Idle, and in the list of those to be armed.
    Listed,
    Armed,
    Cancelled,
}

/// What a completion of a receive means.
pub(super) enum Received {
    Nothing,
    Bytes(u16, usize),
    EndOfStream,
    Reset(io::Error),
}

pub(super) fn connection_armed(connection: Option<&mut Connection>) -> bool {
    connection.is_some_and(|connection| connection.receive == Receive::Armed)
}

impl<P: Probe> IoUring<P> {
    /// Arms the receive of a connection that still wants one.
    pub(super) fn arm_receive(&mut self, token: Token) {
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        if connection.receive != Receive::Listed {
            return;
        }
        if !connection.receiving {
            connection.receive = Receive::Idle;
            return;
        }
        connection.receive = Receive::Armed;
        let entry = opcode::RecvMulti::new(connection.file, RECEIVE_GROUP).build();
        self.push(entry, Kind::Receive, token);
    }

    pub(super) fn cancel_receive(&mut self, token: Token) {
        if connection_armed(self.connections.get(token)) {
            let of_receive = CancelBuilder::user_data(pack(Kind::Receive, token));
            self.push(
                opcode::AsyncCancel2::new(of_receive).build(),
                Kind::Cancel,
                token,
            );
            self.mark_cancelled(token);
        }
    }

    pub(super) fn mark_cancelled(&mut self, token: Token) {
        if let Some(connection) = self.connections.get(token) {
            connection.receive = Receive::Cancelled;
        }
    }

    pub(super) fn received(&mut self, token: Token, completion: Completion) -> Received {
        let buffer = cqueue::buffer_select(completion.flags);
        let Some(connection) = self.connections.get(token) else {
            unreachable!("a connection stays until its receive has ended");
        };
        let ended = !cqueue::more(completion.flags);
        if ended {
            connection.receive = Receive::Idle;
        }
        self.hurried |= connection
            .sending
            .as_ref()
            .is_some_and(|sending| !sending.loud);
        if connection.closing {
            if let Some(id) = buffer {
                self.buffers.give_back(id);
            }
            self.close_if_quiet(token);
            return Received::Nothing;
        }
        let open = completion.result > 0
            || matches!(
                -completion.result,
                libc::ENOBUFS | libc::ECANCELED | libc::EINTR
            );
        if ended && open && connection.receiving {
            connection.receive = Receive::Listed;
            self.unarmed.push(token);
            self.counts.rearmed.add(1);
        }
        match (completion.result, buffer) {
            (n @ 1.., Some(id)) => Received::Bytes(id, n as usize),
            (n @ 1.., None) => unreachable!("{n} bytes received into no buffer"),
            (result, buffer) => {
                if let Some(id) = buffer {
                    self.buffers.give_back(id);
                }
                match -result {
                    0 => Received::EndOfStream,
                    libc::ENOBUFS => {
                        // Back-pressure, not an end: armed again once buffers came back, which
                        // they have by the next wait.
                        self.counts.enobufs.add(1);
                        Received::Nothing
                    }
                    libc::ECANCELED | libc::EINTR => Received::Nothing,
                    errno => Received::Reset(io::Error::from_raw_os_error(errno)),
                }
            }
        }
    }
}
