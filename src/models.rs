//! The table of I/O models: the one place that knows them all, and the only indirect call between
//! `main` and a model's loop, made once a thread.

use crate::io::epoll::Epoll;
use crate::io::io_uring::IoUring;
use crate::io::nonblocking::Nonblocking;
use crate::io::null::Null;
use crate::io::signal::SignalDriven;
use crate::io::{blocking, epoll, io_uring, nonblocking, null, signal, tokio_uring};
use crate::measure::probe::{Injecting, Off, On};
use crate::shard::{Shard, ShardError};
use crate::{event_loop, task_per_connection, thread_per_connection};

/// An I/O model.
pub struct Model {
    /// As on the command line and in results.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub sentence: &'static str,
    /// What owns the loop.
    pub shape: Shape,
    /// System calls that it makes while it serves, by the names of [`crate::io::Counts`]: what the
    /// kernel is asked to count, too. Those that only end connections are left out.
    pub calls: &'static [&'static str],
    /// Why it cannot run here, if so.
    pub check: fn() -> Result<(), String>,
    /// How a thread of it is told that a handler on another thread has answered; to go on after
    /// "answers of other threads come back".
    pub way_back: fn() -> String,
    /// Serves on the calling thread until the hub says otherwise.
    pub run: Run,
    /// The same, recording where the time goes.
    pub run_probed: Run,
    /// The same, with work put into a stage on purpose.
    pub run_injecting: Run,
}

/// The loop of a shard's thread.
pub type Run = fn(Shard) -> Result<(), ShardError>;

/// What owns the loop of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// ringlab's own loop, over a driver.
    EventLoop,
    /// A thread for each connection.
    ThreadPerConnection,
    /// An async runtime's, with a task for each connection: what it asks of the kernel by itself is
    /// in no count of the program's.
    RuntimeOwned,
    /// ringlab's own loop, over a driver without a kernel: it has no clients and no arrivals.
    SelfDriven,
}

/// Every model, in the order in which tables show them.
pub static MODELS: &[Model] = &[
    Model {
        name: "blocking",
        sentence: "A thread for each connection, which waits in recv and in send.",
        shape: Shape::ThreadPerConnection,
        calls: &["accept4", "recv", "send", "poll", "read", "clone3"],
        check: blocking::check,
        way_back: || "by unparking the thread of their connection".to_owned(),
        run: thread_per_connection::run::<Off>,
        run_probed: thread_per_connection::run::<On>,
        run_injecting: thread_per_connection::run::<Injecting>,
    },
    Model {
        name: "nonblocking",
        sentence: "One thread a core tries every socket in turn and never sleeps: busy polling.",
        shape: Shape::EventLoop,
        calls: &["accept4", "recv", "send"],
        check: nonblocking::check,
        way_back: || "by a flag that every turn looks at".to_owned(),
        run: event_loop::run::<Nonblocking<Off>, Off>,
        run_probed: event_loop::run::<Nonblocking<On>, On>,
        run_injecting: event_loop::run::<Nonblocking<Injecting>, Injecting>,
    },
    Model {
        name: "epoll",
        sentence: "One thread a core asks which sockets are ready, then receives and sends itself.",
        shape: Shape::EventLoop,
        calls: &[
            "accept4",
            "recv",
            "send",
            "epoll_wait",
            "epoll_ctl",
            "timerfd_settime",
            "read",
        ],
        check: epoll::check,
        way_back: || "by an eventfd in its epoll set".to_owned(),
        run: event_loop::run::<Epoll<Off>, Off>,
        run_probed: event_loop::run::<Epoll<On>, On>,
        run_injecting: event_loop::run::<Epoll<Injecting>, Injecting>,
    },
    Model {
        name: "signal",
        sentence: "One thread a core gets a signal for each socket that becomes ready, and reads many at a time from a signalfd.",
        shape: Shape::EventLoop,
        calls: &[
            "accept4",
            "recv",
            "send",
            "read",
            "poll",
            "fcntl",
            "timer_settime",
        ],
        check: signal::check,
        way_back: || "by a signal of their own, SIGUSR1, to its thread".to_owned(),
        run: event_loop::run::<SignalDriven<Off>, Off>,
        run_probed: event_loop::run::<SignalDriven<On>, On>,
        run_injecting: event_loop::run::<SignalDriven<Injecting>, Injecting>,
    },
    Model {
        name: "io_uring",
        sentence: "One thread a core hands operations to a ring and takes completions, with one call for all that is there.",
        shape: Shape::EventLoop,
        calls: &["io_uring_enter"],
        check: io_uring::check,
        way_back: io_uring::way_back,
        run: event_loop::run::<IoUring<Off>, Off>,
        run_probed: event_loop::run::<IoUring<On>, On>,
        run_injecting: event_loop::run::<IoUring<Injecting>, Injecting>,
    },
    Model {
        name: "tokio_uring",
        sentence: "Async/await: a task for each connection, on the tokio-uring runtime, which owns the loop and waits for its ring through epoll.",
        shape: Shape::RuntimeOwned,
        calls: &["io_uring_enter", "epoll_wait", "read"],
        check: tokio_uring::check,
        way_back: || "by an eventfd in its runtime's epoll set".to_owned(),
        run: task_per_connection::run::<Off>,
        run_probed: task_per_connection::run::<On>,
        run_injecting: task_per_connection::run::<Injecting>,
    },
    Model {
        name: "null",
        sentence: "No kernel: canned requests in, answers thrown away. What the lab itself costs.",
        shape: Shape::SelfDriven,
        calls: &[],
        check: null::check,
        way_back: || "by a flag that every turn looks at".to_owned(),
        run: event_loop::run::<Null<Off>, Off>,
        run_probed: event_loop::run::<Null<On>, On>,
        run_injecting: event_loop::run::<Null<Injecting>, Injecting>,
    },
];

/// What there is of `simulated`, which lives in the tests alone.
pub struct ForTests {
    /// As other models'.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub sentence: &'static str,
}

/// Run by `cargo test`; not in [`MODELS`], since it serves nobody.
pub static SIMULATED: ForTests = ForTests {
    name: "simulated",
    sentence: "No kernel: one seed decides what goes short, late, full or wrong; for tests.",
};

/// The model of that name, as somebody asked for it.
///
/// # Errors
/// A sentence that says which there are.
pub fn asked(name: &str) -> Result<&'static Model, String> {
    let names = || {
        let names: Vec<_> = MODELS.iter().map(|model| model.name).collect();
        names.join(", ")
    };
    if name == SIMULATED.name {
        return Err(format!(
            "the model {name} serves nobody, it is for tests: `cargo test simulation` runs it; choose from {}",
            names()
        ));
    }
    find(name).ok_or_else(|| format!("no I/O model is called {name:?}; choose from {}", names()))
}

/// The model of that name.
pub fn find(name: &str) -> Option<&'static Model> {
    MODELS.iter().find(|model| model.name == name)
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl PartialEq for Model {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}
