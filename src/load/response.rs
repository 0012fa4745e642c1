//! One response after another out of a stream of bytes: sans I/O, no clock.
//!
//! The common answer costs one comparison: a server answers the same request
//! with the same head, byte for byte, until its `Date` moves on. So the last
//! head of each target is remembered with its meaning, and parsed again only
//! when a byte of it differs. Bodies are counted, and compared on request;
//! they are never stored.

#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

/// Longest head that is read, in bytes; a longer one is malformed.
const HEAD_MAX: usize = 16 * 1024;
/// Header fields of one head; more are malformed.
const FIELDS_MAX: usize = 64;
/// Longest head that is remembered: beyond this, comparing saves little.
const KNOWN_MAX: usize = 2048;
/// Bytes of one chunk-size line or of the trailer section.
const LINE_MAX: u32 = 8 * 1024;

/// A whole answer. What is right is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Bytes of body that came, chunk framing not counted.
    pub length: u64,
    /// Whether the server will read another request on this connection.
    pub keep_alive: bool,
    /// Whether the body was the expected one; true when none was expected.
    pub body_matches: bool,
}

/// Why a stream of answers cannot be followed any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not HTTP/1.1, or is longer than the limits.
    Malformed,
    /// Neither Content-Length nor chunked: only the close would end the body,
    /// and a close is also what a crash looks like.
    Unframed,
}

/// What decoding some bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// All bytes were taken and the answer is not complete.
    NeedMore,
    Complete(Response),
    Broken(Fault),
}

/// The request that is being answered, as far as it changes the reading.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked<'a> {
    pub is_head: bool,
    /// The body's expected bytes.
    pub body: Option<&'a [u8]>,
}

/// The last head that came for a target, with what it means.
#[derive(Debug)]
pub struct KnownHead {
    bytes: Vec<u8>,
    meaning: Meaning,
}

impl Default for KnownHead {
    fn default() -> Self {
        Self {
            bytes: Vec::with_capacity(KNOWN_MAX),
            meaning: Meaning {
                status: 0,
                keep_alive: false,
                framing: Framing::Length(0),
            },
        }
    }
}

/// What a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Meaning {
    status: u16,
    keep_alive: bool,
    framing: Framing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// Where in an answer the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Head,
    /// Bytes of body still to come.
    Body(u64),
    /// Digits of a chunk's size: value so far, digits so far.
    ChunkSize(u64, u32),
    /// After the digits, up to the line's end; bytes so far.
    ChunkExtension(u64, u32),
    ChunkData(u64),
    /// CR LF after a chunk's data; whether CR came.
    ChunkEnd(bool),
    /// Trailer section: bytes so far, and of the current line.
    Trailer(u32, u32),
}

/// Reads one connection's answers.
#[derive(Debug)]
pub struct Decoder {
    place: Place,
    /// The beginning of a head that was cut by the stream; empty otherwise.
    cut_head: Vec<u8>,
    response: Response,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            place: Place::Head,
            cut_head: Vec::new(),
            response: Response {
                status: 0,
                length: 0,
                keep_alive: false,
                body_matches: true,
            },
        }
    }
}

impl Decoder {
    /// Forgets the stream: the next byte is a new connection's first.
    pub fn reset(&mut self) {
        self.place = Place::Head;
        self.cut_head.clear();
    }

    /// Whether a part of an answer came, and the rest did not.
    pub fn is_inside(&self) -> bool {
        self.place != Place::Head || !self.cut_head.is_empty()
    }

    /// Takes bytes off `input` up to the end of one answer.
    #[inline]
    pub fn decode(&mut self, input: &mut &[u8], known: &mut KnownHead, asked: Asked) -> Decoded {
        if self.place == Place::Head
            && self.cut_head.is_empty()
            && !known.bytes.is_empty()
            && input.starts_with(&known.bytes)
        {
            *input = &input[known.bytes.len()..];
            self.begin(known.meaning);
        }
        match self.proceed(input, known, asked) {
            Ok(true) => {
                self.place = Place::Head;
                if let Some(expected) = asked.body.filter(|_| !asked.is_head) {
                    self.response.body_matches &= self.response.length == expected.len() as u64;
                }
                Decoded::Complete(self.response)
            }
            Ok(false) => Decoded::NeedMore,
            Err(fault) => Decoded::Broken(fault),
        }
    }

    /// True when the answer is complete, false when the input is used up.
    #[inline]
    fn proceed(
        &mut self,
        input: &mut &[u8],
        known: &mut KnownHead,
        asked: Asked,
    ) -> Result<bool, Fault> {
        loop {
            match self.place {
                Place::Body(left) => {
                    let left = left - self.take_body(input, left, asked);
                    self.place = Place::Body(left);
                    return Ok(left == 0);
                }
                Place::Head => {
                    if !self.read_head(input, known, asked)? {
                        return Ok(false);
                    }
                }
                _ => return self.read_chunked(input, asked),
            }
        }
    }

    fn begin(&mut self, meaning: Meaning) {
        self.response = Response {
            status: meaning.status,
            length: 0,
            keep_alive: meaning.keep_alive,
            body_matches: true,
        };
        self.place = match meaning.framing {
            Framing::Length(length) => Place::Body(length),
            Framing::Chunked => Place::ChunkSize(0, 0),
        };
    }

    /// Counts and compares up to `limit` bytes of body; returns how many.
    #[inline]
    fn take_body(&mut self, input: &mut &[u8], limit: u64, asked: Asked) -> u64 {
        let count = limit.min(input.len() as u64);
        let (body, rest) = input.split_at(count as usize);
        if let Some(expected) = asked.body {
            let at = self.response.length.min(expected.len() as u64) as usize;
            self.response.body_matches &= expected[at..].starts_with(body);
        }
        self.response.length += count;
        *input = rest;
        count
    }

    /// Reads a head that is not the known one. False when it is not complete.
    #[cold]
    fn read_head(
        &mut self,
        input: &mut &[u8],
        known: &mut KnownHead,
        asked: Asked,
    ) -> Result<bool, Fault> {
        loop {
            let cut = self.cut_head.len();
            let parsed = if cut == 0 {
                parse_head(input, asked.is_head)?
            } else {
                let room = HEAD_MAX.saturating_sub(cut).min(input.len());
                self.cut_head.extend_from_slice(&input[..room]);
                // Every head ends in LF: without a new one there is no need to
                // parse what a slow peer sends byte by byte again and again.
                if memchr::memchr(b'\n', &input[..room]).is_some() {
                    parse_head(&self.cut_head, asked.is_head)?
                } else {
                    None
                }
            };
            let Some((length, meaning)) = parsed else {
                if cut == 0 {
                    let room = HEAD_MAX.min(input.len());
                    self.cut_head.extend_from_slice(&input[..room]);
                }
                if self.cut_head.len() >= HEAD_MAX {
                    return Err(Fault::Malformed);
                }
                *input = &[];
                return Ok(false);
            };
            let head = if cut == 0 {
                &input[..length]
            } else {
                &self.cut_head[..length]
            };
            // An interim answer (RFC 9110, 15.2) is passed over: the final one follows.
            let interim = meaning.status < 200;
            if !interim {
                known.bytes.clear();
                if head.len() <= KNOWN_MAX {
                    known.bytes.extend_from_slice(head);
                    known.meaning = meaning;
                }
            }
            *input = &input[length - cut..];
            self.cut_head.clear();
            if !interim {
                self.begin(meaning);
                return Ok(true);
            }
            if input.is_empty() {
                return Ok(false);
            }
        }
    }

    /// RFC 9112, 7.1. Extensions and trailer fields are skipped.
    fn read_chunked(&mut self, input: &mut &[u8], asked: Asked) -> Result<bool, Fault> {
        loop {
            if let Place::ChunkData(left) = self.place {
                let left = left - self.take_body(input, left, asked);
                self.place = match left {
                    0 => Place::ChunkEnd(false),
                    _ => Place::ChunkData(left),
                };
            }
            let Some((&byte, rest)) = input.split_first() else {
                return Ok(false);
            };
            *input = rest;
            self.place = match (self.place, byte) {
                // 15 digits cannot overflow, and no body is 2^60 bytes long.
                (Place::ChunkSize(size, digits @ 0..15), b) if b.is_ascii_hexdigit() => {
                    let digit = (b as char).to_digit(16).map_or(0, u64::from);
                    Place::ChunkSize(size << 4 | digit, digits + 1)
                }
                (Place::ChunkSize(size, 1..), b'\r' | b';' | b' ' | b'\t') => {
                    Place::ChunkExtension(size, 0)
                }
                (Place::ChunkExtension(0, _), b'\n') => Place::Trailer(0, 0),
                (Place::ChunkExtension(size, _), b'\n') => Place::ChunkData(size),
                (Place::ChunkExtension(size, bytes @ 0..LINE_MAX), _) => {
                    Place::ChunkExtension(size, bytes + 1)
                }
                (Place::ChunkEnd(false), b'\r') => Place::ChunkEnd(true),
                (Place::ChunkEnd(true), b'\n') => Place::ChunkSize(0, 0),
                // CR alone makes no line: an empty line ends the answer.
                (Place::Trailer(_, 0), b'\n') => return Ok(true),
                (Place::Trailer(bytes, _), b'\n') => Place::Trailer(bytes + 1, 0),
                (Place::Trailer(bytes @ 0..LINE_MAX, line), b'\r') => {
                    Place::Trailer(bytes + 1, line)
                }
                (Place::Trailer(bytes @ 0..LINE_MAX, line), _) => {
                    Place::Trailer(bytes + 1, line + 1)
                }
                _ => return Err(Fault::Malformed),
            };
        }
    }
}

/// The head's length and meaning, or `None` when it is not complete.
fn parse_head(bytes: &[u8], is_head: bool) -> Result<Option<(usize, Meaning)>, Fault> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut head = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut head, bytes, &mut fields) {
        Err(_) => Err(Fault::Malformed),
        Ok(httparse::Status::Partial) => Ok(None),
        Ok(httparse::Status::Complete(length)) if length <= HEAD_MAX => {
            Ok(Some((length, meaning_of(&head, is_head)?)))
        }
        Ok(httparse::Status::Complete(_)) => Err(Fault::Malformed),
    }
}

/// Body length and connection use by RFC 9112, 6.3 and 9.3.
fn meaning_of(head: &httparse::Response, is_head: bool) -> Result<Meaning, Fault> {
    let status = head.code.ok_or(Fault::Malformed)?;
    // 101 would leave HTTP/1.1, which was never asked for.
    if !(100..=599).contains(&status) || status == 101 {
        return Err(Fault::Malformed);
    }
    let mut length = None;
    let mut chunked = false;
    let mut close = false;
    let mut keep = false;
    for field in head.headers.iter() {
        let named = |name: &str| field.name.eq_ignore_ascii_case(name);
        if named("content-length") {
            let value = decimal(field.value).ok_or(Fault::Malformed)?;
            if length.is_some_and(|other| other != value) {
                return Err(Fault::Malformed);
            }
            length = Some(value);
        } else if named("transfer-encoding") {
            if chunked || !field.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::Unframed);
            }
            chunked = true;
        } else if named("connection") {
            for option in field.value.split(|&b| b == b',') {
                let option = option.trim_ascii();
                close |= option.eq_ignore_ascii_case(b"close");
                keep |= option.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }
    let framing = match (length, chunked) {
        // Both at once is how requests are smuggled (RFC 9112, 6.3).
        (Some(_), true) => return Err(Fault::Malformed),
        _ if is_head || status < 200 || status == 204 || status == 304 => Framing::Length(0),
        (None, true) => Framing::Chunked,
        (Some(length), false) => Framing::Length(length),
        (None, false) => return Err(Fault::Unframed),
    };
    Ok(Meaning {
        status,
        keep_alive: !close && (keep || head.version == Some(1)),
        framing,
    })
}

/// Digits only, at most 18 of them: no sign, no space, no overflow.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0, |sum, byte| {
        byte.is_ascii_digit()
            .then(|| sum * 10 + u64::from(byte - b'0'))
    })
}
