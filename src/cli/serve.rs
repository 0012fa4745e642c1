//! `ringlab serve`: one server, in the foreground, until a signal.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use nix::sys::signal::{SigSet, Signal};

use super::{Cores, Exit, fail, parse_cores};
use crate::config::{self, Config, ConfigError};
use crate::control;
use crate::descriptors;
use crate::measure::probe;
use crate::models::{self, MODELS};
use crate::offload::Policy;
use crate::sandbox::{Isolation, Source};
use crate::server::{Handle, Server};
use crate::shard::Stage;

/// Serve one handler over one I/O model until SIGINT or SIGTERM
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How bytes move: an I/O model, as `ringlab models` lists them
    #[arg(long, default_value = "epoll", value_parser = clap::builder::PossibleValuesParser::new(MODELS.iter().map(|model| model.name)))]
    model: String,
    /// One pinned thread for each of these cores: `0,2` or `all`
    #[arg(long, default_value = "all", value_parser = parse_cores)]
    cores: Cores,
    /// Address to listen on; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// What answers: a built-in handler's name, or a file of wasm or its text format
    #[arg(long, default_value = "hello", value_name = "NAME|FILE.wasm|FILE.wat")]
    handler: String,
    /// What stands between two requests: native, reuse or fresh
    #[arg(long, default_value = "reuse")]
    isolation: Isolation,
    /// Where and when a handler runs: inline, spawn or pool
    #[arg(long, default_value = "inline")]
    offload: Policy,
    /// Worker threads of `--offload pool`
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    workers: u16,
    /// Cores of the workers, in turn; by default those that `--cores` leaves, if any
    #[arg(long, value_name = "CORES", value_parser = parse_cores)]
    worker_cores: Option<Cores>,
    /// Requests that may wait for a worker, or have a thread under `spawn`; one more is answered 503
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    queue: u32,
    /// Connections at a time; one more is answered 503
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    connections: u32,
    /// CPU time that a handler may use for one request; 504 when passed
    #[arg(long, default_value = "1s", value_name = "TIME")]
    deadline: humantime::Duration,
    /// Memory that a handler may have
    #[arg(long, default_value = "16MiB", value_name = "SIZE")]
    memory: ByteSize,
    /// Stack that a handler may use
    #[arg(long, default_value = "256KiB", value_name = "SIZE")]
    stack: ByteSize,
    /// The longest body that a handler may answer with
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
    /// Time to answer what was accepted, after SIGINT or SIGTERM
    #[arg(long, default_value = "10s", value_name = "TIME")]
    drain: humantime::Duration,
    /// Answer lines on standard input with figures on standard output; end when it closes
    #[arg(long, hide = true)]
    control: bool,
    /// Record where the time goes
    #[arg(long, hide = true)]
    probed: bool,
    /// List the guest's functions for perf, in /tmp/perf-PID.map
    #[arg(long, hide = true)]
    perf_map: bool,
}

pub fn run(arguments: &Arguments) -> Exit {
    // Blocked before any thread is born, so that only this one ever takes them.
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    if let Err(error) = signals.thread_block() {
        return fail(
            Exit::HostCannot,
            format_args!("signals cannot be blocked: {error}"),
        );
    }
    if arguments.probed {
        probe::calibrate();
    }
    let mut config = match arguments.config() {
        Ok(config) => config,
        Err(error) => return fail(exit_for(error.is_the_hosts()), error),
    };
    if let Err(error) = fit_descriptors(&mut config) {
        return fail(Exit::HostCannot, error);
    }
    let server = match Server::start(config) {
        Ok(server) => server,
        Err(error) => return fail(exit_for(error.is_the_hosts()), error),
    };
    println!("listening on http://{}", server.address());
    let _ = std::io::stdout().flush();
    watch_signals(signals, server.handle());
    if arguments.control {
        control::answer(server.handle());
    }
    serve(server)
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

/// The first signal drains; the second ends the process at once.
fn watch_signals(signals: SigSet, handle: Handle) {
    control::helper(control::HELPERS[1], move || {
        let _ = signals.wait();
        handle.advance(Stage::Draining);
        if signals.wait().is_ok() {
            std::process::exit(Exit::Interrupted as i32);
        }
    });
}

/// Raises the soft limit of descriptors as far as it goes, and the connections down to what it
/// then allows.
fn fit_descriptors(config: &mut Config) -> Result<(), ConfigError> {
    let own = descriptors::of_a_server(config.cores.len());
    let needed = own + config.connections;
    let allowed = descriptors::allow(needed);
    if allowed < needed {
        if allowed <= own {
            return Err(ConfigError::TooFewDescriptors {
                allowed,
                needed: own + 1,
            });
        }
        eprintln!(
            "ringlab: {allowed} descriptors allow {} connections at a time, not {}; raise `ulimit -n`",
            allowed - own,
            config.connections
        );
        config.connections = allowed - own;
    }
    Ok(())
}

/// The cores that no shard has.
fn left_over(taken: &[usize]) -> Vec<usize> {
    let mut cores = config::cores();
    cores.retain(|core| !taken.contains(core));
    cores
}

fn milliseconds(time: humantime::Duration) -> u64 {
    (Duration::from(time).as_millis() as u64).max(1)
}

impl Arguments {
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::new(Source::parse(&self.handler), self.cores.list());
        config.model = models::find(&self.model).expect("clap knows the table");
        config.isolation = self.isolation;
        config.offload = self.offload;
        config.workers = usize::from(self.workers);
        config.queue = self.queue as usize;
        config.worker_cores = match &self.worker_cores {
            Some(cores) => cores.list(),
            None => left_over(&config.cores),
        };
        config.listen = self.listen;
        config.connections = self.connections as usize;
        config.drain = self.drain.into();
        config.probed = self.probed;
        config.http.target_bytes = self.target.as_u64() as usize;
        config.http.head_bytes = self.head.as_u64() as usize;
        config.http.body_bytes = self.body.as_u64() as usize;
        config.sandbox.deadline = self.deadline.into();
        config.sandbox.memory_bytes = self.memory.as_u64() as usize;
        config.sandbox.stack_bytes = self.stack.as_u64() as usize;
        config.sandbox.perf_map = self.perf_map;
        config.sandbox.response_bytes = self.response.as_u64() as usize;
        config.timeouts.keep_alive_ms = milliseconds(self.keep_alive);
        config.timeouts.head_ms = milliseconds(self.head_timeout);
        config.timeouts.body_ms = milliseconds(self.body_timeout);
        config.timeouts.send_ms = milliseconds(self.send_timeout);
        Ok(config)
    }
}
