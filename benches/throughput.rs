//! Capacity, by I/O model.
//!
//! Unit: time per request with 64 connections busy all the time, which is the window's length
//! divided by the answers in it, not the latency of one; elements are requests.
//!
//! Held equal: handler (`hello` in wasm, kept instance), requests, answers, socket options, and the
//! load: `ringlab::load`, closed loop, one request in flight on each of 64 keep-alive connections,
//! from one pinned thread. Where that thread is busier than the server the client is the limit, and
//! models look more alike than they are: `ringlab compare` measures the server's CPU time instead.

mod lab;

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{
    BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use ringlab::load::{self, Mode, Plan, Target};

const CONNECTIONS: usize = 64;
/// Load before each window, for connections and caches.
const WARM_UP: Duration = Duration::from_millis(50);
/// No window is shorter: the generator stops by the clock, which it reads once a turn.
const SHORTEST: Duration = Duration::from_millis(20);
/// Nor longer than this, whatever criterion's own warm-up believes.
const LONGEST: Duration = Duration::from_secs(2);

/// A server and what one of its requests took at last.
struct Arm {
    plan: Plan,
    per_request: Duration,
}

impl Arm {
    fn new(address: SocketAddr, core: usize) -> Arm {
        let mut plan = Plan::new(address, "127.0.0.1", vec![Target::get("/")]);
        plan.cores = vec![core];
        plan.connections = CONNECTIONS;
        plan.mode = Mode::Closed { pipeline: 1 };
        plan.warm_up = WARM_UP;
        Arm {
            plan,
            per_request: Duration::from_micros(10),
        }
    }

    /// The time that `requests` take. A run is as long as these should take; how many it really
    /// answered gives the time of one.
    fn time(&mut self, requests: u64) -> Duration {
        let expected_s = self.per_request.as_secs_f64() * requests as f64;
        let shortest_s = SHORTEST.as_secs_f64();
        let longest_s = LONGEST.as_secs_f64();
        let mut window_s = expected_s.clamp(shortest_s, longest_s);
        let throughput = loop {
            self.plan.duration = Duration::from_secs_f64(window_s);
            let outcome = load::run(&self.plan, &AtomicBool::new(false), &mut ())
                .expect("the server takes connections");
            assert_eq!(outcome.failed.total(), 0, "requests failed");
            match outcome.throughput().filter(|&answers| answers > 0.0) {
                Some(throughput) => break throughput,
                // Others had the core for all of a short window.
                None if window_s < longest_s => window_s = (4.0 * window_s).min(longest_s),
                None => panic!("no answer within {window_s} s"),
            }
        };
        let per_request_s = 1.0 / throughput;
        self.per_request = Duration::from_secs_f64(per_request_s);
        Duration::from_secs_f64(per_request_s * requests as f64)
    }
}

fn throughput(criterion: &mut Criterion) {
    let cores = lab::Cores::choose();
    let servers = lab::start(&cores);
    let mut group = criterion.benchmark_group("throughput");
    group.throughput(Throughput::Elements(1));
    // A sample is a run with a warm-up of its own: few and long ones, all of one length.
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    for (model, server) in &servers {
        let mut arm = Arm::new(server.address(), cores.client);
        let id = BenchmarkId::new(*model, format!("{CONNECTIONS} connections"));
        group.bench_function(id, |bencher| {
            bencher.iter_custom(|requests| arm.time(requests));
        });
    }
    group.finish();
}

criterion_group!(benches, throughput);
criterion_main!(benches);
