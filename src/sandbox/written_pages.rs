//! Which pages of a guest's memory may differ from how it began: found by protection, kept sticky.
//!
//! The memory is made read-only when an instance has just begun, or will. The first write to a page faults; the
//! fault is noted, the page made writable (behind a long run of such, some more ahead of it), and the write
//! goes on. The page then stays writable and
//! noted, so a guest that writes the same pages at each request faults no more and calls the kernel
//! no more.
//!
//! Who writes, and how each is seen:
//!
//! - the guest's code: SIGSEGV, which the store's signal handler gives to [`WrittenPages::on_fault`];
//! - wasmtime's own code on behalf of the guest (`memory.fill`, `memory.copy`, `memory.init`): the
//!   same. Its process-wide handler asks the store that this thread runs before it asks whose code
//!   faulted (wasmtime 48, `CallThreadState::test_if_trap`), and the interrupted `memmove` goes on;
//! - the host, which writes a request, and the module's data before the first, outside any call of the
//!   guest, where no store is asked: it says so beforehand, with [`WrittenPages::make_writable`];
//! - the kernel, on behalf of a system call: it would fail with EFAULT. There is no such call.
//!
//! A run of pages of another protection than its neighbours costs the process two more mappings, of
//! which `vm.max_map_count` allows 65,530. So pages are noted one by one only while the process has
//! [`RUNS`] left; then a whole memory is made writable and noted.

use crate::measure::probe::{Asked, Probe, Stage};
use nix::errno::Errno;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Runs of noted pages that a process may have, all memories together: at two mappings each, half
/// of what the kernel allows by default.
pub(super) static RUNS: AtomicUsize = AtomicUsize::new(16 * 1024);

/// Pages in a run from which on those behind it are made writable ahead of a write. A set that has such a run
/// and more is large enough to be looked at again: see `sticky`.
const LONG_RUN: usize = 16;

/// The most pages that are made writable ahead of a write.
const MOST_AHEAD: usize = 256;

/// The pages of one memory that may have been written since they were last protected.
///
/// Read and changed by the thread that has the instance, and by the signal handler that interrupts
/// that same thread. Atomic for the handler's sake; the order of accesses is the program's.
#[derive(Debug)]
pub(super) struct WrittenPages {
    /// Address of the memory's first byte.
    base: usize,
    bytes: usize,
    page_bytes: usize,
    /// A bit for each page: written, perhaps, and writable.
    noted: Box<[AtomicU64]>,
    /// Whether the notes changed since [`WrittenPages::update`].
    news: AtomicBool,
    /// What is left of the runs that may be, for this memory and others.
    runs_left: &'static AtomicUsize,
    /// What this memory took of it: at least as many as it has runs.
    runs_taken: AtomicUsize,
}

impl WrittenPages {
    /// Protects the memory of `bytes` bytes at `base`. No page of it counts as written. `runs_left`
    /// is [`RUNS`], but in tests.
    ///
    /// # Errors
    /// The kernel refuses (mprotect(2)).
    ///
    /// # Safety
    /// The memory is mapped, readable and writable; it begins and ends on a page; nothing else
    /// changes its protection as long as this lives; and until it is unmapped nobody writes to it but
    /// as the head of this file says.
    pub(super) unsafe fn protect(
        base: *mut u8,
        bytes: usize,
        runs_left: &'static AtomicUsize,
    ) -> io::Result<WrittenPages> {
        // SAFETY: sysconf reads no memory of ours.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let pages = WrittenPages {
            base: base.addr(),
            bytes,
            page_bytes,
            noted: (0..(bytes / page_bytes).div_ceil(64))
                .map(|_| AtomicU64::new(0))
                .collect(),
            news: AtomicBool::new(false),
            runs_left,
            runs_taken: AtomicUsize::new(0),
        };
        match Asked::within(Stage::Protect, || pages.set(0..bytes, libc::PROT_READ)) {
            true => Ok(pages),
            false => Err(Errno::last().into()),
        }
    }

    /// Size of a page, in bytes.
    pub(super) fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// How much is noted, in bytes.
    #[inline]
    pub(super) fn noted_bytes(&self) -> usize {
        let pages = self.noted.iter().map(|word| word.load(Ordering::Relaxed));
        pages.map(u64::count_ones).sum::<u32>() as usize * self.page_bytes
    }

    /// A write to `address` faulted. Returns whether it was to this memory and may now be repeated.
    ///
    /// For signal handlers: calls nothing but mprotect(2), a bare system call, and keeps errno.
    pub(super) fn on_fault(&self, address: usize) -> bool {
        let Some(at) = address.checked_sub(self.base).filter(|at| *at < self.bytes) else {
            return false;
        };
        let page = at / self.page_bytes;
        // It is writable already: whatever faulted, it was not our protection.
        if self.is_noted(page) {
            return false;
        }
        // SAFETY: the address of this thread's errno is always valid.
        let errno = unsafe { *libc::__errno_location() };
        let done = self.note(page..page + self.ahead_of(page));
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
        done
    }

    /// How many pages from `page` on are made writable when it is written: itself, and where it goes on with a
    /// long run, as a guest does that writes from one end to the other, half as many as the run has. Such a
    /// one meets a fault for each power of one and a half pages, up to [`MOST_AHEAD`], and not for each page.
    /// What it turns out not to have written is put back needlessly until it is left out again.
    fn ahead_of(&self, page: usize) -> usize {
        let before = (0..page).rev().take_while(|before| self.is_noted(*before));
        let run = before.take(2 * MOST_AHEAD).count();
        let least = (run / 2).max(1);
        let pages = self.bytes / self.page_bytes;
        let new = (page..pages).take_while(|next| !self.is_noted(*next));
        match run < LONG_RUN {
            true => 1,
            false => new.take(least).count(),
        }
    }

    /// The host is about to write the bytes of `range`, which lies in the memory.
    ///
    /// # Errors
    /// The kernel refuses (mprotect(2)); then nothing may be written.
    pub(super) fn make_writable(&self, range: Range<usize>) -> io::Result<()> {
        let pages = range.start / self.page_bytes..range.end.div_ceil(self.page_bytes);
        let new = |page: &usize| !self.is_noted(*page);
        // From the first new page to the last: what lies between is noted anyway, or soon will be.
        let Some(first) = pages.clone().find(new) else {
            return Ok(());
        };
        let last = pages.rev().find(new).unwrap_or(first);
        match Asked::within(Stage::Protect, || self.note(first..last + 1)) {
            true => Ok(()),
            false => Err(Errno::last().into()),
        }
    }

    /// Makes pages writable, or all of them if that fails, and notes them. False if both fail.
    fn note(&self, pages: Range<usize>) -> bool {
        let noted = if self.take_run() && self.set_pages(&pages, libc::PROT_WRITE) {
            pages
        } else {
            // All of it has one protection then, for which the kernel needs no new mapping.
            let all = 0..self.bytes / self.page_bytes;
            if !self.set_pages(&all, libc::PROT_WRITE) {
                return false;
            }
            all
        };
        for page in noted {
            self.noted[page / 64].fetch_or(1 << (page % 64), Ordering::Relaxed);
        }
        self.news.store(true, Ordering::Relaxed);
        true
    }

    fn take_run(&self) -> bool {
        let one_less = |left: usize| left.checked_sub(1);
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        let taken = self.runs_left.fetch_update(set, fetch, one_less).is_ok();
        self.runs_taken.fetch_add(taken.into(), Ordering::Relaxed);
        taken
    }

    /// Brings `runs` up to date, if anything changed since the last time, and says whether it did: the
    /// noted pages as ranges of bytes, in order, neighbours as one.
    #[inline]
    pub(super) fn update(&self, runs: &mut Vec<Range<usize>>) -> bool {
        let has_news = self.news.load(Ordering::Relaxed);
        if has_news {
            self.list(runs);
        }
        has_news
    }

    #[cold]
    fn list(&self, runs: &mut Vec<Range<usize>>) {
        self.news.store(false, Ordering::Relaxed);
        runs.clear();
        for (word, bits) in self.noted.iter().enumerate() {
            let mut bits = bits.load(Ordering::Relaxed);
            while bits != 0 {
                let page = word * 64 + bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let start = page * self.page_bytes;
                match runs.last_mut() {
                    Some(last) if last.end == start => last.end += self.page_bytes,
                    _ => runs.push(start..start + self.page_bytes),
                }
            }
        }
        // One was taken for each fault, and pages noted side by side have become one run.
        let over = self
            .runs_taken
            .load(Ordering::Relaxed)
            .saturating_sub(runs.len());
        self.runs_taken.fetch_sub(over, Ordering::Relaxed);
        self.runs_left.fetch_add(over, Ordering::Relaxed);
    }

    /// Protects the bytes of `range` again: whole pages that are as the snapshot has them. False: that
    /// is not possible, and they stay writable and noted.
    pub(super) fn protect_again(&self, range: Range<usize>) -> bool {
        let pages = range.start / self.page_bytes..range.end / self.page_bytes;
        // Cut out of the middle of a run, they make two of it.
        let protect = || self.set_pages(&pages, libc::PROT_READ);
        if !self.take_run() || !Asked::within(Stage::Protect, protect) {
            return false;
        }
        for page in pages {
            self.noted[page / 64].fetch_and(!(1 << (page % 64)), Ordering::Relaxed);
        }
        self.news.store(true, Ordering::Relaxed);
        true
    }

    fn is_noted(&self, page: usize) -> bool {
        self.noted[page / 64].load(Ordering::Relaxed) & (1 << (page % 64)) != 0
    }

    fn set_pages(&self, pages: &Range<usize>, protection: libc::c_int) -> bool {
        let bytes = pages.start * self.page_bytes..pages.end * self.page_bytes;
        self.set(bytes, protection)
    }

    fn set(&self, bytes: Range<usize>, protection: libc::c_int) -> bool {
        let start = std::ptr::without_provenance_mut(self.base + bytes.start);
        let protection = protection | libc::PROT_READ;
        // SAFETY: the range lies in the memory that `protect` was given, whose protection is this
        // type's to change. No reference minds: pages stay readable, and writes are only made as
        // the head of this file says.
        unsafe { libc::mprotect(start, bytes.len(), protection) == 0 }
    }
}

impl Drop for WrittenPages {
    fn drop(&mut self) {
        let taken = *self.runs_taken.get_mut();
        self.runs_left.fetch_add(taken, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    use std::num::NonZeroUsize;

    const PAGES: usize = 130;

    /// Some memory, never unmapped, with a budget of its own.
    fn protected(runs: usize) -> (WrittenPages, &'static AtomicUsize) {
        // SAFETY: asks the kernel where it names no address.
        let page_bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let bytes = NonZeroUsize::new(PAGES * page_bytes).expect("some");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping overlaps no other.
        let base = unsafe { mmap_anonymous(None, bytes, protection, MapFlags::MAP_PRIVATE) };
        let base = base.expect("there is memory").as_ptr().cast();
        let left = Box::leak(Box::new(AtomicUsize::new(runs)));
        // SAFETY: nobody but this type touches the mapping, and nobody writes to it.
        let pages = unsafe { WrittenPages::protect(base, bytes.get(), left) };
        (pages.expect("the kernel protects it"), left)
    }

    /// First page and the page behind the last, of each.
    fn runs(pages: &WrittenPages) -> Vec<(usize, usize)> {
        let mut runs = Vec::new();
        pages.news.store(true, Ordering::Relaxed);
        pages.update(&mut runs);
        let page = |at: usize| at / pages.page_bytes;
        runs.into_iter()
            .map(|run| (page(run.start), page(run.end)))
            .collect()
    }

    #[test]
    fn faults_are_noted_once_and_neighbours_become_one_run() {
        let (pages, left) = protected(10);
        let page = |nth: usize| pages.base + nth * pages.page_bytes + 17;
        for nth in [64, 3, 129, 63, 4] {
            assert!(pages.on_fault(page(nth)), "{nth}");
            assert!(!pages.on_fault(page(nth)), "{nth}: it is writable");
        }
        assert!(!pages.on_fault(pages.base - 1));
        assert!(!pages.on_fault(pages.base + pages.bytes));
        assert_eq!(runs(&pages), [(3, 5), (63, 65), (129, 130)]);
        assert_eq!(left.load(Ordering::Relaxed), 10 - 3);
        pages
            .make_writable(2 * pages.page_bytes..6 * pages.page_bytes)
            .expect("the kernel does it");
        assert_eq!(runs(&pages), [(2, 6), (63, 65), (129, 130)]);
        drop(pages);
        assert_eq!(left.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn who_writes_on_and_on_faults_less_and_less() {
        let (pages, left) = protected(100);
        let page = |nth: usize| pages.base + nth * pages.page_bytes;
        let faults = |from: usize, to: usize| {
            let faulted = (from..to).filter(|nth| {
                let is_new = !pages.is_noted(*nth);
                assert_eq!(pages.on_fault(page(*nth)), is_new, "{nth}");
                is_new
            });
            faulted.count()
        };
        assert_eq!(faults(0, LONG_RUN), LONG_RUN);
        // Sixteen and eight, twenty-four and twelve, and so on.
        assert_eq!(faults(LONG_RUN, 60), 4);
        // It ends where others begin, and where the memory does.
        assert_eq!(faults(100, 101), 1);
        assert_eq!(faults(60, 100), 1);
        assert_eq!(runs(&pages), [(0, 101)]);
        assert_eq!(faults(101, PAGES), 1);
        assert_eq!(runs(&pages), [(0, PAGES)]);
        assert_eq!(left.load(Ordering::Relaxed), 99);
    }

    #[test]
    fn without_a_run_left_all_is_writable() {
        let (pages, left) = protected(2);
        let page = |nth: usize| pages.base + nth * pages.page_bytes;
        for nth in [1, 5, 9] {
            assert!(pages.on_fault(page(nth)));
        }
        assert_eq!(runs(&pages), [(0, PAGES)]);
        drop(pages);
        assert_eq!(left.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_is_protected_again_is_out_of_the_set() {
        let (pages, left) = protected(2);
        let at = |nth: usize| nth * pages.page_bytes;
        pages
            .make_writable(at(0)..at(10))
            .expect("the kernel does it");
        pages.protect_again(at(3)..at(5));
        assert_eq!(runs(&pages), [(0, 3), (5, 10)]);
        // It would make a third run.
        pages.protect_again(at(7)..at(8));
        assert_eq!(runs(&pages), [(0, 3), (5, 10)]);
        assert!(pages.on_fault(pages.base + at(3)));
        assert_eq!(runs(&pages), [(0, PAGES)], "there was no run left");
        drop(pages);
        assert_eq!(left.load(Ordering::Relaxed), 2);
    }
}
