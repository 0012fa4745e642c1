//! The request as the host lays it out in guest memory: guest ABI, version 1.
//!
//! Offsets count from the first byte of the view, words are 32 bits
//! little-endian, and texts lie anywhere after the table:
//!
//! | at | what |
//! |---|---|
//! | 0 | flags |
//! | 4, 8 | method: offset, length |
//! | 12, 16 | target: offset, length |
//! | 20, 24 | body: offset, length |
//! | 28 | number of headers |
//! | 32 + 16 i | header i: name offset, name length, value offset, value length |
//!
//! Pure: bytes in, slices out. What points outside the view reads as empty, so
//! a wrong offset cannot make a handler read beyond its request.

use crate::{Headers, Request};

const METHOD: usize = 4;
const TARGET: usize = 12;
const BODY: usize = 20;
const HEADER_COUNT: usize = 28;
const TABLE: usize = 32;
const TABLE_ROW: usize = 16;

/// A request in the host's layout, in `CAPACITY` bytes.
#[repr(transparent)]
pub struct View<const CAPACITY: usize>([u8; CAPACITY]);

impl<const CAPACITY: usize> View<CAPACITY> {
    /// Before the first request.
    pub const EMPTY: Self = Self([0; CAPACITY]);

    /// The request, borrowed from the view.
    #[inline]
    pub fn request(&self) -> Request<'_> {
        Request::new(self.text(METHOD), self.text(TARGET), self, self.text(BODY))
    }

    #[inline]
    fn word(&self, at: usize) -> usize {
        match self.0.get(at..).and_then(<[u8]>::first_chunk) {
            Some(word) => u32::from_le_bytes(*word) as usize,
            None => 0,
        }
    }

    /// The text whose offset and length are the two words at `at`.
    #[inline]
    fn text(&self, at: usize) -> &[u8] {
        let (offset, length) = (self.word(at), self.word(at + 4));
        self.0
            .get(offset..)
            .and_then(|from| from.get(..length))
            .unwrap_or_default()
    }
}

impl<const CAPACITY: usize> Headers for View<CAPACITY> {
    fn len(&self) -> usize {
        self.word(HEADER_COUNT)
            .min(CAPACITY.saturating_sub(TABLE) / TABLE_ROW)
    }

    fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        if index >= self.len() {
            return None;
        }
        let row = TABLE + TABLE_ROW * index;
        Some((self.text(row), self.text(row + 8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A view of 160 bytes that begins with `words`, its texts at 128.
    fn view(words: &[u32]) -> View<160> {
        let mut bytes = [0; 160];
        for (slot, word) in bytes.chunks_exact_mut(4).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes[128..].copy_from_slice(b"POST/a?b=cHosthereX-Emptythe bod");
        View(bytes)
    }

    const WORDS: [u32; 16] = [
        0, 128, 4, 132, 6, 153, 7, 2, // flags, method, target, body, header count
        138, 4, 142, 4, // Host: here
        146, 7, 0, 0, // X-Empty:
    ];

    /// Method, target, body, header names and values, joined by `|`.
    fn check(words: &[u32], expected: &str) {
        let view = view(words);
        let request = view.request();
        let mut found = vec![request.method().as_bytes(), request.target().as_bytes()];
        found.push(request.body());
        for (name, value) in request.headers() {
            found.extend([name, value]);
        }
        assert_eq!(String::from_utf8_lossy(&found.join(&b'|')), expected);
    }

    #[test]
    fn every_text_is_where_the_table_says() {
        check(&WORDS, "POST|/a?b=c|the bod|Host|here|X-Empty|");
    }

    #[test]
    fn what_points_outside_reads_as_empty() {
        let mut words = WORDS;
        words[2] = 33; // one byte beyond the end
        words[3] = u32::MAX;
        words[6] = u32::MAX;
        check(&words, "|||Host|here|X-Empty|");
    }

    #[test]
    fn the_header_count_is_bounded_by_the_view() {
        let mut words = WORDS;
        words[7] = u32::MAX;
        assert_eq!(view(&words).request().headers().count(), (160 - 32) / 16);
        assert_eq!(View::<8>::EMPTY.request().headers().count(), 0);
    }
}
