//! Signal-driven: a real-time signal for each socket that is ready, read many at a time.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{MsgFlags, recv, send};
use nix::unistd::{gettid, read};
use ringlab::io::listener::Listener;

use super::{ANSWER_BYTES, CONNECTIONS, Meter};

/// Of `struct signalfd_siginfo`, and where its `ssi_fd` lies.
const SIGNAL_BYTES: usize = 128;
const FD_AT: usize = 20;

pub fn echo(listener: Listener, meter: &mut Meter) {
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(false).expect("a socket");
    let streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| listener.accept().expect("the client connects").0)
        .collect();
    let signals = told_by_signals(&streams);
    let answers = vec![[b'a'; ANSWER_BYTES]; CONNECTIONS];
    let mut buffer = vec![0; 64 * 1024];
    let mut told = vec![0; 128 * SIGNAL_BYTES];
    // What came before a socket was armed raises nothing.
    let mut ready: Vec<i32> = streams.iter().map(AsRawFd::as_raw_fd).collect();
    loop {
        for socket in ready.drain(..) {
            if matches!(recv(socket, &mut buffer, MsgFlags::empty()), Ok(1..)) {
                send(
                    socket,
                    &answers[socket as usize % CONNECTIONS],
                    MsgFlags::MSG_NOSIGNAL,
                )
                .expect("there is room");
                if meter.answered() {
                    return;
                }
            }
        }
        let length = match read(&signals, &mut told) {
            Err(Errno::EINTR) => continue,
            length => length.expect("it is open"),
        };
        let sockets = told[..length].chunks_exact(SIGNAL_BYTES).map(|signal| {
            let fd = signal[FD_AT..FD_AT + 4].try_into().expect("four bytes");
            i32::from_ne_bytes(fd)
        });
        ready.extend(sockets);
    }
}

fn told_by_signals(streams: &[TcpStream]) -> SignalFd {
    let mut set = *SigSet::empty().as_ref();
    // SAFETY: an initialised set and a signal that exists.
    unsafe { libc::sigaddset(&mut set, libc::SIGRTMIN()) };
    // SAFETY: made by nix, with one real-time signal added.
    let set = unsafe { SigSet::from_sigset_t_unchecked(set) };
    set.thread_block().expect("a valid set");
    for stream in streams {
        // F_SETOWN_EX with F_OWNER_TID, and F_SETSIG (include/uapi/asm-generic/fcntl.h).
        let owner = [0, gettid().as_raw()];
        // SAFETY: F_SETOWN_EX reads two ints, which `owner` is; F_SETSIG takes a number.
        unsafe {
            libc::fcntl(stream.as_raw_fd(), 15, owner.as_ptr());
            libc::fcntl(stream.as_raw_fd(), 10, libc::SIGRTMIN());
        }
        fcntl(
            stream,
            FcntlArg::F_SETFL(OFlag::O_ASYNC | OFlag::O_NONBLOCK),
        )
        .expect("a socket");
    }
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC).expect("Linux has it")
}
