//! The other end: all connections are written to, then all are read from. It never sleeps: a server
//! that must wake its client pays for that by the answer, and how often depends on who happens to be
//! ahead, which has nothing to do with what is measured.

use std::hint::spin_loop;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{ANSWER_BYTES, CONNECTIONS, REQUEST_BYTES};

pub struct Client {
    streams: Vec<TcpStream>,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let connect = |_| {
            let stream = TcpStream::connect(address).expect("the echo listens");
            stream.set_nodelay(true).expect("a TCP socket");
            stream.set_nonblocking(true).expect("a TCP socket");
            stream
        };
        Self {
            streams: (0..CONNECTIONS).map(connect).collect(),
        }
    }

    /// Asks for so many answers, a few more at the end so that nobody waits for the last ones.
    pub fn run(mut self, answers: u64) {
        let request = [b'q'; REQUEST_BYTES];
        let mut answer = [0; ANSWER_BYTES];
        let rounds = answers.div_ceil(CONNECTIONS as u64);
        for _ in 0..rounds {
            for stream in &mut self.streams {
                // The echo ends with its last answer, and its connections with it.
                if stream.write_all(&request).is_err() {
                    return;
                }
            }
            for stream in &mut self.streams {
                let mut read = 0;
                while read < ANSWER_BYTES {
                    match stream.read(&mut answer[read..]) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => spin_loop(),
                        Ok(n @ 1..) => read += n,
                        _ => return,
                    }
                }
            }
        }
    }
}
