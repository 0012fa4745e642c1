//! Clients that are gone without a word, as when their machine loses power: the server's end of the
//! connection stays open until a deadline, or until what it sends finds nobody.

use crate::client::{Client, pattern, post};
use crate::{Lab, on_every_model};

on_every_model![
    who_is_gone_without_a_word_is_closed_in_time,
    who_is_gone_without_a_word_behind_a_full_pipeline_is_closed,
];

/// Whether this process may leave like that; says so if not.
fn can_vanish(lab: Lab) -> bool {
    let server = lab.serve("hello", &[]);
    let left = server.connect().vanish();
    if let Err(error) = &left {
        crate::say_left_out(&format!("no socket may be put into repair here: {error}"));
    }
    left.is_ok()
}

/// Idle, within a head, and within a body.
fn who_is_gone_without_a_word_is_closed_in_time(lab: Lab) {
    const TIMES: [&str; 6] = [
        "--keep-alive",
        "700ms",
        "--head-timeout",
        "150ms",
        "--body-timeout",
        "150ms",
    ];
    if !can_vanish(lab) {
        return;
    }
    let mut server = lab.serve("echo", &TIMES);
    let request = post(b"never whole");
    let [idle, mut in_head, mut in_body] = std::array::from_fn(|_| server.connect());
    in_head.send(&request[..20]);
    in_body.send(&request[..request.len() - 1]);
    server.until_received(20 + request.len() as u64 - 1);
    server.until("accepted", |now| now.served.accepted == 3);
    for client in [idle, in_head, in_body] {
        client.vanish().expect("it could before");
    }
    let figures = server.until("closed", |now| now.served.closed == 3);
    assert_eq!((figures.served.timed_out, figures.served.rejected), (3, 2));
    server.connect().expect_open();
}

/// Nobody takes the answers any more, and nobody says so: a probe of the window finds nobody, or the
/// deadline passes. With one of the two broken the other still ends it.
fn who_is_gone_without_a_word_behind_a_full_pipeline_is_closed(lab: Lab) {
    if !can_vanish(lab) {
        return;
    }
    let mut server = lab.serve("echo", &["--send-timeout", "700ms"]);
    let mut client: Client = server.connect();
    let pipeline = post(&pattern(100_000)).repeat(400);
    let sent = client.send_what_fits(&pipeline).expect("it is open");
    assert!(sent < pipeline.len(), "the server took all");
    client.vanish().expect("it could before");
    server.until("closed", |now| now.served.closed == 1);
    server.connect().expect_open();
}
