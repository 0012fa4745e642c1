//! WHERE AND WHEN a handler runs. One file per policy.
//!
//! A policy takes a parsed request and sees to it that the handler's answer, or the reason why there
//! is none, gets into the connection's output. It knows no sockets and no models. It is called once
//! a request, so a virtual call is cheap and the same for all.

mod inline;

pub use inline::Inline;

use crate::http;
use crate::io::Buf;
use crate::served::Served;

/// A policy, as one thread uses it.
pub trait Offload {
    /// Answers `request` into `out`.
    fn answer(
        &mut self,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    );

    /// The thread is about to wait for an uncertain time: what others could use is given back.
    fn rest(&mut self) {}
}
