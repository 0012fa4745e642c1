//! The loop over a driver that plays a script, for what no kernel can be made to do at a given moment.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::sync_channel;

use super::*;
use crate::config::Config;
use crate::handlers::Handlers;
use crate::io::{Buf, Op, Waker};
use crate::measure::probe::Off;
use crate::offload::Threads;
use crate::sandbox::{Handler, Isolation, Limits, Source};
use crate::shard::sandbox;

type Act = Box<dyn FnOnce()>;

/// One connection, to which all of this happens in one turn, each with something done before it.
struct Scripted {
    script: Vec<(Act, Step)>,
    sent: Rc<RefCell<Vec<Vec<u8>>>>,
    /// What is on its way to the client.
    sending: Option<Buf>,
}

enum Step {
    Come(Done<'static>),
    /// The client has taken what was on its way.
    Taken,
}

impl Driver for Scripted {
    fn open(_: Listener, _: usize, _: Arc<Counts>) -> std::io::Result<Self> {
        unreachable!("each test opens its own")
    }

    fn submit(&mut self, token: Token, op: Op) -> Submitted {
        match op {
            Op::Send { buf, .. } => {
                self.sent.borrow_mut().push(buf.to_vec());
                self.sending = Some(buf);
                Submitted::Queued
            }
            Op::Close if token != Token::LISTENER => Submitted::Done(Outcome::Closed),
            _ => Submitted::Queued,
        }
    }

    fn wait(&mut self, _: Option<u64>) -> std::io::Result<()> {
        Ok(())
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        let (act, step) = self.script.pop()?;
        act();
        let done = match step {
            Step::Come(done) => done,
            Step::Taken => {
                let buf = self.sending.take().expect("an answer was sent");
                Done::Finished(Outcome::Sent(buf))
            }
        };
        Some((Token::numbered(0), done))
    }

    fn waker(&self) -> Waker {
        Waker::new().expect("a descriptor")
    }
}

fn load(name: &str) -> Handler {
    let source = Source::Builtin(name.to_owned());
    let limits = Limits::default();
    Handler::load(&source, Isolation::Native, &limits).expect("it is built in")
}

/// A shard with the handler `echo`.
fn shard(hub: Arc<Hub>, handlers: Arc<Handlers>) -> Shard {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    Shard {
        listener: listener.into(),
        loaded: [load("echo")].into(),
        handlers,
        config: Arc::new(Config::new(Source::Builtin("echo".to_owned()), vec![0])),
        hub,
        threads: Threads::default(),
        ready: sync_channel(1).0,
    }
}

/// Has a shard live through a script that ends it; what it sent.
fn play(hub: Arc<Hub>, handlers: Arc<Handlers>, script: Vec<(Act, Step)>) -> Vec<Vec<u8>> {
    let sent = Rc::default();
    let driver = Scripted {
        script: script.into_iter().rev().collect(),
        sent: Rc::clone(&sent),
        sending: None,
    };
    let shard = shard(hub, handlers);
    run_by::<Scripted, Off, _>(shard, Coarse, |_, _, _| Ok(driver)).expect("it ends");
    sent.take()
}

fn quietly(step: Step) -> (Act, Step) {
    (Box::new(|| ()), step)
}

fn received(bytes: impl Into<Vec<u8>>) -> Step {
    Step::Come(Done::Received(bytes.into().leak()))
}

/// A turn may be long: a busy core, a slow guest. What is asked within it, after an exchange, is
/// answered by the new handler all the same.
#[test]
fn a_request_received_after_an_exchange_is_answered_by_the_new_handler() {
    let hub = Arc::new(Hub::new(1));
    let handlers = Arc::<Handlers>::default();
    let exchange = {
        let handlers = handlers.clone();
        move || {
            let hello = sandbox(&load("hello")).expect("it was loaded before");
            handlers.exchange(0, hello);
        }
    };
    let draining = hub.clone();
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let script = vec![
        quietly(Step::Come(Done::Accepted)),
        quietly(received(request)),
        quietly(Step::Taken),
        (Box::new(exchange), received(request)),
        quietly(Step::Taken),
        (
            Box::new(move || draining.advance(Stage::Draining)),
            Step::Come(Done::EndOfStream),
        ),
    ];
    let sent = play(hub, handlers, script);
    let said_hello = sent
        .iter()
        .map(|answer| String::from_utf8_lossy(answer).contains("Hello"));
    assert_eq!(said_hello.collect::<Vec<_>>(), [false, true]);
}

/// Reading is paused while a large answer is on its way, and yet more comes: the kernel had it
/// already. It is looked at when the answer is gone, even if nothing follows.
#[test]
fn what_comes_while_reading_is_paused_is_answered_afterwards() {
    let body = "x".repeat(100_000);
    let request = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n{body}");
    let twice = request.repeat(2);
    let (first, second) = twice.split_at(request.len() + 1000);
    let hub = Arc::new(Hub::new(1));
    let draining = hub.clone();
    let script = vec![
        quietly(Step::Come(Done::Accepted)),
        quietly(received(first)),
        quietly(received(second)),
        quietly(Step::Taken),
        quietly(Step::Taken),
        (
            Box::new(move || draining.advance(Stage::Draining)),
            Step::Come(Done::EndOfStream),
        ),
    ];
    let sent = play(hub, Arc::default(), script);
    let bodies = sent.iter().map(|answer| answer.ends_with(body.as_bytes()));
    assert_eq!(bodies.collect::<Vec<_>>(), [true, true]);
}

/// A driver with one silent connection, which sleeps as long as it may and counts how often.
struct Sleeper {
    now_ms: Rc<Cell<u64>>,
    waits: Rc<Cell<u64>>,
    accepted: bool,
    hub: Arc<Hub>,
}

/// More waits than a loop that does not turn in vain ever makes here.
const TOO_MANY_WAITS: u64 = 10_000;

impl Driver for Sleeper {
    fn open(_: Listener, _: usize, _: Arc<Counts>) -> std::io::Result<Self> {
        unreachable!("each test opens its own")
    }

    fn submit(&mut self, token: Token, op: Op) -> Submitted {
        match op {
            Op::Close if token != Token::LISTENER => Submitted::Done(Outcome::Closed),
            _ => Submitted::Queued,
        }
    }

    fn wait(&mut self, until_ns: Option<u64>) -> std::io::Result<()> {
        let until_ms = until_ns.map_or(0, |until| until / 1_000_000);
        self.now_ms.set(self.now_ms.get().max(until_ms));
        self.waits.set(self.waits.get() + 1);
        if self.now_ms.get() > 10 * SWEEP_MS || self.waits.get() > TOO_MANY_WAITS {
            self.hub.advance(Stage::Draining);
        }
        Ok(())
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        let first = !std::mem::replace(&mut self.accepted, true);
        first.then_some((Token::numbered(0), Done::Accepted))
    }

    fn waker(&self) -> Waker {
        Waker::new().expect("a descriptor")
    }
}

/// A clock that is so many milliseconds behind the one that timers keep.
struct Behind(Rc<Cell<u64>>, u64);

impl Time for Behind {
    fn now_ms(&self) -> u64 {
        self.0.get().saturating_sub(self.1)
    }

    fn of_day(&self) -> std::time::Duration {
        std::time::Duration::ZERO
    }

    fn step_ms(&self) -> u64 {
        5
    }
}

/// The clock stands while the loop turns, so a timer for a time that has passed would be set for ever.
#[test]
fn a_clock_that_is_behind_costs_a_wait_for_each_step() {
    for (behind_ms, waits_a_sweep) in [(0, 1), (4, 1), (8, 2), (20, 4)] {
        let hub = Arc::new(Hub::new(1));
        let (now_ms, waits) = (Rc::new(Cell::new(1000)), Rc::<Cell<u64>>::default());
        let driver = Sleeper {
            now_ms: now_ms.clone(),
            waits: waits.clone(),
            accepted: false,
            hub: hub.clone(),
        };
        let shard = shard(hub, Arc::default());
        let time = Behind(now_ms, behind_ms);
        run_by::<Sleeper, Off, _>(shard, time, |_, _, _| Ok(driver)).expect("it ends");
        // Ten sweeps at most; a few more waits at the beginning and at the end.
        let most = 10 * waits_a_sweep + 2 * u64::from(QUIET_TURNS) + 4;
        assert!(waits.get() <= most, "{behind_ms} ms: {}", waits.get());
    }
}

/// A driver with two connections: one is silent, and the other sends a byte of an endless header in each
/// turn, until the silent one is closed.
struct Chatty {
    waits: u64,
    /// The turn in which the silent one was closed.
    closed: Rc<Cell<Option<u64>>>,
    /// The other one was closed.
    left: bool,
    /// The last one is told first.
    events: Vec<(Token, Done<'static>)>,
    hub: Arc<Hub>,
}

impl Driver for Chatty {
    fn open(_: Listener, _: usize, _: Arc<Counts>) -> std::io::Result<Self> {
        unreachable!("each test opens its own")
    }

    fn submit(&mut self, token: Token, op: Op) -> Submitted {
        match op {
            Op::Close if token != Token::LISTENER => {
                if token == Token::numbered(0) {
                    self.closed.set(Some(self.waits));
                } else {
                    self.left = true;
                }
                Submitted::Done(Outcome::Closed)
            }
            _ => Submitted::Queued,
        }
    }

    fn wait(&mut self, _: Option<u64>) -> std::io::Result<()> {
        let [silent, chatty] = [0, 1].map(Token::numbered);
        self.waits += 1;
        match self.waits {
            1 => {
                let begins = Done::Received(b"GET / HTTP/1.1\r\nX: ");
                let accepted = [(chatty, Done::Accepted), (silent, Done::Accepted)];
                self.events.push((chatty, begins));
                self.events.extend(accepted);
                self.hub.advance(Stage::Draining);
            }
            _ if self.left => {}
            waits if self.closed.get().is_some() || waits > TOO_MANY_WAITS => {
                self.events.push((chatty, Done::EndOfStream));
            }
            _ => self.events.push((chatty, Done::Received(b"x"))),
        }
        Ok(())
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        self.events.pop()
    }

    fn waker(&self) -> Waker {
        Waker::new().expect("a descriptor")
    }
}

/// Who is idle is ended when nothing more comes, or when enough was waited for that.
#[test]
fn who_sends_on_and_on_does_not_hold_up_a_drain() {
    let hub = Arc::new(Hub::new(2));
    let closed = Rc::<Cell<Option<u64>>>::default();
    let driver = Chatty {
        waits: 0,
        closed: closed.clone(),
        left: false,
        events: Vec::new(),
        hub: hub.clone(),
    };
    let shard = shard(hub, Arc::default());
    // Before the listener is closed, and after.
    let most = 2 * (shard.config.connections + SPARE_CONNECTIONS) as u64 + 1;
    run_by::<Chatty, Off, _>(shard, Coarse, |_, _, _| Ok(driver)).expect("it ends");
    let closed = closed.get().expect("it is closed");
    assert!(closed <= most, "in turn {closed}");
}
