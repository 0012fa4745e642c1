//! ringlab: a Linux I/O laboratory.
//!
//! One HTTP/1.1 server, one handler in a WebAssembly sandbox, several ways to move the bytes. All
//! but one thing is held equal, so that the difference between two runs is the cost of that thing.
//!
//! # One request, epoll, inline
//!
//! `main` → [`cli::serve`] → [`server`] → the row in [`models`] → [`event_loop`] →
//! `driver.wait` → `driver.next` lends the bytes → [`session`] absorbs them → [`http`] finds a
//! request in them → [`offload`] says where and when → [`sandbox`] runs the handler → [`http`]
//! writes the answer → the session asks for a send → `driver.submit`. One way through, no calls back
//! up.
//!
//! # The map
//!
//! | module | what it is for |
//! |---|---|
//! | [`cli`] | one file per command: arguments in, a table or a sentence out |
//! | [`config`] | what a server is asked to be, made valid once |
//! | [`server`] | shards started, watched and brought down |
//! | [`layout`], [`cluster`] | the cores as threads or as processes; a process for each |
//! | [`models`] | the table of I/O models |
//! | [`shard`] | a pinned thread and all that it owns; what shards share |
//! | [`event_loop`], [`thread_per_connection`], [`task_per_connection`] | the three shapes of a shard's thread |
//! | [`desk`] | a connection that waits in its own calls, and how the shard ends those |
//! | [`io`] | how bytes move: one file per model, behind one trait |
//! | [`session`] | one connection's life, without I/O |
//! | [`http`] | HTTP/1.1, without I/O |
//! | [`routes`], [`handlers`] | which handler a request is for; a shard's handlers, exchanged while it serves |
//! | [`offload`] | where and when a handler runs |
//! | [`sandbox`] | what runs: engine, guest ABI, isolation, limits |
//! | [`swap`] | a handler exchanged for another while requests flow |
//! | [`load`] | the load generator |
//! | [`measure`] | clocks, counters, host fingerprint, statistics |
//! | [`experiment`] | arms run in turn as blocks, and what may be concluded |
//! | [`report`] | results in, text out |
//! | [`control`] | what a server tells the laboratory that started it |
//! | [`whole_file`], [`descriptors`] | files that are whole or not there; the limit of open ones |
//! | `simulation` | the tests' storm: everything from [`event_loop`] down, over a driver that one seed decides |
//! | [`clock`], [`pool`], [`served`] | a shard's time, its buffers, its figures |
//!
//! # Invariants, each held by a test
//!
//! 1. `io` never names `http`, `sandbox` or `offload`; `http` never names sockets, clocks or
//!    `unsafe`; drivers never read a clock.
//! 2. All models send byte-identical responses, with the same socket options, limits and parser.
//! 3. Everything is bounded. A full queue pushes back; it never grows and never drops silently.
//! 4. A request in steady state allocates nothing in `http`, `io` and `session`.
//! 5. A guest can hurt only its own request.
//! 6. Probes that are off have no size and no code, but for a look at the thread beside system calls that
//!    others call back; probes that are on say what they cost.

pub mod cli;
pub mod clock;
pub mod cluster;
pub mod config;
pub mod control;
pub mod descriptors;
pub mod desk;
pub mod event_loop;
pub mod experiment;
pub mod handlers;
mod hash;
pub mod http;
pub mod io;
pub mod layout;
pub mod load;
pub mod measure;
pub mod models;
pub mod offload;
pub mod pool;
pub mod report;
pub mod routes;
pub mod sandbox;
pub mod served;
pub mod server;
pub mod session;
pub mod shard;
#[cfg(test)]
mod simulation;
pub mod swap;
pub mod task_per_connection;
pub mod thread_per_connection;
pub mod whole_file;
