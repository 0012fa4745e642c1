//! Buffers used over and over, so that a request in steady state allocates nothing.

use crate::io::Buf;

/// A buffer is born this large: a pipelined batch of small answers fits.
const BORN_BYTES: usize = 4 * 1024;
/// One that grew beyond this is not kept, so that a large answer does not stay with the shard.
const KEPT_BYTES: usize = 128 * 1024;

/// The buffers of one shard that nobody uses at the moment.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Buf>,
    limit: usize,
}

impl Pool {
    /// A pool that keeps at most `limit` buffers.
    pub fn new(limit: usize) -> Self {
        Self {
            free: Vec::new(),
            limit,
        }
    }

    /// An empty buffer.
    pub fn take(&mut self) -> Buf {
        self.free
            .pop()
            .unwrap_or_else(|| Vec::with_capacity(BORN_BYTES))
    }

    /// Gives a buffer back, whatever is in it.
    pub fn put(&mut self, mut buf: Buf) {
        let worth_keeping = (1..=KEPT_BYTES).contains(&buf.capacity());
        if worth_keeping && self.free.len() < self.limit {
            buf.clear();
            self.free.push(buf);
        }
    }
}
