//! Edge-triggered epoll, receive first and send directly.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send};
use ringlab::io::listener::Listener;

use super::{ANSWER_BYTES, CONNECTIONS, Meter};

pub fn echo(listener: Listener, meter: &mut Meter) {
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(false).expect("a socket");
    let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("Linux has it");
    let edges = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
    let streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| listener.accept().expect("the client connects").0)
        .collect();
    for (nth, stream) in streams.iter().enumerate() {
        stream.set_nonblocking(true).expect("a socket");
        set.add(stream, EpollEvent::new(edges, nth as u64))
            .expect("a socket");
    }
    let answers = vec![[b'a'; ANSWER_BYTES]; CONNECTIONS];
    let mut buffer = vec![0; 64 * 1024];
    let mut events = vec![EpollEvent::empty(); 512];
    loop {
        let found = match set.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            found => found.expect("the set is open"),
        };
        for event in &events[..found] {
            let nth = event.data() as usize;
            let socket = streams[nth].as_raw_fd();
            if matches!(recv(socket, &mut buffer, MsgFlags::empty()), Ok(1..)) {
                send(socket, &answers[nth], MsgFlags::MSG_NOSIGNAL).expect("there is room");
                if meter.answered() {
                    return;
                }
            }
        }
    }
}
