//! The handlers of a shard: one for each route, exchanged while its threads serve.
//!
//! Whoever exchanges one writes it here and moves the generation on; each thread that runs handlers
//! looks at the generation between two requests, which is one load, and takes over what is new. So a
//! running request ends with the handler it began with, and the next one begins with the new.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::offload::Workers;
use crate::sandbox::ShardSandbox;

/// What the threads of one shard are to run.
#[derive(Default)]
pub struct Handlers {
    generation: AtomicU64,
    current: Mutex<Vec<Arc<ShardSandbox>>>,
    /// Threads that keep a handler ready beyond the request, and may sleep for long over it.
    workers: OnceLock<Weak<Workers>>,
}

impl Handlers {
    /// Has the shard begin with these, one for each route; where there is a pool, `workers` run them.
    pub fn begin(&self, handlers: Vec<Arc<ShardSandbox>>, workers: Option<&Arc<Workers>>) {
        *self.current() = handlers;
        if let Some(workers) = workers {
            let _ = self.workers.set(Arc::downgrade(workers));
        }
    }

    /// Every route's handler now.
    pub fn all(&self) -> Vec<Arc<ShardSandbox>> {
        self.current().clone()
    }

    /// Has `handler` run for `route` from now on; returns the one until now, which is retired.
    ///
    /// # Panics
    /// There is no such route.
    pub fn exchange(&self, route: usize, handler: Arc<ShardSandbox>) -> Arc<ShardSandbox> {
        let old = std::mem::replace(&mut self.current()[route], handler);
        // Before anybody is told: who looks then sees that it is.
        old.retire();
        // After the handler: who sees the new generation finds it under the lock.
        self.generation.fetch_add(1, Ordering::Release);
        if let Some(workers) = self.workers.get().and_then(Weak::upgrade) {
            workers.let_go();
        }
        old
    }

    /// Nothing panics while it holds this lock but where a route does not exist, and then nothing
    /// has been changed.
    fn current(&self) -> MutexGuard<'_, Vec<Arc<ShardSandbox>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one thread has seen of its shard's [`Handlers`].
pub struct Seen {
    handlers: Arc<Handlers>,
    generation: u64,
}

impl Seen {
    /// The handlers as they are now, for a thread that begins, with a look at what comes.
    pub fn begin(handlers: Arc<Handlers>) -> (Seen, Vec<Arc<ShardSandbox>>) {
        // Before the handlers are read: what is exchanged in between is taken over again.
        let generation = handlers.generation.load(Ordering::Acquire);
        let current = handlers.all();
        let seen = Seen {
            handlers,
            generation,
        };
        (seen, current)
    }

    /// The handlers, if one was exchanged since the last look.
    #[inline]
    pub fn look(&mut self) -> Option<Vec<Arc<ShardSandbox>>> {
        let generation = self.handlers.generation.load(Ordering::Acquire);
        if generation == self.generation {
            return None;
        }
        self.generation = generation;
        Some(self.handlers.all())
    }
}
