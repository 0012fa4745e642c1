//! A few worker threads for the whole server, and one bounded queue before them: libuv's remedy.
//!
//! A light request pays for the way there and back; a heavy one holds up a worker and nobody else,
//! until all workers are busy with heavy ones. A request that finds the queue full is refused at
//! once: waiting longer than the queue would help nobody.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::{io, thread};

use super::Job;
use super::queue::Queue;
use super::remote::{Dispatch, Errand, Home};
use crate::io::{Counts, Token};
use crate::measure::probe::{Probe, Stage};
use crate::sandbox::{Failure, Sandbox, ShardSandbox};

/// Handlers that a worker keeps ready, the last used first.
const HANDLERS_KEPT: usize = 4;

/// The workers of a server. They end when this is dropped, each after the errand in its hands.
pub struct Workers {
    queue: Arc<Queue<Errand>>,
}

impl Workers {
    /// Starts `count` workers with a queue of `capacity`, pinned to `cores` in turn.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn start(
        count: usize,
        capacity: usize,
        cores: &[usize],
        stack_bytes: usize,
    ) -> io::Result<Arc<Workers>> {
        let workers = Workers {
            queue: Arc::new(Queue::new(capacity)),
        };
        for number in 0..count {
            let core = cores.get(number % cores.len().max(1)).copied();
            let queue = workers.queue.clone();
            thread::Builder::new()
                .name(format!("worker {number}"))
                .stack_size(stack_bytes)
                .spawn(move || {
                    if let Some(id) = core
                        && !core_affinity::set_for_current(core_affinity::CoreId { id })
                    {
                        tracing::warn!(core = id, "a worker could not be pinned to its core");
                    }
                    work(&queue, Ready::default, Ready::tidy, Ready::run);
                })?;
        }
        Ok(Arc::new(workers))
    }

    /// Has workers that have nothing to do let go of handlers that were exchanged; one that works does
    /// so when it has done.
    pub fn let_go(&self) {
        self.queue.tidy();
    }
}

/// Workers that are no threads, for a test that decides by itself what happens when.
#[cfg(test)]
pub(crate) struct Simulated {
    /// What a server has its requests put into.
    pub(crate) workers: Arc<Workers>,
    ready: Ready,
    /// Errands that a worker has begun.
    begun: Vec<Errand>,
    count: usize,
}

#[cfg(test)]
impl Simulated {
    /// `count` of them, with a queue of `capacity`.
    pub(crate) fn new(count: usize, capacity: usize) -> Simulated {
        let queue = Arc::new(Queue::new(capacity));
        Simulated {
            workers: Arc::new(Workers { queue }),
            ready: Ready::default(),
            begun: Vec::new(),
            count,
        }
    }

    /// One of them begins an errand, or has done one, or nothing happens, as `chosen` says. Says
    /// whether there is more to do, and whether an errand was sent home.
    pub(crate) fn go_on(&mut self, chosen: u32) -> (bool, bool) {
        let mut sent = false;
        let at = chosen as usize / 4;
        match chosen % 4 {
            0 => {}
            1 if !self.begun.is_empty() => {
                let mut errand = self.begun.swap_remove(at % self.begun.len());
                if !errand.job.cancelled().is_set() {
                    self.ready.run(&mut errand);
                }
                errand.home.send(errand.job);
                sent = true;
            }
            _ if self.begun.len() < self.count => {
                self.begun.extend(self.workers.queue.remove(|_| true));
            }
            _ => {}
        }
        let mut waits = false;
        self.workers.queue.remove(|_| {
            waits = true;
            false
        });
        (waits || !self.begun.is_empty(), sent)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Does errands until the queue is closed, with what `equip` gives a worker; `tidy` is for when there is
/// nothing to do. A panic costs the errand it happens in, and the worker all that it has: another takes
/// its place on the same thread, since a thread's birth may fail and this cannot.
pub(super) fn work<W>(
    queue: &Queue<Errand>,
    mut equip: impl FnMut() -> W,
    mut tidy: impl FnMut(&mut W),
    mut run: impl FnMut(&mut W, &mut Errand),
) {
    let mut worker = equip();
    let mut slept = 0;
    while let Some(mut errand) = queue.pop(&mut slept, || tidy(&mut worker)) {
        errand.job.begin();
        errand.job.note_sleeps(std::mem::take(&mut slept));
        if !errand.job.cancelled().is_set()
            && catch_unwind(AssertUnwindSafe(|| run(&mut worker, &mut errand))).is_err()
        {
            errand.job.fail(Failure::Panic);
            worker = equip();
        }
        errand.home.send(errand.job);
    }
}

/// The sandboxes of one worker.
#[derive(Default)]
struct Ready {
    sandboxes: Vec<(Arc<ShardSandbox>, Sandbox)>,
}

impl Ready {
    /// Lets go of what was exchanged: nobody may come for it ever again.
    fn tidy(&mut self) {
        self.sandboxes.retain(|(handler, _)| !handler.is_retired());
    }

    fn run(&mut self, errand: &mut Errand) {
        self.tidy();
        let known = self
            .sandboxes
            .iter()
            .position(|(handler, _)| Arc::ptr_eq(handler, &errand.handler));
        // Out of its place while it runs: what a panic leaves behind is not used again.
        let kept = match known {
            Some(at) => Ok(self.sandboxes.remove(at)),
            None => {
                self.sandboxes.truncate(HANDLERS_KEPT - 1);
                let handler = errand.handler.clone();
                Sandbox::new(handler.clone()).map(|sandbox| (handler, sandbox))
            }
        };
        match kept {
            Ok((handler, mut sandbox)) => {
                errand.job.run(&mut sandbox);
                // Others may want the instance more than this worker, which goes to sleep perhaps.
                sandbox.release();
                if !handler.is_retired() {
                    self.sandboxes.insert(0, (handler, sandbox));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a worker could not make a sandbox ready");
                errand.job.fail(Failure::Exhausted);
            }
        }
    }
}

impl Dispatch for Arc<Workers> {
    fn dispatch<P: Probe>(
        &mut self,
        errand: Errand,
        counts: &Counts,
    ) -> Result<(), (Job, Failure)> {
        let pushed = P::within(Stage::HandOver, || self.queue.push(errand));
        let waking = pushed.map_err(|errand| (errand.job, Failure::QueueFull))?;
        if waking.is_due() {
            counts.futex.add(1);
            P::within(Stage::FutexWake, || drop(waking));
        }
        Ok(())
    }

    fn withdraw(&mut self, owner: Token, home: &Arc<Home>) -> Option<Job> {
        self.queue
            .remove(|errand| errand.job.owner() == owner && Arc::ptr_eq(&errand.home, home))
            .map(|errand| errand.job)
    }
}
