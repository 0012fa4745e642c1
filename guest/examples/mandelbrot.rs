//! [`ringlab_guest::handlers::mandelbrot`] as a WebAssembly module, in two pages of memory.

ringlab_guest::handler!(
    ringlab_guest::handlers::mandelbrot::handle,
    capacity = ringlab_guest::HEAD_CAPACITY,
    heap = 66 * 1024
);
