//! Load from the thread that measures, of clients who come for one request and leave: what a server does for a
//! connection it does for each.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Who is answered so is left first, and what lingers of the connection is the server's: the client's ports
/// are free at once, and there is no end to them.
pub const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n";
/// And a byte that nobody will read: the server says that it sends no more, and waits for the client to leave.
pub const ONE_BYTE_MORE: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\nx";

/// So many at once, who are asked in turn whether they were answered. Nobody sleeps.
pub struct Visitors {
    address: SocketAddr,
    /// What each says.
    says: &'static [u8],
    visits: Vec<Option<TcpStream>>,
}

impl Visitors {
    pub fn new(address: SocketAddr, at_once: usize, says: &'static [u8]) -> Self {
        let visits = (0..at_once).map(|_| None).collect();
        Self {
            address,
            says,
            visits,
        }
    }

    /// They come and go for so long.
    pub fn drive(&mut self, time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            self.go_round(true);
        }
    }

    /// All go, and none comes until the next drive.
    pub fn finish(&mut self) {
        while self.visits.iter().any(Option::is_some) {
            self.go_round(false);
        }
    }

    fn go_round(&mut self, come: bool) {
        for visit in &mut self.visits {
            if visit.as_ref().is_some_and(is_over) {
                *visit = None;
            }
            if visit.is_none() && come {
                *visit = Some(ask(self.address, self.says));
            }
        }
    }
}

fn ask(address: SocketAddr, says: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.write_all(says).expect("it is connected");
    stream.set_nonblocking(true).expect("it is a socket");
    stream
}

/// Whether the server has said all it had to say.
fn is_over(mut stream: &TcpStream) -> bool {
    loop {
        match stream.read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                return false;
            }
        }
    }
}
