//! The state of an instance as it began, and how it is put back after a request.
//!
//! Only for modules that [`resettable`](super::resettable) has shown to have no other state than
//! memory and numeric globals. What was written since the snapshot is copied back page by page, so
//! that putting back costs what was written, not what there is: see [`sticky`](super::sticky).

use super::sticky::Sticky;
use super::written_pages::{RUNS, WrittenPages};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use wasmtime::unix::StoreExt;
use wasmtime::{Global, Memory, Store, Val};

/// What one instance began with.
pub(super) struct Snapshot {
    memory: Memory,
    /// The whole memory, the same for every instance of the module.
    image: Arc<[u8]>,
    globals: Vec<(Global, Val)>,
    written: Arc<WrittenPages>,
    sticky: Sticky,
}

impl Snapshot {
    /// Takes the state of the instance that has `memory` and `globals`, and watches the memory from
    /// now on. `image` is the memory's content in an earlier instance of the same module. Without
    /// imports each instance begins with the same, unless the kernel refuses its start function the
    /// memory that another's got; one that does not has an image of its own. `is_alike`: the module has no
    /// such function, so nothing need be compared, which would read all of both.
    ///
    /// # Errors
    /// The kernel refuses to protect the memory.
    pub(super) fn take<T>(
        store: &mut Store<T>,
        memory: Memory,
        globals: &[Global],
        image: &Arc<[u8]>,
        is_alike: bool,
    ) -> io::Result<Snapshot> {
        let image = match memory.data(&*store) {
            _ if is_alike => Arc::clone(image),
            same if same == &**image => Arc::clone(image),
            own => Arc::from(own),
        };
        let (base, bytes) = (memory.data_ptr(&*store), memory.data_size(&*store));
        // SAFETY: a linear memory is mapped for as long as its store lives, from a page's beginning,
        // in WebAssembly pages of 64 KiB, which are whole pages of the host. Growing changes the
        // protection of what it grows by, which lies behind `bytes`, and of nothing else
        // (`Reservation::grow`, and wasmtime's own memories too); and instances with a snapshot come from
        // an allocator that unmaps a memory without writing to it (`engine::on_demand`). The
        // handler set below lives in the store. Host code writes in `abi::write_request`, after
        // `make_writable`, and in `restore`, to noted pages.
        let written = Arc::new(unsafe { WrittenPages::protect(base, bytes, &RUNS) }?);
        let pages = Arc::clone(&written);
        let on_signal = move |signal, info: *const libc::siginfo_t, _context| {
            // SAFETY: wasmtime hands on what the kernel gave its handler, and SIGSEGV has an address.
            signal == libc::SIGSEGV && pages.on_fault(unsafe { (*info).si_addr() }.addr())
        };
        // SAFETY: `on_signal` is async-signal-safe as `WrittenPages::on_fault` is: no lock, no
        // allocation, one system call.
        unsafe { store.set_signal_handler(on_signal) };
        let globals = globals.iter();
        Ok(Snapshot {
            memory,
            image,
            globals: globals.map(|g| (*g, g.get(&mut *store))).collect(),
            written,
            sticky: Sticky::default(),
        })
    }

    /// To be called before the host writes the bytes of `range` into the memory.
    ///
    /// # Errors
    /// As [`WrittenPages::make_writable`].
    #[inline]
    pub(super) fn make_writable(&self, range: Range<usize>) -> io::Result<()> {
        self.written.make_writable(range)
    }

    /// Puts everything back as it began, and returns how many bytes of memory were copied. `None`: the
    /// memory grew, and never shrinks.
    #[inline]
    pub(super) fn restore<T>(&mut self, store: &mut Store<T>) -> Option<usize> {
        if self.memory.data_size(&*store) != self.image.len() {
            return None;
        }
        for (global, value) in &self.globals {
            let set = global.set(&mut *store, *value);
            set.expect("a mutable global takes the value that it had");
        }
        let (image, memory) = (&*self.image, self.memory.data_mut(store));
        let unchanged = |page: Range<usize>| memory[page.clone()] == image[page];
        let mut copied = 0;
        for run in self.sticky.written_runs(&self.written, unchanged, |_| ()) {
            memory[run.clone()].copy_from_slice(&image[run.clone()]);
            copied += run.len();
        }
        Some(copied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Limits;
    use crate::sandbox::engine::{self, Data};
    use crate::sandbox::sticky::REVIEW_EVERY;
    use wasmtime::{Instance, Module};

    const PAGES: usize = 4;
    const BYTES: usize = PAGES * 65536;

    /// `fill` and `copy` write in wasmtime's own code, `store` in the guest's.
    const GUEST: &str = r#"(module
        (memory (export "memory") 4 8)
        (data (i32.const 70000) "a text in the middle")
        (data $passive "another text")
        (global (export "a") (mut i32) (i32.const 7))
        (global (export "b") (mut v128) (v128.const i64x2 1 2))
        (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
        (func (export "fill") (param i32 i32)
            (memory.fill (local.get 0) (i32.const 0xaa) (local.get 1)))
        (func (export "copy") (param i32 i32)
            (memory.copy (local.get 0) (i32.const 69000) (local.get 1)))
        (func (export "init") (param i32 i32)
            (memory.init $passive (local.get 0) (i32.const 0) (local.get 1)))
        (func (export "grow") (param i32 i32) (drop (memory.grow (local.get 0))))
        (func (export "globals") (param i32 i32)
            (global.set 0 (local.get 0)) (global.set 1 (i32x4.splat (local.get 1)))))"#;

    struct Guest {
        store: Store<()>,
        instance: Instance,
        memory: Memory,
        image: Vec<u8>,
        snapshot: Snapshot,
    }

    impl Guest {
        fn new() -> Guest {
            let limits = Limits {
                deadline: None,
                ..Limits::default()
            };
            let engine = engine::on_demand(&limits, Data::Mapped).expect("an engine");
            let module = Module::new(&engine, GUEST).expect("a module");
            let mut store = Store::new(&engine, ());
            let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
            let memory = instance.get_memory(&mut store, "memory").expect("a memory");
            let globals = ["a", "b"].map(|name| instance.get_global(&mut store, name).unwrap());
            let image = memory.data(&store).to_vec();
            let shared = Arc::from(&*image);
            let snapshot = Snapshot::take(&mut store, memory, &globals, &shared, false);
            Guest {
                store,
                instance,
                memory,
                image,
                snapshot: snapshot.expect("the kernel protects it"),
            }
        }

        fn call(&mut self, name: &str, a: u32, b: u32) {
            let function = self.instance.get_typed_func::<_, ()>(&mut self.store, name);
            let function = function.expect("it is exported");
            function.call(&mut self.store, (a, b)).expect("no trap");
        }

        /// What putting back copied, after which everything is as it began.
        fn restored(&mut self) -> usize {
            let copied = self
                .snapshot
                .restore(&mut self.store)
                .expect("it did not grow");
            assert!(self.memory.data(&self.store) == &*self.image);
            let a = self.instance.get_global(&mut self.store, "a").unwrap();
            assert_eq!(a.get(&mut self.store).unwrap_i32(), 7);
            let b = self.instance.get_global(&mut self.store, "b").unwrap();
            assert_eq!(b.get(&mut self.store).unwrap_v128().as_u128(), 2 << 64 | 1);
            copied
        }
    }

    #[test]
    fn whoever_writes_the_memory_and_the_globals_are_put_back() {
        let mut guest = Guest::new();
        let page = guest.snapshot.written.page_bytes();
        assert_eq!(guest.restored(), 0);
        guest.call("store", 5, 1);
        guest.call("globals", 8, 9);
        assert_eq!(guest.restored(), page);
        guest.call("store", BYTES as u32 - 1, 1);
        assert_eq!(
            guest.restored(),
            2 * page,
            "the first page stays in the set"
        );
        // Library calls, across pages whose protection differs.
        guest.call("fill", page as u32 - 100, 3 * page as u32);
        assert_eq!(guest.restored(), 5 * page);
        guest.call("copy", 200_000, 30_000);
        guest.call("init", 100_000, 12);
        guest.call("fill", 0, BYTES as u32);
        assert_eq!(guest.restored(), BYTES);
        guest.call("fill", 0, BYTES as u32);
        assert_eq!(guest.restored(), BYTES);
    }

    #[test]
    fn memories_are_compared_only_where_they_may_differ() {
        let mut guest = Guest::new();
        let other: Arc<[u8]> = vec![1; BYTES].into();
        let mut is_taken = |image: &Arc<[u8]>, is_alike| {
            let (store, memory) = (&mut guest.store, guest.memory);
            let taken = Snapshot::take(store, memory, &[], image, is_alike);
            Arc::ptr_eq(&taken.expect("the kernel protects it").image, image)
        };
        assert!(is_taken(&other, true), "nobody looks");
        assert!(!is_taken(&other, false));
        assert!(is_taken(&Arc::from(&*guest.image), false));
    }

    #[test]
    fn the_host_says_what_it_writes() {
        let mut guest = Guest::new();
        let page = guest.snapshot.written.page_bytes();
        let range = page - 4..2 * page + 4;
        guest
            .snapshot
            .make_writable(range.clone())
            .expect("the kernel does it");
        guest.memory.data_mut(&mut guest.store)[range.clone()].fill(1);
        assert_eq!(guest.restored(), 3 * page);
        guest.snapshot.make_writable(range).expect("nothing to do");
        assert_eq!(guest.restored(), 3 * page);
    }

    #[test]
    fn many_scattered_pages_are_put_back_and_those_left_alone_leave_the_set() {
        let mut guest = Guest::new();
        let page = guest.snapshot.written.page_bytes();
        let pages = BYTES / page;
        for nth in 0..pages / 2 {
            guest.call("store", (2 * nth * page + nth) as u32, 0xee);
        }
        assert_eq!(guest.restored(), pages / 2 * page);
        let mut least = BYTES;
        for _ in 0..2 * REVIEW_EVERY {
            guest.call("store", 3, 1);
            guest.call("store", 2 * page as u32, 1);
            least = least.min(guest.restored());
        }
        assert_eq!(least, 2 * page, "two are written by every request");
        guest.call("store", 20 * page as u32, 1);
        assert_eq!(
            guest.restored(),
            3 * page,
            "what left the set is seen again"
        );
    }

    #[test]
    fn what_grew_is_not_put_back() {
        let mut guest = Guest::new();
        guest.call("grow", 1, 0);
        guest.call("fill", BYTES as u32 - 10, 20);
        assert_eq!(guest.snapshot.restore(&mut guest.store), None);
    }
}
