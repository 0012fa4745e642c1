//! Load from the thread that measures: it knows when it loads and when it does not.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Answers of `hello` are all of one length, which the first tells.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";

/// A connection that does not block, which was answered once; and how many bytes that was.
pub fn open(address: SocketAddr) -> (TcpStream, usize) {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("it is a TCP socket");
    stream.write_all(REQUEST).expect("it is connected");
    let answer_bytes = stream.read(&mut [0; 4096]).expect("it is answered");
    stream.set_nonblocking(true).expect("it is a socket");
    (stream, answer_bytes)
}

/// How many bytes of an answer have come, if any.
pub fn came(mut stream: &TcpStream) -> usize {
    match stream.read(&mut [0; 512]) {
        Ok(0) => panic!("the server closed a connection"),
        Ok(came) => came,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            0
        }
    }
}

/// Connections that are asked in turn whether the answer has come, and send the next request then.
///
/// Nobody sleeps for an answer, so no send has to wake anybody: that costs as much as the rest of a
/// send or more, and whether it must be done changes from one millisecond to the next.
pub struct Clients {
    streams: Vec<TcpStream>,
    /// Bytes of its answer that each has still to receive.
    missing: Vec<usize>,
    answer_bytes: usize,
}

impl Clients {
    /// So many, to each of those addresses in turn, each with a request under way.
    pub fn connect(addresses: &[SocketAddr], connections: usize) -> Self {
        let mut answer_bytes = 0;
        let connect = |&address: &SocketAddr| {
            let (mut stream, bytes) = open(address);
            answer_bytes = bytes;
            stream.write_all(REQUEST).expect("there is room for one");
            stream
        };
        let addresses = addresses.iter().cycle().take(connections);
        let streams: Vec<_> = addresses.map(connect).collect();
        Self {
            missing: vec![answer_bytes; streams.len()],
            streams,
            answer_bytes,
        }
    }

    /// Asks and answers for so long.
    pub fn drive(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.go_round(true);
        }
    }

    /// Takes the answers that are still to come, and asks for no others until the next drive.
    pub fn finish(&mut self) {
        while self.missing.iter().any(|missing| *missing > 0) {
            self.go_round(false);
        }
    }

    /// Looks at each connection once; sends another request where none is under way, if it `asks`.
    fn go_round(&mut self, asks: bool) {
        for (stream, missing) in self.streams.iter_mut().zip(&mut self.missing) {
            if *missing > 0 {
                *missing -= came(stream);
            }
            if *missing == 0 && asks {
                stream.write_all(REQUEST).expect("there is room for one");
                *missing = self.answer_bytes;
            }
        }
    }
}
