//! What a probe costs that is off: nothing. The same code three times: without a probe, with one
//! that is off, and with one that is on but not begun on this thread.
//!
//! `scripts/probes.sh` looks at the machine code of the first two, which have to be the same.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use ringlab::measure::probe::{Off, On, Probe, Stage};

/// Two stages of work, one within the other, as a request goes through them.
#[inline(always)]
fn two_stages<P: Probe>(bytes: &[u8]) -> u64 {
    let before = P::enter(Stage::Http);
    let outer: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    let inner = P::within(Stage::Guest, || {
        bytes
            .iter()
            .fold(outer, |hash, &byte| hash.rotate_left(5) ^ u64::from(byte))
    });
    P::enter(before);
    inner
}

/// What [`two_stages`] is when all that concerns probes is deleted from it.
#[unsafe(no_mangle)]
#[inline(never)]
fn probe_bench_without(bytes: &[u8]) -> u64 {
    let outer: u64 = bytes.iter().map(|&byte| u64::from(byte)).sum();
    bytes
        .iter()
        .fold(outer, |hash, &byte| hash.rotate_left(5) ^ u64::from(byte))
}

#[unsafe(no_mangle)]
#[inline(never)]
fn probe_bench_off(bytes: &[u8]) -> u64 {
    two_stages::<Off>(bytes)
}

#[unsafe(no_mangle)]
#[inline(never)]
fn probe_bench_on(bytes: &[u8]) -> u64 {
    two_stages::<On>(bytes)
}

fn probes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("probe");
    let request = b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n";
    type Stages = fn(&[u8]) -> u64;
    let bench: [(&str, Stages); 3] = [
        ("without", probe_bench_without),
        ("off", probe_bench_off),
        ("on, not begun", probe_bench_on),
    ];
    for (name, function) in bench {
        group.bench_function(name, |bencher| {
            bencher.iter(|| function(black_box(request)));
        });
    }
}

criterion_group!(benches, probes);
criterion_main!(benches);
