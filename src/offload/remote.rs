//! The I/O thread's side of every policy that runs handlers on other threads: requests go out as
//! jobs, answers come back through a mailbox.
//!
//! Which threads those are is the business of a [`Dispatch`].

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::thread::Thread;

use super::job::Cancelled;
use super::mailbox::Mailbox;
use super::{Job, Offload, Started, encode};
use crate::http;
use crate::io::{Buf, Counts, Token, Waker};
use crate::measure::probe::{Probe, Stage};
use crate::sandbox::{Failure, ShardSandbox};
use crate::served::Served;

/// Jobs kept for the next requests.
const SPARE_JOBS: usize = 64;

/// How to wake the thread that a job belongs to.
#[derive(Clone, Debug)]
pub enum Wake {
    /// It waits in its driver.
    Driver(Waker),
    /// It is parked.
    Thread(Thread),
}

/// Where a job goes when it is done.
#[derive(Debug)]
pub struct Home {
    mailbox: Mailbox<Job>,
    wake: Wake,
}

impl Home {
    /// The home of a thread that is woken by `wake`.
    pub fn new(wake: Wake) -> Arc<Home> {
        Arc::new(Home {
            mailbox: Mailbox::new(),
            wake,
        })
    }

    /// Everything that has come, the oldest first; `jobs` must be empty. Says how often the thread was
    /// woken for it.
    pub(super) fn take(&self, jobs: &mut Vec<Job>) -> u32 {
        self.mailbox.take(jobs)
    }

    /// The thread is about to wait. False: it must not, something has come. True: the next job wakes
    /// it.
    pub(super) fn fall_asleep(&self) -> bool {
        self.mailbox.fall_asleep()
    }

    /// Notes the system calls of having woken its thread `times`. A parked thread is left out: only the
    /// standard library knows whether it slept by then.
    fn note(&self, times: u64, counts: &Counts) {
        match &self.wake {
            Wake::Driver(waker) => waker.note(times, counts),
            Wake::Thread(_) => {}
        }
    }

    /// Sends a job home, from any thread.
    pub fn send(&self, job: Job) {
        if self.mailbox.post(job) {
            match &self.wake {
                Wake::Driver(waker) => waker.wake(),
                Wake::Thread(thread) => thread.unpark(),
            }
        }
    }
}

/// A job on its way to the thread that will do it, with all that this thread needs.
pub struct Errand {
    /// The request.
    pub job: Job,
    /// What answers it.
    pub handler: Arc<ShardSandbox>,
    /// Where the answer goes.
    pub home: Arc<Home>,
}

/// Finds a thread for an errand.
pub trait Dispatch {
    /// Sends it off, and counts the system calls of that. It comes home in the end, whatever happens.
    ///
    /// # Errors
    /// No thread will do it; here it is back, with the reason.
    fn dispatch<P: Probe>(&mut self, errand: Errand, counts: &Counts)
    -> Result<(), (Job, Failure)>;

    /// Takes back the errand of `owner` on the way to `home`, if nobody has begun it.
    fn withdraw(&mut self, owner: Token, home: &Arc<Home>) -> Option<Job>;
}

/// A policy that runs handlers on other threads.
pub struct Remote<D, P> {
    dispatch: D,
    handler: Arc<ShardSandbox>,
    home: Arc<Home>,
    /// System calls of this thread, and of others for it.
    counts: Arc<Counts>,
    /// Whose requests are out, and how to stop them.
    owners: HashMap<Token, Cancelled>,
    /// Jobs that are out, in vain ones among them.
    out: usize,
    /// Jobs that came home, the oldest last.
    arrived: Vec<Job>,
    spare: Vec<Job>,
    probe: PhantomData<P>,
}

impl<D: Dispatch, P: Probe> Remote<D, P> {
    /// Has `handler` run by the threads that `dispatch` finds, for the thread woken by `wake`, whose
    /// system calls are in `counts`.
    pub fn new(dispatch: D, handler: Arc<ShardSandbox>, wake: Wake, counts: Arc<Counts>) -> Self {
        Self {
            dispatch,
            handler,
            home: Home::new(wake),
            counts,
            owners: HashMap::new(),
            out: 0,
            arrived: Vec::new(),
            spare: Vec::new(),
            probe: PhantomData,
        }
    }
}

impl<D: Dispatch, P: Probe> Offload for Remote<D, P> {
    fn start(
        &mut self,
        owner: Token,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    ) -> Started {
        let mut job = self.spare.pop().unwrap_or_default();
        let copied = P::within(Stage::Copy, || job.fill(owner, request));
        served.bytes_copied.add(copied);
        job.send_off();
        let cancelled = job.cancelled().clone();
        let errand = Errand {
            job,
            handler: self.handler.clone(),
            home: self.home.clone(),
        };
        match self.dispatch.dispatch::<P>(errand, &self.counts) {
            Ok(()) => {
                self.owners.insert(owner, cancelled);
                self.out += 1;
                Started::Later
            }
            Err((job, failure)) => {
                self.recycle(job);
                encode(Err(failure), reply, date, out, served);
                Started::Answered
            }
        }
    }

    fn next(&mut self, served: &Served) -> Option<Job> {
        loop {
            if self.arrived.is_empty() && self.out > 0 {
                let woken = self.home.take(&mut self.arrived).into();
                served.woken.add(woken);
                self.home.note(woken, &self.counts);
                served.come_home.add(self.arrived.len() as u64);
                self.arrived.reverse();
            }
            let job = self.arrived.pop()?;
            self.out -= 1;
            served.bytes_copied.add(job.bytes_copied());
            self.counts.futex.add(job.sleeps().into());
            if !job.cancelled().is_set() {
                self.owners.remove(&job.owner());
                served.queued.add(1);
                served.queued_ns.add(job.waited().as_nanos() as u64);
                return Some(job);
            }
            self.recycle(job);
        }
    }

    fn recycle(&mut self, mut job: Job) {
        if self.spare.len() < SPARE_JOBS {
            job.shrink();
            self.spare.push(job);
        }
    }

    fn cancel(&mut self, owner: Token) {
        if let Some(cancelled) = self.owners.remove(&owner) {
            cancelled.set();
            if let Some(job) = self.dispatch.withdraw(owner, &self.home) {
                self.out -= 1;
                self.recycle(job);
            }
        }
    }

    fn may_sleep(&mut self) -> bool {
        self.out == 0 || self.home.fall_asleep()
    }

    fn replace(&mut self, _route: usize, handler: &Arc<ShardSandbox>) {
        self.handler = handler.clone();
    }
}

impl<D, P> Drop for Remote<D, P> {
    /// The thread ends: nobody is left to read the answers.
    fn drop(&mut self) {
        for cancelled in self.owners.values() {
            cancelled.set();
        }
    }
}
