//! `deflate`: a text made smaller, as servers do it to their answers.
//!
//! LZ77 with hash chains and the fixed Huffman codes (RFC 1951), in the zlib format (RFC 1950):
//! memory accesses that depend on each other, and bits. All of the input is one window, so nothing
//! slides. Deliberately lacks codes made to measure: what it answers is a fifth longer than it
//! need be, and any inflater reads it.

use super::number_within;
use crate::{Request, Response};

/// The longest input, in bytes: the window of the format.
const MOST: usize = 32 * 1024;
/// Bytes of the text that `/deflate` makes smaller.
const DEFAULT: usize = 16 * 1024;

/// Answers the request's body or, if there is none, a text of `?n=N` bytes, compressed; N is 16 384
/// if it is missing. Answers 400 if N is not 0 to 32 768, and 413 if the body is longer than that.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let body = request.body();
    if body.len() > MOST {
        return Response::text("deflate takes a body of at most 32768 bytes\n").with_status(413);
    }
    let compressed = if body.is_empty() {
        match number_within(request, "n", DEFAULT, 0..=MOST) {
            Some(length) => compress(&text(length)),
            None => {
                let sentence = "deflate takes ?n=N, a whole number from 0 to 32768\n";
                return Response::text(sentence).with_status(400);
            }
        }
    } else {
        compress(body)
    };
    Response::bytes(compressed).with_header_lines("content-type: application/zlib\r\n")
}

/// `length` bytes of words in no order, always the same: about as dense as prose.
fn text(length: usize) -> Vec<u8> {
    const WORDS: [&[u8]; 16] = [
        b"accept ",
        b"buffer ",
        b"connection ",
        b"deadline ",
        b"event ",
        b"flush ",
        b"guest ",
        b"header\n",
        b"instance ",
        b"kernel ",
        b"loop ",
        b"message ",
        b"queue ",
        b"request ",
        b"socket ",
        b"token\n",
    ];
    let mut text = Vec::with_capacity(length);
    let mut state: u32 = 1;
    while text.len() < length {
        // The linear congruential generator of Numerical Recipes; its high bits are the good ones.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let word = WORDS[(state >> 28) as usize];
        text.extend_from_slice(&word[..word.len().min(length - text.len())]);
    }
    text
}

/// Hashes of three bytes, as an exponent of two.
const HASH_BITS: u32 = 12;
/// Places in a chain that are looked at for a longer match.
const CHAIN: usize = 16;
const SHORTEST: usize = 3;
const LONGEST: usize = 258;

/// `input`, of [`MOST`] bytes at most, in the zlib format.
fn compress(input: &[u8]) -> Vec<u8> {
    let mut out = Bits::new(input.len());
    // Deflate with a window of 32 KiB, made fast: RFC 1950 section 2.2.
    out.bytes.extend([0x78, 0x01]);
    // One block, the last, with fixed codes.
    out.put(0b011, 3);
    let mut chains = Chains::new(input);
    let mut at = 0;
    while at < input.len() {
        match chains.longest_match(at) {
            Some((length, distance)) => {
                out.put_match(length, distance);
                (at..at + length).for_each(|at| chains.enter(at));
                at += length;
            }
            None => {
                out.put_symbol(input[at].into());
                chains.enter(at);
                at += 1;
            }
        }
    }
    out.put_symbol(END_OF_BLOCK);
    out.finish(adler32(input))
}

/// Where the same three bytes came before, by their hash; places are counted from 1, and 0 is none.
struct Chains<'a> {
    input: &'a [u8],
    last: Vec<u16>,
    before: Vec<u16>,
}

impl<'a> Chains<'a> {
    fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            last: vec![0; 1 << HASH_BITS],
            before: vec![0; input.len()],
        }
    }

    /// The chain that the three bytes at `at` belong to, if there are three.
    fn chain(&self, at: usize) -> Option<usize> {
        let bytes = self.input.get(at..at + SHORTEST)?;
        let bytes = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
        // Knuth's multiplicative hash, by the golden ratio.
        Some((bytes.wrapping_mul(0x9e37_79b1) >> (u32::BITS - HASH_BITS)) as usize)
    }

    fn enter(&mut self, at: usize) {
        if let Some(chain) = self.chain(at) {
            self.before[at] = self.last[chain];
            // At most 32 768, since the input is that long at most.
            self.last[chain] = at as u16 + 1;
        }
    }

    /// The length of the longest match at `at` that was found, and how far back it is.
    fn longest_match(&self, at: usize) -> Option<(usize, usize)> {
        let mut best = None;
        let mut best_length = SHORTEST - 1;
        let ahead = &self.input[at..self.input.len().min(at + LONGEST)];
        let mut place = self.last[self.chain(at)?];
        for _ in 0..CHAIN {
            let Some(from) = usize::from(place).checked_sub(1) else {
                break;
            };
            let behind = &self.input[from..];
            let length = ahead.iter().zip(behind).take_while(|(a, b)| a == b).count();
            if length > best_length {
                (best, best_length) = (Some((length, at - from)), length);
            }
            place = self.before[from];
        }
        best
    }
}

const END_OF_BLOCK: u32 = 256;

/// The least length of each symbol from 257 on (RFC 1951 section 3.2.5).
const LENGTHS: [usize; 29] = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
];

/// The least distance of each code.
const DISTANCES: [usize; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
];

/// Bytes that bits are added to, the lowest first.
struct Bits {
    bytes: Vec<u8>,
    pending: u32,
    pending_bits: u32,
}

impl Bits {
    /// Room for what `length` bytes become at worst: nine bits each, and what frames them.
    fn new(length: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(length + length / 8 + 16),
            pending: 0,
            pending_bits: 0,
        }
    }

    /// Adds the lowest `count` bits of `bits`, 16 at most.
    fn put(&mut self, bits: u32, count: u32) {
        self.pending |= bits << self.pending_bits;
        self.pending_bits += count;
        while self.pending_bits >= 8 {
            self.bytes.push(self.pending as u8);
            self.pending >>= 8;
            self.pending_bits -= 8;
        }
    }

    /// Adds a Huffman code, whose highest bit goes first.
    fn put_code(&mut self, code: u32, count: u32) {
        self.put(code.reverse_bits() >> (u32::BITS - count), count);
    }

    /// Adds the fixed code of a literal or a length (RFC 1951 section 3.2.6).
    fn put_symbol(&mut self, symbol: u32) {
        match symbol {
            0..=143 => self.put_code(0b0011_0000 + symbol, 8),
            144..=255 => self.put_code(0b1_1001_0000 + symbol - 144, 9),
            256..=279 => self.put_code(symbol - 256, 7),
            _ => self.put_code(0b1100_0000 + symbol - 280, 8),
        }
    }

    fn put_match(&mut self, length: usize, distance: usize) {
        let (nth, above) = place(&LENGTHS, length);
        self.put_symbol(257 + nth);
        // The longest has a symbol of its own; every four others share their number of bits.
        let bits = if length == LONGEST {
            0
        } else {
            nth.max(4) / 4 - 1
        };
        self.put(above, bits);
        let (nth, above) = place(&DISTANCES, distance);
        self.put_code(nth, 5);
        self.put(above, nth.max(2) / 2 - 1);
    }

    fn finish(mut self, adler32: u32) -> Vec<u8> {
        // Up to the next whole byte.
        self.put(0, (8 - self.pending_bits) % 8);
        self.bytes.extend(adler32.to_be_bytes());
        self.bytes
    }
}

/// Which of the `least` values `value` belongs to, and how far above it is.
fn place(least: &[usize], value: usize) -> (u32, u32) {
    let nth = least.partition_point(|least| *least <= value) - 1;
    (nth as u32, (value - least[nth]) as u32)
}

/// RFC 1950 section 8.2.
fn adler32(bytes: &[u8]) -> u32 {
    const MODULUS: u32 = 65521;
    let (mut a, mut b) = (1, 0);
    // So many bytes at a time that no sum overflows.
    for bytes in bytes.chunks(5552) {
        for byte in bytes {
            a += u32::from(*byte);
            b += a;
        }
        (a, b) = (a % MODULUS, b % MODULUS);
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    fn hex(input: &[u8]) -> String {
        super::super::pbkdf2::hex(&compress(input))
    }

    /// As zlib has them, at level 1 with its strategy of fixed codes.
    #[test]
    fn known_streams() {
        assert_eq!(hex(b""), "7801030000000001");
        assert_eq!(hex(b"a"), "78014b040000620062");
        assert_eq!(hex(b"xabcabcabd"), "7801ab484c4a06a3140015ef03ec");
    }

    #[test]
    fn the_checksum_is_adlers() {
        assert_eq!(adler32(b"Wikipedia"), 0x11e6_0398);
        assert_eq!(adler32(&[0xff; 100_000]), {
            let (a, b) = [0xffu64; 100_000].iter().fold((1, 0), |(a, b), byte| {
                ((a + byte) % 65521, (b + a + byte) % 65521)
            });
            (b << 16 | a) as u32
        });
    }

    #[test]
    fn the_text_is_as_long_as_asked_for_and_grows_at_its_end() {
        assert_eq!(text(0), b"");
        assert!(text(1000).starts_with(&text(999)));
        assert_eq!(text(MOST).len(), MOST);
    }

    #[test]
    fn output_stays_within_the_room_set_aside() {
        let mut state: u32 = 1;
        let noise: Vec<u8> = (0..MOST)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        for input in [noise, vec![0xff; MOST], text(MOST)] {
            assert!(compress(&input).len() <= MOST + MOST / 8 + 16);
        }
        assert!(compress(&text(MOST)).len() < MOST / 2);
    }

    #[test]
    fn what_is_too_long_is_refused() {
        for n in ["", "x", "-1", "32769"] {
            check(
                handle,
                &format!("/deflate?n={n}"),
                400,
                "deflate takes ?n=N",
            );
        }
        let body = [b'x'; MOST + 1];
        let response = handle(&Request::new("POST", "/deflate", &[], &body));
        assert_eq!(response.status(), 413);
    }
}
