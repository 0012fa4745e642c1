//! [`ringlab_guest::handlers::spin`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::spin::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
