//! Busy polling over sockets that do not block.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockFlag, accept4, recv, send};
use ringlab::io::listener::Listener;

use super::{ANSWER_BYTES, CONNECTIONS, Meter};

pub fn echo(listener: Listener, meter: &mut Meter) {
    let listener = TcpListener::from(listener);
    listener.set_nonblocking(false).expect("a socket");
    let streams: Vec<TcpStream> = (0..CONNECTIONS)
        .map(|_| listener.accept().expect("the client connects").0)
        .collect();
    for stream in &streams {
        stream.set_nonblocking(true).expect("a socket");
    }
    listener.set_nonblocking(true).expect("a socket");
    let answers = vec![[b'a'; ANSWER_BYTES]; CONNECTIONS];
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Whoever polls must also look for new connections.
        let none = accept4(listener.as_raw_fd(), SockFlag::SOCK_NONBLOCK);
        assert_eq!(none, Err(Errno::EAGAIN));
        for (stream, answer) in streams.iter().zip(&answers) {
            let socket = stream.as_raw_fd();
            if matches!(recv(socket, &mut buffer, MsgFlags::empty()), Ok(1..)) {
                send(socket, answer, MsgFlags::MSG_NOSIGNAL).expect("there is room");
                if meter.answered() {
                    return;
                }
            }
        }
    }
}
