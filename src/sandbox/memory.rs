//! One of the [memories](super::memories) that are lent: between two stretches that nobody may touch, with
//! room to grow, with the module's data in it when it is asked for, and zeros again after somebody had it,
//! which costs what was written and not what exists.
//!
//! Deliberately lacks: who has it, and when.

use super::image::Image;
use super::reservation::Reservation;
use super::sticky::Sticky;
use super::written_pages::{RUNS, WrittenPages};
use crate::measure::probe::{Asked, Probe, Stage};
use nix::sys::mman::{MmapAdvise, madvise};
use nix::unistd::{SysconfVar, sysconf};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;

/// One memory.
pub(super) struct Memory {
    reservation: Reservation,
    /// None: nobody watches.
    written: Option<WrittenPages>,
}

impl Memory {
    /// A memory of `bytes` bytes, all zero, that may grow to `capacity_bytes`, between two stretches
    /// of `guard_bytes` that nobody may touch.
    pub(super) fn map(
        bytes: usize,
        capacity_bytes: usize,
        guard_bytes: usize,
        watches: bool,
    ) -> io::Result<Memory> {
        let reservation = Reservation::map(bytes, capacity_bytes, guard_bytes)?;
        if !watches {
            return Ok(Memory {
                reservation,
                written: None,
            });
        }
        // SAFETY: a memory begins and ends on a page, wasmtime's being 64 KiB; nothing else changes
        // the protection of these bytes, since `Reservation::grow` and `Reservation::forget_growth` touch
        // what lies behind them; and writers are as `written_pages` says: the guest and wasmtime on its
        // behalf, whose faults the store's signal handler brings to `on_fault`; `Instance::write` and `write`,
        // after `make_writable`; and `zero`, to noted pages.
        let written = unsafe { WrittenPages::protect(reservation.base(), bytes, &RUNS) }?;
        Ok(Memory {
            reservation,
            written: Some(written),
        })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.reservation.base()
    }

    /// The bytes that may be there at most, of which the first are readable.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.reservation.capacity_bytes()
    }

    /// Has it grow in place.
    ///
    /// # Errors
    /// As [`Reservation::grow`].
    pub(super) fn grow(&self, from: usize, to: usize) -> io::Result<()> {
        self.reservation.grow(from, to)
    }

    /// Takes back what it grew to, `bytes`.
    ///
    /// # Errors
    /// As [`Reservation::forget_growth`].
    pub(super) fn forget_growth(&self, bytes: usize) -> io::Result<()> {
        if bytes > self.reservation.first_bytes() {
            self.reservation.forget_growth(bytes)?;
        }
        Ok(())
    }

    /// A write to `address` faulted: whether it may now be repeated.
    ///
    /// For signal handlers: see [`WrittenPages::on_fault`].
    pub(super) fn on_fault(&self, address: usize) -> bool {
        let written = self.written.as_ref();
        written.is_some_and(|written| written.on_fault(address))
    }

    /// The host is about to write the bytes of `range`.
    ///
    /// # Errors
    /// The kernel refuses (mprotect(2)); then nothing may be written.
    pub(super) fn make_writable(&self, range: Range<usize>) -> io::Result<()> {
        let written = self.written.as_ref();
        written.map_or(Ok(()), |written| written.make_writable(range))
    }

    /// How many bytes [`Memory::zero`] would make zeros, as far as the kernel tells.
    pub(super) fn bytes_to_zero(&self) -> usize {
        match &self.written {
            Some(written) => written.noted_bytes(),
            None => self
                .touched()
                .map_or(0, |runs| runs.iter().map(Range::len).sum()),
        }
    }

    /// Writes `image` into it, which is zeros and whose first bytes are as many as the module says.
    ///
    /// # Errors
    /// The kernel refuses (mprotect(2)); then some of it may be written.
    pub(super) fn write(&self, image: &Image) -> io::Result<()> {
        if let Some(written) = &self.written {
            image
                .ranges()
                .try_for_each(|range| written.make_writable(range))?;
        }
        let bytes = self.reservation.first_bytes();
        // SAFETY: mapped and readable from beginning to end, and only pages are written that were just made
        // writable, or, where nobody watches, any. Whoever will have the memory gets it after this.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.base(), bytes) };
        image.write(memory);
        Ok(())
    }

    /// Zeroes what was written, `resident_bytes` of it by writing.
    pub(super) fn zero(&self, sticky: &mut Sticky, resident_bytes: usize) {
        let bytes = self.reservation.first_bytes();
        // SAFETY: mapped and readable from beginning to end, and only noted pages are written, which
        // are writable, or, where nobody watches, any. Whoever had the memory is gone, and nobody else
        // gets it before this returns.
        let memory = unsafe { std::slice::from_raw_parts_mut(self.base(), bytes) };
        let Some(written) = &self.written else {
            // Where the kernel does not tell it drops all of it.
            let (runs, resident_bytes) = match self.touched() {
                Ok(runs) => (runs, resident_bytes),
                Err(_) => (std::iter::once(0..bytes).collect(), 0),
            };
            self.zero_runs(memory, &runs, resident_bytes);
            return;
        };
        let unchanged = |page: Range<usize>| memory[page].iter().all(|byte| *byte == 0);
        let left_out = |pages: Range<usize>| {
            // Where it fails they are zeros that stay mapped.
            let _ = self.drop_pages(pages);
        };
        let runs = sticky.written_runs(written, unchanged, left_out);
        self.zero_runs(memory, runs, resident_bytes);
    }

    /// Zeroes these bytes of its `memory`, `resident_bytes` of them by writing.
    fn zero_runs(&self, memory: &mut [u8], runs: &[Range<usize>], resident_bytes: usize) {
        let mut left = resident_bytes;
        for run in runs {
            let by_hand = run.start..run.start + left.min(run.len());
            let rest = by_hand.end..run.end;
            left -= by_hand.len();
            memory[by_hand].fill(0);
            if !rest.is_empty() && self.drop_pages(rest.clone()).is_err() {
                memory[rest].fill(0);
            }
        }
    }

    /// The pages that anybody has touched since they were zeros of the kernel's, in memory or swapped out, as
    /// ranges of bytes (Documentation/admin-guide/mm/pagemap.rst).
    fn touched(&self) -> io::Result<Vec<Range<usize>>> {
        /// Bits 63 and 62: present, swapped.
        const HAS_A_PAGE: u64 = 3 << 62;
        let page_bytes = page_bytes()?;
        let bytes = self.reservation.first_bytes();
        let mut entries = vec![0; bytes / page_bytes * size_of::<u64>()];
        let at = self.base().addr() / page_bytes * size_of::<u64>();
        File::open("/proc/self/pagemap")?.read_exact_at(&mut entries, at as u64)?;
        let mut runs: Vec<Range<usize>> = Vec::new();
        for (nth, entry) in entries.chunks_exact(size_of::<u64>()).enumerate() {
            let entry = u64::from_ne_bytes(entry.try_into().expect("eight bytes"));
            if entry & HAS_A_PAGE == 0 {
                continue;
            }
            let start = nth * page_bytes;
            match runs.last_mut() {
                Some(last) if last.end == start => last.end += page_bytes,
                _ => runs.push(start..start + page_bytes),
            }
        }
        Ok(runs)
    }

    /// Has the kernel drop whole pages of what nobody has, which read as zeros then.
    fn drop_pages(&self, pages: Range<usize>) -> nix::Result<()> {
        debug_assert!(pages.end <= self.reservation.first_bytes());
        let start = self.base().wrapping_add(pages.start).cast();
        let start = NonNull::new(start).ok_or(nix::errno::Errno::EINVAL)?;
        // SAFETY: within the memory; private memory of no file reads as zeros after it (madvise(2)),
        // which are as good bytes as any.
        Asked::within(Stage::Advise, || unsafe {
            madvise(start, pages.len(), MmapAdvise::MADV_DONTNEED)
        })
    }
}

pub(super) fn page_bytes() -> io::Result<usize> {
    let bytes = sysconf(SysconfVar::PAGE_SIZE)?;
    let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
    bytes.ok_or_else(|| io::Error::other("the size of a page is unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_watches_the_kernel_knows_what_was_touched() {
        const BYTES: usize = 3 * 65536;
        let page = page_bytes().expect("the kernel says so");
        let memory = Memory::map(BYTES, BYTES, 65536, false).expect("there is room");
        assert_eq!(memory.bytes_to_zero(), 0);
        for nth in [3, 4, 7] {
            // SAFETY: mapped so far, and nobody else has it.
            unsafe { memory.base().add(nth * page).write(1) };
        }
        assert_eq!(memory.bytes_to_zero(), 3 * page);
        let runs = memory.touched().expect("/proc is mounted");
        assert_eq!(runs, [3 * page..5 * page, 7 * page..8 * page]);
    }
}
