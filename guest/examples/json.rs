//! [`ringlab_guest::handlers::json`] as a WebAssembly module, in four pages of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::json::handle,
    capacity = ringlab_guest::HEAD_CAPACITY + 32 * 1024,
    heap = 164 * 1024
);
