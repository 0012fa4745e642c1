//! How many instances a shard may have at a time, and who waits when all are out.
//!
//! A slot is the right to have one instance. A thread leases a slot for its first call and holds
//! it until [`Sandbox::release`]: an event loop never lets go of it, so its calls take no lock; a
//! thread per connection lets go before it blocks on its connection.

use super::blueprint::Blueprint;
use super::deadline::Ticker;
use super::handler::{Handler, Program};
use super::instance::Instance;
use super::limits::Limits;
use super::load_error::LoadError;
use super::tally::Tally;
use super::{Answer, Call, Failure, native};
use crate::measure::counter::Counter;
use crate::measure::probe::{Asked, Off, Probe, Stage};
use ringlab_guest::Handler as NativeHandler;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Says whether header lines may stand in a response as they are, and if not, why not.
pub type CheckHeaderLines = fn(&[u8]) -> Result<(), &'static str>;

/// Bytes of guests' memory that this process put back.
pub(super) static RESET_BYTES: Tally = Tally::new();

/// Bytes of guests' memory that this process put back after requests, by copying or by filling with
/// zeros, whichever handler's: under `reset` and `fresh` what had been written, and all that a slot
/// keeps mapped where `fresh` takes wasmtime's pool. What the kernel drops and maps anew is in none of it, nor
/// is a module's data that is copied into the memory of each new instance.
pub fn reset_bytes() -> u64 {
    RESET_BYTES.sum()
}

/// A handler in one shard: an engine, the code in it, and the slots.
pub struct ShardSandbox {
    pub(super) runner: Runner,
    pub(super) limits: Limits,
    pub(super) check: CheckHeaderLines,
    slots: Mutex<Slots>,
    /// Notified once for each slot that is promised.
    promise: Condvar,
    pub(super) tally: Tally,
    /// Another has taken its place.
    retired: AtomicBool,
}

pub(super) enum Runner {
    Native(NativeHandler),
    Wasm(Box<Blueprint>),
}

/// The most stores that wait, with memories that are to be zeroed in them, while nobody uses them. Those at the
/// bottom may wait for long, and what they have is lacking elsewhere.
const IDLE_STORES: usize = 4;

struct Slots {
    /// Slots that nobody has and nobody waits for.
    free: usize,
    /// Threads that wait for a slot.
    waiting: usize,
    /// Slots given back for those who wait, at most as many as they are. Without this a busy
    /// thread would give its slot back and take it again before a waiting one wakes up.
    promised: usize,
    /// Instances in free and promised slots, the last used on top: its memory is the likeliest
    /// to be cached still.
    #[allow(clippy::vec_box, reason = "an instance goes from hand to hand boxed")]
    kept: Vec<Box<Instance>>,
}

/// A slot taken, with the instance in it, if there is one.
pub(super) struct Lease {
    pub(super) kept: Option<Box<Instance>>,
}

impl ShardSandbox {
    /// Makes the handler ready in a shard. `check` is asked about every answer's header lines,
    /// but not again about the same bytes.
    ///
    /// # Errors
    /// The host cannot make a pool, or a first instance, such as where addresses are limited (RLIMIT_AS). Where
    /// there is no pool, a later instance may be refused, and its request with it.
    pub fn new(handler: &Handler, check: CheckHeaderLines) -> Result<Arc<ShardSandbox>, LoadError> {
        let limits = handler.limits().clone();
        let runner = match handler.program() {
            Program::Native(handler) => Ok(Runner::Native(*handler)),
            Program::Wasm(artifact) => {
                let blueprint = Blueprint::new(artifact, handler.isolation(), &limits);
                blueprint.map(|blueprint| Runner::Wasm(Box::new(blueprint)))
            }
        };
        let runner = runner.map_err(|fault| LoadError {
            handler: handler.describe().name.clone(),
            fault,
        })?;
        Ok(Arc::new(ShardSandbox {
            runner,
            check,
            slots: Mutex::new(Slots {
                free: limits.instances,
                waiting: 0,
                promised: 0,
                kept: Vec::with_capacity(limits.instances),
            }),
            promise: Condvar::new(),
            tally: Tally::new(),
            retired: AtomicBool::new(false),
            limits,
        }))
    }

    /// Requests that it was called for, in all threads.
    pub fn served(&self) -> u64 {
        self.tally.sum()
    }

    /// Another takes its place: who keeps it ready for later requests need not.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether another has taken its place.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    fn lease<P: Probe>(&self) -> Result<Lease, Failure> {
        let mut slots = self.slots();
        if slots.free > 0 {
            slots.free -= 1;
        } else {
            slots.waiting += 1;
            let waited = P::within(Stage::FutexWait, || {
                let wait = self.limits.instance_wait;
                let none = |slots: &mut Slots| slots.promised == 0;
                self.promise.wait_timeout_while(slots, wait, none)
            });
            slots = waited.unwrap_or_else(PoisonError::into_inner).0;
            slots.waiting -= 1;
            if slots.promised == 0 {
                return Err(Failure::Exhausted);
            }
            slots.promised -= 1;
        }
        Ok(Lease {
            kept: slots.kept.pop(),
        })
    }

    /// A slot, if one is free now.
    pub(super) fn try_lease(&self) -> Option<Lease> {
        let mut slots = self.slots();
        slots.free = slots.free.checked_sub(1)?;
        Some(Lease {
            kept: slots.kept.pop(),
        })
    }

    pub(super) fn give_back(&self, mut lease: Lease) {
        // Before the slot: whoever gets that may need one of its memories.
        let has_enough = || self.slots().kept.len() >= IDLE_STORES;
        drop(lease.kept.take_if(|kept| kept.is_left() && has_enough()));
        let mut slots = self.slots();
        slots.kept.extend(lease.kept);
        if slots.waiting > slots.promised {
            slots.promised += 1;
            Asked::within(Stage::FutexWake, || self.promise.notify_one());
        } else {
            slots.free += 1;
        }
    }

    /// No code panics while it holds this lock, so it is never poisoned in earnest.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one thread calls its shard's handler through.
///
/// Stays on the thread that made it: its deadline is measured on that thread's CPU clock.
pub struct Sandbox {
    shard: Arc<ShardSandbox>,
    /// None for a native handler, which nothing can interrupt, and where there is no deadline.
    _ticker: Option<Ticker>,
    lease: Option<Lease>,
    checker: Checker,
    served: Arc<Counter>,
    reset_bytes: Arc<Counter>,
}

/// Checks header lines, but not the same ones twice in a row: a handler tends to answer the same
/// ones again, and comparing is cheaper than checking.
pub(super) struct Checker {
    check: CheckHeaderLines,
    /// What was accepted last; nothing at first, which is always right.
    accepted: Vec<u8>,
}

impl Sandbox {
    /// A sandbox for the calling thread, whose stack must have [`Limits::thread_stack_bytes`].
    ///
    /// # Errors
    /// The thread's timer cannot be made: see the message for the limit it met.
    pub fn new(shard: Arc<ShardSandbox>) -> io::Result<Sandbox> {
        let ticker = match &shard.runner {
            Runner::Native(_) => None,
            Runner::Wasm(blueprint) => {
                // Otherwise the first call would pay for the stack on which traps are handled.
                wasmtime::Engine::tls_eager_initialize();
                blueprint.ticker()?
            }
        };
        Ok(Sandbox {
            checker: Checker::new(shard.check),
            served: shard.tally.open(),
            reset_bytes: RESET_BYTES.open(),
            shard,
            _ticker: ticker,
            lease: None,
        })
    }

    /// Lets the handler answer `call`. `take` gets the answer, lent for as long as it runs, or
    /// the reason why there is none; what it returns is returned.
    ///
    /// Blocks only if all slots of the shard are leased, and for at most
    /// [`Limits::instance_wait`].
    #[inline]
    pub fn call<R>(
        &mut self,
        call: &Call<'_>,
        take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
    ) -> R {
        self.call_probed::<Off, R>(call, &Counter::default(), take)
    }

    /// [`Sandbox::call`], with the time of its stages recorded, and the bytes that it `copied` counted:
    /// into the guest's memory, and header lines that were not seen before.
    #[inline]
    pub fn call_probed<P: Probe, R>(
        &mut self,
        call: &Call<'_>,
        copied: &Counter,
        take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
    ) -> R {
        let Sandbox {
            shard,
            lease,
            checker,
            served,
            reset_bytes,
            ..
        } = self;
        served.add(1);
        let limits = &shard.limits;
        let blueprint = match &shard.runner {
            Runner::Native(handler) => {
                return native::call::<P, R>(*handler, call, limits, |answer| {
                    take(answer.and_then(|answer| checker.accept(answer, copied)))
                });
            }
            Runner::Wasm(blueprint) => blueprint,
        };
        let leased = match lease {
            Some(leased) => leased,
            None => match shard.lease::<P>() {
                Ok(leased) => lease.insert(leased),
                Err(failure) => return take(Err(failure)),
            },
        };
        let instance = match Instance::next(&mut leased.kept, blueprint) {
            Ok(instance) => instance,
            Err(failure) => return take(Err(failure)),
        };
        let answer = instance
            .call::<P>(call, limits, copied)
            .and_then(|answer| checker.accept(answer, copied));
        let afterwards = blueprint.afterwards;
        let unharmed = afterwards.spares(&answer);
        let taken = take(answer);
        if !afterwards.keeps(instance, unharmed, blueprint, reset_bytes) {
            leased.kept = None;
        }
        taken
    }

    /// Whether this calls the handler of `shard`.
    pub fn is_of(&self, shard: &Arc<ShardSandbox>) -> bool {
        Arc::ptr_eq(&self.shard, shard)
    }

    /// Lets go of the slot, and of the instance in it, for the shard's other threads. The next
    /// call leases one again. A thread calls this before it blocks on anything else.
    pub fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.shard.give_back(lease);
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // What a panic leaves behind is half-way through a request: nobody gets it.
        if std::thread::panicking()
            && let Some(lease) = &mut self.lease
        {
            lease.kept = None;
        }
        self.release();
        self.shard.tally.close(&self.served);
        RESET_BYTES.close(&self.reset_bytes);
    }
}

impl Checker {
    pub(super) fn new(check: CheckHeaderLines) -> Checker {
        Checker {
            check,
            accepted: Vec::new(),
        }
    }

    /// # Errors
    /// [`Failure::BadHeaderLines`].
    #[inline]
    pub(super) fn accept<'a>(
        &mut self,
        answer: Answer<'a>,
        copied: &Counter,
    ) -> Result<Answer<'a>, Failure> {
        if answer.header_lines != self.accepted.as_slice() {
            (self.check)(answer.header_lines).map_err(Failure::BadHeaderLines)?;
            self.accepted.clear();
            self.accepted.extend_from_slice(answer.header_lines);
            copied.add(answer.header_lines.len() as u64);
        }
        Ok(answer)
    }
}
