//! [`ringlab_guest::handlers::echo`] as a WebAssembly module, with room for a whole body.

ringlab_guest::handler!(ringlab_guest::handlers::echo::handle);
