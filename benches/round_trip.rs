//! There and back on one connection, by I/O model.
//!
//! Unit: time from the first byte written to the last byte read, for one request and for 16 sent
//! at once; elements are requests.
//!
//! Held equal: handler (`hello` in wasm, kept instance), requests and answers to the byte, socket
//! options, the client (blocking calls of the standard library, on a core of its own), and one
//! connection with nothing else going on. What a single request takes is therefore mostly two
//! cores waking each other; the cost of many is in `throughput`.

mod lab;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use core_affinity::CoreId;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
/// How every answer ends.
const BODY: &[u8] = b"\r\n\r\nHello, World!\n";
/// No answer for so long: the bench fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(10);

struct Client {
    stream: TcpStream,
    requests: Vec<u8>,
    /// As long as the answers to `requests`.
    answers: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr, pipeline: usize) -> Client {
        let mut stream = TcpStream::connect(address).expect("the server listens");
        stream.set_nodelay(true).expect("a socket of TCP");
        let patience = Some(PATIENCE);
        stream.set_read_timeout(patience).expect("it is not zero");
        let answer_bytes = answer_bytes(&mut stream);
        Client {
            stream,
            requests: REQUEST.repeat(pipeline),
            answers: vec![0; answer_bytes * pipeline],
        }
    }

    fn exchange(&mut self) {
        let Client {
            stream,
            requests,
            answers,
        } = self;
        stream.write_all(requests).expect("the server reads");
        stream.read_exact(answers).expect("the server answers");
        assert!(answers.ends_with(BODY), "{}", answers.escape_ascii());
    }
}

/// The length of an answer, found by asking for one: it is the same for all.
fn answer_bytes(stream: &mut TcpStream) -> usize {
    stream.write_all(REQUEST).expect("the server reads");
    let mut answer = Vec::new();
    while !answer.ends_with(BODY) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("the server answers");
        answer.push(byte[0]);
    }
    answer.len()
}

fn round_trip(criterion: &mut Criterion) {
    let cores = lab::Cores::choose();
    let servers = lab::start(&cores);
    let id = CoreId { id: cores.client };
    assert!(core_affinity::set_for_current(id), "core {}", cores.client);

    let mut group = criterion.benchmark_group("round_trip");
    for pipeline in [1, 16] {
        group.throughput(Throughput::Elements(pipeline as u64));
        for (model, server) in &servers {
            let mut client = Client::connect(server.address(), pipeline);
            let id = BenchmarkId::new(*model, format!("{pipeline} in flight"));
            group.bench_function(id, |bencher| bencher.iter(|| client.exchange()));
        }
    }
    group.finish();
}

criterion_group!(benches, round_trip);
criterion_main!(benches);
