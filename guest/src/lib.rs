//! The SDK for ringlab's request handlers, and the handlers that come with it.
//!
//! A handler is one function from a [`Request`] to a [`Response`]:
//!
//! ```
//! use ringlab_guest::{Request, Response};
//!
//! fn greet<'a>(request: &Request<'a>) -> Response<'a> {
//!     match request.query("name") {
//!         Some(name) => Response::text(format!("Hello, {name}!\n")),
//!         None => Response::text("Who is there?\n").with_status(400),
//!     }
//! }
//!
//! ringlab_guest::handler!(greet);
//! ```
//!
//! In a crate of type `cdylib`, built with `--target wasm32-unknown-unknown`,
//! that is a whole module for the sandbox. The same source compiles natively,
//! where the host links the function in and calls it without a sandbox.
//!
//! - [`request`], [`response`]: what a handler is given and what it answers.
//! - `handlers`: the built-in handlers; `misbehaving`: those that a host must
//!   survive. Both only with the feature `builtin`, which is on by default.
//! - `view`: the request as the host lays it out in guest memory.
//! - `abi`: the exports of a module; `heap`: where it allocates if its memory is
//!   fixed. No other file has `unsafe`.
//!
//! There is deliberately no clock, no I/O and no state kept between requests: a
//! guest imports nothing, and its answer depends on the request alone.

#![deny(unsafe_code)]
#![warn(missing_docs)]

#[cfg(target_arch = "wasm32")]
#[allow(unsafe_code, reason = "a module shares static memory with its host")]
#[doc(hidden)]
pub mod abi;
#[cfg(feature = "builtin")]
pub mod handlers;
#[cfg(any(target_arch = "wasm32", test))]
#[allow(unsafe_code, reason = "whoever gives out memory deals in pointers")]
#[doc(hidden)]
pub mod heap;
#[cfg(feature = "builtin")]
pub mod misbehaving;
pub mod request;
pub mod response;
#[cfg(any(target_arch = "wasm32", test))]
mod view;

pub use request::{Headers, Request};
pub use response::Response;

/// A request handler.
///
/// The answer may borrow from the request: an echo copies nothing.
pub type Handler = for<'a> fn(&Request<'a>) -> Response<'a>;

/// The request area of [`handler!`] when none is named, in bytes: 1 MiB of body
/// and 32 KiB of head, which is any request within the host's default limits.
pub const DEFAULT_CAPACITY: usize = (1024 + 32) * 1024;

/// A request area, in bytes, for a handler that reads no body: a request line
/// with a target of 8 KiB, 16 KiB of headers and the table of 100 of them fit.
/// A module with this area and a 16 KiB stack needs one 64 KiB page in all.
pub const HEAD_CAPACITY: usize = 28 * 1024;

/// Makes the crate a handler module: `handler!(function)`,
/// `handler!(function, capacity = BYTES)` or
/// `handler!(function, capacity = BYTES, heap = BYTES)`.
///
/// `function` is a [`Handler`]. `capacity` is the size of the area that the host
/// writes a request into, in bytes, [`DEFAULT_CAPACITY`] if not given; the host
/// answers 413 to a request that does not fit, without calling the handler.
///
/// `heap` gives the module a heap of so many bytes, for one whose memory does not
/// grow (`-C link-arg=--no-growable-memory`): what a request allocates must fit
/// there, and is gone with its answer. Without it Rust's own allocator takes what
/// it needs from the host.
///
/// Use it once in a crate. On targets other than wasm32 it checks the
/// function's type and exports nothing.
#[macro_export]
macro_rules! handler {
    ($function:path) => {
        $crate::handler!($function, capacity = $crate::DEFAULT_CAPACITY);
    };
    ($function:path, capacity = $capacity:expr, heap = $heap:expr) => {
        $crate::handler!($function, capacity = $capacity);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            #[global_allocator]
            static HEAP: $crate::heap::Heap<{ $heap }> = $crate::heap::Heap::new();
        };
    };
    ($function:path, capacity = $capacity:expr) => {
        const _: ($crate::Handler, usize) = ($function, $capacity);

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            #[unsafe(export_name = "ringlab_v1")]
            static AREA: $crate::abi::Area<{ $capacity }> = $crate::abi::Area::new();

            static LAST: $crate::abi::Last = $crate::abi::Last::new();

            // The length goes unused: the request's table says where all is. The name is one that
            // `$function`, looked up in here, will not have.
            #[unsafe(export_name = "handle")]
            extern "C" fn ringlab_v1_handle(_len: u32) -> *const $crate::abi::Record {
                $crate::abi::call(&AREA, &LAST, $function)
            }
        };
    };
}
