//! [`ringlab_guest::misbehaving::huge`] as a WebAssembly module, in 41 pages of memory.

ringlab_guest::handler!(
    ringlab_guest::misbehaving::huge::handle,
    capacity = ringlab_guest::HEAD_CAPACITY,
    heap = 2560 * 1024
);
