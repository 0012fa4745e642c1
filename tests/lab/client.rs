//! The other end of a connection: sends any bytes, and reads whole answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use crate::PATIENCE;

/// A connection.
pub struct Client {
    stream: TcpStream,
    /// Received, and not yet read as a part of an answer.
    received: Vec<u8>,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// The head as it came, its empty line included.
    pub head: String,
    pub body: Vec<u8>,
}

/// What becomes of a connection after its last answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// A further request is answered.
    Stays,
    /// FIN comes, and no reset before it.
    Closes,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP socket");
        stream
            .set_read_timeout(Some(PATIENCE))
            .expect("a time over zero");
        let client = Self {
            stream,
            received: Vec::new(),
        };
        client.limit_writes(PATIENCE);
        client
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .expect("the server takes it");
    }

    /// Sends from a thread of its own, then FIN, so that this one can read meanwhile.
    pub fn send_aside(&self, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
        let mut stream = self.stream.try_clone().expect("a descriptor is free");
        thread::spawn(move || {
            stream.write_all(&bytes)?;
            stream.shutdown(Shutdown::Write)
        })
    }

    /// Sends as much as the server takes without being read from; says how much that was, or that
    /// the server has closed.
    pub fn send_what_fits(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let brief = Duration::from_millis(50);
        self.limit_writes(brief);
        let mut sent = 0;
        while sent < bytes.len() {
            match self.stream.write(&bytes[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.limit_writes(PATIENCE);
        Ok(sent)
    }

    fn limit_writes(&self, time: Duration) {
        self.stream
            .set_write_timeout(Some(time))
            .expect("a time over zero");
    }

    /// Sends FIN; reading goes on.
    pub fn send_fin(&self) {
        self.stream
            .shutdown(Shutdown::Write)
            .expect("still connected");
    }

    /// Leaves with a reset.
    pub fn reset(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&self.stream, sockopt::Linger, &linger).expect("a TCP socket");
    }

    /// Is gone without a word, neither FIN nor reset, as a machine that loses power (TCP_REPAIR,
    /// Linux 3.5).
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN: it has left all the same, with FIN or a reset.
    pub fn vanish(self) -> io::Result<()> {
        let on: libc::c_int = 1;
        // SAFETY: the kernel reads one number, which `on` is, during the call.
        let set = unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_REPAIR,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        nix::errno::Errno::result(set)?;
        Ok(())
    }

    /// The next answer.
    pub fn receive(&mut self) -> Response {
        let (status, head) = self.receive_head();
        let length = header(&head, "content-length")
            .map_or(0, |length| length.parse().expect("a length is a number"));
        while self.received.len() < length {
            assert!(self.fill() > 0, "the body ends early, after {head:?}");
        }
        let body = self.received.drain(..length).collect();
        Response { status, head, body }
    }

    /// The next answer, if any of it has come already.
    pub fn receive_if_there(&mut self) -> Option<Response> {
        self.stream.set_nonblocking(true).expect("a TCP socket");
        let found = self.try_to_fill(64 * 1024).is_ok_and(|length| length > 0);
        self.stream.set_nonblocking(false).expect("a TCP socket");
        found.then(|| self.receive())
    }

    /// The next answer, to a HEAD request.
    pub fn receive_without_body(&mut self) -> Response {
        let (status, head) = self.receive_head();
        let body = Vec::new();
        Response { status, head, body }
    }

    fn receive_head(&mut self) -> (u16, String) {
        let length = loop {
            if let Some(at) = find(&self.received, b"\r\n\r\n") {
                break at + 4;
            }
            let so_far = self.received.len();
            assert!(
                self.fill() > 0,
                "the stream ends {so_far} bytes into a head"
            );
        };
        let head: Vec<u8> = self.received.drain(..length).collect();
        let head = String::from_utf8(head).expect("heads are text");
        let status = head
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head:?}"));
        (status, head)
    }

    /// All that comes before FIN.
    pub fn receive_all(&mut self) -> Vec<u8> {
        while self.fill() > 0 {}
        std::mem::take(&mut self.received)
    }

    /// Takes in at most `limit` bytes of what is to be read later.
    pub fn receive_some(&mut self, limit: usize) {
        assert!(self.fill_up_to(limit) > 0, "FIN came");
    }

    /// Takes in one byte, if the server has not ended the connection.
    pub fn sip(&mut self) -> bool {
        self.try_to_fill(1).is_ok_and(|length| length > 0)
    }

    /// Takes in at least `bytes` of what is to be read later.
    pub fn receive_at_least(&mut self, bytes: usize) {
        while self.received.len() < bytes {
            self.receive_some(64 * 1024);
        }
    }

    fn fill(&mut self) -> usize {
        self.fill_up_to(64 * 1024)
    }

    /// Receives some of what there is; 0 is FIN.
    fn fill_up_to(&mut self, limit: usize) -> usize {
        self.try_to_fill(limit).unwrap_or_else(|error| {
            let unread = String::from_utf8_lossy(&self.received);
            panic!("{error}, with {unread:?} unread")
        })
    }

    fn try_to_fill(&mut self, limit: usize) -> io::Result<usize> {
        let mut buffer = vec![0; limit];
        loop {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => {
                    let length = result?;
                    self.received.extend_from_slice(&buffer[..length]);
                    return Ok(length);
                }
            }
        }
    }

    /// Whether a request is answered, where the server may as well refuse or drop the connection.
    pub fn is_served(&mut self) -> bool {
        self.finish(&get("/")) == Some(200)
    }

    /// Sends a request, or the rest of one; with which status it is answered, if it is.
    pub fn finish(&mut self, rest: &str) -> Option<u16> {
        self.send_what_fits(rest.as_bytes()).ok()?;
        let length = self.try_to_fill(64 * 1024).ok()?;
        (length > 0).then(|| self.receive().status)
    }

    /// Asserts that FIN is all that still comes.
    pub fn expect_fin(&mut self) {
        let more = self.fill();
        let received = String::from_utf8_lossy(&self.received);
        assert_eq!((more, &*received), (0, ""), "where FIN was to come");
    }

    /// Asserts that a further request is answered; the handler must be `hello` or `echo`.
    pub fn expect_open(&mut self) {
        self.send("GET /still-there HTTP/1.1\r\nHost: lab\r\n\r\n");
        assert_eq!(self.receive().status, 200);
    }

    pub fn expect(&mut self, then: Then) {
        match then {
            Then::Stays => self.expect_open(),
            Then::Closes => self.expect_fin(),
        }
    }
}

impl Response {
    /// The value of a header field.
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A GET request.
pub fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: lab\r\n\r\n")
}

/// A POST request whose body is framed by its length.
pub fn post(body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST /post HTTP/1.1\r\nHost: lab\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// A POST request whose body comes in chunks of `chunk` bytes.
pub fn post_chunked(body: &[u8], chunk: usize) -> Vec<u8> {
    let mut request =
        b"POST /post HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for chunk in body.chunks(chunk) {
        request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        request.extend(chunk);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    request
}

/// `length` bytes that tell where they stand, so that none can be lost or swapped unseen.
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}
