//! How long the page faults of a thread take, of which the kernel tells the beginning and the end.
//!
//! Two events tell of a fault: PERF_COUNT_SW_PAGE_FAULTS when it begins (`do_user_addr_fault` in
//! arch/x86/mm/fault.c, and its like for other processors), and PERF_COUNT_SW_PAGE_FAULTS_MIN when memory
//! was found for it (`mm_account_fault` in mm/memory.c, Linux 5.9). Any user may have both sampled with
//! their time up to kernel.perf_event_paranoid 2, of faults that happen in user mode. The kernel writes
//! the samples into a ring, and whether there is one is seen without a system call.
//!
//! Deliberately lacking: faults within a system call, which are a part of it; those that wait for a disk,
//! which sleep; and those that end in a signal, which have no end.

use std::io;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use perf_event::events::Software;
use perf_event::{Builder, Counter, SampleFlag, Sampler};

use super::event::{Side, Source};
use super::refusal::refusal;

/// Room for the samples of 170 faults. Each thread that is recorded has such a ring, and a user may lock
/// 516 KiB for each core's without asking (kernel.perf_event_mlock_kb): 43 of them.
const RING_BYTES: usize = 8192;
/// Of one sample, its head included.
const SAMPLE_BYTES: usize = 24;
/// PERF_RECORD_SAMPLE (perf_event_open(2)).
const SAMPLE: u32 = 9;

/// The faults of the thread that made it.
pub(in crate::measure) struct Faults {
    /// Of the beginnings, with the samples of both.
    samples: Sampler,
    ends: Counter,
    /// When the one under way began, in nanoseconds of the samples' clock.
    began_ns: Option<u64>,
    /// How many ended before now.
    ended: u64,
}

/// Some faults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::measure) struct Faulted {
    /// How many.
    pub(in crate::measure) count: u64,
    /// How long they took together, in nanoseconds: from the one event to the other, which leaves out the
    /// way into the kernel and back.
    pub(in crate::measure) ns: u64,
}

impl Faults {
    /// Of the calling thread, from now on.
    ///
    /// # Errors
    /// The kernel refuses: cause and next command.
    pub(in crate::measure) fn of_this_thread() -> Result<Faults, String> {
        Faults::open().map_err(|error| match error.raw_os_error() {
            // perf_event_open(2) gives this one too; mmap(2) of a ring, only for want of room.
            Some(libc::EPERM) if Faults::can_be_sampled() => {
                "the rings for page faults are more memory than this user may lock: `ulimit -l \
                 unlimited`, or `sudo sysctl kernel.perf_event_mlock_kb=65536`"
                    .to_owned()
            }
            _ => refusal(&error, Side::User, Source::Software),
        })
    }

    fn open() -> io::Result<Faults> {
        let mut samples = builder(Software::PAGE_FAULTS)
            .build()?
            .sampled(RING_BYTES)?;
        let mut ends = builder(Software::PAGE_FAULTS_MIN).build()?;
        let (of, into) = (ends.as_raw_fd(), samples.as_counter().as_raw_fd());
        // SAFETY: both are descriptors of perf events that live; the call touches no memory of ours.
        Errno::result(unsafe { libc::ioctl(of, SET_OUTPUT, into) })?;
        // The first look faults the ring's own pages in, which is nobody's fault.
        while samples.next_record().is_some() {}
        ends.enable()?;
        samples.as_counter_mut().enable()?;
        Ok(Faults {
            samples,
            ends,
            began_ns: None,
            ended: 0,
        })
    }

    /// Whether it is the ring that is refused.
    fn can_be_sampled() -> bool {
        builder(Software::PAGE_FAULTS).build().is_ok()
    }

    /// Those that ended since this was last asked; `None` if there are no samples.
    #[inline]
    pub(in crate::measure) fn take(&mut self) -> Option<Faulted> {
        let first = self.next_sample()?;
        Some(self.take_from(first))
    }

    #[cold]
    fn take_from(&mut self, first: (bool, u64)) -> Faulted {
        let (mut seen, mut samples) = (Faulted::default(), 0);
        let mut next = Some(first);
        while let Some((ends, ns)) = next {
            samples += 1;
            if !ends {
                self.began_ns = Some(ns);
            } else if let Some(began_ns) = self.began_ns.take() {
                seen.count += 1;
                seen.ns += ns.saturating_sub(began_ns);
            }
            next = self.next_sample();
        }
        let is_full = (samples + 2) * SAMPLE_BYTES > RING_BYTES;
        self.ended += seen.count;
        if !is_full {
            return seen;
        }
        // What the ring had no room for was counted all the same, and took as long as the others.
        let unseen = self
            .ends
            .read()
            .map_or(0, |ended| ended.saturating_sub(self.ended));
        self.ended += unseen;
        self.began_ns = None;
        Faulted {
            count: seen.count + unseen,
            ns: seen.ns + seen.ns * unseen / seen.count.max(1),
        }
    }

    /// Whether it ends a fault, and when.
    #[inline]
    fn next_sample(&mut self) -> Option<(bool, u64)> {
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
                return Some((id == self.ends.id(), ns));
            }
        }
    }
}

/// `PERF_EVENT_IOC_SET_OUTPUT`: `_IO('$', 5)` of linux/perf_event.h.
const SET_OUTPUT: libc::Ioctl = 0x2405;

fn builder(event: Software) -> Builder<'static> {
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
    fn faults_or_skip() -> Option<Faults> {
        let faults = Faults::of_this_thread();
        let refused = |reason: &String| eprintln!("skipped: {reason}");
        faults.inspect_err(refused).ok()
    }

    #[test]
    fn every_fault_is_counted_once_and_takes_some_time() {
        let pages = Pages::new(1000);
        let Some(mut faults) = faults_or_skip() else {
            return;
        };
        let touch = |range: std::ops::Range<usize>| {
            for page in range {
                pages.touch(page);
            }
        };
        // The code's own pages, once.
        touch(0..2);
        faults.take();
        // The third and the fourth are more than the ring has room for.
        for (first, count) in [(2, 1), (3, 150), (153, 172), (325, 600), (925, 5)] {
            touch(first..first + count);
            let taken = faults.take().expect("there were some");
            assert_eq!(taken.count, count as u64);
            let each_ns = taken.ns / taken.count;
            assert!((1..1_000_000).contains(&each_ns), "{each_ns} ns each");
            touch(first..first + count);
            assert_eq!(faults.take(), None, "they are there");
        }
    }

    #[test]
    fn a_thread_has_its_own_only() {
        let Some(mut faults) = faults_or_skip() else {
            return;
        };
        faults.take();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let pages = Pages::new(1000);
                let mut own = Faults::of_this_thread().expect("as before");
                own.take();
                for page in 0..1000 {
                    pages.touch(page);
                }
                assert!(own.take().is_some_and(|taken| taken.count >= 1000));
            });
        });
        let ours = faults.take().map_or(0, |taken| taken.count);
        assert!(ours < 500, "what making a thread takes: {ours}");
    }
}
