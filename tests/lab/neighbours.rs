//! Good requests beside bad ones: whatever a handler does, no other request fails, and but for the one
//! that uses up its deadline none waits for it.
//!
//! How long good requests wait is a soak's to say, which `scripts/soak.sh` runs on an idle machine:
//! `cargo test --release --test lab neighbours -- --ignored --nocapture --test-threads 1`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlab::config::cores;
use ringlab::load::{self, Arrivals, Mode, Outcome, Plan, Target};
use ringlab_guest::misbehaving::ALL;

use crate::client::get;
use crate::misbehaving_builtins::misdeeds;
use crate::server::{Server, some_core};
use crate::{Lab, on_every_sandbox};

on_every_sandbox![no_request_beside_bad_ones_fails];

const CONNECTIONS: usize = 64;
/// Long enough for each handler to do its worst once, one after the other.
const BEHAVIOUR: Duration = Duration::from_millis(700);

/// Of the soak: a window of load, and the windows of each kind. A bad request comes each second.
const WINDOW: Duration = Duration::from_millis(1500);
const ROUNDS: usize = 3;
/// Capacity is found in so long.
const CAPACITY: Duration = Duration::from_secs(1);
/// The most that the 99th percentile may grow by, as a factor.
const P99_RATIO: f64 = 2.0;

/// A good handler beside all that are bad, with a deadline of 10 ms, on one core.
fn serve(lab: Lab) -> Server {
    let mut options = vec!["--deadline", "10ms"];
    let routes = ALL.iter().map(|(name, _)| format!("/{name}={name}"));
    let routes: Vec<_> = routes.chain(["/fine=hello".to_owned()]).collect();
    for route in &routes {
        options.extend(["--route", route]);
    }
    lab.serve_routes(&options)
}

/// For each handler a target at which it is bad, and the status that follows.
fn targets() -> Vec<(String, u16)> {
    let misdeeds = misdeeds();
    let of = |name: &str| {
        let mut own = misdeeds.iter().filter(|(target, ..)| {
            let path = target.split('?').next();
            path == Some(&format!("/{name}"))
        });
        let (target, status, ..) = own.next().expect("each does something");
        (target.clone(), *status)
    };
    ALL.iter().map(|(name, _)| of(name)).collect()
}

/// Sends `targets` in turn, one every `pause`, until `end` is set, and returns how many.
fn disturb(server: &Server, targets: &[(String, u16)], pause: Duration, end: &AtomicBool) -> usize {
    let mut sent = 0;
    let mut next = Instant::now();
    for (target, status) in targets.iter().cycle() {
        next += pause;
        while Instant::now() < next && !end.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(5));
        }
        if end.load(Ordering::Relaxed) {
            break;
        }
        let mut client = server.connect();
        client.send(get(target));
        assert_eq!(client.receive().status, *status, "{target}");
        sent += 1;
    }
    sent
}

/// What good requests see in a window, and how many bad ones there were in it.
fn window(
    server: &Server,
    plan: &Plan,
    bad: &[(String, u16)],
    pause: Duration,
) -> (Outcome, usize) {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let disturbing = scope.spawn(|| disturb(server, bad, pause, &end));
        let outcome = load::run(plan, &AtomicBool::new(false), &mut ());
        end.store(true, Ordering::Relaxed);
        let sent = disturbing.join().expect("each got its answer");
        (outcome.expect("it can be loaded"), sent)
    })
}

fn plan(server: &Server, duration: Duration) -> Plan {
    let address = server.address();
    let mut target = Target::get("/fine");
    target.expect.body = Some(b"Hello, World!\n".to_vec());
    let mut plan = Plan::new(address, address.to_string(), vec![target]);
    plan.connections = CONNECTIONS;
    plan.warm_up = Duration::from_millis(100);
    plan.duration = duration;
    plan
}

fn no_request_beside_bad_ones_fails(lab: Lab) {
    let server = serve(lab);
    let bad = targets();
    let pause = BEHAVIOUR / (bad.len() as u32 + 1);
    let (good, sent) = window(&server, &plan(&server, BEHAVIOUR), &bad, pause);
    assert_eq!(good.failed.total(), 0, "{:?}", good.failed);
    assert!(good.answered > 0 && sent > 0, "{} {sent}", good.answered);
    let mut server = server;
    let served = server.figures().served;
    assert_eq!(served.failed, sent as u64);
}

/// Makes an ignored test of each pair of a model and an isolation.
macro_rules! soaks {
    ($($name:ident: $model:literal, $isolation:ident;)+) => {
        $(#[test]
        #[ignore = "a measurement: 45 s of load, and means something on an idle machine only"]
        fn $name() {
            crate::run($model, ringlab::sandbox::Isolation::$isolation, waits_beside_bad_ones);
        })+
    };
}

soaks! {
    soak_blocking_fresh: "blocking", Fresh;
    soak_nonblocking_reuse: "nonblocking", Reuse;
    soak_epoll_reuse: "epoll", Reuse;
    soak_epoll_fresh: "epoll", Fresh;
    soak_signal_on_demand: "signal", OnDemand;
    soak_io_uring_reuse: "io_uring", Reuse;
    soak_io_uring_reset: "io_uring", Reset;
    soak_tokio_uring_reset: "tokio_uring", Reset;
}

/// The 99th percentile of good requests at half of the capacity, with one bad request a second and
/// without, in turn.
fn waits_beside_bad_ones(lab: Lab) {
    assert!(cores().len() > 1, "server and client need a core each");
    let server = serve(lab);
    // The next in turn after the server's own.
    let core = some_core();
    let pinned = |duration| {
        let mut plan = plan(&server, duration);
        plan.cores = vec![core];
        plan
    };
    let (capacity, _) = window(&server, &pinned(CAPACITY), &[], WINDOW);
    let mut open = pinned(WINDOW);
    open.mode = Mode::Open {
        rate: capacity.answered as f64 / CAPACITY.as_secs_f64() / 2.0,
        arrivals: Arrivals::Poisson,
    };
    let bad = targets();
    // The first is nobody; each arm's percentiles, round by round.
    let mut p99_ns = vec![Vec::new(); 1 + bad.len()];
    for _ in 0..ROUNDS {
        for (arm, seen) in p99_ns.iter_mut().enumerate() {
            let bad = arm.checked_sub(1).map_or(&[][..], |nth| &bad[nth..=nth]);
            let (good, sent) = window(&server, &open, bad, Duration::from_secs(1));
            assert_eq!(good.failed.total(), 0, "{bad:?}: {:?}", good.failed);
            assert_eq!(sent > 0, !bad.is_empty());
            seen.push(good.latency_ns(0.99).expect("thousands of answers") as f64);
        }
    }
    let median = |mut seen: Vec<f64>| {
        seen.sort_by(f64::total_cmp);
        seen[seen.len() / 2]
    };
    let p99_ns: Vec<f64> = p99_ns.into_iter().map(median).collect();
    println!(
        "{} {}: at {:.0} requests/s, p99 {:.0} us undisturbed",
        lab.model.name,
        lab.isolation,
        capacity.answered as f64 / CAPACITY.as_secs_f64() / 2.0,
        p99_ns[0] / 1e3
    );
    for ((target, _), p99) in bad.iter().zip(&p99_ns[1..]) {
        println!("  {target}: {:.0} us, {:.2} x", p99 / 1e3, p99 / p99_ns[0]);
    }
    for ((target, _), p99) in bad.iter().zip(&p99_ns[1..]) {
        let ratio = p99 / p99_ns[0];
        assert!(target == "/loop" || ratio <= P99_RATIO, "{target}: {ratio}");
    }
}
