//! Signal-driven I/O: the kernel sends a real-time signal for each socket that becomes ready, with
//! its descriptor in it (fcntl(2): O_ASYNC, F_SETSIG), to the shard's own thread (F_SETOWN_EX).
//!
//! The signals are blocked and read from a signalfd, many at a time, so no handler ever runs. A
//! connection costs three `fcntl` in its life; a request costs one `recv` and one `send`; a turn
//! costs one `read` for all that is ready.
//!
//! **A full queue loses nothing.** Queued signals are limited for all processes of a user together
//! (RLIMIT_SIGPENDING). Where one cannot be queued the kernel sends a plain SIGIO instead
//! (`send_sigio_to_task` in fs/fcntl.c), which needs no place: then every socket is asked with
//! `poll`.
//!
//! **Stale signals do no harm.** A signal may be read after its socket was closed and its number
//! given to another. It then makes the other one be tried once for nothing.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigEvent, SigSet, SigevNotify, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::{gettid, read};

use super::readiness::{Event, Notifier, Readiness, Ready};
use super::waker::Bell;
use super::{Counts, Listener, Token, Waker};
use crate::measure::probe::{Probe, Stage};

/// Signals taken by one `read`; more wait for the next.
const SIGNALS: usize = 128;
/// `sizeof(struct signalfd_siginfo)`; signalfd(2) promises that it stays so.
const SIGNAL_BYTES: usize = 128;
/// Where its fields lie: `ssi_signo`, `ssi_fd`, `ssi_band`.
const SIGNO_AT: usize = 0;
const FD_AT: usize = 20;
const BAND_AT: usize = 28;
/// include/uapi/asm-generic/fcntl.h.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

/// Why signals cannot be used here, if so.
pub fn check() -> Result<(), String> {
    match timer() {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN) => Err(
            "the user's queued signals are used up; raise `ulimit -i` (RLIMIT_SIGPENDING)"
                .to_string(),
        ),
        Err(error) => Err(format!("a timer that signals a thread: {error}")),
    }
}

/// The driver.
pub type SignalDriven<P> = Readiness<Signals, P>;

/// The signals of one thread.
pub struct Signals {
    signals: SignalFd,
    timer: Timer,
    timer_set: Option<u64>,
    /// Rung by a signal like all else, which is read before the others: it has the lowest number.
    bell: Bell,
    /// Whose each descriptor is.
    owners: Vec<Option<Token>>,
    /// What was read, `filled` signals long.
    read: Box<[u8]>,
    filled: usize,
    cursor: usize,
    /// A signal did not fit the queue: every socket is to be asked.
    overflown: bool,
    /// What asking every socket has found, the first one last.
    asked: Vec<(Token, PollFlags)>,
}

impl Notifier for Signals {
    const TELLS_ALL: bool = false;

    fn open(listener: &Listener) -> io::Result<(Self, Waker)> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGIO);
        set.add(Signal::SIGALRM);
        set.add(Bell::SIGNAL);
        let mut with_real_time = *set.as_ref();
        // SAFETY: an initialised set, and a signal that exists; sigaddset(3) touches nothing else.
        Errno::result(unsafe { libc::sigaddset(&mut with_real_time, told_by()) })?;
        // SAFETY: it was made by nix and libc; the real-time signal in it is what nix cannot name.
        let set = unsafe { SigSet::from_sigset_t_unchecked(with_real_time) };
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC)?;
        let timer = timer()?;
        let bell = Bell::on_this_thread();
        let waker = bell.waker();
        let mut this = Self {
            signals,
            timer,
            timer_set: None,
            bell,
            owners: Vec::new(),
            read: vec![0; SIGNALS * SIGNAL_BYTES].into_boxed_slice(),
            filled: 0,
            cursor: 0,
            overflown: false,
            asked: Vec::new(),
        };
        this.arm(Token::LISTENER, listener.as_fd())?;
        Ok((this, waker))
    }

    fn add<P: Probe>(
        &mut self,
        token: Token,
        socket: BorrowedFd<'_>,
        counts: &Counts,
    ) -> io::Result<bool> {
        counts.fcntl.add(3);
        let armed = P::within(Stage::FileControl, || self.arm(token, socket));
        if armed.is_err() {
            self.remove(token, socket);
        }
        // What came before raises nothing.
        armed.map(|()| true)
    }

    /// A send that found no room has asked for the signal that tells of some.
    fn add_room<P: Probe>(&mut self, _: Token, _: BorrowedFd<'_>, _: &Counts) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, _: Token, socket: BorrowedFd<'_>) {
        if let Some(owner) = self.owners.get_mut(socket.as_raw_fd() as usize) {
            *owner = None;
        }
    }

    fn wait<P: Probe>(
        &mut self,
        may_sleep: bool,
        until: Option<u64>,
        counts: &Counts,
    ) -> io::Result<()> {
        self.filled = 0;
        self.cursor = 0;
        if std::mem::take(&mut self.overflown) {
            return self.ask_all::<P>(counts);
        }
        let later = until.filter(|_| may_sleep && self.timer_set != until);
        if let Some(until) = later {
            let at = Expiration::OneShot(Duration::from_nanos(until).into());
            counts.timer_settime.add(1);
            P::within(Stage::Timer, || {
                self.timer.set(at, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            })?;
            self.timer_set = Some(until);
        }
        if !may_sleep {
            counts.poll.add(1);
            let mut asked = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
            match P::within(Stage::Poll, || poll(&mut asked, PollTimeout::ZERO)) {
                Ok(0) | Err(Errno::EINTR) => return Ok(()),
                result => result?,
            };
        }
        counts.read.add(1);
        let taken = P::within(Stage::SignalRead, || read(&self.signals, &mut self.read));
        match taken {
            Ok(bytes) => self.filled = bytes / SIGNAL_BYTES,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn next<P: Probe>(&mut self, counts: &Counts) -> Option<Event> {
        if let Some((token, events)) = self.asked.pop() {
            return Some(told(token, events));
        }
        while self.cursor < self.filled {
            let signal = &self.read[self.cursor * SIGNAL_BYTES..][..SIGNAL_BYTES];
            self.cursor += 1;
            let signo = word(signal, SIGNO_AT).cast_signed();
            if signo == told_by() {
                let band = PollFlags::from_bits_truncate(word(signal, BAND_AT) as i16);
                if let Some(owner) = self.owner(word(signal, FD_AT).cast_signed()) {
                    return Some(told(owner, band));
                }
            } else if signo == libc::SIGALRM {
                self.timer_set = None;
            } else if signo == Bell::SIGNAL as libc::c_int {
                self.bell.heard();
                return Some(Event::Woken);
            } else {
                counts.signals_lost.add(1);
                self.overflown = true;
            }
        }
        None
    }
}

impl Signals {
    /// Has `socket` send its signals to this thread.
    fn arm(&mut self, token: Token, socket: BorrowedFd<'_>) -> io::Result<()> {
        #[repr(C)]
        struct Owner {
            kind: libc::c_int,
            id: libc::pid_t,
        }
        let owner = Owner {
            kind: F_OWNER_TID,
            id: gettid().as_raw(),
        };
        let fd = socket.as_raw_fd();
        // SAFETY: F_SETOWN_EX reads one `struct f_owner_ex`, which `owner` is, during the call.
        Errno::result(unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) })?;
        // SAFETY: F_SETSIG takes a number and touches no memory of ours.
        Errno::result(unsafe { libc::fcntl(fd, F_SETSIG, told_by()) })?;
        let place = fd as usize;
        if self.owners.len() <= place {
            self.owners.resize(place + 1, None);
        }
        self.owners[place] = Some(token);
        fcntl(
            socket,
            FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK),
        )?;
        Ok(())
    }

    fn owner(&self, fd: RawFd) -> Option<Token> {
        let place = usize::try_from(fd).ok()?;
        *self.owners.get(place)?
    }

    /// Asks every socket what it is ready for.
    fn ask_all<P: Probe>(&mut self, counts: &Counts) -> io::Result<()> {
        let known = || {
            let owners = self.owners.iter().enumerate();
            owners.filter_map(|(fd, owner)| Some((fd as RawFd, (*owner)?)))
        };
        let mut asked: Vec<PollFd<'_>> = known()
            .map(|(fd, _)| {
                // SAFETY: a descriptor is in `owners` for as long as its owner holds it open.
                let fd = unsafe { BorrowedFd::borrow_raw(fd) };
                PollFd::new(fd, PollFlags::POLLIN | PollFlags::POLLOUT)
            })
            .collect();
        counts.poll.add(1);
        match P::within(Stage::Poll, || poll(&mut asked, PollTimeout::ZERO)) {
            // A tick of the handler's deadline came in between: asked again in the next turn.
            Err(Errno::EINTR) => {
                self.overflown = true;
                return Ok(());
            }
            result => result?,
        };
        let found = known().zip(&asked).filter_map(|((_, token), asked)| {
            let events = asked.revents().filter(|events| !events.is_empty())?;
            // Once asked for is twice told: of bytes and of the end that may lie behind them.
            Some([(token, events); 2])
        });
        self.asked = found.flatten().collect();
        self.asked.reverse();
        Ok(())
    }
}

/// The timer of deadlines: it signals the calling thread.
fn timer() -> nix::Result<Timer> {
    let notify = SigevNotify::SigevThreadId {
        signal: Signal::SIGALRM,
        thread_id: gettid().as_raw(),
        si_value: 0,
    };
    Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify))
}

/// The signal that tells of sockets: the first one that the C library does not keep for itself.
fn told_by() -> libc::c_int {
    libc::SIGRTMIN()
}

fn told(token: Token, events: PollFlags) -> Event {
    match token {
        Token::LISTENER => Event::Listener,
        token => Event::Ready(token, ready(events)),
    }
}

fn word(signal: &[u8], at: usize) -> u32 {
    let bytes = signal[at..at + 4].try_into().expect("four of them");
    u32::from_ne_bytes(bytes)
}

fn ready(events: PollFlags) -> Ready {
    let ends = PollFlags::POLLHUP | PollFlags::POLLERR;
    Ready {
        readable: events.intersects(PollFlags::POLLIN | ends),
        sendable: events.intersects(PollFlags::POLLOUT | ends),
        hung_up: events.intersects(ends),
    }
}
