//! What a module exports: guest ABI, version 1, from the guest's side.
//!
//! The host writes a request into the [`Area`], whose address is the exported
//! global `ringlab_v1`, and calls `handle`, which answers the address of a
//! [`Record`]. It holds memory and its
//! lifetimes; what the request's bytes mean is in `view`.
//!
//! Public for the expansion of [`handler!`](crate::handler) alone.

use std::cell::UnsafeCell;
use std::ptr;

use crate::view::View;
use crate::{Handler, Request, Response};

#[cfg(target_feature = "atomics")]
compile_error!("a handler module has one thread: build it without the atomics feature");

/// The request area: what the host reads once and writes before each call.
#[repr(C)]
pub struct Area<const CAPACITY: usize> {
    /// The bytes of `request`.
    capacity: u32,
    reserved: u32,
    request: UnsafeCell<View<CAPACITY>>,
}

// SAFETY: there is one thread in a module without atomics, checked above.
unsafe impl<const CAPACITY: usize> Sync for Area<CAPACITY> {}

impl<const CAPACITY: usize> Area<CAPACITY> {
    /// An empty area. Fails to compile if the host cannot address it.
    #[expect(
        clippy::new_without_default,
        reason = "made in a static, where Default cannot be called"
    )]
    pub const fn new() -> Self {
        const { assert!(CAPACITY <= u32::MAX as usize) };
        Self {
            capacity: CAPACITY as u32,
            reserved: 0,
            request: UnsafeCell::new(View::EMPTY),
        }
    }

    /// Shows `look` the request that the host wrote last.
    #[inline]
    pub fn with_request<R>(&'static self, look: impl for<'a> FnOnce(&Request<'a>) -> R) -> R {
        look(&self.view().request())
    }

    /// What the host wrote last; to be let go of before the host is called back.
    #[inline]
    fn view(&'static self) -> &'static View<CAPACITY> {
        // SAFETY: the host writes the area only between calls, so it does not
        // change while the reference is in use, and a static is never freed.
        unsafe { &*self.request.get() }
    }
}

/// An answer as the host reads it, 24 bytes on wasm32.
#[repr(C)]
pub struct Record {
    /// 0: an answer. Later versions may ask for something instead.
    kind: u16,
    status: u16,
    header_lines: *const u8,
    header_lines_len: usize,
    body: *const u8,
    body_len: usize,
    /// Of no meaning in an answer.
    milliseconds: u32,
}

const _: () = assert!(size_of::<Record>() == 24);

/// The last answer, kept until the next call: the host copies it in between.
pub struct Last(UnsafeCell<Kept>);

struct Kept {
    record: Record,
    response: Option<Response<'static>>,
}

// SAFETY: there is one thread in a module without atomics, checked above.
unsafe impl Sync for Last {}

impl Last {
    /// No answer yet.
    #[expect(
        clippy::new_without_default,
        reason = "made in a static, where Default cannot be called"
    )]
    pub const fn new() -> Self {
        Self(UnsafeCell::new(Kept {
            record: Record {
                kind: 0,
                status: 0,
                header_lines: ptr::null(),
                header_lines_len: 0,
                body: ptr::null(),
                body_len: 0,
                milliseconds: 0,
            },
            response: None,
        }))
    }
}

/// Answers the request that lies in `area`; the record lives until the next call.
#[inline]
pub fn call<const CAPACITY: usize>(
    area: &'static Area<CAPACITY>,
    last: &'static Last,
    handler: Handler,
) -> *const Record {
    // SAFETY: nothing else refers into `last`: this function is the only one
    // that does, on the only thread, and keeps no reference while a handler
    // runs. The answer, which may borrow from the area, is dropped before the
    // area's new content is looked at.
    unsafe { (*last.0.get()).response = None };

    let response = handler(&area.view().request());

    // SAFETY: as at the first access; the handler has returned.
    let kept = unsafe { &mut *last.0.get() };
    // The addresses are taken where the answer stays: short texts are part of it.
    let response = kept.response.insert(response);
    kept.record = Record {
        kind: 0,
        status: response.status(),
        header_lines: response.header_lines().as_ptr(),
        header_lines_len: response.header_lines().len(),
        body: response.body().as_ptr(),
        body_len: response.body().len(),
        milliseconds: 0,
    };
    &raw const kept.record
}
