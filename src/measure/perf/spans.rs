//! How long the kernel was at what it tells the beginning and the end of, in the midst of a thread's own
//! work: page faults, and system calls for memory, whoever makes them.
//!
//! Two events tell of a fault: PERF_COUNT_SW_PAGE_FAULTS when it begins (`do_user_addr_fault` in
//! arch/x86/mm/fault.c, and its like for other processors), and PERF_COUNT_SW_PAGE_FAULTS_MIN when memory
//! was found for it (`mm_account_fault` in mm/memory.c, Linux 5.9). Any user may have both sampled with
//! their time up to kernel.perf_event_paranoid 2, of faults that happen in user mode. Of a system call tell
//! the tracepoints `syscalls:sys_enter_*` and `sys_exit_*`, to whoever may read tracefs. The kernel writes
//! the samples into a ring, and whether there is one is seen without a system call.
//!
//! Deliberately lacking: faults within a system call, which are a part of it; those that wait for a disk,
//! which sleep; and those that end in a signal, which have no end.

use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use perf_event::events::{Event, Software, Tracepoint};
use perf_event::{Builder, Counter, SampleFlag, Sampler};

use super::event::{Side, Source};
use super::refusal::refusal;
use super::tracefs::Tracefs;

/// Room for the samples of 170 faults. Each thread that is recorded has such a ring, and a user may lock
/// 516 KiB for each core's without asking (kernel.perf_event_mlock_kb): 43 of them.
const RING_BYTES: usize = 8192;
/// Of one sample, its head included.
const SAMPLE_BYTES: usize = 24;
/// PERF_RECORD_SAMPLE (perf_event_open(2)).
const SAMPLE: u32 = 9;

/// What there are spans of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::measure) enum Span {
    /// A page fault in user mode.
    Fault,
    /// mmap(2), munmap(2).
    Map,
    /// mprotect(2).
    Protect,
    /// madvise(2).
    Advise,
}

impl Span {
    /// All of them, in the order of their numbers.
    pub(in crate::measure) const ALL: [Span; 4] =
        [Span::Fault, Span::Map, Span::Protect, Span::Advise];
}

/// System calls for memory, as tracepoints name them.
const CALLS: [(&str, Span); 4] = [
    ("mmap", Span::Map),
    ("munmap", Span::Map),
    ("mprotect", Span::Protect),
    ("madvise", Span::Advise),
];

/// The tracepoints of [`CALLS`] in this kernel: where each begins, and where it ends.
pub(in crate::measure) struct Calls(Vec<(Span, [Tracepoint; 2])>);

impl Calls {
    /// Spans of page faults alone.
    pub(in crate::measure) const NONE: Calls = Calls(Vec::new());

    /// # Errors
    /// tracefs is not to be read: cause and next command.
    pub(in crate::measure) fn find() -> Result<Calls, String> {
        let tracefs = Tracefs::find(Path::new("/"));
        let found = CALLS.map(|(name, span)| {
            let find = |edge| tracefs.find_event("syscalls", &format!("sys_{edge}_{name}"));
            Ok((span, [find("enter")?, find("exit")?]))
        });
        found.into_iter().collect::<Result<_, _>>().map(Calls)
    }
}

/// The spans of the thread that made it.
pub(in crate::measure) struct Spans {
    /// Where faults begin; all samples are in its ring.
    samples: Sampler,
    /// Where faults end, and then the edges of calls.
    others: Vec<Edge>,
    /// What is under way, and since when, in nanoseconds of the samples' clock.
    began: Option<(Span, u64)>,
    /// How many faults ended before now.
    faults: u64,
}

/// Where a span begins or ends.
struct Edge {
    counter: Counter,
    span: Span,
    ends: bool,
}

/// Spans of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::measure) struct Spanned {
    /// How many.
    pub(in crate::measure) count: u64,
    /// How long they took together, in nanoseconds: from the one event to the other, which leaves out the
    /// way into the kernel and back.
    pub(in crate::measure) ns: u64,
}

/// In the order of [`Span::ALL`].
pub(in crate::measure) type Taken = [Spanned; Span::ALL.len()];

impl Spans {
    /// Of the calling thread, from now on.
    ///
    /// # Errors
    /// The kernel refuses: cause and next command.
    pub(in crate::measure) fn of_this_thread(calls: &Calls) -> Result<Spans, String> {
        Spans::open(calls).map_err(|error| match error.raw_os_error() {
            // perf_event_open(2) gives this one too; mmap(2) of a ring, only for want of room.
            Some(libc::EPERM) if Spans::can_be_sampled() => {
                "the rings for samples are more memory than this user may lock: `ulimit -l \
                 unlimited`, or `sudo sysctl kernel.perf_event_mlock_kb=65536`"
                    .to_owned()
            }
            _ => refusal(&error, Side::User, Source::Software),
        })
    }

    fn open(calls: &Calls) -> io::Result<Spans> {
        let mut samples = builder(Software::PAGE_FAULTS)
            .build()?
            .sampled(RING_BYTES)?;
        let mut others = vec![Edge {
            counter: builder(Software::PAGE_FAULTS_MIN).build()?,
            span: Span::Fault,
            ends: true,
        }];
        for &(span, edges) in &calls.0 {
            for (edge, ends) in edges.into_iter().zip([false, true]) {
                let counter = builder(edge).build()?;
                others.push(Edge {
                    counter,
                    span,
                    ends,
                });
            }
        }
        let ring = samples.as_counter().as_raw_fd();
        for edge in &others {
            let of = edge.counter.as_raw_fd();
            // SAFETY: both are descriptors of perf events that live; the call touches no memory of ours.
            Errno::result(unsafe { libc::ioctl(of, SET_OUTPUT, ring) })?;
        }
        // The first look faults the ring's own pages in, which is nobody's fault.
        while samples.next_record().is_some() {}
        for edge in &mut others {
            edge.counter.enable()?;
        }
        samples.as_counter_mut().enable()?;
        Ok(Spans {
            faults: others[0].counter.read()?,
            samples,
            others,
            began: None,
        })
    }

    /// Whether it is the ring that is refused.
    fn can_be_sampled() -> bool {
        builder(Software::PAGE_FAULTS).build().is_ok()
    }

    /// Those that ended since this was last asked; `None` if there are no samples.
    #[inline]
    pub(in crate::measure) fn take(&mut self) -> Option<Taken> {
        let first = self.next_sample()?;
        Some(self.take_from(first))
    }

    #[cold]
    fn take_from(&mut self, first: Sample) -> Taken {
        let mut taken = Taken::default();
        let mut samples = 0;
        let mut next = Some(first);
        while let Some(Sample { span, ends, ns }) = next {
            samples += 1;
            if !ends {
                self.began = Some((span, ns));
            } else if let Some((_, began_ns)) = self.began.take_if(|(began, _)| *began == span) {
                let spanned = &mut taken[span as usize];
                spanned.count += 1;
                spanned.ns += ns.saturating_sub(began_ns);
            }
            next = self.next_sample();
        }
        let faults = &mut taken[Span::Fault as usize];
        self.faults += faults.count;
        if (samples + 2) * SAMPLE_BYTES > RING_BYTES {
            // What the ring had no room for was counted all the same, and took as long as the others.
            let ended = self.others[0].counter.read();
            let unseen = ended.map_or(0, |ended| ended.saturating_sub(self.faults));
            self.faults += unseen;
            self.began = None;
            *faults = Spanned {
                count: faults.count + unseen,
                ns: faults.ns + faults.ns * unseen / faults.count.max(1),
            };
        }
        taken
    }

    #[inline]
    fn next_sample(&mut self) -> Option<Sample> {
        loop {
            let record = self.samples.next_record()?;
            let bytes = record.to_contiguous();
            let word = |nth: usize| {
                let bytes = bytes.get(8 * nth..8 * nth + 8)?;
                Some(u64::from_ne_bytes(bytes.try_into().ok()?))
            };
            // Of what else there may be, such as that samples were lost, nothing is wanted.
            if record.ty() == SAMPLE
                && let (Some(id), Some(ns)) = (word(0), word(1))
            {
                let edge = self.others.iter().find(|edge| edge.counter.id() == id);
                let (span, ends) = edge.map_or((Span::Fault, false), |edge| (edge.span, edge.ends));
                return Some(Sample { span, ends, ns });
            }
        }
    }
}

struct Sample {
    span: Span,
    ends: bool,
    ns: u64,
}

/// `PERF_EVENT_IOC_SET_OUTPUT`: `_IO('$', 5)` of linux/perf_event.h.
const SET_OUTPUT: libc::Ioctl = 0x2405;

fn builder(event: impl Event) -> Builder<'static> {
    let mut builder = Builder::new(event);
    builder
        .observe_self()
        .any_cpu()
        .enabled(false)
        .exclude_kernel(true)
        .sample_period(1)
        .sample(SampleFlag::IDENTIFIER)
        .sample(SampleFlag::TIME);
    builder
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::probe::Pages;

    /// `None`, and said so, where the kernel refuses.
    fn spans_or_skip(calls: &Calls) -> Option<Spans> {
        let spans = Spans::of_this_thread(calls);
        let refused = |reason: &String| eprintln!("skipped: {reason}");
        spans.inspect_err(refused).ok()
    }

    fn count(taken: Option<Taken>, span: Span) -> u64 {
        taken.map_or(0, |taken| taken[span as usize].count)
    }

    #[test]
    fn every_fault_is_counted_once_and_takes_some_time() {
        let pages = Pages::new(1000);
        let Some(mut spans) = spans_or_skip(&Calls::NONE) else {
            return;
        };
        let touch = |range: std::ops::Range<usize>| {
            for page in range {
                pages.touch(page);
            }
        };
        // The code's own pages, once.
        touch(0..2);
        spans.take();
        // The third and the fourth are more than the ring has room for.
        for (first, faults) in [(2, 1), (3, 150), (153, 172), (325, 600), (925, 5)] {
            touch(first..first + faults);
            let taken = spans.take().expect("there were some");
            assert_eq!(taken[0].count, faults as u64);
            let each_ns = taken[0].ns / taken[0].count;
            assert!((1..1_000_000).contains(&each_ns), "{each_ns} ns each");
            assert_eq!(&taken[1..], [Spanned::default(); 3]);
            touch(first..first + faults);
            assert_eq!(spans.take(), None, "they are there");
        }
    }

    #[test]
    fn calls_for_memory_are_told_apart() {
        let calls = match Calls::find() {
            Ok(calls) => calls,
            Err(reason) => return eprintln!("skipped: {reason}"),
        };
        let pages = Pages::new(64);
        let Some(mut spans) = spans_or_skip(&calls) else {
            return;
        };
        pages.touch(0);
        pages.advise_nothing();
        spans.take();
        for page in 1..11 {
            pages.advise_nothing();
            pages.touch(page);
        }
        for _ in 0..3 {
            drop(Pages::new(1));
        }
        let taken = spans.take().expect("there were some");
        // Each new one is advised of what it is not, once.
        let counts = taken.map(|spanned| spanned.count);
        assert_eq!(counts, [10, 6, 0, 13]);
        assert!(taken.iter().all(|spanned| spanned.ns >= spanned.count));
    }

    #[test]
    fn a_thread_has_its_own_only() {
        let Some(mut spans) = spans_or_skip(&Calls::NONE) else {
            return;
        };
        spans.take();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pages = Pages::new(1000);
                let mut own = Spans::of_this_thread(&Calls::NONE).expect("as before");
                own.take();
                for page in 0..1000 {
                    pages.touch(page);
                }
                assert!(count(own.take(), Span::Fault) >= 1000);
            });
        });
        let ours = count(spans.take(), Span::Fault);
        assert!(ours < 500, "what making a thread takes: {ours}");
    }
}
