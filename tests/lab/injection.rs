//! Work put into each stage in turn: the ledger must find it in that row and in no other.
//!
//! A measurement, so no part of `cargo test`; `scripts/soak.sh` runs it:
//! `cargo test --release --test lab injection -- --ignored --nocapture`. The same machinery is held
//! to the nanosecond by a clock that is wound by hand, in `measure::probe`.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ringlab::config::{Config, cores};
use ringlab::load::{self, Observer, Progress, Target};
use ringlab::measure::cpu_clock;
use ringlab::measure::probe::{self, Injection, Stage};
use ringlab::models::Model;
use ringlab::sandbox::{Isolation, Source};
use ringlab::server::{Handle, Server};
use ringlab::shard::Figures;

use crate::Lab;

/// What is put into a stage for each request.
const INJECTED_NS: u64 = 500;
/// How far the row may be from that.
const OFF_NS: f64 = 50.0;
/// Blocks of each kind.
const ROUNDS: usize = 8;
/// Student's t for that many rounds: two-sided, 0.1 % outside. Some hundred rows are looked at.
const T: f64 = 5.408;
/// Smaller changes than this are none, however quiet the machine.
const NOTHING_NS: f64 = 10.0;
/// A row that moved by chance does not do so again.
const ATTEMPTS: usize = 3;

/// Nanoseconds for each request: the stages, then what is left of the threads' CPU time.
type Rows = Vec<f64>;

fn name(row: usize) -> &'static str {
    Stage::ALL
        .get(row)
        .map_or("unexplained", |stage| stage.name())
}

/// A server at one edge of the window.
struct Edge {
    figures: Figures,
    cpu_ns: u64,
}

struct Watch {
    handle: Handle,
    edges: Vec<Edge>,
}

impl Watch {
    fn look(&mut self) {
        let serving = self.handle.serving_threads();
        let threads = cpu_clock::own_threads_ns().into_iter();
        let serving = threads.filter(|(thread, _)| serving.contains(thread));
        let edge = Edge {
            cpu_ns: serving.map(|(_, ns)| ns).sum(),
            figures: self.handle.figures(),
        };
        self.edges.push(edge);
    }
}

impl Observer for Watch {
    fn window_opens(&mut self, _: &Progress) {
        self.look();
    }

    fn window_closes(&mut self, _: &Progress) {
        self.look();
    }
}

/// One block with `ns` of work in `stage`: what each row took, and how often each was entered.
fn block(model: &'static Model, stage: Stage, ns: u64) -> (Rows, Vec<f64>) {
    let there = cores();
    let (client, server) = (there[0], *there.last().expect("there is a core"));
    let mut config = Config::new(Source::Builtin("hello".to_string()), vec![server]);
    config.model = model;
    config.probed = true;
    config.injection = Some(Injection {
        stage,
        ns,
        recorded: true,
    });
    let server = Server::start(config).expect("a server can be started");
    let address = server.address();
    let target = Target::get("/");
    let mut plan = load::Plan::new(address, address.to_string(), vec![target]);
    plan.connections = 64;
    plan.cores = vec![client];
    plan.warm_up = Duration::from_millis(100);
    plan.duration = Duration::from_millis(400);
    let mut watch = Watch {
        handle: server.handle(),
        edges: Vec::new(),
    };
    load::run(&plan, &AtomicBool::new(false), &mut watch).expect("it can be loaded");
    server.drain();
    let [before, after] = &watch.edges[..] else {
        panic!("the window has two edges");
    };
    let figures = after.figures.since(&before.figures);
    let per_request = |total: f64| total / figures.served.answered.max(1) as f64;
    let cpu_ns = (after.cpu_ns - before.cpu_ns) as f64;
    let explained: u64 = figures.stages.ns.iter().sum();
    let stages = figures.stages.ns.iter().map(|&ns| ns as f64);
    let rows = stages.chain([cpu_ns - explained as f64]);
    let entered = figures.stages.entered.iter();
    (
        rows.map(per_request).collect(),
        entered.map(|&times| per_request(times as f64)).collect(),
    )
}

/// Mean of the differences, and its standard error.
fn moved(from: &[Rows], to: &[Rows], row: usize) -> (f64, f64) {
    let differences = from.iter().zip(to).map(|(from, to)| to[row] - from[row]);
    let differences: Vec<f64> = differences.collect();
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0) / n).sqrt())
}

/// Injects into `stage`, in turn with blocks that inject nothing, twice as many: each of these
/// against the other shows what the machine makes up. Returns the rows that are not as they should
/// be, in words.
fn wrong_rows(model: &'static Model, stage: Stage) -> Vec<String> {
    let mut kinds: [Vec<Rows>; 3] = Default::default();
    for round in 0..ROUNDS {
        for place in 0..kinds.len() {
            let kind = (place + round) % kinds.len();
            let ns = if kind == 2 { INJECTED_NS } else { 0 };
            kinds[kind].push(block(model, stage, ns).0);
        }
    }
    let [without, again, with] = &kinds;
    let mut wrong = Vec::new();
    for row in 0..=Stage::ALL.len() {
        let (apart, error) = moved(without, again, row);
        let floor = (apart.abs() + T * error).max(NOTHING_NS);
        let (change, _) = moved(without, with, row);
        let own = row == stage as usize;
        let (expected, allowed) = if own {
            (INJECTED_NS as f64, OFF_NS.max(floor))
        } else {
            (0.0, floor)
        };
        let line = format!(
            "{} moved by {change:.1} ns, A/A floor {floor:.1}",
            name(row)
        );
        if own {
            println!(
                "{}, {INJECTED_NS} ns in {}: {line}",
                model.name,
                stage.name()
            );
        }
        if (change - expected).abs() > allowed {
            wrong.push(line);
        }
    }
    wrong
}

fn check(lab: Lab) {
    assert!(cores().len() > 1, "server and client need a core each");
    probe::calibrate();
    let (_, entered) = block(lab.model, Stage::Loop, 0);
    // What a request enters, or a turn with few hundred of them.
    let stages = Stage::ALL
        .iter()
        .filter(|stage| entered[**stage as usize] > 0.005);
    for &stage in stages {
        let mut wrong = wrong_rows(lab.model, stage);
        for _ in 1..ATTEMPTS {
            if wrong.is_empty() {
                break;
            }
            println!("again, since {wrong:?}");
            wrong = wrong_rows(lab.model, stage);
        }
        assert_eq!(wrong, [""; 0], "{}, {}", lab.model.name, stage.name());
    }
}

#[test]
#[ignore = "a measurement: takes minutes, and means something on an idle machine only"]
fn work_put_into_a_stage_moves_its_row_and_no_other() {
    for model in ["blocking", "epoll", "io_uring"] {
        crate::run(model, Isolation::Reuse, check);
    }
}
