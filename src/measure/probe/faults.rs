//! Page faults, told apart from the stages in which they happen.
//!
//! The kernel's two samples of a fault do not tell all of it: the way in and the way back lie outside, and
//! taking the samples lies within. How much either is, is measured once, by faults that are timed with
//! samples and without. So what a stage is relieved of is all that it lost, and what the row gets is what
//! the fault would have taken unseen; the rest is what recording takes for itself.
//!
//! A thread with such events pays for them at each context switch, about a microsecond. So they are asked for
//! ([`time_faults`]) where requests fault at all.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::ticks::{ns_to_ticks, ticks, ticks_to_ns};
use crate::measure::perf::faults::Faults;

/// What a fault takes besides the time between its samples, in nanoseconds; and whether there is any.
static PRICE: OnceLock<Result<Price, String>> = OnceLock::new();
/// Threads that were to time their faults, and could not.
static UNTIMED: AtomicU64 = AtomicU64::new(0);

/// From now on the page faults of each thread that begins to record are timed. Takes some milliseconds,
/// once.
///
/// # Errors
/// The kernel does not allow it: cause and next command.
pub fn time_faults() -> Result<(), String> {
    let price = PRICE.get_or_init(Price::measure);
    price.as_ref().map(|_| ()).map_err(Clone::clone)
}

/// How many threads could not time their faults, though they were to.
pub fn threads_with_untimed_faults() -> u64 {
    UNTIMED.load(Relaxed)
}

/// Times the faults of one thread.
pub(super) struct FaultClock {
    faults: Faults,
    price: Price,
}

/// Some faults, and to whom their time belongs, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct FaultTicks {
    /// How many.
    pub(super) count: u64,
    /// What they would have taken without samples.
    pub(super) row: u64,
    /// What the samples took.
    pub(super) recording: u64,
}

impl FaultClock {
    /// Of the calling thread, if faults are timed.
    pub(super) fn begin() -> Option<FaultClock> {
        let price = *PRICE.get()?.as_ref().ok()?;
        match Faults::of_this_thread() {
            Ok(faults) => Some(FaultClock { faults, price }),
            Err(_) => {
                UNTIMED.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Those since this was last asked.
    #[inline]
    pub(super) fn take(&mut self) -> Option<FaultTicks> {
        let faulted = self.faults.take()?;
        Some(self.price.of(faulted.count, faulted.ns))
    }
}

/// In nanoseconds a fault.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Price {
    /// The way in and back, and what of the samples lies outside of them.
    outside: u64,
    /// What the samples take.
    sampling: u64,
}

impl Price {
    fn of(self, count: u64, ns: u64) -> FaultTicks {
        let whole = ns + count * self.outside;
        let recording = (count * self.sampling).min(whole);
        FaultTicks {
            count,
            row: ns_to_ticks(whole - recording),
            recording: ns_to_ticks(recording),
        }
    }

    /// By faults of pages that nobody had before, some with samples and as many without in turn.
    fn measure() -> Result<Price, String> {
        let [mut plain, mut sampled, mut between, mut present] = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let pages = Pages::new(PAGES);
            plain.extend((0..PAGES).map(|page| pages.touch(page)));
            present.extend((0..PAGES).map(|page| pages.touch(page)));
            let mut faults = Faults::of_this_thread()?;
            let pages = Pages::new(PAGES);
            faults.take();
            for page in 0..PAGES {
                let ticks = pages.touch(page);
                // One that the ring's own pages came before is left out.
                if let Some(taken) = faults.take().filter(|taken| taken.count == 1) {
                    sampled.push(ticks);
                    between.push(taken.ns);
                }
            }
        }
        let nothing_ns = ticks_to_ns(median(&mut present));
        let ns = |all: &mut Vec<u64>| ticks_to_ns(median(all)).saturating_sub(nothing_ns);
        let (plain_ns, sampled_ns) = (ns(&mut plain), ns(&mut sampled));
        if between.is_empty() {
            return Err(
                "the kernel takes no samples of page faults: take one from 5.9 on".to_owned(),
            );
        }
        Ok(Price {
            outside: sampled_ns.saturating_sub(median(&mut between)),
            sampling: sampled_ns.saturating_sub(plain_ns),
        })
    }
}

/// Rounds with samples, and as many without.
const ROUNDS: usize = 8;
/// Faults in each.
const PAGES: usize = 64;
const PAGE_BYTES: usize = 4096;

fn median(all: &mut [u64]) -> u64 {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or(0)
}

/// Memory that faults for each 4 KiB of it that are touched for the first time.
pub(in crate::measure) struct Pages {
    start: NonNull<u8>,
    bytes: NonZeroUsize,
}

impl Pages {
    /// As many, at least one.
    pub(in crate::measure) fn new(pages: usize) -> Pages {
        let bytes = NonZeroUsize::new(pages * PAGE_BYTES).expect("at least one page");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, where the kernel likes it, overlaps no other.
        let start = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) };
        let start = start.expect("there is room for a few pages");
        // SAFETY: this mapping; the advice changes nothing of what is read. A kernel without large pages
        // refuses it.
        let _ = unsafe { madvise(start, bytes.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        Pages {
            start: start.cast(),
            bytes,
        }
    }

    /// Writes to a page; how many ticks that took.
    pub(in crate::measure) fn touch(&self, page: usize) -> u64 {
        let at = page * PAGE_BYTES;
        assert!(at < self.bytes.get(), "there is no page {page}");
        let before = ticks();
        // SAFETY: within the mapping, which is writable, and to which nobody else refers.
        unsafe { self.start.add(at).write_volatile(1) };
        ticks().saturating_sub(before)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's, and nobody refers to it any more.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_stage_lost_is_the_rows_and_the_recordings() {
        let price = Price {
            outside: 300,
            sampling: 500,
        };
        let check = |count: u64, ns: u64, row_ns: u64, recording_ns: u64| {
            let ticks = price.of(count, ns);
            assert_eq!(ticks.count, count);
            assert_eq!(ticks.row, ns_to_ticks(row_ns));
            assert_eq!(ticks.recording, ns_to_ticks(recording_ns));
        };
        check(1, 1000, 800, 500);
        check(10, 10_000, 8000, 5000);
        // Faults that are shorter than those that were timed.
        check(2, 100, 0, 700);
    }

    #[test]
    fn the_price_of_a_fault_is_known_or_said_to_be_not() {
        match Price::measure() {
            Ok(price) => {
                assert!(
                    price.outside < 1_000_000 && price.sampling < 1_000_000,
                    "{price:?}"
                );
                time_faults().expect("as before");
            }
            Err(reason) => eprintln!("skipped: {reason}"),
        }
    }
}
