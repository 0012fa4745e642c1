//! `hog`: a handler that wants all the memory there is. Its module is the only one whose memory
//! grows.

use std::hint::black_box;

use crate::{Request, Response};

/// Taken at a time, in bytes, and written to.
const BITE: usize = 1024 * 1024;

/// Takes memory until it is refused more, and gives up then, as allocators do.
pub fn handle<'a>(_: &Request<'a>) -> Response<'a> {
    loop {
        std::mem::forget(black_box(vec![1u8; BITE]));
    }
}
