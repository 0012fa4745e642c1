//! Servers under load whose threads take doses, read in slices by the thread that loads them.

use std::fmt;
use std::net::SocketAddr;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringlab::config::cores;
use ringlab::measure::cpu_clock;
use ringlab::measure::probe::{Dose, Stage};
use ringlab::models::Shape;
use ringlab::offload::Policy;
use ringlab::server::Handle;
use ringlab::shard::Figures;

use super::verdict::{OFF_NS, Slice};
use super::{ELSEWHERE, start};
use crate::Lab;
use crate::closed_loop::Clients;
use crate::guests::{File, growing};
use crate::one_by_one;
use crate::visitors::{self, Visitors};

/// What is put into a stage for each request.
pub const INJECTED_NS: u64 = 500;
/// Who has sent its last answer looks for requests once more, and sleeps then.
const FALLING_ASLEEP: Duration = Duration::from_micros(100);
/// A thread's end takes microseconds.
const LONGEST_END: Duration = Duration::from_secs(10);
const WARM_UP: Duration = Duration::from_millis(500);

/// Where a dose is given, and whether its work belongs to that row or to the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Given {
    pub at: Stage,
    pub moved: bool,
}

/// How servers are loaded, and where their handlers run.
#[derive(Clone, Copy)]
pub enum Load {
    /// So many connections, which are kept.
    Kept(usize),
    /// So many at once, each for one request.
    Visits(usize),
    /// The same, of whom each says more than is read.
    LingeringVisits(usize),
    /// The same as visits, where each connection has a thread of its own.
    Births(usize),
    /// As many, kept, and a worker on the loop's core answers.
    Pool(usize),
    /// As many, kept, and the guest's memory grows by a page for each request.
    Growing(usize),
}

impl Load {
    /// How long a dose is measured. What births and ends of threads take is different every few milliseconds,
    /// by more than it is from one to the next.
    pub fn slice(self) -> Duration {
        match self {
            Load::Births(_) => Duration::from_millis(1),
            _ => Duration::from_millis(5),
        }
    }

    /// The time in which the turn ends that had another dose.
    fn settling(self) -> Duration {
        match self {
            Load::Births(_) => Duration::from_millis(1),
            _ => Duration::from_millis(2),
        }
    }

    /// How well rows must be known that do not have the work. With a thread for it a connection takes ten times
    /// what a request does, and some rows of that differ by microseconds from one to the next: a fifth of a dose
    /// is what a quarter of an hour tells, if that.
    fn beside_ns(self) -> f64 {
        match self {
            Load::Births(_) => 2.0 * OFF_NS,
            _ => OFF_NS,
        }
    }

    /// What servers do whose threads come and go with the connections.
    fn ends_threads(self) -> bool {
        matches!(self, Load::Births(_))
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Load::Kept(connections) => write!(f, "{connections} connections"),
            Load::Visits(at_once) => {
                write!(f, "{at_once} connections at once, one for each request")
            }
            Load::LingeringVisits(at_once) => write!(
                f,
                "{at_once} lingering connections at once, one for each request"
            ),
            Load::Births(at_once) => write!(
                f,
                "{at_once} connections at once, each with a thread and one request"
            ),
            Load::Pool(connections) => write!(f, "{connections} connections, answered by a worker"),
            Load::Growing(connections) => {
                write!(
                    f,
                    "{connections} connections, answered by a guest that grows"
                )
            }
        }
    }
}

enum Asking {
    Kept(Clients),
    Visits(Visitors),
}

impl Asking {
    fn new(load: Load, addresses: &[SocketAddr]) -> Asking {
        match load {
            Load::Kept(connections) | Load::Pool(connections) | Load::Growing(connections) => {
                Asking::Kept(Clients::connect(addresses, connections))
            }
            Load::Visits(at_once) | Load::Births(at_once) => {
                Asking::Visits(Visitors::new(addresses[0], at_once, visitors::REQUEST))
            }
            Load::LingeringVisits(at_once) => Asking::Visits(Visitors::new(
                addresses[0],
                at_once,
                visitors::ONE_BYTE_MORE,
            )),
        }
    }

    fn drive(&mut self, time: Duration) {
        match self {
            Asking::Kept(clients) => clients.drive(time),
            Asking::Visits(visitors) => visitors.drive(time),
        }
    }

    fn finish(&mut self) {
        match self {
            Asking::Kept(clients) => clients.finish(),
            Asking::Visits(visitors) => visitors.finish(),
        }
    }
}

/// A server, and the dose that its threads take.
struct Dosed {
    handle: Handle,
    dose: Arc<Dose>,
}

/// Servers that are loaded together, and looked at as one.
///
/// Where each connection has a thread there are two, with half of the connections each: the kernel has
/// as many threads to choose from as of one, on the same core, and one server takes the first dose while
/// the other takes the second. What a `recv` costs that sleeps changes by half within milliseconds, with
/// who else uses the host; two doses one after the other are not under the same conditions.
///
/// Else there is one: two loops on a core are not what one is. It takes one dose after the other. And where
/// threads come and go with the connections it is one, too: what they took who are gone is in the process's
/// clock alone, which does not tell one server from another.
pub struct Patient {
    clients: Asking,
    servers: Vec<Dosed>,
    misplaced: Option<Misplaced>,
    load: Load,
    /// So many are there without those of connections.
    threads_at_rest: usize,
}

/// Doses that are meant for one stage and given to another, as by a server that calls the one by the other's
/// name.
#[derive(Clone, Copy)]
pub struct Misplaced {
    pub meant: Stage,
    pub given: Stage,
}

/// One server at one edge of a slice, or between two such.
#[derive(Clone, Copy, Default)]
struct Edge {
    figures: Figures,
    /// Of two clocks that are not read at once: a slice may have less than nothing.
    cpu_ns: i64,
    injected_ns: u64,
}

impl Edge {
    fn since(&self, earlier: &Edge) -> Edge {
        Edge {
            figures: self.figures.since(&earlier.figures),
            cpu_ns: self.cpu_ns - earlier.cpu_ns,
            injected_ns: self.injected_ns - earlier.injected_ns,
        }
    }

    fn plus(&self, other: &Edge) -> Edge {
        Edge {
            figures: self.figures.plus(&other.figures),
            cpu_ns: self.cpu_ns + other.cpu_ns,
            injected_ns: self.injected_ns + other.injected_ns,
        }
    }

    fn for_each_request(&self) -> Slice {
        let stages = &self.figures.stages;
        let per_request = |total: f64| total / self.figures.served.answered.max(1) as f64;
        let unexplained = self.cpu_ns as f64 - stages.ns.iter().sum::<i64>() as f64;
        let rows = stages.ns.iter().map(|&ns| ns as f64).chain([unexplained]);
        let entered = stages.entered.iter().map(|&times| times as f64);
        Slice {
            rows: rows.map(per_request).collect(),
            entered: entered.map(per_request).collect(),
            injected_ns: per_request(self.injected_ns as f64),
        }
    }
}

impl Patient {
    /// From now on doses go astray.
    pub fn misplace(&mut self, misplaced: Misplaced) {
        self.misplaced = Some(misplaced);
    }

    /// How well rows must be known that do not have the work, in nanoseconds.
    pub fn beside_ns(&self) -> f64 {
        self.load.beside_ns()
    }

    /// With no request under way: of one that is, the clocks would show a part that no row has.
    fn look(&mut self) -> Vec<Edge> {
        self.clients.finish();
        if let Asking::Visits(_) = self.clients {
            let is_empty = |server: &Dosed| {
                let served = server.handle.figures().served;
                served.accepted == served.closed
            };
            while !self.servers.iter().all(is_empty) {
                thread::sleep(FALLING_ASLEEP);
            }
        }
        let looked = Instant::now();
        while self.load.ends_threads() && own_threads() > self.threads_at_rest {
            assert!(
                looked.elapsed() < LONGEST_END,
                "there are {} threads, and {} without connections: is another test running?",
                own_threads(),
                self.threads_at_rest
            );
            thread::sleep(FALLING_ASLEEP);
        }
        thread::sleep(FALLING_ASLEEP);
        let threads = cpu_clock::own_threads_ns();
        let of_the_living = |server: &Dosed| {
            let serving = server.handle.serving_threads();
            let serving = threads
                .iter()
                .filter(|(thread, _)| serving.contains(thread));
            serving.map(|(_, ns)| ns.cast_signed()).sum()
        };
        let look = |server: &Dosed| Edge {
            cpu_ns: match self.load.ends_threads() {
                // All but this thread's: nobody else does anything. Who has ended is in it; but of a thread's
                // last moments kernels leave out what came after they last looked (`__exit_signal` in
                // kernel/exit.c), some microseconds at either dose.
                true => {
                    let all_ns = cpu_clock::own_process_ns().cast_signed();
                    all_ns - cpu_clock::thread_ns().cast_signed()
                }
                false => of_the_living(server),
            },
            figures: server.handle.figures(),
            injected_ns: server.dose.spent_ns(),
        };
        self.servers.iter().map(look).collect()
    }

    /// Two slices, in which each server takes each of the doses once; in the other order if `swapped`.
    pub fn pair(&mut self, given: &[Given; 2], swapped: bool) -> [Slice; 2] {
        let mut came = [Edge::default(); 2];
        for time in 0..2 {
            let takes = |server: usize| (server + time + usize::from(swapped)) % 2;
            for (server, Dosed { dose, .. }) in self.servers.iter().enumerate() {
                let Given { at, moved } = given[takes(server)];
                let at = match self.misplaced {
                    Some(misplaced) if misplaced.meant == at => misplaced.given,
                    _ => at,
                };
                dose.set_one_of_two(at, ELSEWHERE, moved, INJECTED_NS);
            }
            self.clients.drive(self.load.settling());
            let before = self.look();
            self.clients.drive(self.load.slice());
            let after = self.look();
            for (server, (after, before)) in after.iter().zip(&before).enumerate() {
                let came = &mut came[takes(server)];
                *came = came.plus(&after.since(before));
            }
        }
        came.map(|came| came.for_each_request())
    }
}

/// How many this process has.
fn own_threads() -> usize {
    cpu_clock::own_threads_ns().len()
}

/// Runs `examine` on servers that are loaded from another core.
pub fn under_load<R: Send>(
    lab: Lab,
    load: Load,
    examine: impl FnOnce(&mut Patient) -> R + Send,
) -> R {
    let there = cores();
    let (client, core) = (there[0], *there.last().expect("there is a core"));
    assert_ne!(client, core, "server and client need a core each");
    let together = match lab.model.shape {
        Shape::ThreadPerConnection if !load.ends_threads() => 2,
        _ => 1,
    };
    let policy = match load {
        Load::Pool(_) => Policy::Pool,
        _ => Policy::Inline,
    };
    let grows = matches!(load, Load::Growing(_)).then(|| File::new("grows.wat", growing()));
    let handler = grows.as_ref().map_or("hello", File::path);
    let start = |_| {
        let start = || start(lab, handler, policy, core, Some(1));
        let (server, dose) = one_by_one::start(lab, policy, start);
        let handle = server.handle();
        (server, Dosed { handle, dose })
    };
    let (servers, dosed): (Vec<_>, Vec<_>) = (0..together).map(start).unzip();
    let addresses: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let examined = move || {
        core_affinity::set_for_current(core_affinity::CoreId { id: client });
        let mut patient = Patient {
            clients: Asking::new(load, &addresses),
            servers: dosed,
            misplaced: None,
            load,
            threads_at_rest: own_threads(),
        };
        patient.clients.drive(WARM_UP);
        examine(&mut patient)
    };
    // On a thread that ends with it: this one may go on where it likes.
    let result = thread::scope(|scope| scope.spawn(examined).join());
    for server in servers {
        server.drain();
    }
    result.unwrap_or_else(|panic| resume_unwind(panic))
}
