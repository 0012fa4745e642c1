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

/// The set of one memory.
#[derive(Default)]
pub(super) struct Sticky {
    /// What the pages were when they were last asked.
    runs: Vec<Range<usize>>,
    /// Requests since the set was last reviewed.
    requests: u32,
}

impl Sticky {
    /// What is to be put back after a request: ranges of bytes, in order. `unchanged` says whether a
    /// page is as it began.
    #[inline]
    pub(super) fn written_runs(
        &mut self,
        written: &WrittenPages,
        unchanged: impl Fn(Range<usize>) -> bool,
    ) -> &[Range<usize>] {
        written.update(&mut self.runs);
        self.requests += 1;
        if self.requests == REVIEW_EVERY {
            self.requests = 0;
            self.review(written, unchanged);
        }
        &self.runs
    }

    /// Leaves out of a large set what the last request did not change.
    #[cold]
    fn review(&mut self, written: &WrittenPages, unchanged: impl Fn(Range<usize>) -> bool) {
        if self.runs.iter().map(Range::len).sum::<usize>() <= STICKY_BYTES {
            return;
        }
        let page_bytes = written.page_bytes();
        let protect_again = |range: Range<usize>| {
            if !range.is_empty() {
                written.protect_again(range);
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
        written.update(&mut self.runs);
    }
}
