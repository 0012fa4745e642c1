//! The decoder of one connection: from bytes, however they are cut, to whole requests.
//!
//! Holds positions and a few flags, no bytes and no heap. How it works as a whole is told at the
//! head of `mod.rs`; heads are read in `head.rs`, chunked bodies in `chunked.rs`.

use std::mem::{self, MaybeUninit};

use super::chunked::Chunked;
use super::fields::Framing;
use super::head::{self, Head, HeadScan, Parsed};
use super::{Limits, MAX_HEADERS, Reject, Reply, Version};

/// Room for the header fields of one request, on the caller's stack. Not initialised until fields
/// are parsed into it, so a new one for each request costs nothing.
pub struct HeaderStorage<'a> {
    slots: [MaybeUninit<httparse::Header<'a>>; MAX_HEADERS],
}

impl<'a> HeaderStorage<'a> {
    /// Empty room.
    #[inline]
    pub const fn new() -> Self {
        HeaderStorage {
            slots: [const { MaybeUninit::uninit() }; MAX_HEADERS],
        }
    }

    #[inline]
    pub(super) fn slots(&mut self) -> &mut [MaybeUninit<httparse::Header<'a>>] {
        &mut self.slots
    }
}

impl Default for HeaderStorage<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A whole request, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub struct Request<'h, 'a> {
    /// The method, as sent; methods are case-sensitive.
    pub method: &'a str,
    /// The target, as sent: a path with its query, an absolute URI, or `*` with OPTIONS.
    pub target: &'a str,
    /// The version named.
    pub version: Version,
    /// The header fields in their order, names as sent, values without the white space around them.
    pub headers: &'h [httparse::Header<'a>],
    /// Request line and header block, the empty line included. Method, target and fields lie in it.
    pub head: &'a [u8],
    /// The body, decoded; empty if there is none.
    pub body: &'a [u8],
    /// Whether the client lets the connection stay open after the answer.
    pub keep_alive: bool,
}

impl Request<'_, '_> {
    /// What the encoder of the answer must know.
    #[inline]
    pub fn reply(&self) -> Reply {
        Reply {
            version: self.version,
            head_only: self.method == "HEAD",
            keep_alive: self.keep_alive,
        }
    }
}

/// What the bytes so far amount to.
#[derive(Debug)]
pub enum Step<'h, 'a> {
    /// A whole request.
    Request {
        /// The request.
        request: Request<'h, 'a>,
        /// Bytes at the front of the input, or of the carry as it is now, that are done with.
        consumed: usize,
        /// Bytes that follow it.
        left: usize,
    },
    /// A part of a request, or nothing. Carry all of the input, append what comes, and call
    /// [`Decoder::decode_carried`].
    Incomplete {
        /// Send [`CONTINUE`](super::CONTINUE) now. True at most once a request.
        send_continue: bool,
    },
    /// From [`Decoder::decode`] only: the request cannot be yielded from bytes that may not be
    /// changed. Copy all of the input to the carry and call [`Decoder::decode_carried`] at once.
    Carry,
    /// Not a request. Answer, then close; the decoder is not to be used again.
    Reject(Reject),
}

/// What a connection waits for: it decides what its silence means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// A request of which no byte has come, empty lines apart. End of stream and silence are quiet.
    Request,
    /// The rest of a head. Silence is [`Reject::HEAD_TIMEOUT`].
    Head,
    /// The rest of a body. Silence is [`Reject::BODY_TIMEOUT`].
    Body,
}

/// The decoder of one connection. See the module's head for how it is driven. The limits it is
/// given are the same at every call.
#[derive(Debug, Default)]
pub struct Decoder {
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Head(HeadScan),
    Body(Body),
}

/// A request whose head is whole.
#[derive(Clone, Copy, Debug)]
struct Body {
    head: Head,
    rest: Rest,
    /// The client waits for `100 Continue` and has not been told to expect it yet.
    continue_due: bool,
}

#[derive(Clone, Copy, Debug)]
enum Rest {
    /// The body ends at this position.
    Sized {
        end: usize,
    },
    Chunked(Chunked),
}

impl Default for Stage {
    fn default() -> Self {
        Stage::Head(HeadScan::default())
    }
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads lent bytes, when nothing is carried from before. A whole request costs no copy and no
    /// allocation.
    ///
    /// `input` may go on with further requests: call again with what `consumed` leaves.
    #[inline]
    pub fn decode<'h, 'a>(
        &mut self,
        input: &'a [u8],
        storage: &'h mut HeaderStorage<'a>,
        limits: &Limits,
    ) -> Step<'h, 'a> {
        debug_assert_eq!(self.waiting_for(), Waiting::Request, "bytes are carried");
        let Some((head, parsed)) = head::read_whole(input, storage, limits) else {
            return self.scan(input, limits);
        };
        match head.plan.framing {
            Framing::Length(length) if input.len() - head.end >= length => {
                request(input, &head, head.end + length, parsed)
            }
            Framing::Length(_) => {
                self.stage = Stage::Body(Body::new(head, limits));
                self.incomplete()
            }
            Framing::Chunked => {
                self.stage = Stage::Body(Body::new(head, limits));
                Step::Carry
            }
        }
    }

    /// Reads the carry: the bytes of the last [`Step::Incomplete`] or [`Step::Carry`] with whatever
    /// came since appended. May shorten it, where a chunked body leaves its framing behind.
    ///
    /// # Panics
    /// If bytes that this decoder has seen are no longer in `carry`.
    pub fn decode_carried<'h, 'a>(
        &mut self,
        carry: &'a mut Vec<u8>,
        storage: &'h mut HeaderStorage<'a>,
        limits: &Limits,
    ) -> Step<'h, 'a> {
        match self.advance(carry, limits) {
            Err(reject) => Step::Reject(reject),
            Ok(None) => self.incomplete(),
            Ok(Some((head, end))) => {
                self.stage = Stage::default();
                match head::parse(&carry[head.start..head.end], storage) {
                    Some(parsed) => request(carry, &head, end, parsed),
                    // The scan has accepted these very bytes: only a caller that changed its carry
                    // can come here, and its client must not pay with the process.
                    None => Step::Reject(Reject::HEADER),
                }
            }
        }
    }

    /// What the connection waits for, given the bytes so far.
    pub fn waiting_for(&self) -> Waiting {
        match &self.stage {
            Stage::Head(scan) if scan.has_begun() => Waiting::Head,
            Stage::Head(_) => Waiting::Request,
            Stage::Body(_) => Waiting::Body,
        }
    }

    /// Whether the request at hand, or the one just rejected, is known to be a HEAD request, whose
    /// answer has no body.
    pub fn head_only(&self) -> bool {
        match &self.stage {
            Stage::Head(scan) => scan.head_only(),
            Stage::Body(body) => body.head.head_only,
        }
    }

    /// The slow half of [`Decoder::decode`]: an unfinished head, or one with a fault.
    #[cold]
    fn scan<'h, 'a>(&mut self, input: &[u8], limits: &Limits) -> Step<'h, 'a> {
        match self.advance_head(input, limits) {
            Err(reject) => Step::Reject(reject),
            // Not met while httparse and the scan agree; if ever not, the carry's way decides.
            Ok(Waiting::Body) => Step::Carry,
            Ok(_) => self.incomplete(),
        }
    }

    /// Goes on with the head, if that is not whole yet.
    fn advance_head(&mut self, input: &[u8], limits: &Limits) -> Result<Waiting, Reject> {
        if let Stage::Head(scan) = &mut self.stage
            && let Some(head) = scan.advance(input, limits)?
        {
            self.stage = Stage::Body(Body::new(head, limits));
        }
        Ok(self.waiting_for())
    }

    /// Goes on with the carry; the head and the body's end once the request is whole.
    fn advance(
        &mut self,
        carry: &mut Vec<u8>,
        limits: &Limits,
    ) -> Result<Option<(Head, usize)>, Reject> {
        self.advance_head(carry, limits)?;
        let Stage::Body(body) = &mut self.stage else {
            return Ok(None);
        };
        let (whole, end) = match &mut body.rest {
            Rest::Sized { end } => (carry.len() >= *end, *end),
            Rest::Chunked(chunked) => (chunked.advance(carry, limits)?, chunked.end()),
        };
        Ok(whole.then_some((body.head, end)))
    }

    fn incomplete<'h, 'a>(&mut self) -> Step<'h, 'a> {
        let send_continue = match &mut self.stage {
            Stage::Head(_) => false,
            Stage::Body(body) => mem::take(&mut body.continue_due),
        };
        Step::Incomplete { send_continue }
    }
}

impl Body {
    fn new(head: Head, limits: &Limits) -> Self {
        Body {
            rest: match head.plan.framing {
                Framing::Length(length) => Rest::Sized {
                    // Beyond all that there can be, if the limits let it: never whole.
                    end: head.end.saturating_add(length),
                },
                Framing::Chunked => Rest::Chunked(Chunked::new(&head, limits)),
            },
            continue_due: head.plan.expects_continue,
            head,
        }
    }
}

#[inline]
fn request<'h, 'a>(
    input: &'a [u8],
    head: &Head,
    body_end: usize,
    parsed: Parsed<'h, 'a>,
) -> Step<'h, 'a> {
    Step::Request {
        request: Request {
            method: parsed.method,
            target: parsed.target,
            version: parsed.version,
            headers: parsed.headers,
            head: &input[head.start..head.end],
            body: &input[head.end..body_end],
            keep_alive: head.plan.keep_alive,
        },
        consumed: body_end,
        left: input.len() - body_end,
    }
}
