//! The command line: one vocabulary for all commands, one file for each, one table of exit codes.

mod call;
mod compare;
mod inspect;
mod load;
mod models;
mod new;
mod serve;
mod swap;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use tracing_subscriber::EnvFilter;

use crate::hash::fnv1a64;
use crate::measure::host::Build;
use crate::measure::reading::Reading;
use crate::sandbox::{Handler, Isolation, LoadError, Source};
use crate::whole_file::nothing_half_written;

/// How a command ended; the only exit codes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; of a measurement: VALID or NOISY.
    Done = 0,
    /// A threshold was crossed.
    Threshold = 1,
    /// What was asked for cannot be; clap's own errors have this code too.
    BadInput = 2,
    /// The measurement is INVALID (or NOISY under `--strict`).
    Invalid = 3,
    /// The host cannot do it.
    HostCannot = 4,
    /// Interrupted; a partial result was written.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// A Linux I/O laboratory: what a request costs, by I/O model, and where the cost goes.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Exit codes: 0 done, 1 a threshold was crossed, 2 bad input, 3 the measurement is \
                  invalid, 4 the host cannot, 130 interrupted."
)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Compare(compare::Arguments),
    Serve(serve::Arguments),
    Load(load::Arguments),
    Call(call::Arguments),
    Inspect(inspect::Arguments),
    New(new::Arguments),
    Swap(swap::Arguments),
    Models(models::Arguments),
}

/// Runs the command that the process was started with.
pub fn main() -> Exit {
    let filter = EnvFilter::try_from_env("RINGLAB_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // Warnings go to files and journals as well, and the tests' build has colours that the release lacks.
        .with_ansi(false)
        .init();
    say_what_is_too_large();
    match Arguments::parse().command {
        None => compare::run(&compare::Arguments::default()),
        Some(Command::Compare(arguments)) => compare::run(&arguments),
        Some(Command::Serve(arguments)) => serve::run(&arguments),
        Some(Command::Load(arguments)) => load::run(&arguments),
        Some(Command::Call(arguments)) => call::run(&arguments),
        Some(Command::Inspect(arguments)) => inspect::run(&arguments),
        Some(Command::New(arguments)) => new::run(&arguments),
        Some(Command::Swap(arguments)) => swap::run(&arguments),
        Some(Command::Models(arguments)) => models::run(&arguments),
    }
}

/// A file that would exceed RLIMIT_FSIZE fails to be written, which is said, instead of ending the
/// process without a word (setrlimit(2)).
fn say_what_is_too_large() {
    // SAFETY: it sets no handler, and no other thread is there yet.
    let _ = unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
}

/// Writes a result to standard output. Who reads may stop reading when it has seen enough, as `head`
/// does; that is no failure.
fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    let _ = write!(std::io::stdout(), "{text}");
}

/// Says on standard error why a command cannot go on.
fn fail(exit: Exit, error: impl std::fmt::Display) -> Exit {
    eprintln!("ringlab: {error}");
    exit
}

/// Why a command cannot go on, and the exit code that says whose fault it is.
type Refusal = (Exit, String);

/// That a handler cannot be loaded.
fn not_loaded(error: LoadError) -> Refusal {
    let exit = match error.is_the_hosts() {
        true => Exit::HostCannot,
        false => Exit::BadInput,
    };
    (exit, error.to_string())
}

/// Sets `stop` on the first SIGINT or SIGTERM; the second ends the process at once.
fn stop_on_signal(stop: Arc<AtomicBool>) {
    let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Where signals cannot be blocked they end the process, which is what they mean.
    if signals.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        let _ = signals.wait();
        stop.store(true, Ordering::Relaxed);
        if signals.wait().is_ok() {
            let _whole = nothing_half_written();
            std::process::exit(Exit::Interrupted as i32);
        }
    });
}

/// What is known of this build, for the host's fingerprint.
fn build_facts(handler: &Source) -> Build {
    let module = Handler::load(handler, Isolation::Reuse, &Default::default());
    let wasm_hash = match module.as_ref().map(|handler| &handler.describe().module) {
        Ok(Some(module)) => Reading::Value(format!("fnv1a64 {:016x}", module.fnv1a64)),
        Ok(None) => Reading::Missing("the handler is linked in".to_string()),
        Err(error) => Reading::Missing(error.to_string()),
    };
    Build {
        toolchain: Reading::Value(env!("RINGLAB_TOOLCHAIN").to_string()),
        allocator: Reading::Value("the C library's".to_string()),
        lockfile_hash: Reading::Value(format!(
            "fnv1a64 {:016x}",
            fnv1a64(include_bytes!("../../Cargo.lock"))
        )),
        wasm_hash,
    }
}

/// A list of cores, or `all`.
fn parse_cores(text: &str) -> Result<Cores, String> {
    if text == "all" {
        return Ok(Cores::All);
    }
    text.split(',')
        .map(|core| {
            core.trim()
                .parse()
                .map_err(|_| format!("{core:?} is no core; write `0,2` or `all`"))
        })
        .collect::<Result<_, _>>()
        .map(Cores::These)
}

/// Cores as asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cores {
    All,
    These(Vec<usize>),
}

impl Cores {
    fn list(&self) -> Vec<usize> {
        match self {
            Cores::All => crate::config::cores(),
            Cores::These(cores) => cores.clone(),
        }
    }
}
