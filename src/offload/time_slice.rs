//! The handler runs on the I/O thread, in slices, on a stack of its own where it needs one: Go's remedy.
//!
//! A request gets its first slice when it comes, and most end in it, at the price of `inline` as long as
//! all requests of its handler do. One that does not is suspended and goes to the back of the queue, from
//! which each turn of the loop takes one and gives it one more slice, after the turn's events. So a light request waits
//! for one slice and never for a heavy request, and heavy ones share what the light ones leave.
//!
//! A suspended request has its instance to itself. When all are taken, requests wait for one, in a
//! queue of their own; beyond its bounds they are refused.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Job, Offload, Started, encode};
use crate::http;
use crate::io::{Buf, Token};
use crate::measure::probe::{Probe, Stage};
use crate::sandbox::{Answer, Call, Failure, HalfRun, ShardSandbox, Sliced, Slicer};
use crate::served::Served;

/// Jobs kept for the next answers.
const SPARE_JOBS: usize = 64;

/// How many requests may wait for an instance, and how long.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// At a time; one more is refused.
    pub requests: usize,
    /// Each; then it is refused.
    pub wait: Duration,
}

/// The policy.
pub struct TimeSlice<P> {
    slicer: Rc<RefCell<Slicer>>,
    patience: Patience,
    /// The next to go on in front.
    half_run: VecDeque<Suspended>,
    /// Those that have not begun, for want of an instance; the oldest in front.
    waiting: VecDeque<Waiting>,
    /// Answers that nobody has taken yet.
    done: VecDeque<Job>,
    spare: Vec<Job>,
    probe: PhantomData<P>,
}

struct Suspended {
    owner: Token,
    half_run: HalfRun,
    /// What began it, which the next request's need not be.
    slicer: Rc<RefCell<Slicer>>,
}

struct Waiting {
    job: Job,
    since: Instant,
}

impl<P: Probe> TimeSlice<P> {
    /// Runs `handler` in slices on the calling thread.
    ///
    /// # Errors
    /// As for [`Slicer::new`].
    pub fn new(handler: Arc<ShardSandbox>, patience: Patience) -> io::Result<Self> {
        Ok(Self {
            slicer: Rc::new(RefCell::new(Slicer::new(handler)?)),
            patience,
            half_run: VecDeque::new(),
            waiting: VecDeque::new(),
            done: VecDeque::new(),
            spare: Vec::new(),
            probe: PhantomData,
        })
    }

    fn suspend(&mut self, owner: Token, half_run: HalfRun, served: &Served) {
        served.half_run.add(1);
        served.begun_again.add(u64::from(half_run.is_begun_again()));
        served.held_bytes.add(half_run.held_bytes() as u64);
        self.half_run.push_back(Suspended {
            owner,
            half_run,
            slicer: self.slicer.clone(),
        });
    }

    /// Refuses who has waited too long.
    fn dismiss(&mut self) {
        while let Some(first) = self.waiting.front()
            && first.since.elapsed() >= self.patience.wait
            && let Some(Waiting { mut job, .. }) = self.waiting.pop_front()
        {
            job.fail(Failure::Exhausted);
            self.done.push_back(job);
        }
    }

    /// Lets the one that has waited longest begin, if there is an instance for it.
    fn begin(&mut self, served: &Served) -> bool {
        if self.waiting.is_empty() || !self.slicer.borrow_mut().has_room() {
            return false;
        }
        let Some(Waiting { mut job, since }) = self.waiting.pop_front() else {
            return false;
        };
        served.queued.add(1);
        served.queued_ns.add(since.elapsed().as_nanos() as u64);
        let copied = &served.bytes_copied;
        let sliced = job.offer(|call, outcome| {
            let mut slicer = self.slicer.borrow_mut();
            slicer.start::<P, _>(call, copied, |result| copied.add(outcome.keep(result)))
        });
        match sliced {
            Sliced::Over(()) => self.done.push_back(job),
            Sliced::HalfRun(half_run) => {
                self.suspend(job.owner(), half_run, served);
                self.recycle(job);
            }
        }
        true
    }

    /// Gives the first half-run request one slice.
    fn resume(&mut self, served: &Served) -> bool {
        let Some(Suspended {
            owner,
            half_run,
            slicer,
        }) = self.half_run.pop_front()
        else {
            return false;
        };
        served.resumed.add(1);
        let mut job = self.spare.pop().unwrap_or_default();
        job.empty(owner);
        let outcome = job.outcome_mut();
        let copied = &served.bytes_copied;
        let keep = |result: Result<Answer<'_>, Failure>| copied.add(outcome.keep(result));
        let sliced = slicer.borrow_mut().resume::<P, _>(half_run, copied, keep);
        match sliced {
            Sliced::Over(()) => self.done.push_back(job),
            Sliced::HalfRun(half_run) => {
                self.recycle(job);
                self.half_run.push_back(Suspended {
                    owner,
                    half_run,
                    slicer,
                });
            }
        }
        true
    }
}

impl<P: Probe> Offload for TimeSlice<P> {
    fn start(
        &mut self,
        owner: Token,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    ) -> Started {
        // Nobody overtakes those who wait already.
        if !self.waiting.is_empty() || !self.slicer.borrow_mut().has_room() {
            if self.waiting.len() >= self.patience.requests {
                encode(Err(Failure::QueueFull), reply, date, out, served);
                return Started::Answered;
            }
            let mut job = self.spare.pop().unwrap_or_default();
            let copied = P::within(Stage::Copy, || job.fill(owner, request));
            served.bytes_copied.add(copied);
            let since = Instant::now();
            self.waiting.push_back(Waiting { job, since });
            return Started::Later;
        }
        let call = Call {
            method: request.method,
            target: request.target,
            head: request.head,
            headers: request.headers,
            body: request.body,
        };
        let before = P::enter(Stage::Sandbox);
        let copied = &served.bytes_copied;
        let take = |result: Result<Answer<'_>, Failure>| {
            P::within(Stage::Http, || encode(result, reply, date, out, served));
        };
        let sliced = self.slicer.borrow_mut().start::<P, _>(&call, copied, take);
        P::enter(before);
        match sliced {
            Sliced::Over(()) => Started::Answered,
            Sliced::HalfRun(half_run) => {
                self.suspend(owner, half_run, served);
                Started::Later
            }
        }
    }

    /// One slice: who has not begun before who has.
    fn go_on(&mut self, served: &Served) -> bool {
        self.dismiss();
        let before = P::enter(Stage::Sandbox);
        let went_on = self.begin(served) || self.resume(served);
        P::enter(before);
        went_on
    }

    fn next(&mut self, _served: &Served) -> Option<Job> {
        self.done.pop_front()
    }

    fn recycle(&mut self, mut job: Job) {
        if self.spare.len() < SPARE_JOBS {
            job.shrink();
            self.spare.push(job);
        }
    }

    /// The guest is ended where it stands.
    fn cancel(&mut self, owner: Token) {
        self.half_run.retain(|suspended| suspended.owner != owner);
        self.waiting.retain(|waiting| waiting.job.owner() != owner);
        self.done.retain(|job| job.owner() != owner);
    }

    fn may_sleep(&mut self) -> bool {
        self.half_run.is_empty() && self.waiting.is_empty() && self.done.is_empty()
    }

    fn replace(&mut self, _route: usize, handler: &Arc<ShardSandbox>) {
        if self.slicer.borrow().is_of(handler) {
            return;
        }
        match Slicer::new(handler.clone()) {
            Ok(slicer) => self.slicer = Rc::new(RefCell::new(slicer)),
            Err(error) => tracing::warn!(%error, "a thread stays with the handler it has"),
        }
    }
}
