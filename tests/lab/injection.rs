//! Work put into each stage in turn: the ledger must find it in that row and in no other.
//!
//! One server is compared with itself: a dose of work is moved from stage to stage while it serves
//! the same connections. Always some, and for each request the same: a server that has more to do
//! has its clients sleep, and pays for waking them, which is no mistake of the ledger's.
//!
//! The figures are a measurement, so no part of `cargo test`; `scripts/soak.sh` takes them:
//! `cargo test --release --test lab injection -- --ignored --nocapture --test-threads 1`. What needs
//! no idle machine is tested always: a dose that dwarfs all else, here; and every nanosecond, by a
//! clock that is wound by hand, in `measure::probe`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlab::config::{Config, cores};
use ringlab::load::{self, Target};
use ringlab::measure::cpu_clock;
use ringlab::measure::order;
use ringlab::measure::probe::{self, Dose, Injection, Stage};
use ringlab::measure::stats::student_t_quantile;
use ringlab::sandbox::{Isolation, Source};
use ringlab::server::{Handle, Server};
use ringlab::shard::Figures;

use crate::client::Client;
use crate::server::some_core;
use crate::{Lab, on_every_model};

on_every_model![a_stage_with_a_large_dose_is_the_row_that_grows_most];

/// A server that records its stages and takes a dose.
fn start(lab: Lab, core: usize) -> (Server, Arc<Dose>) {
    probe::calibrate();
    let dose = Arc::new(Dose::new(Stage::Loop, 0));
    let mut config = Config::new(Source::Builtin("hello".to_string()), vec![core]);
    config.model = lab.model;
    config.isolation = lab.isolation;
    config.probed = true;
    config.injection = Some(Injection {
        dose: dose.clone(),
        recorded: true,
    });
    let server = Server::start(config).expect("a server can be started");
    (server, dose)
}

fn a_stage_with_a_large_dose_is_the_row_that_grows_most(lab: Lab) {
    const REQUESTS: u64 = 20;
    const LARGE_NS: u64 = 1_000_000;
    const MOST_ROUNDS: usize = 30;
    let (server, dose) = start(lab, some_core());
    let handle = server.handle();
    let mut client = Client::connect(server.address());
    client.expect_open();
    // Requests are sent until so much was spent in that stage: whether a thread waits for the next one
    // is the machine's to say.
    let mut take = |stage: Stage, ns: u64, least_ns: u64| {
        dose.set(stage, ns);
        let (before, spent_ns) = (handle.figures().stages, dose.spent_ns());
        for _ in 0..MOST_ROUNDS {
            (0..REQUESTS).for_each(|_| client.expect_open());
            if dose.spent_ns() - spent_ns >= least_ns {
                break;
            }
        }
        let spent_ns = dose.spent_ns() - spent_ns;
        (handle.figures().stages.since(&before), spent_ns)
    };
    let (without, _) = take(Stage::Loop, 0, 0);
    let entered = |stage: &&Stage| without.entered[**stage as usize] >= REQUESTS / 2;
    let stages: Vec<&Stage> = Stage::ALL.iter().filter(entered).collect();
    assert!(stages.len() > 4, "{without:?}");
    let name = lab.model.name;
    let enough_ns = REQUESTS / 2 * LARGE_NS;
    for &stage in stages {
        let (with, spent_ns) = take(stage, LARGE_NS, enough_ns);
        assert!(spent_ns >= enough_ns, "{name}, {stage:?}: {spent_ns} ns");
        let grown =
            |stage: Stage| with.ns[stage as usize].saturating_sub(without.ns[stage as usize]);
        let most = Stage::ALL.iter().copied().max_by_key(|stage| grown(*stage));
        assert_eq!(most, Some(stage), "{name}: {without:?}, {with:?}");
    }
    server.drain();
}

/// What is put into a stage for each request.
const INJECTED_NS: u64 = 500;
/// How far the row may be from that.
const OFF_NS: f64 = 50.0;
/// How long a dose is measured, after a time in which the turn ends that had another.
const SLICE: Duration = Duration::from_millis(5);
const SETTLING: Duration = Duration::from_millis(2);
/// Slices are added until the machine makes up less than this in any row.
const FLOOR_NS: f64 = 40.0;
/// Or until this time is up; `RINGLAB_SECONDS` is another, after which the floor is what it is.
const LONGEST: Duration = Duration::from_secs(600);
/// Smaller changes than this are none, however long it was measured: the processor works on what is
/// before and behind a stage's border at once, and on neither while it spins at that border.
const NOTHING_NS: f64 = 10.0;
/// A row that moved by chance does not do so again.
const STUDIES: usize = 3;
/// What may be wrong among all that is looked at.
const SIGNIFICANCE: f64 = 0.05;
/// Of the slices at either end, by value, this part counts for nothing: a core that somebody else
/// had for milliseconds is no sample.
const TRIMMED: f64 = 0.1;
/// The control: what stands in every model's ledger, a second time.
const CONTROL: Stage = Stage::Loop;

/// Nanoseconds for each request: the stages, then what is left of the threads' CPU time.
type Rows = Vec<f64>;

fn name(row: usize) -> &'static str {
    Stage::ALL
        .get(row)
        .map_or("unexplained", |stage| stage.name())
}

/// What came in one slice, for each request.
struct Slice {
    rows: Rows,
    entered: Vec<f64>,
    injected_ns: f64,
}

/// A server under load, and the dose that its threads take.
struct Patient {
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

    /// One slice with the dose in `stage`.
    fn slice(&self, stage: Stage) -> Slice {
        self.dose.set(stage, INJECTED_NS);
        thread::sleep(SETTLING);
        let before = self.look();
        thread::sleep(SLICE);
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
fn under_load<R: Send>(lab: Lab, examine: impl FnOnce(&Patient) -> R + Send) -> R {
    let there = cores();
    let (client, core) = (there[0], *there.last().expect("there is a core"));
    assert_ne!(client, core, "server and client need a core each");
    let (server, dose) = start(lab, core);
    let address = server.address();
    let mut plan = load::Plan::new(address, address.to_string(), vec![Target::get("/")]);
    plan.connections = 64;
    plan.cores = vec![client];
    plan.duration = 2 * LONGEST;
    let handle = server.handle();
    let stop = AtomicBool::new(false);
    let result = thread::scope(|scope| {
        let load = scope.spawn(|| load::run(&plan, &stop, &mut ()));
        // Beside the client: whoever looks takes no time from the server's core.
        let looking = scope.spawn(|| {
            core_affinity::set_for_current(core_affinity::CoreId { id: client });
            thread::sleep(Duration::from_millis(500));
            examine(&Patient { handle, dose })
        });
        let result = looking.join();
        stop.store(true, Ordering::Relaxed);
        let load = load.join().expect("it does not panic");
        load.expect("it can be loaded");
        result.expect("it does not panic")
    });
    server.drain();
    result
}

/// A mean, and how far it may be off.
#[derive(Clone, Copy)]
struct Moved {
    ns: f64,
    error_ns: f64,
}

/// The slices of each dose: one of each in a round.
struct Study {
    /// Where each dose is put; the last is the control.
    doses: Vec<Stage>,
    slices: Vec<Vec<Slice>>,
}

impl Study {
    fn rounds(&self) -> usize {
        self.slices[0].len()
    }

    /// The mean of one difference a round, without its tails, and `quantile` of Student's times its
    /// error (K. K. Yuen, "The two-sample trimmed t for unequal population variances", Biometrika
    /// 61, 1974, with one sample).
    fn mean(&self, difference: impl Fn(usize) -> f64) -> Moved {
        let mut sorted: Vec<f64> = (0..self.rounds()).map(difference).collect();
        sorted.sort_by(f64::total_cmp);
        let cut = (sorted.len() as f64 * TRIMMED) as usize;
        let kept = &sorted[cut..sorted.len() - cut];
        let (n, h) = (sorted.len() as f64, kept.len() as f64);
        let ns = kept.iter().sum::<f64>() / h;
        let winsorized = |d: &f64| d.clamp(kept[0], kept[kept.len() - 1]);
        let around = sorted.iter().map(winsorized).sum::<f64>() / n;
        let squares = sorted.iter().map(|d| (winsorized(d) - around).powi(2));
        let error = (squares.sum::<f64>() / (h * (h - 1.0))).sqrt();
        let looks = (self.doses.len() * (Stage::ALL.len() + 1)) as f64;
        let quantile = student_t_quantile(1.0 - SIGNIFICANCE / 2.0 / looks, h - 1.0);
        Moved {
            ns,
            error_ns: quantile * error,
        }
    }

    /// The smallest change of a row that means anything: by how much it seems to move between two
    /// equal doses.
    fn floor(&self, row: usize) -> f64 {
        let control = self.doses.len() - 1;
        let same = self.doses.iter().position(|stage| *stage == CONTROL);
        let same = same.expect("every model has it");
        let [one, other] = [same, control].map(|dose| &self.slices[dose]);
        let moved = self.mean(|round| other[round].rows[row] - one[round].rows[row]);
        (moved.ns.abs() + moved.error_ns).max(NOTHING_NS)
    }

    /// How much more there is in `row` when the dose is put into `stage`, against doses that are put
    /// into other stages than either.
    fn moved(&self, stage: Stage, row: usize, less_injected: bool) -> Moved {
        let of = |wanted: &dyn Fn(Stage) -> bool| -> Vec<&Vec<Slice>> {
            let doses = self.doses.iter().zip(&self.slices);
            let wanted = doses.filter(|(stage, _)| wanted(**stage));
            wanted.map(|(_, slices)| slices).collect()
        };
        let here = of(&|dose| dose == stage)[0];
        let others = of(&|dose| dose != stage && dose as usize != row);
        self.mean(|round| {
            let elsewhere: f64 = others.iter().map(|slices| slices[round].rows[row]).sum();
            let elsewhere = elsewhere / others.len() as f64;
            let injected = f64::from(u8::from(less_injected)) * here[round].injected_ns;
            here[round].rows[row] - elsewhere - injected
        })
    }

    /// Prints a line for `stage`; returns the rows that are not as they should be.
    fn judge(&self, model: &str, stage: Stage) -> Vec<usize> {
        let own = self.moved(stage, stage as usize, false);
        let beyond = self.moved(stage, stage as usize, true);
        let rows = (0..=Stage::ALL.len()).filter(|row| *row != stage as usize);
        let others: Vec<_> = rows
            .map(|row| (row, self.moved(stage, row, false), self.floor(row)))
            .collect();
        let nearest = others
            .iter()
            .max_by(|a, b| (a.1.ns.abs() / a.2).total_cmp(&(b.1.ns.abs() / b.2)));
        let (row, most, floor) = nearest.expect("there are other rows");
        println!(
            "{model}: {:<25} {:+.1} ±{:.1}, injected {:.1}; most beside: {} {:+.1}, floor {floor:.1}",
            stage.name(),
            own.ns,
            own.error_ns,
            own.ns - beyond.ns,
            name(*row),
            most.ns,
        );
        let is_off = (own.ns - INJECTED_NS as f64).abs() > OFF_NS || beyond.ns.abs() > OFF_NS;
        let own = is_off.then_some(stage as usize);
        let moved = others
            .iter()
            .filter(|(_, moved, floor)| moved.ns.abs() > *floor);
        own.into_iter().chain(moved.map(|(row, ..)| *row)).collect()
    }
}

/// Doses in balanced rounds, until the floor is low enough.
fn study(patient: &Patient) -> Study {
    let entered = patient.slice(CONTROL).entered;
    // What a request enters, or a turn with few hundred of them.
    let entered = Stage::ALL
        .iter()
        .filter(|stage| entered[**stage as usize] > 0.005);
    let doses: Vec<Stage> = entered.copied().chain([CONTROL]).collect();
    let mut study = Study {
        slices: doses.iter().map(|_| Vec::new()).collect(),
        doses,
    };
    let started = Instant::now();
    let longest = std::env::var("RINGLAB_SECONDS").ok();
    let longest = longest.and_then(|seconds| seconds.parse().ok());
    let longest = longest.map_or(LONGEST, Duration::from_secs).min(LONGEST);
    // Two designs at a time, which are balanced whatever the number of doses.
    let rounds = 4 * study.doses.len();
    for seed in 0.. {
        for round in order::rounds(study.doses.len(), rounds, seed) {
            for dose in round {
                let slice = patient.slice(study.doses[dose]);
                study.slices[dose].push(slice);
            }
        }
        let floor = (0..=Stage::ALL.len()).map(|row| study.floor(row));
        let highest = floor.fold(0.0, f64::max);
        if highest <= FLOOR_NS || started.elapsed() > longest {
            println!(
                "{} rounds of {} ms a dose in {:.0} s; the highest A/A floor is {highest:.1} ns",
                study.rounds(),
                SLICE.as_millis(),
                started.elapsed().as_secs_f64()
            );
            break;
        }
    }
    study
}

fn check(lab: Lab) {
    let mut wrong: Option<Vec<(Stage, usize)>> = None;
    for _ in 0..STUDIES {
        let study = under_load(lab, study);
        let stages = study.doses[..study.doses.len() - 1].iter();
        let rows = |stage: &Stage| study.judge(lab.model.name, *stage);
        let found = stages.flat_map(|stage| rows(stage).into_iter().map(|row| (*stage, row)));
        let found: Vec<_> = found.collect();
        let mut left = found.clone();
        left.retain(|one| wrong.as_ref().is_none_or(|known| known.contains(one)));
        if left.is_empty() {
            return;
        }
        for (stage, row) in &left {
            println!(
                "{} is not as it should be with the dose in {}",
                name(*row),
                stage.name()
            );
        }
        wrong = Some(left);
    }
    panic!("{}: the same rows {STUDIES} times", lab.model.name);
}

/// A test each, so that each can be asked for.
mod figures {
    use super::{Isolation, check};

    macro_rules! figures {
        ($($model:ident),+) => {
            $(#[test]
            #[ignore = "a measurement: takes minutes, and means something on an idle machine only"]
            fn $model() {
                crate::run(stringify!($model), Isolation::Reuse, check);
            })+
        };
    }
    figures!(blocking, epoll, io_uring);
}
