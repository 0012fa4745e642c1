//! What a simulated run is set to: how ill the weather is, what the caller of the driver is held to,
//! and what the driver and the test share.

use super::network::Network;
use crate::hash::fnv1a64;
use crate::io::Token;

/// How ill the weather is. Chances are out of 100.
#[derive(Clone, Debug)]
pub(crate) struct Weather {
    /// That a send is tried at once, as readiness models do.
    pub(crate) sends_at_once: u32,
    /// That a close is over at once.
    pub(crate) closes_at_once: u32,
    /// That a receive takes only some of what is there, or a send only some of what fits.
    pub(crate) cuts_short: u32,
    /// That bytes are received before anybody asks for the event, as completion models do.
    pub(crate) receives_ahead: u32,
    /// That a wait returns for nothing.
    pub(crate) interrupts: u32,
    /// That somebody wakes the driver, for nothing.
    pub(crate) wakes: u32,
    /// That an accept fails.
    pub(crate) accept_fails: u32,
    /// That an event is made up for a connection that is gone.
    pub(crate) stale: u32,
    /// Operations that the queue takes a turn.
    pub(crate) operations_a_turn: usize,
    /// Events told a turn.
    pub(crate) events_a_turn: usize,
    /// Buffers to receive ahead into, and their size.
    pub(crate) buffers: usize,
    pub(crate) buffer_bytes: usize,
}

/// What the caller is held to, and what the run is told by.
pub(crate) struct Terms {
    /// Connections admitted at a time; those above are only told that they are refused.
    pub(crate) admitted: usize,
    /// The longest buffer of answers.
    pub(crate) send_bytes: usize,
    /// Bytes that may be taken in beyond twice what was given: what a session may hold.
    pub(crate) held_bytes: usize,
}

/// What other threads have done meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Others {
    /// They have more to do.
    pub(crate) work: bool,
    /// They sent something to this thread, so that it must be awake.
    pub(crate) sent: bool,
}

/// What is shared with the test: both sides of every connection, and how it went.
pub(crate) struct World {
    pub(crate) network: Network,
    /// Has other threads go on in some way, which a random number decides.
    pub(crate) others: Box<dyn FnMut(u32) -> Others>,
    /// Called once, when every peer is over or [`World::ends_ns`] has come.
    pub(crate) end: Option<Box<dyn FnOnce()>>,
    pub(crate) ends_ns: Option<u64>,
    /// When it was called.
    pub(crate) told_ns: Option<u64>,
    /// Connections that the driver still has.
    pub(crate) live: usize,
    /// Hashes all that happened, in its order.
    pub(crate) trace: u64,
    pub(crate) accepted: u64,
    pub(crate) accepts_failed: u64,
    /// Prints every operation and event.
    pub(crate) says_all: bool,
}

impl World {
    /// Writes down what happened.
    pub(super) fn note(&mut self, token: Token, what: &str, bytes: &[u8]) {
        let now_ns = self.network.now_ns();
        let Token { index, generation } = token;
        let line = format!("{now_ns} {index}/{generation} {what} {}", bytes.len());
        self.trace = self.trace.rotate_left(1) ^ fnv1a64(line.as_bytes()) ^ fnv1a64(bytes);
        if self.says_all {
            println!("{line}");
        }
    }
}
