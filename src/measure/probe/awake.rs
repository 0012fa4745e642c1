//! Loops that never sleep: nothing in them reads the CPU clock, so something must.

use super::{Probe, Stage};

/// Turns between two readings of the CPU clock, which tells what of the time was not the thread's
/// own.
const TURNS_ASTRAY: u32 = 64;

/// Keeps the clock of a thread that never sleeps from counting what others had of its core.
#[derive(Debug, Default)]
pub struct Awake {
    turns: u32,
}

impl Awake {
    /// Another turn begins.
    #[inline(always)]
    pub fn turn<P: Probe>(&mut self) {
        if P::ON {
            self.turns = (self.turns + 1) % TURNS_ASTRAY;
            if self.turns == 0 {
                // A stage in which a thread may sleep is measured by the CPU clock, at both ends.
                P::within(Stage::Poll, || ());
            }
        }
    }
}
