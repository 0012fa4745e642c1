//! Measuring: what is read from the kernel, and what may be concluded from it.
//!
//! Nothing here opens a socket, starts a server or prints. Gauges only read; statistics only
//! compute, so that the same blocks always give the same sentence.
//!
//! | file        | subject                                                                 |
//! |-------------|-------------------------------------------------------------------------|
//! | `reading`   | a value, or `n/a: reason`: nothing unmeasured is ever 0                 |
//! | `cpu_clock` | CPU time of a process, of this thread, and of all cores                 |
//! | `noise`     | steal, involuntary switches and run-queue wait of a block, and limits   |
//! | `host`      | the fingerprint that every result carries, and how two hosts differ     |
//! | `smt`       | cores that are hardware threads of one physical core                    |
//! | `counter`   | figures with one writing thread, and groups of them                     |
//! | `probe`     | the time of each stage of a thread, or nothing at all                   |
//! | `turns`     | how long a loop is away from its events                                 |
//! | `perf`      | the kernel's own counts of a process: calls, switches, faults, cycles   |
//! | `order`     | which arm runs when: balanced rounds                                    |
//! | `stats`     | ratios with intervals, the A/A control, claims and the verdict          |

pub mod counter;
pub mod cpu_clock;
pub mod host;
pub mod noise;
pub mod order;
pub mod perf;
pub mod probe;
pub mod reading;
pub mod smt;
pub mod stats;
pub mod turns;

#[cfg(test)]
mod fixture;
