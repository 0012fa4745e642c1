//! [`ringlab_guest::misbehaving::deep`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::misbehaving::deep::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
