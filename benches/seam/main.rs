//! What the Driver seam costs: each driver beside a bare echo that is written straight to the same
//! system calls.
//!
//! Unit: CPU time of the serving thread per answer. Both answer 64 connections with the same bytes
//! and do nothing else, in this process, on one core, the client on another; `bare` is measured
//! twice in every round, as a control. A busy poller uses its core whatever comes, so its CPU time
//! is the time that passes.
//!
//! Not a criterion bench: what is compared are ratios within a round, not times.

mod bare_epoll;
mod bare_io_uring;
mod bare_nonblocking;
mod bare_signal;
mod client;
mod driver;

use std::time::Duration;

use ringlab::io::epoll::Epoll;
use ringlab::io::io_uring::IoUring;
use ringlab::io::listener::Listener;
use ringlab::io::nonblocking::Nonblocking;
use ringlab::io::signal::SignalDriven;
use ringlab::io::{epoll, io_uring, listener, nonblocking, signal};
use ringlab::measure::probe::Off;
use ringlab::measure::stats::paired_log_ratio;

use client::Client;

/// Connections, all with one request at a time.
pub const CONNECTIONS: usize = 64;
/// As long as what `compare` sends, and what it gets.
pub const REQUEST_BYTES: usize = 41;
pub const ANSWER_BYTES: usize = 148;
// Each connection has an answer of its own, as in a server: one for all would be in the cache.

/// Serves `CONNECTIONS` connections until `meter` has seen all answers.
type Echo = fn(Listener, &mut Meter);

/// Counts answers, and the thread's CPU time for those that count.
pub struct Meter {
    answers: u64,
    warm: u64,
    all: u64,
    began: Duration,
    used: Duration,
}

impl Meter {
    fn new(all: u64) -> Self {
        Self {
            answers: 0,
            warm: all / 4,
            all,
            began: Duration::ZERO,
            used: Duration::ZERO,
        }
    }

    /// Another answer went out. True: that was the last.
    #[inline]
    pub fn answered(&mut self) -> bool {
        self.answers += 1;
        if self.answers == self.warm {
            self.began = cpu_time();
        }
        let last = self.answers == self.all;
        if last {
            self.used = cpu_time() - self.began;
        }
        last
    }

    fn ns_per_answer(&self) -> f64 {
        self.used.as_nanos() as f64 / (self.all - self.warm) as f64
    }
}

fn cpu_time() -> Duration {
    nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID
        .now()
        .expect("Linux has it")
        .into()
}

/// One run of one echo, in a thread of its own: ns of CPU time per answer.
fn measure(name: &str, echo: Echo, answers: u64, core: usize) -> f64 {
    let (mut listeners, address) =
        listener::bind("127.0.0.1:0".parse().expect("an address"), 1).expect("loopback is there");
    let listener = listeners.pop().expect("one was asked for");
    // With a name, so that a profile tells them apart.
    let server = std::thread::Builder::new().name(name.to_owned());
    let serve = move || {
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
        let mut meter = Meter::new(answers);
        echo(listener, &mut meter);
        meter.ns_per_answer()
    };
    let server = server.spawn(serve).expect("a thread");
    Client::connect(address).run(answers);
    server.join().expect("an echo does not panic")
}

fn main() {
    // `cargo test --benches` and `cargo bench -- --test` only want to know that it works.
    let testing = !std::env::args().any(|argument| argument == "--bench")
        || std::env::args().any(|argument| argument == "--test");
    let (rounds, answers) = if testing { (2, 2_000) } else { (15, 100_000) };
    let cores = ringlab::config::cores();
    let (client, server) = (cores[0], *cores.last().expect("this runs somewhere"));
    core_affinity::set_for_current(core_affinity::CoreId { id: client });
    type Check = fn() -> Result<(), String>;
    let pairs: [(&str, Check, Echo, Echo); 4] = [
        (
            "nonblocking",
            nonblocking::check,
            bare_nonblocking::echo,
            driver::echo::<Nonblocking<Off>>,
        ),
        (
            "epoll",
            epoll::check,
            bare_epoll::echo,
            driver::echo::<Epoll<Off>>,
        ),
        (
            "signal",
            signal::check,
            bare_signal::echo,
            driver::echo::<SignalDriven<Off>>,
        ),
        (
            "io_uring",
            io_uring::check,
            bare_io_uring::echo,
            driver::echo::<IoUring<Off>>,
        ),
    ];
    println!(
        "ns of CPU per answer, {CONNECTIONS} connections; price: driver over bare, 95 % interval"
    );
    println!(
        "{:12} {:>8} {:>8} {:>20} {:>20}",
        "model", "bare", "driver", "price", "A/A"
    );
    // As criterion does: `cargo bench --bench seam -- io_uring` measures that one alone.
    let wanted = std::env::args().skip(1).find(|word| !word.starts_with('-'));
    let is_wanted = |name: &str| wanted.as_ref().is_none_or(|wanted| name.contains(wanted));
    for (name, check, bare, driven) in pairs {
        if !is_wanted(name) {
            continue;
        }
        if let Err(reason) = check() {
            println!("{name:12} n/a: {reason}");
            continue;
        }
        let (mut first, mut driver, mut second) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            // What comes first is not always the same.
            let order = [round % 3, (round + 1) % 3, (round + 2) % 3];
            for which in order {
                match which {
                    0 => first.push(Some(measure("bare", bare, answers, server))),
                    1 => driver.push(Some(measure("driver", driven, answers, server))),
                    _ => second.push(Some(measure("bare", bare, answers, server))),
                }
            }
        }
        println!(
            "{name:12} {:8.0} {:8.0} {:>20} {:>20}",
            middle(&first),
            middle(&driver),
            percent(&driver, &first),
            percent(&second, &first)
        );
    }
}

fn middle(values: &[Option<f64>]) -> f64 {
    let values: Vec<f64> = values.iter().flatten().copied().collect();
    ringlab::measure::stats::median(&values).unwrap_or(f64::NAN)
}

fn percent(of: &[Option<f64>], base: &[Option<f64>]) -> String {
    match paired_log_ratio(of, base, 0.95) {
        Ok(ratio) => {
            let percent = |ratio: f64| (ratio - 1.0) * 100.0;
            let interval = ratio.interval;
            format!(
                "{:+.1} ({:+.1} to {:+.1}) %",
                percent(ratio.ratio),
                percent(interval.low),
                percent(interval.high)
            )
        }
        Err(error) => format!("n/a: {error}"),
    }
}
