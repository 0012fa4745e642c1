//! [`ringlab_guest::misbehaving::hog`] as a WebAssembly module, whose memory may grow.

ringlab_guest::handler!(
    ringlab_guest::misbehaving::hog::handle,
    capacity = ringlab_guest::HEAD_CAPACITY
);
