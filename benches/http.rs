//! HTTP alone: from bytes to requests, and from an answer to bytes.
//!
//! Unit: time per input, which is one request, or 16 for the pipelined one; throughput is that of
//! the bytes read or written.
//!
//! Held equal: the input lies whole and warm in one buffer, as after a receive that cut nothing, so
//! that this is the fast path: no copy and no allocation.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringlab::http::{Answer, Decoder, HeaderStorage, Limits, Reply, Step, Version, encode};

const CURL: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: curl/8.5.0\r\n\
    Accept: */*\r\n\r\n";
const BROWSER: &[u8] = b"GET /articles/2024/index.html?page=2 HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Connection: keep-alive\r\n\
    Referer: http://www.example.org/articles/2024/index.html\r\n\
    Cookie: session=4f1c2a9be07d4c5f; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Cache-Control: max-age=0\r\n\r\n";
const PIPELINE: usize = 16;

/// Reads all requests in `input`, and says how many they were.
fn decode_all(decoder: &mut Decoder, limits: &Limits, mut input: &[u8]) -> usize {
    let mut requests = 0;
    while !input.is_empty() {
        let mut storage = HeaderStorage::new();
        match decoder.decode(input, &mut storage, limits) {
            Step::Request {
                request, consumed, ..
            } => {
                black_box(&request);
                input = &input[consumed..];
                requests += 1;
            }
            other => panic!("{other:?}, not a request"),
        }
    }
    requests
}

fn decode(criterion: &mut Criterion) {
    let pipelined = CURL.repeat(PIPELINE);
    let limits = Limits::default();
    let mut group = criterion.benchmark_group("decode");
    for (name, input, requests) in [
        ("curl, 3 headers", CURL, 1),
        ("browser, 10 headers", BROWSER, 1),
        ("curl, 16 pipelined", &pipelined, PIPELINE),
    ] {
        let mut decoder = Decoder::new();
        assert_eq!(decode_all(&mut decoder, &limits, input), requests);
        group.throughput(Throughput::Bytes(input.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| decode_all(&mut decoder, &limits, black_box(input)));
        });
    }
    group.finish();
}

fn encode_hello(criterion: &mut Criterion) {
    let answer = Answer {
        status: 200,
        header_lines: b"content-type: text/plain; charset=utf-8\r\n",
        body: b"Hello, World!\n",
    };
    let reply = Reply {
        version: Version::Http11,
        head_only: false,
        keep_alive: true,
    };
    let date = b"Sun, 06 Nov 1994 08:49:37 GMT";
    let mut out = Vec::new();
    encode(&mut out, date, &answer, reply);
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Bytes(out.len() as u64));
    group.bench_function("hello", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode(&mut out, date, black_box(&answer), black_box(reply));
            black_box(out.as_slice()).len()
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode_hello);
criterion_main!(benches);
