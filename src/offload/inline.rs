//! The handler runs here and now, on the I/O thread: Node's event loop. Nothing is cheaper, and
//! everything else on this thread waits for it.

use super::Offload;
use crate::http;
use crate::io::Buf;
use crate::sandbox::{Call, Failure, Sandbox};
use crate::served::Served;

/// The policy: a sandbox of one's own.
pub struct Inline {
    sandbox: Sandbox,
}

impl Inline {
    /// Runs handlers in `sandbox`, on the thread that owns it.
    pub fn new(sandbox: Sandbox) -> Self {
        Self { sandbox }
    }
}

impl Offload for Inline {
    fn answer(
        &mut self,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    ) {
        let call = Call {
            method: request.method,
            target: request.target,
            head: request.head,
            headers: request.headers,
            body: request.body,
        };
        self.sandbox.call(&call, |result| match result {
            Ok(answer) => {
                let answer = http::Answer {
                    status: answer.status,
                    header_lines: answer.header_lines,
                    body: answer.body,
                };
                http::encode(out, date, &answer, reply);
            }
            Err(failure) => encode_failure(&failure, reply, date, out, served),
        });
    }

    fn rest(&mut self) {
        self.sandbox.release();
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
    served.failed.add(1);
    if matches!(failure, Failure::Deadline) {
        served.deadline_passed.add(1);
    }
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
