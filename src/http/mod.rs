//! HTTP/1.1, the server's side, SANS-I/O: bytes in, requests out; answers in, bytes out.
//!
//! May touch: byte slices and the one growing buffer that the caller lends. Deliberately lacks:
//! sockets, clocks, threads, `unsafe`, routing, and any policy on time. The session reads and
//! writes, keeps the deadlines, and puts the date's 29 bytes in.
//!
//! # Theory of operation
//!
//! ```text
//!              whole request                     ┌──────────────┐
//!   decode ───────────────────────── Request ──▶ │ the session  │ ──▶ encode
//!     │ a part of it                             └──────────────┘
//!     ▼                                              ▲       ▲
//!   Incomplete: the session carries the bytes        │       │
//!     │ more bytes, appended                         │       │
//!     ▼                                              │       │
//!   decode_carried ──── Head ────▶ Body ── Request ──┘       │
//!                        └───────────┴──── Reject ───────────┘ encode_reject, close
//! ```
//!
//! **Two ways in, one meaning.** [`Decoder::decode`] looks at lent bytes. If they hold a whole and
//! faultless head, `httparse` has read it in one pass, nothing was copied, and that is the end of
//! it: the *fast path* can only accept. Whatever it does not accept goes to the *line scan*
//! (`head.rs`), which alone says what is wrong, and which may stop and go on at any byte. It judges
//! a line when its LF is there, and a limit when it is crossed, so what it says depends on the
//! bytes and never on how they were cut into reads. The tests hold it to that.
//!
//! **Linear at any pace.** The scan remembers where it stopped, so a byte of a head is looked at a
//! fixed number of times even if each comes in a read of its own. Bytes of a body are never
//! searched.
//!
//! **Chunked bodies** are decoded within the carry: `[head][decoded so far][raw tail]`. The body is
//! then one slice, as with Content-Length, and the session sees no difference.
//!
//! **Carry.** A session without a carry calls `decode` on what it was lent, again and again, and
//! copies only the part left over. With a carry it appends the read and calls `decode_carried`.
//! When that yields a request, the bytes behind it are looked at with `decode` again, where they
//! lie. [`Limits::carry_bytes`] bounds what is ever carried.
//!
//! **A rejected stream cannot be trusted again:** where its next request begins is unknown. The
//! session sends the reject, shuts down its sending half, and reads on for a moment before it
//! closes, or the client's kernel may drop the answer (RFC 9112, section 9.6). The decoder is not
//! used again.
//!
//! # Where it is stricter or laxer than it might be
//!
//! - A bare LF ends a line of the head (RFC 9112, section 2.2 allows it), never one of a chunked
//!   body, where a disagreement with a proxy is a smuggled request.
//! - `Content-Length: 5, 5` counts as 5, as RFC 9112, section 6.3 has it for identical repeats.
//! - Trailer fields are checked, counted against the header block's limit, and dropped.
//! - The target is one of the forms of RFC 9112, section 3.2, and otherwise taken as it is: neither
//!   decoded nor normalised.

#![forbid(unsafe_code)]

mod chunked;
mod fields;
mod head;
mod reject;
mod request;
mod response;
#[cfg(test)]
mod tests;

pub use reject::Reject;
pub use request::{Decoder, HeaderStorage, Request, Step, Waiting};
pub use response::{
    Answer, BadHeaderLine, CONTINUE, Reply, check_header_lines, encode, encode_reject,
    reason_phrase,
};

/// The most header fields a request may have; one more is a 431.
pub const MAX_HEADERS: usize = 100;

/// The most empty lines skipped before a request line; one more is a 400.
///
/// RFC 9112, section 2.2 asks for at least one: old clients end a body with a stray CRLF.
const MAX_EMPTY_LINES: usize = 4;

/// What a request line may hold besides its target: a method of up to 52 bytes, two spaces, the
/// version and CRLF. A line that never ends is stopped here.
const REQUEST_LINE_EXTRA_BYTES: usize = 64;

/// The longest line that gives a chunk's size, its extensions and CRLF included.
const CHUNK_LINE_BYTES: usize = 256;

/// What a request may cost its receiver, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The request target. Over it: 414. Default 8 KiB.
    pub target_bytes: usize,
    /// The header block: all that follows the request line up to and including the empty line, and
    /// the trailer fields of a chunked body. Over it: 431. Default 16 KiB.
    pub head_bytes: usize,
    /// The body, decoded. Over it: 413. Default 1 MiB.
    pub body_bytes: usize,
}

impl Limits {
    /// The most that is left to carry when [`Step::Incomplete`] was returned, however the client
    /// cuts or pads its bytes. Before the call there may be one read more.
    pub const fn carry_bytes(&self) -> usize {
        (2 * MAX_EMPTY_LINES + CHUNK_LINE_BYTES)
            .saturating_add(self.request_line_bytes())
            .saturating_add(self.head_bytes)
            .saturating_add(self.body_bytes)
    }

    const fn request_line_bytes(&self) -> usize {
        self.target_bytes.saturating_add(REQUEST_LINE_EXTRA_BYTES)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            target_bytes: 8 << 10,
            head_bytes: 16 << 10,
            body_bytes: 1 << 20,
        }
    }
}

/// The protocol version a request names. Any other is a 505.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0: the connection closes unless keep-alive is asked for.
    Http10,
    /// HTTP/1.1: the connection stays unless close is asked for.
    Http11,
}

/// For each byte, whether it is an ASCII letter, a digit or one of `marks`: what the character
/// classes of the grammars here have in common.
const fn alphanumerics_and(marks: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mut at = 0;
    while at < marks.len() {
        table[marks[at] as usize] = true;
        at += 1;
    }
    table
}
