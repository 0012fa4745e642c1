//! How other threads wake one that waits in its ring: by a message into it, or, where the kernel takes
//! none from threads without a ring, by an eventfd that the ring reads.

use std::io;

use super::ring::Ring;
use super::waker::Bell;
use super::{Counts, Waker, ring_message};
use crate::measure::probe::Off;

/// The driver's end of it.
pub(super) enum WokenBy {
    /// Nothing is under way for it: a message comes by itself.
    Message(Bell),
    /// A read of the eventfd is under way, into `count`.
    Event { waker: Waker, count: Box<u64> },
}

impl WokenBy {
    /// For a ring of the calling thread's that was enabled. A message completes with `user_data`.
    ///
    /// # Errors
    /// When it takes an eventfd, and none can be had.
    pub(super) fn open(ring: &mut Ring, user_data: u64) -> io::Result<WokenBy> {
        if try_message(ring, user_data).is_ok() {
            return Ok(WokenBy::Message(Bell::in_ring(ring.as_fd(), user_data)));
        }
        Ok(WokenBy::Event {
            waker: Waker::new()?,
            count: Box::new(0),
        })
    }

    pub(super) fn waker(&self) -> Waker {
        match self {
            WokenBy::Message(bell) => bell.waker(),
            WokenBy::Event { waker, .. } => waker.clone(),
        }
    }

    pub(super) fn is_message(&self) -> bool {
        matches!(self, WokenBy::Message(_))
    }

    /// A wake-up's completion was taken: the next wake is another.
    pub(super) fn heard(&self) {
        if let WokenBy::Message(bell) = self {
            bell.heard();
        }
    }

    /// The ring is about to go.
    pub(super) fn end(&mut self) {
        if let WokenBy::Message(bell) = self {
            bell.end();
        }
    }
}

/// Tries whether a message reaches an enabled ring of the calling thread's, which has nothing else to
/// tell yet.
///
/// # Errors
/// As for [`ring_message::send`].
pub(super) fn try_message(ring: &mut Ring, user_data: u64) -> io::Result<()> {
    ring_message::send(ring.as_fd(), user_data)?;
    ring.enter::<Off>(true, &mut Vec::new(), &Counts::default())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use io_uring::squeue::Flags;

    use super::*;

    const WAKE: u64 = 7;

    /// An enabled ring and its bell, where this kernel has both.
    fn ring() -> Option<(Ring, Bell)> {
        let mut ring = Ring::open::<Off>().ok()?;
        ring.enable(&[], Flags::empty()).ok()?;
        if let Ok(WokenBy::Message(bell)) = WokenBy::open(&mut ring, WAKE) {
            return Some((ring, bell));
        }
        eprintln!("skipped: this kernel takes no message into a ring from a thread without one");
        None
    }

    /// What comes out of it when it has waited.
    fn wait(ring: &mut Ring) -> Vec<u64> {
        let mut completions = Vec::new();
        let entered = ring.enter::<Off>(true, &mut completions, &Counts::default());
        entered.expect("it is enabled");
        completions.iter().map(|one| one.user_data).collect()
    }

    #[test]
    fn wakes_before_it_looks_are_one_message() {
        let Some((mut ring, mut bell)) = ring() else {
            return;
        };
        let waker = bell.waker();
        // Comes after all that was sent before it, so that nobody waits for what does not come.
        let mark = WAKE + 1;
        let send_mark = |ring: &Ring| ring_message::send(ring.as_fd(), mark).expect("it took one");
        for _ in 0..3 {
            for _ in 0..5 {
                waker.wake();
            }
            send_mark(&ring);
            assert_eq!(wait(&mut ring), [WAKE, mark]);
            bell.heard();
        }
        bell.end();
        waker.wake();
        send_mark(&ring);
        assert_eq!(wait(&mut ring), [mark]);
    }

    /// Each time, the one side sleeps until the other wakes it.
    #[test]
    fn no_message_to_a_sleeping_ring_is_lost() {
        const ROUNDS: u64 = 5_000;
        // A minute of silence: drivers know no clock.
        const LOOK: Duration = Duration::from_millis(1);
        const LOOKS: u32 = 60_000;
        let Some((mut ring, bell)) = ring() else {
            return;
        };
        let (waker, asked) = (bell.waker(), AtomicBool::new(false));
        let fd = ring.as_fd().try_clone_to_owned().expect("a descriptor");
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let mut looks = 0;
                    while !asked.swap(false, Ordering::Acquire) {
                        looks += 1;
                        if looks > LOOKS {
                            // One was lost: the other side sleeps, and fails by this.
                            return ring_message::send(fd.as_fd(), WAKE + 1).expect("it took some");
                        }
                        if looks > 1000 {
                            std::thread::sleep(LOOK);
                        }
                    }
                    waker.wake();
                }
            });
            for _ in 0..ROUNDS {
                asked.store(true, Ordering::Release);
                let mut seen = wait(&mut ring);
                while seen.is_empty() {
                    seen = wait(&mut ring);
                }
                assert_eq!(seen, [WAKE]);
                bell.heard();
            }
        });
    }
}
