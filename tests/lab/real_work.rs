//! Handlers of real work: the right answers, the same natively and in a sandbox, request after
//! request, and all that they allocate fits where they are.

use ringlab_guest::handlers::ALL;
use ringlab_guest::{Handler, Request};

use crate::client::{Client, get, pattern, post};
use crate::{Lab, on_every_model};

on_every_model![
    known_answers_are_given,
    every_answer_is_the_native_one_however_often,
    the_largest_inputs_fit_and_larger_ones_are_refused,
    what_is_deflated_can_be_inflated,
    what_is_printed_can_be_parsed,
];

fn native(name: &str) -> Handler {
    let find = |(found, handler, _): &(_, Handler, _)| (*found == name).then_some(*handler);
    ALL.iter().find_map(find).expect("a built-in")
}

/// The server's answer, which must be the one that the handler gives without a server.
fn answer(client: &mut Client, name: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let request = if body.is_empty() {
        get(target).into_bytes()
    } else {
        post(body)
    };
    client.send(request);
    let found = client.receive();
    let expected = native(name)(&Request::new("GET", target, &[], body));
    let lines = String::from_utf8_lossy(expected.header_lines()).into_owned();
    assert_eq!(found.status, expected.status(), "{name} {target}");
    assert!(found.head.contains(&lines), "{name} {target}");
    assert!(
        found.body == expected.body(),
        "{name} {target}: other bytes"
    );
    (found.status, found.body)
}

fn known_answers_are_given(lab: Lab) {
    for (name, target, expected) in [
        ("primes", "/primes?n=100000", "9592\n"),
        ("redos", "/redos?n=1", "no match, 4 steps\n"),
        // RFC 7914 section 11.
        (
            "pbkdf2",
            "/?password=passwd&salt=salt&iterations=1",
            "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc\n",
        ),
        ("mandelbrot", "/?size=1", "P5\n1 1\n255\n\0"),
    ] {
        let server = lab.serve(name, &[]);
        let answer = answer(&mut server.connect(), name, target, b"");
        assert_eq!(answer, (200, expected.into()), "{name}");
    }
}

/// What a heap does not get back is missed at last.
fn every_answer_is_the_native_one_however_often(lab: Lab) {
    for name in ["primes", "json", "redos", "pbkdf2", "deflate", "mandelbrot"] {
        let server = lab.serve(name, &[]);
        let mut client = server.connect();
        for _ in 0..10 {
            let (status, _) = answer(&mut client, name, "/", b"");
            assert_eq!(status, 200, "{name}");
            let (status, _) = answer(&mut client, name, "/?n=x&iterations=x", b"");
            let takes_no_query = name == "json";
            assert_eq!(status == 200, takes_no_query, "{name}");
        }
    }
}

fn the_largest_inputs_fit_and_larger_ones_are_refused(lab: Lab) {
    let numbers = |count: usize| format!("[{}]", vec!["9"; count].join(", ")).into_bytes();
    for (name, target, body, status) in [
        ("json", "/", numbers(4095), 200),
        ("json", "/", numbers(4096), 413),
        ("json", "/", vec![b' '; 32 * 1024 + 1], 413),
        ("redos", "/", vec![b'/'; 4096], 200),
        ("redos", "/", vec![b'/'; 4097], 413),
        ("deflate", "/", pattern(32 * 1024), 200),
        ("deflate", "/", vec![0xff; 32 * 1024], 200),
        ("deflate", "/", pattern(32 * 1024 + 1), 413),
        ("deflate", "/?n=32768", vec![], 200),
        ("mandelbrot", "/?size=256&iterations=1", vec![], 200),
    ] {
        let server = lab.serve(name, &[]);
        let mut client = server.connect();
        for _ in 0..2 {
            assert_eq!(answer(&mut client, name, target, &body).0, status, "{name}");
        }
    }
}

fn what_is_deflated_can_be_inflated(lab: Lab) {
    let server = lab.serve("deflate", &[]);
    let mut client = server.connect();
    let incompressible: Vec<u8> = (0..10_000u32)
        .map(|n| (n.wrapping_mul(n).wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for body in [
        &b"a"[..],
        &[b'x'; 1000],
        &pattern(32 * 1024),
        &incompressible,
    ] {
        let (_, compressed) = answer(&mut client, "deflate", "/", body);
        let inflated = miniz_oxide::inflate::decompress_to_vec_zlib(&compressed);
        assert!(inflated.is_ok_and(|inflated| inflated == body));
    }
}

fn what_is_printed_can_be_parsed(lab: Lab) {
    let server = lab.serve("json", &[]);
    let mut client = server.connect();
    let body = r#" {"n": 1, "list": [ 2, -3.5, "4\n", true, null, {"deep": [[5]]} ] } "#;
    let (_, printed) = answer(&mut client, "json", "/", body.as_bytes());
    let parsed: serde_json::Value = serde_json::from_slice(&printed).expect("it is JSON");
    let expected = serde_json::json!(
        {"n": 2, "list": [3, -3.5, "4\n", true, null, {"deep": [[6]]}]}
    );
    assert_eq!(parsed, expected);
    assert!(!printed.contains(&b' '));
}
