//! Busy polling: every socket is tried in every turn, and the thread never sleeps.
//!
//! Nobody tells which socket is ready, so a turn costs a `recv` for each connection whether anything
//! came or not, and an `accept4`. With all connections busy that is as good as being told; with most
//! of them idle it is all waste. No request waits for a wake-up.

use std::io;
use std::os::fd::BorrowedFd;

use super::readiness::{Event, Notifier, Readiness, Ready};
use super::waker::Flag;
use super::{Counts, Listener, Token, Waker};
use crate::measure::probe::Probe;

/// Why busy polling cannot be used here, if so.
pub fn check() -> Result<(), String> {
    Ok(())
}

/// The driver.
pub type Nonblocking<P> = Readiness<Everything, P>;

/// Tells of every socket in every turn.
pub struct Everything {
    tokens: Vec<Token>,
    /// Where each token of that index stands in `tokens`.
    places: Vec<usize>,
    cursor: usize,
    told_of_listener: bool,
    woken: Flag,
}

impl Notifier for Everything {
    const TELLS_ALL: bool = true;

    fn open(_: &Listener) -> io::Result<(Self, Waker)> {
        let woken = Flag::default();
        let this = Self {
            tokens: Vec::new(),
            places: Vec::new(),
            cursor: 0,
            told_of_listener: true,
            woken: woken.clone(),
        };
        Ok((this, woken.waker()))
    }

    fn add<P: Probe>(&mut self, token: Token, _: BorrowedFd<'_>, _: &Counts) -> io::Result<bool> {
        if self.places.len() <= token.index() {
            self.places.resize(token.index() + 1, usize::MAX);
        }
        self.places[token.index()] = self.tokens.len();
        self.tokens.push(token);
        Ok(false)
    }

    fn add_room<P: Probe>(&mut self, _: Token, _: BorrowedFd<'_>, _: &Counts) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, token: Token, _: BorrowedFd<'_>) {
        let place = self.places[token.index()];
        self.tokens.swap_remove(place);
        // The last one has taken its place, and is tried in the next turn at the latest.
        if let Some(moved) = self.tokens.get(place) {
            self.places[moved.index()] = place;
        }
    }

    fn wait<P: Probe>(&mut self, _: bool, _: Option<u64>, _: &Counts) -> io::Result<()> {
        self.cursor = 0;
        self.told_of_listener = false;
        Ok(())
    }

    fn next<P: Probe>(&mut self, _: &Counts) -> Option<Event> {
        if !self.told_of_listener {
            self.told_of_listener = true;
            return Some(Event::Listener);
        }
        if self.woken.take() {
            return Some(Event::Woken);
        }
        let token = *self.tokens.get(self.cursor)?;
        self.cursor += 1;
        let ready = Ready {
            readable: true,
            sendable: true,
            hung_up: false,
        };
        Some(Event::Ready(token, ready))
    }
}
