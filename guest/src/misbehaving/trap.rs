//! `trap`: a handler with a bug.

use crate::{Request, Response};

/// Aborts, which is the instruction `unreachable`.
pub fn handle<'a>(_: &Request<'a>) -> Response<'a> {
    std::process::abort()
}
