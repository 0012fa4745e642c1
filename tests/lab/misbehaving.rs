//! Guests that trap, loop, hoard and lie: their request fails, and nothing else does.

use crate::client::{get, post};
use crate::guests::{File, header_line, misbehaving, store};
use crate::{Lab, on_every_sandbox};

on_every_sandbox![
    every_misdeed_fails_its_own_request,
    a_failure_in_a_pipeline_fails_its_own_request,
    what_a_failed_request_left_behind_is_gone,
    a_builtin_past_its_deadline_is_ended,
    a_request_beyond_the_area_is_a_413_and_the_stream_stays_good,
];

/// What the guest does, and the status and the reason that its client is told.
fn misdeeds() -> Vec<(String, u16, &'static str)> {
    let reserved = *b"te: 1\n";
    let mut misdeeds: Vec<(String, u16, &str)> = [
        ("unreachable", 500, "unreachable"),
        (
            "(drop (i32.load (i32.const -4)))",
            500,
            "memory out of bounds",
        ),
        (
            "(drop (i32.div_u (i32.const 1) (i32.const 0)))",
            500,
            "integer division by zero",
        ),
        (
            "(call_indirect (type $nothing) (i32.const 0))",
            500,
            "call of a null function",
        ),
        ("(drop (call $deeper (i32.const 0)))", 500, "stack overflow"),
        ("(loop $again (br $again))", 504, "deadline"),
        (
            "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
             unreachable",
            500,
            "memory limit",
        ),
        ("(return (i32.const -1))", 500, "bad record"),
        ("(return (i32.const 262121))", 500, "bad record"),
    ]
    .map(|(code, status, reason)| (code.to_owned(), status, reason))
    .to_vec();
    let record = |at, word, reason| (store(at, word), 500, reason);
    misdeeds.extend([
        record(0, 200 << 16 | 3, "bad record"),
        record(0, 199 << 16, "bad record"),
        record(0, 600 << 16, "bad record"),
        record(0, 200 << 16 | 1, "unsupported ask"),
        record(4, 262_144, "bad record"),
        record(8, u32::MAX, "bad record"),
        record(8, 100_000, "header lines too large"),
        record(12, 262_141, "bad record"),
        record(16, u32::MAX, "bad record"),
        record(16, 1001, "response too large"),
        (header_line(b"a: 1\r\r"), 500, "bad header lines"),
        (header_line(b"a: 1\n\n"), 500, "bad header lines"),
        (header_line(b"a:\r\n\r\n"), 500, "bad header lines"),
        (header_line(b"a: \0\r\n"), 500, "bad header lines"),
        (header_line(b"a b:\r\n"), 500, "bad header lines"),
        (header_line(b":a 1\r\n"), 500, "bad header lines"),
        (header_line(b"te:1\r\n"), 500, "bad header lines"),
        (header_line(&reserved), 500, "bad header lines"),
    ]);
    misdeeds
}

fn file(misdeeds: &[(String, u16, &str)]) -> File {
    let code = misdeeds.iter().map(|(code, _, _)| code.as_str());
    File::new("misbehaving.wat", misbehaving(code))
}

const LIMITS: [&str; 4] = ["--deadline", "50ms", "--response", "1000B"];

fn every_misdeed_fails_its_own_request(lab: Lab) {
    let misdeeds = misdeeds();
    let file = file(&misdeeds);
    let mut server = lab.serve(file.path(), &LIMITS);
    let mut client = server.connect();
    let mut bystander = server.connect();
    for (nth, (code, status, reason)) in misdeeds.iter().enumerate() {
        client.send(post(&vec![b'x'; nth + 1]));
        let response = client.receive();
        assert_eq!(
            (response.status, response.text()),
            (*status, &*format!("{reason}\n")),
            "{code}"
        );
        for client in [&mut client, &mut bystander] {
            client.send(get("/"));
            let response = client.receive();
            assert_eq!(
                (response.status, response.text()),
                (200, "fine"),
                "after {code}"
            );
            assert_eq!(response.header("a"), Some("1"));
        }
    }
    let served = server.figures().served;
    assert_eq!(served.failed, misdeeds.len() as u64);
    assert_eq!(served.deadline_passed, 1);
    assert_eq!(served.answered, 3 * misdeeds.len() as u64);
    assert_eq!(served.rejected, 0);
}

fn a_failure_in_a_pipeline_fails_its_own_request(lab: Lab) {
    let misdeeds = misdeeds();
    let file = file(&misdeeds);
    let server = lab.serve(file.path(), &LIMITS);
    let mut client = server.connect();
    let mut requests = Vec::new();
    for nth in 0..misdeeds.len() {
        requests.extend(get("/").into_bytes());
        requests.extend(post(&vec![b'x'; nth + 1]));
    }
    client.send(requests);
    for (code, status, _) in &misdeeds {
        assert_eq!(client.receive().text(), "fine", "before {code}");
        assert_eq!(client.receive().status, *status, "{code}");
    }
}

/// The guest spoils its body, then traps.
fn what_a_failed_request_left_behind_is_gone(lab: Lab) {
    let spoil = "(i32.store (i32.const 192) (i32.const 0)) unreachable";
    let file = File::new("spoiling.wat", misbehaving([spoil]));
    let server = lab.serve(file.path(), &[]);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(post(b"x"));
        assert_eq!(client.receive().status, 500);
        client.send(get("/"));
        assert_eq!(client.receive().text(), "fine");
    }
}

fn a_builtin_past_its_deadline_is_ended(lab: Lab) {
    let server = lab.serve("count", &["--deadline", "50ms"]);
    let mut client = server.connect();
    client.send([get("/?n=4294967295"), get("/?n=3")].concat());
    let response = client.receive();
    assert_eq!((response.status, response.text()), (504, "deadline\n"));
    assert_eq!(client.receive().text(), "9\n");
}

fn a_request_beyond_the_area_is_a_413_and_the_stream_stays_good(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut client = server.connect();
    client.send(post(&[b'x'; 100_000]));
    let response = client.receive();
    assert_eq!(
        (response.status, response.text()),
        (413, "request too large\n")
    );
    assert_eq!(response.header("connection"), None);
    client.expect_open();
    let served = server.figures().served;
    assert_eq!((served.failed, served.request_too_large), (1, 1));
}
