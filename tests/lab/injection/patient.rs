//! A server under load whose threads take a dose, read in slices by the thread that loads it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ringlab::config::cores;
use ringlab::measure::cpu_clock;
use ringlab::measure::probe::{Dose, Stage};
use ringlab::offload::Policy;
use ringlab::server::Handle;
use ringlab::shard::Figures;

use super::{ELSEWHERE, start};
use crate::Lab;

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

/// Answers of `hello` are all of one length, which the first tells.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";

/// Connections that are asked in turn whether the answer has come, and send the next request then.
///
/// Nobody sleeps for an answer, so no send has to wake anybody: that costs as much as the rest of a
/// send or more, and whether it must be done changes from one millisecond to the next.
struct Clients {
    streams: Vec<TcpStream>,
    /// Bytes of its answer that each has still to receive.
    missing: Vec<usize>,
    answer_bytes: usize,
}

impl Clients {
    fn connect(address: SocketAddr, connections: usize) -> Self {
        let mut answer_bytes = 0;
        let connect = |_| {
            let mut stream = TcpStream::connect(address).expect("the server listens");
            stream.set_nodelay(true).expect("it is a TCP socket");
            stream.write_all(REQUEST).expect("it is connected");
            answer_bytes = stream.read(&mut [0; 4096]).expect("it is answered");
            stream.set_nonblocking(true).expect("it is a socket");
            stream.write_all(REQUEST).expect("there is room for one");
            stream
        };
        let streams: Vec<_> = (0..connections).map(connect).collect();
        Self {
            missing: vec![answer_bytes; streams.len()],
            streams,
            answer_bytes,
        }
    }

    fn drive(&mut self, time: Duration) {
        let started = Instant::now();
        let mut buffer = [0; 4096];
        while started.elapsed() < time {
            for (stream, missing) in self.streams.iter_mut().zip(&mut self.missing) {
                match stream.read(&mut buffer) {
                    Ok(0) => panic!("the server closed a connection"),
                    Ok(came) => *missing -= came,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                }
                if *missing == 0 {
                    stream.write_all(REQUEST).expect("there is room for one");
                    *missing = self.answer_bytes;
                }
            }
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
