//! The same handler without a sandbox: the twin that the sandbox's price is measured against.
//!
//! Nothing stops linked-in code: it has no deadline and no limit on memory. A panic fails its
//! request only, where the program is built to unwind.

use super::limits::Limits;
use super::{Answer, Call, Failure, abi};
use crate::measure::probe::{Probe, Stage};
use ringlab_guest::{Handler, Headers, Request};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

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
pub(super) fn call<P: Probe, R>(
    handler: Handler,
    call: &Call<'_>,
    limits: &Limits,
    take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
) -> R {
    let headers = Parsed(call.headers);
    let request = Request::new(call.method, call.target, &headers, call.body);
    let mut take = Some(take);
    // The answer is taken within: moving a whole response out would double what hello costs. A
    // handler keeps no state between requests, so there is none that its panic could spoil.
    let taken = catch_unwind(AssertUnwindSafe(|| {
        let response = P::within(Stage::Guest, || handler(&request));
        let answer = Answer {
            status: response.status(),
            header_lines: response.header_lines(),
            body: response.body(),
        };
        let take = take.take().expect("this is the one place that takes it");
        take(abi::check_answer(&answer, limits).map(|()| answer))
    }));
    match (taken, take) {
        (Ok(taken), _) => taken,
        // It was the handler that panicked.
        (Err(_), Some(take)) => take(Err(Failure::Panic)),
        // It was the caller's own code.
        (Err(panic), None) => resume_unwind(panic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::probe::Off;
    use ringlab_guest::Response;

    fn faulty<'a>(request: &Request<'a>) -> Response<'a> {
        assert!(request.body().is_empty(), "a handler's bug");
        Response::text("fine").with_status(if request.header("bad").is_some() {
            99
        } else {
            200
        })
    }

    fn status(headers: &[httparse::Header<'_>], body: &[u8]) -> Result<u16, Failure> {
        let request = Call {
            method: "",
            target: "",
            head: b"",
            headers,
            body,
        };
        call::<Off, _>(faulty, &request, &Limits::default(), |answer| {
            answer.map(|answer| answer.status)
        })
    }

    #[test]
    fn a_panic_fails_its_own_request_only() {
        assert_eq!(status(&[], b""), Ok(200));
        assert_eq!(status(&[], b"x"), Err(Failure::Panic));
        assert_eq!(status(&[], b""), Ok(200));
    }

    #[test]
    fn an_answer_is_held_to_the_same_rules_as_a_guests() {
        let bad = httparse::Header {
            name: "Bad",
            value: b"",
        };
        let refused = Failure::BadRecord("its status is not 200 to 599");
        assert_eq!(status(&[bad], b""), Err(refused));
    }

    #[test]
    #[should_panic(expected = "the caller's own")]
    fn a_panic_of_the_callers_is_the_callers() {
        let request = Call {
            method: "",
            target: "",
            head: b"",
            headers: &[],
            body: b"",
        };
        call::<Off, _>(faulty, &request, &Limits::default(), |_| {
            panic!("the caller's own")
        })
    }
}
