//! A chunked body (RFC 9112, section 7.1), decoded in place as it comes.
//!
//! Works within the session's carry and moves bytes only towards its front. Strict: every line ends
//! in CRLF, since proxies that disagree about a chunk's end can be made to smuggle requests.

use memchr::memchr;

use super::fields::Framing;
use super::head::{Head, split_header_line};
use super::{CHUNK_LINE_BYTES, Limits, Reject};

const CRLF: &[u8] = b"\r\n";

/// Where the decoding stands. The carry reads `[head][decoded body][undecoded]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chunked {
    /// First byte of the decoded body.
    start: usize,
    /// First byte after the decoded body. Between calls, also the first byte not yet decoded.
    end: usize,
    /// The line at hand has no LF before this.
    scanned: usize,
    /// What the next byte belongs to.
    part: Part,
    /// Bytes that trailer lines may still take.
    trailer_room: usize,
}

#[derive(Clone, Copy, Debug)]
enum Part {
    /// A line with the size of the next chunk.
    Size,
    /// The bytes of a chunk.
    Data { left: usize },
    /// The CRLF after them.
    DataEnd,
    /// Trailer lines, up to an empty one.
    Trailer,
}

impl Chunked {
    /// A body that begins after `head`.
    pub fn new(head: &Head, limits: &Limits) -> Self {
        debug_assert!(matches!(head.plan.framing, Framing::Chunked));
        Chunked {
            start: head.end,
            end: head.end,
            scanned: head.end,
            part: Part::Size,
            // One limit for all fields of a request, so the carry's bound is the same with and
            // without trailers. The empty line at their end takes no room.
            trailer_room: limits
                .head_bytes
                .saturating_sub(head.block_bytes)
                .saturating_add(CRLF.len()),
        }
    }

    /// First byte after the decoded body.
    pub fn end(&self) -> usize {
        self.end
    }

    /// Decodes what can be; true once the body is whole. What follows it then begins at
    /// [`Chunked::end`].
    ///
    /// # Errors
    /// A malformed chunk or trailer, or a limit crossed. The carry is then of no further use.
    pub fn advance(&mut self, carry: &mut Vec<u8>, limits: &Limits) -> Result<bool, Reject> {
        let mut at = self.end;
        let whole = self.decode(carry, &mut at, limits)?;
        // Close the gap that framing left. It moves at most one unfinished line or what follows
        // the body, never decoded bytes.
        if at > self.end {
            let rest = carry.len() - at;
            carry.copy_within(at.., self.end);
            carry.truncate(self.end + rest);
            self.scanned = self.scanned.max(at) - (at - self.end);
        }
        Ok(whole)
    }

    /// [`Chunked::advance`], with the gap left open from `self.end` to `at`.
    fn decode(
        &mut self,
        carry: &mut [u8],
        at: &mut usize,
        limits: &Limits,
    ) -> Result<bool, Reject> {
        loop {
            match self.part {
                Part::Size => {
                    let end = self.find_line_end(carry, *at, CHUNK_LINE_BYTES, Reject::CHUNK)?;
                    let Some(end) = end else { return Ok(false) };
                    let size = read_size_line(&carry[*at..end])?;
                    let room = limits.body_bytes - (self.end - self.start);
                    let left = usize::try_from(size).unwrap_or(usize::MAX);
                    if left > room {
                        return Err(Reject::BODY_TOO_LARGE);
                    }
                    *at = end;
                    self.part = match left {
                        0 => Part::Trailer,
                        _ => Part::Data { left },
                    };
                }
                Part::Data { left } => {
                    let here = left.min(carry.len() - *at);
                    if *at > self.end {
                        carry.copy_within(*at..*at + here, self.end);
                    }
                    *at += here;
                    self.end += here;
                    self.part = match left - here {
                        0 => Part::DataEnd,
                        left => Part::Data { left },
                    };
                    if here < left {
                        return Ok(false);
                    }
                }
                Part::DataEnd => {
                    match &carry[*at..] {
                        [b'\r', b'\n', ..] => *at += CRLF.len(),
                        [] | [b'\r'] => return Ok(false),
                        _ => return Err(Reject::CHUNK),
                    }
                    self.part = Part::Size;
                }
                Part::Trailer => {
                    let end =
                        self.find_line_end(carry, *at, self.trailer_room, Reject::HEAD_TOO_LARGE)?;
                    let Some(end) = end else { return Ok(false) };
                    let line = &carry[*at..end];
                    let last = line == CRLF;
                    if !last && (!line.ends_with(CRLF) || split_header_line(line).is_none()) {
                        return Err(Reject::TRAILER);
                    }
                    self.trailer_room -= line.len();
                    *at = end;
                    if last {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// One past the LF of the line that begins at `at`; `None` while it has not come.
    ///
    /// # Errors
    /// `too_long` if the line takes more than `limit` bytes, LF included.
    fn find_line_end(
        &mut self,
        carry: &[u8],
        at: usize,
        limit: usize,
        too_long: Reject,
    ) -> Result<Option<usize>, Reject> {
        let from = self.scanned.max(at);
        let end = memchr(b'\n', &carry[from..]).map(|lf| from + lf + 1);
        self.scanned = end.unwrap_or(carry.len());
        if self.scanned - at > limit {
            return Err(too_long);
        }
        Ok(end)
    }
}

/// The size that a whole chunk line gives; `u64::MAX` stands for all that is larger, since every
/// limit is below it. Extensions are ignored, as RFC 9112, section 7.1.1 asks, but for bytes that no
/// line may have.
fn read_size_line(line: &[u8]) -> Result<u64, Reject> {
    let line = line.strip_suffix(CRLF).ok_or(Reject::CHUNK)?;
    let mut size = 0u64;
    let mut digits = 0;
    for digit in line.iter().map_while(|&byte| (byte as char).to_digit(16)) {
        size = size.saturating_mul(16).saturating_add(u64::from(digit));
        digits += 1;
    }
    let extensions = &line[digits..];
    let begins = matches!(extensions.trim_ascii_start(), [b';', ..]);
    let clean = !extensions
        .iter()
        .any(|&byte| byte.is_ascii_control() && byte != b'\t');
    if digits > 0 && (extensions.is_empty() || begins && clean) {
        Ok(size)
    } else {
        Err(Reject::CHUNK)
    }
}
