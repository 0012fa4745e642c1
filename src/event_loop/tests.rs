//! The loop over a driver that plays a script, for what no kernel can be made to do at a given moment.

use std::cell::RefCell;
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

/// Has a shard with the handler `echo` live through a script that ends it; what it sent.
fn play(hub: Arc<Hub>, handlers: Arc<Handlers>, script: Vec<(Act, Step)>) -> Vec<Vec<u8>> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let shard = Shard {
        listener: listener.into(),
        loaded: [load("echo")].into(),
        handlers,
        config: Arc::new(Config::new(Source::Builtin("echo".to_owned()), vec![0])),
        hub,
        threads: Threads::default(),
        ready: sync_channel(1).0,
    };
    let sent = Rc::default();
    let driver = Scripted {
        script: script.into_iter().rev().collect(),
        sent: Rc::clone(&sent),
        sending: None,
    };
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
