//! The handler runs here and now, on the I/O thread: Node's event loop. Nothing is cheaper, and
//! everything else on this thread waits for it.

use std::marker::PhantomData;
use std::sync::Arc;

use super::{Job, Offload, Started, encode};
use crate::http;
use crate::io::{Buf, Token};
use crate::measure::probe::{Probe, Stage};
use crate::sandbox::{Call, Sandbox, ShardSandbox};
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
    fn start(
        &mut self,
        _owner: Token,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    ) -> Started {
        let call = Call {
            method: request.method,
            target: request.target,
            head: request.head,
            headers: request.headers,
            body: request.body,
        };
        let before = P::enter(Stage::Sandbox);
        let copied = &served.bytes_copied;
        self.sandbox.call_probed::<P, _>(&call, copied, |result| {
            P::within(Stage::Http, || encode(result, reply, date, out, served));
        });
        P::enter(before);
        Started::Answered
    }

    fn next(&mut self, _served: &Served) -> Option<Job> {
        None
    }

    fn recycle(&mut self, _job: Job) {}

    fn cancel(&mut self, _owner: Token) {}

    fn may_sleep(&mut self) -> bool {
        true
    }

    fn rest(&mut self) {
        self.sandbox.release();
    }

    fn replace(&mut self, _route: usize, handler: &Arc<ShardSandbox>) {
        if self.sandbox.is_of(handler) {
            return;
        }
        match Sandbox::new(handler.clone()) {
            Ok(sandbox) => self.sandbox = sandbox,
            Err(error) => tracing::warn!(%error, "a thread stays with the handler it has"),
        }
    }
}
