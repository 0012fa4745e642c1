//! `echo`: the request's body back, to measure how bytes travel.
//!
//! Nothing is copied in the guest but the content type.

use crate::response::INLINE_LINES;
use crate::{Request, Response};

/// What a body without a type is called (RFC 9110 section 8.3).
const UNTYPED: &str = "content-type: application/octet-stream\r\n";

/// The longest content type that is answered, in bytes: its line still fits into
/// the response itself. A module of fixed memory has no heap to put it on.
const TYPE_MAX: usize = INLINE_LINES - "content-type: \r\n".len();

/// Answers the request's body with the request's content type, or
/// `application/octet-stream` if that is missing or over 110 bytes long.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let response = Response::bytes(request.body());
    match request.header("content-type") {
        Some(media_type) if media_type.len() <= TYPE_MAX => {
            response.with_header("content-type", media_type)
        }
        _ => response.with_header_lines(UNTYPED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: [(&str, &str); 1], body: &[u8], media_type: &str) {
        let request = Request::new("POST", "/echo", &headers, body);
        let response = handle(&request);
        assert_eq!((response.status(), response.body()), (200, body));
        assert_eq!(response.body().as_ptr(), body.as_ptr());
        let lines = format!("content-type: {media_type}\r\n");
        assert_eq!(response.header_lines(), lines.as_bytes());
    }

    #[test]
    fn the_body_comes_back_with_its_type() {
        check([("Content-Type", "text/html")], b"<p>", "text/html");
        check([("x", "y")], b"\0\xff", "application/octet-stream");
        check([("x", "y")], b"", "application/octet-stream");
    }

    #[test]
    fn a_type_too_long_for_a_module_without_heap_is_left_out() {
        let longest = "t/".repeat(TYPE_MAX / 2);
        check([("content-type", &longest)], b"a", &longest);
        let longer = longest + "t";
        check(
            [("content-type", &longer)],
            b"a",
            "application/octet-stream",
        );
    }
}
