//! From an answer to its bytes, and what a handler may put among them.
//!
//! Appends to the caller's buffer and allocates only when that is full. Deliberately lacks chunked
//! answers: every body is whole before its head is written.

use memchr::memchr;

use super::{Reject, Version, alphanumerics_and};

/// The interim answer to `Expect: 100-continue` (RFC 9110, section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What a handler answers.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The status code, 200 to 599.
    pub status: u16,
    /// Zero or more `name: value` lines, each ended by CRLF, that [`check_header_lines`] let pass.
    pub header_lines: &'a [u8],
    /// The body, also where none will be sent: a HEAD request is told its length.
    pub body: &'a [u8],
}

/// What the request says about its answer. A server that wants to close clears `keep_alive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The request's version. The answer's is always 1.1 (RFC 9110, section 6.2).
    pub version: Version,
    /// The request was HEAD: no body.
    pub head_only: bool,
    /// The connection stays open afterwards.
    pub keep_alive: bool,
}

/// Status codes and phrases (RFC 9110, section 15; RFC 6585 for 429 and 431). What opens an answer
/// of each, up to its date, is one constant.
macro_rules! statuses {
    ($($status:literal $phrase:literal,)*) => {
        fn opening(status: u16) -> Option<&'static [u8]> {
            match status {
                $($status => Some(
                    concat!(
                        "HTTP/1.1 ", $status, " ", $phrase, "\r\n",
                        "server: ringlab\r\n",
                        "date: ",
                    ).as_bytes()
                ),)*
                _ => None,
            }
        }

        /// The phrase for a status code; empty for one that is not in the table, which RFC 9112,
        /// section 4 allows.
        pub fn reason_phrase(status: u16) -> &'static str {
            match status {
                $($status => $phrase,)*
                _ => "",
            }
        }
    };
}

statuses! {
    200 "OK",
    201 "Created",
    202 "Accepted",
    204 "No Content",
    205 "Reset Content",
    206 "Partial Content",
    301 "Moved Permanently",
    302 "Found",
    303 "See Other",
    304 "Not Modified",
    307 "Temporary Redirect",
    308 "Permanent Redirect",
    400 "Bad Request",
    401 "Unauthorized",
    403 "Forbidden",
    404 "Not Found",
    405 "Method Not Allowed",
    406 "Not Acceptable",
    408 "Request Timeout",
    409 "Conflict",
    410 "Gone",
    411 "Length Required",
    412 "Precondition Failed",
    413 "Content Too Large",
    414 "URI Too Long",
    415 "Unsupported Media Type",
    416 "Range Not Satisfiable",
    417 "Expectation Failed",
    422 "Unprocessable Content",
    429 "Too Many Requests",
    431 "Request Header Fields Too Large",
    500 "Internal Server Error",
    501 "Not Implemented",
    502 "Bad Gateway",
    503 "Service Unavailable",
    504 "Gateway Timeout",
    505 "HTTP Version Not Supported",
}

/// Appends a whole answer. `date` is an IMF-fixdate (RFC 9110, section 5.6.7). Says how many bytes of
/// the answer's own it copied: its header lines, and its body if that is sent.
#[inline]
pub fn encode(out: &mut Vec<u8>, date: &[u8; 29], answer: &Answer<'_>, reply: Reply) -> usize {
    // RFC 9110: 204 has neither body nor length (8.6); 304 has no body, and a length only if it is
    // that of the 200 it stands for, which is not known here; 205 has an empty body (15.3.6).
    let (length, body) = match answer.status {
        204 | 304 => (None, &[][..]),
        205 => (Some(0), &[][..]),
        _ if reply.head_only => (Some(answer.body.len()), &[][..]),
        _ => (Some(answer.body.len()), answer.body),
    };
    encode_head(
        out,
        date,
        answer.status,
        answer.header_lines,
        length,
        ending(reply),
    );
    out.extend_from_slice(body);
    answer.header_lines.len() + body.len()
}

/// Appends the answer that closes a connection: the reason as plain text, or nothing after the head
/// if the request is known to be HEAD ([`Decoder::head_only`](super::Decoder::head_only)). A 503
/// asks to retry after a second.
pub fn encode_reject(out: &mut Vec<u8>, date: &[u8; 29], reject: &Reject, head_only: bool) {
    let header_lines: &[u8] = match reject.status {
        503 => b"content-type: text/plain\r\nretry-after: 1\r\n",
        _ => b"content-type: text/plain\r\n",
    };
    let length = reject.reason.len() + 1;
    encode_head(
        out,
        date,
        reject.status,
        header_lines,
        Some(length),
        ENDING_CLOSE,
    );
    if !head_only {
        out.extend_from_slice(reject.reason.as_bytes());
        out.push(b'\n');
    }
}

const ENDING_CLOSE: &[u8] = b"connection: close\r\n\r\n";

/// What ends a head: what becomes of the connection, where the version alone does not say it.
#[inline]
fn ending(reply: Reply) -> &'static [u8] {
    match (reply.keep_alive, reply.version) {
        (true, Version::Http11) => b"\r\n",
        (true, Version::Http10) => b"connection: keep-alive\r\n\r\n",
        (false, _) => ENDING_CLOSE,
    }
}

#[inline]
fn encode_head(
    out: &mut Vec<u8>,
    date: &[u8; 29],
    status: u16,
    header_lines: &[u8],
    length: Option<usize>,
    ending: &[u8],
) {
    match opening(status) {
        Some(opening) => out.extend_from_slice(opening),
        None => {
            debug_assert!((200..=599).contains(&status), "status {status}");
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes());
            out.extend_from_slice(b" \r\nserver: ringlab\r\ndate: ");
        }
    }
    out.extend_from_slice(date);
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(header_lines);
    if let Some(length) = length {
        out.extend_from_slice(b"content-length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(ending);
}

/// Why a handler's header lines are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHeaderLine {
    /// Bytes at the end without CRLF, or a bare LF.
    #[error("a header line does not end with CR LF")]
    LineEnd,
    /// No colon, or a name that is not a token (RFC 9110, section 5.6.2): folded lines too.
    #[error("a header line does not begin with a name and a colon")]
    Name,
    /// A control character in a value, CR and NUL among them; a tab may be.
    #[error("a header value contains a control character")]
    Value,
    /// A name that frames the answer or rules the connection, which is the server's.
    #[error("the header `{0}` is the server's to send")]
    Reserved(&'static str),
}

impl BadHeaderLine {
    /// The fault in a few words that name nothing of what the handler sent.
    pub fn reason(self) -> &'static str {
        match self {
            BadHeaderLine::LineEnd => "line end",
            BadHeaderLine::Name => "header name",
            BadHeaderLine::Value => "header value",
            BadHeaderLine::Reserved(_) => "header reserved for the server",
        }
    }
}

/// Checks header lines that a handler wrote: zero or more `name: value`, each ended by CRLF.
///
/// # Errors
/// The first fault, in the order of the bytes. Nothing of such lines may be sent: they could end
/// the head early and forge an answer (response splitting).
pub fn check_header_lines(mut lines: &[u8]) -> Result<(), BadHeaderLine> {
    while !lines.is_empty() {
        let line_feed = memchr(b'\n', lines).ok_or(BadHeaderLine::LineEnd)?;
        let (line, rest) = (&lines[..line_feed], &lines[line_feed + 1..]);
        lines = rest;
        let line = line.strip_suffix(b"\r").ok_or(BadHeaderLine::LineEnd)?;
        let colon = memchr(b':', line).ok_or(BadHeaderLine::Name)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return Err(BadHeaderLine::Name);
        }
        if let Some(name) = reserved(name) {
            return Err(BadHeaderLine::Reserved(name));
        }
        // Without an early exit, so that it compiles to vector instructions.
        let clean = value.iter().fold(true, |clean, &byte| {
            clean & (((byte >= b' ') & (byte != 0x7f)) | (byte == b'\t'))
        });
        if !clean {
            return Err(BadHeaderLine::Value);
        }
    }
    Ok(())
}

/// The reserved name that `name` is, whatever its case.
fn reserved(name: &[u8]) -> Option<&'static str> {
    let of_this_length: &[&str] = match name.len() {
        2 => &["te"],
        4 => &["date"],
        6 => &["server"],
        7 => &["upgrade", "trailer"],
        10 => &["connection", "keep-alive"],
        14 => &["content-length"],
        17 => &["transfer-encoding"],
        _ => &[],
    };
    let mut candidates = of_this_length.iter().copied();
    candidates.find(|reserved| name.eq_ignore_ascii_case(reserved.as_bytes()))
}

/// A `tchar` (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    const ALLOWED: [bool; 256] = alphanumerics_and(b"!#$%&'*+-.^_`|~");
    ALLOWED[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: &[u8; 29] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const STAY: Reply = Reply {
        version: Version::Http11,
        head_only: false,
        keep_alive: true,
    };

    /// Encodes an answer of `status` with one header line and the body `hello`. `expected` leaves
    /// out the two lines after the first that every answer has.
    fn check(status: u16, reply: Reply, expected: &str) {
        let answer = Answer {
            status,
            header_lines: b"x: y\r\n",
            body: b"hello",
        };
        let mut out = Vec::with_capacity(256);
        let (capacity, at) = (out.capacity(), out.as_ptr());
        encode(&mut out, DATE, &answer, reply);
        check_bytes(&out, expected);
        assert_eq!((out.capacity(), out.as_ptr()), (capacity, at), "allocated");
    }

    fn check_bytes(out: &[u8], expected: &str) {
        let lines = "\r\nserver: ringlab\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
        let expected = expected.replacen("\r\n", lines, 1);
        assert_eq!(str::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn answers() {
        let (head_only, keep_alive) = (true, false);
        let ok = "HTTP/1.1 200 OK\r\nx: y\r\ncontent-length: 5\r\n";
        check(200, STAY, &format!("{ok}\r\nhello"));
        check(200, Reply { head_only, ..STAY }, &format!("{ok}\r\n"));
        check(
            200,
            Reply { keep_alive, ..STAY },
            &format!("{ok}connection: close\r\n\r\nhello"),
        );
        let old = Reply {
            version: Version::Http10,
            ..STAY
        };
        check(
            200,
            old,
            &format!("{ok}connection: keep-alive\r\n\r\nhello"),
        );
        check(
            200,
            Reply { keep_alive, ..old },
            &format!("{ok}connection: close\r\n\r\nhello"),
        );
    }

    #[test]
    fn statuses_without_a_body() {
        check(204, STAY, "HTTP/1.1 204 No Content\r\nx: y\r\n\r\n");
        check(304, STAY, "HTTP/1.1 304 Not Modified\r\nx: y\r\n\r\n");
        check(
            205,
            STAY,
            "HTTP/1.1 205 Reset Content\r\nx: y\r\ncontent-length: 0\r\n\r\n",
        );
    }

    #[test]
    fn a_status_without_a_phrase() {
        assert_eq!(reason_phrase(299), "");
        assert_eq!(reason_phrase(431), "Request Header Fields Too Large");
        check(
            299,
            STAY,
            "HTTP/1.1 299 \r\nx: y\r\ncontent-length: 5\r\n\r\nhello",
        );
    }

    #[test]
    fn rejects() {
        let encode_whole = |reject, head_only| {
            let mut out = Vec::new();
            encode_reject(&mut out, DATE, &reject, head_only);
            out
        };
        let head = "HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\n\
                    content-length: 41\r\nconnection: close\r\n\r\n";
        let body = "The request head did not arrive in time.\n";
        check_bytes(
            &encode_whole(Reject::HEAD_TIMEOUT, false),
            &format!("{head}{body}"),
        );
        check_bytes(&encode_whole(Reject::HEAD_TIMEOUT, true), head);
        let busy = encode_whole(Reject::TOO_MANY_CONNECTIONS, false);
        assert!(memchr::memmem::find(&busy, b"\r\nretry-after: 1\r\n").is_some());
    }

    #[test]
    fn header_lines() {
        use BadHeaderLine::*;
        let check = |lines: &[u8], expected: Result<(), BadHeaderLine>| {
            assert_eq!(
                check_header_lines(lines),
                expected,
                "{}",
                lines.escape_ascii()
            );
        };
        check(b"", Ok(()));
        check(b"x: y\r\n", Ok(()));
        check(b"x:\r\nset-cookie: a=b; c\r\nX_1: \t\xc3\xa9 \r\n", Ok(()));
        check(b"x-date: y\r\nt: u\r\n", Ok(()));
        for lines in [
            &b"x"[..],
            b"x: y",
            b"x: y\n",
            b"x: y\r",
            b"\n",
            b"x: y\r\nz: a\n\r\n",
        ] {
            check(lines, Err(LineEnd));
        }
        for lines in [
            &b"\r\n"[..],
            b"x\r\n",
            b": y\r\n",
            b"x : y\r\n",
            b" x: y\r\n",
            b"x: y\r\n folded\r\n",
            b"x: y\r\n\r\nbody",
            b"\xc3\xa9: y\r\n",
            b"x\0: y\r\n",
        ] {
            check(lines, Err(Name));
        }
        for byte in (0..=b' ')
            .chain([0x7f])
            .filter(|byte| !b"\t\n ".contains(byte))
        {
            check(&[b"x: y", &[byte][..], b"z\r\n"].concat(), Err(Value));
        }
        for name in [
            "content-length",
            "transfer-encoding",
            "connection",
            "keep-alive",
            "upgrade",
            "te",
            "trailer",
            "date",
            "server",
        ] {
            check(format!("{name}: y\r\n").as_bytes(), Err(Reserved(name)));
            let shouted = format!("x: y\r\n{}:\r\n", name.to_uppercase());
            check(shouted.as_bytes(), Err(Reserved(name)));
        }
    }
}
