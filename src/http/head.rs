//! The head of a request: one pass over bytes that hold it whole, or line by line as they come.
//!
//! [`read_whole`] is the fast path and only accepts. [`HeadScan`] is the one that rejects. Both
//! judge by `httparse`, the request line by [`check_request_line`], and fields by [`Fields`].

use httparse::Status;
use memchr::memchr;

use super::fields::{Fields, Plan};
use super::{HeaderStorage, Limits, MAX_EMPTY_LINES, MAX_HEADERS, Reject, Version};

/// A whole head, by where it lies in the input. Owns nothing, so that it outlives the bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// First byte of the request line, past the empty lines before it.
    pub start: usize,
    /// First byte after the empty line that ends the header block.
    pub end: usize,
    /// Length of the header block, its empty line included.
    pub block_bytes: usize,
    /// The method is HEAD: no answer may have a body.
    pub head_only: bool,
    pub plan: Plan,
}

/// What a head says, borrowed from the bytes it lies in.
#[derive(Clone, Copy)]
pub(super) struct Parsed<'h, 'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub version: Version,
    pub headers: &'h [httparse::Header<'a>],
    /// Bytes up to and including the empty line.
    bytes: usize,
}

/// Reads a head that starts at the first byte of `input`; `None` if it is incomplete or malformed.
#[inline]
pub(super) fn parse<'h, 'a>(
    input: &'a [u8],
    storage: &'h mut HeaderStorage<'a>,
) -> Option<Parsed<'h, 'a>> {
    let mut request = httparse::Request::new(&mut []);
    let Ok(Status::Complete(bytes)) = request.parse_with_uninit_headers(input, storage.slots())
    else {
        return None;
    };
    Some(Parsed {
        method: request.method?,
        target: request.path?,
        version: version(request.version?),
        headers: request.headers,
        bytes,
    })
}

/// The fast path: a whole head without a fault, or `None`, for whatever reason.
#[inline]
pub(super) fn read_whole<'h, 'a>(
    input: &'a [u8],
    storage: &'h mut HeaderStorage<'a>,
    limits: &Limits,
) -> Option<(Head, Parsed<'h, 'a>)> {
    let start = skip_empty_lines(input).ok()??;
    let input = &input[start..];
    let parsed = parse(input, storage)?;

    // httparse lets exactly one space stand on either side of the target.
    let version_end = parsed.method.len() + 1 + parsed.target.len() + 1 + "HTTP/1.1".len();
    let line_end = if input[version_end] == b'\r' { 2 } else { 1 };
    let line_bytes = version_end + line_end;
    let block_bytes = parsed.bytes - line_bytes;
    if line_bytes > limits.request_line_bytes() || block_bytes > limits.head_bytes {
        return None;
    }

    check_request_line(parsed.method, parsed.target, limits).ok()?;
    let mut fields = Fields::default();
    for header in parsed.headers {
        fields.take(header.name.as_bytes(), header.value).ok()?;
    }
    let plan = fields.finish(parsed.version, limits).ok()?;
    let head = Head {
        start,
        end: start + parsed.bytes,
        block_bytes,
        head_only: parsed.method == "HEAD",
        plan,
    };
    Some((head, parsed))
}

/// The line scan: reads a head that may stop at any byte, and says what is wrong with it.
///
/// Positions count from the first byte of the input, which must only grow between calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScan {
    /// First byte of the request line.
    start: usize,
    /// First byte of the line at hand.
    line: usize,
    /// The line at hand has no LF before this. 0 until a byte of a request has come.
    scanned: usize,
    /// The request line, once it has ended.
    request: Option<RequestLine>,
    /// Header lines that have ended; at most [`MAX_HEADERS`].
    header_lines: usize,
    fields: Fields,
}

/// What later lines need to know of a request line that has ended.
#[derive(Clone, Copy, Debug)]
struct RequestLine {
    /// First byte after it: the header block begins.
    end: usize,
    version: Version,
    head_only: bool,
}

impl HeadScan {
    /// Whether a byte of a request has come, and not only empty lines.
    pub fn has_begun(&self) -> bool {
        self.scanned > 0
    }

    /// Whether the method is known to be HEAD.
    pub fn head_only(&self) -> bool {
        self.request.is_some_and(|request| request.head_only)
    }

    /// Goes on where it stopped; `None` while the head is not whole.
    ///
    /// # Errors
    /// The first line that is wrong, or the first limit that is crossed. A limit goes before the
    /// line that crosses it: byte by byte, nothing else would be known yet.
    pub fn advance(&mut self, input: &[u8], limits: &Limits) -> Result<Option<Head>, Reject> {
        if !self.has_begun() {
            let Some(start) = skip_empty_lines(input)? else {
                return Ok(None);
            };
            self.start = start;
            self.line = start;
            self.scanned = start;
        }
        loop {
            let end = memchr(b'\n', &input[self.scanned..]).map(|at| self.scanned + at + 1);
            self.scanned = end.unwrap_or(input.len());
            match self.request {
                None if self.scanned - self.start > limits.request_line_bytes() => {
                    return Err(Reject::TARGET_TOO_LONG);
                }
                Some(request) if self.scanned - request.end > limits.head_bytes => {
                    return Err(Reject::HEAD_TOO_LARGE);
                }
                _ => {}
            }
            let Some(end) = end else {
                return Ok(None);
            };
            let line = &input[self.line..end];
            self.line = end;
            match self.request {
                None => self.request = Some(read_request_line(line, end, limits)?),
                Some(request) if is_empty_line(line) => {
                    return Ok(Some(Head {
                        start: self.start,
                        end,
                        block_bytes: end - request.end,
                        head_only: request.head_only,
                        plan: self.fields.finish(request.version, limits)?,
                    }));
                }
                Some(_) => self.take_header_line(line)?,
            }
        }
    }

    fn take_header_line(&mut self, line: &[u8]) -> Result<(), Reject> {
        if self.header_lines == MAX_HEADERS {
            return Err(Reject::TOO_MANY_HEADERS);
        }
        self.header_lines += 1;
        let (name, value) = split_header_line(line).ok_or(Reject::HEADER)?;
        self.fields.take(name, value)
    }
}

/// Name and value of one whole header line; `None` if it is malformed.
pub(super) fn split_header_line(line: &[u8]) -> Option<(&[u8], &[u8])> {
    // The verdict is httparse's: it runs out of bytes after a line that is well formed.
    let mut slot = [httparse::EMPTY_HEADER];
    let Ok(Status::Partial) = httparse::parse_headers(line, &mut slot) else {
        return None;
    };
    let colon = memchr(b':', line)?;
    Some((&line[..colon], line[colon + 1..].trim_ascii()))
}

fn read_request_line(line: &[u8], end: usize, limits: &Limits) -> Result<RequestLine, Reject> {
    let mut request = httparse::Request::new(&mut []);
    match request.parse(line) {
        // To httparse, 1.10 is 1.1 with a malformed line end.
        Err(httparse::Error::Version | httparse::Error::NewLine) if names_another_version(line) => {
            return Err(Reject::VERSION);
        }
        Err(_) => return Err(Reject::REQUEST_LINE),
        Ok(_) => {}
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
    else {
        return Err(Reject::REQUEST_LINE);
    };
    check_request_line(method, target, limits)?;
    Ok(RequestLine {
        end,
        version: version(minor),
        head_only: method == "HEAD",
    })
}

/// What a well-formed request line must still be.
#[inline]
fn check_request_line(method: &str, target: &str, limits: &Limits) -> Result<(), Reject> {
    if target.len() > limits.target_bytes {
        return Err(Reject::TARGET_TOO_LONG);
    }
    if method == "CONNECT" {
        return Err(Reject::CONNECT);
    }
    let known = target.starts_with('/')
        || target == "*" && method == "OPTIONS"
        || target
            .split_once("://")
            .is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty());
    if known { Ok(()) } else { Err(Reject::TARGET) }
}

/// RFC 3986, section 3.1.
fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Whether the line is well formed but for a version that is neither 1.0 nor 1.1. The preface of
/// HTTP/2 (RFC 9113, section 3.4) begins with such a line.
fn names_another_version(line: &[u8]) -> bool {
    let mut words = line.trim_ascii_end().split(|&byte| byte == b' ');
    let (Some(_), Some(_), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    let Some(number) = version.strip_prefix(b"HTTP/") else {
        return false;
    };
    let mut parts = number.splitn(2, |&byte| byte == b'.');
    parts.all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit))
        && !matches!(number, b"1.0" | b"1.1")
}

fn version(minor: u8) -> Version {
    match minor {
        0 => Version::Http10,
        _ => Version::Http11,
    }
}

fn is_empty_line(line: &[u8]) -> bool {
    matches!(line, b"\r\n" | b"\n")
}

/// Where the first line that is not empty begins; `None` while no byte of it has come.
///
/// # Errors
/// More than [`MAX_EMPTY_LINES`] of them.
#[inline]
fn skip_empty_lines(input: &[u8]) -> Result<Option<usize>, Reject> {
    let mut at = 0;
    for _ in 0..=MAX_EMPTY_LINES {
        at += match &input[at..] {
            [] | [b'\r'] => return Ok(None),
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return Ok(Some(at)),
        };
    }
    Err(Reject::EMPTY_LINES)
}
