//! What a connection is told before it is closed: a status and one sentence.
//!
//! One table, so that every refusal of the protocol can be read in one place. What a handler does
//! wrong is not here: its connection goes on.

/// The answer to a client whose bytes can no longer be trusted, or that is not to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status code, 400 or above.
    pub status: u16,
    /// One sentence for the response's body, without a line end.
    pub reason: &'static str,
}

impl Reject {
    const fn new(status: u16, reason: &'static str) -> Self {
        Reject { status, reason }
    }

    // Of the session: the decoder has no clock and knows of one connection only.

    /// The head did not come in time.
    pub const HEAD_TIMEOUT: Reject = Reject::new(408, "The request head did not arrive in time.");
    /// The body did not come in time.
    pub const BODY_TIMEOUT: Reject = Reject::new(408, "The request body did not arrive in time.");
    /// More connections than the limit; the answer asks to retry after a second.
    pub const TOO_MANY_CONNECTIONS: Reject =
        Reject::new(503, "The server has as many connections as it may.");

    // Of the request line.

    pub(super) const REQUEST_LINE: Reject = Reject::new(400, "The request line is malformed.");
    pub(super) const EMPTY_LINES: Reject =
        Reject::new(400, "Too many empty lines precede the request line.");
    pub(super) const TARGET: Reject = Reject::new(400, "The request target is malformed.");
    pub(super) const TARGET_TOO_LONG: Reject =
        Reject::new(414, "The request target is longer than the limit.");
    pub(super) const CONNECT: Reject = Reject::new(501, "This server opens no tunnels.");
    pub(super) const VERSION: Reject =
        Reject::new(505, "This server speaks HTTP/1.1 and HTTP/1.0 only.");

    // Of the header block.

    pub(super) const HEADER: Reject = Reject::new(400, "A header field is malformed.");
    pub(super) const HEAD_TOO_LARGE: Reject =
        Reject::new(431, "The header fields are larger than the limit.");
    pub(super) const TOO_MANY_HEADERS: Reject =
        Reject::new(431, "There are more header fields than the limit.");
    pub(super) const HOST_MISSING: Reject = Reject::new(400, "The Host header field is missing.");
    pub(super) const HOST_REPEATED: Reject = Reject::new(400, "The Host header field is repeated.");
    pub(super) const HOST: Reject = Reject::new(400, "The Host header field is malformed.");
    pub(super) const EXPECT: Reject =
        Reject::new(417, "This server meets no expectation but 100-continue.");

    // Of the body and how it is framed.

    pub(super) const LENGTH: Reject = Reject::new(400, "Content-Length is not a number of bytes.");
    pub(super) const LENGTHS_DIFFER: Reject =
        Reject::new(400, "Content-Length is given twice, with different values.");
    pub(super) const LENGTH_AND_CODING: Reject = Reject::new(
        400,
        "Content-Length and Transfer-Encoding exclude each other.",
    );
    pub(super) const CODING: Reject =
        Reject::new(400, "Transfer-Encoding must end with chunked, once.");
    pub(super) const CODING_ON_1_0: Reject = Reject::new(400, "HTTP/1.0 has no Transfer-Encoding.");
    pub(super) const CODING_UNKNOWN: Reject =
        Reject::new(501, "This server knows no transfer coding but chunked.");
    pub(super) const CHUNK: Reject = Reject::new(400, "A chunk of the body is malformed.");
    pub(super) const TRAILER: Reject = Reject::new(400, "A trailer field is malformed.");
    pub(super) const BODY_TOO_LARGE: Reject =
        Reject::new(413, "The request body is larger than the limit.");
}
