//! The handler runs here and now, on the I/O thread: Node's event loop. Nothing is cheaper, and
//! everything else on this thread waits for it.

use std::marker::PhantomData;

use super::Offload;
use crate::http;
use crate::io::Buf;
use crate::measure::probe::{Probe, Stage};
use crate::sandbox::{Call, Failure, Sandbox};
use crate::served::Served;

/// The policy: a sandbox of one's own.
pub struct Inline<P> {
    sandbox: Sandbox,
    probe: PhantomData<P>,
}

impl<P: Probe> Inline<P> {
    /// Runs handlers in `sandbox`, on the thread that owns it.
    pub fn new(sandbox: Sandbox) -> Self {
        Self {
            sandbox,
            probe: PhantomData,
        }
    }
}

impl<P: Probe> Offload for Inline<P> {
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
        let before = P::enter(Stage::Sandbox);
        self.sandbox
            .call_probed::<P, _>(&call, |result| match result {
                Ok(answer) => {
                    let answer = http::Answer {
                        status: answer.status,
                        header_lines: answer.header_lines,
                        body: answer.body,
                    };
                    P::within(Stage::Http, || http::encode(out, date, &answer, reply));
                }
                Err(failure) => encode_failure(&failure, reply, date, out, served),
            });
        P::enter(before);
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
