//! What an instance's memory began with, reached without asking wasmtime for it.
//!
//! A memory never shrinks, and in our engines never moves, so where it began and how large it was then
//! holds as long as its store. To ask takes four loads that wait for each other, twice a request. What
//! a guest grew later is for whoever needs it to ask for.

use std::ptr::NonNull;
use wasmtime::{Memory, Store};

/// The first bytes of a memory.
pub(super) struct FirstBytes {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address and a length, good for nothing without a borrow of the store that goes along.
unsafe impl Send for FirstBytes {}

impl FirstBytes {
    /// The first `bytes` of `memory`: its type's first size, whatever its start function grew.
    ///
    /// # Safety
    /// The engine never moves memories (`Config::memory_may_move`), and the other functions are given
    /// this store and no other.
    pub(super) unsafe fn of<T>(memory: Memory, store: &mut Store<T>, bytes: usize) -> FirstBytes {
        let first = &mut memory.data_mut(store)[..bytes];
        FirstBytes {
            bytes: first.len(),
            base: NonNull::from(first).cast(),
        }
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// To read.
    #[inline]
    pub(super) fn read<'m, T>(&self, _store: &'m Store<T>) -> &'m [u8] {
        // SAFETY: see `of`; who borrows the store lets no guest run that could write.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.bytes) }
    }

    /// To write.
    #[inline]
    pub(super) fn write<'m, T>(&self, _store: &'m mut Store<T>) -> &'m mut [u8] {
        // SAFETY: as above, and nobody else reads.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::Limits;
    use crate::sandbox::engine::{self, Data};
    use wasmtime::{Instance, Module};

    #[test]
    fn they_stay_where_they_are_when_the_memory_grows() {
        let limits = Limits {
            deadline: None,
            ..Limits::default()
        };
        let engine = engine::on_demand(&limits, Data::Mapped).expect("an engine");
        let text = "(module (memory (export \"memory\") 1))";
        let module = Module::new(&engine, text).expect("a module");
        let mut store = Store::new(&engine, ());
        let instance = Instance::new(&mut store, &module, &[]).expect("an instance");
        let memory = instance.get_memory(&mut store, "memory").expect("exported");
        // SAFETY: the engine is one of ours, and there is no other store.
        let first = unsafe { FirstBytes::of(memory, &mut store, 65_536) };
        first.write(&mut store)[65_535] = 7;
        memory.grow(&mut store, 100).expect("there is room");
        assert_eq!(memory.data(&store)[65_535], 7);
        memory.data_mut(&mut store)[0] = 9;
        let read = first.read(&store);
        assert_eq!((read.len(), read[0]), (65_536, 9));
        assert_eq!(read.as_ptr(), memory.data_ptr(&store).cast_const());
    }
}
