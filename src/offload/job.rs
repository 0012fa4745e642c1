//! A request that leaves its thread, and its answer on the way back.
//!
//! The bytes that a session lends are gone when it has been told `Later`, so a job has a copy of
//! them; and a guest's memory stays on its worker, so a job has a copy of the answer. Jobs are used
//! again: a steady stream of them allocates nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::{self, MAX_HEADERS};
use crate::io::Token;
use crate::sandbox::{Answer, Call, Failure, Sandbox, stoppable};

/// A buffer that grew beyond this is not kept for the next job.
const KEPT_BYTES: usize = 64 * 1024;

/// The request, then the outcome. Small to pass on: what it has is on the heap.
#[derive(Debug)]
pub struct Job(Box<Contents>);

#[derive(Debug)]
struct Contents {
    owner: Token,
    head: Vec<u8>,
    body: Vec<u8>,
    method: Place,
    target: Place,
    headers: Vec<(Place, Place)>,
    outcome: Result<Shape, Failure>,
    /// Header lines and body of the answer.
    answer: Vec<u8>,
    cancelled: Cancelled,
}

/// Somebody no longer wants the answer. Shared with whoever runs the handler.
#[derive(Clone, Debug, Default)]
pub struct Cancelled(Arc<AtomicBool>);

impl Cancelled {
    /// From now on the work is in vain.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// A part of `head`.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    from: usize,
    length: usize,
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    status: u16,
    header_lines: usize,
}

impl Place {
    /// Where `part` lies in `head`, both being of one request.
    fn of(part: &[u8], head: &[u8]) -> Place {
        Place {
            from: part.as_ptr().addr().wrapping_sub(head.as_ptr().addr()),
            length: part.len(),
        }
    }

    fn bytes(self, head: &[u8]) -> &[u8] {
        // An empty part may lie anywhere.
        if self.length == 0 {
            return &[];
        }
        &head[self.from..self.from + self.length]
    }

    fn text(self, head: &[u8]) -> &str {
        std::str::from_utf8(self.bytes(head)).expect("it was text when it was parsed")
    }
}

impl Default for Job {
    /// A job without a request.
    fn default() -> Job {
        Job(Box::new(Contents {
            owner: Token::LISTENER,
            head: Vec::new(),
            body: Vec::new(),
            method: Place::default(),
            target: Place::default(),
            headers: Vec::new(),
            outcome: Err(Failure::Exhausted),
            answer: Vec::new(),
            cancelled: Cancelled::default(),
        }))
    }
}

impl Job {
    /// Copies `request` in, to be answered to `owner`. Whatever was in the job is gone.
    pub fn fill(&mut self, owner: Token, request: &http::Request<'_, '_>) {
        let this = &mut *self.0;
        let place = |part: &[u8]| Place::of(part, request.head);
        this.owner = owner;
        this.head.clear();
        this.head.extend_from_slice(request.head);
        this.body.clear();
        this.body.extend_from_slice(request.body);
        this.method = place(request.method.as_bytes());
        this.target = place(request.target.as_bytes());
        this.headers.clear();
        let headers = request.headers.iter();
        this.headers
            .extend(headers.map(|header| (place(header.name.as_bytes()), place(header.value))));
        this.outcome = Err(Failure::Exhausted);
        this.answer.clear();
        this.cancelled = Cancelled::default();
    }

    /// Whose request it is.
    pub fn owner(&self) -> Token {
        self.0.owner
    }

    /// How to say that the answer is no longer wanted.
    pub fn cancelled(&self) -> &Cancelled {
        &self.0.cancelled
    }

    /// Lets the handler answer, on the calling thread.
    pub fn run(&mut self, sandbox: &mut Sandbox) {
        let this = &mut *self.0;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        for (header, (name, value)) in headers.iter_mut().zip(&this.headers) {
            header.name = name.text(&this.head);
            header.value = value.bytes(&this.head);
        }
        let call = Call {
            method: this.method.text(&this.head),
            target: this.target.text(&this.head),
            head: &this.head,
            headers: &headers[..this.headers.len()],
            body: &this.body,
        };
        let kept = &mut this.answer;
        let keep = |answer: Answer<'_>| {
            kept.extend_from_slice(answer.header_lines);
            kept.extend_from_slice(answer.body);
            Shape {
                status: answer.status,
                header_lines: answer.header_lines.len(),
            }
        };
        this.outcome = stoppable(&this.cancelled.0, || {
            sandbox.call(&call, |result| result.map(keep))
        });
    }

    /// It could not be run, or not to its end.
    pub fn fail(&mut self, failure: Failure) {
        self.0.outcome = Err(failure);
    }

    /// What the handler answered, or why it did not.
    pub fn outcome(&self) -> Result<Answer<'_>, Failure> {
        self.0.outcome.map(|shape| {
            let (header_lines, body) = self.0.answer.split_at(shape.header_lines);
            Answer {
                status: shape.status,
                header_lines,
                body,
            }
        })
    }

    /// Lets go of what was large, before the job waits for its next request.
    pub fn shrink(&mut self) {
        let this = &mut *self.0;
        for buffer in [&mut this.head, &mut this.body, &mut this.answer] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
    }
}
