//! Clients that leave at any byte, with FIN and with a reset: nothing of them stays.

use crate::client::{Client, pattern, post, post_chunked};
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    leaving_at_any_byte_of_a_request_leaks_nothing,
    leaving_within_a_long_body_leaks_nothing,
    leaving_at_any_point_of_an_answer_leaks_nothing,
    leaving_behind_a_full_pipeline_leaks_nothing,
    leaving_before_the_server_looks_leaks_nothing,
];

/// Runs `visits`, all of whose connections end, and asserts that the server sees each of them leave,
/// and holds then what it held before.
fn check(lab: Lab, visits: impl Fn(&Server)) {
    let mut server = lab.serve("echo", &[]);
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
    assert_eq!(figures.served.timed_out, 0);
}

/// The ways to leave.
const WAYS: [fn(Client); 2] = [drop, Client::reset];

/// Sends `length` bytes of `request` and leaves, in each way.
fn leave_after(server: &Server, request: &[u8], length: usize) {
    for leave in WAYS {
        let mut client = server.connect();
        // A server that does not read has no room for the longest.
        client
            .send_what_fits(&request[..length])
            .expect("it is open");
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

/// Around what one read takes, and around the 32 buffers that the kernel fills at once.
const LONG: [usize; 5] = [4096, 65_536, 70_000, 100_000, 131_072];

fn leaving_within_a_long_body_leaks_nothing(lab: Lab) {
    check(lab, |server| {
        let request = post(&pattern(500_000));
        for length in LONG.repeat(4) {
            leave_after(server, &request, length);
        }
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

/// Connection, bytes and end are there before the server looks, so that it is told of all at once.
fn leaving_before_the_server_looks_leaks_nothing(lab: Lab) {
    check(lab, |server| {
        let request = post(&pattern(500_000));
        server.while_stopped(|| {
            for length in LONG {
                leave_after(server, &request, length);
            }
        });
    });
}
