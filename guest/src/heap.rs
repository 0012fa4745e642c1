//! A heap of fixed size, for modules whose memory does not grow.
//!
//! Allocations are put one on top of the other. When the last one is given back, the heap is empty
//! again, so what a request allocates is gone with its answer, and nothing is ever searched.
//! Deliberately lacks: reuse of what lies between two live allocations. What outgrows the heap
//! traps, and fails its request only.
//!
//! Public for the expansion of [`handler!`](crate::handler) alone.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::{Cell, UnsafeCell};
use std::ptr;

/// The most that an allocation may be aligned to, in bytes: what vectors of 128 bits need.
const ALIGN: usize = 16;

/// `BYTES` of memory to allocate from, by one thread.
#[repr(C, align(16))]
pub struct Heap<const BYTES: usize> {
    memory: UnsafeCell<[u8; BYTES]>,
    /// Where the next allocation may begin.
    top: Cell<usize>,
    /// Allocations that were not given back.
    live: Cell<usize>,
}

// SAFETY: `abi` refuses to be compiled for a module with more than one thread.
#[cfg(target_arch = "wasm32")]
unsafe impl<const BYTES: usize> Sync for Heap<BYTES> {}

impl<const BYTES: usize> Heap<BYTES> {
    /// An empty heap.
    #[expect(
        clippy::new_without_default,
        reason = "made in a static, where Default cannot be called"
    )]
    pub const fn new() -> Self {
        Self {
            memory: UnsafeCell::new([0; BYTES]),
            top: Cell::new(0),
            live: Cell::new(0),
        }
    }

    fn offset(&self, block: *mut u8) -> usize {
        block.addr() - self.memory.get().addr()
    }

    /// Whether nothing lies above `block`.
    fn is_last(&self, block: *mut u8, layout: Layout) -> bool {
        self.offset(block) + layout.size() == self.top.get()
    }
}

// SAFETY: blocks are aligned parts of `memory` that do not overlap: each begins at or above `top`,
// and `top` is moved behind it. `top` goes back only to the beginning of a block that nothing lies
// above, or to the bottom when no block is live. Nothing here panics on a layout that the trait
// allows.
unsafe impl<const BYTES: usize> GlobalAlloc for Heap<BYTES> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let at = self.top.get().next_multiple_of(layout.align());
        let end = at.checked_add(layout.size());
        if layout.align() > ALIGN || end.is_none_or(|end| end > BYTES) {
            return ptr::null_mut();
        }
        self.top.set(at + layout.size());
        self.live.set(self.live.get() + 1);
        // SAFETY: `at` is at most BYTES, checked above.
        unsafe { self.memory.get().cast::<u8>().add(at) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        self.live.set(self.live.get() - 1);
        if self.live.get() == 0 {
            self.top.set(0);
        } else if self.is_last(block, layout) {
            self.top.set(self.offset(block));
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if self.is_last(block, layout) {
            let end = self.offset(block).checked_add(size);
            return match end {
                Some(end) if end <= BYTES => {
                    self.top.set(end);
                    block
                }
                _ => ptr::null_mut(),
            };
        }
        // SAFETY: the caller vouches for `size` and the alignment as for a layout of their own.
        let grown = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the layout is valid, and the trait asks for no more.
        let moved = unsafe { self.alloc(grown) };
        if !moved.is_null() {
            // SAFETY: both are live blocks of at least that many bytes, and do not overlap.
            unsafe { ptr::copy_nonoverlapping(block, moved, layout.size().min(size)) };
            // SAFETY: the caller gives `block` up.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).expect("a power of two")
    }

    #[test]
    fn a_heap_is_empty_again_when_all_is_given_back() {
        let heap = Heap::<64>::new();
        // SAFETY: every block is used within its size and given back once, with its layout.
        unsafe {
            let first = heap.alloc(layout(3, 1));
            let second = heap.alloc(layout(16, 16));
            assert_eq!((heap.offset(first), heap.offset(second)), (0, 16));
            assert!(heap.alloc(layout(33, 1)).is_null(), "32 are left");
            assert!(heap.alloc(layout(1, 32)).is_null(), "no such alignment");
            heap.dealloc(first, layout(3, 1));
            assert_eq!(heap.top.get(), 32, "the second is still there");
            heap.dealloc(second, layout(16, 16));
            assert_eq!((heap.top.get(), heap.live.get()), (0, 0));
            assert!(!heap.alloc(layout(64, 1)).is_null());
        }
    }

    #[test]
    fn the_last_block_grows_and_goes_where_it_is_and_others_move() {
        let heap = Heap::<64>::new();
        // SAFETY: as above.
        unsafe {
            let first = heap.alloc(layout(4, 4));
            first.write_bytes(7, 4);
            let last = heap.alloc(layout(4, 4));
            assert_eq!(heap.realloc(last, layout(4, 4), 8), last);
            assert!(heap.realloc(last, layout(8, 4), 61).is_null());
            let moved = heap.realloc(first, layout(4, 4), 12);
            assert_eq!((heap.offset(moved), moved.read()), (12, 7));
            assert_eq!(moved.add(3).read(), 7);
            heap.dealloc(moved, layout(12, 4));
            assert_eq!(heap.top.get(), 12);
            heap.dealloc(last, layout(8, 4));
            assert_eq!(heap.top.get(), 0);
        }
    }
}
