//! What `ringlab serve` can be asked for, and what is made of it: a `Config`, which is valid.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;

use super::ranges::{sizes, times};
use crate::cli::{Cores, parse_cores};
use crate::cluster::Share;
use crate::config::{self, Config, ConfigError};
use crate::layout::Layout;
use crate::measure::probe::Injection;
use crate::models::{self, Model};
use crate::offload::Policy;
use crate::routes::Route;
use crate::sandbox::{Isolation, Source};

/// Serve one handler over one I/O model until SIGINT or SIGTERM
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// How bytes move: an I/O model, as `ringlab models` lists them
    #[arg(long, default_value = "epoll", value_parser = models::asked)]
    pub(super) model: &'static Model,
    /// One pinned thread for each of these cores: `0,2` or `all`
    #[arg(long, default_value = "all", value_parser = parse_cores)]
    pub(super) cores: Cores,
    /// The cores as threads of one process, or as processes: connections are shared out over these,
    /// workers and queue are for each
    #[arg(long, default_value = "threads")]
    pub(super) layout: Layout,
    /// Address to listen on; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(super) listen: SocketAddr,
    /// What answers: a built-in handler's name, or a file of wasm or its text format
    #[arg(long, default_value = "hello", value_name = "NAME|FILE.wasm|FILE.wat")]
    pub(super) handler: String,
    /// What answers this path and all below it; several times, the longest path wins, and what has
    /// none is a 404. What it does not say is as for the whole server
    #[arg(
        long = "route",
        value_name = "PATH=HANDLER[,ISOLATION][,OFFLOAD]",
        conflicts_with = "handler"
    )]
    pub(super) routes: Vec<Route>,
    /// Exchange a handler when its file changes; SIGHUP and `ringlab swap` do at any time
    #[arg(long)]
    pub(super) watch: bool,
    /// Where `ringlab swap` finds this server, or none [default: PORT.sock in $XDG_RUNTIME_DIR/ringlab
    /// or /tmp/ringlab-UID]
    #[arg(long, value_name = "FILE|none")]
    pub(super) socket: Option<PathBuf>,
    /// What stands between two requests: native, reuse, reset, fresh or on-demand
    #[arg(long, default_value = "reuse")]
    pub(super) isolation: Isolation,
    /// Where and when a handler runs: inline, spawn, pool or time-slice
    #[arg(long, default_value = "inline")]
    pub(super) offload: Policy,
    /// CPU time after which `--offload time-slice` suspends a handler, 50us to 1s: the loop goes on, and
    /// the handler in a later turn. The first slice beside no other is over within 4 ms and one of the
    /// kernel's ticks; the first request of a handler that outlasts its slice is begun again [default: 500us, and up to 900us where ticks would take more than 3 % of a core;
    /// what is asked for is obeyed whatever they take]
    #[arg(long, value_name = "TIME", value_parser = times("50us", "1s"))]
    pub(super) quantum: Option<Duration>,
    /// Worker threads of `--offload pool`
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) workers: u16,
    /// Cores of the workers, in turn; by default those that `--cores` leaves, if any
    #[arg(long, value_name = "CORES", value_parser = parse_cores)]
    pub(super) worker_cores: Option<Cores>,
    /// Requests that may wait for a worker, or under `time-slice` for an instance, or have a thread under
    /// `spawn`; one more is answered 503
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) queue: u32,
    /// Connections at a time; one more is answered 503
    #[arg(long, default_value_t = 1024, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) connections: u32,
    /// CPU time that a handler may use for one request, 1ms to 1h; 504 when passed, which is seen within
    /// 8 ms and two of the kernel's ticks, but for `memory.fill`, `memory.copy` and `memory.init`: one step
    /// each, which nothing interrupts. A request that `time-slice` begins again counts anew
    #[arg(long, default_value = "1s", value_name = "TIME", value_parser = times("1ms", "1h"))]
    pub(super) deadline: Duration,
    /// Compile handlers without the deadline's checks, to see what they cost; nothing ends one that
    /// does not return. Under `time-slice`, whose slices end by them, they are there all the same
    #[arg(long, conflicts_with = "deadline")]
    pub(super) no_deadline: bool,
    /// Memory that a handler may have, from the start or by growing, 64KiB to 4GiB; 500 if it cannot do
    /// with it [default: 4MiB, or what it starts with, up to 32MiB: with more than 4MiB it may not grow]
    #[arg(long, value_name = "SIZE", value_parser = sizes("64KiB", "4GiB"))]
    pub(super) memory: Option<ByteSize>,
    /// Stack that a handler may use, 16KiB to 1GiB; 500 beyond
    #[arg(long, default_value = "256KiB", value_name = "SIZE", value_parser = sizes("16KiB", "1GiB"))]
    pub(super) stack: ByteSize,
    /// Entries that each table of a handler may have; 500 if it cannot do with them
    #[arg(long, default_value_t = 10_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) tables: u32,
    /// Instances of a handler at a time, for each of the cores
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) instances: u16,
    /// Time that a request may wait for an instance, up to 1day; 503 when passed
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = times("0s", "1day"))]
    pub(super) instance_wait: Duration,
    /// The longest body that a handler may answer with, up to 1GiB; 500 beyond
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = sizes("0B", "1GiB"))]
    pub(super) response: ByteSize,
    /// The longest header lines that a handler may answer with, all together, up to 1MiB; 500 beyond
    #[arg(long, default_value = "8KiB", value_name = "SIZE", value_parser = sizes("0B", "1MiB"))]
    pub(super) header_lines: ByteSize,
    /// The longest request body, up to 1GiB; 413 beyond
    #[arg(long, default_value = "1MiB", value_name = "SIZE", value_parser = sizes("0B", "1GiB"))]
    pub(super) body: ByteSize,
    /// The longest header block, 64B to 1MiB; 431 beyond
    #[arg(long, default_value = "16KiB", value_name = "SIZE", value_parser = sizes("64B", "1MiB"))]
    pub(super) head: ByteSize,
    /// The longest request target, 1B to 1MiB; 414 beyond
    #[arg(long, default_value = "8KiB", value_name = "SIZE", value_parser = sizes("1B", "1MiB"))]
    pub(super) target: ByteSize,
    /// Silence on a connection before it is closed, 1ms to 1day, as the three below
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = times("1ms", "1day"))]
    pub(super) keep_alive: Duration,
    /// Time for a request's head to arrive; 408 when passed
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = times("1ms", "1day"))]
    pub(super) head_timeout: Duration,
    /// Time for a request's body to arrive; 408 when passed
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = times("1ms", "1day"))]
    pub(super) body_timeout: Duration,
    /// Time for a client to take an answer
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = times("1ms", "1day"))]
    pub(super) send_timeout: Duration,
    /// Time to answer what was accepted or has begun to arrive, after SIGINT or SIGTERM, up to 1day
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = times("0s", "1day"))]
    pub(super) drain: Duration,
    /// Record how long the loop of each core is away from its events, at two looks at a clock a turn, and
    /// say it at the end. Models without a loop of ringlab's have no turns
    #[arg(long)]
    pub(super) turns: bool,
    /// Answer lines on standard input with figures on standard output; end when it closes
    #[arg(long, hide = true)]
    pub(super) control: bool,
    /// Be one process of `--layout processes`
    #[arg(long, hide = true, value_name = "CORE,ADDRESS,CONNECTIONS")]
    pub(super) share: Option<Share>,
    /// Record where the time goes
    #[arg(long, hide = true)]
    pub(super) probed: bool,
    /// And how long page faults take, where the kernel tells
    #[arg(long, hide = true)]
    pub(super) time_faults: bool,
    /// Puts so many nanoseconds of work for each request into a stage, as the ledger calls it
    #[arg(long, hide = true, value_name = "STAGE=NS")]
    pub(super) inject: Option<Injection>,
    /// What the connections of `null` ask for
    #[arg(long, hide = true, value_name = "PATH")]
    pub(super) canned: Option<String>,
    /// List the guest's functions for perf, in /tmp/perf-PID.map
    #[arg(long, hide = true)]
    pub(super) perf_map: bool,
}

impl Arguments {
    /// Whether another program started this one, and speaks with it.
    pub(super) fn is_child(&self) -> bool {
        self.control || self.share.is_some()
    }

    /// Whether handlers can be exchanged. Where a program started this one, only if it asked for it.
    pub(super) fn is_swapped(&self) -> bool {
        let asked = self.watch || self.socket.is_some();
        !self.is_parent() && (asked || !self.is_child())
    }

    /// Whether this process only starts others that serve.
    pub(super) fn is_parent(&self) -> bool {
        self.layout == Layout::Processes && self.share.is_none()
    }

    pub(super) fn config(&self) -> Result<Config, ConfigError> {
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
        config.drain = self.drain;
        config.turns = self.turns;
        config.probed = self.probed;
        config.injection = self.inject.clone().map(|injection| Injection {
            recorded: self.probed,
            ..injection
        });
        config.http.target_bytes = self.target.as_u64() as usize;
        config.http.head_bytes = self.head.as_u64() as usize;
        config.http.body_bytes = self.body.as_u64() as usize;
        config.sandbox.deadline = (!self.no_deadline).then_some(self.deadline);
        if let Some(memory) = self.memory {
            config.sandbox.set_memory(memory.as_u64() as usize);
        }
        config.sandbox.stack_bytes = self.stack.as_u64() as usize;
        config.sandbox.table_entries = self.tables as usize;
        config.sandbox.instances = usize::from(self.instances);
        config.sandbox.instance_wait = self.instance_wait;
        config.sandbox.perf_map = self.perf_map;
        config.sandbox.response_bytes = self.response.as_u64() as usize;
        config.sandbox.header_line_bytes = self.header_lines.as_u64() as usize;
        config.timeouts.keep_alive_ms = milliseconds(self.keep_alive);
        config.timeouts.head_ms = milliseconds(self.head_timeout);
        config.timeouts.body_ms = milliseconds(self.body_timeout);
        config.timeouts.send_ms = milliseconds(self.send_timeout);
        Ok(config)
    }
}

/// The cores that no shard has.
fn left_over(taken: &[usize]) -> Vec<usize> {
    let mut cores = config::cores();
    cores.retain(|core| !taken.contains(core));
    cores
}

/// Of a time that is at least one of them, and no more than there are in a day.
fn milliseconds(time: Duration) -> u64 {
    time.as_millis() as u64
}
