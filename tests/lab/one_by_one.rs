//! Servers for measurements, whose threads run one by one: each until it waits.
//!
//! Many ordinary threads on a core are in one of two states, for seconds or as long as their server lives,
//! whatever the load: each runs until it waits; or one request in ten has its thread preempted by another
//! that wakes. (So seen on Linux 6.18, in a virtual machine; `SCHED_BATCH` and slices of 100 ms make no
//! difference.) In the second a `recv` that sleeps takes 4 µs as before, but one in ten takes 15 to 20, which
//! is nine parts in ten of the variance. What is looked for is the same in either, and is seen in the first.

use std::io;

use ringlab::models::Shape;
use ringlab::offload::Policy;

use crate::Lab;

/// What `start` starts with that policy, whose threads run first in, first out where there are several on a
/// core (sched(7)). It takes CAP_SYS_NICE or RLIMIT_RTPRIO; without, they run as they like.
pub fn start<R>(lab: Lab, policy: Policy, start: impl FnOnce() -> R) -> R {
    if lab.model.shape != Shape::ThreadPerConnection && policy == Policy::Inline {
        return start();
    }
    // Threads have the policy of who starts them.
    if let Err(error) = set_policy(libc::SCHED_FIFO, 1) {
        println!("threads preempt each other, which may make too much noise: {error}");
        return start();
    }
    let started = start();
    set_policy(libc::SCHED_OTHER, 0).expect("any thread may become an ordinary one");
    started
}

/// The calling thread's.
fn set_policy(policy: i32, priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the call reads the one structure, and 0 means the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
