//! `hello`: a fixed text, so that what is measured is everything else.

use crate::{Request, Response};

/// Answers `Hello, World!`, whatever the request.
pub fn handle<'a>(_: &Request<'a>) -> Response<'a> {
    Response::text("Hello, World!\n")
}

#[cfg(test)]
mod tests {
    use super::super::get;

    #[test]
    fn hello_is_a_line_of_plain_text() {
        let (status, lines, body) = get(super::handle, "/any?thing");
        assert_eq!((status, &*body), (200, "Hello, World!\n"));
        assert_eq!(lines, "content-type: text/plain; charset=utf-8\r\n");
    }
}
