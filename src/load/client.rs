//! One connection's life: requests in flight, and bytes in to answers out.
//!
//! Sans I/O: no sockets and no clock. The worker says what it sent and when,
//! hands over what came, and asks what is still to be written.

use super::request::Rendered;
use super::response::{Asked, Decoded, Decoder, Fault, KnownHead, Response};

/// A request in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// When it was due. Latency counts from here.
    pub planned_ns: u64,
    /// When sending began. Service time counts from here.
    pub sent_ns: u64,
    /// Index of its target.
    pub target: u16,
}

/// What bytes from the peer came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// All bytes were taken; no further answer is complete.
    NeedMore,
    /// The oldest request in flight was answered.
    Answered(Sent, Response),
    /// Bytes that answer nothing.
    Unsolicited,
    /// The stream cannot be followed; close the connection.
    Broken(Fault),
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    /// Requests in order of sending, as a ring.
    flight: Box<[Sent]>,
    first: usize,
    in_flight: usize,
    /// Of those, the youngest that are not wholly written yet.
    unwritten: usize,
    /// Bytes of the oldest unwritten one that are written.
    offset: usize,
    decoder: Decoder,
}

impl Client {
    /// Room for `depth` requests in flight.
    pub fn new(depth: usize) -> Self {
        Self {
            flight: vec![Sent::default(); depth].into_boxed_slice(),
            first: 0,
            in_flight: 0,
            unwritten: 0,
            offset: 0,
            decoder: Decoder::default(),
        }
    }

    /// Requests that are neither answered nor failed.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The request in flight that has waited longest.
    pub fn oldest(&self) -> Option<Sent> {
        (self.in_flight > 0).then(|| self.flight[self.first])
    }

    /// Whether a part of an answer came, and the rest did not.
    pub fn is_inside_answer(&self) -> bool {
        self.decoder.is_inside()
    }

    /// Takes a request on; its bytes are now to be written.
    ///
    /// # Panics
    /// If more than the ring holds are in flight.
    #[inline]
    pub fn push(&mut self, sent: Sent) {
        assert!(self.in_flight < self.flight.len(), "pipeline overrun");
        let at = self.index(self.in_flight);
        self.flight[at] = sent;
        self.in_flight += 1;
        self.unwritten += 1;
    }

    /// The target whose bytes are to be written next, and from which byte on.
    pub fn output(&self) -> Option<(u16, usize)> {
        (self.unwritten > 0).then(|| {
            let next = self.flight[self.index(self.in_flight - self.unwritten)];
            (next.target, self.offset)
        })
    }

    /// Notes that the next `count` bytes of output were written.
    #[inline]
    pub fn wrote(&mut self, count: usize, requests: &[Rendered]) {
        self.offset += count;
        while let Some((target, offset)) = self.output() {
            let length = requests[usize::from(target)].bytes.len();
            if offset < length {
                return;
            }
            self.offset -= length;
            self.unwritten -= 1;
        }
    }

    /// Takes bytes off `input` up to the end of one answer. `known` holds one
    /// remembered head for each of `requests`.
    #[inline]
    pub fn absorb(
        &mut self,
        input: &mut &[u8],
        requests: &[Rendered],
        known: &mut [KnownHead],
    ) -> Step {
        if input.is_empty() {
            return Step::NeedMore;
        }
        let Some(oldest) = self.oldest() else {
            return Step::Unsolicited;
        };
        let target = usize::from(oldest.target);
        let asked = Asked {
            is_head: requests[target].is_head,
            body: requests[target].body.as_deref(),
        };
        match self.decoder.decode(input, &mut known[target], asked) {
            Decoded::NeedMore => Step::NeedMore,
            Decoded::Broken(fault) => Step::Broken(fault),
            Decoded::Complete(mut response) => {
                self.pop();
                // Answered before it was wholly written: what the server makes
                // of the rest is unknown, so nothing may follow it.
                if self.unwritten > self.in_flight {
                    self.unwritten = self.in_flight;
                    self.offset = 0;
                    response.keep_alive = false;
                }
                Step::Answered(oldest, response)
            }
        }
    }

    /// Gives up the oldest request in flight.
    pub fn abandon(&mut self) -> Option<Sent> {
        let oldest = self.oldest()?;
        self.pop();
        self.unwritten = self.unwritten.min(self.in_flight);
        Some(oldest)
    }

    /// The connection is a new one. Whatever was in flight was abandoned before.
    pub fn reset(&mut self) {
        debug_assert_eq!(self.in_flight, 0);
        self.unwritten = 0;
        self.offset = 0;
        self.decoder.reset();
    }

    #[inline]
    fn pop(&mut self) {
        self.first = self.index(1);
        self.in_flight -= 1;
    }

    /// Position in the ring of the `nth` request from the oldest. Not a
    /// remainder: a division here would be the dearest instruction of a request.
    #[inline]
    fn index(&self, nth: usize) -> usize {
        let at = self.first + nth;
        if at < self.flight.len() {
            at
        } else {
            at - self.flight.len()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(lengths: &[usize]) -> Vec<Rendered> {
        let of = |&length| Rendered {
            bytes: vec![b'x'; length],
            is_head: false,
            body: None,
        };
        lengths.iter().map(of).collect()
    }

    fn known(count: usize) -> Vec<KnownHead> {
        (0..count).map(|_| KnownHead::default()).collect()
    }

    fn sent(planned_ns: u64, target: u16) -> Sent {
        Sent {
            planned_ns,
            sent_ns: planned_ns + 1,
            target,
        }
    }

    fn answer(status: u16, body: &str) -> String {
        format!(
            "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }

    #[test]
    fn answers_go_to_the_requests_in_order_wherever_the_stream_is_cut() {
        let requests = requests(&[10, 20]);
        let stream = [answer(200, "a"), answer(404, ""), answer(200, "bcd")].concat();
        for piece in 1..=stream.len() {
            let mut known = known(2);
            let mut client = Client::new(3);
            // Two rounds, so that the ring wraps.
            for round in 0..2 {
                for (planned, target) in [(1, 0), (2, 1), (3, 0)] {
                    client.push(sent(planned, target));
                }
                client.wrote(40, &requests);
                assert_eq!(client.output(), None);
                let mut story = Vec::new();
                for mut input in stream.as_bytes().chunks(piece) {
                    loop {
                        match client.absorb(&mut input, &requests, &mut known) {
                            Step::NeedMore => break,
                            Step::Answered(sent, response) => {
                                assert!(response.keep_alive);
                                story.push((sent.planned_ns, response.status, response.length));
                            }
                            other => panic!("{other:?} in pieces of {piece}"),
                        }
                    }
                }
                let expected = [(1, 200, 1), (2, 404, 0), (3, 200, 3)];
                assert_eq!(story, expected, "round {round}, pieces of {piece}");
                assert_eq!(client.in_flight(), 0);
                assert!(!client.is_inside_answer());
            }
        }
    }

    #[test]
    fn output_continues_where_a_short_write_left_off() {
        let requests = requests(&[10, 20]);
        let mut client = Client::new(4);
        for target in [0, 1, 0] {
            client.push(sent(0, target));
        }
        for (count, expected) in [
            (0, Some((0, 0))),
            (9, Some((0, 9))),
            (1, Some((1, 0))),
            (5, Some((1, 5))),
            (17, Some((0, 2))),
            (8, None),
        ] {
            client.wrote(count, &requests);
            assert_eq!(client.output(), expected, "after {count}");
        }
    }

    #[test]
    fn an_answer_before_the_request_is_written_ends_the_connection() {
        let requests = requests(&[100]);
        let mut client = Client::new(1);
        client.push(sent(0, 0));
        client.wrote(40, &requests);
        let stream = answer(413, "");
        let step = client.absorb(&mut stream.as_bytes(), &requests, &mut known(1));
        let Step::Answered(_, response) = step else {
            panic!("{step:?}");
        };
        assert_eq!((response.status, response.keep_alive), (413, false));
        assert_eq!(client.output(), None);
    }

    #[test]
    fn bytes_that_answer_nothing_are_named() {
        let requests = requests(&[1]);
        let mut client = Client::new(1);
        let stream = answer(408, "");
        let step = client.absorb(&mut stream.as_bytes(), &requests, &mut known(1));
        assert_eq!(step, Step::Unsolicited);
    }

    #[test]
    fn a_cut_answer_is_told_from_none() {
        let requests = requests(&[1]);
        let stream = answer(200, "body");
        for cut in 0..stream.len() {
            let mut client = Client::new(1);
            client.push(sent(7, 0));
            client.wrote(1, &requests);
            let mut input = &stream.as_bytes()[..cut];
            let step = client.absorb(&mut input, &requests, &mut known(1));
            assert_eq!(step, Step::NeedMore);
            assert_eq!(client.is_inside_answer(), cut > 0, "cut at {cut}");
            assert_eq!(client.abandon(), Some(sent(7, 0)));
            assert_eq!(client.abandon(), None);
            client.reset();
            assert!(!client.is_inside_answer());
        }
    }
}
