//! The decoder, judged by what comes out for what goes in, however the bytes are cut.
//!
//! [`check`] feeds each case whole, byte by byte, through the carry from the start, and each of
//! these with a next request behind it; the answer must be the same every time. [`Peer`] stands
//! for the session and does with the bytes what the module's head tells a session to do.

mod bodies;
mod heads;
mod streams;

use super::*;

/// What a stream came to, each request as `POST /x 1.1 keep-alive 5:hello`.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    requests: Vec<String>,
    end: End,
}

#[derive(Clone, Debug, PartialEq)]
enum End {
    Waiting(Waiting),
    Rejected { reject: Reject, head_only: bool },
}

/// A session without sockets.
struct Peer {
    decoder: Decoder,
    carry: Vec<u8>,
    limits: Limits,
    requests: Vec<String>,
    rejected: Option<Reject>,
    continues: usize,
    carried_max: usize,
}

impl Peer {
    fn new(limits: Limits) -> Self {
        Peer {
            decoder: Decoder::new(),
            carry: Vec::new(),
            limits,
            requests: Vec::new(),
            rejected: None,
            continues: 0,
            carried_max: 0,
        }
    }

    /// One read: decoded where it lies, and carried only as far as it must be.
    fn read(&mut self, mut lent: &[u8]) {
        while self.rejected.is_none() {
            if self.carry.is_empty() {
                let mut storage = HeaderStorage::new();
                match self.decoder.decode(lent, &mut storage, &self.limits) {
                    Step::Request {
                        request, consumed, ..
                    } => {
                        self.requests.push(render(&request));
                        lent = &lent[consumed..];
                        continue;
                    }
                    Step::Incomplete { send_continue } => {
                        self.continues += usize::from(send_continue);
                        self.carry.extend_from_slice(lent);
                        self.note_carried();
                        return;
                    }
                    Step::Reject(reject) => {
                        self.rejected = Some(reject);
                        return;
                    }
                    Step::Carry => {}
                }
            }
            self.carry.extend_from_slice(lent);
            let Some(left) = self.turn_carry() else {
                return;
            };
            lent = &lent[lent.len() - left..];
            self.carry.clear();
        }
    }

    /// One read, by a session that never looks at lent bytes.
    fn read_carried(&mut self, lent: &[u8]) {
        self.carry.extend_from_slice(lent);
        while self.rejected.is_none() {
            match self.turn_carry() {
                Some(left) => drop(self.carry.drain(..self.carry.len() - left)),
                None => return,
            }
        }
    }

    /// One call on the carry; the bytes left behind a request, or `None` if there was none.
    fn turn_carry(&mut self) -> Option<usize> {
        let mut storage = HeaderStorage::new();
        let step = self
            .decoder
            .decode_carried(&mut self.carry, &mut storage, &self.limits);
        match step {
            Step::Request {
                request, consumed, ..
            } => {
                self.requests.push(render(&request));
                Some(self.carry.len() - consumed)
            }
            Step::Incomplete { send_continue } => {
                self.continues += usize::from(send_continue);
                self.note_carried();
                None
            }
            Step::Carry => panic!("Carry from decode_carried"),
            Step::Reject(reject) => {
                self.rejected = Some(reject);
                None
            }
        }
    }

    fn note_carried(&mut self) {
        self.carried_max = self.carried_max.max(self.carry.len());
        assert!(self.carry.len() <= self.limits.carry_bytes());
    }

    fn outcome(self) -> Outcome {
        Outcome {
            end: match self.rejected {
                Some(reject) => End::Rejected {
                    reject,
                    head_only: self.decoder.head_only(),
                },
                None => End::Waiting(self.decoder.waiting_for()),
            },
            requests: self.requests,
        }
    }
}

fn render(request: &Request<'_, '_>) -> String {
    assert!(request.head.starts_with(request.method.as_bytes()));
    assert!(request.head.ends_with(b"\n"));
    let within = request.head.as_ptr_range();
    for header in request.headers {
        assert!(within.contains(&header.name.as_ptr()));
        assert!(within.contains(&header.value.as_ptr()));
    }
    let version = match request.version {
        Version::Http10 => "1.0",
        Version::Http11 => "1.1",
    };
    let connection = match request.keep_alive {
        true => "keep-alive",
        false => "close",
    };
    format!(
        "{} {} {version} {connection} {}:{}",
        request.method,
        request.target,
        request.body.len(),
        request.body.escape_ascii()
    )
}

/// Small enough that a test can cross each of them.
const SMALL: Limits = Limits {
    target_bytes: 40,
    head_bytes: 200,
    body_bytes: 50,
};

const NEXT: &[u8] = b"GET /next HTTP/1.1\r\nhost: n\r\n\r\n";

fn feed<'a>(limits: Limits, reads: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut peer = Peer::new(limits);
    reads.into_iter().for_each(|read| peer.read(read));
    peer.outcome()
}

/// The outcome of `wire`, which every way of cutting it must give.
fn decode_all_ways(wire: &[u8], limits: Limits) -> Outcome {
    let whole = feed(limits, [wire]);
    assert_eq!(feed(limits, wire.chunks(1)), whole, "byte by byte");
    let mut carried = Peer::new(limits);
    carried.read_carried(wire);
    assert_eq!(carried.outcome(), whole, "whole, carried");
    let mut carried = Peer::new(limits);
    wire.chunks(1).for_each(|byte| carried.read_carried(byte));
    assert_eq!(carried.outcome(), whole, "byte by byte, carried");
    whole
}

fn check_limits(limits: Limits, wire: &[u8], requests: &[&str], end: End) {
    let shown = wire.escape_ascii().to_string();
    let mut expected = Outcome {
        requests: requests.iter().map(|&line| line.to_owned()).collect(),
        end,
    };
    assert_eq!(decode_all_ways(wire, limits), expected, "{shown}");

    // Behind a part of a request, further bytes would only be more of it.
    match expected.end {
        End::Waiting(Waiting::Head | Waiting::Body) => return,
        End::Waiting(Waiting::Request) => expected
            .requests
            .push("GET /next 1.1 keep-alive 0:".to_owned()),
        End::Rejected { .. } => {}
    }
    let trailing = [wire, NEXT].concat();
    assert_eq!(
        decode_all_ways(&trailing, limits),
        expected,
        "{shown} and a next"
    );
}

/// Whole requests, and nothing after them.
fn check(wire: &str, requests: &[&str]) {
    let end = End::Waiting(Waiting::Request);
    check_limits(Limits::default(), wire.as_bytes(), requests, end);
}

/// A part of one request.
fn check_waits(wire: &str, waiting: Waiting) {
    let end = End::Waiting(waiting);
    check_limits(Limits::default(), wire.as_bytes(), &[], end);
}

/// A first request that is rejected.
fn check_rejects(wire: impl AsRef<[u8]>, status: u16, reject: Reject) {
    check_rejects_within(Limits::default(), wire, status, reject);
}

fn check_rejects_within(limits: Limits, wire: impl AsRef<[u8]>, status: u16, reject: Reject) {
    assert_eq!(reject.status, status);
    let wire = wire.as_ref();
    // The request line alone says whether it is HEAD; none of these is, but for those that begin so.
    let head_only = wire.starts_with(b"HEAD ");
    check_limits(limits, wire, &[], End::Rejected { reject, head_only });
}

/// A head with `lines` after the Host field, and what follows the head.
fn post(lines: &str, rest: &str) -> String {
    format!("POST /x HTTP/1.1\r\nhost: a\r\n{lines}\r\n{rest}")
}

fn chunked(rest: &str) -> String {
    post("transfer-encoding: chunked\r\n", rest)
}
