//! [`ringlab_guest::handlers::redos`] as a WebAssembly module, in two pages of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::redos::handle,
    capacity = ringlab_guest::HEAD_CAPACITY + 4 * 1024,
    heap = 44 * 1024
);
