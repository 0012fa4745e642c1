//! A thread for each request, which ends with it: the naive remedy.
//!
//! It holds up nobody, and pays for a thread's birth, its stack, its timer and its death with every
//! request, light ones too. Their number is bounded; one more is refused, as is one whose thread the
//! kernel refuses.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::Job;
use super::remote::{Dispatch, Errand, Home};
use crate::io::{Counts, Token};
use crate::measure::probe::{Probe, Stage};
use crate::sandbox::{Failure, Sandbox};

/// How many threads there may be; clones count together.
#[derive(Clone, Debug)]
pub struct Spawn {
    alive: Arc<AtomicUsize>,
    limit: usize,
    stack_bytes: usize,
}

impl Spawn {
    /// At most `limit` threads at a time, each with a stack of `stack_bytes`.
    pub fn new(limit: usize, stack_bytes: usize) -> Self {
        Self {
            alive: Arc::default(),
            limit,
            stack_bytes,
        }
    }
}

/// Counts a thread out, however it ends.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dispatch for Spawn {
    fn dispatch<P: Probe>(
        &mut self,
        errand: Errand,
        counts: &Counts,
    ) -> Result<(), (Job, Failure)> {
        let room = |alive: usize| (alive < self.limit).then_some(alive + 1);
        let counted = self
            .alive
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if counted.is_err() {
            return Err((errand.job, Failure::QueueFull));
        }
        let alive = Alive(self.alive.clone());
        let Errand { job, handler, home } = errand;
        // The closure is lost with a thread that cannot be born, and the job must not be.
        let (job, taken, thread) = P::within(Stage::HandOver, || {
            let job = Arc::new(Mutex::new(Some(job)));
            let thread = thread::Builder::new()
                .name("request".to_string())
                .stack_size(self.stack_bytes);
            (job.clone(), job, thread)
        });
        counts.clone3.add(1);
        let born = P::within(Stage::Clone, || {
            thread.spawn(move || {
                let mut job = take(&taken).expect("only a thread that was not born leaves it");
                job.begin();
                let ran = catch_unwind(AssertUnwindSafe(|| match Sandbox::new(handler) {
                    Ok(mut sandbox) => job.run(&mut sandbox),
                    Err(error) => {
                        tracing::warn!(%error, "a thread could not make a sandbox ready");
                        job.fail(Failure::Exhausted);
                    }
                }));
                if ran.is_err() {
                    job.fail(Failure::Panic);
                }
                // Before the answer is out: who gets it may send the next request at once.
                drop(alive);
                home.send(job);
            })
        });
        born.map(drop).map_err(|error| {
            tracing::warn!(%error, "no thread could be started for a request");
            let job = take(&job).expect("no thread was born that could have taken it");
            (job, Failure::NoThread)
        })
    }

    fn withdraw(&mut self, _owner: Token, _home: &Arc<Home>) -> Option<Job> {
        None
    }
}

fn take(job: &Mutex<Option<Job>>) -> Option<Job> {
    job.lock().unwrap_or_else(PoisonError::into_inner).take()
}
