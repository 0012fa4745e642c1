//! What the header fields of a request say about its connection and its body.
//!
//! Fields come one at a time, in their order, from either way of reading a head. Touches nothing
//! but what it is given; all other fields are the handler's.

use memchr::memchr;

use super::{Limits, Reject, Version, alphanumerics_and};

/// Where a body ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Framing {
    /// After so many bytes; 0 where there is no body.
    Length(usize),
    /// After the last chunk and its trailer.
    Chunked,
}

/// What a whole head asks of the decoder and the session.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub framing: Framing,
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
}

/// The transfer codings named so far.
#[derive(Clone, Copy, Debug, Default)]
enum Coding {
    #[default]
    Absent,
    /// A Transfer-Encoding field without a coding in it.
    Empty,
    /// A coding other than chunked.
    Unknown,
    /// Chunked: no other may follow.
    Chunked,
    /// An unknown coding, then chunked: framed, but not to be decoded.
    UnknownChunked,
}

/// The fields read so far, as far as they matter here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fields {
    length: Option<u64>,
    coding: Coding,
    host: bool,
    close: bool,
    keep_alive: bool,
    expects_continue: bool,
    expects_unknown: bool,
}

impl Fields {
    /// Takes in one field. `value` has no white space around it.
    ///
    /// # Errors
    /// A field that no later one could make good.
    #[inline]
    pub fn take(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        // The length decides first: most fields are none of these, and cost one jump.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.take_host(value),
            6 if name.eq_ignore_ascii_case(b"expect") => {
                self.take_expect(value);
                Ok(())
            }
            10 if name.eq_ignore_ascii_case(b"connection") => {
                self.take_connection(value);
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => self.take_length(value),
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.take_coding(value),
            _ => Ok(()),
        }
    }

    /// What the fields mean together, once all are in.
    ///
    /// # Errors
    /// A field missing, two that exclude each other, a body too large or framed in an unknown way,
    /// or an expectation that cannot be met; in this order.
    #[inline]
    pub fn finish(&self, version: Version, limits: &Limits) -> Result<Plan, Reject> {
        // RFC 9112, section 3.2.
        if !self.host && version == Version::Http11 {
            return Err(Reject::HOST_MISSING);
        }
        let framing = match self.coding {
            Coding::Absent => match usize::try_from(self.length.unwrap_or(0)) {
                Ok(length) if length <= limits.body_bytes => Framing::Length(length),
                _ => return Err(Reject::BODY_TOO_LARGE),
            },
            coding => {
                self.check_coding(coding, version)?;
                Framing::Chunked
            }
        };
        if self.expects_unknown {
            return Err(Reject::EXPECT);
        }
        Ok(Plan {
            framing,
            keep_alive: !self.close && (version == Version::Http11 || self.keep_alive),
            // RFC 9110, section 10.1.1: to be ignored in a 1.0 request.
            expects_continue: self.expects_continue && version == Version::Http11,
        })
    }

    /// RFC 9112, sections 6.1 and 6.3: each of these is how requests are smuggled.
    fn check_coding(&self, coding: Coding, version: Version) -> Result<(), Reject> {
        if version == Version::Http10 {
            return Err(Reject::CODING_ON_1_0);
        }
        if self.length.is_some() {
            return Err(Reject::LENGTH_AND_CODING);
        }
        match coding {
            Coding::Chunked => Ok(()),
            Coding::Unknown | Coding::UnknownChunked => Err(Reject::CODING_UNKNOWN),
            Coding::Absent | Coding::Empty => Err(Reject::CODING),
        }
    }

    fn take_host(&mut self, value: &[u8]) -> Result<(), Reject> {
        if self.host {
            return Err(Reject::HOST_REPEATED);
        }
        if !is_host(value) {
            return Err(Reject::HOST);
        }
        self.host = true;
        Ok(())
    }

    fn take_expect(&mut self, value: &[u8]) {
        for expectation in elements(value) {
            if expectation.eq_ignore_ascii_case(b"100-continue") {
                self.expects_continue = true;
            } else {
                self.expects_unknown = true;
            }
        }
    }

    fn take_connection(&mut self, value: &[u8]) {
        for option in elements(value) {
            if option.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if option.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            }
        }
    }

    fn take_length(&mut self, value: &[u8]) -> Result<(), Reject> {
        // Not `elements`: an empty one is a fault where the framing hangs on it.
        for element in value.split(|&byte| byte == b',') {
            let length = decimal(element.trim_ascii()).ok_or(Reject::LENGTH)?;
            if self.length.is_some_and(|earlier| earlier != length) {
                return Err(Reject::LENGTHS_DIFFER);
            }
            self.length = Some(length);
        }
        Ok(())
    }

    fn take_coding(&mut self, value: &[u8]) -> Result<(), Reject> {
        if let Coding::Absent = self.coding {
            self.coding = Coding::Empty;
        }
        for coding in elements(value) {
            let chunked = coding.eq_ignore_ascii_case(b"chunked");
            self.coding = match self.coding {
                Coding::Chunked | Coding::UnknownChunked => return Err(Reject::CODING),
                Coding::Unknown if chunked => Coding::UnknownChunked,
                Coding::Absent | Coding::Empty if chunked => Coding::Chunked,
                Coding::Absent | Coding::Empty | Coding::Unknown => Coding::Unknown,
            };
        }
        Ok(())
    }
}

/// The elements of a comma-separated list; empty ones are ignored (RFC 9110, section 5.6.1.2).
fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

/// One or more digits and nothing else; `u64::MAX` stands for all that is larger, since every limit
/// is below it.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0u64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(u64::from(digit - b'0'))
    }))
}

/// Whether `value` is `uri-host [ ":" port ]` (RFC 9110, section 7.2), which may be empty. Percent
/// signs and address literals are not looked into.
fn is_host(value: &[u8]) -> bool {
    let rest = match value.strip_prefix(b"[") {
        Some(literal) => {
            let Some(close) = memchr(b']', literal) else {
                return false;
            };
            let (address, rest) = (&literal[..close], &literal[close + 1..]);
            if address.is_empty() || !address.iter().all(|&b| b == b':' || is_reg_name(b)) {
                return false;
            }
            rest
        }
        None => {
            let end = value.iter().position(|&byte| !is_reg_name(byte));
            &value[end.unwrap_or(value.len())..]
        }
    };
    match rest {
        [] => true,
        [b':', port @ ..] => port.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// The characters of a `reg-name` (RFC 3986, section 3.2.2).
fn is_reg_name(byte: u8) -> bool {
    const ALLOWED: [bool; 256] = alphanumerics_and(b"-._~!$&'()*+,;=%");
    ALLOWED[usize::from(byte)]
}
