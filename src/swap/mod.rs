//! A handler exchanged for another while requests flow.
//!
//! One thread, the swapper, does one exchange after the other, whoever asks. The module is compiled
//! by a thread of idle priority, put into an engine for each shard, and only then shown to the shards
//! ([`crate::handlers`]): no request waits for any of it. What was exchanged is let go of here, when
//! no shard has it any more, since to take down an engine takes longer than many requests.
//!
//! | file | subject |
//! |---|---|
//! | `ask` | what may be asked and answered, as plain data |
//! | `idle` | a thread that runs when nobody else wants a core |
//! | `socket` | asked over a Unix socket, by its owner only |
//! | `watch` | asked by a change of a handler's file |
//!
//! It deliberately lacks a store of compiled modules: to compile a small one takes milliseconds.

mod ask;
mod idle;
pub mod socket;
pub mod watch;

pub use ask::{Answer, Ask, Refusal, RouteStatus};

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use crate::handlers::Handlers;
use crate::io::Waker;
use crate::sandbox::{Handler, ShardSandbox, Source};
use crate::shard;

/// Who asks while so many others wait, waits for the queue too.
const QUEUE: usize = 16;
/// How often is looked whether what was exchanged is in use still.
const LOOK: Duration = Duration::from_millis(100);
/// Exchanged handlers that may be in use still, counted in each shard. A connection on a thread of its
/// own keeps its handler until its next request; without a bound, who never sends one could keep many.
const RETIRED_MOST: usize = 64;

/// What a server shows of a shard to have its handlers exchanged.
#[derive(Clone)]
pub struct Target {
    /// The shard's handlers.
    pub handlers: Arc<Handlers>,
    /// Has the shard look at them when it has nothing else to do.
    pub waker: Waker,
}

/// Exchanges the handlers of one server. Clones ask the same thread, which ends with the last.
#[derive(Clone)]
pub struct Swapper {
    letters: SyncSender<Letter>,
    sources: Arc<[Source]>,
}

struct Letter {
    ask: Ask,
    reply: SyncSender<Result<Answer, Refusal>>,
}

impl Swapper {
    /// Starts the thread for a server that began with these handlers, each with its path.
    ///
    /// # Errors
    /// No thread can be started.
    pub fn start(begun: Vec<(String, Handler)>, targets: Vec<Target>) -> std::io::Result<Swapper> {
        let sources = begun
            .iter()
            .map(|(_, handler)| Source::parse(&handler.describe().name));
        let sources = sources.collect();
        let (letters, box_) = sync_channel(QUEUE);
        // Instances are tried out on it.
        let stacks = begun
            .iter()
            .map(|(_, handler)| handler.limits().compiler_stack_bytes());
        let stack_bytes = stacks.max().unwrap_or_default();
        let mut desk = Desk::new(begun, targets);
        thread::Builder::new()
            .name("swap".to_owned())
            .stack_size(stack_bytes)
            .spawn(move || desk.work(&box_))?;
        Ok(Swapper { letters, sources })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// It cannot be done; everything is as it was.
    pub fn ask(&self, ask: Ask) -> Result<Answer, Refusal> {
        let (reply, answer) = sync_channel(1);
        let gone = |_| Refusal::from("the server ends");
        self.letters
            .send(Letter { ask, reply })
            .map_err(|_| gone(()))?;
        answer.recv().map_err(|_| gone(()))?
    }

    /// What each route began with.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }
}

/// The swapper's thread.
struct Desk {
    routes: Vec<Route>,
    targets: Vec<Target>,
    /// Exchanged, and perhaps in use still.
    retired: Vec<Arc<ShardSandbox>>,
}

struct Route {
    path: String,
    version: u64,
    handler: Handler,
    since: SystemTime,
    before: Option<Handler>,
}

impl Desk {
    fn new(begun: Vec<(String, Handler)>, targets: Vec<Target>) -> Desk {
        let routes = begun.into_iter().map(|(path, handler)| Route {
            path,
            version: 1,
            handler,
            since: SystemTime::now(),
            before: None,
        });
        Desk {
            routes: routes.collect(),
            targets,
            retired: Vec::new(),
        }
    }

    fn work(&mut self, letters: &Receiver<Letter>) {
        loop {
            let letter = if self.retired.is_empty() {
                letters.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                letters.recv_timeout(LOOK)
            };
            match letter {
                Ok(Letter { ask, reply }) => {
                    let answer = self.answer(ask);
                    // Who asked may have left.
                    let _ = reply.send(answer);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.bury();
        }
    }

    fn answer(&mut self, ask: Ask) -> Result<Answer, Refusal> {
        let mut changed = false;
        match ask {
            Ask::Status => {}
            Ask::Swap { route, to } => {
                let route = self.find(route.as_deref())?;
                changed = self.swap(route, &Source::parse(&to))?;
            }
            Ask::Back { route } => {
                let route = self.find(route.as_deref())?;
                let Some(before) = self.routes[route].before.clone() else {
                    return Err("there is no version before this one to go back to".into());
                };
                self.exchange(route, before)?;
                changed = true;
            }
            Ask::Reload { route } => {
                for route in route.map_or(0..self.routes.len(), |route| route..route + 1) {
                    let name = &self.routes[route].handler.describe().name;
                    changed |= self.swap(route, &Source::parse(name))?;
                }
            }
        }
        self.bury();
        Ok(Answer {
            changed,
            routes: self
                .routes
                .iter()
                .enumerate()
                .map(|it| self.status(it))
                .collect(),
            retired: self.retired.len(),
        })
    }

    fn find(&self, path: Option<&str>) -> Result<usize, Refusal> {
        let paths = || self.routes.iter().map(|route| route.path.as_str());
        match path {
            None if self.routes.len() == 1 => Ok(0),
            None => Err(Refusal(format!(
                "there are several routes; name one of {} with --route",
                paths().collect::<Vec<_>>().join(", ")
            ))),
            Some(path) => paths().position(|one| one == path).ok_or_else(|| {
                Refusal(format!(
                    "there is no route {path}; choose one of {}",
                    paths().collect::<Vec<_>>().join(", ")
                ))
            }),
        }
    }

    /// False: it is the same module, and nothing was exchanged.
    fn swap(&mut self, route: usize, source: &Source) -> Result<bool, Refusal> {
        let now = &self.routes[route].handler;
        // A route's policy may be part of what its code was compiled for.
        let handler = idle::load(source, now.isolation(), now.limits())?;
        let (now, new) = (now.describe(), handler.describe());
        let same = match (now.module, new.module) {
            (Some(now), Some(new)) => now == new,
            _ => now == new,
        };
        if !same {
            self.exchange(route, handler)?;
        }
        Ok(!same)
    }

    fn exchange(&mut self, route: usize, handler: Handler) -> Result<(), Refusal> {
        self.bury();
        if self.retired.len() + self.targets.len() > RETIRED_MOST {
            return Err(Refusal(format!(
                "{} exchanged handlers are in use still, by connections that have sent no request \
                 since; try again when some have closed",
                self.retired.len()
            )));
        }
        // All of them before any is shown: a failure leaves everything as it was.
        let engines = self.targets.iter().map(|_| shard::sandbox(&handler));
        let engines: Vec<_> = engines.collect::<Result<_, _>>()?;
        for (target, engine) in self.targets.iter().zip(engines) {
            let old = target.handlers.exchange(route, engine);
            self.retired.push(old);
            target.waker.wake();
        }
        let route = &mut self.routes[route];
        route.version += 1;
        route.since = SystemTime::now();
        route.before = Some(std::mem::replace(&mut route.handler, handler));
        Ok(())
    }

    /// Lets go of what nobody else has any more.
    fn bury(&mut self) {
        self.retired.retain(|old| Arc::strong_count(old) > 1);
    }

    fn status(&self, (nth, route): (usize, &Route)) -> RouteStatus {
        let served = self.targets.iter().map(|target| {
            let now = target.handlers.all();
            now[nth].served()
        });
        let described = route.handler.describe();
        RouteStatus {
            path: route.path.clone(),
            version: route.version,
            handler: described.name.clone(),
            hash: described
                .module
                .map(|module| format!("{:016x}", module.fnv1a64)),
            bytes: described.module.map(|module| module.bytes),
            isolation: route.handler.isolation().to_string(),
            compile_us: route.handler.compile_time().as_micros() as u64,
            since: route.since,
            served: served.sum(),
            before: route.before.as_ref().map(|one| one.describe().name.clone()),
        }
    }
}
