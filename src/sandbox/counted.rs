//! Slices for tests: one ends not when its time is up but when the guest has passed so many loop heads
//! and function entries, as a seed decides. So the same seed is the same run.
//!
//! With a deadline of no epochs at all the guest looks at its watch at each of them (see `deadline`),
//! whatever the timers do, and the watch asks here.

use std::cell::RefCell;

use super::slice;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use wasmtime::UpdateDeadline;

thread_local! {
    static SLICES: RefCell<Option<Slices>> = const { RefCell::new(None) };
}

struct Slices {
    random: StdRng,
    /// How many looks the guest has until it is suspended.
    left: u32,
    /// How often one was, or was ended for want of a stack of its own.
    suspended: u64,
}

impl Slices {
    fn next_length(random: &mut StdRng) -> u32 {
        // Most requests of `echo` take a few dozen: some end in their first slice, some in their tenth.
        let longest = [2, 8, 64][random.random_range(0..3)];
        random.random_range(1..=longest)
    }
}

/// Slices of the calling thread's guests end as `seed` decides, until this is dropped.
pub(crate) struct Counted(());

impl Counted {
    pub(crate) fn by(seed: u64) -> Counted {
        let mut random = StdRng::seed_from_u64(seed);
        let left = Slices::next_length(&mut random);
        SLICES.set(Some(Slices {
            random,
            left,
            suspended: 0,
        }));
        Counted(())
    }

    /// How many slices ended so far before their guests did.
    pub(crate) fn suspended() -> u64 {
        SLICES.with_borrow(|slices| slices.as_ref().map_or(0, |slices| slices.suspended))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        SLICES.set(None);
    }
}

/// Whether slices are counted on this thread.
pub(super) fn is_on() -> bool {
    SLICES.with_borrow(Option::is_some)
}

/// A guest looks at its watch.
pub(super) fn look() -> Option<UpdateDeadline> {
    SLICES.with_borrow_mut(|slices| {
        let slices = slices.as_mut()?;
        slices.left -= 1;
        if slices.left > 0 {
            return Some(UpdateDeadline::Continue(0));
        }
        slices.left = Slices::next_length(&mut slices.random);
        slices.suspended += 1;
        Some(slice::end(0))
    })
}
