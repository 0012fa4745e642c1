//! `json`: a body parsed, altered and printed, as an interface between two services does it.
//!
//! A strict parser of RFC 8259 that builds the document as one list of values in the order of the
//! text, each array and object with the number of what is in it. Texts and numbers that stay as
//! they are point into the body and are not copied before they are printed.

use crate::{Request, Response};

/// The longest body, in bytes.
const MOST: usize = 32 * 1024;
/// The most values in a document, names of members among them.
const MOST_VALUES: usize = 4096;
/// How deep arrays and objects may lie in each other.
const MOST_DEPTH: u32 = 32;

/// What `/json` alters if the request has no body.
const SAMPLE: &str = r#"{
  "order": 10248, "placed": "1996-07-04", "customer": {"name": "Vins et alcools Chevalier",
  "city": "Reims", "regular": true}, "discount": null, "freight": 32.38, "lines": [
    {"product": 11, "name": "Queso Cabrales", "quantity": 12, "price": 14.0},
    {"product": 42, "name": "Singaporean Hokkien Fried Mee", "quantity": 10, "price": 9.8},
    {"product": 72, "name": "Mozzarella di Giovanni", "quantity": 5, "price": 34.8}
  ]
}"#;

/// Adds one to every whole number of 64 bits in the request's body, and answers the document
/// without white space. Without a body it takes a sample. Answers 400, with the place, to what is no
/// JSON or is over 32 deep, and 413 to a body over 32 KiB or a document over 4096 values.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let body = match request.body() {
        [] => SAMPLE.as_bytes(),
        body => body,
    };
    if body.len() > MOST {
        return Response::text("json takes a body of at most 32768 bytes\n").with_status(413);
    }
    match parse(body) {
        Ok(mut document) => {
            alter(&mut document);
            let room = body.len() + document.len();
            Response::bytes(print(&document, room))
                .with_header_lines("content-type: application/json\r\n")
        }
        Err(Fault::TooMany) => Response::text("json takes at most 4096 values\n").with_status(413),
        Err(Fault::Syntax { what, at }) => {
            Response::text(format!("no JSON: {what} at byte {at}\n")).with_status(400)
        }
    }
}

enum Value<'a> {
    /// Anything that is printed as it came: texts, names, `true`, numbers with a fraction.
    Verbatim(&'a [u8]),
    Integer(i64),
    /// So many values follow, and what is in them.
    Array(u32),
    /// So many pairs of a name and a value follow.
    Object(u32),
}

fn alter(document: &mut [Value]) {
    for value in document {
        if let Value::Integer(n) = value {
            *n = n.saturating_add(1);
        }
    }
}

enum Fault {
    Syntax { what: &'static str, at: usize },
    TooMany,
}

type Parsed<T> = Result<T, Fault>;

fn parse(text: &[u8]) -> Parsed<Vec<Value<'_>>> {
    if let Err(error) = str::from_utf8(text) {
        let at = error.valid_up_to();
        return Err(Fault::Syntax {
            what: "no UTF-8",
            at,
        });
    }
    // A value takes a byte and what parts it from the next.
    let mut parser = Parser {
        text,
        at: 0,
        values: Vec::with_capacity(MOST_VALUES.min(text.len() / 2 + 1)),
    };
    parser.skip_space();
    parser.value(0)?;
    match parser.peek() {
        None => Ok(parser.values),
        Some(_) => Err(parser.fault("more than one value")),
    }
}

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    values: Vec<Value<'a>>,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn fault(&self, what: &'static str) -> Fault {
        Fault::Syntax { what, at: self.at }
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Takes `byte` and the space behind it, if it is next.
    fn takes(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
            self.skip_space();
        }
        found
    }

    /// Adds a value; says where.
    fn push(&mut self, value: Value<'a>) -> Parsed<usize> {
        if self.values.len() == MOST_VALUES {
            return Err(Fault::TooMany);
        }
        self.values.push(value);
        Ok(self.values.len() - 1)
    }

    /// A value and the space behind it.
    fn value(&mut self, depth: u32) -> Parsed<()> {
        match self.peek() {
            Some(b'{') => return self.object(depth + 1),
            Some(b'[') => return self.array(depth + 1),
            Some(b'"') => return self.string(),
            Some(b'-' | b'0'..=b'9') => return self.number(),
            Some(_) => {}
            None => return Err(self.fault("the end where a value should be")),
        }
        let rest = &self.text[self.at..];
        for word in [&b"true"[..], b"false", b"null"] {
            if rest.starts_with(word) {
                self.push(Value::Verbatim(word))?;
                self.at += word.len();
                self.skip_space();
                return Ok(());
            }
        }
        Err(self.fault("no value"))
    }

    fn array(&mut self, depth: u32) -> Parsed<()> {
        let place = self.open(b'[', depth)?;
        let mut count = 0;
        while !self.takes(b']') {
            self.comma(count)?;
            self.value(depth)?;
            count += 1;
        }
        self.values[place] = Value::Array(count);
        Ok(())
    }

    fn object(&mut self, depth: u32) -> Parsed<()> {
        let place = self.open(b'{', depth)?;
        let mut count = 0;
        while !self.takes(b'}') {
            self.comma(count)?;
            if self.peek() != Some(b'"') {
                return Err(self.fault("no name"));
            }
            self.string()?;
            if !self.takes(b':') {
                return Err(self.fault("no colon"));
            }
            self.value(depth)?;
            count += 1;
        }
        self.values[place] = Value::Object(count);
        Ok(())
    }

    /// Begins an array or an object, whose number of members is not known yet.
    fn open(&mut self, bracket: u8, depth: u32) -> Parsed<usize> {
        if depth > MOST_DEPTH {
            return Err(self.fault("over 32 deep"));
        }
        self.takes(bracket);
        self.push(Value::Array(0))
    }

    /// Between two members there is a comma.
    fn comma(&mut self, before: u32) -> Parsed<()> {
        if before > 0 && !self.takes(b',') {
            return Err(self.fault("no comma"));
        }
        Ok(())
    }

    fn string(&mut self) -> Parsed<()> {
        let from = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0..=0x1f) => return Err(self.fault("a control character")),
                Some(_) => self.at += 1,
                None => return Err(self.fault("the end within a text")),
            }
        }
        self.at += 1;
        self.push(Value::Verbatim(&self.text[from..self.at]))?;
        self.skip_space();
        Ok(())
    }

    /// Section 7. Whether surrogates come in pairs is the concern of who reads the text.
    fn escape(&mut self) -> Parsed<()> {
        let rest = &self.text[self.at + 1..];
        let length = match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
            Some(b'u') if rest.len() > 4 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => 6,
            _ => return Err(self.fault("no escape")),
        };
        self.at += length;
        Ok(())
    }

    /// Section 6.
    fn number(&mut self) -> Parsed<()> {
        let from = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        let mut whole = true;
        if self.peek() == Some(b'.') {
            whole = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            whole = false;
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            self.digits()?;
        }
        let digits = &self.text[from..self.at];
        let integer = str::from_utf8(digits)
            .ok()
            .and_then(|text| text.parse().ok());
        self.push(match integer {
            Some(n) if whole => Value::Integer(n),
            _ => Value::Verbatim(digits),
        })?;
        self.skip_space();
        Ok(())
    }

    /// One digit or more.
    fn digits(&mut self) -> Parsed<()> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == from {
            return Err(self.fault("no digit"));
        }
        Ok(())
    }
}

/// The document's text. `room`: what it takes at most, in bytes.
fn print(document: &[Value], room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room);
    print_value(&mut document.iter(), &mut out);
    out
}

/// Prints the next value and all that is in it. No deeper than the parser went.
fn print_value<'a>(values: &mut impl Iterator<Item = &'a Value<'a>>, out: &mut Vec<u8>) {
    match values.next() {
        Some(Value::Verbatim(text)) => out.extend_from_slice(text),
        Some(Value::Integer(n)) => print_integer(*n, out),
        Some(Value::Array(count)) => {
            out.push(b'[');
            for nth in 0..*count {
                separate(nth, out);
                print_value(values, out);
            }
            out.push(b']');
        }
        Some(Value::Object(count)) => {
            out.push(b'{');
            for nth in 0..*count {
                separate(nth, out);
                print_value(values, out);
                out.push(b':');
                print_value(values, out);
            }
            out.push(b'}');
        }
        None => {}
    }
}

fn separate(nth: u32, out: &mut Vec<u8>) {
    if nth > 0 {
        out.push(b',');
    }
}

fn print_integer(n: i64, out: &mut Vec<u8>) {
    if n < 0 {
        out.push(b'-');
    }
    let from = out.len();
    let mut rest = n.unsigned_abs();
    loop {
        out.push(b'0' + (rest % 10) as u8);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out[from..].reverse();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &[u8]) -> (u16, String) {
        let response = handle(&Request::new("POST", "/json", &[], body));
        let body = String::from_utf8(response.body().to_vec()).expect("JSON is text");
        (response.status(), body)
    }

    fn check(body: &str, status: u16, expected: &str) {
        assert_eq!(
            answer(body.as_bytes()),
            (status, expected.to_owned()),
            "{body}"
        );
    }

    #[test]
    fn whole_numbers_grow_by_one_and_all_else_stays() {
        check("1", 200, "2");
        check(" [ 9 , -1,-0, 99 ] ", 200, "[10,0,1,100]");
        check(
            r#"{"a" : {"b":[ ]}, "1": 1 }"#,
            200,
            r#"{"a":{"b":[]},"1":2}"#,
        );
        check("[1.0,1e3,-2E-1,0.5]", 200, "[1.0,1e3,-2E-1,0.5]");
        check("[true, false ,null]", 200, "[true,false,null]");
        check("{ }", 200, "{}");
        check(r#""\"\\\/\u00e9\n é""#, 200, r#""\"\\\/\u00e9\n é""#);
        check("9223372036854775807", 200, "9223372036854775807");
        check("9223372036854775808", 200, "9223372036854775808");
        check("-9223372036854775808", 200, "-9223372036854775807");
    }

    #[test]
    fn without_a_body_a_sample_is_altered() {
        let (status, body) = answer(b"");
        assert_eq!(status, 200);
        assert!(
            body.starts_with(r#"{"order":10249,"placed":"1996-07-04""#),
            "{body}"
        );
        assert!(body.ends_with(r#""quantity":6,"price":34.8}]}"#), "{body}");
    }

    #[test]
    fn what_is_no_json_is_refused_with_its_place() {
        let check = |body: &str, what: &str, at: usize| {
            check(body, 400, &format!("no JSON: {what} at byte {at}\n"));
        };
        check(" ", "the end where a value should be", 1);
        check("[1,]", "no value", 3);
        check("[1 2]", "no comma", 3);
        check("{1:2}", "no name", 1);
        check(r#"{"a" 1}"#, "no colon", 5);
        check("1 1", "more than one value", 2);
        check("01", "more than one value", 1);
        check("[-]", "no digit", 2);
        check("1.", "no digit", 2);
        check("1e+", "no digit", 3);
        check("tru", "no value", 0);
        check("\"a\nb\"", "a control character", 2);
        check("\"a", "the end within a text", 2);
        check(r#""\x""#, "no escape", 1);
        check(r#""\u12g4""#, "no escape", 1);
        check(r#""\u123"#, "no escape", 1);
        assert_eq!(answer(b"\"\xff\"").1, "no JSON: no UTF-8 at byte 1\n");
    }

    #[test]
    fn every_limit_bites() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        check(&nested(32), 200, &nested(32));
        check(&nested(33), 400, "no JSON: over 32 deep at byte 32\n");
        let list = |values: usize| format!("[{}]", vec!["true"; values].join(","));
        check(&list(4095), 200, &list(4095));
        check(&list(4096), 413, "json takes at most 4096 values\n");
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        check(&text(MOST), 200, &text(MOST));
        check(
            &text(MOST + 1),
            413,
            "json takes a body of at most 32768 bytes\n",
        );
    }

    #[test]
    fn a_document_never_outgrows_the_room_set_aside() {
        for body in ["9", "[9,99,-9]", "{\"\":9}", "[[],[9]]"] {
            let Ok(mut document) = parse(body.as_bytes()) else {
                panic!("{body}")
            };
            alter(&mut document);
            let room = body.len() + document.len();
            let printed = print(&document, room);
            assert!(
                printed.len() <= room && printed.capacity() == room,
                "{body}"
            );
        }
    }
}
