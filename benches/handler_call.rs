//! What stands between two requests, and what it costs: one call of a handler, by isolation.
//!
//! Unit: time per call, from a parsed request to the answer lent to the caller and the instance ready
//! for the next; no HTTP, no sockets. Beside it, system calls, page faults and bytes put back per call.
//!
//! Held equal: the handler's source, the request, the limits, the check of the answer's header
//! lines. Not equal, because it belongs to the sandbox: compiled wasm looks at its deadline and its
//! bounds, and a timer ticks every 4 ms of CPU time; `native` has neither. The arm without a deadline
//! lacks that look and the timer: against `reuse` it shows their price, which a loop pays each time
//! round (`primes`).
//!
//! Memory is what the rungs differ in, so `hello` comes with its own, the least there is, and with 128
//! KiB. And it comes beside a second shard, as a server has one for each core: an engine and a thread
//! of its own on another core, which does the same without a pause.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use criterion::{BenchmarkGroup, BenchmarkId, Criterion, criterion_group, criterion_main};
use nix::sys::resource::{UsageWho, getrusage};
use nix::unistd::gettid;
use ringlab::http::{self, Decoder, HeaderStorage, Step};
use ringlab::measure::perf::{Counters, Selection};
use ringlab::sandbox::{
    Call, Handler, Isolation, Limits, Sandbox, ShardSandbox, Source, reset_bytes,
};
use wasm_encoder::{MemorySection, MemoryType, Module, RawSection};
use wasmparser::{Parser, Payload};

const ONE_HEADER: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
const FOUR_HEADERS: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\n\
    Accept: */*\r\nAccept-Language: en\r\n\r\n";
const ECHO: &[u8] = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1024\r\n\r\n";

/// Calls over which system calls, faults and bytes are counted.
const COUNTED: u64 = 1000;

/// Where there is no other shard.
static NOBODY: AtomicU64 = AtomicU64::new(0);

type Group<'a> = BenchmarkGroup<'a, criterion::measurement::WallTime>;

fn load(handler: &str, isolation: Isolation, limits: &Limits) -> Handler {
    Handler::load(&Source::parse(handler), isolation, limits).expect("a good handler")
}

/// The handler made ready as a shard does it.
fn sandbox(handler: &Handler) -> Sandbox {
    let shard = ShardSandbox::new(handler, |lines| {
        http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
    });
    Sandbox::new(shard.expect("the host has room for a pool")).expect("the host has a timer")
}

fn once(sandbox: &mut Sandbox, call: &Call<'_>) -> usize {
    sandbox.call(black_box(call), |answer| {
        black_box(answer.expect("the handler is fine").body).len()
    })
}

/// Runs `with` with the one request in `bytes`.
fn with_request(bytes: &[u8], with: impl FnOnce(&Call<'_>)) {
    let mut storage = HeaderStorage::new();
    let step = Decoder::new().decode(bytes, &mut storage, &http::Limits::default());
    let Step::Request { request, .. } = step else {
        panic!("{step:?}, not a request");
    };
    with(&Call {
        method: request.method,
        target: request.target,
        head: request.head,
        headers: request.headers,
        body: request.body,
    });
}

/// One arm: its time, and what else a call costs. Of all calls, the other shards' own are `elsewhere`.
fn arm(
    group: &mut Group<'_>,
    (work, arm): (&str, &str),
    handler: &Handler,
    call: &Call<'_>,
    elsewhere: &AtomicU64,
) {
    let mut sandbox = sandbox(handler);
    let id = BenchmarkId::new(work, arm);
    group.bench_function(id, |bencher| bencher.iter(|| once(&mut sandbox, call)));
    let own = gettid().as_raw();
    let pid = std::process::id().cast_signed();
    let others = |thread, _: &str| thread != own;
    let mut kernel = Counters::attach_but(&[pid], others, &Selection::calls(&[]));
    let counts = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("Linux has it");
        let faults = usage.minor_page_faults() + usage.major_page_faults();
        // Bytes are put back by all.
        (
            faults as u64,
            reset_bytes(),
            elsewhere.load(Ordering::Relaxed),
        )
    };
    let before = counts();
    kernel.take();
    for _ in 0..COUNTED {
        once(&mut sandbox, call);
    }
    let system_calls = kernel.take().system_calls;
    let after = counts();
    let per_call = |count: u64, calls: u64| count as f64 / calls as f64;
    let system_calls = match system_calls.value() {
        // Reading the counter is one, too.
        Some(count) => format!("{:.2}", per_call(count.saturating_sub(1), COUNTED)),
        None => system_calls.to_string(),
    };
    eprintln!(
        "{work}/{arm}, a call: {:.2} page faults, {:.0} bytes put back, system calls: {system_calls}\n",
        per_call(after.0 - before.0, COUNTED),
        per_call(after.1 - before.1, COUNTED + after.2 - before.2),
    );
}

fn by_isolation(criterion: &mut Criterion) {
    let echo = [ECHO, &[b'x'; 1024]].concat();
    let limits = Limits::default();
    let unlimited = Limits {
        deadline: None,
        ..Limits::default()
    };
    let mut group = criterion.benchmark_group("handler_call");
    for (work, handler, bytes) in [
        ("hello, 1 header", "hello", ONE_HEADER),
        ("hello, 4 headers", "hello", FOUR_HEADERS),
        ("echo, 1 KiB body", "echo", &echo[..]),
        ("primes below 10 000", "primes", ONE_HEADER),
    ] {
        with_request(bytes, |call| {
            for isolation in Isolation::ALL {
                let loaded = load(handler, isolation, &limits);
                let names = (work, &*isolation.to_string());
                arm(&mut group, names, &loaded, call, &NOBODY);
            }
            let loaded = load(handler, Isolation::Reuse, &unlimited);
            let names = (work, "reuse without deadline");
            arm(&mut group, names, &loaded, call, &NOBODY);
        });
    }
    group.finish();
}

/// `native` has no memory of its own: it is here to be compared with.
fn with_128_kib(criterion: &mut Criterion) {
    let path = std::env::temp_dir().join(format!("hello-128-{}.wasm", std::process::id()));
    std::fs::write(&path, hello_with_pages(2)).expect("the temporary directory is writable");
    let file = path.to_str().expect("a path in UTF-8");
    let mut group = criterion.benchmark_group("handler_call");
    with_request(ONE_HEADER, |call| {
        for isolation in Isolation::ALL {
            let name = if isolation == Isolation::Native {
                "hello"
            } else {
                file
            };
            let loaded = load(name, isolation, &Limits::default());
            let names = ("hello, 128 KiB", &*isolation.to_string());
            arm(&mut group, names, &loaded, call, &NOBODY);
        }
    });
    group.finish();
    let _ = std::fs::remove_file(path);
}

/// The built-in's module with so many pages of 64 KiB, and otherwise the same.
fn hello_with_pages(pages: u64) -> Vec<u8> {
    let hello = Source::parse("hello").module().expect("it is built in");
    let mut module = Module::new();
    for payload in Parser::new(0).parse_all(&hello) {
        let payload = payload.expect("the build made it");
        if let Payload::MemorySection(_) = payload {
            let mut memory = MemorySection::new();
            memory.memory(MemoryType {
                minimum: pages,
                maximum: Some(pages),
                memory64: false,
                shared: false,
                page_size_log2: None,
            });
            module.section(&memory);
        } else if let Some((id, range)) = payload.as_section() {
            let data = &hello[range];
            module.section(&RawSection { id, data });
        }
    }
    module.finish()
}

fn beside_a_second_shard(criterion: &mut Criterion) {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let [own, other, ..] = cores[..] else {
        eprintln!("beside a second shard: n/a: this process may use one core only\n");
        return;
    };
    core_affinity::set_for_current(own);
    let mut group = criterion.benchmark_group("handler_call");
    for isolation in Isolation::ALL {
        let loaded = load("hello", isolation, &Limits::default());
        let (stop, elsewhere) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                core_affinity::set_for_current(other);
                let mut sandbox = sandbox(&loaded);
                with_request(ONE_HEADER, |call| {
                    while !stop.load(Ordering::Relaxed) {
                        once(&mut sandbox, call);
                        elsewhere.fetch_add(1, Ordering::Relaxed);
                    }
                });
            });
            with_request(ONE_HEADER, |call| {
                let names = ("hello, beside a second shard", &*isolation.to_string());
                arm(&mut group, names, &loaded, call, &elsewhere);
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

criterion_group!(benches, by_isolation, with_128_kib, beside_a_second_shard);
criterion_main!(benches);
