//! One pinned thread and all that it owns, and the little that shards share: the number of
//! connections, the stage the server is in, and the books that the figures are read from.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicUsize, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::handlers::{Handlers, Seen};
use crate::http;
use crate::io::{Counts, CountsSnapshot, Listener, Waker};
use crate::measure::probe::{self, Injection, Probe, StageNs, StageTimes};
use crate::measure::turns::{Turns, TurnsSnapshot};
use crate::offload::{Inline, Offload, Patience, Policy, Remote, Routed, Threads, TimeSlice, Wake};
use crate::pool::Pool;
use crate::routes::Table;
use crate::sandbox::{Handler, LoadError, Sandbox, ShardSandbox};
use crate::served::{Served, ServedSnapshot};
use crate::session::Context;

/// Connections beyond the limit that may exist at a time, to be told that they are refused.
pub const SPARE_CONNECTIONS: usize = 64;

/// A shard before it runs; made on the main thread, used up on its own.
pub struct Shard {
    /// Its own listening socket, on the server's address.
    pub listener: Listener,
    /// Each route's handler, ready to be put into an engine of the shard's.
    pub loaded: Arc<[Handler]>,
    /// Where they are once they are.
    pub handlers: Arc<Handlers>,
    /// As the server was asked to be.
    pub config: Arc<Config>,
    /// Shared by all shards.
    pub hub: Arc<Hub>,
    /// Shared by all shards: who runs handlers that do not run here.
    pub threads: Threads,
    /// Told once the shard serves; dropped without a word if it does not come to that.
    pub ready: SyncSender<Waker>,
}

/// Why a shard could not serve, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ShardError {
    /// The handler could not be put into the shard.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A bug of this program's.
    #[error("the shard on core {core} panicked; please report what it said above")]
    Panicked {
        /// Its core.
        core: usize,
    },
    /// A system call failed.
    #[error("{step}: {error}")]
    System {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        error: std::io::Error,
    },
}

impl ShardError {
    /// For `map_err`, with the step that failed.
    pub fn at(step: &'static str) -> impl FnOnce(std::io::Error) -> ShardError {
        move |error| ShardError::System { step, error }
    }
}

impl Shard {
    /// Puts each handler into an engine of this shard's own.
    ///
    /// # Errors
    /// See [`ShardSandbox::new`].
    pub fn begin(&self) -> Result<Arc<Handlers>, ShardError> {
        let handlers = self.loaded.iter().map(sandbox);
        let handlers = handlers.collect::<Result<_, _>>()?;
        self.handlers.begin(handlers, self.threads.pool.as_ref());
        Ok(self.handlers.clone())
    }
}

/// A handler in an engine of its own, its answers held to this program's HTTP.
///
/// # Errors
/// See [`ShardSandbox::new`].
pub fn sandbox(handler: &Handler) -> Result<Arc<ShardSandbox>, LoadError> {
    ShardSandbox::new(handler, |lines| {
        http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
    })
}

/// What a thread that serves connections needs for its sessions. `wake` is how it is woken when an
/// answer has come from another thread.
///
/// # Errors
/// The thread's deadline timer could not be made.
pub fn context<P: Probe>(
    config: &Config,
    handlers: Arc<Handlers>,
    threads: &Threads,
    wake: &Wake,
    book: &Book,
) -> Result<Context<P>, ShardError> {
    let (seen, sandboxes) = Seen::begin(handlers);
    let policies = config.policies().zip(sandboxes);
    let policies = policies.map(|(policy, sandbox)| {
        Ok(match policy {
            Policy::Inline => {
                let sandbox =
                    Sandbox::new(sandbox).map_err(ShardError::at("starting the deadline timer"))?;
                Box::new(Inline::<P>::new(sandbox)) as Box<dyn Offload>
            }
            Policy::Spawn => {
                let spawn = threads.spawn.clone().expect("started for this policy");
                Box::new(Remote::<_, P>::new(
                    spawn,
                    sandbox,
                    wake.clone(),
                    book.io.clone(),
                ))
            }
            Policy::Pool => {
                let pool = threads.pool.clone().expect("started for this policy");
                Box::new(Remote::<_, P>::new(
                    pool,
                    sandbox,
                    wake.clone(),
                    book.io.clone(),
                ))
            }
            Policy::TimeSlice => {
                let patience = Patience {
                    requests: config.queue,
                    wait: config.sandbox.instance_wait,
                };
                let policy = TimeSlice::<P>::new(sandbox, patience)
                    .map_err(ShardError::at("starting the timers of slices"))?;
                Box::new(policy)
            }
        })
    });
    let mut policies = policies.collect::<Result<Vec<_>, ShardError>>()?;
    let offload = match config.routes.as_slice() {
        [] => policies.remove(0),
        routes => {
            let table = Table::new(routes.iter().map(|route| route.path.as_str()));
            Box::new(Routed::new(table, policies))
        }
    };
    Ok(Context {
        offload,
        handlers: seen,
        limits: config.http,
        timeouts: config.timeouts,
        pool: Pool::new(config.connections),
        served: book.served.clone(),
        date: [b' '; 29],
        now_ms: 0,
        probe: PhantomData,
    })
}

/// What the shards of a server share.
#[derive(Debug)]
pub struct Hub {
    stage: AtomicU8,
    connections: AtomicUsize,
    limit: usize,
    injection: Option<Injection>,
    books: Mutex<Books>,
}

/// How far the server is on its way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Serving.
    Running,
    /// Nothing new is accepted; what was received is answered.
    Draining,
    /// Everything ends at once.
    Stopping,
}

/// The figures of one thread.
#[derive(Debug, Default)]
pub struct Book {
    /// What its driver did.
    pub io: Arc<Counts>,
    /// What its sessions did.
    pub served: Arc<Served>,
    /// The turns of its loop, if it has one.
    pub turns: Arc<Turns>,
    /// Where its time went, if that is recorded.
    pub stages: Arc<StageTimes>,
    /// Work to be put into one of those stages.
    injection: Option<Injection>,
    /// The thread's id, once it has begun.
    thread: AtomicI32,
}

impl Book {
    /// The calling thread is the one whose figures these are. If its time is recorded, then that of
    /// one turn in `one_in`: see [`probe::begin`].
    pub fn begin<P: Probe>(&self, one_in: u64) {
        self.thread
            .store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
        probe::begin::<P>(&self.stages, one_in, self.injection.clone());
    }
}

#[derive(Debug, Default)]
struct Books {
    open: Vec<Arc<Book>>,
    closed: Figures,
}

/// The figures of all threads together, ended ones among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// What the drivers did.
    pub io: CountsSnapshot,
    /// What the sessions did.
    pub served: ServedSnapshot,
    /// The turns of the shards' loops. Older results have none.
    #[serde(default)]
    pub turns: TurnsSnapshot,
    /// Where the time of the threads that serve went.
    pub stages: StageNs,
}

impl Figures {
    /// What came since `earlier`.
    pub fn since(&self, earlier: &Figures) -> Figures {
        Figures {
            io: self.io.since(&earlier.io),
            served: self.served.since(&earlier.served),
            turns: self.turns.since(&earlier.turns),
            stages: self.stages.since(&earlier.stages),
        }
    }

    /// Both together.
    pub fn plus(&self, other: &Figures) -> Figures {
        Figures {
            io: self.io.plus(&other.io),
            served: self.served.plus(&other.served),
            turns: self.turns.plus(&other.turns),
            stages: self.stages.plus(&other.stages),
        }
    }

    fn of(book: &Book) -> Figures {
        Figures {
            io: book.io.snapshot(),
            served: book.served.snapshot(),
            turns: book.turns.snapshot(),
            stages: book.stages.snapshot(),
        }
    }
}

impl Hub {
    /// A hub for at most `limit` connections at a time.
    pub fn new(limit: usize) -> Self {
        Self {
            stage: AtomicU8::new(Stage::Running as u8),
            connections: AtomicUsize::new(0),
            limit,
            injection: None,
            books: Mutex::default(),
        }
    }

    /// The same, with work to be put into a stage of every thread whose book is opened.
    #[must_use]
    pub fn with_injection(self, injection: Option<Injection>) -> Self {
        Self { injection, ..self }
    }

    /// The stage in force. Cheap enough for every turn.
    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::SeqCst) {
            0 => Stage::Running,
            1 => Stage::Draining,
            _ => Stage::Stopping,
        }
    }

    /// Goes on to `stage`; never back.
    pub fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::SeqCst);
    }

    /// Counts a connection in, if the limit allows. One that was must be [`Hub::discharge`]d.
    pub fn admit(&self) -> bool {
        let room = |n: usize| (n < self.limit).then_some(n + 1);
        self.connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room)
            .is_ok()
    }

    /// Counts a connection out.
    pub fn discharge(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// A book for the calling thread.
    pub fn open_book(&self) -> Arc<Book> {
        let book = Arc::new(Book {
            injection: self.injection.clone(),
            ..Book::default()
        });
        self.books().open.push(book.clone());
        book
    }

    /// The thread is done; what it counted stays in the figures.
    pub fn close_book(&self, book: &Arc<Book>) {
        let mut books = self.books();
        books.open.retain(|open| !Arc::ptr_eq(open, book));
        books.closed = books.closed.plus(&Figures::of(book));
    }

    /// The threads that serve, as opposed to those that help.
    pub fn serving_threads(&self) -> Vec<i32> {
        let books = self.books();
        books
            .open
            .iter()
            .map(|book| book.thread.load(Ordering::Relaxed))
            .collect()
    }

    /// All figures now.
    pub fn figures(&self) -> Figures {
        let books = self.books();
        books
            .open
            .iter()
            .fold(books.closed, |sum, book| sum.plus(&Figures::of(book)))
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that accepting failed, at most once a second: the cause mostly lasts.
#[derive(Debug, Default)]
pub struct AcceptLog {
    next_ms: u64,
    unsaid: u64,
}

impl AcceptLog {
    /// Accepting failed at `now_ms`.
    pub fn failed(&mut self, error: &std::io::Error, now_ms: u64) {
        self.unsaid += 1;
        if now_ms >= self.next_ms {
            let times = self.unsaid;
            let remedy = remedy(error);
            tracing::warn!(%error, times, "no connection could be accepted; {remedy}");
            self.next_ms = now_ms + 1000;
            self.unsaid = 0;
        }
    }
}

/// What helps where a connection could not be accepted (accept(2), pthread_create(3)).
fn remedy(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMFILE) => "raise `ulimit -n`",
        Some(libc::ENFILE) => {
            "the machine's table of open files is full; close some, or raise `sysctl fs.file-max`"
        }
        Some(libc::EAGAIN) => "no thread can be started for it; raise `ulimit -u`",
        Some(libc::ENOBUFS | libc::ENOMEM) => "the kernel lacks memory for it; free some",
        Some(_) => "it is tried again",
        None => "raise --connections",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_an_ended_thread_stay() {
        let hub = Hub::new(1);
        let book = hub.open_book();
        book.io.recv.add(3);
        hub.close_book(&book);
        let other = hub.open_book();
        other.io.recv.add(4);
        assert_eq!(hub.figures().io.recv, 7);
    }

    /// One thread is there when the pass begins, another is born and gone in it.
    #[test]
    fn times_of_threads_that_come_and_go_are_in_the_sum() {
        let hub = Hub::new(1);
        let on_http = |book: &Book| {
            book.begin::<probe::On>(1);
            probe::On::within(probe::Stage::Http, || {});
        };
        let times = || hub.figures().stages.entered[probe::Stage::Http as usize];
        std::thread::scope(|scope| {
            let (go, gone) = std::sync::mpsc::channel();
            let book = hub.open_book();
            let staying = scope.spawn(move || {
                on_http(&book);
                gone.recv().expect("the other one is gone");
                probe::On::within(probe::Stage::Http, || {});
                probe::On::enter(probe::Stage::Loop);
            });
            let passing = scope.spawn(|| {
                let book = hub.open_book();
                on_http(&book);
                hub.close_book(&book);
            });
            passing.join().expect("it closes its book");
            go.send(()).expect("it waits for that");
            staying.join().expect("its book stays open");
        });
        assert_eq!(times(), 3);
    }

    #[test]
    fn the_limit_is_exact() {
        let hub = Hub::new(1);
        assert!(hub.admit());
        assert!(!hub.admit());
        hub.discharge();
        assert!(hub.admit());
    }

    #[test]
    fn a_stage_never_goes_back() {
        let hub = Hub::new(1);
        hub.advance(Stage::Stopping);
        hub.advance(Stage::Draining);
        assert_eq!(hub.stage(), Stage::Stopping);
    }
}
