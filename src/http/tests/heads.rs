//! Request lines and header blocks, one rule a test.

use super::*;

#[test]
fn nothing_or_empty_lines_wait_for_a_request() {
    check("", &[]);
    check("\r\n", &[]);
    check("\r\n\n\r\n\r\n", &[]);
    check(
        "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        &["GET / 1.1 keep-alive 0:"],
    );
    check(
        "\n\n\n\nGET / HTTP/1.1\nhost: a\n\n",
        &["GET / 1.1 keep-alive 0:"],
    );
    check_rejects("\r\n\r\n\n\n\n", 400, Reject::EMPTY_LINES);
    check_rejects(
        "\rGET / HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        Reject::REQUEST_LINE,
    );
    let mut peer = Peer::new(SMALL);
    peer.read(b"\r");
    assert_eq!(peer.decoder.waiting_for(), Waiting::Request);
}

#[test]
fn a_part_waits_for_the_rest() {
    check_waits("G", Waiting::Head);
    check_waits("GET / HTTP/1.1\r\nhost: a\r\n", Waiting::Head);
    check_waits("GET / HTTP/1.1\r\nhost: a\r\n\r", Waiting::Head);
    check_waits(&post("content-length: 5\r\n", ""), Waiting::Body);
    check_waits(&post("content-length: 5\r\n", "hell"), Waiting::Body);
    check_waits(&chunked(""), Waiting::Body);
    check_waits(&chunked("5\r\nhello\r\n0\r\n"), Waiting::Body);
}

#[test]
fn the_connection_stays_or_closes() {
    for (version, lines, expected) in [
        ("1.1", "", "keep-alive"),
        ("1.1", "Connection: close\r\n", "close"),
        ("1.1", "connection: keep-alive\r\n", "keep-alive"),
        ("1.1", "CONNECTION: x, ,\tCLOSE\r\n", "close"),
        (
            "1.1",
            "connection: keep-alive\r\nconnection: close\r\n",
            "close",
        ),
        ("1.1", "connection: closed\r\n", "keep-alive"),
        ("1.0", "", "close"),
        ("1.0", "connection: Keep-Alive\r\n", "keep-alive"),
        ("1.0", "connection: x,keep-alive\r\n", "keep-alive"),
        ("1.0", "connection: keep-alive, close\r\n", "close"),
    ] {
        check(
            &format!("GET / HTTP/{version}\r\nhost: a\r\n{lines}\r\n"),
            &[&format!("GET / {version} {expected} 0:")],
        );
    }
}

#[test]
fn pipelined_requests_come_in_order() {
    let wire = [
        "GET /1 HTTP/1.1\r\nhost: a\r\n\r\n",
        &post("content-length: 2\r\n", "hi"),
        &chunked("2\r\nho\r\n0\r\n\r\n"),
        "\r\n",
        "HEAD /4 HTTP/1.1\r\nhost: a\r\n\r\n",
    ];
    check(
        &wire.concat(),
        &[
            "GET /1 1.1 keep-alive 0:",
            "POST /x 1.1 keep-alive 2:hi",
            "POST /x 1.1 keep-alive 2:ho",
            "HEAD /4 1.1 keep-alive 0:",
        ],
    );
}

#[test]
fn a_request_shows_its_fields_and_its_reply() {
    let wire = b"\r\nHEAD /a?b HTTP/1.0\r\nHost:\ta \r\nX-Empty:\r\nx-utf: \xc3\xa9\r\n\r\n";
    let mut storage = HeaderStorage::new();
    let step = Decoder::new().decode(wire, &mut storage, &SMALL);
    let Step::Request {
        request, consumed, ..
    } = step
    else {
        panic!("{step:?}");
    };
    assert_eq!(consumed, wire.len());
    assert_eq!(request.head, &wire[2..]);
    let fields: Vec<_> = request.headers.iter().map(|h| (h.name, h.value)).collect();
    let expected: [(&str, &[u8]); 3] =
        [("Host", b"a"), ("X-Empty", b""), ("x-utf", "é".as_bytes())];
    assert_eq!(fields, expected);
    assert_eq!(
        request.reply(),
        Reply {
            version: Version::Http10,
            head_only: true,
            keep_alive: false
        }
    );
}

#[test]
fn targets_have_four_forms_less_one() {
    for line in [
        "GET /",
        "GET /%zz?a=[b]",
        "OPTIONS *",
        "GET http://a/",
        "GET a+b://c",
    ] {
        check(
            &format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n"),
            &[&format!("{line} 1.1 keep-alive 0:")],
        );
    }
    for line in [
        "GET x",
        "GET *",
        "GET ://a",
        "GET 1://a",
        "GET a b://c",
        "GET http://",
        "GET a:80",
    ] {
        let reject = match line {
            "GET a b://c" => Reject::REQUEST_LINE,
            _ => Reject::TARGET,
        };
        check_rejects(format!("{line} HTTP/1.1\r\nhost: a\r\n\r\n"), 400, reject);
    }
    check_rejects(
        "CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n",
        501,
        Reject::CONNECT,
    );
}

#[test]
fn malformed_request_lines() {
    for line in [
        "GET",
        "GET ",
        "GET /",
        "GET / ",
        " GET / HTTP/1.1",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.1x",
        "GET / http/1.1",
        "GET / HTTP/",
        "GET / HTTP/x.1",
        "GET / HTTP/1.",
        "GET / HTTP/1..",
        "GET / FTP/1.1",
        "G\0T / HTTP/1.1",
        "G(T / HTTP/1.1",
        "GET /\t HTTP/1.1",
        "GET /\x7f HTTP/1.1",
        "GET / HTTP/1.1\rx",
    ] {
        check_rejects(
            format!("{line}\r\nhost: a\r\n\r\n"),
            400,
            Reject::REQUEST_LINE,
        );
    }
    check_rejects(
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        Reject::REQUEST_LINE,
    );
}

#[test]
fn other_versions() {
    for version in ["2.0", "1.2", "0.9", "3", "11.1", "1.10", "1", "11"] {
        let wire = format!("GET / HTTP/{version}\r\nhost: a\r\n\r\n");
        check_rejects(wire, 505, Reject::VERSION);
    }
    check_rejects("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, Reject::VERSION);
    check_rejects("HEAD / HTTP/1.1\r\n\r\n", 400, Reject::HOST_MISSING);
}

#[test]
fn malformed_header_lines() {
    for line in [
        "x", ": y", "x : y", " x: y", "\tfolded", "x\0: y", "x: \0", "x: a\rb", "x: \x7f", "é: x",
        "(x): y", "\r",
    ] {
        check_rejects(post(&format!("{line}\r\n"), ""), 400, Reject::HEADER);
    }
    // The first fault in the bytes counts, of whichever kind.
    check_rejects(post("content-length: x\r\nx\r\n", ""), 400, Reject::LENGTH);
    check_rejects(post("x\r\ncontent-length: x\r\n", ""), 400, Reject::HEADER);
}

#[test]
fn host() {
    let with = |version: &str, lines: &str| format!("GET / HTTP/{version}\r\n{lines}\r\n");
    for host in [
        "",
        "a",
        "a.b:80",
        "a:",
        "[::1]",
        "[::1]:80",
        "1.2.3.4:5",
        "a_b~!%20",
        "[v1.x]",
    ] {
        let wire = with("1.1", &format!("hOST: {host}\r\n"));
        check(&wire, &["GET / 1.1 keep-alive 0:"]);
    }
    for host in [
        "a b", "a/b", "a@b", "a?b", "a:b", "a:80:80", "é", "[::1", "[]", "[::1]x", "::1", "a\\b",
        "a]",
    ] {
        let wire = with("1.1", &format!("host: {host}\r\n"));
        check_rejects(wire, 400, Reject::HOST);
    }
    check_rejects(with("1.1", ""), 400, Reject::HOST_MISSING);
    check_rejects(with("1.1", "hosts: a\r\n"), 400, Reject::HOST_MISSING);
    check_rejects(
        with("1.1", "host: a\r\nhost: a\r\n"),
        400,
        Reject::HOST_REPEATED,
    );
    check(&with("1.0", ""), &["GET / 1.0 close 0:"]);
    check_rejects(
        with("1.0", "host: a\r\nHost: b\r\n"),
        400,
        Reject::HOST_REPEATED,
    );
    check_rejects(with("1.0", "host: /\r\n"), 400, Reject::HOST);
}

#[test]
fn target_limit() {
    let line = |method: &str, target_bytes: usize| {
        let target = "t".repeat(target_bytes - 1);
        format!("{method} /{target} HTTP/1.1\r\nhost: a\r\n\r\n")
    };
    let method = "M".repeat(52);
    for method in ["GET", &method] {
        let wire = line(method, 40);
        let target = format!("/{}", "t".repeat(39));
        let expected = format!("{method} {target} 1.1 keep-alive 0:");
        let end = End::Waiting(Waiting::Request);
        check_limits(SMALL, wire.as_bytes(), &[&expected], end);
        check_rejects_within(SMALL, line(method, 41), 414, Reject::TARGET_TOO_LONG);
    }
    check_rejects_within(SMALL, line("GET", 4000), 414, Reject::TARGET_TOO_LONG);
    check_rejects_within(
        SMALL,
        line(&"M".repeat(92), 2),
        414,
        Reject::TARGET_TOO_LONG,
    );
    check_rejects_within(SMALL, "x".repeat(105), 414, Reject::TARGET_TOO_LONG);
    check_rejects_within(SMALL, [0u8; 105], 414, Reject::TARGET_TOO_LONG);
    check_limits(SMALL, &[b'x'; 104], &[], End::Waiting(Waiting::Head));
}

#[test]
fn head_limit() {
    // The block's other bytes: the Host line, `x: `, CRLF, CRLF.
    let head = |block_bytes: usize| post(&format!("x: {}\r\n", "y".repeat(block_bytes - 16)), "");
    let expected = ["POST /x 1.1 keep-alive 0:"];
    let end = End::Waiting(Waiting::Request);
    check_limits(SMALL, head(200).as_bytes(), &expected, end);
    check_rejects_within(SMALL, head(201), 431, Reject::HEAD_TOO_LARGE);
    check_rejects_within(SMALL, head(5000), 431, Reject::HEAD_TOO_LARGE);
    // A limit that is crossed goes before a fault that was not yet known, and not before others.
    let late = format!("y: {}\r\nx\r\n", "y".repeat(300));
    check_rejects_within(SMALL, post(&late, ""), 431, Reject::HEAD_TOO_LARGE);
    let early = format!("x\r\ny: {}\r\n", "y".repeat(300));
    check_rejects_within(SMALL, post(&early, ""), 400, Reject::HEADER);
}

#[test]
fn header_count_limit() {
    let fields = |count: usize| post(&"a: b\r\n".repeat(count - 1), "");
    check(&fields(MAX_HEADERS), &["POST /x 1.1 keep-alive 0:"]);
    check_rejects(fields(MAX_HEADERS + 1), 431, Reject::TOO_MANY_HEADERS);
    check_rejects(fields(MAX_HEADERS + 50), 431, Reject::TOO_MANY_HEADERS);
}
