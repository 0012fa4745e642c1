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
//! **Silent sends.** A send that nobody waits for is tried without waiting (MSG_DONTWAIT) and its
//! success is not reported (IOSQE_CQE_SKIP_SUCCESS). The kernel tries it while it takes the entry
//! in, so when `io_uring_enter` returns, either a completion says how much did not fit, or all of it
//! went and the buffer is free. The rest, if any, is sent with a completion, whenever there is room.
//! A completion for each send would cost more than its own time: `io_uring_enter` waits for one
//! event, and the completion of a send just submitted would always be that one.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, Fd, Fixed, TimeoutFlags, Timespec};
use io_uring::{cqueue, opcode};
use nix::errno::Errno;

use super::provided_buffers::ProvidedBuffers;
use super::ring::{Completion, Ring};
use super::slots::Slots;
use super::woken_by::WokenBy;
use super::{
    Buf, Counts, Done, Driver, Listener, Op, Outcome, Submitted, Token, Waker, listener,
    ring_refusal, woken_by,
};
use crate::measure::probe::{Off, Probe};

/// Sized to a turn, not to the connections: who finds the ring of buffers empty waits its turn.
const RECEIVE_BUFFERS: u16 = 128;
const RECEIVE_BYTES: usize = 2048;
const RECEIVE_GROUP: u16 = 0;
/// Places beyond the fixed files: an older kernel may accept into a file's place before it has told
/// that the file is closed.
const SPARE_PLACES: usize = 64;
/// Rounds of cancelling and reaping before a ring is given up with what it holds.
const ENDING_ROUNDS: usize = 100;

/// All that this driver asks of its ring.
const OPERATIONS: [u8; 8] = [
    opcode::AcceptMulti::CODE,
    opcode::AsyncCancel2::CODE,
    opcode::Close::CODE,
    opcode::Read::CODE,
    opcode::RecvMulti::CODE,
    opcode::Send::CODE,
    opcode::Shutdown::CODE,
    opcode::Timeout::CODE,
];
const FLAGS: Flags = Flags::FIXED_FILE
    .union(Flags::BUFFER_SELECT)
    .union(Flags::SKIP_SUCCESS);

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

struct Sending {
    buf: Buf,
    /// Bytes that the kernel has taken.
    from: usize,
    /// With a completion: somebody waits for its end, or a silent send did not do it all.
    loud: bool,
}

/// The multishot receive of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Receive {
    Idle,
    /// Idle, and in the list of those to be armed.
    Listed,
    Armed,
    Cancelled,
}

/// What a completion is of. In the top byte of its user data; the token has the rest.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Accept,
    Wake,
    Timer,
    Receive,
    Send,
    Shutdown,
    Close,
    Cancel,
}

const KINDS: [Kind; 8] = [
    Kind::Accept,
    Kind::Wake,
    Kind::Timer,
    Kind::Receive,
    Kind::Send,
    Kind::Shutdown,
    Kind::Close,
    Kind::Cancel,
];

/// Tokens have 24 bits for their index here; a connection limit is far below.
const INDEX_MASK: u32 = 0xff_ffff;

fn pack(kind: Kind, token: Token) -> u64 {
    (kind as u64) << 56 | u64::from(token.index & INDEX_MASK) << 32 | u64::from(token.generation)
}

/// What a message that wakes completes.
fn wake() -> u64 {
    pack(Kind::Wake, Token::LISTENER)
}

fn unpack(user_data: u64) -> (Kind, Token) {
    let kind = KINDS[(user_data >> 56) as usize];
    let index = (user_data >> 32) as u32 & INDEX_MASK;
    (
        kind,
        Token {
            index,
            generation: user_data as u32,
        },
    )
}

/// Why io_uring cannot be used here, if so: tried, not guessed from a version.
pub fn check() -> Result<(), String> {
    let mut ring = Ring::open().map_err(explain)?;
    if let Some(lacking) = ring.lacking() {
        return Err(lacking);
    }
    ring.submitter().register_files_sparse(1).map_err(explain)?;
    let buffers = ProvidedBuffers::register(ring.submitter(), RECEIVE_GROUP, 1, 64);
    let _buffers = buffers.map_err(explain)?;
    ring.enable(&OPERATIONS, FLAGS).map_err(explain)?;
    let nothing = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
    // SAFETY: it points to nothing.
    unsafe { ring.push(nothing) };
    let entered = ring.enter::<Off>(true, &mut Vec::new(), &Counts::default());
    entered.map_err(explain)
}

/// A ring with places for so many files, and its buffers.
fn prepare(files: usize) -> io::Result<(Ring, ProvidedBuffers)> {
    let ring = Ring::open()?;
    ring.submitter().register_files_sparse(files as u32)?;
    let buffers = ProvidedBuffers::register(
        ring.submitter(),
        RECEIVE_GROUP,
        RECEIVE_BUFFERS,
        RECEIVE_BYTES,
    )?;
    ring.enable(&OPERATIONS, FLAGS)?;
    Ok((ring, buffers))
}

/// How handlers' answers come back from other threads, in a part of a sentence.
pub fn way_back() -> String {
    let tried =
        prepare(1).and_then(|(mut ring, _buffers)| woken_by::try_message(&mut ring, wake()));
    match tried {
        Ok(()) => "by a message into its ring".to_owned(),
        Err(error) => format!(
            "by an eventfd that its ring reads: the kernel takes no message into a ring from a thread \
             without one ({error}; it needs Linux 6.13)"
        ),
    }
}

fn explain(error: io::Error) -> String {
    let lacks = "deferred task work, single issuer or provided buffers; it needs Linux 6.1";
    ring_refusal::explain(&error, lacks)
}

impl<P: Probe> Driver for IoUring<P> {
    fn open(listener: Listener, connections: usize, counts: Arc<Counts>) -> io::Result<Self> {
        // The check had a smaller ring, and before others had theirs.
        let (mut ring, buffers) =
            prepare(connections).map_err(|error| io::Error::new(error.kind(), explain(error)))?;
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

/// What a completion of a receive means.
enum Received {
    Nothing,
    Bytes(u16, usize),
    EndOfStream,
    Reset(io::Error),
}

fn connection_armed(connection: Option<&mut Connection>) -> bool {
    connection.is_some_and(|connection| connection.receive == Receive::Armed)
}

impl<P: Probe> IoUring<P> {
    fn submit_to_listener(&mut self, op: Op) -> Submitted {
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

    fn arm_accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd()))
            .allocate_file_index(true)
            .build();
        self.accept_armed = true;
        self.push(entry, Kind::Accept, Token::LISTENER);
    }

    fn accepted(&mut self, completion: Completion) -> Option<(Token, Done<'static>)> {
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
                libc::ENFILE if self.connections.len() >= self.files => super::no_place(),
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
                Some((Token::LISTENER, Done::AcceptFailed(super::no_place())))
            }
        }
    }

    /// Arms the receive of a connection that still wants one.
    fn arm_receive(&mut self, token: Token) {
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

    fn cancel_receive(&mut self, token: Token) {
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

    fn mark_cancelled(&mut self, token: Token) {
        if let Some(connection) = self.connections.get(token) {
            connection.receive = Receive::Cancelled;
        }
    }

    fn received(&mut self, token: Token, completion: Completion) -> Received {
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

    fn push_send(&mut self, token: Token) {
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
    fn sent_silently(&mut self) -> Option<(Token, Outcome)> {
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
    fn complained(&mut self, token: Token, result: i32) {
        let Some(connection) = self.connections.get(token) else {
            return;
        };
        if let Some(sending) = &mut connection.sending {
            sending.loud = true;
            sending.from += usize::try_from(result).unwrap_or(0);
        }
    }

    /// A send's completion: of a silent one, that it did not do it all; of a loud one, its end.
    fn sent(&mut self, token: Token, completion: Completion) -> Option<Outcome> {
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

    /// Closes a connection once nothing of it is under way. An armed receive holds the file, and
    /// with it the FIN: closing earlier would leave the peer waiting.
    fn close_if_quiet(&mut self, token: Token) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_names_its_kind_and_token() {
        for kind in KINDS {
            let token = Token {
                index: 0xab_cdef,
                generation: u32::MAX,
            };
            let (unpacked, other) = unpack(pack(kind, token));
            assert!(unpacked == kind && other == token);
        }
    }

    /// What the kernel says to each of these entries, by their user data.
    fn results(ring: &mut Ring, entries: &[Entry]) -> Vec<(u64, i32)> {
        for entry in entries {
            // SAFETY: they point to nothing.
            unsafe { ring.push(entry.clone()) };
        }
        let mut completions = Vec::new();
        while completions.len() < entries.len() {
            ring.enter::<Off>(true, &mut completions, &Counts::default())
                .expect("the ring is enabled");
        }
        let result = |completion: &Completion| (completion.user_data, completion.result);
        completions.iter().map(result).collect()
    }

    #[test]
    fn the_ring_refuses_what_the_driver_never_asks_for() {
        let Ok(mut ring) = Ring::open() else { return };
        ring.enable(&OPERATIONS, FLAGS).expect("Linux 6.1 can");
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        let entries = [
            opcode::Nop::new().build().user_data(1),
            cancel.clone().flags(Flags::ASYNC).user_data(2),
            cancel.user_data(3),
        ];
        let expected = [(1, -libc::EACCES), (2, -libc::EACCES), (3, 0)];
        assert_eq!(results(&mut ring, &entries), expected);
        let again = ring.submitter().register_files_sparse(1).unwrap_err();
        assert_eq!(again.raw_os_error(), Some(libc::EACCES));
    }
}
