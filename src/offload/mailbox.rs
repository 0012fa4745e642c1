//! The way back: answers from any thread to the one that waits for them.
//!
//! A lock around a vector, and a flag that says whether the reader sleeps. Whoever posts to a
//! sleeping reader must wake it, and learns so; whoever posts to one that is awake need not, since
//! the reader looks again before it sleeps. So a burst of answers costs one wake-up, and a busy
//! reader none. Knows nothing of what a wake-up is: a ring message, an eventfd, a parked thread.

use super::sync::{Mutex, MutexGuard};

/// Letters for one reader.
#[derive(Debug)]
pub struct Mailbox<T> {
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    letters: Vec<T>,
    sleeping: bool,
    /// Times that its reader had to be woken, since it took the last ones.
    woken: u32,
}

impl<T> Mailbox<T> {
    /// An empty mailbox, whose reader is awake.
    pub fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                letters: Vec::new(),
                sleeping: false,
                woken: 0,
            }),
        }
    }

    /// Posts a letter. True: the reader sleeps and the caller must wake it; nobody else will.
    #[must_use]
    pub fn post(&self, letter: T) -> bool {
        let mut inner = self.inner();
        inner.letters.push(letter);
        let must_wake = std::mem::take(&mut inner.sleeping);
        inner.woken += u32::from(must_wake);
        must_wake
    }

    /// The reader is about to sleep. False: it must not, there are letters. True: from now on the
    /// next letter wakes it.
    pub fn fall_asleep(&self) -> bool {
        let mut inner = self.inner();
        inner.sleeping = inner.letters.is_empty();
        inner.sleeping
    }

    /// The reader is awake and takes everything there is, oldest first, by exchanging `letters`,
    /// which must be empty. Says how often it had to be woken for them: at most once, unless it fell
    /// asleep and took nothing in between.
    pub fn take(&self, letters: &mut Vec<T>) -> u32 {
        debug_assert!(letters.is_empty(), "letters taken earlier would be lost");
        let mut inner = self.inner();
        inner.sleeping = false;
        std::mem::swap(&mut inner.letters, letters);
        std::mem::take(&mut inner.woken)
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn inner(&self) -> MutexGuard<'_, Inner<T>> {
        match self.inner.lock() {
            Ok(inner) => inner,
            Err(poisoned) => poisoned.into_inner(),
        }
    }
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self::new()
    }
}
