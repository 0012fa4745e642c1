//! Bytes that are no request: the named answer, FIN after it, and nobody else notices.

use crate::client::{Then, get, post, post_chunked};
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    every_fault_has_its_answer,
    a_limit_is_exact,
    the_answer_arrives_although_more_is_being_sent,
    requests_before_a_fault_are_answered,
];

/// A request with these header lines besides Host, each ended by CRLF.
fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: lab\r\n{lines}\r\n")
}

/// A chunked request with this raw body.
fn chunked(body: &str) -> String {
    with("Transfer-Encoding: chunked\r\n") + body
}

fn target(bytes: usize) -> String {
    format!("/{}", "t".repeat(bytes - 1))
}

/// A header line that makes the header block of [`with`] this long.
fn header_block(bytes: usize) -> String {
    let others = "Host: lab\r\nX: \r\n\r\n".len();
    format!("X: {}\r\n", "x".repeat(bytes - others))
}

/// What is wrong, the bytes, the status.
fn faults() -> Vec<(&'static str, String, u16)> {
    let many_headers: String = (0..101).map(|n| format!("H{n}: x\r\n")).collect();
    vec![
        ("no request line", "\0\u{1}\u{2}\r\n\r\n".into(), 400),
        ("a TLS handshake", "\u{16}\u{3}\u{1}\r\n\r\n".into(), 400),
        ("a method alone", "GET\r\n\r\n".into(), 400),
        ("no version", "GET /\r\n\r\n".into(), 400),
        (
            "four words",
            "GET / now HTTP/1.1\r\nHost: lab\r\n\r\n".into(),
            400,
        ),
        (
            "two spaces",
            "GET  / HTTP/1.1\r\nHost: lab\r\n\r\n".into(),
            400,
        ),
        (
            "a space before it",
            " GET / HTTP/1.1\r\nHost: lab\r\n\r\n".into(),
            400,
        ),
        (
            "a method of other letters",
            "GE(T) / HTTP/1.1\r\nHost: lab\r\n\r\n".into(),
            400,
        ),
        (
            "a target without a slash",
            "GET x HTTP/1.1\r\nHost: lab\r\n\r\n".into(),
            400,
        ),
        ("many empty lines", "\r\n".repeat(6) + &get("/"), 400),
        ("a header without a colon", with("no colon\r\n"), 400),
        ("a space before the colon", with("Name : value\r\n"), 400),
        ("no name", with(": value\r\n"), 400),
        ("a folded header", with("A: 1\r\n  2\r\n"), 400),
        ("a NUL in a value", with("A: \0\r\n"), 400),
        ("a CR in a value", with("A: 1\rB: 2\r\n"), 400),
        ("Host is missing", "GET / HTTP/1.1\r\n\r\n".into(), 400),
        ("Host is repeated", with("Host: lab\r\n"), 400),
        (
            "Host is no host",
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(),
            400,
        ),
        (
            "lengths differ",
            with("Content-Length: 1\r\nContent-Length: 2\r\n"),
            400,
        ),
        ("a list of lengths", with("Content-Length: 1, 2\r\n"), 400),
        ("a length of letters", with("Content-Length: ten\r\n"), 400),
        ("an empty length", with("Content-Length: \r\n"), 400),
        ("a negative length", with("Content-Length: -1\r\n"), 400),
        ("a length with a sign", with("Content-Length: +1\r\n"), 400),
        ("a length in hex", with("Content-Length: 0x10\r\n"), 400),
        (
            "a length and a coding",
            with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
            400,
        ),
        (
            "a coding and a length",
            with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"),
            400,
        ),
        (
            "chunked twice",
            with("Transfer-Encoding: chunked, chunked\r\n"),
            400,
        ),
        (
            "a coding on 1.0",
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
            400,
        ),
        ("a chunk's size of letters", chunked("size\r\n"), 400),
        ("an empty chunk size", chunked("\r\n"), 400),
        ("a negative chunk size", chunked("-1\r\n"), 400),
        ("a chunk line that ends in LF", chunked("1\nx\r\n"), 400),
        (
            "a chunk longer than its size",
            chunked("2\r\nabc\r\n0\r\n\r\n"),
            400,
        ),
        (
            "a chunk line without end",
            chunked(&format!("1;{}", "e".repeat(300))),
            400,
        ),
        ("a malformed trailer", chunked("0\r\nno colon\r\n\r\n"), 400),
        ("a target too long", get(&target(8193)), 414),
        ("a request line without end", "G".repeat(9000), 414),
        ("a header too long", with(&header_block(16 * 1024 + 1)), 431),
        (
            "a header without end",
            with("").replace("\r\n\r\n", "\r\nX: ") + &"x".repeat(17_000),
            431,
        ),
        ("too many headers", with(&many_headers), 431),
        (
            "a trailer too long",
            chunked(&format!("0\r\nX: {}", "x".repeat(17_000))),
            431,
        ),
        ("a body too long", with("Content-Length: 1048577\r\n"), 413),
        (
            "a length beyond numbers",
            with(&format!("Content-Length: {}\r\n", "9".repeat(40))),
            413,
        ),
        ("a chunk too long", chunked("100001\r\n"), 413),
        (
            "a chunk size beyond numbers",
            chunked(&format!("{}\r\n", "f".repeat(40))),
            413,
        ),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into(), 505),
        ("HTTP/1.2", get("/").replace("1.1", "1.2"), 505),
        ("HTTP/3", get("/").replace("1.1", "3"), 505),
        (
            "an unknown coding",
            with("Transfer-Encoding: gzip\r\n"),
            501,
        ),
        (
            "an unknown coding in chunks",
            with("Transfer-Encoding: gzip, chunked\r\n"),
            501,
        ),
        (
            "a tunnel",
            "CONNECT lab:80 HTTP/1.1\r\nHost: lab\r\n\r\n".into(),
            501,
        ),
        ("another expectation", with("Expect: miracles\r\n"), 417),
    ]
}

/// Sends `input` on a connection of its own: one answer, a sentence of text, and FIN.
fn check(server: &Server, fault: &str, input: impl AsRef<[u8]>, status: u16) {
    let mut client = server.connect();
    client.send(input);
    let response = client.receive();
    assert_eq!(response.status, status, "{fault}: {}", response.text());
    assert_eq!(response.header("connection"), Some("close"), "{fault}");
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert!(response.text().ends_with(".\n"), "{fault}");
    client.expect_fin();
}

fn every_fault_has_its_answer(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut bystander = server.connect();
    bystander.expect_open();
    // This one has sent half a request, which waits meanwhile.
    let mut halfway = server.connect();
    halfway.send(&get("/")[..10]);
    let faults = faults();
    for (fault, input, status) in &faults {
        check(&server, fault, input, *status);
        bystander.expect_open();
    }
    halfway.send(&get("/")[10..]);
    assert_eq!(halfway.receive().status, 200);
    halfway.expect_open();
    let figures = server.figures().served;
    assert_eq!(figures.rejected, faults.len() as u64);
    assert_eq!(figures.answered, faults.len() as u64 + 3);
}

fn a_limit_is_exact(lab: Lab) {
    let options = ["--target", "100B", "--head", "200B", "--body", "50B"];
    let server = lab.serve("echo", &options);
    let fits = |input: &[u8]| {
        let mut client = server.connect();
        client.send(input);
        assert_eq!(client.receive().status, 200);
        client.expect(Then::Stays);
    };
    fits(get(&target(100)).as_bytes());
    check(&server, "target", get(&target(101)), 414);
    fits(with(&header_block(200)).as_bytes());
    check(&server, "head", with(&header_block(201)), 431);
    fits(&post(&[b'b'; 50]));
    check(&server, "body", post(&[b'b'; 51]), 413);
    fits(&post_chunked(&[b'b'; 50], 20));
    check(&server, "chunks", post_chunked(&[b'b'; 51], 20), 413);
    fits(with(&"H: x\r\n".repeat(20)).as_bytes());
    check(&server, "headers", with(&"H: x\r\n".repeat(99)), 431);
}

/// A close with bytes unread makes the kernel send a reset, which can overtake the answer.
fn the_answer_arrives_although_more_is_being_sent(lab: Lab) {
    let server = lab.serve("echo", &[]);
    let too_long = post(&vec![b'x'; 2 * 1024 * 1024]);
    check(&server, "a body too long", too_long, 413);
    let then_more = [
        get("/").replace("GET", "G@T").into_bytes(),
        vec![b'x'; 300_000],
    ];
    check(&server, "a fault and more", then_more.concat(), 400);
}

fn requests_before_a_fault_are_answered(lab: Lab) {
    let server = lab.serve("echo", &[]);
    let mut client = server.connect();
    let good = [post(b"one"), post_chunked(b"two", 2)].concat();
    client.send([&good[..], b"\0\r\n\r\n", &good].concat());
    assert_eq!(client.receive().text(), "one");
    assert_eq!(client.receive().text(), "two");
    assert_eq!(client.receive().status, 400);
    client.expect_fin();
}
