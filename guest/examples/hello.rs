//! [`ringlab_guest::handlers::hello`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::hello::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
