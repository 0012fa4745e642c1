//! WHERE AND WHEN a handler runs. One file per policy.
//!
//! A policy takes a parsed request and sees to it that the handler's answer, or the reason why there
//! is none, gets into the connection's output: at once, or later. It knows no sockets and no
//! models; of the way back it knows how to wake whoever waits. It is called once a request, so a
//! virtual call is cheap and the same for all.
//!
//! | file | subject |
//! |---|---|
//! | `inline` | on the I/O thread, at once |
//! | `time_slice` | on the I/O thread, a slice at a time, between the loop's turns |
//! | `remote` | on another thread: the I/O thread's side of it |
//! | `pool` | the other threads are a few that live as long as the server |
//! | `spawn` | each request gets a thread of its own |
//! | `routed` | each request to the policy of its route |
//! | `job` | a request that leaves its thread, and its answer on the way back |
//! | `queue`, `mailbox` | the way there and the way back |
//! | `answer` | from an outcome to the bytes that the client gets |

mod answer;
mod inline;
mod job;
mod mailbox;
mod pool;
mod queue;
mod remote;
mod routed;
mod spawn;
#[cfg(test)]
mod tests;
mod time_slice;

pub use answer::encode;
pub use inline::Inline;
pub use job::Job;
#[cfg(test)]
pub(crate) use pool::Simulated;
pub use pool::Workers;
pub use remote::{Home, Remote, Wake};
pub use routed::Routed;
pub use spawn::Spawn;
pub use time_slice::{Patience, TimeSlice};

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::http;
use crate::io::{Buf, Token};
use crate::models::Shape;
use crate::sandbox::ShardSandbox;
use crate::served::Served;

/// What the queues are built on. The tests put a model checker's in its place.
mod sync {
    pub use std::sync::{Condvar, Mutex, MutexGuard};
}

/// What became of a request at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Started {
    /// The answer is in the output.
    Answered,
    /// [`Offload::next`] will bring it. Until then, or until [`Offload::cancel`], its owner starts no
    /// other.
    Later,
}

/// A policy, as one thread uses it.
pub trait Offload {
    /// Answers `request` into `out`, or takes it over.
    fn start(
        &mut self,
        owner: Token,
        request: &http::Request<'_, '_>,
        reply: http::Reply,
        date: &[u8; 29],
        out: &mut Buf,
        served: &Served,
    ) -> Started;

    /// The turn's events have been handled: what this thread has half done may go on for a while, and
    /// then the thread looks for events again. Says whether there was any.
    fn go_on(&mut self, _served: &Served) -> bool {
        false
    }

    /// The next answer to a request that was [`Started::Later`], if there is one. Asked once a turn,
    /// until there is none.
    fn next(&mut self, served: &Served) -> Option<Job>;

    /// The job's answer has been taken; it may be used again.
    fn recycle(&mut self, job: Job);

    /// Nobody wants the answer to `owner`'s request any more: [`Offload::next`] will not bring it, and
    /// what work can still be saved is saved.
    fn cancel(&mut self, owner: Token);

    /// The thread is about to wait for events. False: it must look for them and come back at once,
    /// since there is work. True: if an answer comes while it waits, it is woken.
    fn may_sleep(&mut self) -> bool;

    /// The thread is about to wait for an uncertain time: what others could use is given back.
    fn rest(&mut self) {}

    /// From the next request on, `handler` answers for `route`; what runs, ends as it began. A policy
    /// of one route has no other.
    fn replace(&mut self, route: usize, handler: &Arc<ShardSandbox>);
}

/// The threads that a server has for handlers, shared by its shards.
#[derive(Clone, Default)]
pub struct Threads {
    /// One for each request, if a route has [`Policy::Spawn`].
    pub spawn: Option<Spawn>,
    /// A few for all requests, if a route has [`Policy::Pool`].
    pub pool: Option<Arc<Workers>>,
}

/// The policies, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// On the I/O thread.
    Inline,
    /// On a thread of its own.
    Spawn,
    /// On one of a few worker threads.
    Pool,
    /// On the I/O thread, in slices.
    TimeSlice,
}

impl Policy {
    /// Every policy, the simplest first.
    pub const ALL: [Policy; 4] = [
        Policy::Inline,
        Policy::Spawn,
        Policy::Pool,
        Policy::TimeSlice,
    ];

    /// One sentence for listings.
    pub fn sentence(self) -> &'static str {
        match self {
            Policy::Inline => {
                "The handler runs on the I/O thread, at once; everything else there waits for it."
            }
            Policy::Spawn => {
                "Each request gets a thread of its own, which ends with it: the naive remedy."
            }
            Policy::Pool => {
                "A few worker threads take requests from a bounded queue: libuv's remedy."
            }
            Policy::TimeSlice => {
                "The handler runs on the I/O thread, on a stack of its own once that is needed, and is suspended when its slice is over: the loop goes on, and so does the handler in a later turn. Go's remedy."
            }
        }
    }

    /// Whether it can be had with models of this shape.
    ///
    /// # Errors
    /// Why not, and what can, to go on after a colon.
    pub fn check(self, shape: Shape) -> Result<(), &'static str> {
        match (self, shape) {
            (Policy::TimeSlice, Shape::ThreadPerConnection) => Err(
                "there the kernel slices handlers already, a thread each; choose offload inline with it, or a model with an event loop",
            ),
            (Policy::TimeSlice, Shape::RuntimeOwned) => Err(
                "it needs turns of ringlab's own loop, and there the runtime owns the loop; choose offload inline with it, or a model without one",
            ),
            _ => Ok(()),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Policy::Inline => "inline",
            Policy::Spawn => "spawn",
            Policy::Pool => "pool",
            Policy::TimeSlice => "time-slice",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// No policy has this name.
#[derive(Debug, thiserror::Error)]
#[error("no offload policy is called {0:?}; choose one of inline, spawn, pool, time-slice")]
pub struct UnknownPolicy(String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Policy, UnknownPolicy> {
        Policy::ALL
            .into_iter()
            .find(|policy| policy.name() == text)
            .ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}
