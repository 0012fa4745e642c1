//! A server: its shards started, watched and brought down.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::config::{Config, ConfigError};
use crate::handlers::Handlers;
use crate::io::{Waker, listener};
use crate::models::Shape;
use crate::offload::{Policy, Spawn, Threads, Workers};
use crate::sandbox::Handler;
use crate::shard::{Figures, Hub, Shard, ShardError, Stage};
use crate::swap::{Swapper, Target};

/// Room on a shard's stack for what is not the guest's.
const STACK_BYTES: usize = 512 * 1024;
/// How long shards may take to look up when everything is to end at once.
const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A server that answers.
pub struct Server {
    address: SocketAddr,
    hub: Arc<Hub>,
    wakers: Vec<Waker>,
    /// Each route's path, and the handler it began with.
    begun: Vec<(String, Handler)>,
    /// What reading, compiling and trying these took together.
    load_time: Duration,
    /// Each shard's.
    handlers: Vec<Arc<Handlers>>,
    /// One message from each shard that ended, however it ended.
    ended: Receiver<Result<(), ShardError>>,
    /// Shards that have not sent theirs.
    running: usize,
    drain: Duration,
    /// See [`Handle::spawns`].
    spawns: bool,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// What was asked for cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No listening socket.
    #[error("cannot listen on {address}: {}", in_words(.error))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// No thread.
    #[error("cannot start a thread for core {core}: {error}; raise `ulimit -u`")]
    Thread {
        /// For which core.
        core: usize,
        /// What the kernel said.
        error: std::io::Error,
    },
    /// No worker thread.
    #[error("cannot start a worker thread: {error}; raise `ulimit -u` or ask for fewer workers")]
    Worker {
        /// What the kernel said.
        error: std::io::Error,
    },
    /// A shard did not come up.
    #[error(transparent)]
    Shard(#[from] ShardError),
}

fn in_words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the port is in use; choose another, or port 0 for any free one".to_string()
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "no interface of this machine has that address; `127.0.0.1` is always there".to_string()
        }
        std::io::ErrorKind::PermissionDenied => {
            "a port below 1024 needs privileges; choose a higher one".to_string()
        }
        _ => error.to_string(),
    }
}

impl StartError {
    /// Whether the host is at fault rather than what was asked for.
    pub fn is_the_hosts(&self) -> bool {
        match self {
            StartError::Config(error) => error.is_the_hosts(),
            StartError::Listen { .. } => false,
            StartError::Thread { .. } | StartError::Worker { .. } | StartError::Shard(_) => true,
        }
    }
}

impl Server {
    /// Starts a server and returns when every shard serves.
    ///
    /// # Errors
    /// The first thing that went wrong; whatever had been started has ended again.
    pub fn start(config: Config) -> Result<Server, StartError> {
        let began = Instant::now();
        let loaded = config.validate()?;
        let load_time = began.elapsed();
        Self::start_loaded(config, loaded.into(), load_time)
    }

    fn start_loaded(
        config: Config,
        loaded: Arc<[Handler]>,
        load_time: Duration,
    ) -> Result<Server, StartError> {
        let address = config.listen;
        let shards = config.cores.len();
        let bound = if config.joins {
            listener::join(address, shards).map(|listeners| (listeners, address))
        } else {
            listener::bind(address, shards)
        };
        let (listeners, address) = bound.map_err(|error| StartError::Listen { address, error })?;
        let config = Arc::new(config);
        let hub = Arc::new(Hub::new(config.connections).with_injection(config.injection.clone()));
        let threads = start_threads(&config)?;
        let (tell_ended, ended) = sync_channel(config.cores.len());
        let mut server = Server {
            address,
            hub: hub.clone(),
            wakers: Vec::new(),
            begun: config.paths().zip(loaded.iter().cloned()).collect(),
            load_time,
            handlers: Vec::new(),
            ended,
            running: 0,
            drain: config.drain,
            spawns: config.model.shape != Shape::ThreadPerConnection
                && config.policies().any(|policy| policy == Policy::Spawn),
        };
        for (&core, listener) in config.cores.iter().zip(listeners) {
            let (ready, came_up) = sync_channel(1);
            let handlers = Arc::new(Handlers::default());
            server.handlers.push(handlers.clone());
            let shard = Shard {
                listener,
                loaded: loaded.clone(),
                handlers: handlers.clone(),
                config: config.clone(),
                hub: hub.clone(),
                threads: threads.clone(),
                ready,
            };
            let tell_ended = tell_ended.clone();
            let thread = thread::Builder::new()
                .name(format!("shard {core}"))
                .stack_size(config.sandbox.thread_stack_bytes() + STACK_BYTES)
                .spawn(move || {
                    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
                        tracing::warn!(core, "the shard could not be pinned to its core");
                    }
                    let model = shard.config.model;
                    let run = match (&shard.config.injection, shard.config.probed) {
                        (Some(_), _) => model.run_injecting,
                        (None, true) => model.run_probed,
                        (None, false) => model.run,
                    };
                    let ended = catch_unwind(AssertUnwindSafe(|| run(shard)));
                    let _ = tell_ended.send(ended.unwrap_or(Err(ShardError::Panicked { core })));
                })
                .map_err(|error| StartError::Thread { core, error });
            let up = thread.and_then(|_| {
                server.running += 1;
                // A shard that fails drops its end and says why.
                came_up.recv().map_err(|_| match server.ended.recv() {
                    Ok(Err(error)) => {
                        server.running -= 1;
                        StartError::Shard(error)
                    }
                    _ => unreachable!("a shard ends early only with an error"),
                })
            });
            match up {
                Ok(waker) => server.wakers.push(waker),
                Err(error) => {
                    server.stop();
                    return Err(error);
                }
            }
        }
        Ok(server)
    }

    /// Where it listens, the port as chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has done so far.
    pub fn figures(&self) -> Figures {
        self.hub.figures()
    }

    /// Each route's path, and the handler it began with; the path is empty where one handler answers
    /// everything.
    pub fn routes(&self) -> &[(String, Handler)] {
        &self.begun
    }

    /// What it took to read, compile and try all handlers, several at a time.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Who exchanges its handlers.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn swapper(&self) -> std::io::Result<Swapper> {
        let shards = self.handlers.iter().zip(&self.wakers);
        let targets = shards.map(|(handlers, waker)| Target {
            handlers: handlers.clone(),
            waker: waker.clone(),
        });
        Swapper::start(self.begun.clone(), targets.collect())
    }

    /// Shared with whoever wants to read figures or bring the server down from another thread.
    pub fn handle(&self) -> Handle {
        Handle {
            hub: self.hub.clone(),
            wakers: self.wakers.clone(),
            spawns: self.spawns,
        }
    }

    /// Waits until a shard ended that should not have, or [`Handle::advance`] was called.
    ///
    /// # Errors
    /// Why a shard gave up.
    pub fn wait(&mut self) -> Result<(), ShardError> {
        loop {
            match self.ended.recv_timeout(Duration::from_millis(50)) {
                Ok(result) => {
                    self.running -= 1;
                    result?;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            if self.hub.stage() > Stage::Running {
                return Ok(());
            }
        }
    }

    /// Drains: what was accepted is answered, within the drain limit. Says whether all were.
    pub fn drain(mut self) -> bool {
        self.handle().advance(Stage::Draining);
        let all = self.collect(self.drain);
        if !all {
            self.stop();
        }
        all
    }

    fn stop(&mut self) {
        self.handle().advance(Stage::Stopping);
        self.collect(STOP_LIMIT);
    }

    /// Waits for the shards to end; says whether they did within `limit`, or were told to stop.
    fn collect(&mut self, limit: Duration) -> bool {
        let began = Instant::now();
        while self.running > 0 {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                return false;
            }
            match self.ended.recv_timeout(left) {
                Ok(_) => self.running -= 1,
                Err(_) => return false,
            }
        }
        true
    }
}

/// The threads that the policies need besides the shards'.
fn start_threads(config: &Config) -> Result<Threads, StartError> {
    let stack_bytes = config.sandbox.thread_stack_bytes() + STACK_BYTES;
    let asked = |policy| config.policies().any(|one| one == policy);
    let pool = asked(Policy::Pool).then(|| {
        let cores = &config.worker_cores;
        Workers::start(config.workers, config.queue, cores, stack_bytes)
            .map_err(|error| StartError::Worker { error })
    });
    Ok(Threads {
        spawn: asked(Policy::Spawn).then(|| Spawn::new(config.queue, stack_bytes)),
        pool: pool.transpose()?,
    })
}

/// Reads a server's figures, or brings it down, from any thread.
#[derive(Clone)]
pub struct Handle {
    hub: Arc<Hub>,
    wakers: Vec<Waker>,
    spawns: bool,
}

impl Handle {
    /// What the server has done so far.
    pub fn figures(&self) -> Figures {
        self.hub.figures()
    }

    /// The threads that serve, as opposed to those that help.
    pub fn serving_threads(&self) -> Vec<i32> {
        self.hub.serving_threads()
    }

    /// Whether the threads that end while it serves are those of handlers, and no others.
    pub fn spawns(&self) -> bool {
        self.spawns
    }

    /// Goes on to `stage`, and wakes every shard to see it.
    pub fn advance(&self, stage: Stage) {
        self.hub.advance(stage);
        for waker in &self.wakers {
            waker.wake();
        }
    }
}
