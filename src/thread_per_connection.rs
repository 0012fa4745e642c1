//! The shape of blocking I/O: the shard's thread accepts, and each connection has a thread of its
//! own, on the same core, that waits in `recv` and in `send`.
//!
//! A thread that waits in the kernel can keep no deadline. The shard's thread looks at the
//! deadlines that the others wrote down, and ends their calls by shutting the socket down: no
//! request pays for it with a system call.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::clock::{Clock, now_ms};
use crate::config::Config;
use crate::io::Op;
use crate::io::blocking::{Acceptor, Connection, Ender, RECEIVE_BYTES};
use crate::measure::probe::Probe;
use crate::sandbox::ShardSandbox;
use crate::session::Session;
use crate::shard::{AcceptLog, Book, Hub, SPARE_CONNECTIONS, Shard, ShardError, Stage, context};

/// Deadlines are looked at this often, or four times within the shortest, in milliseconds.
const SWEEP_MS: u64 = 250;
/// How often the end of the last connection is looked for while draining, in milliseconds.
const DRAIN_LOOK_MS: u64 = 10;
/// Connections accepted before deadlines are looked at again.
const ACCEPTS_PER_TURN: usize = 64;
/// No deadline.
const NEVER_MS: u64 = u64::MAX;
/// Room on a connection thread's stack for what is not the guest's.
const STACK_BYTES: usize = 128 * 1024;

/// Serves until the hub says otherwise. Runs on the shard's own thread.
///
/// # Errors
/// What kept the shard from serving, or made its listener unusable.
pub fn run<P: Probe>(shard: Shard) -> Result<(), ShardError> {
    let book = shard.hub.open_book();
    book.begin::<P>();
    let sandbox = shard.sandbox()?;
    let Shard {
        listener,
        config,
        hub,
        ready,
        ..
    } = shard;
    let mut acceptor = Acceptor::open(listener).map_err(ShardError::at("opening the acceptor"))?;
    let _ = ready.send(acceptor.waker());
    let room = Arc::new(Room {
        config,
        hub,
        sandbox,
        threads: Mutex::default(),
    });
    accept_all::<P>(&mut acceptor, &room, &book).map_err(ShardError::at("waiting for connections"))
}

/// What the threads of a shard share.
struct Room {
    config: Arc<Config>,
    hub: Arc<Hub>,
    sandbox: Arc<ShardSandbox>,
    threads: Mutex<HashMap<u64, Arc<Desk>>>,
}

/// What a connection's thread shows to the shard's.
struct Desk {
    /// Valid while this desk is in the room's map, which its thread leaves before it closes.
    ender: Ender,
    deadline_ms: AtomicU64,
    doing: AtomicU8,
    expired: AtomicBool,
}

/// What a connection's thread is about to wait in.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Doing {
    /// In `recv`, between requests.
    Idle,
    /// In `recv`, for the rest of a request.
    Receiving,
    /// Not in a call: a deadline of its own bounds the handler.
    Handling,
    Sending,
}

fn accept_all<P: Probe>(
    acceptor: &mut Acceptor,
    room: &Arc<Room>,
    book: &Book,
) -> std::io::Result<()> {
    let sweep_ms = SWEEP_MS.min(room.config.timeouts.shortest_ms() / 4).max(10);
    let mut log = AcceptLog::default();
    let mut born = 0;
    let mut resting_until_ms = 0;
    let mut next_sweep_ms = now_ms() + sweep_ms;
    let mut draining = false;
    loop {
        let accepting = !draining && now_ms() >= resting_until_ms;
        let timeout_ms = if draining { DRAIN_LOOK_MS } else { sweep_ms };
        let seen = acceptor.wait::<P>(accepting, timeout_ms as u16, &book.io)?;
        if seen.acceptable
            && let Err(error) = seat_waiting::<P>(acceptor, room, &mut born, book)
        {
            book.served.accept_failed.add(1);
            log.failed(&error, now_ms());
            resting_until_ms = now_ms() + sweep_ms;
        }
        if now_ms() >= next_sweep_ms {
            next_sweep_ms = now_ms() + sweep_ms;
            room.end_expired(book);
        }
        match room.hub.stage() {
            Stage::Running => {}
            Stage::Draining if !draining => {
                draining = true;
                // Who was let in by the kernel already is not turned away.
                let _ = seat_waiting::<P>(acceptor, room, &mut born, book);
                acceptor.close();
                room.end_idle(book);
            }
            Stage::Draining if !room.threads().is_empty() => {}
            Stage::Draining => return Ok(()),
            Stage::Stopping => {
                room.end_all(book);
                return Ok(());
            }
        }
    }
}

/// Gives waiting connections a thread each.
fn seat_waiting<P: Probe>(
    acceptor: &Acceptor,
    room: &Arc<Room>,
    born: &mut u64,
    book: &Book,
) -> std::io::Result<()> {
    for _ in 0..ACCEPTS_PER_TURN {
        let Some(connection) = acceptor.accept::<P>(&book.io)? else {
            break;
        };
        *born += 1;
        seat::<P>(room, connection, *born, book)?;
    }
    Ok(())
}

/// Gives a connection a thread.
fn seat<P: Probe>(
    room: &Arc<Room>,
    connection: Connection,
    number: u64,
    book: &Book,
) -> std::io::Result<()> {
    book.served.accepted.add(1);
    let admitted = room.hub.admit();
    if !admitted {
        book.served.refused.add(1);
    }
    let desk = Arc::new(Desk {
        ender: connection.ender(),
        deadline_ms: AtomicU64::new(NEVER_MS),
        doing: AtomicU8::new(Doing::Receiving as u8),
        expired: AtomicBool::new(false),
    });
    let seat = Seat {
        book: room.hub.open_book(),
        room: room.clone(),
        number,
        connection: Some(connection),
        desk: desk.clone(),
        admitted,
    };
    if room.threads().len() >= room.config.connections + SPARE_CONNECTIONS {
        return Err(std::io::Error::from_raw_os_error(libc::ENFILE));
    }
    room.threads().insert(number, desk);
    book.io.clone3.add(1);
    thread::Builder::new()
        .name(format!("connection {number}"))
        .stack_size(room.config.sandbox.thread_stack_bytes() + STACK_BYTES)
        .spawn(move || {
            if let Err(error) = serve::<P>(&seat) {
                tracing::warn!(%error, "a connection could not be served");
            }
        })?;
    Ok(())
}

/// What a connection's thread holds. However the thread ends, it is given back in the right order:
/// first nobody else can reach the socket, then it is closed.
struct Seat {
    room: Arc<Room>,
    number: u64,
    connection: Option<Connection>,
    desk: Arc<Desk>,
    book: Arc<Book>,
    admitted: bool,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.room.threads().remove(&self.number);
        if let Some(connection) = self.connection.take() {
            connection.close(&self.book.io);
        }
        self.book.served.closed.add(1);
        self.room.hub.close_book(&self.book);
        if self.admitted {
            self.room.hub.discharge();
        }
    }
}

/// A connection's life, on its own thread.
fn serve<P: Probe>(seat: &Seat) -> Result<(), ShardError> {
    let Seat {
        room, desk, book, ..
    } = seat;
    let connection = seat
        .connection
        .as_ref()
        .expect("a seat has it until it is dropped");
    book.begin::<P>();
    let mut context = context::<P>(&room.config, room.sandbox.clone(), book.served.clone())?;
    let mut clock = Clock::default();
    clock.tick(&mut context);
    let mut session = if seat.admitted {
        Session::new(&context)
    } else {
        Session::refused(&mut context)
    };
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        while let Some(op) = session.next_op() {
            match op {
                // There is nobody to tell: this thread receives when it has nothing to send.
                Op::Receive | Op::Pause => {}
                Op::Send { buf, .. } => {
                    desk.begin(Doing::Sending, session.deadline_ms());
                    let sent = connection.send::<P>(&buf, &book.io);
                    clock.tick(&mut context);
                    // A long pipeline may come to its end without another receive.
                    if room.hub.stage() >= Stage::Draining {
                        session.drain();
                    }
                    match sent {
                        Ok(()) => session.sent(buf, &mut context),
                        Err(_) if desk.has_expired() => session.expire(&mut context),
                        Err(_) => session.broken(),
                    }
                }
                Op::Shutdown => connection.shut_down(&book.io),
                Op::Close => {
                    session.closed(&mut context);
                    return Ok(());
                }
            }
        }
        let doing = if session.is_idle() {
            Doing::Idle
        } else {
            Doing::Receiving
        };
        desk.begin(doing, session.deadline_ms());
        // After that: either the shard's thread sees that this one is idle, or this one sees that
        // the server goes down.
        if room.hub.stage() >= Stage::Draining {
            session.drain();
            if session.is_idle() {
                // A request that came before is still delivered.
                desk.ender.end_receiving(&book.io);
            }
        }
        context.offload.rest();
        let received = connection.receive::<P>(&mut buffer, &book.io);
        desk.begin(Doing::Handling, NEVER_MS);
        clock.tick(&mut context);
        if room.hub.stage() >= Stage::Draining {
            session.drain();
        }
        match received {
            Ok(0) if desk.has_expired() => session.expire(&mut context),
            Ok(0) => session.end_of_stream(),
            Ok(n) => session.absorb(&buffer[..n], &mut context),
            Err(_) => session.broken(),
        }
    }
}

impl Room {
    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn threads(&self) -> MutexGuard<'_, HashMap<u64, Arc<Desk>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the calls of those whose deadline has passed.
    fn end_expired(&self, book: &Book) {
        let now = now_ms();
        for desk in self.threads().values() {
            if desk.deadline_ms.load(Ordering::Relaxed) <= now {
                desk.expire(&book.io);
            }
        }
    }

    /// Ends the calls of those that wait for a request.
    fn end_idle(&self, book: &Book) {
        for desk in self.threads().values() {
            if desk.doing.load(Ordering::SeqCst) == Doing::Idle as u8 {
                desk.ender.end_receiving(&book.io);
            }
        }
    }

    fn end_all(&self, book: &Book) {
        for desk in self.threads().values() {
            desk.ender.end_all(&book.io);
        }
    }
}

impl Desk {
    /// The thread is about to do something that may take until `deadline_ms`.
    fn begin(&self, doing: Doing, deadline_ms: u64) {
        self.deadline_ms.store(deadline_ms, Ordering::Relaxed);
        self.doing.store(doing as u8, Ordering::SeqCst);
    }

    /// The deadline has passed: whatever the thread waits in returns.
    fn expire(&self, counts: &crate::io::Counts) {
        self.deadline_ms.store(NEVER_MS, Ordering::Relaxed);
        self.expired.store(true, Ordering::Relaxed);
        if self.doing.load(Ordering::Relaxed) == Doing::Sending as u8 {
            self.ender.end_all(counts);
        } else {
            self.ender.end_receiving(counts);
        }
    }

    /// Whether a call ended because of that; asked once.
    fn has_expired(&self) -> bool {
        self.expired.swap(false, Ordering::Relaxed)
    }
}
