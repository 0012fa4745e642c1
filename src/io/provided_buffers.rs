//! A ring of buffers that the kernel picks from when bytes arrive (IORING_REGISTER_PBUF_RING,
//! Linux 5.19), so that an idle connection holds no receive buffer at all.
//!
//! A buffer is either the kernel's (in the ring) or ours (between the completion that names it and
//! [`ProvidedBuffers::give_back`]); it is read only while ours.

use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The ring's entries and the buffers behind them, in one mapping.
pub(super) struct ProvidedBuffers {
    mapping: NonNull<u8>,
    mapped_bytes: usize,
    buffers_at: usize,
    count: u16,
    bytes_each: usize,
    tail: u16,
}

const PAGE_BYTES: usize = 4096;

impl ProvidedBuffers {
    /// `count` (a power of two, at most 32 768) buffers, registered as group `group`.
    pub(super) fn register(
        submitter: &Submitter<'_>,
        group: u16,
        count: u16,
        bytes_each: usize,
    ) -> io::Result<Self> {
        assert!(count.is_power_of_two());
        let ring_bytes = usize::from(count) * size_of::<BufRingEntry>();
        let buffers_at = ring_bytes.next_multiple_of(PAGE_BYTES);
        let mapped_bytes = buffers_at + usize::from(count) * bytes_each;
        let length = NonZeroUsize::new(mapped_bytes).expect("at least one page");
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choosing aliases nothing.
        let mapping = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE)? };
        let mut this = Self {
            mapping: mapping.cast(),
            mapped_bytes,
            buffers_at,
            count,
            bytes_each,
            tail: 0,
        };
        // SAFETY: the mapping is page-aligned, holds `count` entries, and outlives the ring: the
        // driver drops this only after every operation that could use it has been reaped.
        unsafe {
            submitter.register_buf_ring_with_flags(
                this.mapping.as_ptr() as u64,
                count,
                group,
                0,
            )?;
        }
        for id in 0..count {
            this.give_back(id);
        }
        Ok(this)
    }

    /// The first `length` bytes of a buffer that a completion named.
    pub(super) fn bytes(&self, id: u16, length: usize) -> &[u8] {
        assert!(
            id < self.count && length <= self.bytes_each,
            "the kernel names what it was given"
        );
        let at = self.buffers_at + usize::from(id) * self.bytes_each;
        // SAFETY: in bounds by the assertion; initialised (zero pages, then the kernel's bytes);
        // the kernel does not write to it before `give_back`, which needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.mapping.as_ptr().add(at), length) }
    }

    /// Hands a buffer to the kernel. Only for one that is ours.
    pub(super) fn give_back(&mut self, id: u16) {
        let at = self.buffers_at + usize::from(id) * self.bytes_each;
        let entries = self.mapping.as_ptr().cast::<BufRingEntry>();
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, so the entry lies in the mapping; the kernel does not
        // read it before the tail moves past it. The tail field is 2-aligned inside the first
        // entry's reserved part, and atomic since the kernel reads it at any time.
        unsafe {
            let entry = &mut *entries.add(slot);
            entry.set_addr(self.mapping.as_ptr().add(at) as u64);
            entry.set_len(self.bytes_each as u32);
            entry.set_bid(id);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(entries).cast_mut().cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }

    /// Keeps the mapping for ever: the kernel may still write to it.
    pub(super) fn leak(&mut self) {
        self.mapped_bytes = 0;
    }
}

impl Drop for ProvidedBuffers {
    fn drop(&mut self) {
        if self.mapped_bytes == 0 {
            return;
        }
        // SAFETY: our own mapping, unmapped once; see `register` for why nobody uses it any more.
        let _ = unsafe { munmap(self.mapping.cast(), self.mapped_bytes) };
    }
}
