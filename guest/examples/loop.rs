//! [`ringlab_guest::misbehaving::endless`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::misbehaving::endless::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
