//! [`ringlab_guest::misbehaving::trap`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::misbehaving::trap::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
