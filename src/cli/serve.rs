//! `ringlab serve`: one server, in the foreground, until a signal.

mod start_lines;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nix::sys::signal::{SigSet, Signal};

use self::start_lines::Policies;
use super::{Cores, Exit, fail, parse_cores};
use crate::cluster::{Cluster, ClusterError, Share};
use crate::config::{self, Config, ConfigError};
use crate::control;
use crate::descriptors;
use crate::io::null;
use crate::layout::Layout;
use crate::measure::probe::{self, Injection};
use crate::models::{self, Model, Shape};
use crate::offload::Policy;
use crate::report::closing;
use crate::routes::Route;
use crate::sandbox::{Isolation, Source};
use crate::server::Server;
use crate::shard::Stage;
use crate::swap::socket::{self, Listening};
use crate::swap::{Ask, Swapper, watch};

/// Serve one handler over one I/O model until SIGINT or SIGTERM
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How bytes move: an I/O model, as `ringlab models` lists them
    #[arg(long, default_value = "epoll", value_parser = models::asked)]
    model: &'static Model,
    /// One pinned thread for each of these cores: `0,2` or `all`
    #[arg(long, default_value = "all", value_parser = parse_cores)]
    cores: Cores,
    /// The cores as threads of one process, or as processes: connections are shared out over these,
    /// workers and queue are for each
    #[arg(long, default_value = "threads")]
    layout: Layout,
    /// Address to listen on; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// What answers: a built-in handler's name, or a file of wasm or its text format
    #[arg(long, default_value = "hello", value_name = "NAME|FILE.wasm|FILE.wat")]
    handler: String,
    /// What answers this path and all below it; several times, the longest path wins, and what has
    /// none is a 404. What it does not say is as for the whole server
    #[arg(
        long = "route",
        value_name = "PATH=HANDLER[,ISOLATION][,OFFLOAD]",
        conflicts_with = "handler"
    )]
    routes: Vec<Route>,
    /// Exchange a handler when its file changes; SIGHUP and `ringlab swap` do at any time
    #[arg(long)]
    watch: bool,
    /// Where `ringlab swap` finds this server, or none [default: PORT.sock in $XDG_RUNTIME_DIR/ringlab
    /// or /tmp/ringlab-UID]
    #[arg(long, value_name = "FILE|none")]
    socket: Option<PathBuf>,
    /// What stands between two requests: native, reuse, reset, fresh or on-demand
    #[arg(long, default_value = "reuse")]
    isolation: Isolation,
    /// Where and when a handler runs: inline, spawn, pool or time-slice
    #[arg(long, default_value = "inline")]
    offload: Policy,
    /// CPU time after which `--offload time-slice` suspends a handler, 50us to 1s: the loop goes on, and
    /// the handler in a later turn. The first slice beside no other is over within 4 ms and one of the
    /// kernel's ticks; the first request of a handler that outlasts its slice is begun again [default: 500us, and up to 900us where ticks would take more than 3 % of a core;
    /// what is asked for is obeyed whatever they take]
    #[arg(long, value_name = "TIME", value_parser = parse_quantum)]
    quantum: Option<Duration>,
    /// Worker threads of `--offload pool`
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Cores of the workers, in turn; by default those that `--cores` leaves, if any
    #[arg(long, value_name = "CORES", value_parser = parse_cores)]
    worker_cores: Option<Cores>,
    /// Requests that may wait for a worker, or under `time-slice` for an instance, or have a thread under
    /// `spawn`; one more is answered 503
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// Connections at a time; one more is answered 503
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// CPU time that a handler may use for one request; 504 when passed, which is seen within 8 ms
    /// and two of the kernel's ticks
    #[arg(long, default_value = "1s", value_name = "TIME")]
    deadline: humantime::Duration,
    /// Compile handlers without the deadline's checks, to see what they cost; nothing ends one that
    /// does not return
    #[arg(long, conflicts_with = "deadline")]
    no_deadline: bool,
    /// Memory that a handler may have, from the start or by growing; 500 if it cannot do with it
    /// [default: 8MiB, or what it starts with, up to 32MiB: with more than 8MiB it may not grow]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,
    /// Stack that a handler may use; 500 beyond
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    stack: ByteSize,
    /// Entries that each table of a handler may have; 500 if it cannot do with them
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    tables: u32,
    /// Instances of a handler at a time, for each of the cores
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    instances: u16,
    /// Time that a request may wait for an instance; 503 when passed
    #[arg(long, default_value = "5s", value_name = "TIME")]
    instance_wait: humantime::Duration,
    /// The longest body that a handler may answer with; 500 beyond
    #[arg(long, default_value = "1MiB", value_name = "SIZE")]
    response: ByteSize,
    /// The longest request body; 413 beyond
    #[arg(long, default_value = "1MiB", value_name = "SIZE")]
    body: ByteSize,
    /// The longest header block; 431 beyond
    #[arg(long, default_value = "16KiB", value_name = "SIZE")]
    head: ByteSize,
    /// The longest request target; 414 beyond
    #[arg(long, default_value = "8KiB", value_name = "SIZE")]
    target: ByteSize,
    /// Silence on a connection before it is closed
    #[arg(long, default_value = "60s", value_name = "TIME")]
    keep_alive: humantime::Duration,
    /// Time for a request's head to arrive; 408 when passed
    #[arg(long, default_value = "10s", value_name = "TIME")]
    head_timeout: humantime::Duration,
    /// Time for a request's body to arrive; 408 when passed
    #[arg(long, default_value = "30s", value_name = "TIME")]
    body_timeout: humantime::Duration,
    /// Time for a client to take an answer
    #[arg(long, default_value = "30s", value_name = "TIME")]
    send_timeout: humantime::Duration,
    /// Time to answer what was accepted or has begun to arrive, after SIGINT or SIGTERM
    #[arg(long, default_value = "10s", value_name = "TIME")]
    drain: humantime::Duration,
    /// Record how long the loop of each core is away from its events, at two looks at a clock a turn, and
    /// say it at the end. Models without a loop of ringlab's have no turns
    #[arg(long)]
    turns: bool,
    /// Answer lines on standard input with figures on standard output; end when it closes
    #[arg(long, hide = true)]
    control: bool,
    /// Be one process of `--layout processes`
    #[arg(long, hide = true, value_name = "CORE,ADDRESS,CONNECTIONS")]
    share: Option<Share>,
    /// Record where the time goes
    #[arg(long, hide = true)]
    probed: bool,
    /// Puts so many nanoseconds of work for each request into a stage, as the ledger calls it
    #[arg(long, hide = true, value_name = "STAGE=NS")]
    inject: Option<Injection>,
    /// What the connections of `null` ask for
    #[arg(long, hide = true, value_name = "PATH")]
    canned: Option<String>,
    /// List the guest's functions for perf, in /tmp/perf-PID.map
    #[arg(long, hide = true)]
    perf_map: bool,
}

pub fn run(arguments: &Arguments) -> Exit {
    let began = Instant::now();
    // Blocked before any thread is born, so that only this one ever takes them.
    let mut signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    if arguments.is_swapped() {
        signals.add(Signal::SIGHUP);
    }
    if let Err(error) = signals.thread_block() {
        return fail(
            Exit::HostCannot,
            format_args!("signals cannot be blocked: {error}"),
        );
    }
    if let Some(Err(error)) = arguments.share.as_ref().map(|_| end_with_parent()) {
        return fail(Exit::HostCannot, error);
    }
    if arguments.probed || arguments.inject.is_some() {
        probe::calibrate();
    }
    let mut config = match arguments.config() {
        Ok(config) => config,
        Err(error) => return fail(exit_for(error.is_the_hosts()), error),
    };
    if config.model.shape == Shape::SelfDriven {
        if !arguments.control {
            return fail(
                Exit::BadInput,
                format_args!(
                    "{} takes no connections; measure it with `ringlab compare --model epoll,{0}`",
                    config.model.name
                ),
            );
        }
        let path = arguments.canned.as_deref().unwrap_or("/");
        null::ask_for(path);
    }
    if arguments.is_parent() && (arguments.watch || arguments.socket.is_some()) {
        return fail(
            Exit::BadInput,
            "handlers are exchanged in one process; ask for --layout threads with --watch or --socket",
        );
    }
    if arguments.is_parent() {
        return run_cluster(arguments, config, signals);
    }
    if let Err(error) = fit_descriptors(&mut config) {
        return fail(Exit::HostCannot, error);
    }
    if !arguments.control && config.runs_native() {
        eprintln!(
            "ringlab: isolation native has no limits on a handler's CPU time, memory, stack, tables \
             and instances; only the size of its answer is held"
        );
    }
    let policies = Policies::of(&config);
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(exit_for(error.is_the_hosts()), error),
    };
    // Before the address is said: who has read it may ask at once.
    let (swapper, _listening) = match arguments.swap(&server) {
        Ok(swap) => swap,
        Err(error) => return fail(Exit::HostCannot, error),
    };
    start_lines::address(server.address());
    if !arguments.is_child() {
        start_lines::routes(&server, &policies, began);
        start_lines::policies(&policies);
    }
    let handle = server.handle();
    let told = handle.clone();
    watch_signals(signals, swapper, move |_| handle.advance(Stage::Draining));
    if arguments.control || arguments.share.is_some() {
        control::answer(control::Single::new(server.handle()));
    }
    let exit = serve(server);
    let figures = told.figures();
    if arguments.turns {
        super::say(format_args!("{}", closing::turns(&figures.turns)));
    }
    if arguments.turns || !arguments.is_child() {
        let lines = [
            closing::offload(&figures.served),
            closing::faults(&figures.served),
        ];
        lines.into_iter().flatten().for_each(super::say);
    }
    exit
}

/// The parent of `--layout processes`.
fn run_cluster(arguments: &Arguments, mut config: Config, signals: SigSet) -> Exit {
    let checked = config
        .check_host()
        .and_then(|()| fit_processes(&mut config));
    if let Err(error) = checked {
        return fail(exit_for(error.is_the_hosts()), error);
    }
    if config.cores.len() == 1 {
        eprintln!("ringlab: on one core the layouts differ in little but a parent process");
    }
    let mut own_arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let policies = Policies::of(&config);
    if let Some(quantum) = policies.measured_quantum() {
        // All processes slice alike, as is said below.
        let length_ns = quantum.length().as_nanos();
        own_arguments.extend(["--quantum".into(), format!("{length_ns}ns").into()]);
    }
    let mut cluster = match Cluster::start(&config, &own_arguments) {
        Ok(cluster) => cluster,
        // It has said why, and knows whose fault it is.
        Err(ClusterError::Refused { code: Some(2), .. }) => return Exit::BadInput,
        Err(ClusterError::Refused { code: Some(_), .. }) => return Exit::HostCannot,
        Err(ClusterError::Start(error)) => return fail(exit_for(error.is_the_hosts()), error),
        Err(error) => return fail(Exit::HostCannot, error),
    };
    start_lines::address(cluster.address());
    if !arguments.is_child() {
        start_lines::policies(&policies);
    }
    let handle = cluster.handle();
    watch_signals(signals, None, move |signal| handle.end(signal));
    let spokesman = cluster.spokesman();
    let _kept = if arguments.control {
        control::answer(spokesman);
        None
    } else {
        Some(spokesman)
    };
    match cluster.wait() {
        Ok(()) => Exit::Done,
        Err(died) => fail(Exit::HostCannot, died),
    }
}

/// Has the kernel kill this process when its parent dies. A parent that is dead already has closed
/// this one's standard input, which ends it too.
fn end_with_parent() -> Result<(), String> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| format!("the kernel will not end this process with its parent: {error}"))
}

fn exit_for(the_hosts: bool) -> Exit {
    if the_hosts {
        Exit::HostCannot
    } else {
        Exit::BadInput
    }
}

fn serve(mut server: Server) -> Exit {
    if let Err(error) = server.wait() {
        return fail(Exit::HostCannot, format_args!("a shard gave up: {error}"));
    }
    if !server.drain() {
        eprintln!("ringlab: some clients were still being served when the drain limit passed");
    }
    Exit::Done
}

/// The first signal drains, by `drain`; the second is passed on too, and ends the process at once.
fn watch_signals(
    signals: SigSet,
    swapper: Option<Swapper>,
    drain: impl Fn(Signal) + Send + 'static,
) {
    control::helper(control::HELPERS[1], move || {
        let mut draining = false;
        loop {
            let Ok(signal) = signals.wait() else { return };
            if signal == Signal::SIGHUP {
                reload(swapper.as_ref());
                continue;
            }
            drain(signal);
            if draining {
                std::process::exit(Exit::Interrupted as i32);
            }
            draining = true;
        }
    });
}

/// Loads every handler's file anew.
fn reload(swapper: Option<&Swapper>) {
    let asked = swapper.map(|swapper| swapper.ask(Ask::Reload { route: None }));
    if let Some(Err(refusal)) = asked {
        eprintln!("ringlab: {refusal}; the old one stays");
    }
}

/// Raises the soft limit of descriptors as far as it goes, and the connections down to what it
/// then allows.
fn fit_descriptors(config: &mut Config) -> Result<(), ConfigError> {
    let own = descriptors::of_a_server(config.cores.len());
    let room = room_for(config.connections, own)?;
    say_less(config, room, own + room);
    Ok(())
}

/// The same for each of several processes, over which the connections are shared out.
fn fit_processes(config: &mut Config) -> Result<(), ConfigError> {
    let processes = config.cores.len();
    if config.connections < processes {
        return Err(ConfigError::TooFewConnections {
            connections: config.connections,
            processes,
        });
    }
    let own = descriptors::of_a_server(1);
    let room = room_for(config.connections.div_ceil(processes), own)?;
    say_less(config, room * processes, own + room);
    Ok(())
}

/// How many of `connections` one process has descriptors for, besides `own`.
fn room_for(connections: usize, own: usize) -> Result<usize, ConfigError> {
    let allowed = descriptors::allow(own + connections);
    if allowed <= own {
        return Err(ConfigError::TooFewDescriptors {
            allowed,
            needed: own + 1,
        });
    }
    Ok(connections.min(allowed - own))
}

/// Lowers the connections to `room` and says so, if there is less.
fn say_less(config: &mut Config, room: usize, allowed: usize) {
    if room < config.connections {
        let connections = config.connections;
        eprintln!(
            "ringlab: {allowed} descriptors allow {room} connections at a time, not {connections}; raise `ulimit -n`"
        );
        config.connections = room;
    }
}

/// The cores that no shard has.
fn left_over(taken: &[usize]) -> Vec<usize> {
    let mut cores = config::cores();
    cores.retain(|core| !taken.contains(core));
    cores
}

/// Shorter, and suspending would cost more than it serves; longer, and it is no slice.
fn parse_quantum(text: &str) -> Result<Duration, String> {
    let time: humantime::Duration = text.parse().map_err(|error| format!("{error}"))?;
    let bounds = Duration::from_micros(50)..=Duration::from_secs(1);
    if bounds.contains(&time) {
        Ok(time.into())
    } else {
        Err(format!("{time} is no quantum; choose from 50us to 1s"))
    }
}

fn milliseconds(time: humantime::Duration) -> u64 {
    (Duration::from(time).as_millis() as u64).max(1)
}

impl Arguments {
    /// Whether another program started this one, and speaks with it.
    fn is_child(&self) -> bool {
        self.control || self.share.is_some()
    }

    /// Whether handlers can be exchanged. Where a program started this one, only if it asked for it.
    fn is_swapped(&self) -> bool {
        let asked = self.watch || self.socket.is_some();
        !self.is_parent() && (asked || !self.is_child())
    }

    /// Has handlers exchanged when asked to: by a socket, by files that change, by SIGHUP.
    fn swap(&self, server: &Server) -> Result<(Option<Swapper>, Option<Listening>), String> {
        if !self.is_swapped() {
            return Ok((None, None));
        }
        let swapper = server
            .swapper()
            .map_err(|error| format!("no thread can be started: {error}; raise `ulimit -u`"))?;
        let listening = match &self.socket {
            Some(path) if path.as_os_str() == "none" => None,
            Some(path) => {
                let listening = socket::listen(path, swapper.clone());
                Some(listening.map_err(|error| error.to_string())?)
            }
            None if self.is_child() => None,
            None => {
                let path = socket::default_path(server.address().port());
                let listening = socket::make_directory(&path)
                    .and_then(|()| socket::listen(&path, swapper.clone()));
                // Nobody asked for it: the server serves without.
                listening
                    .map_err(|error| eprintln!("ringlab: `ringlab swap` cannot be used: {error}"))
                    .ok()
            }
        };
        if self.watch && watch::start(swapper.clone()) == 0 {
            eprintln!("ringlab: --watch has nothing to do: no handler comes from a file");
        }
        Ok((Some(swapper), listening))
    }

    /// Whether this process only starts others that serve.
    fn is_parent(&self) -> bool {
        self.layout == Layout::Processes && self.share.is_none()
    }

    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::new(Source::parse(&self.handler), self.cores.list());
        config.model = self.model;
        config.routes = self.routes.clone();
        config.isolation = self.isolation;
        config.offload = self.offload;
        config.workers = usize::from(self.workers);
        config.queue = self.queue as usize;
        config.quantum = self.quantum;
        config.worker_cores = match &self.worker_cores {
            Some(cores) => cores.list(),
            None => left_over(&config.cores),
        };
        config.listen = self.listen;
        config.connections = self.connections as usize;
        if let Some(share) = &self.share {
            // After the workers' cores: those that another process of the server has are taken too.
            config.cores = vec![share.core];
            config.listen = share.listen;
            config.connections = share.connections;
            config.joins = true;
        }
        config.drain = self.drain.into();
        config.turns = self.turns;
        config.probed = self.probed;
        config.injection = self.inject.clone().map(|injection| Injection {
            recorded: self.probed,
            ..injection
        });
        config.http.target_bytes = self.target.as_u64() as usize;
        config.http.head_bytes = self.head.as_u64() as usize;
        config.http.body_bytes = self.body.as_u64() as usize;
        config.sandbox.deadline = (!self.no_deadline).then(|| self.deadline.into());
        if let Some(memory) = self.memory {
            config.sandbox.set_memory(memory.as_u64() as usize);
        }
        config.sandbox.stack_bytes = self.stack.as_u64() as usize;
        config.sandbox.table_entries = self.tables as usize;
        config.sandbox.instances = usize::from(self.instances);
        config.sandbox.instance_wait = self.instance_wait.into();
        config.sandbox.perf_map = self.perf_map;
        config.sandbox.response_bytes = self.response.as_u64() as usize;
        config.timeouts.keep_alive_ms = milliseconds(self.keep_alive);
        config.timeouts.head_ms = milliseconds(self.head_timeout);
        config.timeouts.body_ms = milliseconds(self.body_timeout);
        config.timeouts.send_ms = milliseconds(self.send_timeout);
        Ok(config)
    }
}
