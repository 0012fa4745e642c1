//! How requests share a connection.

use crate::client::{Then, get, pattern, post, post_chunked};
use crate::{Lab, on_every_model};

on_every_model![
    keep_alive_serves_one_request_after_another,
    pipelined_requests_are_answered_in_their_order,
    a_request_may_be_cut_at_every_byte,
    a_pipeline_may_be_cut_at_every_byte,
    head_is_answered_without_a_body,
    a_client_that_expects_100_continue_is_told_to_go_on,
    a_client_that_expects_100_continue_and_goes_on_is_not_told,
    the_version_and_the_connection_header_decide_whether_it_stays,
    what_comes_after_a_close_is_not_answered,
    half_close_after_a_pipeline_loses_no_answer,
    half_close_within_a_request_ends_quietly,
    half_close_behind_a_full_pipeline_loses_no_answer,
    many_connections_at_once_are_served,
    connections_on_every_core_are_served,
];

fn keep_alive_serves_one_request_after_another(lab: Lab) {
    let mut server = lab.serve("echo", &[]);
    let mut client = server.connect();
    for nth in 0..100 {
        let body = format!("request {nth}");
        client.send(post(body.as_bytes()));
        let response = client.receive();
        assert_eq!((response.status, response.text()), (200, &*body));
        assert_eq!(response.header("connection"), None);
    }
    assert_eq!(server.figures().served.accepted, 1);
}

/// Requests of several kinds with a body of their own each, and the bodies.
fn pipeline(depth: usize) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut requests = Vec::new();
    let mut bodies = Vec::new();
    for nth in 0..depth {
        let body = format!("body {nth} ").repeat(nth % 7).into_bytes();
        requests.extend(match nth % 3 {
            0 => post_chunked(&body, 5),
            _ => post(&body),
        });
        bodies.push(body);
    }
    (requests, bodies)
}

fn pipelined_requests_are_answered_in_their_order(lab: Lab) {
    let server = lab.serve("echo", &[]);
    for depth in [1, 16, 200] {
        let (requests, bodies) = pipeline(depth);
        let mut client = server.connect();
        for _ in 0..3 {
            client.send(&requests);
            for body in &bodies {
                assert_eq!(&client.receive().body, body, "{depth} deep");
            }
        }
        client.expect_open();
    }
}

/// Cuts `request` at each byte in turn, and sees to it that the parts come in reads of their own.
fn cut(lab: Lab, request: &[u8], bodies: &[Vec<u8>]) {
    let mut server = lab.serve("echo", &[]);
    let mut client = server.connect();
    let mut sent = 0;
    for at in 1..request.len() {
        client.send(&request[..at]);
        sent += at as u64;
        server.until_received(sent);
        client.send(&request[at..]);
        sent += (request.len() - at) as u64;
        for body in bodies {
            let response = client.receive();
            assert_eq!(
                (response.status, &response.body),
                (200, body),
                "cut at {at}"
            );
        }
    }
    client.expect_open();
}

fn a_request_may_be_cut_at_every_byte(lab: Lab) {
    let body = b"cut me".to_vec();
    cut(lab, &post(&body), &[body]);
}

fn a_pipeline_may_be_cut_at_every_byte(lab: Lab) {
    let bodies = [b"first, in chunks".to_vec(), b"second".to_vec()];
    let requests = [post_chunked(&bodies[0], 6), post(&bodies[1])].concat();
    cut(lab, &requests, &bodies);
}

fn head_is_answered_without_a_body(lab: Lab) {
    let server = lab.serve("hello", &[]);
    let mut client = server.connect();
    client.send(get("/"));
    let expected = client.receive();
    let head = get("/").replace("GET", "HEAD");
    client.send(format!("{head}{head}"));
    for _ in 0..2 {
        let response = client.receive_without_body();
        assert_eq!(response.status, 200);
        let length = expected.body.len().to_string();
        assert_eq!(response.header("content-length"), Some(&*length));
    }
    client.expect_open();
}

const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

fn a_client_that_expects_100_continue_is_told_to_go_on(lab: Lab) {
    let server = lab.serve("echo", &[]);
    let mut client = server.connect();
    for framing in ["Content-Length: 4", "Transfer-Encoding: chunked"] {
        client.send(EXPECTING.replace("Content-Length: 4", framing));
        let response = client.receive_without_body();
        assert_eq!(response.head, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(if framing.starts_with('C') {
            "body"
        } else {
            "4\r\nbody\r\n0\r\n\r\n"
        });
        assert_eq!(client.receive().text(), "body");
    }
    client.expect_open();
}

fn a_client_that_expects_100_continue_and_goes_on_is_not_told(lab: Lab) {
    let server = lab.serve("echo", &[]);
    let mut client = server.connect();
    client.send(format!("{EXPECTING}body"));
    let response = client.receive();
    assert_eq!((response.status, response.text()), (200, "body"));
    client.expect_open();
}

fn the_version_and_the_connection_header_decide_whether_it_stays(lab: Lab) {
    let server = lab.serve("hello", &[]);
    let check = |version: &str, asked: &str, answered: Option<&str>, then: Then| {
        let mut client = server.connect();
        client.send(format!("GET / {version}\r\nHost: lab\r\n{asked}\r\n"));
        let response = client.receive();
        assert_eq!(response.status, 200);
        assert!(response.head.starts_with("HTTP/1.1 "));
        assert_eq!(response.header("connection"), answered, "{version} {asked}");
        client.expect(then);
    };
    check("HTTP/1.1", "", None, Then::Stays);
    check("HTTP/1.1", "Connection: keep-alive\r\n", None, Then::Stays);
    check(
        "HTTP/1.1",
        "Connection: close\r\n",
        Some("close"),
        Then::Closes,
    );
    check(
        "HTTP/1.1",
        "connection: x, CLOSE\r\n",
        Some("close"),
        Then::Closes,
    );
    check("HTTP/1.0", "", Some("close"), Then::Closes);
    check(
        "HTTP/1.0",
        "Connection: close\r\n",
        Some("close"),
        Then::Closes,
    );
    let asked = "Connection: Keep-Alive\r\n";
    check("HTTP/1.0", asked, Some("keep-alive"), Then::Stays);
}

fn what_comes_after_a_close_is_not_answered(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut client = server.connect();
    let last = get("/").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    client.send(format!("{}{last}{}", get("/"), get("/").repeat(50)));
    assert_eq!(client.receive().header("connection"), None);
    assert_eq!(client.receive().header("connection"), Some("close"));
    client.expect_fin();
    assert_eq!(server.figures().served.answered, 2);
}

fn half_close_after_a_pipeline_loses_no_answer(lab: Lab) {
    let server = lab.serve("echo", &[]);
    for depth in [1, 200] {
        let (requests, bodies) = pipeline(depth);
        let mut client = server.connect();
        client.send(&requests);
        client.send_fin();
        for body in &bodies {
            assert_eq!(&client.receive().body, body, "{depth} deep");
        }
        client.expect_fin();
    }
}

fn half_close_within_a_request_ends_quietly(lab: Lab) {
    let server = lab.serve("echo", &[]);
    for request in [post(b"half of it"), post_chunked(b"half of it", 3)] {
        for length in [1, request.len() / 2, request.len() - 1] {
            let mut client = server.connect();
            client.send(post(b"whole"));
            client.send(&request[..length]);
            client.send_fin();
            assert_eq!(client.receive().text(), "whole");
            client.expect_fin();
        }
    }
    // More than one read takes, so that the FIN and the bytes before it come as one event.
    let request = post(&pattern(500_000));
    for length in [65_536, 70_000, 100_000, 131_072, 200_000].repeat(4) {
        let mut client = server.connect();
        client.send(&request[..length]);
        client.send_fin();
        client.expect_fin();
    }
}

/// More answers than the session gathers and the sockets hold, so that reading has to pause and go
/// on with the FIN already there.
fn half_close_behind_a_full_pipeline_loses_no_answer(lab: Lab) {
    const DEPTH: usize = 64;
    let server = lab.serve("echo", &[]);
    let body = pattern(256 * 1024);
    let mut client = server.connect();
    let sender = client.send_aside(post(&body).repeat(DEPTH));
    for nth in 0..DEPTH {
        assert!(client.receive().body == body, "answer {nth}");
    }
    client.expect_fin();
    sender.join().expect("no panic").expect("all was taken");
}

fn many_connections_at_once_are_served(lab: Lab) {
    let mut server = lab.serve("echo", &[]);
    let mut clients: Vec<_> = (0..300).map(|_| server.connect()).collect();
    for _ in 0..3 {
        let (requests, bodies) = pipeline(16);
        for client in &mut clients {
            client.send(&requests);
        }
        for (nth, client) in clients.iter_mut().enumerate() {
            for body in &bodies {
                assert_eq!(&client.receive().body, body, "client {nth}");
            }
        }
    }
    assert_eq!(server.figures().served.answered, 3 * 16 * 300);
}

fn connections_on_every_core_are_served(lab: Lab) {
    let mut server = lab.serve_on_all_cores("echo");
    let mut clients: Vec<_> = (0..32).map(|_| server.connect()).collect();
    for round in 0..10 {
        for (nth, client) in clients.iter_mut().enumerate() {
            client.send(post(format!("{round} {nth}").as_bytes()));
        }
        for (nth, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.receive().text(), format!("{round} {nth}"));
        }
    }
    let figures = server.figures();
    assert_eq!(figures.served.accepted, 32);
    assert_eq!(figures.served.answered, 320);
}
