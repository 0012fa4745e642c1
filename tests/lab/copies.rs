//! How many bytes ringlab itself copies for a request, to the byte.
//!
//! The models lend what they received, so a request that comes in one piece is copied as often under
//! each of them; where one cuts it into its own small buffers, that shows here.

use ringlab::sandbox::Isolation;

use crate::client::{Client, Response, post};
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    a_whole_request_is_copied_in_and_its_answer_out,
    a_request_in_parts_is_carried,
    another_thread_has_the_request_and_the_answer_once_more,
    without_a_sandbox_nothing_is_copied_into_it,
];

/// Small enough for one buffer of any model.
const BODY: &[u8] = &[b'x'; 1000];
/// Larger than a buffer of io_uring's, and one segment on loopback.
const LARGE_BODY: &[u8] = &[b'y'; 10_000];

/// A server of `echo` and a connection to it. The first answer's header lines are compared with no
/// others, so they are copied besides; that is over.
fn begin(lab: Lab, options: &[&str]) -> (Server, Client) {
    let server = lab.serve("echo", options);
    let mut client = server.connect();
    client.send(post(b"first"));
    assert_eq!(client.receive().status, 200);
    (server, client)
}

/// What was copied while `ask` had one request answered; and what of that answer is copied: header lines
/// of the handler's own, and the body.
fn copied(
    server: &mut Server,
    client: &mut Client,
    ask: impl FnOnce(&mut Server, &mut Client) -> Response,
) -> (u64, u64) {
    let before = server.figures().served;
    let response = ask(server, client);
    assert_eq!(response.status, 200);
    let done = server.figures().served.since(&before);
    assert_eq!(done.answered, 1);
    (done.bytes_copied, of_the_handler(&response))
}

/// The same of a request that is sent as a whole.
fn copied_for(server: &mut Server, client: &mut Client, request: &[u8]) -> (u64, u64) {
    copied(server, client, |_, client| {
        client.send(request);
        client.receive()
    })
}

/// The bytes of an answer that are copied: all but what the server writes itself.
pub fn of_the_handler(response: &Response) -> u64 {
    let own = ["HTTP/1.1 ", "server: ", "date: ", "content-length: "];
    let lines = response.head.split_inclusive("\r\n");
    let lines =
        lines.filter(|line| *line != "\r\n" && !own.iter().any(|own| line.starts_with(own)));
    (lines.map(str::len).sum::<usize>() + response.body.len()) as u64
}

fn a_whole_request_is_copied_in_and_its_answer_out(lab: Lab) {
    let (mut server, mut client) = begin(lab, &[]);
    for body in [&b""[..], BODY] {
        let request = post(body);
        let (copied, answer) = copied_for(&mut server, &mut client, &request);
        assert_eq!(copied, request.len() as u64 + answer, "{}", lab.model.name);
        assert!(answer > body.len() as u64, "there are header lines");
    }
    // A body that is not sent is not copied.
    let request = "HEAD / HTTP/1.1\r\nHost: lab\r\nContent-Length: 4\r\n\r\nbody";
    let (copied, answer) = copied(&mut server, &mut client, |_, client| {
        client.send(request);
        client.receive_without_body()
    });
    assert_eq!(copied, request.len() as u64 + answer, "{}", lab.model.name);
}

fn a_request_in_parts_is_carried(lab: Lab) {
    let (mut server, mut client) = begin(lab, &[]);
    let request = post(BODY);
    let in_parts = |server: &mut Server, client: &mut Client| {
        let (first, rest) = request.split_at(request.len() / 2);
        let so_far = server.figures().served.bytes_in;
        client.send(first);
        server.until_received(so_far + first.len() as u64);
        client.send(rest);
        client.receive()
    };
    let (with_parts, answer) = copied(&mut server, &mut client, in_parts);
    let bytes = request.len() as u64;
    assert_eq!(with_parts, 2 * bytes + answer, "{}", lab.model.name);
    if lab.model.name == "io_uring" {
        let request = post(LARGE_BODY);
        let (copied, answer) = copied_for(&mut server, &mut client, &request);
        assert_eq!(
            copied,
            2 * request.len() as u64 + answer,
            "cut by its buffers"
        );
    }
}

fn another_thread_has_the_request_and_the_answer_once_more(lab: Lab) {
    for policy in ["pool", "spawn"] {
        let (mut server, mut client) = begin(lab, &["--offload", policy, "--workers", "1"]);
        let request = post(BODY);
        let (copied, answer) = copied_for(&mut server, &mut client, &request);
        // A thread of its own has compared no header lines yet, and keeps a copy of them.
        let compared = if policy == "spawn" {
            answer - BODY.len() as u64
        } else {
            0
        };
        let expected = 2 * (request.len() as u64 + answer) + compared;
        assert_eq!(copied, expected, "{}, {policy}", lab.model.name);
    }
}

fn without_a_sandbox_nothing_is_copied_into_it(lab: Lab) {
    let lab = Lab {
        isolation: Isolation::Native,
        ..lab
    };
    let (mut server, mut client) = begin(lab, &[]);
    let request = post(BODY);
    let (copied, answer) = copied_for(&mut server, &mut client, &request);
    assert_eq!(copied, answer, "{}", lab.model.name);
}
