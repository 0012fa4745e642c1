//! Bodies: how they are framed, chunked, expected and bounded.

use super::*;

#[test]
fn content_length() {
    for (lines, body, expected) in [
        ("content-length: 5\r\n", "hello", "5:hello"),
        ("Content-Length: 0\r\n", "", "0:"),
        ("content-length: 005\r\n", "hello", "5:hello"),
        (
            "content-length: 5\r\ncontent-length: 5\r\n",
            "hello",
            "5:hello",
        ),
        ("content-length: 5, 5\r\n", "hello", "5:hello"),
        ("content-length: 4\r\n", "\r\n\r\n", r"4:\r\n\r\n"),
    ] {
        check(
            &post(lines, body),
            &[&format!("POST /x 1.1 keep-alive {expected}")],
        );
    }
    for value in [
        "+5",
        "-5",
        "",
        "5,",
        ",5",
        "5 5",
        "0x5",
        "5.",
        "five",
        "٥",
        "99999999999999999999x",
    ] {
        let wire = post(&format!("content-length: {value}\r\n"), "hello");
        check_rejects(wire, 400, Reject::LENGTH);
    }
    for lines in [
        "content-length: 5, 6\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "content-length: 5\r\nx: y\r\nContent-Length: 5, 6\r\n",
    ] {
        check_rejects(post(lines, "hello!"), 400, Reject::LENGTHS_DIFFER);
    }
}

/// Where limits let it, a body may be longer than anything is: it never comes, and nothing overflows.
#[test]
fn limits_that_limit_nothing() {
    let limits = Limits {
        target_bytes: usize::MAX,
        head_bytes: usize::MAX,
        body_bytes: usize::MAX,
    };
    assert_eq!(limits.carry_bytes(), usize::MAX);
    for lines in [
        format!("content-length: {}\r\n", usize::MAX),
        "transfer-encoding: chunked\r\n".to_owned(),
    ] {
        let wire = post(&lines, "7fffffffffffffff\r\nhello");
        let mut decoder = Decoder::new();
        let mut storage = HeaderStorage::new();
        let step = decoder.decode(wire.as_bytes(), &mut storage, &limits);
        assert!(!matches!(step, Step::Request { .. } | Step::Reject(_)));
        let mut carry = wire.into_bytes();
        let mut storage = HeaderStorage::new();
        let step = decoder.decode_carried(&mut carry, &mut storage, &limits);
        assert!(matches!(step, Step::Incomplete { .. }), "{step:?}");
    }
}

#[test]
fn transfer_encoding() {
    for lines in [
        "transfer-encoding: chunked\r\n",
        "Transfer-Encoding: CHUNKED\r\n",
        "transfer-encoding: , chunked\r\n",
        "transfer-encoding:\r\ntransfer-encoding: chunked\r\n",
    ] {
        let wire = post(lines, "2\r\nhi\r\n0\r\n\r\n");
        check(&wire, &["POST /x 1.1 keep-alive 2:hi"]);
    }
    for value in [
        "gzip",
        "gzip, chunked",
        "identity",
        "xchunked",
        "chunked;a=b",
        "\"chunked\"",
    ] {
        let wire = post(&format!("transfer-encoding: {value}\r\n"), "0\r\n\r\n");
        check_rejects(wire, 501, Reject::CODING_UNKNOWN);
    }
    for lines in [
        "transfer-encoding:\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: gzip, chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        check_rejects(post(lines, "0\r\n\r\n"), 400, Reject::CODING);
    }
    for lines in [
        "transfer-encoding: chunked\r\ncontent-length: 5\r\n",
        "content-length: 5\r\ntransfer-encoding: chunked\r\n",
        "content-length: 0\r\ntransfer-encoding: gzip\r\n",
    ] {
        check_rejects(post(lines, "0\r\n\r\n"), 400, Reject::LENGTH_AND_CODING);
    }
    check_rejects(
        "POST /x HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        Reject::CODING_ON_1_0,
    );
}

#[test]
fn chunks() {
    for (wire, expected) in [
        ("0\r\n\r\n", "0:"),
        ("000\r\n\r\n", "0:"),
        ("5\r\nhello\r\n0\r\n\r\n", "5:hello"),
        ("1\r\nh\r\n003\r\nell\r\n1\r\no\r\n0\r\n\r\n", "5:hello"),
        (
            "A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n",
            "20:01234567890123456789",
        ),
        ("2;a=\"b\";c\r\nhi\r\n0 ;\tx\r\n\r\n", "2:hi"),
        ("4\r\n\r\n\r\n\r\n0\r\n\r\n", r"4:\r\n\r\n"),
        (
            "2\r\nhi\r\n0\r\nx-a: b\r\ncontent-length: 9\r\n\r\n",
            "2:hi",
        ),
    ] {
        check(
            &chunked(wire),
            &[&format!("POST /x 1.1 keep-alive {expected}")],
        );
    }
    for wire in [
        "\r\n",
        "x\r\n",
        " 5\r\nhello",
        "-5\r\n",
        "+5\r\n",
        "0x5\r\n",
        "5 \r\nhello",
        "5 x\r\nhello",
        "5\nhello",
        "5\r\nhello!\r\n",
        "5\r\nhello\n0\r\n",
        "5\r\nhello\rx",
        "5;\0\r\n",
        "5;a\rb\r\n",
        "5\r\r\n",
        "5;a\nhello",
    ] {
        check_rejects(chunked(wire), 400, Reject::CHUNK);
    }
    for wire in [
        "0\r\nx\r\n\r\n",
        "0\r\nx: y\n\r\n",
        "0\r\n\n",
        "0\r\n x: y\r\n\r\n",
        "0\r\nx : y\r\n",
    ] {
        check_rejects(chunked(wire), 400, Reject::TRAILER);
    }
}

#[test]
fn chunk_lines_have_a_limit() {
    let line = |bytes: usize| format!("2;{}\r\n", "x".repeat(bytes - "2;\r\n".len()));
    check(
        &chunked(&format!("{}hi\r\n0\r\n\r\n", line(CHUNK_LINE_BYTES))),
        &["POST /x 1.1 keep-alive 2:hi"],
    );
    check_rejects(chunked(&line(CHUNK_LINE_BYTES + 1)), 400, Reject::CHUNK);
    check_rejects(
        chunked(&"0".repeat(CHUNK_LINE_BYTES + 1)),
        400,
        Reject::CHUNK,
    );
}

#[test]
fn expectations() {
    let body = "hello";
    for (version, lines, continues) in [
        ("1.1", "expect: 100-continue\r\n", 1),
        ("1.1", "Expect: 100-Continue\r\n", 1),
        ("1.1", "expect:\r\n", 0),
        ("1.0", "expect: 100-continue\r\n", 0),
        ("1.1", "", 0),
    ] {
        let head = format!("PUT / HTTP/{version}\r\nhost: a\r\ncontent-length: 5\r\n{lines}\r\n");
        let whole = format!("{head}{body}");
        check_continues([head.as_str(), body], continues);
        check_continues([head.as_str(), "he", "llo"], continues);
        check_continues(whole.split_inclusive(""), continues);
        check_continues([whole.as_str()], 0);
    }
    let head = chunked("").replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    check_continues([head.as_str(), "5\r\nhello\r\n0\r\n\r\n"], 1);
    check_continues(
        ["GET / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n\r\n"],
        0,
    );

    for value in ["200-ok", "100-continue, x", "100-continue=1"] {
        let wire = post(&format!("expect: {value}\r\n"), "");
        check_rejects(wire, 417, Reject::EXPECT);
    }
}

/// Counts the times that `100 Continue` is asked for, over one whole request.
fn check_continues<'a>(reads: impl IntoIterator<Item = &'a str>, expected: usize) {
    let mut peer = Peer::new(Limits::default());
    reads
        .into_iter()
        .for_each(|read| peer.read(read.as_bytes()));
    assert_eq!(peer.continues, expected);
    assert_eq!(peer.requests.len(), 1);
}

#[test]
fn a_head_with_a_fault_is_never_continued() {
    for lines in [
        "content-length: 2000000\r\n",
        "content-length: 5\r\ncontent-length: 6\r\n",
        "transfer-encoding: gzip\r\n",
    ] {
        let wire = post(&format!("expect: 100-continue\r\n{lines}"), "");
        let mut peer = Peer::new(Limits::default());
        wire.as_bytes().chunks(1).for_each(|byte| peer.read(byte));
        assert!(peer.rejected.is_some());
        assert_eq!(peer.continues, 0);
    }
}

#[test]
fn trailer_limit() {
    // Header block: `host: a`, `transfer-encoding: chunked` and the empty line, 9 + 28 + 2.
    let wire = |trailer_bytes: usize| {
        chunked(&format!(
            "0\r\nt: {}\r\n\r\n",
            "t".repeat(trailer_bytes - 5)
        ))
    };
    let expected = ["POST /x 1.1 keep-alive 0:"];
    let end = End::Waiting(Waiting::Request);
    check_limits(SMALL, wire(200 - 39).as_bytes(), &expected, end);
    check_rejects_within(SMALL, wire(200 - 38), 431, Reject::HEAD_TOO_LARGE);
    let endless = chunked(&format!("0\r\n{}", "t: t\r\n".repeat(100)));
    check_rejects_within(SMALL, endless, 431, Reject::HEAD_TOO_LARGE);
}

#[test]
fn body_limit() {
    let body = "b".repeat(50);
    let expected = format!("POST /x 1.1 keep-alive 50:{body}");
    for wire in [
        post("content-length: 50\r\n", &body),
        chunked(&format!("32\r\n{body}\r\n0\r\n\r\n")),
        chunked(&format!("{}0\r\n\r\n", "1\r\nb\r\n".repeat(50))),
    ] {
        let end = End::Waiting(Waiting::Request);
        check_limits(SMALL, wire.as_bytes(), &[&expected], end);
    }
    for wire in [
        post("content-length: 51\r\n", &body),
        post("content-length: 18446744073709551616\r\n", ""),
        post("content-length: 99999999999999999999999999\r\n", ""),
        // 2^65 + 8 and 2^64 + 5: small again if they wrapped round.
        post("content-length: 36893488147419103240\r\n", ""),
        chunked("10000000000000005\r\n"),
        chunked("33\r\n"),
        chunked("FFFFFFFFFFFFFFFFF\r\n"),
        chunked("ffffffffffffffff\r\n"),
        chunked(&format!("32\r\n{body}\r\n1\r\n")),
    ] {
        check_rejects_within(SMALL, wire, 413, Reject::BODY_TOO_LARGE);
    }
}
