//! A connection whose thread (or task) does one thing at a time and waits in it: what it does around
//! each such call, what it shows to its shard, and how the shard ends calls from outside.
//!
//! Who waits in the kernel can keep no deadline. The shard looks at the deadlines that the others
//! wrote on their desks, and ends their calls by shutting the socket down: no request pays for it
//! with a system call.
//!
//! It deliberately lacks the calls themselves: they are what two models may differ in.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};

use crate::clock::now_ms;
use crate::config::Config;
use crate::io::{Buf, Counts, Ender, Op, Single, Token, no_place};
use crate::measure::probe::{self, Probe};
use crate::offload::Threads;
use crate::session::{Context, Session};
use crate::shard::{Book, Hub, SPARE_CONNECTIONS, Stage};

/// Deadlines are looked at this often, or four times within the shortest, in milliseconds.
const SWEEP_MS: u64 = 250;
/// How soon a stream that was ended from here is looked at again for the rest of a request, in
/// milliseconds.
pub const LOOK_MS: u64 = 5;
/// No deadline.
const NEVER_MS: u64 = u64::MAX;

/// What a connection shows to its shard.
struct Desk {
    /// Valid while this desk is among the shard's, which it leaves before its socket is closed.
    ender: Ender,
    deadline_ms: AtomicU64,
    doing: AtomicU8,
    expired: AtomicBool,
    /// Receiving was ended because the server goes down: the client may not have ended its stream.
    silenced: AtomicBool,
    /// The thread that is parked while a handler is awaited; a task has none.
    parked: OnceLock<Thread>,
}

/// What a connection is about to wait in.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Doing {
    /// Receiving, between requests.
    Idle,
    /// Receiving the rest of a request.
    Receiving,
    /// Not in a call: a deadline of its own bounds the handler.
    Handling,
    /// Parked, or receiving besides, until a handler on another thread has answered.
    Awaiting,
    Sending,
}

/// What the connections of a shard share, and by which it ends their calls.
pub struct Room {
    /// As the server was asked to be.
    pub config: Arc<Config>,
    /// Shared by all shards.
    pub hub: Arc<Hub>,
    /// Shared by all shards: who runs handlers that do not run here.
    pub threads: Threads,
    /// The shard's own figures.
    pub book: Arc<Book>,
    born: AtomicU64,
    desks: Mutex<HashMap<u64, Arc<Desk>>>,
}

impl Room {
    /// An empty room.
    pub fn new(config: Arc<Config>, hub: Arc<Hub>, threads: Threads, book: Arc<Book>) -> Arc<Self> {
        Arc::new(Self {
            config,
            hub,
            threads,
            book,
            born: AtomicU64::new(0),
            desks: Mutex::default(),
        })
    }

    /// Lets a connection in, whose figures go into `book`: the room's, or one of its own, which is
    /// closed with it.
    ///
    /// # Errors
    /// [`no_place`], when as many are there to be refused as there are places for.
    pub fn seat<C: Single>(
        self: &Arc<Self>,
        connection: C,
        book: Arc<Book>,
    ) -> std::io::Result<Seat<C>> {
        self.book.served.accepted.add(1);
        let admitted = self.hub.admit();
        if !admitted {
            self.book.served.refused.add(1);
        }
        let seat = Seat {
            number: self.born.fetch_add(1, Ordering::Relaxed),
            desk: Arc::new(Desk {
                ender: connection.ender(),
                deadline_ms: AtomicU64::new(NEVER_MS),
                doing: AtomicU8::new(Doing::Receiving as u8),
                expired: AtomicBool::new(false),
                silenced: AtomicBool::new(false),
                parked: OnceLock::new(),
            }),
            room: self.clone(),
            connection: Some(connection),
            book,
            admitted,
        };
        if self.desks().len() >= self.config.connections + SPARE_CONNECTIONS {
            return Err(no_place());
        }
        self.desks().insert(seat.number, seat.desk.clone());
        Ok(seat)
    }

    /// How often deadlines are to be looked at, in milliseconds.
    pub fn sweep_ms(&self) -> u64 {
        let shortest = self.config.timeouts.shortest_ms();
        SWEEP_MS.min(shortest / 4).max(10)
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.desks().is_empty()
    }

    /// Ends the calls of those whose deadline has passed.
    pub fn end_expired(&self) {
        let now = now_ms();
        for desk in self.desks().values() {
            if desk.deadline_ms.load(Ordering::Relaxed) <= now {
                desk.expire(&self.book.io);
            }
        }
    }

    /// Ends the calls of those that wait for a request.
    ///
    /// Of a request that comes before its thread runs again all that is there is still delivered, and
    /// its rest is waited for ([`Seat::may_still_come`]). What is left is the moment that every model
    /// has, between its last look and the close; a client knows that an idle connection may end as it
    /// sends (RFC 9112, section 9.5).
    pub fn end_idle(&self) {
        for desk in self.desks().values() {
            if desk.doing.load(Ordering::SeqCst) == Doing::Idle as u8 {
                desk.silence(&self.book.io);
            }
        }
    }

    /// Ends every call. Who awaits a handler tells its client, and ends by itself.
    pub fn end_all(&self) {
        for desk in self.desks().values() {
            if desk.doing.load(Ordering::SeqCst) == Doing::Awaiting as u8 {
                desk.parked.get().map(Thread::unpark);
            } else {
                desk.ender.end_all(&self.book.io);
            }
        }
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn desks(&self) -> MutexGuard<'_, HashMap<u64, Arc<Desk>>> {
        self.desks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Desk {
    /// The connection is about to do something that may take until `deadline_ms`.
    fn begin(&self, doing: Doing, deadline_ms: u64) {
        self.deadline_ms.store(deadline_ms, Ordering::Relaxed);
        self.doing.store(doing as u8, Ordering::SeqCst);
    }

    /// The deadline has passed: whatever the connection waits in returns.
    fn expire(&self, counts: &Counts) {
        self.deadline_ms.store(NEVER_MS, Ordering::Relaxed);
        self.expired.store(true, Ordering::Relaxed);
        if self.doing.load(Ordering::Relaxed) == Doing::Sending as u8 {
            self.ender.end_all(counts);
        } else {
            self.ender.end_receiving(counts);
        }
    }

    /// The server goes down and the connection is idle: its receive returns.
    fn silence(&self, counts: &Counts) {
        self.silenced.store(true, Ordering::SeqCst);
        self.ender.end_receiving(counts);
    }

    /// Whether a call ended because its deadline had passed; asked once.
    fn has_expired(&self) -> bool {
        self.expired.swap(false, Ordering::Relaxed)
    }
}

/// What a connection's thread or task holds. However that ends, it is given back in the right order:
/// first nobody else can reach the socket, then it is closed.
pub struct Seat<C: Single> {
    /// What it shares with the others.
    pub room: Arc<Room>,
    /// Where its figures go.
    pub book: Arc<Book>,
    number: u64,
    connection: Option<C>,
    desk: Arc<Desk>,
    admitted: bool,
}

impl<C: Single> Seat<C> {
    /// Tells it apart from the shard's others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Names it to the policy that runs its handlers.
    pub fn token(&self) -> Token {
        Token::numbered(self.number)
    }

    /// Who sits here.
    pub fn connection(&self) -> &C {
        let connection = self.connection.as_ref();
        connection.expect("a seat has it until it is dropped")
    }

    /// The beginning of its session.
    pub fn session<P: Probe>(&self, context: &mut Context<P>) -> Session {
        if self.admitted {
            Session::new(self.token(), context)
        } else {
            Session::refused(self.token(), context)
        }
    }

    /// What the session asks for next. If it asks to send, that has begun.
    pub fn next_op(&self, session: &mut Session) -> Option<Op> {
        let op = session.next_op();
        if let Some(Op::Send { .. }) = op {
            self.desk.begin(Doing::Sending, session.deadline_ms());
        }
        op
    }

    /// The send is over.
    pub fn sent<P: Probe>(
        &self,
        session: &mut Session,
        buf: Buf,
        result: std::io::Result<()>,
        context: &mut Context<P>,
    ) {
        // A long pipeline may come to its end without another receive.
        if self.room.hub.stage() >= Stage::Draining {
            session.drain();
        }
        match result {
            Ok(()) => session.sent(buf, context),
            Err(_) if self.desk.has_expired() => session.expire(context),
            Err(_) => session.broken(context),
        }
    }

    /// Has a receive under way return at once, so that nothing holds the socket any more.
    pub fn end_receiving(&self) {
        self.desk.ender.end_receiving(&self.book.io);
    }

    /// Parks the calling thread until the awaited handler has answered, and waits for nothing else:
    /// it would have to receive to see that its client has left.
    pub fn await_handler<P: Probe>(&self, session: &mut Session, context: &mut Context<P>) {
        let _ = self.desk.parked.set(thread::current());
        self.desk.begin(Doing::Awaiting, NEVER_MS);
        loop {
            if let Some(job) = context.offload.next(&context.served) {
                session.finish(&job, context);
                return context.offload.recycle(job);
            }
            if self.room.hub.stage() == Stage::Stopping {
                return session.give_up(context);
            }
            if context.offload.may_sleep() {
                // Woken by the answer, or by the server's end, or for no reason.
                P::within(probe::Stage::FutexWait, thread::park);
            }
        }
    }

    /// It is about to receive.
    pub fn begin_receiving(&self, session: &mut Session) {
        let doing = match () {
            () if session.is_idle() => Doing::Idle,
            () if session.is_awaiting() => Doing::Awaiting,
            () => Doing::Receiving,
        };
        self.desk.begin(doing, session.deadline_ms());
        // After that: either the shard sees that this one is idle, or this one sees that the server
        // goes down.
        if self.room.hub.stage() >= Stage::Draining {
            session.drain();
            if session.is_idle() {
                // A request that came before is still delivered.
                self.desk.silence(&self.book.io);
            }
        }
    }

    /// Whether the rest of a request may come although a receive has just brought nothing: the stream
    /// was ended from here, and a part of the request was there already or came just then. Whoever is
    /// told so looks again in [`LOOK_MS`], until the request's deadline.
    pub fn may_still_come(&self, session: &Session) -> bool {
        self.desk.silenced.load(Ordering::SeqCst)
            && !session.is_idle()
            && !self.desk.expired.load(Ordering::Relaxed)
            && self.desk.ender.is_established(&self.book.io)
    }

    /// Receiving is over: with bytes, with none at the stream's end, or with an error.
    pub fn received<P: Probe>(
        &self,
        session: &mut Session,
        result: std::io::Result<&[u8]>,
        context: &mut Context<P>,
    ) {
        self.desk.begin(Doing::Handling, NEVER_MS);
        if self.room.hub.stage() >= Stage::Draining {
            session.drain();
        }
        match result {
            Ok([]) if self.desk.has_expired() => session.expire(context),
            Ok([]) => session.end_of_stream(context),
            Ok(bytes) => session.absorb(bytes, context),
            Err(_) => session.broken(context),
        }
    }
}

impl<C: Single> Drop for Seat<C> {
    fn drop(&mut self) {
        self.room.desks().remove(&self.number);
        if let Some(connection) = self.connection.take() {
            connection.close(&self.book.io);
        }
        self.book.served.closed.add(1);
        if !Arc::ptr_eq(&self.book, &self.room.book) {
            self.room.hub.close_book(&self.book);
        }
        if self.admitted {
            self.room.hub.discharge();
        }
    }
}
