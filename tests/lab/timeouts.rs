//! What does not come in time. Silence is made by not sending; nothing here measures how long it
//! took.

use crate::client::{get, post, post_chunked};
use crate::{Lab, on_every_model};

on_every_model![
    a_head_that_does_not_come_is_a_408,
    a_body_that_does_not_come_is_a_408,
    silence_between_requests_is_closed_quietly,
    a_deadline_is_not_put_off_by_trickling,
];

/// One timeout short, so that whatever ends the connection is this one.
fn check(lab: Lab, option: &str, sent: &[u8], answer: Option<u16>) {
    let mut server = lab.serve("echo", &[option, "150ms"]);
    let mut client = server.connect();
    client.send(sent);
    if let Some(status) = answer {
        let response = client.receive();
        assert_eq!(response.status, status);
        assert_eq!(response.header("connection"), Some("close"));
    }
    client.expect_fin();
    // A server that has spoken first waits for the client to close.
    drop(client);
    let figures = server.until("closed", |now| now.served.closed == 1);
    assert_eq!(figures.served.timed_out, 1);
    assert_eq!(figures.served.rejected, answer.map_or(0, |_| 1));
    // On a machine that stalls, the next one may be silent for too long as well.
    assert!((0..100).any(|_| server.connect().is_served()));
}

fn a_head_that_does_not_come_is_a_408(lab: Lab) {
    let head = get("/");
    for length in [1, 10, head.len() - 1] {
        check(lab, "--head-timeout", &head.as_bytes()[..length], Some(408));
    }
}

fn a_body_that_does_not_come_is_a_408(lab: Lab) {
    let sized = post(b"never whole");
    check(lab, "--body-timeout", &sized[..sized.len() - 1], Some(408));
    let chunks = post_chunked(b"never whole", 4);
    check(
        lab,
        "--body-timeout",
        &chunks[..chunks.len() - 1],
        Some(408),
    );
}

fn silence_between_requests_is_closed_quietly(lab: Lab) {
    check(lab, "--keep-alive", b"", None);
    // Longer, since the request must not come late.
    let mut server = lab.serve("hello", &["--keep-alive", "1s"]);
    let mut client = server.connect();
    client.expect_open();
    client.expect_fin();
    let figures = server.until("closed", |now| now.served.closed == 1);
    assert_eq!(figures.served.answered, 1);
}

/// The deadline of a head counts from its first byte.
fn a_deadline_is_not_put_off_by_trickling(lab: Lab) {
    let mut server = lab.serve("hello", &["--head-timeout", "150ms"]);
    let mut client = server.connect();
    client.send("GET / HTTP/1.1\r\nHost: lab\r\nX: ");
    let mut sent = 0;
    // An endless header line, within its limit for minutes, one byte at a time.
    while server.figures().served.rejected == 0 {
        client.send("x");
        sent += 1;
        assert!(sent < 15_000, "the deadline does not come");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    assert_eq!(client.receive().status, 408);
}
