//! The kernel's side of the generator: nonblocking TCP sockets and one
//! edge-triggered epoll per thread.
//!
//! Fixed on purpose: whatever the server uses, the client is this one, so
//! that servers can be compared. It keeps no state of connections and never
//! touches their bytes. A request in steady state costs one `send`, one
//! `recv` and its share of an `epoll_pwait2`; interest is set once, when a
//! connection is opened, and never changed.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, recv, send,
    setsockopt, socket, sockopt,
};

/// Events taken from the kernel at once. More would make the last of a batch
/// wait longer in here, and its latency is counted until it is read.
const BATCH: usize = 64;

/// Registered once for both directions: with edges, readiness to write costs
/// nothing until a short write asks for it.
const INTEREST: EpollFlags = EpollFlags::EPOLLIN
    .union(EpollFlags::EPOLLOUT)
    .union(EpollFlags::EPOLLRDHUP)
    .union(EpollFlags::EPOLLET);

/// What became ready on a connection.
#[derive(Clone, Copy, Debug)]
pub struct Ready {
    /// As given to [`Driver::connect`].
    pub token: u64,
    flags: EpollFlags,
}

impl Ready {
    /// There may be bytes, an end of stream or an error to receive.
    pub fn to_receive(self) -> bool {
        self.flags.intersects(
            EpollFlags::EPOLLIN
                | EpollFlags::EPOLLRDHUP
                | EpollFlags::EPOLLHUP
                | EpollFlags::EPOLLERR,
        )
    }

    /// There may be room to send; also the end of a successful connect.
    pub fn to_send(self) -> bool {
        self.flags.contains(EpollFlags::EPOLLOUT)
    }

    /// The peer sends nothing after what can be received now.
    pub fn peer_is_done(self) -> bool {
        self.flags
            .intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP)
    }

    /// The socket failed; after a connect, the connect did.
    pub fn failed(self) -> bool {
        self.flags
            .intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP)
    }
}

/// How often a thread waited, and for how much.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitCounts {
    /// Calls of `epoll_pwait2` that returned at least one event.
    pub woken: u64,
    /// Calls that returned none: a timeout, or the spin before a planned send.
    pub empty: u64,
    /// Events returned.
    pub events: u64,
}

impl WaitCounts {
    /// What was counted since `earlier`.
    pub fn since(self, earlier: Self) -> Self {
        Self {
            woken: self.woken - earlier.woken,
            empty: self.empty - earlier.empty,
            events: self.events - earlier.events,
        }
    }

    /// The sum of two threads' counts.
    pub fn plus(self, other: Self) -> Self {
        Self {
            woken: self.woken + other.woken,
            empty: self.empty + other.empty,
            events: self.events + other.events,
        }
    }
}

/// One thread's epoll. Dropping a socket removes it (epoll(7), questions).
#[derive(Debug)]
pub struct Driver {
    epoll: Epoll,
    events: [EpollEvent; BATCH],
    pub counts: WaitCounts,
}

impl Driver {
    pub fn new() -> nix::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            events: [EpollEvent::empty(); BATCH],
            counts: WaitCounts::default(),
        })
    }

    /// Begins to connect. The end comes as an event: ready to send, or failed.
    pub fn connect(&self, address: &SocketAddr, token: u64) -> nix::Result<OwnedFd> {
        let family = match address {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(family, SockType::Stream, flags, None)?;
        // The rest of a pipelined batch must not wait for an acknowledgement.
        setsockopt(&fd, sockopt::TcpNoDelay, &true)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(*address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        self.epoll.add(&fd, EpollEvent::new(INTEREST, token))?;
        Ok(fd)
    }

    /// Why a connect failed.
    pub fn connect_error(fd: &OwnedFd) -> Errno {
        match getsockopt(fd, sockopt::SocketError) {
            Ok(0) => Errno::ECONNABORTED,
            Ok(code) => Errno::from_raw(code),
            Err(errno) => errno,
        }
    }

    /// Receives what is there: at most `buffer`, 0 at the end of the stream,
    /// `EAGAIN` when there is nothing.
    #[inline]
    pub fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> nix::Result<usize> {
        recv(fd.as_raw_fd(), buffer, MsgFlags::empty())
    }

    /// Sends as much as there is room for, `EAGAIN` when there is none.
    #[inline]
    pub fn send(fd: &OwnedFd, bytes: &[u8]) -> nix::Result<usize> {
        send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL)
    }

    /// Makes the kernel report readiness again, though no edge has passed: for
    /// a reader that stops before the socket is drained.
    pub fn report_again(&self, fd: &OwnedFd, token: u64) -> nix::Result<()> {
        self.epoll.modify(fd, &mut EpollEvent::new(INTEREST, token))
    }

    /// Waits for events, at most `timeout_ns`; 0 only looks. Returns how many
    /// [`event`](Self::event)s there are. A signal counts as a timeout.
    #[inline]
    pub fn wait(&mut self, timeout_ns: u64) -> nix::Result<usize> {
        // epoll_wait(2) counts in milliseconds, which is far too coarse to
        // pace by. epoll_pwait2(2), Linux 5.11, takes nanoseconds.
        let timeout = libc::timespec {
            tv_sec: (timeout_ns / 1_000_000_000) as libc::time_t,
            tv_nsec: (timeout_ns % 1_000_000_000) as libc::c_long,
        };
        // SAFETY: `events` is writable memory for BATCH records of the layout
        // of `epoll_event` (EpollEvent is a transparent wrapper), `timeout`
        // outlives the call, and a null signal mask leaves the mask alone.
        // nix and libc have no wrapper for this call.
        let count = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.0.as_raw_fd(),
                self.events.as_mut_ptr(),
                BATCH as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                0_usize,
            )
        };
        match Errno::result(count) {
            Ok(0) | Err(Errno::EINTR) => {
                self.counts.empty += 1;
                Ok(0)
            }
            Ok(count) => {
                self.counts.woken += 1;
                self.counts.events += count as u64;
                Ok(count as usize)
            }
            Err(errno) => Err(errno),
        }
    }

    /// The `index`th event of the last wait.
    #[inline]
    pub fn event(&self, index: usize) -> Ready {
        let event = self.events[index];
        Ready {
            token: event.data(),
            flags: event.events(),
        }
    }
}
