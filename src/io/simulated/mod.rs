//! A driver for tests: everything that a kernel may do to a connection, decided by a seed.
//!
//! It behaves as readiness models do, as completion models do, and as both at once: an operation may
//! be over at once or later, in parts; bytes may have been received before a pause and come after
//! it; events of connections that are gone, wake-ups for nothing, full queues, too few buffers,
//! accepts that fail. What it may not do is break the contract of [`Driver`], and it holds its
//! caller to that contract: one send at a time, nothing after a close, no endless turning in vain,
//! no sleep that nothing will end, and no more bytes taken in than are answered, but for a bound.
//!
//! Deliberately lacks: threads, sockets and the time of day. The same seed is the same run.

pub(crate) mod network;
mod terms;
mod turn;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) use self::terms::{Others, Terms, Weather, World};
use super::slots::Slots;
use super::{Buf, Done, Driver, Listener, NOW_NS, Op, Outcome, Submitted, Token, Waker};

/// Waits that bring nothing, one after the other and with no time gone by, that a caller may make:
/// it may have looked in passing, or its clock may be a step behind.
const IDLE_WAITS: u32 = 16;
/// No test has so much to do: whoever waits more often turns in vain.
const WAITS: u64 = 500_000;

/// The driver.
pub(crate) struct Simulated {
    world: Rc<RefCell<World>>,
    weather: Weather,
    terms: Terms,
    random: StdRng,
    waker: Waker,
    accepting: bool,
    connections: Slots<Connection>,
    live: Vec<Token>,
    /// Tokens of connections that are gone.
    gone: Vec<Token>,
    admitted: usize,
    operations: VecDeque<(Token, Operation)>,
    events: VecDeque<(Token, Event)>,
    /// Ends of sends that nobody waits for: told with the next thing that happens.
    quiet: Vec<(Token, Event)>,
    events_left: usize,
    /// Events that the next turn must tell beyond those.
    owed: usize,
    buffers_left: usize,
    lent: Vec<u8>,
    idle_waits: u32,
    waits: u64,
}

struct Connection {
    peer: usize,
    admitted: bool,
    receiving: bool,
    /// There is an event that says that bytes are there.
    noted: bool,
    /// Its end was told.
    ended: bool,
    /// From the send until its end is told.
    sends: bool,
    closing: bool,
}

/// What waits for its turn.
enum Operation {
    Send {
        buf: Buf,
        from: usize,
        awaited: bool,
    },
    Shutdown,
    Close,
}

enum Event {
    Accepted,
    AcceptFailed,
    Readable,
    Received(Vec<u8>),
    EndOfStream,
    Reset,
    Finished(Outcome),
    Woken,
}

/// An event as the caller hears it; received bytes are in [`Simulated::lent`].
enum Told {
    Received,
    Other(&'static str, Done<'static>),
}

impl Told {
    fn name(&self) -> &'static str {
        match self {
            Told::Received => "received",
            Told::Other(name, _) => name,
        }
    }

    fn bytes<'a>(&self, lent: &'a [u8]) -> &'a [u8] {
        match self {
            Told::Received => lent,
            Told::Other(..) => &[],
        }
    }

    fn done(self, lent: &[u8]) -> Done<'_> {
        match self {
            Told::Received => Done::Received(lent),
            Told::Other(_, done) => done,
        }
    }
}

impl Simulated {
    /// A driver for `connections` at a time in `world`, where `seed` decides what goes wrong.
    pub(crate) fn new(
        world: Rc<RefCell<World>>,
        weather: Weather,
        terms: Terms,
        seed: u64,
        connections: usize,
    ) -> io::Result<Self> {
        Ok(Self {
            world,
            buffers_left: weather.buffers,
            weather,
            terms,
            random: StdRng::seed_from_u64(seed),
            waker: Waker::new()?,
            accepting: false,
            connections: Slots::new(connections),
            live: Vec::new(),
            gone: Vec::new(),
            admitted: 0,
            operations: VecDeque::new(),
            events: VecDeque::new(),
            quiet: Vec::new(),
            events_left: 0,
            owed: 0,
            lent: Vec::new(),
            idle_waits: 0,
            waits: 0,
        })
    }
}

impl Driver for Simulated {
    fn open(_: Listener, _: usize, _: std::sync::Arc<super::Counts>) -> io::Result<Self> {
        unreachable!("it needs a seed: `Simulated::new`")
    }

    fn submit(&mut self, token: Token, op: Op) -> Submitted {
        let (name, bytes) = match &op {
            Op::Receive => ("asks to receive", &[][..]),
            Op::Pause => ("asks to pause", &[][..]),
            Op::Send { buf, .. } => ("asks to send", &buf[..]),
            Op::Shutdown => ("asks to shut down", &[][..]),
            Op::Close => ("asks to close", &[][..]),
        };
        self.world.borrow_mut().note(token, name, bytes);
        if token == Token::LISTENER {
            return self.submit_to_listener(op);
        }
        let Some(connection) = self.connections.get(token) else {
            panic!("{op:?} on {token:?}, which is gone");
        };
        assert!(!connection.closing, "{op:?} after a close");
        match op {
            Op::Receive => connection.receiving = true,
            Op::Pause => connection.receiving = false,
            Op::Send { buf, awaited } => {
                assert!(!connection.sends, "a second send");
                assert!(!buf.is_empty(), "a send of nothing");
                let most = self.terms.send_bytes;
                assert!(
                    buf.len() <= most,
                    "{} bytes of answers, over {most}",
                    buf.len()
                );
                connection.sends = true;
                if !self.chance(self.weather.sends_at_once) {
                    let from = 0;
                    self.operations
                        .push_back((token, Operation::Send { buf, from, awaited }));
                } else if let Some(outcome) = self.send(token, buf, 0, awaited).1 {
                    self.sends_no_more(token);
                    return Submitted::Done(outcome);
                }
            }
            Op::Shutdown => self.operations.push_back((token, Operation::Shutdown)),
            Op::Close => {
                connection.closing = true;
                if self.chance(self.weather.closes_at_once) {
                    self.close(token);
                    self.forget(token);
                    return Submitted::Done(Outcome::Closed);
                }
                self.operations.push_back((token, Operation::Close));
            }
        }
        Submitted::Queued
    }

    fn wait(&mut self, until: Option<u64>) -> io::Result<()> {
        self.waits += 1;
        assert!(self.waits < WAITS, "it turns and turns");
        let took_ns = self.random.random_range(0..20_000);
        self.pass(self.now_ns() + took_ns);
        let owed = std::mem::take(&mut self.owed);
        self.events_left = owed + self.random.random_range(1..=self.weather.events_a_turn);
        if owed == 0 && self.chance(self.weather.interrupts) {
            self.events_left = 0;
            return Ok(());
        }
        self.make_things_up();
        loop {
            self.world.borrow_mut().network.catch_up();
            self.end_if_due();
            let others_work = self.let_others_work(until);
            let moved = self.work();
            let now_ns = self.now_ns();
            if !self.events.is_empty() {
                self.idle_waits = 0;
                break;
            }
            if until.is_some_and(|until| until <= now_ns) {
                // What others do meanwhile, or the caller between two waits, is not in vain.
                self.idle_waits = if others_work { 0 } else { self.idle_waits + 1 };
                assert!(self.idle_waits < IDLE_WAITS, "it turns in vain");
                break;
            }
            if moved {
                continue;
            }
            if others_work {
                self.idle_waits = 0;
                let took_ns = self.random.random_range(1_000..200_000);
                self.pass(now_ns + took_ns);
                continue;
            }
            let Some(next_ns) = self.next_ns(until) else {
                panic!("nothing will ever end this wait: {} live", self.live.len());
            };
            self.idle_waits = 0;
            self.pass(next_ns.max(now_ns + 1));
        }
        self.events.extend(self.quiet.drain(..));
        Ok(())
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        while self.events_left > 0 {
            let (token, event) = self.events.pop_front()?;
            let Some(told) = self.tell(token, event) else {
                continue; // of a connection that is gone, or wants no bytes any more
            };
            self.events_left -= 1;
            let bytes = told.bytes(&self.lent);
            self.world.borrow_mut().note(token, told.name(), bytes);
            return Some((token, told.done(&self.lent)));
        }
        None
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

impl Simulated {
    fn submit_to_listener(&mut self, op: Op) -> Submitted {
        match op {
            Op::Receive => self.accepting = true,
            Op::Pause => self.accepting = false,
            Op::Close => {
                self.accepting = false;
                self.world.borrow_mut().network.stop_listening();
                // As a kernel's queues: what was accepted is told of in the next turn.
                let events = std::mem::take(&mut self.events).into_iter();
                let (first, others): (Vec<_>, Vec<_>) =
                    events.partition(|(_, event)| matches!(event, Event::Accepted));
                self.owed = first.len();
                self.events = first.into_iter().chain(others).collect();
                return Submitted::Done(Outcome::Closed);
            }
            Op::Send { .. } | Op::Shutdown => {
                unreachable!("a listener neither sends nor shuts down")
            }
        }
        Submitted::Queued
    }

    /// Other threads go on meanwhile, and may wake this one; says whether they have more to do.
    fn let_others_work(&mut self, until: Option<u64>) -> bool {
        let chosen = self.random.random();
        let others = (self.world.borrow_mut().others)(chosen);
        if self.waker.clear() {
            self.events.push_back((Token::LISTENER, Event::Woken));
        } else {
            let sleeps = until.is_none_or(|until| until > NOW_NS);
            assert!(!(others.sent && sleeps), "nobody woke it");
        }
        others.work
    }

    fn now_ns(&self) -> u64 {
        self.world.borrow().network.now_ns()
    }

    fn pass(&self, then_ns: u64) {
        self.world.borrow().network.pass(then_ns);
    }

    fn chance(&mut self, of_100: u32) -> bool {
        self.random.random_ratio(of_100, 100)
    }

    /// When the next thing can happen.
    fn next_ns(&self, until: Option<u64>) -> Option<u64> {
        let world = self.world.borrow();
        let ends_ns = world.end.as_ref().and(world.ends_ns);
        let next_ns = [world.network.next_ns(), until, ends_ns];
        next_ns.into_iter().flatten().min()
    }

    fn end_if_due(&mut self) {
        let mut world = self.world.borrow_mut();
        let over = world.network.peers.iter().all(network::Peer::is_over);
        let due = world
            .ends_ns
            .is_some_and(|at_ns| at_ns <= world.network.now_ns());
        if (over || due)
            && let Some(end) = world.end.take()
        {
            end();
            world.told_ns = Some(world.network.now_ns());
            self.events.push_back((Token::LISTENER, Event::Woken));
        }
    }
}
