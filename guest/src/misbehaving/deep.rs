//! `deep`: a handler that calls itself far deeper than any stack reaches.

use crate::{Request, Response};

/// Calls itself `?depth=N` deep, 4 294 967 295 if it is missing or no such number.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let depth = request.query("depth").and_then(|text| text.parse().ok());
    Response::number(u64::from(down(depth.unwrap_or(u32::MAX))))
}

/// What is left to do after the call cannot be done before it, so no compiler makes a loop of it;
/// and it fits registers, so that it is the host's stack that is used up and not the guest's own.
#[inline(never)]
fn down(depth: u32) -> u32 {
    if depth == 0 {
        return 1;
    }
    (down(depth - 1) ^ depth).rotate_left(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_comes_back_from_where_the_stack_reaches() {
        assert_eq!((down(0), down(1), down(2)), (1, 0, 64));
    }
}
