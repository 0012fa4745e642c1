//! The memories of a shard's `fresh` and `reuse` instances: each [`Memory`] is lent to one instance at a
//! time, and is as the module's begin when it is.
//!
//! wasmtime has a pool of its own, which puts a whole memory back whatever was written, and whose
//! book-keeping costs more than making an instance on the heap: hello took 2.6 µs with it and 1.5 µs with
//! this when it was new, and the difference grows with the memory. Here what was written is zeroed, found
//! as [`written_pages`](super::written_pages) says, and the module's data is copied in when the memory is
//! lent, or by the module's own code where it cannot be told apart (see [`image`](super::image)). So this is
//! for modules with little data: see [`suits`].
//!
//! wasmtime gives nothing back before a whole store goes, and a store costs half of what an instance does: a
//! quarter of a request was saved by having eight instances in each. So what requests wrote stays in up to that
//! many memories until the store goes, or as long as the server has nothing to do. Nobody is lent them
//! before they are zeros.
//!
//! An instance of `reuse` gives its memory back only when a request has failed. Nobody watches it meanwhile,
//! and then the kernel is asked which pages it has.
//!
//! Deliberately lacks: instances, tables, stacks. wasmtime makes the first two anew on the heap; guests
//! that need stacks of their own are left to its pool.

use super::growth;
use super::image::Image;
use super::memory::Memory;
use super::reservation;
use super::sticky::Sticky;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicIsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// The most data of a module whose instances get such memories, in bytes. Copying and zeroing more
/// costs more than what is saved.
const DATA_BYTES: usize = 64 * 1024;

/// The most of one memory that stays mapped in between two instances and is zeroed by writing. Who writes as
/// much again finds it there; for what the kernel dropped he faults for each page, which takes ten times as
/// long as zeroing it. What grew is dropped all the same, and what is left out of the set of written pages.
pub(super) const RESIDENT_BYTES: usize = 4 * 1024 * 1024;

/// Memories beyond one for each slot: for nine stores that have as many as they may, which is more than are
/// used at a time on the core of a shard, with those that wait (see [`slots`](super::slots)), and for those that
/// are lost. Each is mapped when it is first needed.
const SPARES: usize = 64;

/// Whether a module with so much data is served best by memories like these.
pub(super) fn suits(data_bytes: usize) -> bool {
    data_bytes <= DATA_BYTES
}

/// As many memories as a shard has instances that run, and [`SPARES`].
pub(super) struct Memories {
    slots: Box<[OnceLock<Memory>]>,
    /// What each begins with that is not zero.
    image: Arc<Image>,
    /// Those that are mapped and that nobody has, the last used on top: it is the likeliest to be
    /// cached still.
    idle: Mutex<Vec<Idle>>,
    /// The most that stays mapped and is zeroed by writing. What is above is dropped by the kernel.
    resident_bytes: usize,
    /// Whether it is known by the time a memory comes back what was written.
    watches: bool,
    /// How many more may be kept: see [`Loans::keep`]. Less than none: some were lost while as many were
    /// kept, so nobody keeps one again before those are back.
    spares: AtomicIsize,
}

struct Idle {
    slot: usize,
    sticky: Sticky,
}

impl Memories {
    /// None yet, and one for each of `slots` as long as no more than [`SPARES`] are kept and lost, each with
    /// `image` when it is lent. Where it `watches`, faults are brought to [`Memories::on_fault`], and the host's
    /// writes announced by [`Memories::make_writable`].
    pub(super) fn new(
        slots: usize,
        image: Arc<Image>,
        resident_bytes: usize,
        watches: bool,
    ) -> Arc<Memories> {
        Arc::new(Memories {
            slots: (0..slots + SPARES).map(|_| OnceLock::new()).collect(),
            image,
            idle: Mutex::new(Vec::with_capacity(slots + SPARES)),
            resident_bytes,
            watches,
            spares: AtomicIsize::new(SPARES.cast_signed()),
        })
    }

    /// Whether it watches what is written.
    pub(super) fn watches(&self) -> bool {
        self.watches
    }

    /// As wasmtime takes them.
    pub(super) fn creator(self: &Arc<Self>) -> Arc<dyn MemoryCreator> {
        Arc::new(Creator(Arc::clone(self)))
    }

    /// A write to `address` faulted: whether it may now be repeated.
    ///
    /// For signal handlers: see [`WrittenPages::on_fault`]. Looking for the memory takes no lock.
    pub(super) fn on_fault(&self, address: usize) -> bool {
        self.mapped().any(|memory| memory.on_fault(address))
    }

    /// The host is about to write the bytes of `range` into the memory at `base`.
    ///
    /// # Errors
    /// The kernel refuses (mprotect(2)); then nothing may be written.
    pub(super) fn make_writable(&self, base: *const u8, range: Range<usize>) -> io::Result<()> {
        self.at(base).make_writable(range)
    }

    /// How many bytes of the memory at `base` are zeroed when it comes back.
    pub(super) fn bytes_to_zero(&self, base: *const u8) -> usize {
        self.at(base).bytes_to_zero().min(self.resident_bytes)
    }

    /// One less to spare. False: there was none.
    pub(super) fn take_spare(&self) -> bool {
        let order = Ordering::Relaxed;
        let one_less = |spares: isize| (spares > 0).then(|| spares - 1);
        self.spares.fetch_update(order, order, one_less).is_ok()
    }

    /// So many more to spare, which came back.
    pub(super) fn give_spares(&self, spares: usize) {
        self.spares
            .fetch_add(spares.cast_signed(), Ordering::Relaxed);
    }

    /// One less for good: one will not come back, and what there is to spare takes its place.
    pub(super) fn lose_one(&self) {
        self.spares.fetch_sub(1, Ordering::Relaxed);
    }

    /// Of how many nobody calls the instance any more.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        SPARES - self.spared().cast_unsigned()
    }

    /// How many more may be kept.
    #[cfg(test)]
    pub(super) fn spared(&self) -> isize {
        self.spares.load(Ordering::Relaxed)
    }

    fn at(&self, base: *const u8) -> &Memory {
        let mut mapped = self.mapped();
        let memory = mapped.find(|memory| memory.base().cast_const() == base);
        memory.expect("it was lent from here")
    }

    /// They are mapped in order.
    fn mapped(&self) -> impl Iterator<Item = &Memory> {
        self.slots.iter().map_while(OnceLock::get)
    }

    /// No code panics while it holds this lock.
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Creator(Arc<Memories>);

// SAFETY: a memory is zeros when it is lent but for the image, which is to be there, is lent to one at a
// time, has the guards and the room to grow that were asked for, and never moves. Nothing else touches it
// while it is lent.
unsafe impl MemoryCreator for Creator {
    fn new_memory(
        &self,
        _ty: MemoryType,
        minimum: usize,
        _maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let Creator(memories) = self;
        let mut idle = memories.idle();
        let lent = match idle.pop() {
            Some(lent) => lent,
            None => {
                let free = memories.slots.iter().position(|slot| slot.get().is_none());
                let slot = free.ok_or("all memories are lent")?;
                let capacity = reserved_size_in_bytes.unwrap_or(minimum).max(minimum);
                let watches = memories.watches;
                let mapped = Memory::map(minimum, capacity, guard_size_in_bytes, watches);
                let mapped = mapped.map_err(|error| reservation::sentence(&error))?;
                // Under the lock nobody else fills it.
                let _ = memories.slots[slot].set(mapped);
                let sticky = Sticky::default();
                Idle { slot, sticky }
            }
        };
        drop(idle);
        let lent = Lent {
            memories: Arc::clone(memories),
            bytes: minimum,
            lent,
        };
        let written = lent.memory().write(&memories.image);
        written.map_err(|error| reservation::sentence(&error))?;
        Ok(Box::new(lent))
    }
}

/// A memory for as long as an instance has it.
struct Lent {
    memories: Arc<Memories>,
    /// How large it is now.
    bytes: usize,
    lent: Idle,
}

impl Lent {
    fn memory(&self) -> &Memory {
        let memory = self.memories.slots[self.lent.slot].get();
        memory.expect("it is mapped before it is lent")
    }
}

// SAFETY: the memory begins at `as_ptr`, is mapped for `byte_size` bytes, and grows in place up to
// `byte_capacity`, behind which the guard is.
unsafe impl LinearMemory for Lent {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        self.memory().capacity_bytes()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        self.memory().grow(self.bytes, new_size)?;
        self.bytes = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.memory().base()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut sticky = std::mem::take(&mut self.lent.sticky);
        let memory = self.memory();
        if let Err(error) = memory.forget_growth(self.bytes) {
            growth::say_open(&error);
            // Lost, rather than lent as it is. Its addresses go with the others'.
            self.memories.lose_one();
            return;
        }
        memory.zero(&mut sticky, self.memories.resident_bytes);
        let slot = self.lent.slot;
        self.memories.idle().push(Idle { slot, sticky });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::loans::Loans;
    use crate::sandbox::memory::page_bytes;
    use crate::sandbox::tests::is_open;

    const BYTES: usize = 3 * 65536;
    const CAPACITY: usize = 16 * 65536;
    const GUARD: usize = 65536;

    fn lend(memories: &Arc<Memories>) -> Result<Box<dyn LinearMemory>, String> {
        let (pages, most) = (BYTES as u32 / 65536, CAPACITY as u32 / 65536);
        let ty = MemoryType::new(pages, Some(most));
        Creator(Arc::clone(memories)).new_memory(ty, BYTES, None, Some(CAPACITY), GUARD)
    }

    /// The whole of a lent memory.
    fn all(memory: &mut dyn LinearMemory) -> &mut [u8] {
        let (base, bytes) = (memory.as_ptr(), memory.byte_size());
        // SAFETY: it is mapped so far, and nobody else has it; the tests write where they may.
        unsafe { std::slice::from_raw_parts_mut(base, bytes) }
    }

    /// Whether the byte behind the memory, where it may grow, can be read.
    fn is_open_behind(memory: &dyn LinearMemory) -> bool {
        is_open(memory.as_ptr().addr() + memory.byte_size())
    }

    #[test]
    fn what_comes_back_is_zeros_and_as_large_as_it_was() {
        // All of it is zeroed by writing, some of it, none of it.
        for (resident_bytes, watches) in [BYTES, 65536, 0]
            .map(|bytes| [true, false].map(|watches| (bytes, watches)))
            .into_iter()
            .flatten()
        {
            let memories = Memories::new(1, Arc::default(), resident_bytes, watches);
            let mut bases = Vec::new();
            for _ in 0..3 {
                let mut memory = lend(&memories).expect("it came back");
                assert_eq!(memory.byte_size(), BYTES);
                assert!(!is_open_behind(&*memory));
                assert!(all(&mut *memory).iter().all(|byte| *byte == 0));
                let base = memory.as_ptr();
                bases.push(base);
                let page = page_bytes().expect("the kernel says so");
                let written = page + 1..BYTES - page - 1;
                memories.make_writable(base, written.clone()).expect("room");
                all(&mut *memory)[written].fill(0xaa);
                let noted = memories.bytes_to_zero(base);
                // All of it was read, for which the kernel gives pages too.
                let touched = if watches { BYTES - 2 * page } else { BYTES };
                assert_eq!(noted, touched.min(resident_bytes));
                for bytes in [BYTES + 65536, CAPACITY] {
                    memory.grow_to(bytes).expect("there is room");
                    assert!(all(&mut *memory)[bytes - 65536..].iter().all(|b| *b == 0));
                    all(&mut *memory)[BYTES..].fill(0xbb);
                }
                assert!(memory.grow_to(CAPACITY + 65536).is_err());
                assert!(!is_open_behind(&*memory), "there the guard begins");
            }
            assert!(bases.iter().all(|base| *base == bases[0]), "{bases:?}");
        }
    }

    #[test]
    fn each_begins_with_the_image_whatever_became_of_it() {
        let text =
            r#"(module (memory 3) (data (i32.const 5) "abc") (data (i32.const 4090) "defghijkl"))"#;
        let wasm = wat::parse_str(text).expect("a text in order");
        let (_, image) = Image::apart(&wasm);
        let mut expected = vec![0; BYTES];
        expected[5..8].copy_from_slice(b"abc");
        expected[4090..4099].copy_from_slice(b"defghijkl");
        let image = Arc::new(image);
        for (resident_bytes, watches) in [(BYTES, true), (BYTES, false), (0, true), (0, false)] {
            let memories = Memories::new(1, Arc::clone(&image), resident_bytes, watches);
            for written in [0..BYTES, 4096..8192, 6..7, 0..0, 0..BYTES] {
                let mut memory = lend(&memories).expect("it came back");
                assert!(all(&mut *memory) == expected, "{resident_bytes} {watches}");
                let made = memories.make_writable(memory.as_ptr(), written.clone());
                made.expect("the kernel lets us");
                all(&mut *memory)[written].fill(0xaa);
            }
            // What was left alone for long is protected again.
            for _ in 0..600 {
                assert!(all(&mut *lend(&memories).expect("it came back")) == expected);
            }
        }
    }

    /// One request that wrote much does not make many later ones pay for it.
    #[test]
    fn a_large_set_is_looked_at_soon() {
        const LARGE: usize = 512 * 1024;
        let memories = Memories::new(1, Arc::default(), LARGE, true);
        let lend = || {
            let ty = MemoryType::new(LARGE as u32 / 65536, None);
            let lent = Creator(Arc::clone(&memories)).new_memory(ty, LARGE, None, None, GUARD);
            lent.expect("there is room")
        };
        let mut memory = lend();
        let base = memory.as_ptr();
        memories.make_writable(base, 0..LARGE).expect("room");
        all(&mut *memory).fill(0xaa);
        drop(memory);
        let zeroed = (0..16).map(|_| {
            let _memory = lend();
            memories.bytes_to_zero(base)
        });
        let zeroed: Vec<usize> = zeroed.collect();
        assert_eq!((zeroed[0], zeroed[15]), (LARGE, 0), "{zeroed:?}");
        assert!(all(&mut *lend()).iter().all(|byte| *byte == 0));
    }

    #[test]
    fn each_is_lent_to_one_at_a_time_and_never_more_than_there_are() {
        let memories = Memories::new(2, Arc::default(), BYTES, true);
        let (one, other) = (lend(&memories).unwrap(), lend(&memories).unwrap());
        assert_ne!(one.as_ptr(), other.as_ptr());
        let _spares = [(); SPARES].map(|()| lend(&memories).unwrap());
        assert!(lend(&memories).is_err_and(|error| error.contains("lent")));
        let base = one.as_ptr();
        drop(one);
        assert_eq!(lend(&memories).unwrap().as_ptr(), base);
    }

    /// Whoever has none yet gets one, whatever others keep.
    #[test]
    fn what_is_kept_leaves_one_for_every_slot() {
        const SLOTS: usize = 20;
        let memories = Memories::new(SLOTS, Arc::default(), BYTES, true);
        let mut stores: Vec<(Loans, Vec<Box<dyn LinearMemory>>)> = (0..SLOTS - 1)
            .map(|_| (Loans::new(Some(Arc::clone(&memories))), Vec::new()))
            .collect();
        for (loans, lent) in &mut stores {
            lent.push(lend(&memories).expect("a first one"));
            while loans.keep(0) {
                lent.push(lend(&memories).expect("another"));
            }
        }
        let lent: usize = stores.iter().map(|(_, lent)| lent.len()).sum();
        assert_eq!((lent, memories.kept()), (SLOTS - 1 + SPARES, SPARES));
        assert!(lend(&memories).is_ok());
        stores.into_iter().for_each(|(loans, lent)| {
            drop(lent);
            drop(loans);
        });
        assert_eq!(memories.kept(), 0);
    }

    #[test]
    fn a_fault_is_the_memorys_that_has_the_address() {
        let memories = Memories::new(2, Arc::default(), BYTES, true);
        assert!(!memories.on_fault(4096), "there is none yet");
        let (one, other) = (lend(&memories).unwrap(), lend(&memories).unwrap());
        let page = page_bytes().expect("the kernel says so");
        let address = other.as_ptr().addr() + page;
        assert!(memories.on_fault(address));
        assert!(!memories.on_fault(address), "it is writable");
        assert!(!memories.on_fault(other.as_ptr().addr() + BYTES));
        let zeroed = [one, other].map(|memory| memories.bytes_to_zero(memory.as_ptr()));
        assert_eq!(zeroed, [0, page]);
    }
}
