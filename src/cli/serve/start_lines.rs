//! What a server says when it is ready: where it listens, what answers which path, and what its
//! policies do on this host. In lines of at most 80 columns, but for words that are longer.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::config::Config;
use crate::offload::Policy;
use crate::report::{wrap, wrap_on};
use crate::sandbox::Quantum;
use crate::server::Server;

/// What a server's policies are, and what of them depends on the host.
pub(super) struct Policies {
    of_routes: Vec<Policy>,
    /// Nobody said how long slices are.
    measured: bool,
    way_back: fn() -> String,
}

impl Policies {
    /// Of a server as it is asked for.
    pub(super) fn of(config: &Config) -> Policies {
        Policies {
            of_routes: config.policies().collect(),
            measured: config.quantum.is_none(),
            way_back: config.model.way_back,
        }
    }

    /// How long slices are, where there are any and nobody said it.
    pub(super) fn measured_quantum(&self) -> Option<Quantum> {
        let measured = self.any(&[Policy::TimeSlice]) && self.measured;
        measured.then(Quantum::measured)
    }

    fn any(&self, which: &[Policy]) -> bool {
        self.of_routes.iter().any(|policy| which.contains(policy))
    }
}

/// Where it listens. Whoever has read it may ask at once.
pub(super) fn address(address: SocketAddr) {
    say(&format!("listening on http://{address}"));
}

/// What answers which path. Returns how many modules were compiled for it.
pub(super) fn routes(server: &Server, policies: &Policies) -> usize {
    let routes = server.routes();
    let mut compiled = 0;
    for (nth, (path, handler)) in routes.iter().enumerate() {
        let before = &routes[..nth];
        let same = before.iter().find(|(_, one)| one.shares_code_with(handler));
        let how = match (same, handler.describe().module) {
            (Some((path, _)), _) => format!("compiled with {path}"),
            (None, Some(_)) => {
                compiled += 1;
                let took = milliseconds_of(handler.compile_time());
                format!("compiled in {took:.1} ms")
            }
            (None, None) => "not compiled".to_owned(),
        };
        let path = if path.is_empty() { "all" } else { path };
        let memory = match handler.memory_that_may_not_grow() {
            Some(bytes) => format!("; its memory of {bytes} bytes may not grow: --memory"),
            None => String::new(),
        };
        let (handler, isolation) = (handler.describe(), handler.isolation());
        let policy = match policies.of_routes[nth] {
            Policy::Inline => String::new(),
            other => format!(", {other}"),
        };
        let line = format!("{path}: {handler}, {isolation}{policy}, {how}{memory}");
        say(&wrap_on("  ", &line));
    }
    compiled
}

/// What compiling so many modules took, and the whole start.
pub(super) fn ready(server: &Server, compiled: usize, began: Instant) {
    say(&format!(
        "ready in {:.1} ms, {:.1} of them to compile {compiled} {}",
        milliseconds_of(began.elapsed()),
        milliseconds_of(server.load_time()),
        if compiled == 1 { "module" } else { "modules" }
    ));
}

/// The same of a server of processes, of which each compiles for itself: the first one `said` what answers
/// which path.
pub(super) fn of_processes(said: &[String], began: Instant) {
    said.iter().for_each(|line| say(line));
    let ready_ms = milliseconds_of(began.elapsed());
    say(&format!(
        "ready in {ready_ms:.1} ms, each process with modules of its own"
    ));
}

/// How long slices last where nobody said it, and how answers come back from other threads.
pub(super) fn policies(policies: &Policies) {
    if let Some(quantum) = policies.measured_quantum() {
        say(&wrap(&quantum.to_string()));
    }
    if policies.any(&[Policy::Spawn, Policy::Pool]) {
        let way_back = (policies.way_back)();
        say(&wrap(&format!(
            "answers of other threads come back {way_back}"
        )));
    }
}

fn milliseconds_of(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Whoever waits for a line gets it now. A reader that has gone is no reason to end.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}
