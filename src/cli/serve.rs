//! `ringlab serve`: one server, in the foreground, until a signal.

mod arguments;
mod ranges;
mod start_lines;

pub use arguments::Arguments;

use std::time::Instant;

use nix::sys::signal::{SigSet, Signal};

use self::start_lines::Policies;
use super::{Exit, fail};
use crate::cluster::{Cluster, ClusterError};
use crate::config::{Config, ConfigError};
use crate::control;
use crate::descriptors;
use crate::io::null;
use crate::measure::probe;
use crate::models::Shape;
use crate::report::closing;
use crate::server::Server;
use crate::shard::{Figures, Stage};
use crate::swap::socket::{self, Listening};
use crate::swap::{Ask, Swapper, watch};

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
    if arguments.probed || arguments.inject.is_some() || arguments.turns {
        probe::calibrate();
    }
    if arguments.time_faults {
        probe::time_faults();
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
    if !arguments.is_child() && config.runs_native() {
        eprintln!(
            "ringlab: isolation native has no limits on a handler's CPU time, memory, stack, tables \
             and instances; only the size of its answer is held"
        );
    }
    if arguments.is_parent() {
        return run_cluster(arguments, config, signals, began);
    }
    if let Err(error) = fit_descriptors(&mut config) {
        return fail(Exit::HostCannot, error);
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
    if arguments.share.is_some() && !arguments.control {
        // For its parent, which says it when all of its processes serve.
        start_lines::routes(&server, &policies);
    }
    start_lines::address(server.address());
    if !arguments.is_child() {
        let compiled = start_lines::routes(&server, &policies);
        start_lines::ready(&server, compiled, began);
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
    if arguments.share.is_some() {
        // Its parent says it for all.
        control::last_words(&figures);
    } else if arguments.turns || !arguments.control {
        close(arguments, &figures);
    }
    exit
}

/// Says what was done.
fn close(arguments: &Arguments, figures: &Figures) {
    let turns = arguments.turns.then(|| closing::turns(&figures.turns));
    let lines = [
        turns,
        closing::offload(&figures.served),
        closing::faults(&figures.served),
    ];
    lines.into_iter().flatten().for_each(super::say);
}

/// The parent of `--layout processes`.
fn run_cluster(arguments: &Arguments, mut config: Config, signals: SigSet, began: Instant) -> Exit {
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
        start_lines::of_processes(cluster.said(), began);
        start_lines::policies(&policies);
    }
    let handle = cluster.handle();
    watch_signals(signals, None, move |signal| handle.end(signal));
    let spokesman = cluster.spokesman();
    let kept = if arguments.control {
        control::answer(spokesman);
        None
    } else {
        Some(spokesman)
    };
    let exit = match cluster.wait() {
        Ok(()) => Exit::Done,
        Err(died) => fail(Exit::HostCannot, died),
    };
    if let Some(mut spokesman) = kept {
        close(arguments, &spokesman.last_words());
    }
    exit
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

impl Arguments {
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
}
