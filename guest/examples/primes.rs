//! [`ringlab_guest::handlers::primes`] as a WebAssembly module, in one page of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::primes::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
