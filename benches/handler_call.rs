//! What stands between two requests, and what it costs: one call of a handler, by isolation.
//!
//! Unit: time per call, from a parsed request to the answer lent to the caller; no HTTP, no sockets.
//!
//! Held equal: the handler's source, the request, the limits, the check of the answer's header
//! lines. Not equal, because it belongs to the sandbox: compiled wasm looks at its deadline and its
//! bounds, and a timer ticks every 4 ms of CPU time; `native` has neither. The arm without a deadline
//! lacks that look and the timer: against `reuse` it shows their price, which a loop pays each time
//! round (`primes`).

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringlab::http::{self, Decoder, HeaderStorage, Step};
use ringlab::sandbox::{Call, Handler, Isolation, Limits, Sandbox, ShardSandbox, Source};

const ONE_HEADER: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const FOUR_HEADERS: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n\
    Accept: */*\r\nAccept-Language: en\r\n\r\n";
const ECHO: &[u8] = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1024\r\n\r\n";

/// The handler made ready as a shard does it.
fn sandbox(handler: &str, isolation: Isolation, limits: &Limits) -> Sandbox {
    let source = Source::Builtin(handler.to_owned());
    let handler = Handler::load(&source, isolation, limits).expect("it is built in");
    let shard = ShardSandbox::new(&handler, |lines| {
        http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
    });
    Sandbox::new(shard.expect("the host has room for a pool")).expect("the host has a timer")
}

fn handler_call(criterion: &mut Criterion) {
    let echo = [ECHO, &[b'x'; 1024]].concat();
    let limits = Limits::default();
    let mut group = criterion.benchmark_group("handler_call");
    for (work, handler, bytes) in [
        ("hello, 1 header", "hello", ONE_HEADER),
        ("hello, 4 headers", "hello", FOUR_HEADERS),
        ("echo, 1 KiB body", "echo", &echo[..]),
        ("primes below 10 000", "primes", ONE_HEADER),
    ] {
        let mut storage = HeaderStorage::new();
        let step = Decoder::new().decode(bytes, &mut storage, &http::Limits::default());
        let Step::Request { request, .. } = step else {
            panic!("{work}: {step:?}, not a request");
        };
        let call = Call {
            method: request.method,
            target: request.target,
            head: request.head,
            headers: request.headers,
            body: request.body,
        };
        let unlimited = Limits {
            deadline: None,
            ..Limits::default()
        };
        let arms = Isolation::ALL.map(|isolation| (isolation.to_string(), isolation, &limits));
        let without = (
            "reuse without deadline".to_owned(),
            Isolation::Reuse,
            &unlimited,
        );
        for (arm, isolation, limits) in arms.into_iter().chain([without]) {
            let mut sandbox = sandbox(handler, isolation, limits);
            group.bench_function(BenchmarkId::new(work, arm), |bencher| {
                bencher.iter(|| {
                    sandbox.call(black_box(&call), |answer| {
                        black_box(answer.expect("the handler is fine").body).len()
                    })
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, handler_call);
criterion_main!(benches);
