//! No kernel: canned requests in, answers thrown away. What is left is what the lab itself costs,
//! and the floor that the other models are read against.
//!
//! There are always as many connections, each of which has a request as soon as its last one is
//! answered: a closed loop without a client. Nobody can connect, and nothing ever waits, so there
//! is no open loop either.

use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};

use super::slots::Slots;
use super::waker::Flag;
use super::{Counts, Done, Driver, Listener, Op, Outcome, Submitted, Token, Waker};
use crate::measure::probe::Probe;

/// As many as `compare` opens by default.
const CONNECTIONS: usize = 64;

/// What each of them asks for, again and again.
static REQUEST: OnceLock<Vec<u8>> = OnceLock::new();

/// Why it cannot be used here, if so.
pub fn check() -> Result<(), String> {
    Ok(())
}

/// Has every connection of every shard ask for `path`; without it, or too late, it is `/`.
pub fn ask_for(path: &str) {
    let _ = REQUEST.set(request(path));
}

/// As the generator writes it, byte for byte but for the digits of a port.
fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1:40000\r\n\r\n").into_bytes()
}

/// The driver.
pub struct Null<P> {
    connections: Slots<Connection>,
    /// In the order in which they have their turn.
    tokens: Vec<Token>,
    cursor: usize,
    request: &'static [u8],
    accepting: bool,
    woken: Flag,
    probe: PhantomData<P>,
}

struct Connection {
    receiving: bool,
    /// Its request has not been answered yet.
    asked: bool,
}

impl<P: Probe> Driver for Null<P> {
    fn open(_: Listener, connections: usize, _: Arc<Counts>) -> io::Result<Self> {
        Ok(Self {
            connections: Slots::new(CONNECTIONS.min(connections)),
            tokens: Vec::new(),
            cursor: 0,
            request: REQUEST.get_or_init(|| request("/")),
            accepting: false,
            woken: Flag::default(),
            probe: PhantomData,
        })
    }

    fn submit(&mut self, token: Token, op: Op) -> Submitted {
        if token == Token::LISTENER {
            return self.submit_to_listener(op);
        }
        let Some(connection) = self.connections.get(token) else {
            return Submitted::Queued;
        };
        match op {
            Op::Receive => connection.receiving = true,
            Op::Pause => connection.receiving = false,
            Op::Send { buf, .. } => {
                connection.asked = false;
                return Submitted::Done(Outcome::Sent(buf));
            }
            Op::Shutdown => {}
            Op::Close => {
                self.connections.remove(token);
                self.tokens.retain(|other| *other != token);
                return Submitted::Done(Outcome::Closed);
            }
        }
        Submitted::Queued
    }

    fn wait(&mut self, _: Option<u64>) -> io::Result<()> {
        self.cursor = 0;
        Ok(())
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        if self.accepting {
            let new = Connection {
                receiving: false,
                asked: false,
            };
            match self.connections.insert(new) {
                Ok(token) => {
                    self.tokens.push(token);
                    return Some((token, Done::Accepted));
                }
                Err(_) => self.accepting = false,
            }
        }
        if self.woken.take() {
            return Some((Token::LISTENER, Done::Woken));
        }
        loop {
            let token = *self.tokens.get(self.cursor)?;
            self.cursor += 1;
            let Some(connection) = self.connections.get(token) else {
                continue;
            };
            if connection.receiving && !connection.asked {
                connection.asked = true;
                return Some((token, Done::Received(self.request)));
            }
        }
    }

    fn waker(&self) -> Waker {
        self.woken.waker()
    }
}

impl<P: Probe> Null<P> {
    fn submit_to_listener(&mut self, op: Op) -> Submitted {
        self.accepting = matches!(op, Op::Receive);
        match op {
            Op::Receive | Op::Pause => Submitted::Queued,
            Op::Close => Submitted::Done(Outcome::Closed),
            Op::Send { .. } | Op::Shutdown => {
                unreachable!("a listener neither sends nor shuts down")
            }
        }
    }
}
