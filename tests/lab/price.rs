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
use ringlab::measure::stats::{Ratio, median, paired_log_ratio};
use ringlab::measure::{cpu_clock, probe};
use ringlab::offload::Policy;
use ringlab::sandbox::{Isolation, Source};
use ringlab::server::Server;

use crate::Lab;
use crate::closed_loop::Clients;

const CONNECTIONS: usize = 64;
/// What is measured at a time, and the load before it: the caches become this server's again.
const SLICE: Duration = Duration::from_millis(5);
const SETTLING: Duration = Duration::from_millis(2);
/// The first load of a server.
const WARM_UP: Duration = Duration::from_millis(60);
/// Slices of each server in its life.
const SLICES: usize = 48;
/// How long the kernel counts.
const STRETCH: Duration = Duration::from_millis(30);
/// For one model, in seconds, unless `RINGLAB_SECONDS` asks for others.
const SECONDS: u64 = 90;
/// What is claimed to be the most that each costs.
const RECORDING_COSTS: f64 = 1.15;
const COUNTING_COSTS: f64 = 1.02;

/// A server of `hello`, and its clients.
struct Patient {
    server: Server,
    clients: Clients,
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
    fn new(lab: Lab, core: usize, which: usize) -> Patient {
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
        let clients = Clients::connect(&[server.address()], CONNECTIONS);
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
    fn slice(&mut self) -> f64 {
        self.clients.drive(SETTLING);
        let (ns, answered) = self.so_far();
        self.clients.drive(SLICE);
        let after = self.so_far();
        (after.0 - ns) as f64 / (after.1 - answered).max(1) as f64
    }

    /// The kernel counts for a while, one selection after the other, and no longer; says whether it counted
    /// system calls.
    fn count(&mut self) -> bool {
        let mut counts_calls = false;
        for (selection, mut counters) in std::mem::take(&mut self.counting) {
            counters.take();
            self.clients.drive(STRETCH);
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
}

impl Study {
    /// Servers on `core` from their start to their end, loaded from `client`, which the calling thread keeps.
    fn live(&mut self, lab: Lab, core: usize, client: usize, life: usize) {
        // Who is first has other addresses: each is, in turn.
        let mut order = [PLAIN, AGAIN, RECORDING, COUNTED];
        order.rotate_left(life % SERVERS);
        let mut servers = [const { None }; SERVERS];
        for which in order {
            servers[which] = Some(Patient::new(lab, core, which));
        }
        let mut servers = servers.map(|server| server.expect("each was started"));
        // Not before: a server may have the cores that whoever starts it has.
        core_affinity::set_for_current(core_affinity::CoreId { id: client });
        for server in &mut servers {
            server.clients.drive(WARM_UP);
        }
        self.counts_calls = servers[COUNTED].count();
        let gone = Instant::now();
        while gone.elapsed() < LINGERING {
            for server in &mut servers {
                server.clients.drive(SETTLING);
            }
        }
        let mut slices = [const { Vec::new() }; SERVERS];
        for round in 0..SLICES {
            order.rotate_left(1);
            if round % SERVERS == 0 {
                order.reverse();
            }
            for which in order {
                slices[which].push(servers[which].slice());
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
            drop(clients);
            server.drain();
        }
    }

    /// What that server costs, as a part of what the plain one does.
    fn price(&self, which: usize) -> Ratio {
        paired_log_ratio(&self.ns[which], &self.ns[PLAIN], 0.95).expect("there are lives enough")
    }
}

fn check(lab: Lab) {
    let there = cores();
    let (client, core) = (there[0], *there.last().expect("there is a core"));
    assert_ne!(client, core, "server and client need a core each");
    probe::calibrate();
    let asked = std::env::var("RINGLAB_SECONDS").ok();
    let asked = asked.and_then(|seconds| seconds.parse().ok());
    let time = Duration::from_secs(asked.unwrap_or(SECONDS));
    let (mut study, started) = (Study::default(), Instant::now());
    for life in 0.. {
        // On a thread that ends with it: this one may go on where it likes.
        let lived = thread::scope(|scope| {
            let live = || study.live(lab, core, client, life);
            scope.spawn(live).join()
        });
        lived.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if started.elapsed() > time {
            break;
        }
    }
    let [recording, counting, control] =
        [RECORDING, COUNTED, AGAIN].map(|which| study.price(which));
    let what = match study.counts_calls {
        true => "counting",
        false => "counting, without system calls, for want of a readable tracefs,",
    };
    println!(
        "{}: recording {}; {what} {}; nothing {}; {} lives",
        lab.model.name,
        percent(&recording),
        percent(&counting),
        percent(&control),
        control.n
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
        let longer = 2 * time.as_secs();
        assert!(
            bounds.high <= most,
            "not shown in this run to be no more than {most}: {bounds:?}; RINGLAB_SECONDS={longer} takes \
             longer"
        );
    }
}

/// A test each, so that each can be asked for.
mod figures {
    use super::{Isolation, check};

    macro_rules! figures {
        ($($model:ident),+) => {
            $(#[test]
            #[ignore = "a measurement: takes most of a minute, and means something on an idle machine only"]
            fn $model() {
                crate::run(stringify!($model), Isolation::Reuse, check);
            })+
        };
    }
    figures!(blocking, epoll, io_uring);
}
