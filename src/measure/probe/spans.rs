//! What the kernel tells the beginning and the end of ([`spans`](crate::measure::perf::spans)), told apart
//! from the stages in which it happens: page faults, and calls for memory that are not ringlab's own.
//!
//! The two samples of a span do not tell all of it: the way into the kernel and back lies outside, and
//! taking samples lies within. How much either is, is measured once, by spans that are timed with samples
//! and without. So what a stage is relieved of is all that it lost, and what the row gets is what the span
//! would have taken unseen; the rest is what recording takes for itself.
//!
//! A thread with such events pays for them at each context switch, about a microsecond. So they are asked for
//! ([`time_faults`]) where requests fault at all.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::Stage;
use super::ticks::{ns_to_ticks, ticks, ticks_to_ns};
use crate::measure::perf::spans::{Calls, Span, Spans, Taken};

static TIMED: OnceLock<Option<Timed>> = OnceLock::new();
/// Threads that were to time their faults, and could not.
static UNTIMED: AtomicU64 = AtomicU64::new(0);

/// What is timed in this process, and what it takes besides the time between its samples.
struct Timed {
    calls: Calls,
    fault: Price,
    call: Price,
}

/// From now on the page faults of each thread that begins to record are timed, and its calls for memory
/// that no stage of ringlab's own is around, such as those of a sandbox's runtime; each where it can be
/// ([`can_time_faults`], [`can_time_memory_calls`]).
pub fn time_faults() {
    TIMED.get_or_init(Timed::find);
}

/// Whether page faults can be timed here, by this user.
///
/// # Errors
/// The kernel does not allow it: cause and next command.
pub fn can_time_faults() -> Result<(), String> {
    Spans::of_this_thread(&Calls::NONE).map(drop)
}

/// The same of calls for memory.
///
/// # Errors
/// As above.
pub fn can_time_memory_calls() -> Result<(), String> {
    can_time_faults()?;
    Calls::find().map(drop)
}

/// How many threads could not time their faults, though they were to.
pub fn threads_with_untimed_faults() -> u64 {
    UNTIMED.load(Relaxed)
}

impl Timed {
    /// `None`: the kernel does not tell.
    fn find() -> Option<Timed> {
        let (fault, _) = Price::measure(&Calls::NONE, Span::Fault, Pages::touch).ok()?;
        let calls = Calls::find().and_then(|calls| {
            let advise = |pages: &Pages, _| pages.advise_nothing();
            let (price, spans) = Price::measure(&calls, Span::Advise, advise)?;
            // For as long as the process lives: who closes a tracepoint's last event sleeps for some 40 ms,
            // and threads of connections come and go.
            std::mem::forget(spans);
            Ok((calls, price))
        });
        let (calls, call) = calls.unwrap_or((Calls::NONE, Price::default()));
        Some(Timed { calls, fault, call })
    }
}

/// Times what the kernel does in the midst of one thread's stages.
pub(super) struct SpanClock {
    spans: Spans,
    timed: &'static Timed,
}

/// Spans of one kind, and to whom their time belongs, in ticks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SpanTicks {
    /// The row that they belong to.
    pub(super) stage: Stage,
    /// How many.
    pub(super) count: u64,
    /// What they would have taken without samples.
    pub(super) row: u64,
    /// What the samples took.
    pub(super) recording: u64,
}

/// Those of a stretch, each kind at its place.
pub(super) type SpansTicks = [SpanTicks; Span::ALL.len()];

impl SpanClock {
    /// Of the calling thread, if any are timed.
    pub(super) fn begin() -> Option<SpanClock> {
        let timed = TIMED.get()?.as_ref()?;
        match Spans::of_this_thread(&timed.calls) {
            Ok(spans) => Some(SpanClock { spans, timed }),
            Err(_) => {
                UNTIMED.fetch_add(1, Relaxed);
                None
            }
        }
    }

    /// Those since this was last asked.
    #[inline]
    pub(super) fn take(&mut self) -> Option<SpansTicks> {
        let taken = self.spans.take()?;
        Some(self.timed.of(&taken))
    }
}

impl Timed {
    fn of(&self, taken: &Taken) -> SpansTicks {
        Span::ALL.map(|span| {
            let (stage, price) = match span {
                Span::Fault => (Stage::PageFaults, self.fault),
                Span::Map => (Stage::Map, self.call),
                Span::Protect => (Stage::Protect, self.call),
                Span::Advise => (Stage::Advise, self.call),
            };
            let spanned = taken[span as usize];
            price.of(stage, spanned.count, spanned.ns)
        })
    }
}

/// In nanoseconds a span.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Price {
    /// The way in and back, and what of the samples lies outside of them.
    outside: u64,
    /// What the samples take.
    sampling: u64,
}

impl Price {
    fn of(self, stage: Stage, count: u64, ns: u64) -> SpanTicks {
        let whole = ns + count * self.outside;
        let recording = (count * self.sampling).min(whole);
        SpanTicks {
            stage,
            count,
            row: ns_to_ticks(whole - recording),
            recording: ns_to_ticks(recording),
        }
    }

    /// By spans that `act` makes, one for each page that nobody had before, some without samples and then as
    /// many with; it says how many ticks that took.
    fn measure(
        calls: &Calls,
        span: Span,
        act: impl Fn(&Pages, usize) -> u64,
    ) -> Result<(Price, Spans), String> {
        let [mut plain, mut sampled, mut between, mut nothing] = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let pages = Pages::new(PAGES);
            plain.extend((0..PAGES).map(|page| act(&pages, page)));
            for page in 0..PAGES {
                pages.touch(page);
                nothing.push(pages.touch(page));
            }
        }
        let mut spans = Spans::of_this_thread(calls)?;
        for _ in 0..ROUNDS {
            let pages = Pages::new(PAGES);
            spans.take();
            for page in 0..PAGES {
                let ticks = act(&pages, page);
                let taken = spans.take().unwrap_or_default();
                // One that another came before, of the code's own pages, is left out.
                if taken.iter().map(|spanned| spanned.count).sum::<u64>() == 1 {
                    sampled.push(ticks);
                    between.push(taken[span as usize].ns);
                }
            }
        }
        if between.is_empty() {
            return Err("the kernel takes no samples: take one from 5.9 on".to_owned());
        }
        let nothing_ns = ticks_to_ns(median(&mut nothing));
        let ns = |all: &mut Vec<u64>| ticks_to_ns(median(all)).saturating_sub(nothing_ns);
        let (plain_ns, sampled_ns) = (ns(&mut plain), ns(&mut sampled));
        let price = Price {
            outside: sampled_ns.saturating_sub(median(&mut between)),
            sampling: sampled_ns.saturating_sub(plain_ns),
        };
        Ok((price, spans))
    }
}

/// Rounds with samples, and as many without.
const ROUNDS: usize = 8;
/// Spans in each.
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

    /// Makes a system call that does nothing; how many ticks that took.
    pub(in crate::measure) fn advise_nothing(&self) -> u64 {
        let before = ticks();
        // SAFETY: of no bytes.
        let _ = unsafe { madvise(self.start.cast(), 0, MmapAdvise::MADV_NORMAL) };
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
            let ticks = price.of(Stage::Map, count, ns);
            assert_eq!((ticks.stage, ticks.count), (Stage::Map, count));
            assert_eq!(ticks.row, ns_to_ticks(row_ns));
            assert_eq!(ticks.recording, ns_to_ticks(recording_ns));
        };
        check(1, 1000, 800, 500);
        check(10, 10_000, 8000, 5000);
        // Spans that are shorter than those that were timed.
        check(2, 100, 0, 700);
    }

    #[test]
    fn the_price_is_known_or_said_to_be_not() {
        time_faults();
        let timed = TIMED.get().expect("it was found");
        let check = |can: Result<(), String>, price: fn(&Timed) -> Price| match can {
            Ok(()) => {
                let price = price(timed.as_ref().expect("it can be"));
                let is_sane = |ns: u64| (1..1_000_000).contains(&ns);
                assert!(
                    is_sane(price.outside) && is_sane(price.sampling),
                    "{price:?}"
                );
            }
            Err(reason) => eprintln!("skipped: {reason}"),
        };
        check(can_time_faults(), |timed| timed.fault);
        check(can_time_memory_calls(), |timed| timed.call);
    }
}
