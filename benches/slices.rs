//! What it costs to be able to suspend a handler: one call of `spin` for a single step, where nothing
//! is in slices; in a slice on the thread's own stack, as long as the handler is light; and on a stack
//! of the guest's own, once a request of it has outlasted its slice.
//!
//! Unit: time per call, from a parsed request to the answer lent to the caller; no HTTP, no sockets.
//!
//! Held equal: the module, the request, the limits, the isolation, the check of the answer's header
//! lines. No call measured is suspended: nothing is half run, so no fine timer is set. What a stack of
//! its own adds is the fiber: its start, two switches, and what wasmtime and the caller allocate for it.

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

const LIGHT: &[u8] = b"GET /?iterations=1 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
/// Outlasts every slice.
const HEAVY: &[u8] = b"GET /?ms=100 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";

/// The handler made ready as a shard does it.
fn shard(isolation: Isolation, quantum: Option<Duration>) -> Arc<ShardSandbox> {
    let limits = Limits {
        quantum,
        ..Limits::default()
    };
    let handler =
        Handler::load(&Source::parse("spin"), isolation, &limits).expect("it is built in");
    let shard = ShardSandbox::new(&handler, |lines| {
        http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
    });
    shard.expect("the host has room for a pool")
}

fn length(answer: Result<Answer<'_>, Failure>) -> usize {
    black_box(answer.expect("the handler is fine").body).len()
}

/// Calls `work` with a request.
fn parsed<R>(bytes: &[u8], work: impl FnOnce(&Call<'_>) -> R) -> R {
    let mut storage = HeaderStorage::new();
    let step = Decoder::new().decode(bytes, &mut storage, &http::Limits::default());
    let Step::Request { request, .. } = step else {
        panic!("{step:?}, not a request");
    };
    work(&Call {
        method: request.method,
        target: request.target,
        head: request.head,
        headers: request.headers,
        body: request.body,
    })
}

/// To the end, in as many slices as it takes.
fn call_in_slices(slicer: &mut Slicer, call: &Call<'_>, copied: &Counter) -> usize {
    let mut sliced = slicer.start::<Off, _>(call, copied, length);
    loop {
        match sliced {
            Sliced::Over(length) => return length,
            Sliced::HalfRun(half_run) => sliced = slicer.resume::<Off, _>(half_run, copied, length),
        }
    }
}

fn slices(criterion: &mut Criterion) {
    parsed(LIGHT, |call| slices_of(criterion, call));
}

fn slices_of(criterion: &mut Criterion, call: &Call<'_>) {
    let copied = Counter::default();
    let mut group = criterion.benchmark_group("slices");
    for isolation in [Isolation::Reuse, Isolation::Reset, Isolation::Fresh] {
        let mut sandbox = Sandbox::new(shard(isolation, None)).expect("the host has a timer");
        group.bench_function(BenchmarkId::new("none", isolation), |bencher| {
            bencher.iter(|| sandbox.call(black_box(call), length));
        });
        let quantum = Some(Duration::from_micros(500));
        let mut slicer = Slicer::new(shard(isolation, quantum)).expect("the host has timers");
        group.bench_function(BenchmarkId::new("caller's stack", isolation), |bencher| {
            bencher.iter(|| call_in_slices(&mut slicer, black_box(call), &copied));
        });
        parsed(HEAVY, |heavy| call_in_slices(&mut slicer, heavy, &copied));
        group.bench_function(BenchmarkId::new("own stack", isolation), |bencher| {
            bencher.iter(|| call_in_slices(&mut slicer, black_box(call), &copied));
        });
    }
    group.finish();
}

criterion_group!(benches, slices);
criterion_main!(benches);
