//! [`ringlab_guest::handlers::deflate`] as a WebAssembly module, in four pages of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::deflate::handle,
    capacity = ringlab_guest::HEAD_CAPACITY + 32 * 1024,
    heap = 144 * 1024
);
