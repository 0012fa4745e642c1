//! The loop that every event-driven model runs: wait, take what happened, hand it to its session,
//! do what the session asks.
//!
//! Generic over the driver, so that nothing stands between them at run time.

use crate::clock::{Clock, Coarse, Time};
use crate::io::{Counts, Done, Driver, Listener, NOW_NS, Outcome, Submitted, Token};
use crate::measure::probe::Probe;
use crate::measure::turns::Turns;
use crate::offload::{Job, Wake};
use crate::session::{Context, Session};
use crate::shard::{AcceptLog, Hub, SPARE_CONNECTIONS, Shard, ShardError, Stage, context};
use std::sync::Arc;

/// Deadlines are looked at this often, or four times within the shortest, in milliseconds.
const SWEEP_MS: u64 = 250;
/// The same while draining.
const DRAIN_SWEEP_MS: u64 = 10;
/// Steps of the coarse clock, beyond the first, that a sweep may be put off by.
const MOST_STEPS_LATE: u64 = 4;
/// Turns in a row that must bring nothing before the kernel is taken to have nothing: a signal may have
/// ended one of them early.
const QUIET_TURNS: u32 = 2;

/// Serves until the hub says otherwise. Runs on the shard's own thread.
///
/// # Errors
/// What kept the shard from serving, or made its driver unusable.
pub fn run<D: Driver, P: Probe>(shard: Shard) -> Result<(), ShardError> {
    run_by::<D, P, _>(shard, Coarse, D::open)
}

/// The same over a driver that `open` opens, given the listener and how many connections there may
/// be, and by a time of the caller's.
///
/// # Errors
/// As for [`run`].
pub fn run_by<D: Driver, P: Probe, T: Time>(
    shard: Shard,
    time: T,
    open: impl FnOnce(Listener, usize, Arc<Counts>) -> std::io::Result<D>,
) -> Result<(), ShardError> {
    let book = shard.hub.open_book();
    book.begin::<P>(1);
    let handlers = shard.begin()?;
    let Shard {
        listener,
        config,
        hub,
        threads,
        ready,
        ..
    } = shard;
    let places = config.connections + SPARE_CONNECTIONS;
    let driver =
        open(listener, places, book.io.clone()).map_err(ShardError::at("opening the I/O model"))?;
    let wake = Wake::Driver(driver.waker());
    let context = context::<P>(&config, handlers, &threads, &wake, &book)?;
    let mut this = Loop {
        driver,
        sessions: Vec::new(),
        live: 0,
        places,
        context,
        clock_step_ms: time.step_ms(),
        clock: Clock::new(time),
        hub,
        turns: book.turns.clone(),
        turns_recorded: config.turns,
        sweep_ms: SWEEP_MS.min(config.timeouts.shortest_ms() / 4).max(10),
        next_sweep_ms: 0,
        steps_late: 0,
        accept_again: false,
        accept_log: AcceptLog::default(),
        draining: false,
    };
    this.driver.submit(Token::LISTENER, crate::io::Op::Receive);
    let _ = ready.send(this.driver.waker());
    this.serve().map_err(ShardError::at("waiting for events"))
}

struct Loop<D, P: Probe, T> {
    driver: D,
    sessions: Vec<Option<Entry>>,
    live: usize,
    /// How many there may be.
    places: usize,
    context: Context<P>,
    clock: Clock<T>,
    clock_step_ms: u64,
    hub: Arc<Hub>,
    turns: Arc<Turns>,
    turns_recorded: bool,
    sweep_ms: u64,
    next_sweep_ms: u64,
    /// Turns that brought nothing since the last sweep: the timer may have fired before the coarse clock
    /// showed its time, which is two steps behind where a hypervisor holds ticks back (8 ms were seen,
    /// of 4). It is set a step later each time: it would fire at once, again and again.
    steps_late: u64,
    /// Accepting failed and is to be tried again at the next sweep.
    accept_again: bool,
    accept_log: AcceptLog,
    draining: bool,
}

struct Entry {
    token: Token,
    session: Session,
    admitted: bool,
}

impl<D: Driver, P: Probe, T: Time> Loop<D, P, T> {
    fn serve(&mut self) -> std::io::Result<()> {
        loop {
            // A timer only while somebody has a deadline: an idle shard sleeps.
            let timed = self.live > 0 || self.accept_again;
            let until_ms = self.next_sweep_ms + self.clock_step_ms * (1 + self.steps_late);
            let brought = self.turn(timed.then_some(until_ms * 1_000_000))?;
            if self.context.now_ms >= self.next_sweep_ms {
                self.sweep();
            } else if !brought {
                self.steps_late = MOST_STEPS_LATE.min(self.steps_late + 1);
            }
            match self.hub.stage() {
                Stage::Running => {}
                Stage::Draining if !self.draining => self.drain()?,
                Stage::Draining if brought => self.end_idle()?,
                Stage::Draining => {}
                Stage::Stopping => return self.give_up(),
            }
            if self.draining && self.live == 0 {
                return Ok(());
            }
        }
    }

    /// Waits, then takes in everything that has happened; says whether anything has.
    fn turn(&mut self, until_ns: Option<u64>) -> std::io::Result<bool> {
        let may_sleep = self.context.offload.may_sleep();
        let until_ns = if may_sleep { until_ns } else { Some(NOW_NS) };
        self.driver.wait(until_ns)?;
        let served = &self.context.served;
        let begun = self.turns.begin(self.turns_recorded, served);
        self.clock.tick(&mut self.context);
        let mut brought = false;
        while let Some((token, done)) = self.driver.next() {
            brought = true;
            let entry = self
                .sessions
                .get_mut(token.index())
                .and_then(Option::as_mut);
            match (done, entry) {
                (Done::Received(bytes), Some(entry)) => {
                    entry.session.absorb(bytes, &mut self.context)
                }
                (Done::EndOfStream, Some(entry)) => entry.session.end_of_stream(&mut self.context),
                (Done::Reset(_), Some(entry)) => entry.session.broken(&mut self.context),
                (Done::Finished(outcome), _) => self.finish(token, outcome),
                (Done::Accepted, _) => self.accept(token),
                (Done::AcceptFailed(error), _) => {
                    self.context.served.accept_failed.add(1);
                    self.accept_log.failed(&error, self.context.now_ms);
                    self.accept_again = true;
                }
                (Done::Woken, _) => self.context.take_over(),
                (Done::Received(_) | Done::EndOfStream | Done::Reset(_), None) => {
                    unreachable!("a driver speaks only of connections it has")
                }
            }
            self.act(token);
        }
        self.context.offload.go_on(&self.context.served);
        while let Some(job) = self.context.offload.next(&self.context.served) {
            brought = true;
            self.come_home(&job);
            self.context.offload.recycle(job);
        }
        if let Some(begun) = begun {
            self.turns.end(begun, &self.context.served);
        }
        Ok(brought)
    }

    /// An answer has come from elsewhere. Its owner is there still, or would have cancelled it.
    fn come_home(&mut self, job: &Job) {
        let token = job.owner();
        if let Some(Some(entry)) = self.sessions.get_mut(token.index())
            && entry.token == token
        {
            entry.session.finish(job, &mut self.context);
            self.act(token);
        }
    }

    /// Does what the session of `token` asks, until it asks nothing more.
    fn act(&mut self, token: Token) {
        while let Some(Some(entry)) = self.sessions.get_mut(token.index()) {
            let Some(op) = entry.session.next_op() else {
                return;
            };
            if let Submitted::Done(outcome) = self.driver.submit(token, op) {
                self.finish(token, outcome);
            }
        }
    }

    fn finish(&mut self, token: Token, outcome: Outcome) {
        let Some(place) = self.sessions.get_mut(token.index()) else {
            return;
        };
        let Some(entry) = place else { return };
        match outcome {
            Outcome::Sent(buf) => entry.session.sent(buf, &mut self.context),
            Outcome::SendFailed(buf, _) => {
                self.context.pool.put(buf);
                entry.session.broken(&mut self.context);
            }
            Outcome::Closed => {
                if let Some(entry) = place.take() {
                    self.leave(entry);
                }
            }
        }
    }

    fn accept(&mut self, token: Token) {
        self.context.served.accepted.add(1);
        let admitted = self.hub.admit();
        let mut session = if admitted {
            Session::new(token, &self.context)
        } else {
            self.context.served.refused.add(1);
            Session::refused(token, &mut self.context)
        };
        if self.draining {
            session.drain();
        }
        if self.live == 0 {
            self.next_sweep_ms = self.context.now_ms + self.sweep_ms;
        }
        self.live += 1;
        if self.sessions.len() <= token.index() {
            self.sessions.resize_with(token.index() + 1, || None);
        }
        self.sessions[token.index()] = Some(Entry {
            token,
            session,
            admitted,
        });
    }

    fn leave(&mut self, entry: Entry) {
        self.live -= 1;
        self.context.served.closed.add(1);
        entry.session.closed(&mut self.context);
        if entry.admitted {
            self.hub.discharge();
        }
    }

    /// Ends what is over its deadline, looks again at who is silent, and tries again what had to rest.
    fn sweep(&mut self) {
        self.next_sweep_ms = self.context.now_ms + self.sweep_ms;
        self.steps_late = 0;
        if std::mem::take(&mut self.accept_again) && !self.draining {
            self.driver.submit(Token::LISTENER, crate::io::Op::Receive);
        }
        self.for_each(|session, context| {
            if session.deadline_ms() <= context.now_ms {
                session.expire(context);
            } else {
                session.swept();
            }
        });
    }

    /// Takes in what the kernel has already accepted and received, then ends what is idle.
    fn drain(&mut self) -> std::io::Result<()> {
        self.draining = true;
        self.for_each(|session, _| session.drain());
        // Who was let in by the kernel already is not turned away.
        self.take_in()?;
        self.driver.submit(Token::LISTENER, crate::io::Op::Close);
        // Drivers may be slow to tell of sends that nobody waited for; now somebody does.
        self.sweep_ms = self.sweep_ms.min(DRAIN_SWEEP_MS);
        self.next_sweep_ms = self.context.now_ms + self.sweep_ms;
        self.end_idle()
    }

    /// Ends who is idle and of whom nothing more has come: one whose request has begun to arrive is
    /// answered.
    fn end_idle(&mut self) -> std::io::Result<()> {
        self.take_in()?;
        self.for_each(|session, _| session.end_idle());
        Ok(())
    }

    /// Takes in all that the kernel has: a driver may take a share of it in each turn (a ring 20
    /// completions, signalfd 128 signals). Clients who send on and on cannot hold it up: there are at
    /// most as many turns as there may be connections.
    fn take_in(&mut self) -> std::io::Result<()> {
        let mut quiet = 0;
        for _ in 0..self.places {
            quiet = match self.turn(Some(NOW_NS))? {
                true => 0,
                false => quiet + 1,
            };
            if quiet == QUIET_TURNS || self.hub.stage() == Stage::Stopping {
                break;
            }
        }
        Ok(())
    }

    /// The drain limit has passed: whoever still waits for a handler is told so, at once.
    fn give_up(&mut self) -> std::io::Result<()> {
        self.for_each(|session, context| session.give_up(context));
        self.driver.wait(Some(NOW_NS))
    }

    fn for_each(&mut self, change: impl Fn(&mut Session, &mut Context<P>)) {
        for index in 0..self.sessions.len() {
            let Some(entry) = &mut self.sessions[index] else {
                continue;
            };
            let token = entry.token;
            change(&mut entry.session, &mut self.context);
            self.act(token);
        }
    }
}

#[cfg(test)]
mod tests;
