//! A request that leaves its thread, and its answer on the way back.
//!
//! The bytes that a session lends are gone when it has been told `Later`, so a job has a copy of
//! them; and a guest's memory stays on its worker, so a job has a copy of the answer. Jobs are used
//! again: a steady stream of them allocates nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::http::{self, MAX_HEADERS};
use crate::io::Token;
use crate::measure::counter::Counter;
use crate::measure::probe::Off;
use crate::sandbox::{Answer, Call, Failure, Sandbox, stoppable};

/// A buffer that grew beyond this is not kept for the next job.
const KEPT_BYTES: usize = 64 * 1024;

/// The request, then the outcome. Small to pass on: what it has is on the heap.
#[derive(Debug)]
pub struct Job(Box<Contents>);

#[derive(Debug)]
struct Contents {
    owner: Token,
    request: Copied,
    outcome: Outcome,
    cancelled: Cancelled,
    /// When it was sent off.
    since: Option<Instant>,
    /// From then until a thread began it.
    waited: Duration,
    /// Bytes that were copied on the way to its outcome.
    bytes_copied: u64,
    /// Times that its thread slept before it began it.
    sleeps: u32,
}

/// A request's own copy of itself.
#[derive(Debug, Default)]
struct Copied {
    head: Vec<u8>,
    body: Vec<u8>,
    method: Place,
    target: Place,
    headers: Vec<(Place, Place)>,
}

/// What the handler answered, or why it did not.
#[derive(Debug)]
pub struct Outcome {
    shape: Result<Shape, Failure>,
    /// Header lines and body of the answer.
    answer: Vec<u8>,
}

impl Outcome {
    /// Keeps a copy of `result`; says how many bytes it has.
    pub fn keep(&mut self, result: Result<Answer<'_>, Failure>) -> u64 {
        self.answer.clear();
        self.shape = result.map(|answer| {
            self.answer.extend_from_slice(answer.header_lines);
            self.answer.extend_from_slice(answer.body);
            Shape {
                status: answer.status,
                header_lines: answer.header_lines.len(),
            }
        });
        self.answer.len() as u64
    }
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
            request: Copied::default(),
            outcome: Outcome {
                shape: Err(Failure::Exhausted),
                answer: Vec::new(),
            },
            cancelled: Cancelled::default(),
            since: None,
            waited: Duration::ZERO,
            bytes_copied: 0,
            sleeps: 0,
        }))
    }
}

impl Job {
    /// Copies `request` in, to be answered to `owner`; says how many bytes it has. Whatever was in the
    /// job is gone.
    pub fn fill(&mut self, owner: Token, request: &http::Request<'_, '_>) -> u64 {
        self.empty(owner);
        let copied = &mut self.0.request;
        let place = |part: &[u8]| Place::of(part, request.head);
        copied.head.extend_from_slice(request.head);
        copied.body.extend_from_slice(request.body);
        copied.method = place(request.method.as_bytes());
        copied.target = place(request.target.as_bytes());
        let headers = request.headers.iter();
        copied
            .headers
            .extend(headers.map(|header| (place(header.name.as_bytes()), place(header.value))));
        (copied.head.len() + copied.body.len()) as u64
    }

    /// Leaves nothing but an outcome to be kept, for `owner`.
    pub fn empty(&mut self, owner: Token) {
        let this = &mut *self.0;
        this.owner = owner;
        this.request.head.clear();
        this.request.body.clear();
        this.request.headers.clear();
        this.outcome.keep(Err(Failure::Exhausted));
        this.cancelled = Cancelled::default();
        this.since = None;
        this.waited = Duration::ZERO;
        this.bytes_copied = 0;
        this.sleeps = 0;
    }

    /// It leaves its thread now.
    pub fn send_off(&mut self) {
        self.0.since = Some(Instant::now());
    }

    /// The thread that will run it has it in its hands.
    pub fn begin(&mut self) {
        self.0.waited = self.0.since.map_or(Duration::ZERO, |since| since.elapsed());
    }

    /// That thread slept so often before it had something to do, at a futex(2) each.
    pub fn note_sleeps(&mut self, sleeps: u32) {
        self.0.sleeps = sleeps;
    }

    /// How often it did.
    pub fn sleeps(&self) -> u32 {
        self.0.sleeps
    }

    /// How long it waited for that thread.
    pub fn waited(&self) -> Duration {
        self.0.waited
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
        let cancelled = self.0.cancelled.clone();
        // The thread that counts is another: it is told when the job comes home.
        let copied = Counter::default();
        self.offer(|call, outcome| {
            stoppable(&cancelled.0, || {
                sandbox.call_probed::<Off, _>(call, &copied, |result| {
                    copied.add(outcome.keep(result));
                });
            });
        });
        self.0.bytes_copied = copied.get();
    }

    /// Bytes that [`Job::run`] copied: the request into the guest's memory, the answer out of it.
    pub fn bytes_copied(&self) -> u64 {
        self.0.bytes_copied
    }

    /// Has `answer` answer the request that was filled in, and keep the outcome.
    pub fn offer<R>(&mut self, answer: impl FnOnce(&Call<'_>, &mut Outcome) -> R) -> R {
        let Copied {
            head,
            body,
            method,
            target,
            headers: places,
        } = &self.0.request;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        for (header, (name, value)) in headers.iter_mut().zip(places) {
            header.name = name.text(head);
            header.value = value.bytes(head);
        }
        let call = Call {
            method: method.text(head),
            target: target.text(head),
            head,
            headers: &headers[..places.len()],
            body,
        };
        answer(&call, &mut self.0.outcome)
    }

    /// Where the outcome is kept.
    pub fn outcome_mut(&mut self) -> &mut Outcome {
        &mut self.0.outcome
    }

    /// It could not be run, or not to its end.
    pub fn fail(&mut self, failure: Failure) {
        self.0.outcome.keep(Err(failure));
    }

    /// What the handler answered, or why it did not.
    pub fn outcome(&self) -> Result<Answer<'_>, Failure> {
        let Outcome { shape, answer } = &self.0.outcome;
        shape.map(|shape| {
            let (header_lines, body) = answer.split_at(shape.header_lines);
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
        let request = &mut this.request;
        for buffer in [
            &mut request.head,
            &mut request.body,
            &mut this.outcome.answer,
        ] {
            if buffer.capacity() > KEPT_BYTES {
                *buffer = Vec::new();
            }
        }
    }
}
