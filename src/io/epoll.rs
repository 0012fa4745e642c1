//! I/O multiplexing: one epoll set per shard, edge-triggered, receive first and send directly.
//!
//! The best epoll that anyone would write, since every other model is read against it. A
//! connection costs one `epoll_ctl` in its life (a second one only after a short send); a request
//! costs one `recv` and one `send`; a turn costs one `epoll_wait` for all that is ready.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::readiness::{Event, Notifier, Readiness, Ready};
use super::{Counts, Listener, Token, Waker};
use crate::measure::probe::{Probe, Stage};

/// Events taken by one `epoll_wait`; more wait for the next.
const EVENTS: usize = 512;

const WAKER: Token = Token {
    index: u32::MAX,
    generation: 1,
};
const TIMER: Token = Token {
    index: u32::MAX,
    generation: 2,
};

/// Why epoll cannot be used here, if so.
pub fn check() -> Result<(), String> {
    Ok(())
}

/// The driver.
pub type Epoll<P> = Readiness<Set, P>;

/// The epoll set, with a timer and the waker in it.
pub struct Set {
    set: nix::sys::epoll::Epoll,
    waker: Waker,
    timer: TimerFd,
    timer_set: Option<u64>,
    events: Vec<EpollEvent>,
    filled: usize,
    cursor: usize,
}

impl Notifier for Set {
    const TELLS_ALL: bool = false;

    fn open(listener: &Listener) -> io::Result<(Self, Waker)> {
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
        let this = Self {
            set,
            waker: waker.clone(),
            timer,
            timer_set: None,
            events: vec![EpollEvent::empty(); EVENTS],
            filled: 0,
            cursor: 0,
        };
        Ok((this, waker))
    }

    fn add<P: Probe>(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        counts: &Counts,
    ) -> io::Result<bool> {
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        counts.epoll_ctl.add(1);
        P::within(Stage::EpollControl, || {
            self.set.add(socket, EpollEvent::new(events, pack(token)))
        })?;
        // Adding looks at the socket: what came before is told of (epoll_ctl(2)).
        Ok(false)
    }

    fn add_room<P: Probe>(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        counts: &Counts,
    ) -> io::Result<()> {
        let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let events = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | ends;
        counts.epoll_ctl.add(1);
        Ok(P::within(Stage::EpollControl, || {
            self.set
                .modify(socket, &mut EpollEvent::new(events, pack(token)))
        })?)
    }

    /// The set lets go of a socket that is closed.
    fn remove(&mut self, _: Token, _: BorrowedFd<'_>) {}

    fn wait<P: Probe>(
        &mut self,
        may_sleep: bool,
        until: Option<u64>,
        counts: &Counts,
    ) -> io::Result<()> {
        let later = until.filter(|_| may_sleep && self.timer_set != until);
        if let Some(until) = later {
            let at = Expiration::OneShot(TimeSpec::from_duration(Duration::from_nanos(until)));
            counts.timerfd_settime.add(1);
            P::within(Stage::Timer, || {
                self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            })?;
            self.timer_set = Some(until);
        }
        let timeout = if may_sleep {
            EpollTimeout::NONE
        } else {
            EpollTimeout::ZERO
        };
        counts.epoll_wait.add(1);
        let waited = P::within(Stage::EpollWait, || {
            self.set.wait(&mut self.events, timeout)
        });
        self.filled = match waited {
            Ok(n) => n,
            Err(Errno::EINTR) => 0,
            Err(error) => return Err(error.into()),
        };
        self.cursor = 0;
        Ok(())
    }

    fn next<P: Probe>(&mut self, counts: &Counts) -> Option<Event> {
        while self.cursor < self.filled {
            let event = self.events[self.cursor];
            self.cursor += 1;
            match unpack(event.data()) {
                Token::LISTENER => return Some(Event::Listener),
                TIMER => self.timer_set = None,
                WAKER => {
                    counts.read.add(1);
                    P::within(Stage::EventRead, || self.waker.clear());
                    return Some(Event::Woken);
                }
                token => return Some(Event::Ready(token, ready(event.events()))),
            }
        }
        None
    }
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

fn ready(events: EpollFlags) -> Ready {
    let ends = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR;
    Ready {
        readable: events.intersects(EpollFlags::EPOLLIN | ends),
        sendable: events.intersects(EpollFlags::EPOLLOUT | ends),
        hung_up: events.intersects(ends),
    }
}
