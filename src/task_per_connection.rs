//! The shape of an async runtime: a task accepts, each connection has a task of its own that awaits
//! its receives and sends, and the runtime owns the loop. One more task keeps the deadlines of all of
//! them (see [`crate::desk`]): no request has a timer.
//!
//! The tasks of a shard share a thread, so they share its sandbox, its buffers and its clock. The
//! clock is brought up to date when a task goes on, since there is no turn to do it in.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{self, Poll};

use crate::clock::{Clock, Coarse, now_ms};
use crate::desk::{LOOK_MS, Room, Seat};
use crate::io::tokio_uring::{self, Acceptor, Connection, Either, RECEIVE_BYTES, either};
use crate::io::{Op, Token};
use crate::measure::probe::Probe;
use crate::offload::{Job, Wake};
use crate::session::Context;
use crate::shard::{AcceptLog, SPARE_CONNECTIONS, Shard, ShardError, Stage, context};

/// How often the end of the last connection is looked for while draining, in milliseconds.
const DRAIN_LOOK_MS: u64 = 10;

/// Serves until the hub says otherwise. Runs on the shard's own thread.
///
/// # Errors
/// What kept the shard from serving.
pub fn run<P: Probe>(shard: Shard) -> Result<(), ShardError> {
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
    let runtime = tokio_uring::open(places).map_err(ShardError::at("opening the I/O model"))?;
    runtime.block_on(async {
        let acceptor = Acceptor::open(listener).map_err(ShardError::at("opening the acceptor"))?;
        let wake = Wake::Driver(acceptor.waker());
        let context = context::<P>(&config, handlers, &threads, &wake, &book)?;
        let tasks = Rc::new(Tasks {
            context: RefCell::new((context, Clock::new(Coarse))),
            answers: RefCell::default(),
            room: Room::new(config, hub, threads, book),
            accepting: Cell::new(true),
        });
        let _ = ready.send(acceptor.waker());
        let served = watch(&tasks, Rc::new(acceptor)).await;
        served.map_err(ShardError::at("waiting for events"))
    })
}

/// What the tasks of a shard share.
struct Tasks<P: Probe> {
    /// Borrowed between two waits and never across one.
    context: RefCell<(Context<P>, Clock<Coarse>)>,
    /// Who awaits a handler on another thread, and the answers that came from there.
    answers: RefCell<HashMap<Token, Awaited>>,
    room: Arc<Room>,
    /// The accepting task has not ended.
    accepting: Cell<bool>,
}

/// An answer from another thread.
enum Awaited {
    /// It has not come; this wakes the task that awaits it.
    By(task::Waker),
    /// It has.
    Here(Job),
}

impl<P: Probe> Tasks<P> {
    /// Does something with the shard's context, brought up to date.
    fn with<R>(&self, work: impl FnOnce(&mut Context<P>) -> R) -> R {
        let (context, clock) = &mut *self.context.borrow_mut();
        clock.tick(context);
        work(context)
    }

    /// Gives a connection a task.
    fn seat(self: &Rc<Self>, connection: Connection) -> std::io::Result<()> {
        let seat = self.room.seat(connection, self.room.book.clone())?;
        tokio_uring::spawn::<P>(serve(self.clone(), seat));
        Ok(())
    }
}

impl<P: Probe> Tasks<P> {
    /// The answer to the request of `owner`, or `None` when the server ends before there is one.
    fn poll_answer(&self, owner: Token, waker: &task::Context<'_>) -> Poll<Option<Job>> {
        let waits = Awaited::By(waker.waker().clone());
        // What is there already has come before its task asked for it.
        let before = self.answers.borrow_mut().insert(owner, waits);
        if let Some(Awaited::Here(job)) = before {
            self.forget(owner);
            return Poll::Ready(Some(job));
        }
        if self.room.hub.stage() == Stage::Stopping {
            self.forget(owner);
            return Poll::Ready(None);
        }
        // The next answer wakes the first task, unless it is among those that have come.
        self.bring_home();
        Poll::Pending
    }

    /// Hands out the answers that have come, until the next one is sure to wake this thread.
    fn bring_home(&self) {
        let Context {
            offload, served, ..
        } = &mut self.context.borrow_mut().0;
        loop {
            while let Some(job) = offload.next(served) {
                let owner = job.owner();
                let awaited = self.answers.borrow_mut().insert(owner, Awaited::Here(job));
                if let Some(Awaited::By(task)) = awaited {
                    task.wake();
                }
            }
            if offload.may_sleep() {
                return;
            }
        }
    }

    /// Wakes everybody who awaits a handler, to see that the server ends.
    fn give_up(&self) {
        for awaited in self.answers.borrow().values() {
            if let Awaited::By(task) = awaited {
                task.wake_by_ref();
            }
        }
    }

    /// `owner` awaits nothing any more.
    fn forget(&self, owner: Token) {
        self.answers.borrow_mut().remove(&owner);
    }
}

/// The first task: starts the others, keeps their deadlines, and brings them down.
async fn watch<P: Probe>(tasks: &Rc<Tasks<P>>, acceptor: Rc<Acceptor>) -> std::io::Result<()> {
    tokio_uring::spawn::<P>(accept_all(tasks.clone(), acceptor.clone()));
    let room = &tasks.room;
    let sweep_ms = room.sweep_ms();
    let mut next_sweep_ms = now_ms() + sweep_ms;
    let mut draining = false;
    loop {
        let timeout_ms = if draining { DRAIN_LOOK_MS } else { sweep_ms };
        acceptor.wait::<P>(timeout_ms, &room.book.io).await?;
        tasks.bring_home();
        // Also a shard without requests lets go of handlers that were exchanged.
        tasks.with(Context::take_over);
        if now_ms() >= next_sweep_ms {
            next_sweep_ms = now_ms() + sweep_ms;
            room.end_expired();
        }
        match room.hub.stage() {
            Stage::Running => {}
            Stage::Draining if !draining => {
                draining = true;
                // Who was let in by the kernel already is not turned away.
                while let Ok(Some(connection)) = acceptor.accept_waiting::<P>(&room.book.io) {
                    if tasks.seat(connection).is_err() {
                        break;
                    }
                }
                acceptor.close(&room.book.io);
                room.end_idle();
            }
            Stage::Draining if tasks.accepting.get() || !room.is_empty() => {}
            Stage::Draining => return Ok(()),
            // Their last words are short; whoever started this shard waits for it only so long.
            Stage::Stopping if tasks.accepting.get() || !room.is_empty() => {
                draining = true;
                acceptor.close(&room.book.io);
                room.end_all();
                tasks.give_up();
            }
            Stage::Stopping => return Ok(()),
        }
    }
}

/// Gives each connection that comes a task, until the listener is closed.
async fn accept_all<P: Probe>(tasks: Rc<Tasks<P>>, acceptor: Rc<Acceptor>) {
    let room = &tasks.room;
    let mut log = AcceptLog::default();
    loop {
        let accepted = acceptor.accept::<P>(&room.book.io).await;
        match accepted.and_then(|connection| tasks.seat(connection)) {
            Ok(()) => {}
            Err(_) if room.hub.stage() >= Stage::Draining => break,
            Err(error) => {
                room.book.served.accept_failed.add(1);
                log.failed(&error, now_ms());
                tokio_uring::sleep::<P>(room.sweep_ms()).await;
            }
        }
    }
    tasks.accepting.set(false);
}

/// A connection's life, as a task. It does one thing at a time, but for this: while a handler on
/// another thread is awaited, it receives too, since that is how it sees its client leave.
async fn serve<P: Probe>(tasks: Rc<Tasks<P>>, seat: Seat<Connection>) {
    let counts = &seat.book.io;
    let connection = seat.connection();
    let (mut session, buffer) = tasks.with(|context| {
        let mut buffer = context.pool.take();
        buffer.reserve_exact(RECEIVE_BYTES);
        (seat.session(context), buffer)
    });
    let mut buffer = Some(buffer);
    let mut paused = false;
    let mut receiving = pin!(None);
    loop {
        while let Some(op) = seat.next_op(&mut session) {
            match op {
                Op::Receive => paused = false,
                Op::Pause => paused = true,
                Op::Send { buf, .. } => {
                    let (sent, buf) = connection.send::<P>(buf, counts).await;
                    tasks.with(|context| seat.sent(&mut session, buf, sent, context));
                }
                Op::Shutdown => connection.shut_down::<P>(counts),
                Op::Close => {
                    if receiving.is_some() {
                        seat.end_receiving();
                        let ended = either::<P, _, ()>(receiving.as_mut(), |_| Poll::Pending);
                        if let Either::Operation((_, back)) = ended.await {
                            buffer = Some(back);
                        }
                    }
                    return tasks.with(|context| {
                        context.pool.put(buffer.unwrap_or_default());
                        session.closed(context);
                        tasks.forget(seat.token());
                    });
                }
            }
        }
        seat.begin_receiving(&mut session);
        if !(paused && session.is_awaiting())
            && let Some(buffer) = buffer.take()
        {
            receiving.set(Some(connection.receive(buffer, counts)));
        }
        let answer = |waker: &mut task::Context<'_>| match session.is_awaiting() {
            true => tasks.poll_answer(seat.token(), waker),
            false => Poll::Pending,
        };
        match either::<P, _, _>(receiving.as_mut(), answer).await {
            Either::Operation((Ok(()), back))
                if back.is_empty() && seat.may_still_come(&session) =>
            {
                buffer = Some(back);
                tokio_uring::sleep::<P>(LOOK_MS).await;
            }
            Either::Operation((received, back)) => {
                let received = received.map(|()| &back[..]);
                tasks.with(|context| seat.received(&mut session, received, context));
                buffer = Some(back);
            }
            Either::Other(Some(job)) => tasks.with(|context| {
                session.finish(&job, context);
                context.offload.recycle(job);
            }),
            Either::Other(None) => tasks.with(|context| session.give_up(context)),
        }
    }
}
