//! Version 1 of the guest ABI: requests into guest memory, records out of it.
//!
//! Pure functions over a byte slice that is the guest's whole memory. Nothing that the guest
//! wrote is trusted: every range is checked in 64 bits, where two 32-bit numbers cannot wrap.
//! All numbers are little-endian.
//!
//! ```text
//! request area R:  u32 capacity, u32 reserved, then the request, whose own offsets are
//!   0 flags   4, 8 method   12, 16 target   20, 24 body   28 header count n
//!   32 + 16 i  header i: name offset, length, value offset, length
//!   then the raw head as one block, then the body
//! record, 24 bytes:
//!   0 u16 kind   2 u16 status   4, 8 header lines   12, 16 body   20 milliseconds
//! ```

use super::limits::Limits;
use super::{Answer, Call, Failure};
use std::ops::Range;

/// The export that says "version 1" and holds R.
pub(super) const AREA: &str = "ringlab_v1";
/// What exports of all versions begin with.
pub(super) const AREA_PREFIX: &str = "ringlab_v";
/// The export that takes the request's length and returns the record's address.
pub(super) const HANDLE: &str = "handle";
/// The export of the one linear memory.
pub(super) const MEMORY: &str = "memory";

/// From R to the request: capacity and a reserved word.
const AREA_HEAD: usize = 8;
const REQUEST_HEAD: usize = 32;
const HEADER_ENTRY: usize = 16;
const RECORD: u32 = 24;

const KIND_ANSWER: u16 = 0;
const KIND_WAIT: u16 = 1;
const KIND_FILE: u16 = 2;

/// Checks, at load, that the request area at `area` lies within `memory`: what an instance's begins
/// with, before its start function may grow it.
///
/// # Errors
/// What is wrong, to stand after "its request area".
pub(super) fn check_area(memory: &[u8], area: u32) -> Result<(), String> {
    let size = memory.len();
    let Some(head) = slice(memory, area, AREA_HEAD as u32) else {
        return Err(format!(
            "at {area} lies outside the {size} bytes that its memory begins with"
        ));
    };
    let capacity = u32_at(head, 0);
    if (capacity as usize) < REQUEST_HEAD {
        return Err(format!(
            "has a capacity of {capacity} bytes, less than the {REQUEST_HEAD} of the smallest \
             request"
        ));
    }
    if u64::from(area) + (AREA_HEAD as u64) + u64::from(capacity) > size as u64 {
        return Err(format!(
            "at {area} with a capacity of {capacity} bytes ends outside the {size} bytes that its \
             memory begins with"
        ));
    }
    Ok(())
}

/// What `call` takes in a request area.
#[inline]
fn request_bytes(call: &Call<'_>) -> usize {
    // The sum of lengths of slices that exist: far from wrapping in 64 bits.
    REQUEST_HEAD + HEADER_ENTRY * call.headers.len() + call.head.len() + call.body.len()
}

/// Where in `memory` [`write_request`] writes `call`; `None` if it does not fit.
///
/// `memory` is what it began with, in which `area` passed [`check_area`] when the module was loaded; the
/// capacity is read anew, since the guest may have changed it.
#[inline]
pub(super) fn request_range(memory: &[u8], area: u32, call: &Call<'_>) -> Option<Range<usize>> {
    let (capacity, room) = memory[area as usize..].split_at(AREA_HEAD);
    let capacity = (u32_at(capacity, 0) as usize).min(room.len());
    let (start, bytes) = (area as usize + AREA_HEAD, request_bytes(call));
    (bytes <= capacity).then(|| start..start + bytes)
}

/// Writes `call` into the request area at `area` and returns its length.
///
/// # Errors
/// [`Failure::RequestTooLarge`]; nothing is written then.
#[inline]
pub(super) fn write_request(memory: &mut [u8], area: u32, call: &Call<'_>) -> Result<u32, Failure> {
    let range = request_range(memory, area, call).ok_or(Failure::RequestTooLarge)?;
    let head_at = REQUEST_HEAD + HEADER_ENTRY * call.headers.len();
    let body_at = head_at + call.head.len();
    let length = range.len();
    // `length` is at most a u32 capacity, so no offset below loses bits.
    let (fixed, room) = memory[range].split_at_mut(REQUEST_HEAD);
    let (table, texts) = room.split_at_mut(HEADER_ENTRY * call.headers.len());
    let (head, body) = texts.split_at_mut(call.head.len());

    let place = |text: &[u8]| (head_at + offset_within(call.head, text)) as u32;
    put(
        fixed,
        [
            0,
            place(call.method.as_bytes()),
            call.method.len() as u32,
            place(call.target.as_bytes()),
            call.target.len() as u32,
            body_at as u32,
            call.body.len() as u32,
            call.headers.len() as u32,
        ],
    );
    for (entry, header) in table.chunks_exact_mut(HEADER_ENTRY).zip(call.headers) {
        put(
            entry,
            [
                place(header.name.as_bytes()),
                header.name.len() as u32,
                place(header.value),
                header.value.len() as u32,
            ],
        );
    }
    head.copy_from_slice(call.head);
    // Most requests have none, and a call of `memcpy` for nothing is a call.
    if !call.body.is_empty() {
        body.copy_from_slice(call.body);
    }
    Ok(length as u32)
}

/// Reads the record at `at` and lends what it points to.
///
/// # Errors
/// [`Failure::Unsupported`], or as for [`check_answer`].
#[inline]
pub(super) fn read_answer<'m>(
    memory: &'m [u8],
    at: u32,
    limits: &Limits,
) -> Result<Answer<'m>, Failure> {
    let record =
        slice(memory, at, RECORD).ok_or(Failure::BadRecord("it lies outside the memory"))?;
    match u16_at(record, 0) {
        KIND_ANSWER => {}
        KIND_WAIT => return Err(Failure::Unsupported("wait")),
        KIND_FILE => return Err(Failure::Unsupported("send a file")),
        _ => return Err(Failure::BadRecord("its kind is unknown")),
    }
    let header_lines = slice(memory, u32_at(record, 4), u32_at(record, 8)).ok_or(
        Failure::BadRecord("its header lines lie outside the memory"),
    )?;
    let body = slice(memory, u32_at(record, 12), u32_at(record, 16))
        .ok_or(Failure::BadRecord("its body lies outside the memory"))?;
    let answer = Answer {
        status: u16_at(record, 2),
        header_lines,
        body,
    };
    check_answer(&answer, limits)?;
    Ok(answer)
}

/// What holds for the answer of any handler, sandboxed or not, besides its header lines.
///
/// # Errors
/// [`Failure::BadRecord`], [`Failure::HeaderLinesTooLarge`] or [`Failure::ResponseTooLarge`].
#[inline]
pub(super) fn check_answer(answer: &Answer<'_>, limits: &Limits) -> Result<(), Failure> {
    if !(200..=599).contains(&answer.status) {
        return Err(Failure::BadRecord("its status is not 200 to 599"));
    }
    if answer.header_lines.len() > limits.header_line_bytes {
        return Err(Failure::HeaderLinesTooLarge);
    }
    if answer.body.len() > limits.response_bytes {
        return Err(Failure::ResponseTooLarge);
    }
    Ok(())
}

/// `length` bytes of `memory` from `address` on, if they are all there.
#[inline]
fn slice(memory: &[u8], address: u32, length: u32) -> Option<&[u8]> {
    let start = u64::from(address);
    let end = start + u64::from(length);
    memory.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// Where in `whole` `part` begins.
#[inline]
fn offset_within(whole: &[u8], part: &[u8]) -> usize {
    if part.is_empty() {
        return 0;
    }
    let offset = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
    assert!(
        offset <= whole.len() && part.len() <= whole.len() - offset,
        "a part of a call lies outside its head"
    );
    offset
}

/// Fills `bytes` with `words`, of which there are as many as fit.
#[inline]
fn put<const N: usize>(bytes: &mut [u8], words: [u32; N]) {
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
