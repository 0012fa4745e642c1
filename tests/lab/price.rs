//! What the ledgers' passes cost, by short blocks in turn: more narrowly than `compare` tells it, whose
//! blocks are half a second long and of a server each.
//!
//! Four servers share a core, of which one is loaded at a time, a few milliseconds each: what the machine
//! does meanwhile, it does to all. One records its stages. Of one the kernel counted what it counts of a
//! counting block, from before its connections came, and was asked to stop, as before the window of such a
//! block; and it times its turns. Two do neither: what the others cost is held
//! against the first, and the second is the control. The program's own counts are in all of them: additions,
//! which cannot be left out.
//!
//! That at saturation, and at an offered rate, where a server sleeps before most requests, and who records
//! reads its CPU clock after each: a quarter of what the slowest of the models that `compare` runs by
//! default can serve, as measured once a study. `compare` offers half. At that, sends that have a sleeping
//! core to wake, as this generator's have, take it so long on a virtual machine that one request in five is
//! late; they come in clumps then, and a server sleeps less.
//!
//! What lingers of the counting is in every process's switches, so nothing is measured until it is gone.
//!
//! Two servers are never quite the same (where their memory lies, for one), so they live for some seconds
//! and others take their places: a life is a sample.
//!
//! The figures are a measurement, so no part of `cargo test`; `scripts/soak.sh` takes them. System calls are
//! counted where tracefs is mounted and readable:
//! `unshare --mount sh -c 'mount -t tracefs nodev /sys/kernel/tracing && cargo test --release --test lab
//! price -- --ignored --nocapture --test-threads 1'`, as root.

use std::process;
use std::thread;
use std::time::{Duration, Instant};

use ringlab::config::{Config, cores};
use ringlab::experiment::counts::selections;
use ringlab::experiment::plan::{Arm, arms};
use ringlab::experiment::stretch::LINGERING;
use ringlab::layout::Layout;
use ringlab::measure::perf::{Counted, Counters, Selection};
use ringlab::measure::reading::Reading;
use ringlab::measure::stats::{Ratio, RatioError, median, paired_log_ratio};
use ringlab::measure::{cpu_clock, probe};
use ringlab::models::find;
use ringlab::offload::Policy;
use ringlab::sandbox::{Isolation, Source};
use ringlab::server::Server;

use crate::Lab;
use crate::closed_loop::Clients;
use crate::open_loop::Paced;

const CONNECTIONS: usize = 64;
/// What is measured at a time, and the load before it: the caches become this server's again.
const SLICE: Duration = Duration::from_millis(5);
/// The same at a rate: it takes longer for as many requests.
const SLICE_AT_A_RATE: Duration = Duration::from_millis(15);
const SETTLING: Duration = Duration::from_millis(2);
/// The first load of a server.
const WARM_UP: Duration = Duration::from_millis(60);
/// Slices of each server in its life.
const SLICES: usize = 48;
/// The same at a rate.
const SLICES_AT_A_RATE: usize = 24;
/// How long the kernel counts.
const STRETCH: Duration = Duration::from_millis(30);
/// For one model, in seconds, unless `RINGLAB_SECONDS` asks for others.
const SECONDS: u64 = 90;
/// What is claimed to be the most that each costs.
const RECORDING_COSTS: f64 = 1.15;
const COUNTING_COSTS: f64 = 1.02;

/// The slowest of the models that `compare` runs by default.
const SLOWEST: &str = "blocking";
/// How long its capacity is measured.
const CALIBRATION: Duration = Duration::from_millis(500);
/// A rate of which more could not be sent was not offered.
const MOST_UNSENT: f64 = 0.01;

/// Which load.
#[derive(Clone, Copy)]
enum Offered {
    Saturation,
    /// Requests per second.
    Rate(f64),
}

impl Offered {
    /// How many slices, and how long.
    fn slices(self) -> (usize, Duration) {
        match self {
            Offered::Saturation => (SLICES, SLICE),
            Offered::Rate(_) => (SLICES_AT_A_RATE, SLICE_AT_A_RATE),
        }
    }
}

/// Who asks.
enum Asking {
    Always(Clients),
    Paced(Paced),
}

impl Asking {
    /// At moments that follow from `seed`, if not all the time.
    fn drive(&mut self, time: Duration, seed: u64) {
        match self {
            Asking::Always(clients) => clients.drive(time),
            Asking::Paced(clients) => clients.drive(time, seed),
        }
    }
}

/// A server of `hello`, and its clients.
struct Patient {
    server: Server,
    clients: Asking,
    /// The kernel's, with what was asked for.
    counting: Vec<(Selection, Counters)>,
}

/// What a counting block would be of.
fn arm(lab: Lab) -> Arm {
    let arms = arms(
        &[lab.model],
        &[lab.isolation],
        &[Layout::Threads],
        &[Policy::Inline],
        &["hello".to_string()],
    );
    arms[0].clone()
}

/// What of that selection was not counted, with the reasons.
fn refused(selection: &Selection, counted: &Counted) -> Vec<String> {
    let mut all: Vec<(String, &Reading<u64>)> = Vec::new();
    let mut add = |name: &str, reading| all.push((name.to_string(), reading));
    if selection.system_calls {
        add("system calls", &counted.system_calls);
    }
    for (name, reading) in &counted.by_name {
        add(name, reading);
    }
    if selection.software {
        add("context switches", &counted.context_switches);
        add("migrations", &counted.migrations);
        add("minor faults", &counted.minor_faults);
        add("major faults", &counted.major_faults);
    }
    if selection.io_wq {
        add("io-wq punts", &counted.io_wq_punts);
    }
    let missing = all.iter().filter(|(_, reading)| reading.value().is_none());
    missing
        .map(|(name, reading)| format!("{name}: {reading}"))
        .collect()
}

impl Patient {
    fn new(lab: Lab, core: usize, which: usize, offered: Offered) -> Patient {
        let mut config = Config::new(Source::Builtin("hello".to_string()), vec![core]);
        config.model = lab.model;
        config.isolation = lab.isolation;
        config.probed = which == RECORDING;
        config.turns = which == COUNTED;
        let server = Server::start(config).expect("a server can be started");
        let mut counting = Vec::new();
        if which == COUNTED {
            let serving = server.handle().serving_threads();
            assert!(!serving.is_empty(), "its loop has begun");
            let own = [process::id().cast_signed()];
            let others = |thread: i32, _: &str| !serving.contains(&thread);
            let attach = |selection: &Selection| Counters::attach_but(&own, others, selection);
            counting = selections(&arm(lab))
                .map(|selection| (selection.clone(), attach(&selection)))
                .into();
        }
        // Threads that are born for them inherit the counters.
        let address = server.address();
        let clients = match offered {
            Offered::Saturation => Asking::Always(Clients::connect(&[address], CONNECTIONS)),
            Offered::Rate(rate) => Asking::Paced(Paced::connect(address, CONNECTIONS, rate)),
        };
        Patient {
            server,
            clients,
            counting,
        }
    }

    /// CPU time of its threads and requests answered, so far.
    fn so_far(&self) -> (u64, u64) {
        let handle = self.server.handle();
        let serving = handle.serving_threads();
        let threads = cpu_clock::own_threads_ns().into_iter();
        let ns = threads.filter(|(thread, _)| serving.contains(thread));
        let ns = ns.map(|(_, ns)| ns).sum();
        (ns, handle.figures().served.answered)
    }

    /// Nanoseconds of CPU per request, in one slice.
    fn slice(&mut self, time: Duration, seed: u64) -> f64 {
        self.clients.drive(SETTLING, seed);
        let (ns, answered) = self.so_far();
        self.clients.drive(time, seed);
        let after = self.so_far();
        (after.0 - ns) as f64 / (after.1 - answered).max(1) as f64
    }

    /// The kernel counts for a while, one selection after the other, and no longer; says whether it counted
    /// system calls.
    fn count(&mut self) -> bool {
        let mut counts_calls = false;
        for (selection, mut counters) in std::mem::take(&mut self.counting) {
            counters.take();
            self.clients.drive(STRETCH, 0);
            let counted = counters.take();
            if selection.system_calls {
                counts_calls = counted.system_calls.value().is_some();
                let refused = refused(&selection, &counted);
                assert!(
                    !counts_calls || refused.is_empty(),
                    "the price of counting is not that of all events: {refused:#?}"
                );
            }
        }
        counts_calls
    }
}

fn percent(ratio: &Ratio) -> String {
    let percent = |ratio: f64| (ratio - 1.0) * 100.0;
    format!(
        "{:+.2} % [{:+.2}..{:+.2}]",
        percent(ratio.ratio),
        percent(ratio.interval.low),
        percent(ratio.interval.high)
    )
}

/// What the servers of a life are for, by their places.
const PLAIN: usize = 0;
const AGAIN: usize = 1;
const RECORDING: usize = 2;
const COUNTED: usize = 3;
const SERVERS: usize = 4;

/// A sample of each server a life.
#[derive(Default)]
struct Study {
    ns: [Vec<Option<f64>>; SERVERS],
    counts_calls: bool,
    /// Requests that were due, and parts of those.
    due: u64,
    late: u64,
    unsent: u64,
}

impl Study {
    /// Servers on `core` from their start to their end, loaded from `client`, which the calling thread keeps.
    fn live(&mut self, lab: Lab, [core, client]: [usize; 2], offered: Offered, life: usize) {
        // Who is first has other addresses: each is, in turn.
        let mut order = [PLAIN, AGAIN, RECORDING, COUNTED];
        order.rotate_left(life % SERVERS);
        let mut servers = [const { None }; SERVERS];
        for which in order {
            servers[which] = Some(Patient::new(lab, core, which, offered));
        }
        let mut servers = servers.map(|server| server.expect("each was started"));
        // Not before: a server may have the cores that whoever starts it has.
        core_affinity::set_for_current(core_affinity::CoreId { id: client });
        for server in &mut servers {
            server.clients.drive(WARM_UP, 0);
        }
        self.counts_calls = servers[COUNTED].count();
        let gone = Instant::now();
        while gone.elapsed() < LINGERING {
            for server in &mut servers {
                server.clients.drive(SETTLING, 0);
            }
        }
        let mut slices = [const { Vec::new() }; SERVERS];
        let (count, time) = offered.slices();
        for round in 0..count {
            order.rotate_left(1);
            if round % SERVERS == 0 {
                order.reverse();
            }
            for which in order {
                // At the same moments.
                let seed = (life * count + round) as u64;
                slices[which].push(servers[which].slice(time, seed));
            }
        }
        // Whoever else has the core has it for some slices.
        for (sample, slices) in self.ns.iter_mut().zip(&slices) {
            sample.push(median(slices));
        }
        for Patient {
            server, clients, ..
        } in servers
        {
            if let Asking::Paced(clients) = &clients {
                self.due += clients.due;
                self.late += clients.late;
                self.unsent += clients.unsent;
            }
            drop(clients);
            server.drain();
        }
    }

    /// What that server costs, as a part of what the plain one does.
    ///
    /// # Errors
    /// There were too few lives.
    fn price(&self, which: usize) -> Result<Ratio, RatioError> {
        paired_log_ratio(&self.ns[which], &self.ns[PLAIN], 0.95)
    }
}

/// A quarter of the requests per second that a plain server of the slowest model answers on that core.
fn a_quarter_of_the_slowest([core, client]: [usize; 2]) -> f64 {
    let mut config = Config::new(Source::Builtin("hello".to_string()), vec![core]);
    config.model = find(SLOWEST).expect("it is a model");
    let server = Server::start(config).expect("a server can be started");
    core_affinity::set_for_current(core_affinity::CoreId { id: client });
    let mut clients = Clients::connect(&[server.address()], CONNECTIONS);
    clients.drive(WARM_UP);
    let answered = || server.handle().figures().served.answered;
    let (before, started) = (answered(), Instant::now());
    clients.drive(CALIBRATION);
    let rate = (answered() - before) as f64 / started.elapsed().as_secs_f64();
    drop(clients);
    server.drain();
    rate / 4.0
}

/// On a thread that ends with it: this one may go on where it likes.
fn elsewhere<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn check_at_saturation(lab: Lab) {
    check(lab, |_| Offered::Saturation);
}

fn check_at_a_rate(lab: Lab) {
    check(lab, |cores| {
        Offered::Rate(elsewhere(|| a_quarter_of_the_slowest(cores)))
    });
}

fn check(lab: Lab, offered: fn([usize; 2]) -> Offered) {
    let there = cores();
    let (client, core) = (there[0], *there.last().expect("there is a core"));
    assert_ne!(client, core, "server and client need a core each");
    probe::calibrate();
    let offered = offered([core, client]);
    let asked = std::env::var("RINGLAB_SECONDS").ok();
    let asked = asked.and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs(asked.unwrap_or(SECONDS));
    let (mut study, started) = (Study::default(), Instant::now());
    for life in 0.. {
        elsewhere(|| study.live(lab, [core, client], offered, life));
        if started.elapsed() > time {
            break;
        }
    }
    let longer = 2 * time.as_secs().max(SECONDS / 2);
    let bounds_of = |which| {
        let lives = study.ns[PLAIN].len();
        study.price(which).unwrap_or_else(|error| match error {
            RatioError::TooFewPairs { n, .. } => {
                panic!("{n} lives of {lives} tell what it costs, and 2 are needed: RINGLAB_SECONDS={longer}")
            }
            error => panic!("of {lives} lives of each server: {error}"),
        })
    };
    let [recording, counting, control] = [RECORDING, COUNTED, AGAIN].map(bounds_of);
    let what = match study.counts_calls {
        true => "counting",
        false => "counting, without system calls, for want of a readable tracefs,",
    };
    let part = |of: u64| of as f64 / study.due.max(1) as f64;
    let load = match offered {
        Offered::Saturation => "at saturation".to_string(),
        Offered::Rate(rate) => {
            let late = part(study.late) * 100.0;
            format!("at {rate:.0} requests a second, {late:.1} % of them late")
        }
    };
    let plain = median(
        &study.ns[PLAIN]
            .iter()
            .flatten()
            .copied()
            .collect::<Vec<_>>(),
    );
    println!(
        "{} {load}, {:.0} ns per request: recording {}; {what} {}; nothing {}; {} lives",
        lab.model.name,
        plain.expect("there are lives"),
        percent(&recording),
        percent(&counting),
        percent(&control),
        control.n
    );
    assert!(
        part(study.unsent) <= MOST_UNSENT,
        "the rate was not offered: {:.1} % of the requests could not be sent",
        part(study.unsent) * 100.0
    );
    for (ratio, most) in [(&recording, RECORDING_COSTS), (&counting, COUNTING_COSTS)] {
        let widest = most - 1.0;
        let bounds = ratio.interval;
        // First: a busy machine excuses nothing that is certain.
        assert!(bounds.low <= most, "more than is claimed: {bounds:?}");
        assert!(
            bounds.high - bounds.low < 2.0 * widest,
            "the machine is too busy to tell {widest:.2} from nothing: {bounds:?}"
        );
        assert!(
            bounds.high <= most,
            "not shown in this run to be no more than {most}: {bounds:?}; RINGLAB_SECONDS={longer} takes \
             longer"
        );
    }
}

/// A test each, so that each can be asked for.
macro_rules! figures {
    ($check:ident: $($model:ident),+) => {
        $(#[test]
        #[ignore = "a measurement: takes most of two minutes, and means something on an idle machine only"]
        fn $model() {
            crate::run(stringify!($model), super::Isolation::Reuse, super::$check);
        })+
    };
}

mod figures {
    figures!(check_at_saturation: blocking, epoll, io_uring);
}

mod figures_at_a_rate {
    figures!(check_at_a_rate: blocking, epoll, io_uring);
}
