//! A figure that many threads count without a locked instruction: a handler's requests, bytes that were
//! put back.

use crate::measure::counter::Counter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The sum over all threads, ended ones among them.
#[derive(Debug)]
pub(super) struct Tally {
    open: Mutex<Vec<Arc<Counter>>>,
    closed: AtomicU64,
}

impl Tally {
    /// Nothing yet.
    pub(super) const fn new() -> Tally {
        Tally {
            open: Mutex::new(Vec::new()),
            closed: AtomicU64::new(0),
        }
    }

    /// A counter for the calling thread; it is [`Tally::close`]d in the end.
    pub(super) fn open(&self) -> Arc<Counter> {
        let counter = Arc::new(Counter::default());
        self.counters().push(counter.clone());
        counter
    }

    /// The thread counts no more.
    pub(super) fn close(&self, counter: &Arc<Counter>) {
        let mut open = self.counters();
        open.retain(|one| !Arc::ptr_eq(one, counter));
        self.closed.fetch_add(counter.get(), Ordering::Relaxed);
    }

    /// All together.
    pub(super) fn sum(&self) -> u64 {
        // Under the lock, or a thread that ends now would be counted twice or not at all.
        let open = self.counters();
        let running: u64 = open.iter().map(|counter| counter.get()).sum();
        self.closed.load(Ordering::Relaxed) + running
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn counters(&self) -> MutexGuard<'_, Vec<Arc<Counter>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
