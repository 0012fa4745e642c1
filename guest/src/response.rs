//! What a handler answers: a status, header lines and a body.
//!
//! Texts are borrowed where they can be, kept inside the response where they
//! are short, and on the heap only otherwise. That matters in a sandbox: its heap
//! grows by memory pages, and a module whose memory is fixed has none.

/// Room for any 64-bit number in decimal and a newline.
const INLINE_BODY: usize = 21;

/// Room for one header line such as the longest usual `content-type`: a
/// multipart type with a boundary of 70 characters (RFC 2046 section 5.1.1).
pub(crate) const INLINE_LINES: usize = 126;

const TEXT: &str = "content-type: text/plain; charset=utf-8\r\n";

/// The answer to one request. It may borrow from the request.
///
/// The host adds what frames a message and what it owns (`content-length`,
/// `date`, `connection`), and refuses an answer that sets these itself, whose
/// header values hold CR, LF or NUL, or whose status is not in 200..=599.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    status: u16,
    header_lines: Text<'static, INLINE_LINES>,
    body: Body<'a>,
}

/// A response's body: from text or bytes, borrowed or owned.
#[derive(Clone, Debug)]
pub struct Body<'a>(Text<'a, INLINE_BODY>);

impl<'a> Response<'a> {
    /// Status 200 with a body of plain UTF-8 text.
    #[inline]
    pub fn text(body: impl Into<Body<'a>>) -> Self {
        Self::bytes(body).with_header_lines(TEXT)
    }

    /// Status 200 with a body of any kind and no header line yet.
    #[inline]
    pub fn bytes(body: impl Into<Body<'a>>) -> Self {
        Self {
            status: 200,
            header_lines: Text::Borrowed(b""),
            body: body.into(),
        }
    }

    /// Status 200 with plain text: `value` in decimal digits, then a newline.
    /// Uses no heap.
    pub fn number(value: u64) -> Self {
        let mut bytes = [b'\n'; INLINE_BODY];
        let digits = value.checked_ilog10().map_or(1, |log| log as usize + 1);
        let mut rest = value;
        for digit in bytes.iter_mut().take(digits).rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let len = digits as u8 + 1;
        Self::text(Body(Text::Inline { len, bytes }))
    }

    /// The same answer with this status, 200..=599.
    #[inline]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same answer with these header lines in place of all others: zero or
    /// more of `name: value`, each ended by CR LF. Costs nothing.
    #[inline]
    pub fn with_header_lines(mut self, lines: &'static str) -> Self {
        self.header_lines = Text::Borrowed(lines.as_bytes());
        self
    }

    /// The same answer with one header line more. Header lines are copied, onto
    /// the heap from 127 bytes in all.
    pub fn with_header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let parts = [name.as_bytes(), b": ", value.as_ref(), b"\r\n"];
        self.header_lines = self.header_lines.with(&parts);
        self
    }

    /// The status code.
    #[inline]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Zero or more header lines, each ended by CR LF.
    #[inline]
    pub fn header_lines(&self) -> &[u8] {
        self.header_lines.as_bytes()
    }

    /// The body.
    #[inline]
    pub fn body(&self) -> &[u8] {
        self.body.0.as_bytes()
    }
}

impl<'a> From<&'a str> for Body<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        text.as_bytes().into()
    }
}

impl<'a> From<&'a [u8]> for Body<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Self(Text::Borrowed(bytes))
    }
}

impl From<String> for Body<'_> {
    #[inline]
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<Vec<u8>> for Body<'_> {
    #[inline]
    fn from(bytes: Vec<u8>) -> Self {
        Self(Text::Heap(bytes))
    }
}

/// Bytes in one of three places; `INLINE` is at most 255.
#[derive(Clone, Debug)]
enum Text<'a, const INLINE: usize> {
    Borrowed(&'a [u8]),
    Inline { len: u8, bytes: [u8; INLINE] },
    Heap(Vec<u8>),
}

impl<const INLINE: usize> Text<'_, INLINE> {
    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Inline { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or(bytes),
            Self::Heap(bytes) => bytes,
        }
    }

    /// These bytes and then `parts`: inline if all fits, else on the heap.
    fn with(self, parts: &[&[u8]]) -> Self {
        let before = self.as_bytes();
        let len = before.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        if len > INLINE {
            let mut heap = match self {
                Self::Heap(heap) => heap,
                short => short.as_bytes().to_vec(),
            };
            for part in parts {
                heap.extend_from_slice(part);
            }
            return Self::Heap(heap);
        }
        let mut bytes = [0; INLINE];
        let mut at = 0;
        for part in [before].iter().chain(parts) {
            // Always there, by the comparison above; `get` leaves no panic behind.
            if let Some(to) = bytes.get_mut(at..).and_then(|to| to.get_mut(..part.len())) {
                to.copy_from_slice(part);
            }
            at += part.len();
        }
        let len = len as u8;
        Self::Inline { len, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(response: &Response, status: u16, lines: &str, body: &str) {
        assert_eq!(response.status(), status);
        assert_eq!(response.header_lines(), lines.as_bytes());
        assert_eq!(response.body(), body.as_bytes());
    }

    #[test]
    fn bodies_come_from_text_and_bytes_borrowed_and_owned() {
        check(&Response::text("a"), 200, TEXT, "a");
        check(&Response::text(String::from("a")), 200, TEXT, "a");
        check(&Response::bytes(&b"a"[..]), 200, "", "a");
        check(&Response::bytes(b"a".to_vec()), 200, "", "a");
    }

    #[test]
    fn a_number_is_its_digits_and_a_newline() {
        for value in [0, 1, 9, 10, 99, 100, 1_000_000, u64::MAX - 1, u64::MAX] {
            check(&Response::number(value), 200, TEXT, &format!("{value}\n"));
        }
    }

    #[test]
    fn a_borrowed_body_is_not_copied() {
        let body = b"the request's own".to_vec();
        let response = Response::bytes(&*body);
        assert_eq!(response.body().as_ptr(), body.as_ptr());
    }

    #[test]
    fn header_lines_are_replaced_or_appended_to() {
        let response = Response::bytes("")
            .with_header_lines("a: 1\r\n")
            .with_header("b", "2")
            .with_status(404);
        check(&response, 404, "a: 1\r\nb: 2\r\n", "");
        let response = response.with_header_lines("c: 3\r\n");
        check(&response, 404, "c: 3\r\n", "");
    }

    #[test]
    fn header_lines_are_whole_in_the_response_and_on_the_heap() {
        let mut lines = String::new();
        let mut response = Response::bytes("");
        for n in 0..40 {
            lines += &format!("name: {n}\r\n");
            response = response.with_header("name", n.to_string());
            check(&response, 200, &lines, "");
            let inline = matches!(response.header_lines, Text::Inline { .. });
            assert_eq!(inline, lines.len() <= INLINE_LINES);
        }
    }
}
