//! What a handler is given: one request, borrowed, never copied.
//!
//! The same type in the sandbox and natively; only the [`Headers`] behind it
//! differ. Nothing here allocates or decodes.

/// The headers of a request, wherever they lie.
pub trait Headers {
    /// How many header lines there are.
    fn len(&self) -> usize;

    /// The name, in the case that the client sent, and the value of line
    /// `index`; none from [`len`](Self::len) on.
    fn get(&self, index: usize) -> Option<(&[u8], &[u8])>;

    /// Whether there is no header line.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Names and values from a literal: what a handler's own tests need.
impl<const N: usize> Headers for [(&str, &str); N] {
    fn len(&self) -> usize {
        N
    }

    fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        <[_]>::get(self, index).map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }
}

/// One HTTP request.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    method: &'a [u8],
    target: &'a [u8],
    headers: &'a dyn Headers,
    body: &'a [u8],
}

impl<'a> Request<'a> {
    /// A request from its parts; for the host, and for the tests of a handler.
    #[inline]
    pub fn new<Text: AsRef<[u8]> + ?Sized>(
        method: &'a Text,
        target: &'a Text,
        headers: &'a dyn Headers,
        body: &'a [u8],
    ) -> Self {
        Self {
            method: method.as_ref(),
            target: target.as_ref(),
            headers,
            body,
        }
    }

    /// The method, case-sensitive: `GET`.
    ///
    /// Methods and targets are ASCII (RFC 9110 section 9.1, RFC 3986 section 2);
    /// one that is not even UTF-8 reads as empty.
    #[inline]
    pub fn method(&self) -> &'a str {
        str::from_utf8(self.method).unwrap_or_default()
    }

    /// The target as the client sent it: `/count?n=3`, or a whole URL
    /// (RFC 9112 section 3.2). See [`method`](Self::method) for its characters.
    #[inline]
    pub fn target(&self) -> &'a str {
        str::from_utf8(self.target).unwrap_or_default()
    }

    /// The target's path: without scheme, authority and query, not decoded.
    /// Empty if a whole URL has none.
    pub fn path(&self) -> &'a str {
        let target = self.target();
        let path = target.split_once('?').map_or(target, |(path, _)| path);
        if path.starts_with('/') {
            return path;
        }
        match path.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("", |at| &rest[at..]),
            None => path,
        }
    }

    /// The value of the first query parameter called `name`: `3` for `n` in
    /// `?n=3`, empty if it has no `=`.
    ///
    /// Plain text: neither `%20` nor `+` is decoded.
    pub fn query(&self, name: &str) -> Option<&'a str> {
        let (_, query) = self.target().split_once('?')?;
        query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .find_map(|(key, value)| (key == name).then_some(value))
    }

    /// The value of the first header called `name`, whatever its case. A header
    /// that came several times is found whole with [`headers`](Self::headers).
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers()
            .find_map(|(key, value)| key.eq_ignore_ascii_case(name.as_bytes()).then_some(value))
    }

    /// Names and values in the order in which the client sent them.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let headers = self.headers;
        (0..headers.len()).filter_map(|index| headers.get(index))
    }

    /// The body, without its transfer coding; empty if there is none.
    #[inline]
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Path, and the query parameter `n`, of a target.
    fn check(target: &str, path: &str, n: Option<&str>) {
        let request = Request::new("GET", target, &[], b"");
        assert_eq!(request.target(), target);
        assert_eq!((request.path(), request.query("n")), (path, n), "{target}");
    }

    #[test]
    fn a_target_has_a_path_and_a_query() {
        check("/", "/", None);
        check("/count?n=3", "/count", Some("3"));
        check("/count?m=1&n=3&n=4", "/count", Some("3"));
        check("/count?nn=1&n", "/count", Some(""));
        check("/count?n=a=b", "/count", Some("a=b"));
        check("/count?n=%33+", "/count", Some("%33+"));
        check("/a?b?n=3&n=4", "/a", Some("4"));
        check("/?u=http://x/y", "/", None);
        check("http://host/count?n=3", "/count", Some("3"));
        check("http://host?n=3", "", Some("3"));
        check("*", "*", None);
        check("", "", None);
    }

    #[test]
    fn a_target_that_is_not_utf8_reads_as_empty() {
        let request = Request::new(&b"GET"[..], &b"/\xff"[..], &[], b"");
        assert_eq!((request.method(), request.target()), ("GET", ""));
    }

    #[test]
    fn the_first_header_of_a_name_is_found_in_any_case() {
        let headers = [("Host", "here"), ("ACCEPT", "a"), ("accept", "b")];
        let request = Request::new("GET", "/", &headers, b"");
        assert_eq!(request.header("host"), Some(&b"here"[..]));
        assert_eq!(request.header("Accept"), Some(&b"a"[..]));
        assert_eq!(request.header("hos"), None);
        assert_eq!(request.headers().count(), 3);
    }
}
