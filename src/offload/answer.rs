//! From what a handler answered, or why it did not, to the bytes that the client gets.

use crate::http;
use crate::io::Buf;
use crate::sandbox::{Answer, Failure};
use crate::served::Served;

/// Writes the response to one request into `out`.
#[inline]
pub fn encode(
    outcome: Result<Answer<'_>, Failure>,
    reply: http::Reply,
    date: &[u8; 29],
    out: &mut Buf,
    served: &Served,
) {
    match outcome {
        Ok(answer) => {
            let answer = http::Answer {
                status: answer.status,
                header_lines: answer.header_lines,
                body: answer.body,
            };
            let copied = http::encode(out, date, &answer, reply);
            served.bytes_copied.add(copied as u64);
        }
        Err(failure) => encode_failure(&failure, reply, date, out, served),
    }
}

/// The client learns the class of the failure, and the stream stays good.
fn encode_failure(
    failure: &Failure,
    reply: http::Reply,
    date: &[u8; 29],
    out: &mut Buf,
    served: &Served,
) {
    served.fail(failure);
    tracing::debug!(%failure, "a request failed");
    let body = [failure.reason().as_bytes(), b"\n"].concat();
    let answer = http::Answer {
        status: failure.status(),
        header_lines: if failure.status() == 503 {
            b"content-type: text/plain\r\nretry-after: 1\r\n"
        } else {
            b"content-type: text/plain\r\n"
        },
        body: &body,
    };
    http::encode(out, date, &answer, reply);
}
