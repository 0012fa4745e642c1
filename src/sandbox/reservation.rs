//! Addresses for one linear memory: what it has, what it may grow into, and what nobody may touch.
//!
//! ```text
//!   mapping                                                                             ends
//!   | guard | up to a huge page | what it begins with | what it may grow into | guard ... |
//!                                                     ^ a huge page begins
//! ```
//!
//! What a memory grows by begins where a huge page does, so all of it can be huge pages: see
//! [`growth`](super::growth). Otherwise up to 2 MiB of it lie in a huge page whose beginning is small pages
//! already, and are small pages too, which take the kernel several times as long.
//!
//! May touch: what it mapped. Deliberately lacks: who has the memory, and what is written there.

use super::growth::huge_page_bytes;
use super::load_error::remedy;
use crate::measure::probe::{Asked, Probe, Stage};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Arc;
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Addresses, unmapped when this is dropped.
pub(super) struct Reservation {
    mapping: NonNull<u8>,
    mapped_bytes: NonZeroUsize,
    /// Where the memory begins.
    base: NonNull<u8>,
    /// What it begins with.
    first_bytes: usize,
    capacity_bytes: usize,
}

// SAFETY: addresses that this owns, tied to no thread.
unsafe impl Send for Reservation {}
// SAFETY: it lets nobody at the memory behind it by a shared reference.
unsafe impl Sync for Reservation {}

impl Reservation {
    /// A memory of `first_bytes` bytes, all zero, that may grow to `capacity_bytes`, between two stretches of
    /// `guard_bytes` at least that nobody may touch. `first_bytes` are whole pages.
    ///
    /// # Errors
    /// There are no addresses, or no mappings, left (mmap(2), mprotect(2)).
    pub(super) fn map(
        first_bytes: usize,
        capacity_bytes: usize,
        guard_bytes: usize,
    ) -> io::Result<Reservation> {
        // Where there are no huge pages, memories begin where they would.
        let huge = huge_page_bytes().unwrap_or(1);
        let capacity_bytes = capacity_bytes.max(first_bytes);
        let mapped_bytes = [guard_bytes, capacity_bytes, guard_bytes]
            .into_iter()
            .try_fold(huge, usize::checked_add)
            .and_then(NonZeroUsize::new)
            .ok_or_else(|| io::Error::other("more than all addresses"))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping, where the kernel likes it, overlaps no other.
        let mapping = Asked::within(Stage::Map, || unsafe {
            mmap_anonymous(None, mapped_bytes, ProtFlags::PROT_NONE, flags)
        })?;
        let mapping: NonNull<u8> = mapping.cast();
        let grows_at = mapping.addr().get() + guard_bytes + first_bytes;
        let before_bytes = guard_bytes + (grows_at.next_multiple_of(huge) - grows_at);
        let reservation = Reservation {
            mapping,
            mapped_bytes,
            // SAFETY: less than a huge page behind the first guard.
            base: unsafe { mapping.add(before_bytes) },
            first_bytes,
            capacity_bytes,
        };
        reservation.open(0, first_bytes)?;
        Ok(reservation)
    }

    /// Where the memory begins.
    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// What it begins with.
    pub(super) fn first_bytes(&self) -> usize {
        self.first_bytes
    }

    /// The most that it may grow to.
    pub(super) fn capacity_bytes(&self) -> usize {
        self.capacity_bytes
    }

    /// The memory, which has `now_bytes`, has `bytes` from now on. What it had keeps its protection, whatever
    /// comes of it: it may be watched.
    ///
    /// # Errors
    /// That is more than its capacity, or the kernel refuses (mprotect(2)).
    pub(super) fn grow(&self, now_bytes: usize, bytes: usize) -> io::Result<()> {
        if bytes > self.capacity_bytes {
            let message = format!("a memory of {bytes} bytes is more than its addresses");
            return Err(io::Error::other(message));
        }
        self.open(now_bytes, bytes)
    }

    /// The memory of `bytes` is as large as it was in the beginning; what grew is zeros when it grows again.
    ///
    /// # Errors
    /// The kernel refuses: nobody may have it again.
    pub(super) fn forget_growth(&self, bytes: usize) -> nix::Result<()> {
        let (grown, grown_bytes) = (self.at(self.first_bytes), bytes - self.first_bytes);
        // SAFETY: what grew lies in the mapping, and whoever had the memory is gone. Private memory
        // of no file reads as zeros after it (madvise(2)).
        Asked::within(Stage::Advise, || unsafe {
            madvise(grown, grown_bytes, MmapAdvise::MADV_DONTNEED)
        })?;
        // SAFETY: as above.
        Asked::within(Stage::Protect, || unsafe {
            mprotect(grown, grown_bytes, ProtFlags::PROT_NONE)
        })
    }

    /// Lets anybody read and write from one offset to the other.
    fn open(&self, from: usize, to: usize) -> io::Result<()> {
        let writable = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: within the capacity, for the memory's owner; what was open before stays so.
        Asked::within(Stage::Protect, || unsafe {
            mprotect(self.at(from), to - from, writable)
        })?;
        Ok(())
    }

    fn at(&self, offset: usize) -> NonNull<libc::c_void> {
        debug_assert!(offset <= self.capacity_bytes);
        // SAFETY: within the mapping, whose last guard lies behind the capacity.
        unsafe { self.base.add(offset) }.cast()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping is this one's; whoever has a memory in it keeps this alive.
        let unmapped = Asked::within(Stage::Map, || unsafe {
            munmap(self.mapping.cast(), self.mapped_bytes.get())
        });
        debug_assert!(unmapped.is_ok());
    }
}

/// Why there is no memory, and what helps.
pub(super) fn sentence(error: &io::Error) -> String {
    let remedy = error.raw_os_error().map_or("", remedy);
    format!("no memory is to be had: {error}{remedy}")
}

/// Gives each instance a memory in a reservation of its own, mapped when it is made and unmapped after it.
pub(super) fn creator() -> Arc<dyn MemoryCreator> {
    Arc::new(Creator)
}

struct Creator;

// SAFETY: a memory is zeros when it is made, is one instance's, has the guards and the room to grow that were
// asked for, and never moves.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved_size_in_bytes.unwrap_or(minimum);
        let mapped = Reservation::map(minimum, capacity, guard_size_in_bytes);
        match mapped {
            Ok(reservation) => Ok(Box::new(Owned {
                reservation,
                bytes: minimum,
            })),
            Err(error) => Err(sentence(&error)),
        }
    }
}

/// The memory of one instance.
struct Owned {
    reservation: Reservation,
    /// How large it is now.
    bytes: usize,
}

// SAFETY: the memory begins at `as_ptr`, is mapped for `byte_size` bytes, and grows in place up to
// `byte_capacity`, behind which the guard is.
unsafe impl LinearMemory for Owned {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        self.reservation.capacity_bytes()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        self.reservation.grow(self.bytes, new_size)?;
        self.bytes = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.reservation.base()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::tests::is_open;

    const PAGE: usize = 65536;
    const CAPACITY: usize = 64 * PAGE;
    const GUARD: usize = 3 * PAGE;

    #[test]
    fn what_it_grows_by_begins_a_huge_page_and_guards_are_closed() {
        let huge = huge_page_bytes().unwrap_or(PAGE);
        for pages in [0, 1, 2, 17, 31, 32, 33, 64] {
            let first = pages * PAGE;
            let reservation = Reservation::map(first, CAPACITY, GUARD).expect("there is room");
            let base = reservation.base().addr();
            assert_eq!((base + first) % huge, 0, "{pages}");
            let mapping = reservation.mapping.addr().get();
            let end = mapping + reservation.mapped_bytes.get();
            assert!(base - mapping >= GUARD && base - mapping < GUARD + huge);
            assert!(end - (base + CAPACITY) >= GUARD, "{pages}");
            let check = |bytes: usize| {
                let (open, closed) = (base..base + bytes, base + bytes..end);
                for address in [mapping, base - 1, closed.start, base + CAPACITY, end - 1] {
                    assert!(!is_open(address), "{pages}, {bytes}");
                }
                for address in open.step_by(PAGE) {
                    assert!(is_open(address), "{pages}, {bytes}");
                }
            };
            check(first);
            if first < CAPACITY {
                reservation.grow(first, CAPACITY).expect("there is room");
                let last = reservation.base().wrapping_add(first);
                // SAFETY: it grew into that, and nobody else knows of it.
                unsafe { last.write_volatile(7) };
                reservation.forget_growth(CAPACITY).expect("it grew");
                check(first);
                let grown = reservation.grow(first, first + PAGE);
                grown.expect("there is room");
                check(first + PAGE);
                // SAFETY: as above.
                assert_eq!(unsafe { last.read_volatile() }, 0);
            }
            assert!(reservation.grow(first, CAPACITY + 1).is_err());
        }
    }

    #[test]
    fn more_than_all_addresses_is_an_error() {
        for [capacity, guard] in [[usize::MAX, 0], [PAGE, usize::MAX], [1 << 60, GUARD]] {
            assert!(Reservation::map(PAGE, capacity, guard).is_err());
        }
    }

    /// What of it is watched is none of its business.
    #[test]
    fn what_it_has_keeps_its_protection_when_it_grows() {
        let reservation = Reservation::map(PAGE, CAPACITY, GUARD).expect("there is room");
        let mut memory = Owned {
            reservation,
            bytes: PAGE,
        };
        memory.grow_to(2 * PAGE).expect("there is room");
        // What it grew by before.
        let page = memory.as_ptr().addr() + PAGE;
        let is_writable = || {
            let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
            let mut rows = maps.lines().filter_map(|row| row.split_once('-'));
            // The first that ends behind it.
            let row = rows.find(|(_, rest)| {
                let end = rest.split_once(' ').map(|(end, _)| end);
                let end = end.and_then(|end| usize::from_str_radix(end, 16).ok());
                end.is_some_and(|end| end > page)
            });
            row.is_some_and(|(_, rest)| rest.contains(" rw"))
        };
        assert!(is_writable());
        // SAFETY: nobody refers to any byte of it, and it stays readable.
        let watched = unsafe { mprotect(memory.reservation.at(0), 2 * PAGE, ProtFlags::PROT_READ) };
        watched.expect("it is mapped");
        memory.grow_to(3 * PAGE).expect("there is room");
        assert!(!is_writable());
    }

    #[test]
    fn a_memory_of_an_instance_says_how_large_it_may_be() {
        let made = Creator.new_memory(MemoryType::new(2, None), 2 * PAGE, None, None, GUARD);
        let mut memory = made.expect("there is room");
        let base = memory.as_ptr().addr();
        assert_eq!(
            (memory.byte_size(), memory.byte_capacity()),
            (2 * PAGE, 2 * PAGE)
        );
        assert!(memory.grow_to(3 * PAGE).is_err());
        assert!(is_open(base) && is_open(base + 2 * PAGE - 1));
    }
}
