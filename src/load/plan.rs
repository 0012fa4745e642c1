//! What to do: plain data, checked once before anything is opened.

use std::net::SocketAddr;
use std::time::Duration;

use super::error::LoadError;
use super::schedule::Arrivals;
use super::url::{Url, UrlError};

/// Limits of a plan. Each bounds memory or time, and none is near what one
/// machine can use.
pub mod limits {
    use std::time::Duration;

    /// Busy and idle connections together.
    pub const CONNECTIONS: usize = 1 << 20;
    /// Requests in flight on one connection.
    pub const PIPELINE: usize = 1024;
    /// Targets of one plan.
    pub const TARGETS: usize = 256;
    /// Requests per second over all threads.
    pub const RATE: f64 = 1e7;
    /// Warm-up and measured window, each.
    pub const TIME: Duration = Duration::from_secs(24 * 3600);
    /// Bytes of one rendered request, body included.
    pub const REQUEST_BYTES: usize = 64 << 20;
}

/// One run of the load generator.
#[derive(Clone, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    /// Value of the `Host` header.
    pub host: String,
    /// What to ask for; each request picks one by weight.
    pub targets: Vec<Target>,
    /// Connections that carry requests, over all threads.
    pub connections: usize,
    /// Connections that are opened first and never carry a request.
    pub idle_connections: usize,
    /// One generator thread pinned to each; empty means one thread, not pinned.
    pub cores: Vec<usize>,
    pub mode: Mode,
    /// Open loop: the last stretch before each planned send is spun, to send on time. Of classes that
    /// share a core, only one whose latency is looked at should: who spins is in the others' way.
    pub spins: bool,
    pub reuse: ConnectionUse,
    /// Load before the window. Fixed, and equal for all that is compared.
    pub warm_up: Duration,
    /// The measured window.
    pub duration: Duration,
    /// After this time without an answer a request has failed and its
    /// connection is replaced. Counted from the actual send.
    pub request_timeout: Duration,
    /// How long the target may refuse connections before the run is given up.
    pub start_timeout: Duration,
    /// Seed of the arrivals and of the choice between targets.
    pub seed: u64,
}

/// What is held constant: the number in flight, or the rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mode {
    /// A new request when an answer came: finds capacity. Its latency is the
    /// queueing of `connections × pipeline` requests.
    Closed {
        /// Requests written at once on a connection; the next ones follow when
        /// all are answered.
        pipeline: usize,
    },
    /// Requests at their own times, whatever the server does: finds latency.
    Open {
        /// Requests per second over all threads.
        rate: f64,
        arrivals: Arrivals,
    },
}

/// What happens to a connection after an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionUse {
    #[default]
    KeepAlive,
    /// `Connection: close` on every request. The server closes first, so its
    /// side keeps TIME_WAIT and the generator does not run out of ports.
    OnePerRequest,
}

/// One request and what its answer must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Share of the requests, relative to the other targets' weights.
    pub weight: u32,
    pub method: String,
    /// Path and query, starting with `/`.
    pub path: String,
    /// Further header fields. `Host` replaces the plan's; the framing and
    /// connection headers are the generator's own.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub expect: Expect,
}

/// What makes an answer right; anything else counts as failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expect {
    /// The status; `None` accepts any from 200 to 399.
    pub status: Option<u16>,
    pub length: BodyLength,
    /// The body's bytes; checked on every answer, at the cost of comparing them.
    pub body: Option<Vec<u8>>,
}

/// Which length of body is right. An answer to HEAD counts as empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// As long as the first right answer of the same target in this run.
    #[default]
    SameAsFirst,
    Exactly(u64),
    Any,
}

impl Target {
    /// A GET without body; any answer of one length with status 200 to 399 is right.
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            weight: 1,
            method: "GET".to_owned(),
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            expect: Expect::default(),
        }
    }
}

impl Plan {
    /// A closed loop of 64 keep-alive connections from one thread, 1 s of
    /// warm-up and 10 s of measuring; the caller changes what it wants else.
    pub fn new(address: SocketAddr, host: impl Into<String>, targets: Vec<Target>) -> Self {
        Self {
            address,
            host: host.into(),
            targets,
            connections: 64,
            idle_connections: 0,
            cores: Vec::new(),
            mode: Mode::Closed { pipeline: 1 },
            spins: true,
            reuse: ConnectionUse::KeepAlive,
            warm_up: Duration::from_secs(1),
            duration: Duration::from_secs(10),
            request_timeout: Duration::from_secs(5),
            start_timeout: Duration::from_secs(2),
            seed: 1,
        }
    }

    /// [`new`](Self::new) for GET of one URL.
    pub fn for_url(url: &Url) -> Result<Self, UrlError> {
        Ok(Self::new(
            url.resolve()?,
            url.authority(),
            vec![Target::get(&url.path)],
        ))
    }

    /// Generator threads.
    pub fn threads(&self) -> usize {
        self.cores.len().max(1)
    }

    /// Requests in flight on one connection at most.
    pub fn pipeline(&self) -> usize {
        match self.mode {
            Mode::Closed { pipeline } => pipeline,
            Mode::Open { .. } => 1,
        }
    }

    /// The loop's name for tables, since a closed loop's latency is queueing:
    /// `closed loop, 64 in flight`, `open loop, 10000 req/s, Poisson`.
    pub fn loop_label(&self) -> String {
        match self.mode {
            Mode::Closed { pipeline } => {
                format!("closed loop, {} in flight", self.connections * pipeline)
            }
            Mode::Open { rate, arrivals } => {
                let arrivals = match arrivals {
                    Arrivals::Poisson => "Poisson",
                    Arrivals::Constant => "constant",
                };
                format!("open loop, {rate} req/s, {arrivals}")
            }
        }
    }

    /// Refuses in one sentence what contradicts itself or leaves its range.
    /// The requests themselves are checked when they are rendered.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        let refuse = |sentence: String| Err(LoadError::Plan(sentence));
        let threads = self.threads();
        if self.connections == 0 {
            return refuse("no connection to send on: ask for at least 1".into());
        }
        if self.connections < threads {
            return refuse(format!(
                "{} connections cannot be shared by {threads} threads: ask for at least {threads} \
                 connections or fewer cores",
                self.connections
            ));
        }
        if self.connections.saturating_add(self.idle_connections) > limits::CONNECTIONS {
            return refuse(format!(
                "more than {} connections: ask for fewer",
                limits::CONNECTIONS
            ));
        }
        if let Some(core) = (self.cores.iter().enumerate())
            .find_map(|(i, core)| self.cores[..i].contains(core).then_some(core))
        {
            return refuse(format!(
                "core {core} is named twice: two generator threads on one core would measure \
                 each other"
            ));
        }
        match self.mode {
            Mode::Closed { pipeline } if !(1..=limits::PIPELINE).contains(&pipeline) => {
                return refuse(format!(
                    "a pipeline of {pipeline}: choose from 1 to {}",
                    limits::PIPELINE
                ));
            }
            Mode::Closed { pipeline } if pipeline > 1 && self.reuse != ConnectionUse::KeepAlive => {
                return refuse(
                    "pipelining needs keep-alive: one request per connection leaves nothing to \
                     pipeline"
                        .into(),
                );
            }
            Mode::Open { rate, .. } if !(rate > 0.0 && rate <= limits::RATE) => {
                return refuse(format!(
                    "a rate of {rate} requests per second: choose more than 0 and at most {}",
                    limits::RATE
                ));
            }
            _ => {}
        }
        if self.warm_up > limits::TIME {
            return refuse("a warm-up of more than 24 hours: choose a shorter one".into());
        }
        if self.duration.is_zero() || self.duration > limits::TIME {
            return refuse("the duration must be more than 0 and at most 24 hours".into());
        }
        if self.request_timeout.is_zero() || self.request_timeout > limits::TIME {
            return refuse("the request timeout must be more than 0 and at most 24 hours".into());
        }
        if self.start_timeout > limits::TIME {
            return refuse("a start timeout of more than 24 hours: choose a shorter one".into());
        }
        if self.targets.is_empty() || self.targets.len() > limits::TARGETS {
            return refuse(format!(
                "{} targets: name from 1 to {}",
                self.targets.len(),
                limits::TARGETS
            ));
        }
        if self.targets.iter().any(|target| target.weight == 0) {
            return refuse("a target of weight 0 would never be asked for: leave it out".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Plan), expected: Result<(), &str>) {
        let address = "127.0.0.1:80".parse().unwrap();
        let mut plan = Plan::new(address, "h", vec![Target::get("/")]);
        change(&mut plan);
        match (plan.check(), expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) if error.to_string().contains(part) => {}
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn contradictions_are_refused_in_words() {
        let open = |rate| Mode::Open {
            rate,
            arrivals: Arrivals::Poisson,
        };
        check(|_| {}, Ok(()));
        check(|p| p.connections = 0, Err("no connection"));
        check(
            |p| (p.connections, p.cores) = (1, vec![0, 1]),
            Err("shared by 2 threads"),
        );
        check(|p| p.idle_connections = usize::MAX, Err("more than"));
        check(|p| p.cores = vec![1, 0, 1], Err("core 1 is named twice"));
        check(
            |p| p.mode = Mode::Closed { pipeline: 0 },
            Err("pipeline of 0"),
        );
        check(
            |p| {
                p.mode = Mode::Closed { pipeline: 2 };
                p.reuse = ConnectionUse::OnePerRequest;
            },
            Err("keep-alive"),
        );
        check(|p| p.mode = open(0.0), Err("rate of 0"));
        check(|p| p.mode = open(f64::NAN), Err("rate of NaN"));
        check(|p| p.mode = open(1e9), Err("at most"));
        check(|p| p.duration = Duration::ZERO, Err("duration"));
        check(
            |p| p.request_timeout = Duration::ZERO,
            Err("request timeout"),
        );
        check(|p| p.targets.clear(), Err("0 targets"));
        check(|p| p.targets[0].weight = 0, Err("weight 0"));
    }

    #[test]
    fn the_label_names_the_loop() {
        let address = "127.0.0.1:80".parse().unwrap();
        let mut plan = Plan::new(address, "h", vec![Target::get("/")]);
        plan.mode = Mode::Closed { pipeline: 16 };
        assert_eq!(plan.loop_label(), "closed loop, 1024 in flight");
        plan.mode = Mode::Open {
            rate: 2500.0,
            arrivals: Arrivals::Constant,
        };
        assert_eq!(plan.loop_label(), "open loop, 2500 req/s, constant");
    }
}
