//! Streams of answers, whole and in pieces.

use super::*;

const GET: Asked<'_> = Asked {
    is_head: false,
    body: None,
};

/// What a stream comes to: its answers' status and length, and how it ends.
type Story = (Vec<(u16, u64)>, Option<Fault>);

fn read(stream: &[u8], piece: usize, asked: Asked) -> (Vec<Response>, Option<Fault>) {
    let mut decoder = Decoder::default();
    let mut known = KnownHead::default();
    let mut answers = Vec::new();
    for mut input in stream.chunks(piece) {
        loop {
            match decoder.decode(&mut input, &mut known, asked) {
                Decoded::Complete(response) => answers.push(response),
                Decoded::NeedMore => break,
                Decoded::Broken(fault) => return (answers, Some(fault)),
            }
            if input.is_empty() {
                break;
            }
        }
    }
    (answers, None)
}

/// Whole, byte by byte and in every other piece size, the story is one.
fn check(stream: &str, asked: Asked, expected: Story) {
    for piece in 1..=stream.len() {
        let (answers, fault) = read(stream.as_bytes(), piece, asked);
        let answers = answers.iter().map(|r| (r.status, r.length)).collect();
        assert_eq!(
            (answers, fault),
            expected,
            "in pieces of {piece}: {stream:?}"
        );
    }
}

#[test]
fn answers_are_framed_by_length_or_by_chunks() {
    let hello = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
    check(hello, GET, (vec![(200, 5)], None));
    check(&hello.repeat(3), GET, (vec![(200, 5); 3], None));
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n\
                   5;a=b\r\nhello\r\n1A\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nx: y\r\n\r\n";
    check(chunked, GET, (vec![(200, 31)], None));
    check(
        &[chunked, hello, chunked].concat(),
        GET,
        (vec![(200, 31), (200, 5), (200, 31)], None),
    );
    check(
        "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
        GET,
        (vec![(204, 0), (304, 0)], None),
    );
    let head = Asked {
        is_head: true,
        body: None,
    };
    check(
        &"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n".repeat(2),
        head,
        (vec![(200, 0); 2], None),
    );
}

#[test]
fn a_head_that_changes_is_read_again() {
    check(
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nDate: a\r\n\r\nx\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: a\r\n\r\nxy\
         HTTP/1.1 404 OK\r\nContent-Length: 2\r\nDate: b\r\n\r\nxy",
        GET,
        (vec![(200, 1), (200, 2), (404, 2)], None),
    );
}

#[test]
fn interim_answers_are_passed_over() {
    check(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx\
         HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        GET,
        (vec![(200, 1); 2], None),
    );
}

#[test]
fn what_cannot_be_followed_is_named() {
    let malformed = |stream: &str| check(stream, GET, (vec![], Some(Fault::Malformed)));
    malformed("SSH-2.0-OpenSSH\r\n");
    malformed("HTTP/1.1 101 Switching\r\n\r\n");
    malformed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n");
    malformed("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n");
    malformed("HTTP/1.1 200 OK\r\nContent-Length: 9999999999999999999\r\n\r\n");
    malformed("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    malformed(&format!("{chunked}\r\n"));
    malformed(&format!("{chunked}g\r\n"));
    malformed(&format!("{chunked}1\r\nxx"));
    malformed(&format!("{chunked}1000000000000000\r\n"));
    let unframed = |stream: &str| check(stream, GET, (vec![], Some(Fault::Unframed)));
    unframed("HTTP/1.1 200 OK\r\n\r\n");
    unframed("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n");
}

#[test]
fn heads_and_chunk_lines_are_bounded() {
    let long = "x".repeat(HEAD_MAX);
    for (stream, piece) in [
        (format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n"), 1000),
        (format!("HTTP/1.1 200 OK\r\nA: {long}\r\n\r\n"), usize::MAX),
        (
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;{long}"),
            1000,
        ),
        (
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{long}"),
            1000,
        ),
    ] {
        let (answers, fault) = read(stream.as_bytes(), piece, GET);
        assert_eq!((answers, fault), (vec![], Some(Fault::Malformed)));
    }
}

#[test]
fn bodies_are_compared_wherever_the_stream_is_cut() {
    let asked = Asked {
        is_head: false,
        body: Some(b"hello"),
    };
    for (stream, expected) in [
        ("Content-Length: 5\r\n\r\nhello", true),
        ("Content-Length: 5\r\n\r\nhellO", false),
        ("Content-Length: 4\r\n\r\nhell", false),
        ("Content-Length: 6\r\n\r\nhello!", false),
        ("Content-Length: 0\r\n\r\n", false),
        (
            "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
            true,
        ),
        (
            "Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nlla\r\n0\r\n\r\n",
            false,
        ),
    ] {
        let stream = format!("HTTP/1.1 200 OK\r\n{stream}").repeat(2);
        for piece in 1..=stream.len() {
            let (answers, fault) = read(stream.as_bytes(), piece, asked);
            assert_eq!((answers.len(), fault), (2, None));
            for answer in answers {
                assert_eq!(answer.body_matches, expected, "{piece}: {stream:?}");
            }
        }
    }
}

#[test]
fn the_connection_header_and_the_version_decide_about_keep_alive() {
    for (head, expected) in [
        ("HTTP/1.1 200 OK", true),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive, Close", false),
        ("HTTP/1.0 200 OK", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", true),
    ] {
        let stream = format!("{head}\r\nContent-Length: 0\r\n\r\n");
        let (answers, _) = read(stream.as_bytes(), usize::MAX, GET);
        assert_eq!(answers[0].keep_alive, expected, "{head}");
    }
}
