//! The slice that the calling thread's guest runs in, and the timer that ends it.
//!
//! As long as no guest runs long, nothing here costs a system call: the thread's coarse ticks, which
//! the deadline has anyway (see `deadline`), show that one does, and suspend it. From then on, until
//! no request of the thread is half run, fine ones come (see `beats`), and the coarse ones, which would
//! only come between them, rest.
//!
//! How exact: fine ticks come every quantum and are not set anew for each slice. A slice that follows
//! another begins just after one and ends with the next: a quantum, less what the loop did in between.
//! One that begins half-way, since the one before had come to its end, lasts half a quantum to one and
//! a half. One that begins while nothing is half run may last until the next coarse tick, 4 ms of
//! CPU time and one timer interrupt; with a quantum longer than that, a quantum more.
//!
//! A guest on its caller's stack cannot be suspended, only ended, for nothing, so a tick that may have
//! met it at its beginning does not end it: it lasts until the second at least. Nobody reads a clock for
//! it, and most end before the first.

use super::PAGE_BYTES;
use super::beats::Beats;
use super::deadline::{self, TICK};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::time::Duration;
use wasmtime::UpdateDeadline;

/// What is looked at for a stack, each way, in pages.
const PAGES_LOOKED_AT: usize = 64;

thread_local! {
    /// The slice that the thread's guest runs in, while it runs in one.
    static NOW: Cell<Option<Slice>> = const { Cell::new(None) };

    /// The guest that was suspended last.
    static HELD: Cell<Held> = const { Cell::new(Held { stack_at: 0, memory_bytes: 0 }) };

    /// This thread's ticks, as long as anybody needs them.
    static TIMER: RefCell<Weak<SliceTimer>> = const { RefCell::new(Weak::new()) };
}

#[derive(Clone, Copy)]
struct Slice {
    quantum: Duration,
    /// The thread's CPU clock when it began. None: nobody looked, since nothing was half run, or since
    /// it is not worth it.
    begun: Option<Duration>,
    stack: Stack,
}

/// Where a guest in a slice runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stack {
    /// It can be suspended.
    Own,
    /// It can only be ended; `outlasted`: it was, since its slice was over.
    Callers { outlasted: bool },
}

/// Where a guest was suspended, and what it had then.
#[derive(Clone, Copy, Default)]
struct Held {
    /// An address on its stack.
    stack_at: usize,
    memory_bytes: usize,
}

/// The guest whose stack this is called on is about to be suspended, with so much linear memory.
pub(super) fn note_held(memory_bytes: usize) {
    let here = 0_u8;
    HELD.set(Held {
        stack_at: (&raw const here).addr(),
        memory_bytes,
    });
}

/// Bytes that the guest suspended last holds: its linear memory, and the pages of its stack that were
/// ever written.
pub(super) fn held_bytes() -> usize {
    let Held {
        stack_at,
        memory_bytes,
    } = HELD.get();
    memory_bytes + resident_bytes_around(stack_at)
}

/// The resident pages around `address` that lie without a gap. A stack is used from its top on, and
/// beyond both ends of it lie guard pages, which never are resident.
fn resident_bytes_around(address: usize) -> usize {
    let page = address / PAGE_BYTES;
    let up = (page..page + PAGES_LOOKED_AT).take_while(|page| is_resident(*page));
    let down = (page.saturating_sub(PAGES_LOOKED_AT)..page).rev();
    (up.count() + down.take_while(|page| is_resident(*page)).count()) * PAGE_BYTES
}

/// Whether the page of that number is in memory. One that is not mapped is not (ENOMEM, mincore(2)).
fn is_resident(page: usize) -> bool {
    let mut state = 0_u8;
    let address = std::ptr::without_provenance_mut(page * PAGE_BYTES);
    // SAFETY: mincore looks at the kernel's tables and at no memory at `address`, which may lie
    // anywhere; it writes one byte for the one page asked about, which is `state`.
    let result = unsafe { libc::mincore(address, PAGE_BYTES, &raw mut state) };
    result == 0 && state & 1 == 1
}

/// Whether the calling thread's guest runs in a slice.
#[cfg(test)]
pub(super) fn is_running() -> bool {
    NOW.get().is_some()
}

/// What a tick finds.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// CPU time of the slice so far, as far as it is known.
    pub(super) ran: Duration,
    /// It was enough: see [`end`].
    pub(super) is_over: bool,
}

/// Ends the slice of the calling thread's guest: suspends it until it gets another, of which it looks at
/// its watch after `delta` ticks, or, where that cannot be, ends the guest.
pub(super) fn end(delta: u64) -> UpdateDeadline {
    match NOW.get() {
        Some(
            slice @ Slice {
                stack: Stack::Callers { .. },
                ..
            },
        ) => {
            let stack = Stack::Callers { outlasted: true };
            NOW.set(Some(Slice { stack, ..slice }));
            UpdateDeadline::Interrupt
        }
        _ => UpdateDeadline::Yield(delta),
    }
}

/// A tick came at `now`, of the thread's CPU clock. `None`: no slice runs.
pub(super) fn tick(now: Duration) -> Option<Found> {
    let mut slice = NOW.get()?;
    let Some(begun) = slice.begun else {
        slice.begun = Some(now);
        NOW.set(Some(slice));
        let ran = Duration::ZERO;
        return Some(Found {
            ran,
            is_over: slice.quantum <= TICK && slice.stack == Stack::Own,
        });
    };
    let ran = now.saturating_sub(begun);
    // Ticks come by another clock, and when this slice began nobody set them: the one that is nearest to
    // a whole quantum of it ends it. Where others had the core, that is a later one.
    let is_over = ran >= slice.quantum / 2;
    Some(Found { ran, is_over })
}

/// Ends slices on one thread, for all who run some there.
pub(super) struct SliceTimer {
    beats: RefCell<Beats>,
    /// How often they come, if they do.
    every: Cell<Option<Duration>>,
    /// Requests of this thread that are half run.
    half_run: Cell<usize>,
}

/// One more request of the thread is half run, until this is dropped.
pub(super) struct HalfRunMark(Rc<SliceTimer>);

impl SliceTimer {
    /// The calling thread's. Somebody must have a ticker on it, or nobody hears the timer.
    ///
    /// # Errors
    /// As for [`deadline::timer`].
    pub(super) fn of_this_thread() -> io::Result<Rc<SliceTimer>> {
        TIMER.with_borrow_mut(|kept| {
            if let Some(timer) = kept.upgrade() {
                return Ok(timer);
            }
            let timer = Rc::new(SliceTimer {
                beats: RefCell::new(Beats::new()?),
                every: Cell::new(None),
                half_run: Cell::new(0),
            });
            *kept = Rc::downgrade(&timer);
            Ok(timer)
        })
    }

    /// Runs `guest`, which has a stack of its own, in a slice of `quantum`.
    #[inline]
    pub(super) fn run<R>(&self, quantum: Duration, guest: impl FnOnce() -> R) -> R {
        let begun = match self.half_run.get() {
            0 => None,
            _ if self.every.get() == Some(quantum) => deadline::cpu_time(),
            _ => self.set(quantum),
        };
        let stack = Stack::Own;
        let now = Now::begin(Slice {
            quantum,
            begun,
            stack,
        });
        let returned = guest();
        drop(now);
        returned
    }

    /// Runs `guest`, which has the caller's stack, in a slice of `quantum`. `None`: it was over first,
    /// and the guest was ended.
    #[inline]
    pub(super) fn try_run<R>(&self, quantum: Duration, guest: impl FnOnce() -> R) -> Option<R> {
        if self.half_run.get() > 0 && self.every.get().is_none() {
            self.set(quantum);
        }
        let now = Now::begin(Slice {
            quantum,
            begun: None,
            stack: Stack::Callers { outlasted: false },
        });
        let returned = guest();
        (!now.is_outlasted()).then_some(returned)
    }

    /// Has ticks come a quantum from now and every quantum after that, until nothing is half run, and
    /// returns the thread's CPU clock.
    fn set(&self, quantum: Duration) -> Option<Duration> {
        // Were it to fail, the coarse ticks end the slice.
        self.beats.borrow_mut().set(quantum).ok()?;
        self.every.set(Some(quantum));
        if quantum <= TICK {
            deadline::rest();
        }
        deadline::cpu_time()
    }

    /// Counts one more half-run request.
    pub(super) fn mark(self: &Rc<Self>) -> HalfRunMark {
        self.half_run.set(self.half_run.get() + 1);
        HalfRunMark(self.clone())
    }
}

/// The calling thread's guest is in a slice, until this is dropped: also when its host code panics.
struct Now;

impl Now {
    #[inline]
    fn begin(slice: Slice) -> Now {
        NOW.set(Some(slice));
        Now
    }

    #[inline]
    fn is_outlasted(&self) -> bool {
        let stack = NOW.get().map(|slice| slice.stack);
        stack == Some(Stack::Callers { outlasted: true })
    }
}

impl Drop for Now {
    #[inline]
    fn drop(&mut self) {
        NOW.set(None);
    }
}

impl Drop for HalfRunMark {
    fn drop(&mut self) {
        let left = self.0.half_run.get() - 1;
        self.0.half_run.set(left);
        if left == 0 {
            // An idle thread is not woken.
            self.0.every.set(None);
            self.0.beats.borrow_mut().stop();
            deadline::resume();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUANTUM: Duration = Duration::from_micros(500);
    const AT: Duration = Duration::from_secs(1);

    fn timer() -> Rc<SliceTimer> {
        SliceTimer::of_this_thread().expect("there are timers")
    }

    #[track_caller]
    fn expect(found: Option<Found>, ran: Duration, is_over: bool) {
        let found = found.expect("a slice runs");
        assert_eq!((found.ran, found.is_over), (ran, is_over));
    }

    #[test]
    fn the_first_tick_ends_a_guest_that_can_be_suspended() {
        timer().run(QUANTUM, || {
            expect(tick(AT), Duration::ZERO, true);
            assert!(matches!(end(3), UpdateDeadline::Yield(3)));
        });
        assert!(tick(AT).is_none(), "no slice runs");
    }

    /// It may have met it at its beginning, and what is ended here was for nothing.
    #[test]
    fn the_first_tick_ends_no_guest_that_cannot_be_suspended() {
        let returned = timer().try_run(QUANTUM, || {
            expect(tick(AT), Duration::ZERO, false);
            expect(tick(AT + QUANTUM / 4), QUANTUM / 4, false);
            7
        });
        assert_eq!(returned, Some(7));
        let returned = timer().try_run(QUANTUM, || {
            expect(tick(AT), Duration::ZERO, false);
            expect(tick(AT + QUANTUM), QUANTUM, true);
            assert!(matches!(end(3), UpdateDeadline::Interrupt));
        });
        assert_eq!(returned, None);
        assert_eq!(timer().try_run(QUANTUM, || 7), Some(7), "that was another");
    }

    /// Else it would keep the half-run ones waiting until two coarse ticks have come.
    #[test]
    fn fine_ticks_come_for_a_guest_that_cannot_be_suspended_too() {
        let timer = timer();
        let hour = Duration::from_secs(3600);
        timer.try_run(hour, || ());
        assert_eq!(timer.every.get(), None, "nothing is half run");
        let mark = timer.mark();
        timer.try_run(hour, || ());
        assert_eq!(timer.every.get(), Some(hour));
        // Others' slices are not made another length for it.
        timer.try_run(QUANTUM, || ());
        assert_eq!(timer.every.get(), Some(hour));
        drop(mark);
        assert_eq!(timer.every.get(), None);
    }
}
