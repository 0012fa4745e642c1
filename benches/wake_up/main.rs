//! What it costs to tell another thread something: the ways back from workers to an I/O thread, and
//! the way there and back through `pool`.
//!
//! Units: `one way`, time per letter from 1 to 4 producers, which send as fast as they can, to one
//! consumer, which sleeps whenever nothing is there; `there and back`, time from a request's start to
//! its answer in the I/O thread's hands.
//!
//! Held equal: producers and workers on one core, consumer or I/O thread on another; a letter is eight
//! bytes; the handler is `hello` without a sandbox. Beside `there and back` stands the least that two
//! threads can do to wake each other, an eventfd each. Two sleeping cores being woken is nearly all of
//! it, so compare within a run. `in flight 16` is the same with a worker that never runs out of work,
//! and an I/O thread that looks and does not sleep: what is left when nobody need be woken.

#[path = "../../src/offload/mailbox.rs"]
mod mailbox;
mod one_way;
#[expect(dead_code, reason = "nothing is withdrawn here")]
#[path = "../../src/offload/queue.rs"]
mod queue;
mod there_and_back;

/// What the two files above are built on.
mod sync {
    pub use std::sync::{Condvar, Mutex, MutexGuard};
}

use std::net::SocketAddr;
use std::sync::Arc;

use core_affinity::CoreId;
use criterion::{Criterion, criterion_group, criterion_main};
use ringlab::config;
use ringlab::io::{Counts, Driver, listener};

/// Who runs where; with one core, all there.
#[derive(Clone, Copy)]
struct Cores {
    /// Producers and workers.
    others: usize,
    /// Consumer and I/O thread.
    own: usize,
}

fn cores() -> Cores {
    let usable = config::cores();
    Cores {
        others: *usable.last().expect("this thread runs on a core"),
        own: *usable.first().expect("this thread runs on a core"),
    }
}

fn pin(core: usize) {
    let pinned = core_affinity::set_for_current(CoreId { id: core });
    assert!(pinned, "core {core}");
}

/// A driver of the calling thread's, to which nobody connects.
fn driver<D: Driver>() -> D {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let (listeners, _) = listener::bind(any_port, 1).expect("loopback has a free port");
    let listener = listeners.into_iter().next().expect("one was asked for");
    D::open(listener, 1, Arc::new(Counts::default())).expect("it was tried")
}

/// Sleeps until the driver's waker is used.
fn sleep(driver: &mut impl Driver) {
    driver.wait(None).expect("the driver is in order");
    while driver.next().is_some() {}
}

fn wake_up(criterion: &mut Criterion) {
    let cores = cores();
    pin(cores.own);
    one_way::bench(criterion, cores);
    there_and_back::bench(criterion, cores);
}

criterion_group!(benches, wake_up);
criterion_main!(benches);
