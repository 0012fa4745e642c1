//! Clients that leave at any byte, with FIN and with a reset: nothing of them stays.

use ringlab::sandbox::Isolation;

use crate::client::{Client, pattern, post, post_chunked};
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    leaving_at_any_byte_of_a_request_leaks_nothing,
    leaving_within_a_long_body_leaks_nothing,
    leaving_at_any_point_of_an_answer_leaks_nothing,
    leaving_behind_a_full_pipeline_leaks_nothing,
];

/// Linux 6.18 may not tell a multishot receive of a reset that comes while it takes bytes; FIN was
/// always told. The likely cause is that `io_poll_check_events` (`io_uring/poll.c`) takes the bytes
/// and with them the only wake-up that there will be. Where many bytes are taken the driver arms the
/// receive anew; measured with that: about once in thousands of connections. What is left is what
/// every model has: the deadlines.
fn may_lose_resets(lab: Lab) -> bool {
    lab.model.name == "io_uring"
}

/// Runs `visits`, all of whose connections end, and asserts that the server holds what it held.
/// Returns how many it had to end by a deadline.
fn visit(lab: Lab, visits: impl Fn(&Server)) -> u64 {
    let soon = [
        "--keep-alive",
        "3s",
        "--head-timeout",
        "3s",
        "--body-timeout",
        "3s",
    ];
    let options = if may_lose_resets(lab) { &soon[..] } else { &[] };
    let mut server = lab.serve("echo", options);
    // The first connection of all makes what stays, such as the sandbox's instance.
    server.connect().expect_open();
    server.until("closed", |now| now.served.closed == 1);
    // A thread counts its connection closed a moment before it ends itself.
    let look = |_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        server.holdings()
    };
    let held = (0..20).map(look).min().expect("it was looked at");
    visits(&server);
    // Connections are accepted in their order: behind this one is none of the visits.
    server.connect().expect_open();
    let figures = server.until("all closed", |now| now.served.closed == now.served.accepted);
    let mut looks = 0;
    while server.holdings() > held {
        let (descriptors, threads) = server.holdings();
        looks += 1;
        assert!(
            looks < 1000,
            "{descriptors} descriptors, {threads} threads, not {held:?}"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    figures.served.timed_out
}

/// As [`visit`]; that they left is seen, where the kernel says so.
fn check(lab: Lab, visits: impl Fn(&Server)) {
    let timed_out = visit(lab, visits);
    assert!(
        timed_out == 0 || may_lose_resets(lab),
        "{timed_out} timed out"
    );
}

/// The ways to leave.
const WAYS: [fn(Client); 2] = [drop, Client::reset];

/// Sends `length` bytes of `request` and leaves, in each way.
fn leave_after(server: &Server, request: &[u8], length: usize) {
    for leave in WAYS {
        let mut client = server.connect();
        client.send(&request[..length]);
        leave(client);
    }
}

fn leaving_at_any_byte_of_a_request_leaks_nothing(lab: Lab) {
    check(lab, |server| {
        for request in [post(b"some body"), post_chunked(b"some body", 4)] {
            for length in 0..=request.len() {
                leave_after(server, &request, length);
            }
        }
    });
}

/// Lengths around what one read takes, and around the 32 buffers of a turn of the kernel's.
fn leave_within_a_long_body(server: &Server) {
    let request = post(&pattern(500_000));
    for length in [4096, 65_536, 70_000, 100_000, 131_072].repeat(4) {
        leave_after(server, &request, length);
    }
}

fn leaving_within_a_long_body_leaks_nothing(lab: Lab) {
    check(lab, leave_within_a_long_body);
}

#[test]
fn io_uring_sees_a_reset_behind_a_long_body() {
    crate::run("io_uring", Isolation::Reuse, |lab| {
        assert_eq!(visit(lab, leave_within_a_long_body), 0);
    });
}

fn leaving_at_any_point_of_an_answer_leaks_nothing(lab: Lab) {
    check(lab, |server| {
        let request = post(&pattern(1024 * 1024));
        for part in [0, 1, 100, 10_000, 500_000] {
            for leave in WAYS {
                let mut client = server.connect();
                client.send(&request);
                client.receive_at_least(part);
                leave(client);
            }
        }
    });
}

fn leaving_behind_a_full_pipeline_leaks_nothing(lab: Lab) {
    check(lab, |server| {
        for leave in WAYS {
            let mut client = server.connect();
            let pipeline = post(&pattern(100_000)).repeat(400);
            let sent = client.send_what_fits(&pipeline).expect("it is open");
            assert!(sent < pipeline.len(), "the server took all");
            leave(client);
        }
    });
}
