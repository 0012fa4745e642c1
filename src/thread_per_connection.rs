//! The shape of blocking I/O: the shard's thread accepts, and each connection has a thread of its
//! own, on the same core, that waits in `recv` and in `send`. The shard's thread keeps the deadlines
//! of all of them (see [`crate::desk`]).

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crate::clock::{Clock, Coarse, now_ms};
use crate::desk::{LOOK_MS, Room, Seat};
use crate::handlers::Handlers;
use crate::io::Op;
use crate::io::blocking::{Acceptor, Connection, RECEIVE_BYTES};
use crate::measure::probe::{self, Probe};
use crate::offload::Wake;
use crate::shard::{AcceptLog, Shard, ShardError, Stage, context};

/// How often the end of the last connection is looked for while draining, in milliseconds.
const DRAIN_LOOK_MS: u64 = 10;
/// Connections accepted before deadlines are looked at again.
const ACCEPTS_PER_TURN: usize = 64;
/// Of its requests a connection's thread records the time of one in so many, if of any: it sleeps at
/// each, and a reading of the CPU clock takes some part of the request's own time.
const RECORDED_ONE_IN: u64 = 4;
/// Room on a connection thread's stack for what is not the guest's.
const STACK_BYTES: usize = 128 * 1024;

/// Serves until the hub says otherwise. Runs on the shard's own thread.
///
/// # Errors
/// What kept the shard from serving, or made its listener unusable.
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
    let mut acceptor = Acceptor::open(listener).map_err(ShardError::at("opening the acceptor"))?;
    let _ = ready.send(acceptor.waker());
    let room = Room::new(config, hub, threads, book);
    accept_all::<P>(&mut acceptor, &room, &handlers)
        .map_err(ShardError::at("waiting for connections"))
}

fn accept_all<P: Probe>(
    acceptor: &mut Acceptor,
    room: &Arc<Room>,
    handlers: &Arc<Handlers>,
) -> std::io::Result<()> {
    let sweep_ms = room.sweep_ms();
    let mut log = AcceptLog::default();
    let mut resting_until_ms = 0;
    let mut next_sweep_ms = now_ms() + sweep_ms;
    let mut draining = false;
    loop {
        let accepting = !draining && now_ms() >= resting_until_ms;
        let timeout_ms = if draining { DRAIN_LOOK_MS } else { sweep_ms };
        let seen = acceptor.wait::<P>(accepting, timeout_ms as u16, &room.book.io)?;
        if seen.acceptable
            && let Err(error) = seat_waiting::<P>(acceptor, room, handlers)
        {
            room.book.served.accept_failed.add(1);
            log.failed(&error, now_ms());
            resting_until_ms = now_ms() + sweep_ms;
        }
        if now_ms() >= next_sweep_ms {
            next_sweep_ms = now_ms() + sweep_ms;
            room.end_expired();
        }
        match room.hub.stage() {
            Stage::Running => {}
            Stage::Draining if !draining => {
                draining = true;
                // Who was let in by the kernel already is not turned away.
                let _ = seat_waiting::<P>(acceptor, room, handlers);
                acceptor.close();
                room.end_idle();
            }
            Stage::Draining if !room.is_empty() => {}
            Stage::Draining => return Ok(()),
            // Their last words are short; whoever started this shard waits for it only so long.
            Stage::Stopping if !room.is_empty() => {
                draining = true;
                room.end_all();
            }
            Stage::Stopping => return Ok(()),
        }
    }
}

/// Gives waiting connections a thread each.
fn seat_waiting<P: Probe>(
    acceptor: &Acceptor,
    room: &Arc<Room>,
    handlers: &Arc<Handlers>,
) -> std::io::Result<()> {
    for _ in 0..ACCEPTS_PER_TURN {
        let Some(connection) = acceptor.accept::<P>(&room.book.io)? else {
            break;
        };
        let seat = room.seat(connection, room.hub.open_book())?;
        let handlers = handlers.clone();
        room.book.io.clone3.add(1);
        let thread = thread::Builder::new()
            .name(format!("connection {}", seat.number()))
            .stack_size(room.config.sandbox.thread_stack_bytes() + STACK_BYTES);
        P::within(probe::Stage::Clone, || {
            thread.spawn(move || {
                if let Err(error) = serve::<P>(&seat, handlers) {
                    tracing::warn!(%error, "a connection could not be served");
                }
            })
        })?;
    }
    Ok(())
}

/// A connection's life, on its own thread.
fn serve<P: Probe>(seat: &Seat<Connection>, handlers: Arc<Handlers>) -> Result<(), ShardError> {
    let book = &seat.book;
    let connection = seat.connection();
    book.begin::<P>(RECORDED_ONE_IN);
    let room = &seat.room;
    let wake = Wake::Thread(thread::current());
    let mut context = context::<P>(&room.config, handlers, &room.threads, &wake, book)?;
    let mut clock = Clock::new(Coarse);
    clock.tick(&mut context);
    let mut session = seat.session(&mut context);
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        while let Some(op) = seat.next_op(&mut session) {
            match op {
                // There is nobody to tell: this thread receives when it has nothing to send.
                Op::Receive | Op::Pause => {}
                Op::Send { buf, .. } => {
                    let sent = connection.send::<P>(&buf, &book.io);
                    clock.tick(&mut context);
                    seat.sent(&mut session, buf, sent, &mut context);
                }
                Op::Shutdown => connection.shut_down::<P>(&book.io),
                Op::Close => {
                    session.closed(&mut context);
                    return Ok(());
                }
            }
        }
        if session.is_awaiting() {
            seat.await_handler(&mut session, &mut context);
            clock.tick(&mut context);
            continue;
        }
        seat.begin_receiving(&mut session);
        context.offload.rest();
        let received = connection.receive::<P>(&mut buffer, &book.io);
        if matches!(received, Ok(0)) && seat.may_still_come(&session) {
            thread::sleep(Duration::from_millis(LOOK_MS));
            continue;
        }
        clock.tick(&mut context);
        let received = received.map(|n| &buffer[..n]);
        seat.received(&mut session, received, &mut context);
    }
}
