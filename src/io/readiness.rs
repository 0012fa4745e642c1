//! Readiness: a socket is tried when it is said to be ready, and the call that is tried moves the
//! bytes at once.
//!
//! What is common to `epoll`, `signal` and `nonblocking` is here, once: sockets that do not block,
//! accept4, recv, send. They differ in how a thread learns that a socket is ready, which is a
//! [`Notifier`], and in nothing else.
//!
//! A notifier tells of changes (edges), so a socket is remembered as readable until it was read dry.
//! A `recv` that returns less than it was offered has done so (epoll(7), question 9): the usual
//! request needs no second one that only says EAGAIN.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, SockFlag, accept4, recv, send, shutdown};

use super::listener;
use super::slots::Slots;
use super::{Buf, Counts, Done, Driver, Listener, NOW_NS, Op, Outcome, Submitted, Token, Waker};
use crate::measure::probe::{Probe, Stage};

/// Offered to each `recv`. One buffer serves all connections, since bytes are lent and used at once.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Connections accepted in one turn, so that a flood of them cannot hold up those that exist.
const ACCEPTS_PER_TURN: usize = 64;

/// How a thread learns which of its sockets are ready.
pub(super) trait Notifier: Sized {
    /// Every turn tells of every socket: nothing need be remembered between two.
    const TELLS_ALL: bool;

    /// A notifier that tells of `listener`, and what wakes it.
    fn open(listener: &Listener) -> io::Result<(Self, Waker)>;

    /// Tells of `socket` from now on. True: not of what came before, so it must be tried.
    fn add<P: Probe>(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        counts: &Counts,
    ) -> io::Result<bool>;

    /// A send found no room: tells of room too, from now on.
    fn add_room<P: Probe>(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        counts: &Counts,
    ) -> io::Result<()>;

    /// `socket` is about to be closed.
    fn remove(&mut self, token: Token, socket: BorrowedFd<'_>);

    /// Finds out what is ready; if `may_sleep`, waits for it, or until `until` (CLOCK_MONOTONIC,
    /// nanoseconds).
    fn wait<P: Probe>(
        &mut self,
        may_sleep: bool,
        until: Option<u64>,
        counts: &Counts,
    ) -> io::Result<()>;

    /// The next thing that `wait` found.
    fn next<P: Probe>(&mut self, counts: &Counts) -> Option<Event>;
}

/// What a notifier tells.
pub(super) enum Event {
    /// A connection may wait to be accepted.
    Listener,
    /// Somebody used the waker.
    Woken,
    /// A connection may be ready.
    Ready(Token, Ready),
    /// A connection had more than was taken the last time.
    Again(Token),
}

/// For what a connection may be ready.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ready {
    /// There are bytes, or an end, or an error.
    pub(super) readable: bool,
    /// There is room to send, or an error.
    pub(super) sendable: bool,
    /// The peer's end lies behind the bytes: no further edge will tell of it.
    pub(super) hung_up: bool,
}

/// The driver.
pub struct Readiness<N, P> {
    notifier: N,
    listener: Option<Listener>,
    accepting: bool,
    /// The listener had connections when last looked at, or may have some since.
    acceptable: bool,
    accepts_left: usize,
    waker: Waker,
    connections: Slots<Connection>,
    /// Connections to look at again although nothing new will be told of them.
    again: VecDeque<Token>,
    /// How many of `again` belong to this turn; later ones wait for the next.
    again_now: usize,
    buffer: Box<[u8]>,
    counts: Arc<Counts>,
    probe: PhantomData<P>,
}

struct Connection {
    socket: OwnedFd,
    receiving: bool,
    /// Told of, and not read dry since.
    readable: bool,
    /// Told of twice since bytes were taken last: behind them may lie an end.
    twice: bool,
    /// See [`Ready::hung_up`].
    hung_up: bool,
    /// The notifier already tells of room.
    tells_room: bool,
    /// A buffer of which the kernel took only the first part.
    sending: Option<(Buf, usize)>,
}

impl<N: Notifier, P: Probe> Driver for Readiness<N, P> {
    fn open(listener: Listener, connections: usize, counts: Arc<Counts>) -> io::Result<Self> {
        let (notifier, waker) = N::open(&listener)?;
        Ok(Self {
            notifier,
            listener: Some(listener),
            accepting: false,
            acceptable: false,
            accepts_left: 0,
            waker,
            connections: Slots::new(connections),
            again: VecDeque::new(),
            again_now: 0,
            buffer: vec![0; RECEIVE_BYTES].into_boxed_slice(),
            counts,
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
            Op::Receive => {
                connection.receiving = true;
                if connection.readable {
                    self.again(token);
                }
                Submitted::Queued
            }
            Op::Pause => {
                connection.receiving = false;
                Submitted::Queued
            }
            Op::Send { buf, .. } => self
                .send(token, buf, 0)
                .map_or(Submitted::Queued, Submitted::Done),
            Op::Shutdown => {
                self.counts.shutdown.add(1);
                // A failure means that the peer is gone; receiving will say so.
                let _ = P::within(Stage::Shutdown, || {
                    shutdown(connection.socket.as_raw_fd(), Shutdown::Write)
                });
                Submitted::Queued
            }
            Op::Close => {
                self.notifier.remove(token, connection.socket.as_fd());
                self.counts.close.add(1);
                P::within(Stage::Close, || self.connections.remove(token));
                Submitted::Done(Outcome::Closed)
            }
        }
    }

    fn wait(&mut self, until: Option<u64>) -> io::Result<()> {
        let nothing_left = self.again.is_empty() && !(self.accepting && self.acceptable);
        let may_sleep = nothing_left && until != Some(NOW_NS);
        self.notifier.wait::<P>(may_sleep, until, &self.counts)?;
        self.again_now = self.again.len();
        self.accepts_left = ACCEPTS_PER_TURN;
        Ok(())
    }

    fn next(&mut self) -> Option<(Token, Done<'_>)> {
        loop {
            if self.accepting && self.acceptable && self.accepts_left > 0 {
                match self.accept() {
                    Some(Ok(token)) => return Some((token, Done::Accepted)),
                    Some(Err(error)) => return Some((Token::LISTENER, Done::AcceptFailed(error))),
                    None => {}
                }
            }
            let (token, ready) = match self.upcoming()? {
                Event::Ready(token, ready) => (token, ready),
                Event::Again(token) => (token, Ready::default()),
                Event::Woken => return Some((Token::LISTENER, Done::Woken)),
                Event::Listener => {
                    self.acceptable = true;
                    continue;
                }
            };
            let Some(connection) = self.connections.get(token) else {
                continue; // closed earlier in this turn
            };
            connection.twice |= connection.readable && ready.readable;
            connection.readable |= ready.readable;
            connection.hung_up |= ready.hung_up;
            if let Some((buf, from)) = connection.sending.take_if(|_| ready.sendable) {
                let receives = connection.readable && connection.receiving;
                if let Some(outcome) = self.send(token, buf, from) {
                    if receives {
                        self.again(token);
                    }
                    return Some((token, Done::Finished(outcome)));
                }
            }
            let connection = self.connections.get(token).expect("seen above");
            if !(connection.readable && connection.receiving) {
                continue;
            }
            self.counts.recv.add(1);
            let received = P::within(Stage::Receive, || {
                recv(
                    connection.socket.as_raw_fd(),
                    &mut self.buffer,
                    MsgFlags::empty(),
                )
            });
            match received {
                Ok(0) => {
                    connection.readable = false;
                    return Some((token, Done::EndOfStream));
                }
                Ok(n) => {
                    connection.readable = n == self.buffer.len()
                        || connection.hung_up
                        || std::mem::take(&mut connection.twice);
                    if connection.readable {
                        self.again(token);
                    }
                    return Some((token, Done::Received(&self.buffer[..n])));
                }
                Err(Errno::EAGAIN) => connection.readable = false,
                Err(Errno::EINTR) => self.again(token),
                Err(error) => {
                    connection.readable = false;
                    return Some((token, Done::Reset(error.into())));
                }
            }
        }
    }

    fn waker(&self) -> Waker {
        self.waker.clone()
    }
}

#[expect(private_bounds, reason = "a notifier is a model's own affair")]
impl<N: Notifier, P: Probe> Readiness<N, P> {
    fn submit_to_listener(&mut self, op: Op) -> Submitted {
        match op {
            Op::Receive => {
                self.accepting = true;
                self.acceptable = true; // it may have been told of before anyone asked
            }
            Op::Pause => self.accepting = false,
            Op::Close => {
                self.accepting = false;
                self.listener = None;
                return Submitted::Done(Outcome::Closed);
            }
            Op::Send { .. } | Op::Shutdown => {
                unreachable!("a listener neither sends nor shuts down")
            }
        }
        Submitted::Queued
    }

    /// One connection, or `None` when no more are waiting.
    fn accept(&mut self) -> Option<io::Result<Token>> {
        loop {
            let listener = self.listener.as_ref()?;
            self.accepts_left = self.accepts_left.checked_sub(1)?;
            self.counts.accept4.add(1);
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            match P::within(Stage::Accept, || accept4(listener.as_raw_fd(), flags)) {
                Ok(fd) => {
                    // SAFETY: accept4 just opened this descriptor for us, and nobody else has it.
                    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
                    return Some(self.adopt(socket));
                }
                Err(Errno::EAGAIN) => {
                    self.acceptable = false;
                    return None;
                }
                Err(errno) if listener::is_the_clients(errno) => {}
                Err(error) => {
                    self.accepting = false;
                    return Some(Err(error.into()));
                }
            }
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Token> {
        let connection = Connection {
            socket,
            receiving: false,
            readable: false,
            twice: false,
            hung_up: false,
            tells_room: false,
            sending: None,
        };
        let token = self.connections.insert(connection).map_err(|_| {
            self.accepting = false;
            super::no_place()
        })?;
        let connection = self.connections.get(token).expect("just inserted");
        let added = self
            .notifier
            .add::<P>(token, connection.socket.as_fd(), &self.counts);
        match added {
            Ok(untold) => {
                connection.readable = untold;
                connection.twice = untold;
            }
            Err(error) => {
                self.accepting = false;
                self.connections.remove(token);
                return Err(error);
            }
        }
        Ok(token)
    }

    /// The next thing to look at in this turn: first what was told, then what was left over.
    fn upcoming(&mut self) -> Option<Event> {
        if let Some(event) = self.notifier.next::<P>(&self.counts) {
            return Some(event);
        }
        self.again_now = self.again_now.checked_sub(1)?;
        self.again.pop_front().map(Event::Again)
    }

    fn again(&mut self, token: Token) {
        if !N::TELLS_ALL {
            self.again.push_back(token);
        }
    }

    /// `None` when the kernel had no room for all of it: the notifier will say when there is.
    fn send(&mut self, token: Token, buf: Buf, mut from: usize) -> Option<Outcome> {
        let connection = self.connections.get(token)?;
        while from < buf.len() {
            self.counts.send.add(1);
            let sent = P::within(Stage::Send, || {
                send(
                    connection.socket.as_raw_fd(),
                    &buf[from..],
                    MsgFlags::MSG_NOSIGNAL,
                )
            });
            match sent {
                Ok(n) => from += n,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    if !connection.tells_room {
                        connection.tells_room = true;
                        let socket = connection.socket.as_fd();
                        let added = self.notifier.add_room::<P>(token, socket, &self.counts);
                        if let Err(error) = added {
                            return Some(Outcome::SendFailed(buf, error));
                        }
                    }
                    connection.sending = Some((buf, from));
                    return None;
                }
                Err(error) => return Some(Outcome::SendFailed(buf, error.into())),
            }
        }
        Some(Outcome::Sent(buf))
    }
}
