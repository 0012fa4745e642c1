//! Which pages are put back after a request: those that were written, and then always.
//!
//! The pages are found as [`written_pages`](super::written_pages) says, and stay in the set from
//! request to request, so that a guest that writes the same pages each time costs no fault. A set that
//! has become large is looked at again from time to time, and what a request leaves alone is left out:
//! one request with a large body does not make all later ones pay.

use super::written_pages::WrittenPages;
use std::ops::Range;

/// A set of written pages up to this size is never looked at again: it is put back in about a
/// microsecond, and without a system call at any request.
const STICKY_BYTES: usize = 64 * 1024;

/// Requests between two looks at a larger set. A page that is left out and then written costs a
/// fault, some 2 µs, about as much as 40 needless copies of it.
pub(super) const REVIEW_EVERY: u32 = 256;

/// The same for a set above [`LARGE_BYTES`], which takes tens of microseconds to be put back.
const REVIEW_LARGE_EVERY: u32 = 8;
const LARGE_BYTES: usize = 256 * 1024;

/// The set of one memory.
#[derive(Default)]
pub(super) struct Sticky {
    /// What the pages were when they were last asked.
    runs: Vec<Range<usize>>,
    /// How much that is.
    bytes: usize,
    /// Requests since the set was last reviewed.
    requests: u32,
}

impl Sticky {
    /// What is to be put back after a request: ranges of bytes, in order. `unchanged` says whether a
    /// page is as it began; `left_out` is told of those that are and are in the set no longer.
    #[inline]
    pub(super) fn written_runs(
        &mut self,
        written: &WrittenPages,
        unchanged: impl Fn(Range<usize>) -> bool,
        left_out: impl Fn(Range<usize>),
    ) -> &[Range<usize>] {
        self.update(written);
        self.requests += 1;
        let every = match self.bytes > LARGE_BYTES {
            true => REVIEW_LARGE_EVERY,
            false => REVIEW_EVERY,
        };
        if self.requests >= every {
            self.requests = 0;
            self.review(written, unchanged, left_out);
        }
        &self.runs
    }

    #[inline]
    fn update(&mut self, written: &WrittenPages) {
        if written.update(&mut self.runs) {
            self.bytes = self.runs.iter().map(Range::len).sum();
        }
    }

    /// Leaves out of a large set what the last request did not change.
    #[cold]
    fn review(
        &mut self,
        written: &WrittenPages,
        unchanged: impl Fn(Range<usize>) -> bool,
        left_out: impl Fn(Range<usize>),
    ) {
        if self.bytes <= STICKY_BYTES {
            return;
        }
        let page_bytes = written.page_bytes();
        let protect_again = |range: Range<usize>| {
            if !range.is_empty() && written.protect_again(range.clone()) {
                left_out(range);
            }
        };
        for run in &self.runs {
            // Pages as they began, from here on.
            let mut from = run.start;
            for page in run.clone().step_by(page_bytes) {
                let end = page + page_bytes;
                if !unchanged(page..end) {
                    protect_again(from..page);
                    from = end;
                }
            }
            protect_again(from..run.end);
        }
        self.update(written);
    }
}
