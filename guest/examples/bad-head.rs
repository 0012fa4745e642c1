//! [`ringlab_guest::misbehaving::bad_head`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::misbehaving::bad_head::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
