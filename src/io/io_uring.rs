//! Completion-driven I/O on one io_uring ring per shard.
//!
//! Multishot accept straight into fixed files, multishot receive into provided buffers, sends whose
//! success is silent: a request costs one completion and one submission, and a turn costs one
//! `io_uring_enter` for all connections together.
//!
//! The ring is single-issuer with deferred task work (Linux 6.1): completions appear only inside
//! our own `io_uring_enter`, never as an interruption of a running handler. What else the kernel
//! demands is written where it is obeyed.
//!
//! Here is the driver itself, in the order of its twins. In its folder is what it does with each kind of
//! completion, and how its ring is set up.

mod accept;
mod ending;
mod receive;
mod send;
mod setup;
mod user_data;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use io_uring::squeue::Entry;
use io_uring::types::{CancelBuilder, Fd, Fixed, TimeoutFlags, Timespec};
use io_uring::{cqueue, opcode};

use self::receive::{Receive, Received, connection_armed};
use self::send::Sending;
pub use self::setup::{check, way_back};
use self::user_data::{INDEX_MASK, Kind, pack, unpack, wake};
use super::provided_buffers::ProvidedBuffers;
use super::ring::{Completion, Ring};
use super::slots::Slots;
use super::woken_by::WokenBy;
use super::{Counts, Done, Driver, Listener, Op, Outcome, Submitted, Token, Waker};
use crate::measure::probe::Probe;

/// Sized to a turn, not to the connections: who finds the ring of buffers empty waits its turn.
const RECEIVE_BUFFERS: u16 = 128;
const RECEIVE_BYTES: usize = 2048;
const RECEIVE_GROUP: u16 = 0;
/// Places beyond the fixed files: an older kernel may accept into a file's place before it has told
/// that the file is closed.
const SPARE_PLACES: usize = 64;

/// The driver.
pub struct IoUring<P: Probe> {
    ring: Ring,
    buffers: ProvidedBuffers,
    listener: Option<Listener>,
    accepting: bool,
    accept_armed: bool,
    woken_by: WokenBy,
    timer: Box<Timespec>,
    timer_set: Option<u64>,
    connections: Slots<Connection>,
    /// The most connections that the ring has places for among its files.
    files: usize,
    /// Completions taken from the ring, handled up to `cursor`.
    completions: Vec<Completion>,
    cursor: usize,
    /// The buffer whose bytes were lent by the last `next`.
    lent: Option<u16>,
    /// Connections whose receive must be armed (again) before the next wait.
    unarmed: Vec<Token>,
    /// Sends whose success is silent, each with its place among the entries written.
    silent: VecDeque<(u64, Token)>,
    /// More came on a connection whose silent send is not over: the next wait must not sleep on it.
    hurried: bool,
    /// Operations that the kernel has not let go of.
    in_flight: usize,
    /// Everything is being cancelled: nothing is armed again.
    ending: bool,
    counts: Arc<Counts>,
    probe: PhantomData<P>,
}

struct Connection {
    file: Fixed,
    receiving: bool,
    receive: Receive,
    sending: Option<Sending>,
    closing: bool,
    /// The close is under way: nothing more may be asked of the file.
    closed: bool,
}

impl<P: Probe> Driver for IoUring<P> {
    fn open(listener: Listener, connections: usize, counts: Arc<Counts>) -> io::Result<Self> {
        // The check had a smaller ring, and before others had theirs.
        let (mut ring, buffers) = setup::prepare::<P>(connections)
            .map_err(|error| io::Error::new(error.kind(), setup::explain(error)))?;
        let woken_by = WokenBy::open(&mut ring, wake())?;
        let mut this = Self {
            ring,
            buffers,
            listener: Some(listener),
            accepting: false,
            accept_armed: false,
            woken_by,
            timer: Box::new(Timespec::new()),
            timer_set: None,
            connections: Slots::new((connections + SPARE_PLACES).min(INDEX_MASK as usize)),
            files: connections,
            completions: Vec::new(),
            cursor: 0,
            lent: None,
            unarmed: Vec::new(),
            silent: VecDeque::new(),
            hurried: false,
            in_flight: 0,
            ending: false,
            counts,
            probe: PhantomData,
        };
        this.watch_waker();
        Ok(this)
    }

    fn submit(&mut self, token: Token, op: Op) -> Submitted {
        if token == Token::LISTENER {
            return self.submit_to_listener(op);
        }
        let Some(connection) = self.connections.get(token) else {
            return Submitted::Queued;
        };
        match op {
            Op::Receive => {
                connection.receiving = true;
                match connection.receive {
                    Receive::Idle => {
                        connection.receive = Receive::Listed;
                        self.unarmed.push(token);
                    }
                    // Asked again: what is armed anew looks at the socket first.
                    Receive::Armed => self.cancel_receive(token),
                    Receive::Listed | Receive::Cancelled => {}
                }
            }
            Op::Pause => {
                connection.receiving = false;
                self.cancel_receive(token);
            }
            Op::Send { buf, awaited } => {
                // The kernel reads from the buffer until it says otherwise: a second one, or one
                // that a close overtakes, would free it under the kernel's hands.
                assert!(
                    connection.sending.is_none() && !connection.closing,
                    "one send at a time, none after close"
                );
                connection.sending = Some(Sending {
                    buf,
                    from: 0,
                    loud: awaited,
                });
                self.push_send(token);
            }
            Op::Shutdown => {
                // Not done at once by the kernel but always by one of its io-wq threads.
                self.counts.io_wq.add(1);
                let entry = opcode::Shutdown::new(connection.file, libc::SHUT_WR).build();
                self.push(entry, Kind::Shutdown, token);
            }
            Op::Close => {
                connection.closing = true;
                connection.receiving = false;
                let file = connection.file;
                if connection.sending.is_some() {
                    let of_file = CancelBuilder::fd(file).all();
                    self.push(
                        opcode::AsyncCancel2::new(of_file).build(),
                        Kind::Cancel,
                        token,
                    );
                    if connection_armed(self.connections.get(token)) {
                        self.mark_cancelled(token);
                    }
                } else {
                    self.cancel_receive(token);
                }
                self.close_if_quiet(token);
            }
        }
        Submitted::Queued
    }

    fn wait(&mut self, until: Option<u64>) -> io::Result<()> {
        self.recycle_lent();
        for at in 0..self.unarmed.len() {
            self.arm_receive(self.unarmed[at]);
        }
        self.unarmed.clear();
        if self.accepting && !self.accept_armed {
            self.arm_accept();
        }
        let sooner = |until: &u64| self.timer_set.is_none_or(|set| *until < set);
        if let Some(until) = until.filter(sooner) {
            // A timer is never taken back: it fires once, and wakes nobody who minds.
            self.timer_set = Some(until);
            *self.timer = Timespec::from(std::time::Duration::from_nanos(until));
            let entry = opcode::Timeout::new(&*self.timer)
                .flags(TimeoutFlags::ABS)
                .build();
            self.push(entry, Kind::Timer, Token::LISTENER);
        }
        // For one completion, whatever the load. A wait for several, bounded in time, saves 2 to 3 % of
        // the CPU at saturation, and at half that rate makes the median latency three times as long.
        let may_sleep = !std::mem::take(&mut self.hurried);
        self.enter(may_sleep)
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        self.recycle_lent();
        if let Some((token, outcome)) = self.sent_silently() {
            return Some((token, Done::Finished(outcome)));
        }
        loop {
            let completion = *self.completions.get(self.cursor)?;
            self.cursor += 1;
            let (kind, token) = unpack(completion.user_data);
            let is_message = kind == Kind::Wake && self.woken_by.is_message();
            if !cqueue::more(completion.flags) && !is_message {
                self.in_flight -= 1;
            }
            match kind {
                Kind::Accept => {
                    if let Some(event) = self.accepted(completion) {
                        return Some(event);
                    }
                }
                Kind::Wake => {
                    if !self.ending {
                        self.watch_waker();
                    }
                    self.woken_by.heard();
                    return Some((token, Done::Woken));
                }
                Kind::Timer => self.timer_set = None,
                Kind::Receive => match self.received(token, completion) {
                    Received::Nothing => {}
                    Received::Bytes(id, length) => {
                        self.lent = Some(id);
                        return Some((token, Done::Received(self.buffers.bytes(id, length))));
                    }
                    Received::EndOfStream => return Some((token, Done::EndOfStream)),
                    Received::Reset(error) => return Some((token, Done::Reset(error))),
                },
                Kind::Send => {
                    if let Some(outcome) = self.sent(token, completion) {
                        return Some((token, Done::Finished(outcome)));
                    }
                }
                Kind::Close => {
                    self.connections.remove(token);
                    return Some((token, Done::Finished(Outcome::Closed)));
                }
                Kind::Shutdown | Kind::Cancel => {}
            }
        }
    }

    fn waker(&self) -> Waker {
        self.woken_by.waker()
    }
}

impl<P: Probe> IoUring<P> {
    /// A message comes by itself; an eventfd must be read, for each time anew.
    fn watch_waker(&mut self) {
        let WokenBy::Event { waker, count } = &mut self.woken_by else {
            return;
        };
        let target: *mut u64 = &mut **count;
        let entry = opcode::Read::new(Fd(waker.as_raw_fd()), target.cast(), 8).build();
        self.push(entry, Kind::Wake, Token::LISTENER);
    }

    fn recycle_lent(&mut self) {
        if let Some(id) = self.lent.take() {
            self.buffers.give_back(id);
        }
    }

    fn push(&mut self, entry: Entry, kind: Kind, token: Token) {
        self.in_flight += 1;
        self.counts.sqe.add(1);
        // SAFETY: what the entry points to (a send buffer, the timer, the wake count) is owned by
        // this driver and stays in place until the kernel has let go; `Drop` waits for that.
        unsafe { self.ring.push(entry.user_data(pack(kind, token))) };
    }

    /// Submits everything and takes over the completions; if it `may_sleep`, waits for one.
    fn enter(&mut self, may_sleep: bool) -> io::Result<()> {
        self.completions.drain(..self.cursor);
        self.cursor = 0;
        let from = self.completions.len();
        self.ring
            .enter::<P>(may_sleep, &mut self.completions, &self.counts)?;
        for at in from..self.completions.len() {
            let Completion {
                user_data, result, ..
            } = self.completions[at];
            if let (Kind::Send, token) = unpack(user_data) {
                self.complained(token, result);
            }
        }
        Ok(())
    }
}
