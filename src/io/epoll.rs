//! I/O multiplexing: one epoll set per shard, edge-triggered, receive first and send directly.
//!
//! The best epoll that anyone would write, since every other model is read against it. A
//! connection costs one `epoll_ctl` in its life (a second one only after a short send); a request
//! costs one `recv` and one `send`; a turn costs one `epoll_wait` for all that is ready.
//!
//! Edge-triggered sets demand that a socket be read dry before the next edge is waited for. A
//! `recv` that returns less than it was offered has done so (epoll(7), question 9), so the usual
//! request needs no second `recv` that only says EAGAIN.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, Shutdown, SockFlag, accept4, recv, send, shutdown};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::listener;
use super::slots::Slots;
use super::{Counts, Done, Driver, Listener, Op, Outcome, Submitted, Token, Waker};
use crate::io::Buf;
use crate::measure::probe::{Probe, Stage};

/// Events taken by one `epoll_wait`; more wait for the next.
const EVENTS: usize = 512;
/// Offered to each `recv`. One buffer serves all connections, since bytes are lent and used at once.
const RECEIVE_BYTES: usize = 64 * 1024;
/// Connections accepted in one turn, so that a flood of them cannot hold up those that exist.
const ACCEPTS_PER_TURN: usize = 64;

const WAKER: Token = Token {
    index: u32::MAX,
    generation: 1,
};
const TIMER: Token = Token {
    index: u32::MAX,
    generation: 2,
};

/// The driver.
pub struct Epoll<P> {
    set: nix::sys::epoll::Epoll,
    listener: Option<Listener>,
    accepting: bool,
    /// The listener had connections when last looked at, or an edge came since.
    acceptable: bool,
    accepts_left: usize,
    waker: Waker,
    timer: TimerFd,
    timer_set: Option<u64>,
    connections: Slots<Connection>,
    events: Vec<EpollEvent>,
    filled: usize,
    cursor: usize,
    /// Connections to look at again although no new edge will say so.
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
    /// An edge came, and the socket has not been read dry since.
    readable: bool,
    /// An edge told of the peer's end, which lies behind the bytes: no further edge will.
    hung_up: bool,
    /// The set already watches for room to send.
    watches_out: bool,
    /// A buffer of which the kernel took only the first part.
    sending: Option<(Buf, usize)>,
}

/// Why epoll cannot be used here, if so.
pub fn check() -> Result<(), String> {
    Ok(())
}

fn pack(token: Token) -> u64 {
    u64::from(token.index) << 32 | u64::from(token.generation)
}

fn unpack(data: u64) -> Token {
    Token {
        index: (data >> 32) as u32,
        generation: data as u32,
    }
}

impl<P: Probe> Driver for Epoll<P> {
    fn open(listener: Listener, connections: usize, counts: Arc<Counts>) -> io::Result<Self> {
        let set = nix::sys::epoll::Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let waker = Waker::new()?;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let edge = EpollFlags::EPOLLIN | EpollFlags::EPOLLET;
        set.add(
            listener.as_fd(),
            EpollEvent::new(edge, pack(Token::LISTENER)),
        )?;
        set.add(waker.as_fd(), EpollEvent::new(edge, pack(WAKER)))?;
        set.add(&timer, EpollEvent::new(edge, pack(TIMER)))?;
        Ok(Self {
            set,
            listener: Some(listener),
            accepting: false,
            acceptable: false,
            accepts_left: 0,
            waker,
            timer,
            timer_set: None,
            connections: Slots::new(connections),
            events: vec![EpollEvent::empty(); EVENTS],
            filled: 0,
            cursor: 0,
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
                    self.again.push_back(token);
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
                let _ = P::within(Stage::OtherCalls, || {
                    shutdown(connection.socket.as_raw_fd(), Shutdown::Write)
                });
                Submitted::Queued
            }
            Op::Close => {
                self.counts.close.add(1);
                P::within(Stage::OtherCalls, || self.connections.remove(token));
                Submitted::Done(Outcome::Closed)
            }
        }
    }

    fn wait(&mut self, until: Option<u64>) -> io::Result<()> {
        if let Some(until) = until.filter(|_| self.timer_set != until) {
            let at = Expiration::OneShot(TimeSpec::from_duration(std::time::Duration::from_nanos(
                until,
            )));
            P::within(Stage::OtherCalls, || {
                self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            })?;
            self.counts.timerfd_settime.add(1);
            self.timer_set = Some(until);
        }
        let idle = self.again.is_empty() && !(self.accepting && self.acceptable);
        let timeout = if idle {
            EpollTimeout::NONE
        } else {
            EpollTimeout::ZERO
        };
        self.counts.epoll_wait.add(1);
        let waited = P::within(Stage::EpollWait, || {
            self.set.wait(&mut self.events, timeout)
        });
        self.filled = match waited {
            Ok(n) => n,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        self.cursor = 0;
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
            let (token, flags) = self.upcoming()?;
            if token.index == u32::MAX {
                match token {
                    Token::LISTENER => self.acceptable = true,
                    TIMER => self.timer_set = None,
                    _ => {
                        self.counts.read.add(1);
                        P::within(Stage::OtherCalls, || self.waker.clear());
                        return Some((token, Done::Woken));
                    }
                }
                continue;
            }
            let Some(connection) = self.connections.get(token) else {
                continue; // closed earlier in this turn
            };
            let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
            connection.readable |= flags.intersects(!EpollFlags::EPOLLOUT);
            connection.hung_up |= flags.intersects(ends);
            let sendable = flags.intersects(ends | EpollFlags::EPOLLOUT);
            if let Some((buf, from)) = connection.sending.take_if(|_| sendable) {
                let receives = connection.readable && connection.receiving;
                if let Some(outcome) = self.send(token, buf, from) {
                    if receives {
                        self.again.push_back(token);
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
                    connection.readable = n == self.buffer.len() || connection.hung_up;
                    if connection.readable {
                        self.again.push_back(token);
                    }
                    return Some((token, Done::Received(&self.buffer[..n])));
                }
                Err(Errno::EAGAIN) => connection.readable = false,
                Err(Errno::EINTR) => self.again.push_back(token),
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

impl<P: Probe> Epoll<P> {
    fn submit_to_listener(&mut self, op: Op) -> Submitted {
        match op {
            Op::Receive => {
                self.accepting = true;
                self.acceptable = true; // the edge may have come before anyone asked
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
            hung_up: false,
            watches_out: false,
            sending: None,
        };
        let token = self.connections.insert(connection).map_err(|_| {
            self.accepting = false;
            io::Error::from(Errno::ENFILE)
        })?;
        let watched = EpollEvent::new(
            EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET,
            pack(token),
        );
        self.counts.epoll_ctl.add(1);
        let connection = self.connections.get(token).expect("just inserted");
        let added = P::within(Stage::EpollControl, || {
            self.set.add(&connection.socket, watched)
        });
        if let Err(error) = added {
            self.accepting = false;
            self.connections.remove(token);
            return Err(error.into());
        }
        Ok(token)
    }

    /// The next thing to look at in this turn: first what the kernel told, then what was left over.
    fn upcoming(&mut self) -> Option<(Token, EpollFlags)> {
        if self.cursor < self.filled {
            let event = self.events[self.cursor];
            self.cursor += 1;
            return Some((unpack(event.data()), event.events()));
        }
        self.again_now = self.again_now.checked_sub(1)?;
        self.again
            .pop_front()
            .map(|token| (token, EpollFlags::EPOLLIN))
    }

    /// `None` when the kernel had no room for all of it: an edge will say when there is.
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
                    connection.sending = Some((buf, from));
                    if !connection.watches_out {
                        connection.watches_out = true;
                        let mut watched = EpollEvent::new(
                            EpollFlags::EPOLLIN
                                | EpollFlags::EPOLLOUT
                                | EpollFlags::EPOLLRDHUP
                                | EpollFlags::EPOLLET,
                            pack(token),
                        );
                        self.counts.epoll_ctl.add(1);
                        let modified = P::within(Stage::EpollControl, || {
                            self.set.modify(&connection.socket, &mut watched)
                        });
                        if let Err(error) = modified {
                            let (buf, _) = connection.sending.take().expect("just set");
                            return Some(Outcome::SendFailed(buf, error.into()));
                        }
                    }
                    return None;
                }
                Err(error) => return Some(Outcome::SendFailed(buf, error.into())),
            }
        }
        Some(Outcome::Sent(buf))
    }
}
