//! The lab from outside: the real program in a process of its own, spoken to over real sockets.
//!
//! A behaviour is a function from a [`Lab`] to nothing; [`on_every_model`] and its kin make tests
//! of it, named `subject::model::behaviour`. What this kernel cannot do is skipped and said so.
//! No test asserts a speed: every wait has a generous bound and ends as soon as what it waits for
//! has happened.
//!
//! | module | what it holds the server to |
//! |---|---|
//! | `connections` | keep-alive, pipelining, half-close, HEAD, 100-continue, HTTP/1.0 |
//! | `bodies` | echoes of every size, slow readers, those who never read |
//! | `identical` | the same bytes from every model and isolation |
//! | `bad_input`, `timeouts`, `limits` | the named answer, and nobody else notices |
//! | `vanishing` | clients that leave at any byte |
//! | `half_open` | clients that are gone without a word |
//! | `misbehaving`, `misbehaving_builtins` | guests that trap, loop and lie |
//! | `neighbours` | good requests beside bad ones: none fails |
//! | `neighbours_soak` | how much longer good requests wait beside bad ones (soak only) |
//! | `mix` | light requests beside heavy ones, as `compare` measures them |
//! | `handler_limits` | what a handler may use, and what it is told beyond |
//! | `offload` | handlers on other threads: order, limits, those who leave, the server's end |
//! | `offload_isolations` | what a request leaves behind, under every policy |
//! | `workers` | where the threads of a pool run |
//! | `way_back` | how answers of other threads reach a loop: none is lost, by what the model has |
//! | `queues` | the same, their queues and wake-ups: every order of the threads |
//! | `call` | a request without a server: the answer, and what is said of it |
//! | `languages` | handlers in C, AssemblyScript and text, each where its compiler is installed |
//! | `new_project` | a handler's project written, built, inspected, called, served |
//! | `routes` | the longest path wins; each route has its isolation and policy |
//! | `swap` | handlers exchanged under load; bad ones; the socket, the watcher, SIGHUP |
//! | `swap_soak` | a thousand exchanges, and what they cost (soak only) |
//! | `inspect` | what is said of a module, and why it is refused |
//! | `real_work` | handlers that compute: the right answers, natively and in a sandbox alike |
//! | `signals`, `rings` | full queues, and buffers run out |
//! | `rings_refused` | machines and containers without io_uring: what is said, and what goes on |
//! | `interruptions` | system calls that a signal ends before they are done |
//! | `startup`, `drain` | how a server begins and ends |
//! | `layouts` | a process for each core: sums, shares, and how such a server ends |
//! | `figures` | what it says about itself |
//! | `copies` | how many bytes it copies for a request, exactly |
//! | `turns`, `time_slice` | how long a loop is away from its events; handlers that run in slices |
//! | `measuring` | `compare`: what it prints and stores |
//! | `measuring_refused`, `measuring_ended` | what it refuses; signals, and servers that hang |
//! | `load` | `load`: nothing is lost, and what it refuses |
//! | `injection` | work put into a stage, found in its row (soak only) |
//! | `ledger` | the blocks of the ledgers, and the kernel's counts beside the program's |
//! | `ledger_of_others` | the same of a user who is not root, and of a kernel with other names |
//! | `price` | what recording and counting cost, more narrowly than `compare` tells (soak only) |
//! | `profile` | flame graphs, and what is said where there can be none |
//! | `soak` | the script that runs what is too long for here: nothing keeps the rest from being run |
//! | `regressions` | bugs that were found once, each by what showed it |
//! | `modules` | the built-in handlers as WebAssembly |
//! | `architecture` | invariants that show in the source |
//! | `allocations` | a steady request allocates nothing |
//!
//! `server`, `client`, `closed_loop`, `open_loop`, `visitors`, `guests`, `refusals` and `runs` are the
//! instruments.

mod allocations;
mod architecture;
mod bad_input;
mod bodies;
mod call;
mod client;
mod closed_loop;
mod connections;
mod copies;
mod drain;
mod figures;
mod guests;
mod half_open;
mod handler_limits;
mod identical;
mod injection;
mod inspect;
mod interruptions;
mod languages;
mod layouts;
mod ledger;
mod ledger_of_others;
mod limits;
mod load;
mod measuring;
mod measuring_ended;
mod measuring_refused;
mod misbehaving;
mod misbehaving_builtins;
mod mix;
mod modules;
mod neighbours;
mod neighbours_soak;
mod new_project;
mod offload;
mod offload_isolations;
mod one_by_one;
mod open_loop;
mod price;
mod profile;
mod queues;
mod real_work;
mod refusals;
mod regressions;
mod rings;
mod rings_refused;
mod routes;
mod runs;
mod server;
mod signals;
mod soak;
mod startup;
mod swap;
mod swap_soak;
mod time_slice;
mod timeouts;
mod turns;
mod vanishing;
mod visitors;
mod way_back;
mod workers;

use std::io::Write;
use std::time::Duration;

use ringlab::models::{self, MODELS, Model, Shape};
use ringlab::sandbox::Isolation;

/// How long anything may take before a test gives up: far more than it ever does.
const PATIENCE: Duration = Duration::from_secs(30);

/// One place on the axes, at which a behaviour is tried.
#[derive(Clone, Copy)]
struct Lab {
    model: &'static Model,
    isolation: Isolation,
}

/// Runs `behaviour` at this place, or says why this kernel cannot.
fn run(model: &str, isolation: Isolation, behaviour: impl FnOnce(Lab)) {
    let model = models::find(model).expect("the macros name models of the table");
    match (model.check)() {
        Ok(()) => behaviour(Lab { model, isolation }),
        Err(reason) => say_skipped(model, &reason),
    }
}

fn say_skipped(model: &Model, reason: &str) {
    say_left_out(&format!("{} cannot run here: {reason}", model.name));
}

/// The same, of anything that this machine cannot do.
fn say_left_out(what: &str) {
    let test = std::thread::current();
    let test = test.name().unwrap_or_default();
    say(&format!("skipped: {test}: {what}\n"));
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn say(line: &str) {
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Makes a test `model::behaviour` of each behaviour, on every model, with isolation `reuse`.
macro_rules! on_every_model {
    ($($behaviour:ident),+ $(,)?) => {
        $crate::tests_at!(blocking, "blocking", Reuse, $($behaviour),+);
        $crate::tests_at!(nonblocking, "nonblocking", Reuse, $($behaviour),+);
        $crate::tests_at!(epoll, "epoll", Reuse, $($behaviour),+);
        $crate::tests_at!(signal, "signal", Reuse, $($behaviour),+);
        $crate::tests_at!(io_uring, "io_uring", Reuse, $($behaviour),+);
        $crate::tests_at!(tokio_uring, "tokio_uring", Reuse, $($behaviour),+);
    };
}
use on_every_model;

/// Makes a test `model_at_rest::behaviour` of each behaviour, on every model that sleeps when it has
/// nothing to do and can be held to it: busy polling uses its core and makes system calls whatever
/// its clients do.
macro_rules! on_every_model_that_sleeps {
    ($($behaviour:ident),+ $(,)?) => {
        $crate::tests_at!(blocking_at_rest, "blocking", Reuse, $($behaviour),+);
        $crate::tests_at!(epoll_at_rest, "epoll", Reuse, $($behaviour),+);
        $crate::tests_at!(signal_at_rest, "signal", Reuse, $($behaviour),+);
        $crate::tests_at!(io_uring_at_rest, "io_uring", Reuse, $($behaviour),+);
        $crate::tests_at!(tokio_uring_at_rest, "tokio_uring", Reuse, $($behaviour),+);
    };
}
use on_every_model_that_sleeps;

/// Makes a test `model_isolation::behaviour` of each behaviour, on every model, and on every
/// isolation that has a sandbox: in pairs, and those that most is asked of with the models that are
/// compared by default.
macro_rules! on_every_sandbox {
    ($($behaviour:ident),+ $(,)?) => {
        $crate::tests_at!(blocking_fresh, "blocking", Fresh, $($behaviour),+);
        $crate::tests_at!(nonblocking_reuse, "nonblocking", Reuse, $($behaviour),+);
        $crate::tests_at!(epoll_reuse, "epoll", Reuse, $($behaviour),+);
        $crate::tests_at!(epoll_fresh, "epoll", Fresh, $($behaviour),+);
        $crate::tests_at!(signal_on_demand, "signal", OnDemand, $($behaviour),+);
        $crate::tests_at!(io_uring_reuse, "io_uring", Reuse, $($behaviour),+);
        $crate::tests_at!(io_uring_reset, "io_uring", Reset, $($behaviour),+);
        $crate::tests_at!(tokio_uring_reset, "tokio_uring", Reset, $($behaviour),+);
    };
}
use on_every_sandbox;

macro_rules! tests_at {
    ($module:ident, $model:literal, $isolation:ident, $($behaviour:ident),+) => {
        mod $module {
            $(#[test]
            fn $behaviour() {
                $crate::run($model, ringlab::sandbox::Isolation::$isolation, super::$behaviour);
            })+
        }
    };
}
use tests_at;

#[test]
fn the_macros_name_every_model_and_isolation() {
    // Nobody can connect to a model that drives itself.
    let served = MODELS
        .iter()
        .filter(|model| model.shape != Shape::SelfDriven);
    let models: Vec<_> = served.map(|model| model.name).collect();
    let named = [
        "blocking",
        "nonblocking",
        "epoll",
        "signal",
        "io_uring",
        "tokio_uring",
    ];
    assert_eq!(models, named);
    let isolations = [
        Isolation::Native,
        Isolation::Reuse,
        Isolation::Reset,
        Isolation::Fresh,
        Isolation::OnDemand,
    ];
    assert_eq!(Isolation::ALL, isolations);
}
