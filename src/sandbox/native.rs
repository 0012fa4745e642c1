//! The same handler without a sandbox: the twin that the sandbox's price is measured against.
//!
//! Nothing stops linked-in code: it has no deadline and no limit on memory. A panic ends its
//! request only, where the program is built to unwind.

use super::limits::Limits;
use super::{Answer, Call, Failure, abi};
use ringlab_guest::{Handler, Headers, Request};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A request's headers as the parser left them.
struct Parsed<'a>(&'a [httparse::Header<'a>]);

impl Headers for Parsed<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let header = self.0.get(index)?;
        Some((header.name.as_bytes(), header.value))
    }
}

/// Lets `handler` answer `call` and lends the answer to `take`.
#[inline]
pub(super) fn call<R>(
    handler: Handler,
    call: &Call<'_>,
    limits: &Limits,
    take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
) -> R {
    let headers = Parsed(call.headers);
    let request = Request::new(call.method, call.target, &headers, call.body);
    // A handler keeps no state between requests, so there is none that a panic could spoil.
    let Ok(response) = catch_unwind(AssertUnwindSafe(|| handler(&request))) else {
        return take(Err(Failure::Panic));
    };
    let answer = Answer {
        status: response.status(),
        header_lines: response.header_lines(),
        body: response.body(),
    };
    take(abi::check_answer(&answer, limits).map(|()| answer))
}
