//! A handler called a slice at a time on one thread, its guests on stacks of their own as soon as one
//! needs that.
//!
//! A request that ends within its first slice never leaves the caller's hands: its answer is lent as
//! in [`Sandbox::call`](super::Sandbox::call). One that does not becomes a [`HalfRun`], which keeps
//! its instance to itself until it is over. This never blocks; whoever finds no room waits elsewhere.
//!
//! A handler is taken for a light one at first: called on the thread's own stack, as inline. There a guest
//! cannot be suspended. The first that outlasts its slice is ended, its instance thrown away, and its
//! request begun again from nothing, on a stack of its own; and so is every later request of the handler
//! on this thread, from the start. A guest talks to nobody but its host, which takes nothing from it before
//! it has returned, so nobody can tell that it ran for a slice before; only what it had kept of earlier
//! requests, where instances are used again, is gone, as after a trap.
//!
//! Otherwise a handler that never is heavy would pay some 140 ns for every call on a fiber (wasmtime 48),
//! which cannot be had for much less. One fiber that stays and takes request after request was tried: a
//! guest's loop that asks the host for the next. It saved 25 ns, and with an async host function nothing:
//! most go into what either needs, two switches of the stack and of what wasmtime keeps of a thread.

use super::blueprint::Blueprint;
use super::deadline::Ticker;
use super::instance::{Instance, Running};
use super::slice::{self, HalfRunMark, SliceTimer};
use super::slots::{Checker, Lease, RESET_BYTES, Runner, ShardSandbox};
use super::{Answer, Call, Failure};
use crate::measure::counter::Counter;
use crate::measure::probe::{Probe, Stage};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// What one thread calls its shard's handler through, in slices.
///
/// Stays on the thread that made it: its guests' time is measured on that thread's CPU clock.
pub struct Slicer {
    shard: Arc<ShardSandbox>,
    _ticker: Option<Ticker>,
    timer: Rc<SliceTimer>,
    quantum: Duration,
    /// No request has outlasted its slice so far.
    is_light: bool,
    /// The slot for the next request, once it was needed.
    lease: Option<Lease>,
    ends: Ends,
    served: Arc<Counter>,
}

/// What is needed when a request is over.
struct Ends {
    checker: Checker,
    /// Bytes that were put back after requests.
    reset_bytes: Arc<Counter>,
}

/// What became of a request in a slice.
pub enum Sliced<R> {
    /// It is over; this was made of its answer.
    Over(R),
    /// Its guest has not returned.
    HalfRun(HalfRun),
}

/// A request whose guest is suspended. Dropping it ends the guest.
pub struct HalfRun {
    /// None: it is over.
    running: Option<Running>,
    shard: Arc<ShardSandbox>,
    held_bytes: usize,
    is_begun_again: bool,
    _mark: HalfRunMark,
}

impl HalfRun {
    /// What it held when it was suspended first: its instance's memory, and what its stack had ever
    /// been written of, in bytes. One that is begun again has nothing on its stack yet.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Whether its first slice was for nothing.
    pub fn is_begun_again(&self) -> bool {
        self.is_begun_again
    }
}

impl Drop for HalfRun {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // With it the instance, and then nobody has the slot.
            drop(running);
            self.shard.give_back(Lease { kept: None });
        }
    }
}

impl Slicer {
    /// For the calling thread, and a handler that is a guest with a quantum.
    ///
    /// # Errors
    /// The thread's timers cannot be made: see the message for the limit it met.
    pub fn new(shard: Arc<ShardSandbox>) -> io::Result<Slicer> {
        let (Runner::Wasm(blueprint), Some(quantum)) = (&shard.runner, shard.limits.quantum) else {
            return Err(io::Error::other(
                "only a guest that was compiled for slices runs in them",
            ));
        };
        // Otherwise the first call would pay for the stack on which traps are handled.
        wasmtime::Engine::tls_eager_initialize();
        Ok(Slicer {
            _ticker: blueprint.ticker()?,
            timer: SliceTimer::of_this_thread()?,
            quantum,
            is_light: true,
            lease: None,
            ends: Ends {
                checker: Checker::new(shard.check),
                reset_bytes: RESET_BYTES.open(),
            },
            served: shard.tally.open(),
            shard,
        })
    }

    /// Whether this calls the handler of `shard`.
    pub fn is_of(&self, shard: &Arc<ShardSandbox>) -> bool {
        Arc::ptr_eq(&self.shard, shard)
    }

    /// Whether there is an instance for one request more.
    #[inline]
    pub fn has_room(&mut self) -> bool {
        if self.lease.is_none() {
            self.lease = self.shard.try_lease();
        }
        self.lease.is_some()
    }

    /// Gives `call` its first slice. `take` gets the answer, if it came to that, lent for as long as
    /// it runs, or the reason why there is none.
    ///
    /// Without room ([`Slicer::has_room`]) the reason is [`Failure::Exhausted`]. Bytes are `copied` as by
    /// [`Sandbox::call_probed`](super::Sandbox::call_probed).
    #[inline]
    pub fn start<P: Probe, R>(
        &mut self,
        call: &Call<'_>,
        copied: &Counter,
        take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
    ) -> Sliced<R> {
        self.served.add(1);
        if !self.has_room() {
            return Sliced::Over(take(Err(Failure::Exhausted)));
        }
        let lease = self.lease.as_mut().expect("there is room");
        let blueprint = blueprint_of(&self.shard);
        if let Err(failure) = Instance::next(&mut lease.kept, blueprint) {
            return Sliced::Over(take(Err(failure)));
        }
        let mut instance = lease.kept.take().expect("it is there");
        let length = match instance.write::<P>(call, copied) {
            Ok(length) => length,
            Err(failure) => {
                let unwritten = Err(failure);
                lease.kept = blueprint.afterwards.spares(&unwritten).then_some(instance);
                return Sliced::Over(take(unwritten));
            }
        };
        if self.is_light {
            let guest = || self.timer.try_run(self.quantum, || instance.run(length));
            if let Some(returned) = P::within(Stage::Guest, guest) {
                let (instance, taken) =
                    self.ends.end(instance, returned, &self.shard, copied, take);
                lease.kept = instance;
                return Sliced::Over(taken);
            }
            self.is_light = false;
            self.ends.discard(instance, &self.shard);
            let again = Instance::new(blueprint).and_then(|mut instance| {
                let length = instance.write::<P>(call, copied)?;
                Ok((instance, length))
            });
            return match again {
                Ok((instance, length)) => {
                    let held_bytes = instance.memory().len();
                    let running = instance.begin(length);
                    Sliced::HalfRun(self.half_run(running, held_bytes, true))
                }
                Err(failure) => Sliced::Over(take(Err(failure))),
            };
        }
        let mut running = instance.begin(length);
        match poll::<P>(&self.timer, self.quantum, &mut running) {
            Poll::Ready((instance, returned)) => {
                let (instance, taken) =
                    self.ends.end(instance, returned, &self.shard, copied, take);
                lease.kept = instance;
                Sliced::Over(taken)
            }
            Poll::Pending => Sliced::HalfRun(self.half_run(running, slice::held_bytes(), false)),
        }
    }

    /// `running`, which has the slot from now on.
    fn half_run(&mut self, running: Running, held_bytes: usize, is_begun_again: bool) -> HalfRun {
        self.lease = None;
        HalfRun {
            running: Some(running),
            shard: self.shard.clone(),
            held_bytes,
            is_begun_again,
            _mark: self.timer.mark(),
        }
    }

    /// Gives `half_run`, which this has started, one slice more. `copied` as in [`Slicer::start`].
    pub fn resume<P: Probe, R>(
        &mut self,
        mut half_run: HalfRun,
        copied: &Counter,
        take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
    ) -> Sliced<R> {
        let running = half_run.running.as_mut();
        let running = running.expect("what is over is not half run");
        match poll::<P>(&self.timer, self.quantum, running) {
            Poll::Ready((instance, returned)) => {
                half_run.running = None;
                let (kept, taken) = self.ends.end(instance, returned, &self.shard, copied, take);
                self.shard.give_back(Lease { kept });
                Sliced::Over(taken)
            }
            Poll::Pending => Sliced::HalfRun(half_run),
        }
    }
}

impl Drop for Slicer {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.shard.give_back(lease);
        }
        self.shard.tally.close(&self.served);
        RESET_BYTES.close(&self.ends.reset_bytes);
    }
}

/// One slice.
#[inline]
fn poll<P: Probe>(
    timer: &SliceTimer,
    quantum: Duration,
    running: &mut Running,
) -> Poll<(Box<Instance>, wasmtime::Result<u32>)> {
    // Nobody waits to be woken: whoever has it polls it when its turn comes.
    let mut context = Context::from_waker(Waker::noop());
    let guest = || running.as_mut().poll(&mut context);
    P::within(Stage::Guest, || timer.run(quantum, guest))
}

impl Ends {
    /// A guest was ended in the middle of a request.
    fn discard(&mut self, mut instance: Box<Instance>, shard: &ShardSandbox) {
        let blueprint = blueprint_of(shard);
        let afterwards = blueprint.afterwards;
        afterwards.keeps(&mut instance, false, blueprint, &self.reset_bytes);
    }

    /// A guest has returned, or was ended: its answer goes to `take`, and the instance comes back if
    /// it may be used again.
    #[inline]
    fn end<R>(
        &mut self,
        mut instance: Box<Instance>,
        returned: wasmtime::Result<u32>,
        shard: &ShardSandbox,
        copied: &Counter,
        take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
    ) -> (Option<Box<Instance>>, R) {
        let blueprint = blueprint_of(shard);
        let answer = instance.end(returned, &shard.limits);
        let answer = answer.and_then(|answer| self.checker.accept(answer, copied));
        let afterwards = blueprint.afterwards;
        let unharmed = afterwards.spares(&answer);
        let taken = take(answer);
        let kept = afterwards.keeps(&mut instance, unharmed, blueprint, &self.reset_bytes);
        (kept.then_some(instance), taken)
    }
}

/// How the guests of a slicer's `shard` are made, and what becomes of them.
#[inline]
fn blueprint_of(shard: &ShardSandbox) -> &Blueprint {
    match &shard.runner {
        Runner::Wasm(blueprint) => blueprint,
        Runner::Native(_) => unreachable!("no slicer is made for it"),
    }
}
