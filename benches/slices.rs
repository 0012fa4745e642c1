//! What it costs to be able to suspend a handler: one call of `hello` on the thread's own stack, and
//! on a stack of the guest's own.
//!
//! Unit: time per call, from a parsed request to the answer lent to the caller; no HTTP, no sockets.
//!
//! Held equal: the module, the request, the limits, the isolation, the check of the answer's header
//! lines. No call is suspended: nothing is half run, so no fine timer is set. The difference is the
//! fiber: its start, two switches, and what wasmtime and the caller allocate for it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringlab::http::{self, Decoder, HeaderStorage, Step};
use ringlab::measure::counter::Counter;
use ringlab::measure::probe::Off;
use ringlab::sandbox::{
    Answer, Call, Failure, Handler, Isolation, Limits, Sandbox, ShardSandbox, Sliced, Slicer,
    Source,
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// The handler made ready as a shard does it.
fn shard(isolation: Isolation, quantum: Option<Duration>) -> Arc<ShardSandbox> {
    let limits = Limits {
        quantum,
        ..Limits::default()
    };
    let handler =
        Handler::load(&Source::parse("hello"), isolation, &limits).expect("it is built in");
    let shard = ShardSandbox::new(&handler, |lines| {
        http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
    });
    shard.expect("the host has room for a pool")
}

fn length(answer: Result<Answer<'_>, Failure>) -> usize {
    black_box(answer.expect("the handler is fine").body).len()
}

fn slices(criterion: &mut Criterion) {
    let mut storage = HeaderStorage::new();
    let step = Decoder::new().decode(REQUEST, &mut storage, &http::Limits::default());
    let Step::Request { request, .. } = step else {
        panic!("{step:?}, not a request");
    };
    let call = Call {
        method: request.method,
        target: request.target,
        head: request.head,
        headers: request.headers,
        body: request.body,
    };
    let copied = Counter::default();
    let mut group = criterion.benchmark_group("slices");
    for isolation in [Isolation::Reuse, Isolation::Reset, Isolation::Fresh] {
        let mut sandbox = Sandbox::new(shard(isolation, None)).expect("the host has a timer");
        group.bench_function(BenchmarkId::new("own stack: no", isolation), |bencher| {
            bencher.iter(|| sandbox.call(black_box(&call), length));
        });
        let quantum = Some(Duration::from_micros(500));
        let mut slicer = Slicer::new(shard(isolation, quantum)).expect("the host has timers");
        group.bench_function(BenchmarkId::new("own stack: yes", isolation), |bencher| {
            bencher.iter(|| {
                match slicer.start::<Off, _>(black_box(&call), &copied, length) {
                    Sliced::Over(length) => length,
                    // A tick of the deadline's may hit one in a million: it ends in a second slice.
                    Sliced::HalfRun(mut half_run) => loop {
                        match slicer.resume::<Off, _>(half_run, &copied, length) {
                            Sliced::Over(length) => break length,
                            Sliced::HalfRun(again) => half_run = again,
                        }
                    },
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, slices);
criterion_main!(benches);
