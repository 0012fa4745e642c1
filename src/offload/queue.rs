//! The way there: work from several threads to several workers, bounded.
//!
//! A lock, a ring buffer and a condition variable. A worker that finds nothing sleeps on the
//! condition; one that is awake looks again before it sleeps. So pushing to a busy pool is a lock
//! and no system call, and a push wakes at most one worker. Waking is a system call, and so is what a push
//! leaves to be dropped: whoever times those tells it from the rest.

use std::collections::VecDeque;

use super::sync::{Condvar, Mutex, MutexGuard};

/// First come, first served, at most `capacity` at a time.
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    work: Condvar,
    capacity: usize,
}

#[derive(Debug)]
struct State<T> {
    waiting: VecDeque<T>,
    /// Workers that sleep and that nobody has promised anything.
    asleep: usize,
    /// Workers that were woken and have not looked yet.
    woken: usize,
    /// How often all were told to tidy up.
    tidied: u64,
    closed: bool,
}

/// Wakes the worker that was promised what was pushed, when this is dropped.
#[derive(Debug)]
pub struct Waking<'a, T> {
    /// None: all are awake.
    queue: Option<&'a Queue<T>>,
}

impl<T> Waking<'_, T> {
    /// Whether somebody sleeps: dropping this is a system call then, and nothing otherwise.
    pub fn is_due(&self) -> bool {
        self.queue.is_some()
    }
}

impl<T> Drop for Waking<'_, T> {
    fn drop(&mut self) {
        if let Some(queue) = self.queue {
            queue.work.notify_one();
        }
    }
}

impl<T> Queue<T> {
    /// An empty queue.
    pub fn new(capacity: usize) -> Self {
        Self {
            state: Mutex::new(State {
                waiting: VecDeque::new(),
                asleep: 0,
                woken: 0,
                tidied: 0,
                closed: false,
            }),
            work: Condvar::new(),
            capacity,
        }
    }

    /// Puts `item` at the end. A worker that sleeps is woken for it when what is returned is dropped.
    ///
    /// # Errors
    /// The queue is full or closed; here it is back.
    pub fn push(&self, item: T) -> Result<Waking<'_, T>, T> {
        let mut state = self.state();
        if state.closed || state.waiting.len() >= self.capacity {
            return Err(item);
        }
        state.waiting.push_back(item);
        let is_due = state.asleep > 0;
        if is_due {
            state.asleep -= 1;
            state.woken += 1;
        }
        Ok(Waking {
            queue: is_due.then_some(self),
        })
    }

    /// Takes the first item, and sleeps until there is one; adds to `slept` how often, at a system call
    /// each. `None`: the queue is closed and empty.
    /// Calls `tidy` before it sleeps, and again each time that [`Queue::tidy`] was called since.
    pub fn pop(&self, slept: &mut u32, mut tidy: impl FnMut()) -> Option<T> {
        let mut state = self.state();
        let mut tidied = None;
        loop {
            if let Some(item) = state.waiting.pop_front() {
                return Some(item);
            }
            if state.closed {
                return None;
            }
            if tidied != Some(state.tidied) {
                tidied = Some(state.tidied);
                // It may take long, and others want the lock; then there may be something to do.
                drop(state);
                tidy();
                state = self.state();
                continue;
            }
            state.asleep += 1;
            loop {
                *slept += 1;
                state = match self.work.wait(state) {
                    Ok(state) => state,
                    Err(poisoned) => poisoned.into_inner(),
                };
                // Otherwise it woke for no reason (pthread_cond_wait(3)), and is asleep still.
                if state.woken > 0 {
                    state.woken -= 1;
                    break;
                }
            }
        }
    }

    /// Takes the first item of those for which `is_it` holds out of the queue, whoever waits.
    pub fn remove(&self, is_it: impl FnMut(&T) -> bool) -> Option<T> {
        let mut state = self.state();
        let place = state.waiting.iter().position(is_it)?;
        state.waiting.remove(place)
    }

    /// Has every worker that has nothing to do tidy up, those that sleep too.
    pub fn tidy(&self) {
        let mut state = self.state();
        state.tidied += 1;
        state.woken += std::mem::take(&mut state.asleep);
        drop(state);
        self.work.notify_all();
    }

    /// Nothing more is taken in; workers take what there is and end.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.woken += std::mem::take(&mut state.asleep);
        drop(state);
        self.work.notify_all();
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn state(&self) -> MutexGuard<'_, State<T>> {
        match self.state.lock() {
            Ok(state) => state,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}
