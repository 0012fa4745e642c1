//! [`ringlab_guest::handlers::pbkdf2`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::pbkdf2::handle,
    capacity = ringlab_guest::HEAD_CAPACITY,
    heap = 512
);
