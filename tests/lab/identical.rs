//! Every model and every isolation sends the same bytes, dates apart.

use ringlab::models::{MODELS, Shape};
use ringlab::sandbox::Isolation;

use crate::client::{get, pattern, post, post_chunked};
use crate::{Lab, say_skipped};

/// Conversations that the server ends, and the handler that they are with.
fn conversations() -> Vec<(&'static str, Vec<u8>)> {
    let closing = |target: &str| {
        get(target)
            .replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n")
            .into_bytes()
    };
    let plain = [
        get("/").into_bytes(),
        get("/?a=b").replace("GET", "HEAD").into_bytes(),
        post(b"of no interest"),
        closing("/last"),
    ];
    let echoes = [
        post(b""),
        post(b"a body"),
        post_chunked(b"in chunks", 4),
        post(&pattern(200_000)),
        closing("/"),
    ];
    let typed = "POST / HTTP/1.1\r\nHost: lab\r\nContent-Type: text/html\r\n\
                 Content-Length: 3\r\nConnection: close\r\n\r\n<p>";
    let faulty_head = "HEAD / HTTP/1.1\r\nHost: lab\r\nno colon\r\n\r\n";
    let faulty_chunk = "POST / HTTP/1.1\r\nHost: lab\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n";
    vec![
        ("hello", plain.concat()),
        ("hello", b"GET / HTTP/1.0\r\n\r\n".to_vec()),
        ("hello", b"GET / HTTP/9.9\r\n\r\n".to_vec()),
        ("hello", faulty_head.into()),
        ("echo", echoes.concat()),
        ("echo", typed.into()),
        ("echo", faulty_chunk.into()),
        ("count", closing("/count?n=300")),
        ("count", closing("/count?n=none")),
        ("spin", closing("/spin?iterations=1000")),
    ]
}

/// All that the server says in each conversation.
fn answers(lab: Lab) -> Vec<String> {
    let mut answers = Vec::new();
    for handler in ["hello", "echo", "count", "spin"] {
        let server = lab.serve(handler, &[]);
        for (_, input) in conversations().iter().filter(|(with, _)| *with == handler) {
            let mut client = server.connect();
            client.send(input);
            let said = String::from_utf8_lossy(&client.receive_all()).into_owned();
            assert!(said.starts_with("HTTP/1.1 "), "{said:?}");
            answers.push(without_dates(&said));
        }
    }
    answers
}

fn without_dates(text: &str) -> String {
    const NAME: &str = "\r\ndate: ";
    let mut parts = text.split(NAME);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (date, rest) = part.split_at("Sun, 06 Nov 1994 08:49:37 GMT".len());
        httpdate::parse_http_date(date).expect("a date is as HTTP has it");
        out += NAME;
        out += rest;
    }
    out
}

#[test]
fn all_models_and_isolations_answer_alike() {
    let mut expected: Option<Vec<String>> = None;
    let served = MODELS.iter().filter(|m| m.shape != Shape::SelfDriven);
    for (nth, model) in served.enumerate() {
        // All of them on the first model, then three each, others for each model.
        let isolations = Isolation::ALL.into_iter().cycle().skip(nth);
        for isolation in isolations.take(if nth == 0 { Isolation::ALL.len() } else { 3 }) {
            if let Err(reason) = (model.check)() {
                say_skipped(model, &reason);
                continue;
            }
            let found = answers(Lab { model, isolation });
            let expected = expected.get_or_insert_with(|| found.clone());
            assert_eq!(&found, expected, "{} {isolation}", model.name);
        }
    }
}
