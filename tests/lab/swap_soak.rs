//! Exchanges by the thousand, and what one costs those who are served meanwhile. No part of `cargo
//! test`, which does fifty on every model: `scripts/soak.sh` runs these, in release, on an idle machine:
//! `cargo test --release --test lab swap_soak -- --ignored --nocapture --test-threads 1`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlab::config::cores;
use ringlab::load::{self, Plan, Target};
use ringlab::models;
use ringlab::sandbox::Isolation;

use crate::guests::File;
use crate::swap::{Swapped, exchange_under_load, saying};
use crate::{Lab, say_skipped};

/// Exchanges after which memory is what a server that exchanges has.
const WARM_UP: u64 = 50;
const EXCHANGES: u64 = 1000;
/// What the allocator may keep more of. One engine that was kept would be more, a thousand by far.
const RESIDENT_MORE_BYTES: u64 = 16 << 20;
/// Addresses that may be reserved besides: less than one engine's pool.
const RESERVED_MORE_BYTES: u64 = 16 << 30;

/// Windows of each kind, in turn.
const ROUNDS: usize = 5;
const WINDOW: Duration = Duration::from_secs(4);
const CONNECTIONS: usize = 64;
/// Between two exchanges of a window.
const PAUSE: Duration = Duration::from_secs(1);

/// Each model that this kernel can serve.
fn labs(names: &[&str]) -> Vec<Lab> {
    let mut labs = Vec::new();
    for name in names {
        let model = models::find(name).expect("the table has it");
        match (model.check)() {
            Ok(()) => labs.push(Lab {
                model,
                // Whose engines reserve addresses, so one that is kept shows.
                isolation: Isolation::Fresh,
            }),
            Err(reason) => say_skipped(model, &reason),
        }
    }
    labs
}

#[test]
#[ignore = "a soak: a thousand exchanges on each of three models"]
fn a_thousand_exchanges_give_all_memory_back() {
    for lab in labs(&["blocking", "epoll", "io_uring"]) {
        let files = ["tick", "tock"].map(|four| File::new("soak.wat", saying(four)));
        let mut swapped = Swapped::new(lab, files[0].path(), &[]);
        // Each compiles its file anew.
        let exchange = |nth: u64| swapped.swap(files[(nth as usize + 1) % 2].path());
        exchange_under_load(&swapped, WARM_UP, exchange);
        let before = memory(&swapped);
        let began = Instant::now();
        let seen = exchange_under_load(&swapped, EXCHANGES, exchange);
        let took = began.elapsed();
        let after = memory(&swapped);
        let figures = swapped.server.figures();
        println!(
            "{}: {EXCHANGES} exchanges under 4 connections in {:.1} s, {} requests answered, {} failed; \
             resident {} KiB before and {} after, reserved {} GiB before and {} after",
            lab.model.name,
            took.as_secs_f64(),
            seen[0] + seen[1],
            figures.served.failed,
            before.0 >> 10,
            after.0 >> 10,
            before.1 >> 30,
            after.1 >> 30,
        );
        assert_eq!(figures.served.failed, 0);
        assert!(after.0 < before.0 + RESIDENT_MORE_BYTES, "memory is kept");
        assert!(
            after.1 < before.1 + RESERVED_MORE_BYTES,
            "addresses are kept"
        );
    }
}

/// Resident and reserved bytes when nothing of what was exchanged is in use: `VmRSS` and `VmSize` of
/// proc_pid_status(5).
fn memory(swapped: &Swapped) -> (u64, u64) {
    swapped.until_buried();
    let of = |name| swapped.server.status_bytes(name);
    (of("VmRSS:"), of("VmSize:"))
}

/// What a window's load saw.
struct Seen {
    p999_ns: u64,
    max_ns: u64,
    answered: u64,
    failed: u64,
    exchanges: u64,
}

/// A window of saturating load, with or without exchanges all through it.
fn window(swapped: &Swapped, files: &[File; 2], exchanging: bool) -> Seen {
    let address = swapped.server.address();
    let mut plan = Plan::new(address, address.to_string(), vec![Target::get("/")]);
    plan.connections = CONNECTIONS;
    plan.warm_up = Duration::from_millis(500);
    plan.duration = WINDOW;
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let exchanger = scope.spawn(|| {
            let mut exchanges = 0;
            // The first may be to what is there already, which is none.
            for to in files.iter().cycle() {
                if !exchanging || end.load(Ordering::Relaxed) {
                    break;
                }
                exchanges += u64::from(swapped.swap(to.path()).expect("both good").changed);
                thread::sleep(PAUSE);
            }
            exchanges
        });
        let outcome = load::run(&plan, &AtomicBool::new(false), &mut ());
        end.store(true, Ordering::Relaxed);
        let outcome = outcome.expect("it can be loaded");
        Seen {
            p999_ns: outcome.latency_ns(0.999).expect("thousands of answers"),
            max_ns: outcome.latency.max(),
            answered: outcome.answered,
            failed: outcome.failed.total(),
            exchanges: exchanger.join().expect("all were exchanged"),
        }
    })
}

/// Prints what exchanges add to the 99.9th percentile; asserts only what no noise can change, that all
/// requests are answered.
#[test]
#[ignore = "a measurement: takes a minute and a half, and means something on an idle machine only"]
fn price_of_an_exchange_under_64_saturating_connections() {
    assert!(cores().len() > 1, "server and client need a core each");
    for lab in labs(&["epoll", "io_uring"]) {
        let files = ["tick", "tock"].map(|four| File::new("price.wat", saying(four)));
        let swapped = Swapped::new(lab, files[0].path(), &[]);
        let mut added_us = Vec::new();
        for round in 0..ROUNDS {
            // Each kind is first as often as the other, but for one.
            let mut seen = [round % 2 == 1, round % 2 == 0]
                .map(|exchanging| (exchanging, window(&swapped, &files, exchanging)));
            seen.sort_by_key(|(exchanging, _)| *exchanging);
            for (exchanging, seen) in &seen {
                println!(
                    "{}, round {round}, {}: p99.9 {:.0} us, longest {:.0} us, {} answered, {} failed, {} exchanges",
                    lab.model.name,
                    if *exchanging {
                        "exchanging"
                    } else {
                        "undisturbed"
                    },
                    seen.p999_ns as f64 / 1e3,
                    seen.max_ns as f64 / 1e3,
                    seen.answered,
                    seen.failed,
                    seen.exchanges,
                );
                assert_eq!(seen.failed, 0);
                assert_eq!(seen.exchanges > 0, *exchanging);
            }
            added_us.push((seen[1].1.p999_ns as f64 - seen[0].1.p999_ns as f64) / 1e3);
        }
        added_us.sort_by(f64::total_cmp);
        println!(
            "{}: exchanges add {:.0} us to p99.9 (median of {ROUNDS} rounds, {:.0} to {:.0})",
            lab.model.name,
            added_us[ROUNDS / 2],
            added_us[0],
            added_us[ROUNDS - 1],
        );
    }
}
