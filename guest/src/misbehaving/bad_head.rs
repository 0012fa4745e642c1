//! `bad-head`: a handler whose head would split the response, or is none.

use crate::{Request, Response};

/// What `?what=` may name, and the status and header lines that are answered then.
pub const HEADS: &[(&str, u16, &str)] = &[
    // A second response, made of what looks like one header value.
    (
        "injection",
        200,
        "a: 1\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    ),
    ("cr", 200, "a: 1\rb: 2\r\n"),
    ("lf", 200, "a: 1\nb: 2\r\n"),
    ("nul", 200, "a: \0\r\n"),
    ("name", 200, "a b: 1\r\n"),
    ("colon", 200, "a\r\n"),
    ("open", 200, "a: 1"),
    ("length", 200, "Content-Length: 1\r\n"),
    ("coding", 200, "transfer-encoding: chunked\r\n"),
    ("connection", 200, "connection: close\r\n"),
    ("status-0", 0, ""),
    ("status-100", 100, ""),
    ("status-99", 99, ""),
    ("status-600", 600, ""),
    ("status-65535", 65535, ""),
];

/// Answers the head that `?what=` names, the first of [`HEADS`] if it is missing, and 400 if there is
/// no such head.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let what = request.query("what").unwrap_or(HEADS[0].0);
    match HEADS.iter().find(|(name, ..)| *name == what) {
        Some((_, status, lines)) => Response::bytes("body")
            .with_status(*status)
            .with_header_lines(lines),
        None => Response::text("bad-head has no such ?what=\n").with_status(400),
    }
}
