//! A server under load whose threads take a dose, read in slices by the thread that loads it.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use ringlab::config::cores;
use ringlab::measure::cpu_clock;
use ringlab::measure::probe::{Dose, Stage};
use ringlab::offload::Policy;
use ringlab::server::Handle;
use ringlab::shard::Figures;

use super::{ELSEWHERE, start};
use crate::Lab;
use crate::closed_loop::Clients;

/// What is put into a stage for each request.
pub const INJECTED_NS: u64 = 500;
/// How long a dose is measured.
pub const SLICE: Duration = Duration::from_millis(5);
/// The time in which the turn ends that had another dose.
const SETTLING: Duration = Duration::from_millis(2);
const WARM_UP: Duration = Duration::from_millis(500);

/// Where a dose is given, and whether its work belongs to that row or to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    pub at: Stage,
    pub moved: bool,
}

/// What came in one slice, for each request.
pub struct Slice {
    /// Nanoseconds: the stages, then what is left of the threads' CPU time.
    pub rows: Vec<f64>,
    pub entered: Vec<f64>,
    pub injected_ns: f64,
}

/// The server, and the dose that its threads take.
pub struct Patient {
    clients: Clients,
    handle: Handle,
    dose: Arc<Dose>,
}

/// The server at one edge of a slice.
struct Edge {
    figures: Figures,
    cpu_ns: u64,
    injected_ns: u64,
}

impl Patient {
    fn look(&self) -> Edge {
        let serving = self.handle.serving_threads();
        let threads = cpu_clock::own_threads_ns().into_iter();
        let serving = threads.filter(|(thread, _)| serving.contains(thread));
        Edge {
            cpu_ns: serving.map(|(_, ns)| ns).sum(),
            figures: self.handle.figures(),
            injected_ns: self.dose.spent_ns(),
        }
    }

    /// One slice with the dose so given.
    pub fn slice(&mut self, given: Given) -> Slice {
        self.dose
            .set_one_of_two(given.at, ELSEWHERE, given.moved, INJECTED_NS);
        self.clients.drive(SETTLING);
        let before = self.look();
        self.clients.drive(SLICE);
        let after = self.look();
        let figures = after.figures.since(&before.figures);
        let per_request = |total: f64| total / figures.served.answered.max(1) as f64;
        let explained: u64 = figures.stages.ns.iter().sum();
        let stages = figures.stages.ns.iter().map(|&ns| ns as f64);
        let unexplained = (after.cpu_ns - before.cpu_ns) as f64 - explained as f64;
        let entered = figures.stages.entered.iter();
        Slice {
            rows: stages.chain([unexplained]).map(per_request).collect(),
            entered: entered.map(|&times| per_request(times as f64)).collect(),
            injected_ns: per_request((after.injected_ns - before.injected_ns) as f64),
        }
    }
}

/// Runs `examine` on a server that is loaded from another core.
pub fn under_load<R: Send>(
    lab: Lab,
    connections: usize,
    examine: impl FnOnce(&mut Patient) -> R + Send,
) -> R {
    let there = cores();
    let (client, core) = (there[0], *there.last().expect("there is a core"));
    assert_ne!(client, core, "server and client need a core each");
    let (server, dose) = start(lab, Policy::Inline, core);
    let (address, handle) = (server.address(), server.handle());
    let examined = move || {
        core_affinity::set_for_current(core_affinity::CoreId { id: client });
        let mut patient = Patient {
            clients: Clients::connect(address, connections),
            handle,
            dose,
        };
        patient.clients.drive(WARM_UP);
        examine(&mut patient)
    };
    // On a thread that ends with it: this one may go on where it likes.
    let result = thread::scope(|scope| scope.spawn(examined).join());
    server.drain();
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
