//! A known number of system calls, counted before any count is believed.
//!
//! `raw_syscalls:sys_enter` without the kernel's side opens and reads 0, so that a counter opens
//! proves nothing. getppid(2) is called because no C library caches it.

use std::path::Path;
use std::sync::OnceLock;

use nix::unistd::getppid;

use super::event::Event;
use super::refusal::refusal;
use super::tracefs::Tracefs;

const CALLS: u64 = 1000;

/// Counts 1000 calls of getppid(2) on this thread, by the counter of all system calls and by the
/// one of this call, and says what does not match. Done once in a process: it takes some 80 ms.
pub fn self_test() -> Result<(), String> {
    let tested = SelfTest::of_this_process();
    match (tested.all, tested.by_name) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(all), Ok(())) => Err(format!("all system calls together: {all}")),
        (Ok(()), Err(by_name)) => Err(format!("system calls by name: {by_name}")),
        (Err(all), Err(by_name)) if all == by_name => Err(all),
        (Err(all), Err(by_name)) => Err(format!(
            "all system calls together: {all}; by name: {by_name}"
        )),
    }
}

/// Whether either kind of counter can be believed. The default is that nobody asked.
#[derive(Debug, Clone)]
pub(super) struct SelfTest {
    all: Result<(), String>,
    by_name: Result<(), String>,
}

impl Default for SelfTest {
    fn default() -> Self {
        Self {
            all: Ok(()),
            by_name: Ok(()),
        }
    }
}

impl SelfTest {
    pub(super) fn of_this_process() -> Self {
        static TESTED: OnceLock<SelfTest> = OnceLock::new();
        let test = || Self::run(&Tracefs::find(Path::new("/")));
        TESTED.get_or_init(test).clone()
    }

    pub(super) fn run(tracefs: &Tracefs) -> Self {
        Self {
            // The second of the two readings is a system call too, and the last that is counted.
            all: expect(&Event::SystemCalls, tracefs, CALLS + 1),
            by_name: expect(&Event::SystemCall("getppid".to_owned()), tracefs, CALLS),
        }
    }

    /// Whether counts of `event` can be believed.
    pub(super) fn of(&self, event: &Event) -> Result<(), String> {
        match event {
            Event::SystemCalls => self.all.clone(),
            Event::SystemCall(_) => self.by_name.clone(),
            _ => Ok(()),
        }
    }
}

fn expect(event: &Event, tracefs: &Tracefs, expected: u64) -> Result<(), String> {
    let mut builder = event.builder(tracefs)?;
    let opened = builder.observe_self().build();
    let mut counter = opened.map_err(|error| refusal(&error, event.side(), event.source()))?;
    let mut count = || {
        let before = counter.read()?;
        for _ in 0..CALLS {
            getppid();
        }
        Ok(counter.read()?.saturating_sub(before))
    };
    let counted = count().map_err(|error: std::io::Error| format!("cannot be read: {error}"))?;
    if counted != expected {
        return Err(format!(
            "the self-test made {expected} system calls and the kernel counted {counted}: run \
             outside of tracers and containers"
        ));
    }
    Ok(())
}
