//! `huge`: a handler whose answer is larger than it may be.

use crate::{Request, Response};

/// Twice what the host takes unless it is told otherwise.
const DEFAULT: usize = 2 * 1024 * 1024;
/// As much as its module has room for.
const MOST: usize = DEFAULT + DEFAULT / 4;

/// Answers `?bytes=N` with so many zeros, 2 MiB if it is missing; 400 if N is over 2.5 MiB.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let bytes = match request.query("bytes") {
        Some(text) => text.parse().ok().filter(|bytes| *bytes <= MOST),
        None => Some(DEFAULT),
    };
    match bytes {
        Some(bytes) => Response::bytes(vec![0; bytes]),
        None => Response::text("huge takes ?bytes=N from 0 to 2621440\n").with_status(400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_as_long_as_asked_for() {
        for (target, status, length) in [
            ("/", 200, DEFAULT),
            ("/?bytes=0", 200, 0),
            ("/?bytes=2621440", 200, MOST),
        ] {
            let response = handle(&Request::new("GET", target, &[], b""));
            assert_eq!((response.status(), response.body().len()), (status, length));
        }
        let response = handle(&Request::new("GET", "/?bytes=2621441", &[], b""));
        assert_eq!(response.status(), 400);
    }
}
