//! What a server is asked to be: plain data, made valid once. Whatever is refused here is refused
//! in words, before anything is opened.

use std::net::SocketAddr;
use std::time::Duration;

use crate::http;
use crate::measure::probe::Injection;
use crate::models::{self, Model};
use crate::offload::Policy;
use crate::routes::{self, Route};
use crate::sandbox::{self, Handler, Isolation, LoadError, Quantum, Source, Wanted};
use crate::session::Timeouts;

/// A server as asked for.
#[derive(Clone, Debug)]
pub struct Config {
    /// How bytes move.
    pub model: &'static Model,
    /// What stands between two requests.
    pub isolation: Isolation,
    /// Where and when handlers run.
    pub offload: Policy,
    /// Threads of [`Policy::Pool`].
    pub workers: usize,
    /// Cores of these threads, used in turn; none: wherever the kernel puts them.
    pub worker_cores: Vec<usize>,
    /// Requests that may wait for a worker or an instance, or have a thread of their own, at a time.
    pub queue: usize,
    /// CPU time of a slice of [`Policy::TimeSlice`]; `None`: what [`Quantum::measured`] says.
    pub quantum: Option<Duration>,
    /// What runs, where there are no routes.
    pub handler: Source,
    /// What runs for which paths; none: one handler for everything.
    pub routes: Vec<Route>,
    /// One pinned thread for each.
    pub cores: Vec<usize>,
    /// Where to listen; port 0 is chosen by the kernel.
    pub listen: SocketAddr,
    /// That address is held by the parent of this process, and shared with others like this one.
    pub joins: bool,
    /// Connections at a time, over all cores; one more is answered 503.
    pub connections: usize,
    /// Bounds on a request.
    pub http: http::Limits,
    /// Bounds on the handler.
    pub sandbox: sandbox::Limits,
    /// Bounds on the client's time.
    pub timeouts: Timeouts,
    /// How long a draining server waits for its clients.
    pub drain: Duration,
    /// Records how long each loop is away from its events, at two looks at a clock a turn.
    pub turns: bool,
    /// Records where the time goes, at a price.
    pub probed: bool,
    /// Puts work into a stage on purpose, to see whether the ledger finds it.
    pub injection: Option<Injection>,
}

/// A configuration that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A core that this machine does not have.
    #[error("there is no core {core} to run on here; choose from {}", list(.there))]
    NoSuchCore {
        /// The one that was asked for.
        core: usize,
        /// Those that this process may use.
        there: Vec<usize>,
    },
    /// A core twice.
    #[error("core {0} is named twice; each thread has a core of its own")]
    CoreTwice(usize),
    /// A process without a connection of its own would refuse everybody.
    #[error(
        "--connections {connections} cannot be shared out over {processes} processes; ask for more, or for --layout threads"
    )]
    TooFewConnections {
        /// What was asked for.
        connections: usize,
        /// One for each core.
        processes: usize,
    },
    /// The kernel cannot do what the model needs.
    #[error("{model} cannot run here: {reason}; `--model epoll` can")]
    ModelUnavailable {
        /// The model that was asked for.
        model: &'static str,
        /// What the kernel said, and what would help.
        reason: String,
    },
    /// A policy and a model that do not go together.
    #[error("{policy} does not go with {model}: {reason}")]
    PolicyImpossible {
        /// The policy that was asked for.
        policy: Policy,
        /// The model that was asked for.
        model: &'static str,
        /// Why not, and what does.
        reason: &'static str,
    },
    /// The handler.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A path twice.
    #[error("the path {0} has two routes; name each path once")]
    PathTwice(String),
    /// More routes than there may be.
    #[error("{0} routes are more than the {most} of a server; serve the others at another port", most = routes::MOST)]
    TooManyRoutes(usize),
    /// Fewer descriptors than the least a server needs.
    #[error(
        "this process may open {allowed} descriptors, and a server needs at least {needed}; raise `ulimit -n`"
    )]
    TooFewDescriptors {
        /// RLIMIT_NOFILE.
        allowed: usize,
        /// The least that would do.
        needed: usize,
    },
}

fn list(cores: &[usize]) -> String {
    cores
        .iter()
        .map(usize::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl ConfigError {
    /// Whether the host is at fault rather than what was asked for.
    pub fn is_the_hosts(&self) -> bool {
        match self {
            Self::ModelUnavailable { .. } | Self::TooFewDescriptors { .. } => true,
            Self::Load(error) => error.is_the_hosts(),
            _ => false,
        }
    }
}

/// The cores that this process may use.
pub fn cores() -> Vec<usize> {
    core_affinity::get_core_ids()
        .unwrap_or_default()
        .iter()
        .map(|core| core.id)
        .collect()
}

impl Config {
    /// The default model and isolation on `cores`, listening on a free port of loopback.
    pub fn new(handler: Source, cores: Vec<usize>) -> Self {
        Self {
            model: models::find("epoll").expect("epoll is in the table"),
            isolation: Isolation::Reuse,
            offload: Policy::Inline,
            workers: 4,
            worker_cores: Vec::new(),
            queue: 256,
            quantum: None,
            handler,
            routes: Vec::new(),
            cores,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            joins: false,
            connections: 1024,
            http: http::Limits::default(),
            sandbox: sandbox::Limits::default(),
            timeouts: Timeouts::default(),
            drain: Duration::from_secs(10),
            turns: false,
            probed: false,
            injection: None,
        }
    }

    /// Checks everything that can be checked before a socket is opened, and loads each route's
    /// handler.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn validate(&self) -> Result<Vec<Handler>, ConfigError> {
        self.check_host()?;
        if self.routes.len() > routes::MOST {
            return Err(ConfigError::TooManyRoutes(self.routes.len()));
        }
        for (nth, route) in self.routes.iter().enumerate() {
            if self.routes[..nth].iter().any(|one| one.path == route.path) {
                return Err(ConfigError::PathTwice(route.path.clone()));
            }
        }
        let wanted = |source: &Source, isolation, policy| {
            let mut limits = self.sandbox.clone();
            limits.quantum = (policy == Policy::TimeSlice).then(|| {
                // It measures, the first time.
                let measured = || Quantum::measured().length();
                self.quantum.unwrap_or_else(measured)
            });
            Wanted {
                source: source.clone(),
                isolation,
                limits,
            }
        };
        let wanted: Vec<_> = if self.routes.is_empty() {
            vec![wanted(&self.handler, self.isolation, self.offload)]
        } else {
            let routes = self.routes.iter().zip(self.policies());
            let wanted = |(route, policy): (&Route, Policy)| {
                let isolation = route.isolation.unwrap_or(self.isolation);
                wanted(&route.handler, isolation, policy)
            };
            routes.map(wanted).collect()
        };
        Ok(sandbox::load_all(&wanted)?)
    }

    /// Each route's path; one without routes has an empty one.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        let all = self.routes.is_empty().then(String::new);
        let routes = self.routes.iter();
        all.into_iter()
            .chain(routes.map(|route| route.path.clone()))
    }

    /// Whether a handler is linked in, and so has no limits.
    pub fn runs_native(&self) -> bool {
        let mut routes = self.routes.iter();
        let native = |isolation: Isolation| isolation == Isolation::Native;
        match routes.len() {
            0 => native(self.isolation),
            _ => routes.any(|route| native(route.isolation.unwrap_or(self.isolation))),
        }
    }

    /// Where and when each route's handlers run; one without routes has one for everything.
    pub fn policies(&self) -> impl Iterator<Item = Policy> {
        let all = self.routes.is_empty().then_some(self.offload);
        let routes = self.routes.iter();
        all.into_iter()
            .chain(routes.map(|route| route.offload.unwrap_or(self.offload)))
    }

    /// Checks what is asked of the machine; the handler is left to others.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn check_host(&self) -> Result<(), ConfigError> {
        let there = cores();
        for &core in self.cores.iter().chain(&self.worker_cores) {
            if !there.contains(&core) {
                return Err(ConfigError::NoSuchCore { core, there });
            }
        }
        for (nth, &core) in self.cores.iter().enumerate() {
            if self.cores[..nth].contains(&core) {
                return Err(ConfigError::CoreTwice(core));
            }
        }
        for policy in self.policies() {
            policy
                .check(self.model.shape)
                .map_err(|reason| ConfigError::PolicyImpossible {
                    policy,
                    model: self.model.name,
                    reason,
                })?;
        }
        (self.model.check)().map_err(|reason| ConfigError::ModelUnavailable {
            model: self.model.name,
            reason,
        })
    }
}
