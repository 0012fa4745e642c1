//! What the sessions of one thread share: where requests go, and the bounds that clients are held to.

use std::marker::PhantomData;
use std::sync::Arc;

use crate::handlers::Seen;
use crate::http;
use crate::measure::probe::Probe;
use crate::offload::Offload;
use crate::pool::Pool;
use crate::served::Served;

/// How long a client may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Silence between requests, and before the first.
    pub keep_alive_ms: u64,
    /// From a head's first byte to its last.
    pub head_ms: u64,
    /// From a head's end to the body's.
    pub body_ms: u64,
    /// For the client to take one buffer of answers.
    pub send_ms: u64,
    /// Reading on after a reject, so that the answer is not lost to a reset.
    pub linger_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            keep_alive_ms: 60_000,
            head_ms: 10_000,
            body_ms: 30_000,
            send_ms: 30_000,
            linger_ms: 2_000,
        }
    }
}

impl Timeouts {
    /// The one that passes first, in milliseconds.
    pub fn shortest_ms(&self) -> u64 {
        let all = [
            self.keep_alive_ms,
            self.head_ms,
            self.body_ms,
            self.send_ms,
            self.linger_ms,
        ];
        all.into_iter().min().expect("there are some")
    }
}

/// What sessions of one thread share. The thread that owns it keeps the time in it.
pub struct Context<P: Probe> {
    /// Where and when handlers run.
    pub offload: Box<dyn Offload>,
    /// Which handlers those are.
    pub handlers: Seen,
    /// Bounds on requests.
    pub limits: http::Limits,
    /// Bounds on the client's time.
    pub timeouts: Timeouts,
    /// Buffers to use again.
    pub pool: Pool,
    /// What was done.
    pub served: Arc<Served>,
    /// This turn's date, as a header carries it.
    pub date: [u8; 29],
    /// This turn's time, CLOCK_MONOTONIC in milliseconds.
    pub now_ms: u64,
    /// What is recorded of where the time goes.
    pub probe: PhantomData<P>,
}

impl<P: Probe> Context<P> {
    /// Takes over handlers that were exchanged. Before each request, after its bytes were received:
    /// whoever was told of the exchange and asks then is answered by the new one. And when woken, so
    /// that what an idle thread had is gone.
    #[inline]
    pub fn take_over(&mut self) {
        if let Some(handlers) = self.handlers.look() {
            for (route, handler) in handlers.iter().enumerate() {
                self.offload.replace(route, handler);
            }
        }
    }
}
