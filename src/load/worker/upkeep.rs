//! What is rare in a generator thread's life: connections opened and lost,
//! timeouts, the window's edges, the end.

use std::time::Duration;

use nix::errno::Errno;

use super::super::descriptors;
use super::*;

impl<'a> Worker<'a> {
    /// Opens this thread's connections. They are all open when this returns
    /// `Ok`, unless the run was stopped.
    pub fn connect_all(&mut self) -> Result<(), LoadError> {
        let began_ns = self.now_ns;
        let limit_ns = self.job.plan.start_timeout.as_nanos() as u64;
        for slot in 0..self.slots.len() {
            self.open(slot)?;
        }
        loop {
            let connected = self.live.open.get() as usize;
            if connected == self.slots.len() || self.is_called_off() {
                return Ok(());
            }
            let waited_ns = self.now_ns - began_ns;
            if waited_ns > limit_ns {
                return Err(LoadError::Unreachable {
                    address: self.job.plan.address,
                    connected,
                    wanted: self.slots.len(),
                    waited: Duration::from_nanos(waited_ns),
                    cause: self.last_connect_error.unwrap_or(Errno::ETIMEDOUT).into(),
                });
            }
            let count = (self.driver.wait(TICK_NS)).map_err(LoadError::kernel("epoll_pwait2"))?;
            self.now_ns = monotonic_ns();
            for index in 0..count {
                self.on_ready(self.driver.event(index))?;
            }
            self.attend_to_slots()?;
        }
    }

    /// Begins the load on the connections that are open.
    pub(super) fn start(&mut self, times: Timetable) -> Result<(), LoadError> {
        self.now_ns = monotonic_ns();
        self.times = times;
        self.tally.set_times(times);
        self.due_ns = self.next_due_ns();
        self.stage = Stage::Running;
        self.alive_ns = self.now_ns;
        self.next_tick_ns = self.now_ns;
        // What failed before the start belongs to the start.
        self.reconnects = 0;
        self.connect_failures = 0;
        for slot in 0..self.slots.len() {
            if self.slots[slot].state == State::Idle && self.schedule.is_none() {
                self.ready(slot)?;
            }
        }
        Ok(())
    }

    /// Looks at everything that goes by time.
    #[cold]
    pub(super) fn tick(&mut self) -> Result<Flow, LoadError> {
        let now_ns = self.now_ns;
        if self.opened.is_none() && now_ns >= self.times.opens_ns {
            self.opened = Some((ThreadUsage::now(), self.driver.counts));
        }
        if self.is_called_off() {
            self.ended = if self.job.stop.load(Relaxed) {
                Ended::Stopped
            } else {
                Ended::TargetGone
            };
            self.close_window();
            return Ok(Flow::End);
        }
        if self.closed.is_none() && now_ns >= self.times.closes_ns {
            // What is due and can be sent at once was planned inside the run.
            self.dispatch()?;
            self.close_window();
            self.stage = Stage::Draining;
        }
        self.attend_to_slots()?;
        if self.live.open.get() > 0 {
            self.alive_ns = now_ns;
        } else if self.stage == Stage::Running && now_ns - self.alive_ns > GONE_NS {
            self.job.give_up.store(true, Relaxed);
        }
        let edge_ns = if self.opened.is_none() {
            self.times.opens_ns
        } else if self.closed.is_none() {
            self.times.closes_ns
        } else {
            u64::MAX
        };
        self.next_tick_ns = edge_ns.min(now_ns + TICK_NS);
        Ok(Flow::On)
    }

    fn is_called_off(&self) -> bool {
        self.job.stop.load(Relaxed) || self.job.give_up.load(Relaxed)
    }

    /// Takes the readings at the window's end, and counts what fell due and
    /// was not sent.
    fn close_window(&mut self) {
        if self.closed.is_some() {
            return;
        }
        let end_ns = self.now_ns.min(self.times.closes_ns);
        self.closed = Some((end_ns, ThreadUsage::now(), self.driver.counts));
        // Some 15 ns each: a backlog of a million requests takes 15 ms.
        while self.due_ns <= end_ns {
            self.tally.planned_unsent(self.due_ns);
            self.due_ns = self.next_due_ns();
        }
        self.due_ns = u64::MAX;
    }

    /// Opens what is to be opened and ends what took too long. A pass costs
    /// a few nanoseconds a connection, fifty times a second.
    fn attend_to_slots(&mut self) -> Result<(), LoadError> {
        let timeout_ns = self.job.plan.request_timeout.as_nanos() as u64;
        for slot in 0..self.slots.len() {
            let connection = &self.slots[slot];
            let waited_ns = self.now_ns.saturating_sub(connection.since_ns);
            match connection.state {
                State::Down if self.now_ns >= connection.since_ns => self.open(slot)?,
                State::Connecting if waited_ns >= timeout_ns => {
                    self.connect_failed(slot, Errno::ETIMEDOUT)?;
                }
                State::Busy => {
                    let oldest = connection.client.oldest();
                    if oldest.is_some_and(|sent| self.now_ns >= sent.sent_ns + timeout_ns) {
                        self.lose(slot, Failure::TimedOut)?;
                    }
                }
                State::Closing if waited_ns >= CLOSING_NS.min(timeout_ns) => {
                    self.lose(slot, Failure::Closed)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn token(&self, slot: usize) -> u64 {
        u64::from(self.slots[slot].generation) << 32 | slot as u64
    }

    fn open(&mut self, slot: usize) -> Result<(), LoadError> {
        let connection = &mut self.slots[slot];
        self.reconnects += u64::from(connection.generation > 0);
        connection.generation = connection.generation.wrapping_add(1);
        connection.client.reset();
        connection.has_answered = false;
        let token = self.token(slot);
        let connection = &mut self.slots[slot];
        match self.driver.connect(&self.job.plan.address, token) {
            Ok(socket) => {
                connection.socket = Some(socket);
                connection.state = State::Connecting;
                connection.since_ns = self.now_ns;
                Ok(())
            }
            Err(Errno::EMFILE | Errno::ENFILE) => Err(descriptors::error(self.job.plan)),
            Err(errno) => self.connect_failed(slot, errno),
        }
    }

    pub(super) fn connected(&mut self, slot: usize) -> Result<(), LoadError> {
        self.live.open.add(1);
        self.now_ns = monotonic_ns();
        self.alive_ns = self.now_ns;
        self.ready(slot)
    }

    pub(super) fn connect_ended_badly(&mut self, slot: usize) -> Result<(), LoadError> {
        let errno = match &self.slots[slot].socket {
            Some(socket) => Driver::connect_error(socket),
            None => Errno::ECONNABORTED,
        };
        self.connect_failed(slot, errno)
    }

    fn connect_failed(&mut self, slot: usize, errno: Errno) -> Result<(), LoadError> {
        self.connect_failures += 1;
        self.last_connect_error = Some(errno);
        self.slots[slot].socket = None;
        self.try_later(slot);
        Ok(())
    }

    /// Leaves the slot empty for a while, longer each time.
    fn try_later(&mut self, slot: usize) {
        let connection = &mut self.slots[slot];
        connection.state = State::Down;
        connection.since_ns = match self.stage {
            Stage::Draining => u64::MAX,
            Stage::Starting | Stage::Running => self.now_ns + connection.retry_ns,
        };
        connection.retry_ns = (connection.retry_ns * 2).min(*RETRY_NS.end());
    }

    pub(super) fn peer_closed(&mut self, slot: usize) -> Result<(), LoadError> {
        self.now_ns = monotonic_ns();
        let cause = if self.slots[slot].client.is_inside_answer() {
            Failure::Short
        } else {
            Failure::Closed
        };
        self.lose(slot, cause)
    }

    /// Closes a connection. The oldest request on it failed for `cause`, the
    /// others with it. Opens another one in its place while the run goes on.
    #[cold]
    pub(super) fn lose(&mut self, slot: usize, cause: Failure) -> Result<(), LoadError> {
        let connection = &mut self.slots[slot];
        let mut next_cause = cause;
        while let Some(sent) = connection.client.abandon() {
            self.tally.failed(&sent, next_cause, self.now_ns);
            next_cause = match cause {
                Failure::TimedOut | Failure::Reset => cause,
                _ => Failure::Closed,
            };
        }
        connection.socket = None;
        self.live.open.set(self.live.open.get() - 1);
        if connection.state == State::Idle {
            self.idle.retain(|&idle| idle != slot);
        }
        if connection.has_answered && self.stage == Stage::Running {
            connection.retry_ns = *RETRY_NS.start();
            return self.open(slot);
        }
        if self.stage == Stage::Starting {
            self.last_connect_error = Some(Errno::ECONNRESET);
        }
        self.try_later(slot);
        Ok(())
    }

    pub(super) fn report(mut self) -> Report<'a> {
        self.close_window();
        let (closed_ns, usage, waits) = self.closed.unwrap_or_default();
        let (opened_usage, opened_waits) = self.opened.unwrap_or((usage, waits));
        Report {
            ended: self.ended,
            closed_ns,
            in_flight: (self.slots.iter())
                .map(|slot| slot.client.in_flight() as u64)
                .sum(),
            reconnects: self.reconnects,
            connect_failures: self.connect_failures,
            last_connect_error: self.last_connect_error,
            unsolicited: self.unsolicited,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            client: usage.since(opened_usage),
            waits: waits.since(opened_waits),
            tally: self.tally,
        }
    }
}
