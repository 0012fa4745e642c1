//! [`ringlab_guest::handlers::count`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::count::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
