//! Pages for memory that guests grow into: many at a time, by the huge page where the kernel has such.
//!
//! Memory that grows lies between what a guest has and addresses that must trap, and the border moves with
//! every `memory.grow`: there is hardly ever a whole huge page that it may use, so the kernel gives
//! small ones, each with a fault of its own. A guest that takes 16 MiB a little at a time keeps the
//! core for 8 ms with that, and for 2 ms with huge pages, whose cost is that of zeroing them; the
//! threads beside it wait so long. So the huge page in which a growth ends is asked for before the
//! memory grows into it, while the addresses behind are opened for the kernel alone. What it grows by and
//! no huge page has, at the beginning if that lies within one (see [`reservation`](super::reservation)) and where
//! there is no room for one, is asked for too, all at once: that takes half of what a fault for each page does.
//!
//! It costs up to four system calls for each 2 MiB that a guest takes and two in the end, none where it takes
//! less than 1 MiB more than it began with, and up to 2 MiB of memory that it does not have, for as long
//! as its instance lives, 1 MiB of it beyond the most that it may have. Where the kernel has no huge pages (`/sys/kernel/mm/transparent_hugepage/enabled` is
//! `never`), nothing is done.
//!
//! May touch: the addresses reserved for one memory, behind what the guest has of them. Deliberately
//! lacks: whether a memory may grow, and its growing: wasmtime does that when this is done.

use crate::measure::probe::{Asked, Probe, Stage};
use nix::sys::mman::{MmapAdvise, ProtFlags, madvise, mprotect};
use std::fs;
use std::io;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Once, OnceLock};

/// Where the kernel says whether it gives huge pages, and how large they are.
const HUGE_PAGES: &str = "/sys/kernel/mm/transparent_hugepage";

/// The size of a huge page, in bytes. `None`: the kernel gives none.
pub(super) fn huge_page_bytes() -> Option<usize> {
    static BYTES: OnceLock<Option<usize>> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let enabled = fs::read_to_string(format!("{HUGE_PAGES}/enabled")).ok()?;
        let bytes = fs::read_to_string(format!("{HUGE_PAGES}/hpage_pmd_size")).ok()?;
        parse(&enabled, &bytes)
    })
}

/// What the kernel's two files say (Documentation/admin-guide/mm/transhuge.rst).
fn parse(enabled: &str, bytes: &str) -> Option<usize> {
    let bytes: usize = bytes.trim().parse().ok()?;
    (!enabled.contains("[never]") && bytes.is_power_of_two()).then_some(bytes)
}

/// Looks whether there are any, so that no request has to.
pub(super) fn look_for_huge_pages() {
    huge_page_bytes();
}

/// The kernel refused, with `error`, to close what a memory grew by: why nobody has that memory again.
#[cold]
pub(super) fn say_open(error: &io::Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(%error, "what a guest's memory grew by stays open, so that memory is lost; raise `sysctl vm.max_map_count`");
    });
}

/// How one memory grows.
pub(super) struct Growth {
    base: NonNull<u8>,
    /// What it began with.
    began_bytes: usize,
    /// What is reserved for it.
    reserved_bytes: usize,
    /// Whether the kernel was told to give huge pages.
    advised: bool,
    /// The part of the last huge page that the memory has not grown into: given, and not to be touched.
    ahead: Range<usize>,
    /// Something behind the memory could not be closed again.
    is_open: bool,
}

// SAFETY: an address, tied to no thread; what it is for is done by `&mut`.
unsafe impl Send for Growth {}

impl Growth {
    /// Of the memory at `base`, which has `began_bytes` now.
    ///
    /// # Safety
    /// Until this is dropped: the `reserved_bytes` from `base` on are mapped, private and of no file, for
    /// this memory alone, which never moves, and what lies behind its size cannot be accessed
    /// (`PROT_NONE`).
    pub(super) unsafe fn of(base: NonNull<u8>, began_bytes: usize, reserved_bytes: usize) -> Self {
        Self {
            base,
            began_bytes,
            reserved_bytes,
            advised: false,
            ahead: 0..0,
            is_open: false,
        }
    }

    /// The memory of `now_bytes` is about to be one of `bytes`, of at most `most_bytes` ever.
    ///
    /// # Errors
    /// What was opened for the kernel cannot be closed again: the guest must not go on.
    pub(super) fn prepare(
        &mut self,
        now_bytes: usize,
        bytes: usize,
        most_bytes: usize,
    ) -> nix::Result<()> {
        let Some(huge) = huge_page_bytes() else {
            return Ok(());
        };
        // Who takes so much will take the rest.
        if bytes < self.began_bytes + huge / 2 {
            return Ok(());
        }
        let most_bytes = most_bytes.min(self.reserved_bytes);
        if !self.advised {
            self.advised = true;
            // For the huge pages that it grows over, the last one as a whole. Refused where the kernel is built
            // without.
            let last = (most_bytes + huge).min(self.reserved_bytes);
            let _ = self.advise(now_bytes..last, MmapAdvise::MADV_HUGEPAGE);
        }
        let address = self.base.addr().get();
        let Some(start) = ((address + bytes) & !(huge - 1)).checked_sub(address) else {
            return Ok(());
        };
        let page = start..start + huge;
        // Of one at the end it may have half at least: that takes no longer than as much in small ones.
        let is_used = page.end <= self.reserved_bytes && start + huge / 2 <= most_bytes;
        // What is ahead is given already.
        let from_bytes = now_bytes.max(self.ahead.end);
        let next = (address + from_bytes).next_multiple_of(huge) - address;
        let small = from_bytes..next.min(bytes);
        let (last, has_room) = if start < from_bytes || start == bytes {
            // It goes on with small pages, or on what is ahead; or ends with a huge page.
            (0..0, false)
        } else if is_used {
            (page, true)
        } else {
            (start..bytes, false)
        };
        if small.is_empty() && last.is_empty() {
            self.ahead.start = self.ahead.start.max(bytes).min(self.ahead.end);
            return Ok(());
        }
        let all = from_bytes..small.end.max(last.end);
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let opened = self.protect(&all, writable);
        if opened.is_ok() {
            for pages in [small, last] {
                if !pages.is_empty() {
                    // Refused where memory is short or the kernel is older than 5.14: the guest's faults
                    // bring pages then, or what else they bring.
                    let _ = self.advise(pages, MmapAdvise::MADV_POPULATE_WRITE);
                }
            }
        }
        // Opening it may have failed half-way.
        let closed = self.protect(&all, ProtFlags::PROT_NONE);
        if let Err(error) = closed {
            self.is_open = true;
            say_open(&error.into());
            return Err(error);
        }
        if opened.is_ok() {
            self.ahead = if has_room { bytes..all.end } else { 0..0 };
        }
        Ok(())
    }

    /// The memory is about to go, and nobody reads or writes any more what it grew by: gives back what
    /// it has not grown into, and with it all of that huge page. Half of one would leave the kernel's
    /// table of small pages behind, and who has these addresses next would get small pages there.
    /// (Linux frees such a table from 6.14 on, if all of it is given back at once.)
    ///
    /// False: something behind the memory is open and may have been written, so nobody may have it again.
    #[must_use]
    pub(super) fn end(&mut self) -> bool {
        let ahead = std::mem::take(&mut self.ahead);
        let (false, Some(huge)) = (ahead.is_empty(), huge_page_bytes()) else {
            return !self.is_open;
        };
        let page = ahead.end - huge..ahead.end;
        // Closed as a whole it is one mapping, which the kernel gives back at once. If it cannot, two.
        let _ = self.protect(&page, ProtFlags::PROT_NONE);
        // It fails for memory that is locked (mlockall(2)), and what was not grown into stays zeros.
        let _ = self.advise(page, MmapAdvise::MADV_DONTNEED);
        !self.is_open
    }

    fn at(&self, offset: usize) -> NonNull<libc::c_void> {
        debug_assert!(offset <= self.reserved_bytes);
        // SAFETY: within what is reserved.
        unsafe { self.base.add(offset) }.cast()
    }

    fn advise(&self, range: Range<usize>, advice: MmapAdvise) -> nix::Result<()> {
        let start = self.at(range.start);
        // SAFETY: the range lies in what is reserved and behind what the guest has, or in the end in what
        // it grew by, so nobody refers to any byte of it; none of the three kinds of advice given here
        // changes what is read but MADV_DONTNEED, after which it is zeros (madvise(2)).
        Asked::within(Stage::Advise, || unsafe {
            madvise(start, range.len(), advice)
        })
    }

    fn protect(&self, range: &Range<usize>, protection: ProtFlags) -> nix::Result<()> {
        let start = self.at(range.start);
        // SAFETY: the range lies in what is reserved and behind what the guest has, or in the end in what
        // it grew by; the guest does not run, and nobody refers to any byte of it.
        Asked::within(Stage::Protect, || unsafe {
            mprotect(start, range.len(), protection)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::PAGE_BYTES;
    use super::*;
    use nix::sys::mman::{MapFlags, mmap_anonymous, munmap};
    use std::num::NonZeroUsize;

    const RESERVED: usize = 64 << 20;
    const MAPPED: NonZeroUsize = NonZeroUsize::new(2 * RESERVED).unwrap();
    const WASM_PAGE: usize = 65536;

    /// Addresses of a memory, from the beginning of a huge page on, and all that was mapped for it.
    struct Reserved(NonNull<u8>, NonNull<u8>);

    impl Reserved {
        fn new(began_bytes: usize) -> (Reserved, Growth) {
            let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
            // SAFETY: a new mapping, where the kernel likes it, overlaps no other.
            let mapped = unsafe { mmap_anonymous(None, MAPPED, ProtFlags::PROT_NONE, flags) };
            let mapped: NonNull<u8> = mapped.expect("there are addresses").cast();
            let huge = huge_page_bytes().expect("the tests look before");
            let misaligned = mapped.addr().get() % huge;
            // SAFETY: within the mapping, which has half of it to spare.
            let base = unsafe { mapped.add((huge - misaligned) % huge) };
            // SAFETY: so much is mapped, for this, and the tests drop it last.
            let growth = unsafe { Growth::of(base, began_bytes, RESERVED) };
            (Reserved(base, mapped), growth)
        }

        /// How many bytes of `range` the kernel has given pages for.
        fn resident(&self, range: Range<usize>) -> usize {
            let mut pages = vec![0; range.len() / PAGE_BYTES];
            // SAFETY: within the mapping; mincore writes a byte for each page, as many as there are.
            let result = unsafe {
                let start = self.0.add(range.start).cast();
                libc::mincore(start.as_ptr(), range.len(), pages.as_mut_ptr())
            };
            assert_eq!(result, 0);
            pages.iter().filter(|page| **page & 1 == 1).count() * PAGE_BYTES
        }

        /// The protections of what lies in `range`, as `/proc/self/maps` has them.
        fn protections(&self, range: Range<usize>) -> Vec<String> {
            let (start, end) = (
                self.0.addr().get() + range.start,
                self.0.addr().get() + range.end,
            );
            let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
            let rows = maps.lines().filter_map(|row| {
                let (addresses, rest) = row.split_once(' ')?;
                let (from, to) = addresses.split_once('-')?;
                let at = |hex| usize::from_str_radix(hex, 16).expect("an address");
                (at(from) < end && at(to) > start).then(|| rest[..4].to_owned())
            });
            rows.collect()
        }
    }

    impl Drop for Reserved {
        fn drop(&mut self) {
            // SAFETY: the mapping is this one's.
            let unmapped = unsafe { munmap(self.1.cast(), MAPPED.get()) };
            assert!(unmapped.is_ok());
        }
    }

    #[test]
    fn the_kernel_says_how_large_a_huge_page_is() {
        assert_eq!(
            parse("always [madvise] never\n", "2097152\n"),
            Some(2 << 20)
        );
        assert_eq!(
            parse("[always] madvise never\n", "2097152\n"),
            Some(2 << 20)
        );
        assert_eq!(parse("always madvise [never]\n", "2097152\n"), None);
        assert_eq!(parse("always [madvise] never\n", "many\n"), None);
        assert_eq!(parse("always [madvise] never\n", "0\n"), None);
    }

    #[test]
    fn the_page_in_which_a_growth_ends_is_given_and_stays_closed() {
        let Some(huge) = huge_page_bytes() else {
            eprintln!("skipped: the kernel gives no huge pages");
            return;
        };
        let (memory, mut growth) = Reserved::new(WASM_PAGE);
        let behind = |bytes: usize| bytes..RESERVED;
        let mut now = WASM_PAGE;
        let ahead = loop {
            assert!(now < 8 * huge, "none is given");
            let bytes = now + 17 * WASM_PAGE;
            growth
                .prepare(now, bytes, RESERVED)
                .expect("it closes again");
            assert!(memory.protections(behind(now)).iter().all(|p| p == "---p"));
            now = bytes;
            let given = memory.resident(behind(now));
            if now > 4 * huge && given > 0 {
                break given;
            }
        };
        assert!(ahead < huge, "{ahead}");
        assert_eq!(ahead, growth.ahead.len());
        assert!(growth.end(), "all is closed");
        assert_eq!(memory.resident(behind(now)), 0, "it was given back");
    }

    #[test]
    fn who_takes_little_is_given_nothing() {
        let Some(huge) = huge_page_bytes() else {
            eprintln!("skipped: the kernel gives no huge pages");
            return;
        };
        // Into the next huge page, but by less than half a one.
        let began = 2 * huge - WASM_PAGE;
        let (memory, mut growth) = Reserved::new(began);
        let mut now = began;
        while now + WASM_PAGE < began + huge / 2 {
            let prepared = growth.prepare(now, now + WASM_PAGE, RESERVED);
            prepared.expect("nothing is done");
            now += WASM_PAGE;
        }
        assert_eq!(memory.resident(0..RESERVED), 0);
    }

    #[test]
    fn what_no_huge_page_has_is_given_small_and_no_more_than_that() {
        let Some(huge) = huge_page_bytes() else {
            eprintln!("skipped: the kernel gives no huge pages");
            return;
        };
        // What it begins with, then each size that it grows to, and where what it was given ends.
        let check = |most: usize, began: usize, sizes: &[(usize, usize)]| {
            let (memory, mut growth) = Reserved::new(began);
            let mut now = began;
            for (bytes, given) in sizes.iter().copied() {
                let prepared = growth.prepare(now, bytes, most);
                prepared.expect("it closes again");
                assert_eq!(memory.resident(began..given), given - began, "{bytes}");
                assert_eq!(memory.resident(given..RESERVED), 0, "{bytes}");
                let behind = memory.protections(now..RESERVED);
                assert!(behind.iter().all(|p| p == "---p"), "{behind:?}");
                now = bytes;
            }
            assert!(growth.end(), "all is closed");
            assert_eq!(memory.resident(now..RESERVED), 0, "{now}");
        };
        let half = huge / 2 + WASM_PAGE;
        // Before its first huge page, up to the end of it, within it, and over another.
        let sizes = [
            (half, half),
            (huge, huge),
            (huge + WASM_PAGE, 2 * huge),
            (2 * huge - WASM_PAGE, 2 * huge),
            (3 * huge - WASM_PAGE, 3 * huge),
        ];
        check(RESERVED, WASM_PAGE, &sizes);
        // From within a page to one of which it may have half.
        let most = 2 * huge + huge / 2;
        check(most, huge + WASM_PAGE, &[(most, 3 * huge)]);
        // To one of which it may not.
        let most = most - WASM_PAGE;
        check(most, huge + WASM_PAGE, &[(most, most)]);
        // Within the one that it began in.
        let most = huge - WASM_PAGE;
        check(most, WASM_PAGE, &[(half, half), (most, most)]);
    }

    /// It refuses where one protection fails as another would: at addresses that are not mapped.
    #[test]
    fn what_the_kernel_opens_half_of_is_closed_or_nobodys_again() {
        let Some(huge) = huge_page_bytes() else {
            eprintln!("skipped: the kernel gives no huge pages");
            return;
        };
        let (memory, mut growth) = Reserved::new(WASM_PAGE);
        // SAFETY: a part of the test's mapping to which nobody refers.
        let unmapped = unsafe { munmap(memory.0.add(huge / 2).cast(), WASM_PAGE) };
        unmapped.expect("it is mapped");
        let bytes = huge - WASM_PAGE;
        assert!(growth.prepare(WASM_PAGE, bytes, RESERVED).is_err());
        let behind = memory.protections(WASM_PAGE..huge);
        assert!(behind.iter().all(|p| p == "---p"), "{behind:?}");
        assert!(!growth.end(), "nobody knows what is open");
    }

    #[test]
    fn a_growth_over_many_huge_pages_is_given_its_ends() {
        let Some(huge) = huge_page_bytes() else {
            eprintln!("skipped: the kernel gives no huge pages");
            return;
        };
        let (memory, mut growth) = Reserved::new(WASM_PAGE);
        let bytes = 6 * huge + WASM_PAGE;
        let prepared = growth.prepare(WASM_PAGE, bytes, RESERVED);
        prepared.expect("it closes again");
        // What lies between may come as whole pages when it is written, if ever.
        let [first, between, last, behind] = [
            WASM_PAGE..huge,
            huge..6 * huge,
            6 * huge..7 * huge,
            7 * huge..RESERVED,
        ];
        assert_eq!(memory.resident(first), huge - WASM_PAGE);
        assert_eq!(memory.resident(between), 0);
        assert_eq!(memory.resident(last), huge);
        assert_eq!(memory.resident(behind), 0);
    }
}
