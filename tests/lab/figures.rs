//! What a server says about its own work.

use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use ringlab::config::Config;
use ringlab::measure::cpu_clock;
use ringlab::measure::probe::{Stage, calibrate};
use ringlab::sandbox::Source;

use crate::client::{Client, get, post};
use crate::server::some_core;
use crate::{Lab, on_every_model, on_every_model_that_sleeps};

on_every_model![
    requests_bytes_and_connections_are_counted,
    a_request_costs_few_system_calls,
];

on_every_model_that_sleeps![
    a_pipeline_shares_its_system_calls,
    connections_that_are_idle_cost_no_system_calls_but_the_timers,
    a_server_that_sleeps_shows_no_cpu,
];

fn requests_bytes_and_connections_are_counted(lab: Lab) {
    let mut server = lab.serve("echo", &[]);
    let (mut sent, mut received) = (0, 0);
    for nth in 0..20 {
        let mut client = server.connect();
        for _ in 0..5 {
            let request = post(&vec![b'x'; nth * 1000]);
            client.send(&request);
            let response = client.receive();
            sent += request.len() as u64;
            received += (response.head.len() + response.body.len()) as u64;
        }
    }
    let served = server.until("closed", |now| now.served.closed == 20).served;
    assert_eq!((served.accepted, served.refused), (20, 0));
    assert_eq!((served.answered, served.failed), (100, 0));
    assert_eq!((served.rejected, served.timed_out), (0, 0));
    assert_eq!((served.bytes_in, served.bytes_out), (sent, received));
}

// What shards put back has nothing of the model in it.
crate::tests_at!(
    epoll_reset,
    "epoll",
    Reset,
    what_every_shard_puts_back_is_counted
);
crate::tests_at!(
    epoll_fresh,
    "epoll",
    Fresh,
    what_every_shard_puts_back_is_counted
);

/// A page for each request, whichever core it came to: the kernel spreads connections.
fn what_every_shard_puts_back_is_counted(lab: Lab) {
    let mut server = lab.serve_on_all_cores("hello");
    let mut clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let mut ask = || {
        let all = 0..10 * clients.len();
        all.for_each(|nth| clients[nth % 64].expect_open());
        10 * 64
    };
    // Until every shard has noted its pages.
    ask();
    let before = server.report();
    let requests = ask();
    let report = server.report().since(&before);
    assert_eq!(report.figures.served.answered, requests);
    let page = sysconf(SysconfVar::PAGE_SIZE).expect("Linux has pages");
    let page = page.expect("of some size").cast_unsigned();
    assert_eq!(report.reset_bytes, requests * page);
}

const REQUESTS: u64 = 500;

/// One request at a time on one connection is the worst case: nothing can be shared.
fn a_request_costs_few_system_calls(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut client = server.connect();
    client.expect_open();
    let before = server.figures();
    for _ in 0..REQUESTS {
        client.expect_open();
    }
    let io = server.figures().since(&before).io;
    // Now and then a timer or a wake-up adds one.
    let at_most = |calls: u64, per_request: u64| {
        assert!(calls <= REQUESTS * per_request + REQUESTS / 2, "{io:?}");
    };
    match lab.model.name {
        "io_uring" => {
            assert_eq!((io.recv, io.send, io.accept4), (0, 0, 0));
            assert!(io.cqe >= REQUESTS, "{io:?}");
            at_most(io.system_calls(), 2);
        }
        "tokio_uring" => {
            // What the runtime calls by itself is not in the program's count.
            assert_eq!(io.system_calls(), 0, "{io:?}");
            assert!(io.sqe.abs_diff(2 * REQUESTS) <= 1, "{io:?}");
            assert!(io.cqe.abs_diff(2 * REQUESTS) <= 1, "{io:?}");
        }
        // Trying costs a call each time, whatever comes of it.
        "nonblocking" => assert_eq!(io.send, REQUESTS),
        name => {
            assert_eq!(io.send, REQUESTS);
            assert!(io.recv >= REQUESTS, "{io:?}");
            at_most(io.recv + io.send, 2);
            let waits = if matches!(name, "epoll" | "signal") {
                1
            } else {
                0
            };
            at_most(io.system_calls(), 2 + waits);
            assert_eq!(io.epoll_ctl, 0, "no set-up per request");
        }
    }
}

fn a_pipeline_shares_its_system_calls(lab: Lab) {
    const DEPTH: usize = 16;
    let mut server = lab.serve("hello", &[]);
    let mut client = server.connect();
    client.expect_open();
    let before = server.figures();
    for _ in 0..REQUESTS {
        client.send(get("/").repeat(DEPTH));
        for _ in 0..DEPTH {
            assert_eq!(client.receive().status, 200);
        }
    }
    let done = server.figures().since(&before);
    assert_eq!(done.served.answered, REQUESTS * DEPTH as u64);
    assert!(
        done.io.system_calls() < done.served.answered / 2,
        "{done:?}"
    );
}

fn connections_that_are_idle_cost_no_system_calls_but_the_timers(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(Client::expect_open);
    let before = server.figures();
    std::thread::sleep(Duration::from_millis(600));
    let io = server.figures().since(&before).io;
    // Deadlines are looked at four times a second, for a few calls each.
    assert!(io.system_calls() + io.sqe < 200, "{io:?}");
    clients.iter_mut().for_each(Client::expect_open);
}

/// Though its clock of stages counts sleep too. Its threads' CPU clocks run for nobody else, so they may be
/// held to milliseconds on a loaded machine, too; and so may the rows, which are made of them.
fn a_server_that_sleeps_shows_no_cpu(lab: Lab) {
    const ASLEEP: Duration = Duration::from_millis(400);
    // Timers that look at deadlines, four times a second, and a question before and after.
    const NEXT_TO_NOTHING: Duration = Duration::from_millis(8);
    calibrate();
    let mut config = Config::new(Source::Builtin("hello".to_string()), vec![some_core()]);
    config.model = lab.model;
    config.isolation = lab.isolation;
    config.probed = true;
    let server = ringlab::server::Server::start(config).expect("a server can be started");
    let handle = server.handle();
    let mut clients: Vec<_> = (0..4).map(|_| Client::connect(server.address())).collect();
    let mut ask_all = || clients.iter_mut().for_each(Client::expect_open);
    let cpu_ns = || -> u64 {
        let serving = handle.serving_threads();
        let threads = cpu_clock::own_threads_ns().into_iter();
        threads
            .filter(|(thread, _)| serving.contains(thread))
            .map(|(_, ns)| ns)
            .sum()
    };
    ask_all();
    let (before, cpu_before) = (handle.figures().stages, cpu_ns());
    std::thread::sleep(ASLEEP);
    // A stage is noted when it is left.
    ask_all();
    let (rows, used_ns) = (
        handle.figures().stages.since(&before),
        cpu_ns() - cpu_before,
    );
    let slept = Stage::ALL.iter().zip(&rows.entered);
    let slept: u64 = slept
        .filter(|(stage, _)| stage.may_sleep())
        .map(|(_, n)| n)
        .sum();
    assert!(slept > 0, "{rows:?}");
    assert!(
        Duration::from_nanos(used_ns) < NEXT_TO_NOTHING,
        "{used_ns} ns of CPU"
    );
    // Of which a row that counted sleep would make far less than nothing.
    let unexplained_ns = used_ns.cast_signed() - rows.ns.iter().sum::<i64>();
    assert!(
        Duration::from_nanos(unexplained_ns.unsigned_abs()) < NEXT_TO_NOTHING,
        "{unexplained_ns} ns are unexplained: {rows:?}"
    );
    server.drain();
}
