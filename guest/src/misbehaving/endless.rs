//! `loop`: a handler that never returns.

use std::hint::black_box;

use crate::{Request, Response};

/// Computes for ever.
pub fn handle<'a>(_: &Request<'a>) -> Response<'a> {
    let mut steps: u64 = 0;
    loop {
        steps = black_box(steps.wrapping_add(1));
    }
}
