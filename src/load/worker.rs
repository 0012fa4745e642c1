//! One generator thread: its connections, its share of the load, its loop.
//!
//! The common path reads top to bottom: [`Worker::drive`] waits, [`receive`]
//! reads, [`absorb`] counts the answers, and [`refill`] or [`dispatch`] sends
//! the next request. It makes no system call beyond these and allocates
//! nothing. All that is rare (connections opened and lost, timeouts, the end
//! of the run) is in [`upkeep`].
//!
//! [`receive`]: Worker::receive
//! [`absorb`]: Worker::absorb
//! [`refill`]: Worker::refill
//! [`dispatch`]: Worker::dispatch

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use nix::errno::Errno;

use super::check::Checks;
use super::client::{Client, Sent, Step};
use super::clock::{ThreadUsage, monotonic_ns};
use super::driver::{Driver, Ready, WaitCounts};
use super::error::LoadError;
use super::live::Live;
use super::plan::{ConnectionUse, Mode, Plan};
use super::request::{Picker, Rendered};
use super::response::{Fault, KnownHead};
use super::result::{Ended, Failure};
use super::schedule::{Schedule, thread_seed};
use super::tally::{Tally, Timetable};

mod upkeep;

/// The stop flag, timeouts and lost connections are looked at this often: a
/// stop takes effect well within 100 ms.
const TICK_NS: u64 = 20_000_000;
/// The last stretch before a planned send is spun. A sleeping core is late by
/// its way out of idle: on a virtual machine 50 to 90 µs, and one time in two
/// hundred more than 300, as the host gives the core to others meanwhile.
const SPIN_NS: u64 = 1_000_000;
/// Bytes received at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// Full buffers taken from one connection before the others have their turn.
const RECEIVES_MAX: u32 = 16;
/// First and longest pause before a connection is tried again after it failed
/// without having answered anything.
const RETRY_NS: std::ops::RangeInclusive<u64> = 10_000_000..=100_000_000;
/// With no connection open for this long the target is gone.
const GONE_NS: u64 = 1_000_000_000;
/// How long the server may take to close a connection that it said it would.
const CLOSING_NS: u64 = 1_000_000_000;

/// What all threads of a run share.
pub struct Job<'a> {
    pub plan: &'a Plan,
    pub requests: Vec<Rendered>,
    pub checks: Checks,
    /// Set by the caller: end with what was measured.
    pub stop: &'a AtomicBool,
    /// Set by a thread: the target is gone, or this run cannot go on.
    pub give_up: &'a AtomicBool,
}

/// What a thread brings home.
pub struct Report<'a> {
    pub tally: Tally<'a>,
    pub ended: Ended,
    /// When its window closed: early if the run was stopped.
    pub closed_ns: u64,
    /// Counted connection by connection, apart from the running totals.
    pub in_flight: u64,
    pub reconnects: u64,
    pub connect_failures: u64,
    pub last_connect_error: Option<Errno>,
    pub unsolicited: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub client: ThreadUsage,
    pub waits: WaitCounts,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not there; to be opened at `since_ns`, if ever.
    Down,
    Connecting,
    /// Open, with nothing in flight.
    Idle,
    Busy,
    /// The last answer came; the server is to close.
    Closing,
}

/// A place for a connection, with the one that is in it now.
struct Slot {
    socket: Option<OwnedFd>,
    state: State,
    /// When it entered its state; for `Down`, when to leave it.
    since_ns: u64,
    /// Tells this connection's events from those of its predecessors.
    generation: u32,
    client: Client,
    /// Whether this connection brought an answer.
    has_answered: bool,
    retry_ns: u64,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    On,
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Opening connections; nothing is sent.
    Starting,
    Running,
    /// The window is closed; answers are awaited.
    Draining,
}

/// One thread of the generator.
pub struct Worker<'a> {
    job: &'a Job<'a>,
    live: &'a Live,
    driver: Driver,
    slots: Vec<Slot>,
    /// Open loop: idle connections, the one that is idle longest in front, so
    /// that all are used alike.
    idle: VecDeque<usize>,
    known: Vec<KnownHead>,
    picker: Picker,
    /// Open loop: what comes after `due_ns`, as offsets from the start.
    schedule: Option<Schedule>,
    /// When the next request is due; `u64::MAX` in a closed loop and at the end.
    due_ns: u64,
    buffer: Box<[u8]>,
    /// A pipelined batch on its way into one send.
    batch: Vec<u8>,
    tally: Tally<'a>,
    times: Timetable,
    stage: Stage,
    /// The last reading of the clock.
    now_ns: u64,
    next_tick_ns: u64,
    /// When a connection was last seen open.
    alive_ns: u64,
    opened: Option<(ThreadUsage, WaitCounts)>,
    closed: Option<(u64, ThreadUsage, WaitCounts)>,
    ended: Ended,
    reconnects: u64,
    connect_failures: u64,
    last_connect_error: Option<Errno>,
    unsolicited: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl<'a> Worker<'a> {
    /// Thread `index`'s worker, with an equal share of the connections.
    pub fn new(job: &'a Job<'a>, live: &'a Live, index: usize) -> Result<Self, LoadError> {
        let plan = job.plan;
        let threads = plan.threads();
        let share = plan.connections / threads + usize::from(index < plan.connections % threads);
        let longest = job.requests.iter().map(|r| r.bytes.len()).max();
        let batch = match plan.pipeline() {
            1 => 0,
            depth => depth * longest.unwrap_or_default(),
        };
        let times = Timetable {
            start_ns: 0,
            opens_ns: 0,
            closes_ns: 0,
        };
        let is_open_loop = matches!(plan.mode, Mode::Open { .. });
        Ok(Self {
            job,
            live,
            driver: Driver::new().map_err(LoadError::kernel("epoll_create1"))?,
            slots: (0..share)
                .map(|_| Slot {
                    socket: None,
                    state: State::Down,
                    since_ns: 0,
                    generation: 0,
                    client: Client::new(plan.pipeline()),
                    has_answered: false,
                    retry_ns: *RETRY_NS.start(),
                })
                .collect(),
            idle: VecDeque::with_capacity(share),
            known: job.requests.iter().map(|_| KnownHead::default()).collect(),
            picker: Picker::new(&plan.targets, thread_seed(!plan.seed, index)),
            schedule: match plan.mode {
                Mode::Closed { .. } => None,
                Mode::Open { rate, arrivals } => Some(Schedule::new(
                    arrivals,
                    rate,
                    (index, threads),
                    plan.seed,
                    (plan.warm_up + plan.duration).as_nanos() as u64,
                )),
            },
            due_ns: u64::MAX,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            batch: Vec::with_capacity(batch),
            tally: Tally::new(live, is_open_loop, times),
            times,
            stage: Stage::Starting,
            now_ns: monotonic_ns(),
            next_tick_ns: 0,
            alive_ns: 0,
            opened: None,
            closed: None,
            ended: Ended::Complete,
            reconnects: 0,
            connect_failures: 0,
            last_connect_error: None,
            unsolicited: 0,
            bytes_in: 0,
            bytes_out: 0,
        })
    }

    /// Carries the load out, from the start that was agreed on to the last answer.
    pub fn drive(mut self, times: Timetable) -> Result<Report<'a>, LoadError> {
        self.start(times)?;
        loop {
            self.now_ns = monotonic_ns();
            if self.now_ns >= self.next_tick_ns && self.tick()? == Flow::End {
                return Ok(self.report());
            }
            if self.stage == Stage::Draining && self.tally.in_flight() == 0 {
                return Ok(self.report());
            }
            self.dispatch()?;
            let patience_ns = self.patience_ns();
            let count =
                (self.driver.wait(patience_ns)).map_err(LoadError::kernel("epoll_pwait2"))?;
            for index in 0..count {
                self.on_ready(self.driver.event(index))?;
                self.dispatch()?;
            }
        }
    }

    /// How long to wait for events: up to the next duty, less the stretch that
    /// is spun before a planned send.
    #[inline]
    fn patience_ns(&self) -> u64 {
        let until_tick_ns = self.next_tick_ns.saturating_sub(self.now_ns);
        if self.idle.is_empty() {
            return until_tick_ns;
        }
        let until_due_ns = self.due_ns.saturating_sub(self.now_ns);
        let spin_ns = if self.job.plan.spins { SPIN_NS } else { 0 };
        until_tick_ns.min(until_due_ns.saturating_sub(spin_ns))
    }

    fn on_ready(&mut self, ready: Ready) -> Result<(), LoadError> {
        // The token holds the generation above the slot.
        let slot = (ready.token & u64::from(u32::MAX)) as usize;
        let is_current = |worker: &Self| {
            let slot = &worker.slots[slot];
            slot.socket.is_some() && u64::from(slot.generation) == ready.token >> 32
        };
        if !is_current(self) {
            return Ok(());
        }
        if self.slots[slot].state == State::Connecting {
            if ready.failed() {
                return self.connect_ended_badly(slot);
            }
            if !ready.to_send() {
                return Ok(());
            }
            self.connected(slot)?;
        }
        if ready.to_receive() && is_current(self) {
            self.receive(slot, ready.peer_is_done())?;
        }
        if ready.to_send() && is_current(self) {
            self.write_rest(slot)?;
        }
        Ok(())
    }

    /// Reads what is there, counts the answers in it, and sends what may follow.
    fn receive(&mut self, slot: usize, peer_is_done: bool) -> Result<(), LoadError> {
        let mut receives = 0;
        loop {
            let Some(socket) = &self.slots[slot].socket else {
                return Ok(());
            };
            let count = match Driver::receive(socket, &mut self.buffer) {
                Ok(0) => return self.peer_closed(slot),
                Ok(count) => count,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(_) => return self.lose(slot, Failure::Reset),
            };
            self.bytes_in += count as u64;
            self.now_ns = monotonic_ns();
            if let Some(lost) = self.absorb(slot, count) {
                return self.lose(slot, lost);
            }
            // A buffer not filled means that the socket is drained (epoll(7)),
            // unless its end is still to be read.
            if count < self.buffer.len() && !peer_is_done {
                break;
            }
            receives += 1;
            if receives == RECEIVES_MAX {
                let (socket, token) = (&self.slots[slot].socket, self.token(slot));
                let socket = socket.as_ref().expect("it was just read from");
                return (self.driver.report_again(socket, token))
                    .map_err(LoadError::kernel("epoll_ctl"));
            }
        }
        self.refill(slot)
    }

    /// Counts the answers in the first `count` bytes of the buffer. Returns
    /// why the connection is of no more use, if so.
    #[inline]
    fn absorb(&mut self, slot: usize, count: usize) -> Option<Failure> {
        let connection = &mut self.slots[slot];
        let mut input = &self.buffer[..count];
        loop {
            let step = (connection.client).absorb(&mut input, &self.job.requests, &mut self.known);
            match step {
                Step::NeedMore => return None,
                Step::Answered(sent, response) => {
                    connection.has_answered = true;
                    match self.job.checks.judge(sent.target, &response) {
                        None => self.tally.answered(&sent, self.now_ns),
                        Some(cause) => self.tally.failed(&sent, cause, self.now_ns),
                    }
                    if !response.keep_alive || self.job.plan.reuse == ConnectionUse::OnePerRequest {
                        connection.state = State::Closing;
                        connection.since_ns = self.now_ns;
                    }
                }
                Step::Unsolicited => {
                    self.unsolicited += 1;
                    return Some(Failure::Closed);
                }
                Step::Broken(Fault::Malformed) => return Some(Failure::Malformed),
                Step::Broken(Fault::Unframed) => return Some(Failure::Unframed),
            }
        }
    }

    /// The connection may be used again once everything on it is answered.
    #[inline]
    fn refill(&mut self, slot: usize) -> Result<(), LoadError> {
        let connection = &self.slots[slot];
        if connection.state == State::Busy && connection.client.in_flight() == 0 {
            self.ready(slot)?;
        }
        Ok(())
    }

    /// An open connection without requests: sends on it, or notes it idle.
    #[inline]
    fn ready(&mut self, slot: usize) -> Result<(), LoadError> {
        if self.stage == Stage::Running && self.schedule.is_none() {
            return self.send_batch(slot);
        }
        let connection = &mut self.slots[slot];
        connection.state = State::Idle;
        connection.since_ns = self.now_ns;
        if self.schedule.is_some() {
            self.idle.push_back(slot);
        }
        Ok(())
    }

    /// Closed loop: puts a whole pipeline of requests on the connection.
    fn send_batch(&mut self, slot: usize) -> Result<(), LoadError> {
        let connection = &mut self.slots[slot];
        connection.state = State::Busy;
        let depth = self.job.plan.pipeline();
        self.tally.batch_sent(depth);
        self.batch.clear();
        for _ in 0..depth {
            let target = self.picker.pick();
            connection.client.push(Sent {
                planned_ns: self.now_ns,
                sent_ns: self.now_ns,
                target,
            });
            if depth > 1 {
                let bytes = &self.job.requests[usize::from(target)].bytes;
                self.batch.extend_from_slice(bytes);
            }
        }
        if depth == 1 {
            return self.write_rest(slot);
        }
        let Some(socket) = &connection.socket else {
            return Ok(());
        };
        match Driver::send(socket, &self.batch) {
            Ok(count) => {
                self.bytes_out += count as u64;
                connection.client.wrote(count, &self.job.requests);
                Ok(())
            }
            Err(Errno::EAGAIN) => Ok(()),
            Err(Errno::EINTR) => self.write_rest(slot),
            Err(_) => self.lose(slot, Failure::Reset),
        }
    }

    /// Open loop: sends what is due on the connections that are idle. What
    /// finds none stays due, and its latency keeps counting.
    #[inline]
    fn dispatch(&mut self) -> Result<(), LoadError> {
        while self.due_ns <= self.now_ns {
            let Some(slot) = self.idle.pop_front() else {
                return Ok(());
            };
            self.now_ns = monotonic_ns();
            let sent = Sent {
                planned_ns: self.due_ns,
                sent_ns: self.now_ns,
                target: self.picker.pick(),
            };
            self.due_ns = self.next_due_ns();
            let connection = &mut self.slots[slot];
            self.tally.planned_sent(&sent, connection.since_ns);
            connection.state = State::Busy;
            connection.client.push(sent);
            self.write_rest(slot)?;
        }
        Ok(())
    }

    fn next_due_ns(&mut self) -> u64 {
        let next = self.schedule.as_mut().and_then(Schedule::next);
        next.map_or(u64::MAX, |offset_ns| self.times.start_ns + offset_ns)
    }

    /// Writes a connection's requests as far as there is room; an event calls
    /// again when there is more.
    #[inline]
    fn write_rest(&mut self, slot: usize) -> Result<(), LoadError> {
        let connection = &mut self.slots[slot];
        while let (Some((target, offset)), Some(socket)) =
            (connection.client.output(), &connection.socket)
        {
            let bytes = &self.job.requests[usize::from(target)].bytes[offset..];
            match Driver::send(socket, bytes) {
                Ok(count) => {
                    self.bytes_out += count as u64;
                    connection.client.wrote(count, &self.job.requests);
                    // A short write means that there is no room (epoll(7)).
                    if count < bytes.len() {
                        return Ok(());
                    }
                }
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(_) => return self.lose(slot, Failure::Reset),
            }
        }
        Ok(())
    }
}
