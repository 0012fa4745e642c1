//! The way into the kernel: a system call for each operation, or one `io_uring_enter` for many.
//!
//! Unit: time per operation that does nothing: getppid(2), against a NOP on a ring, by the number
//! of NOPs that one `io_uring_enter` submits and waits for.
//!
//! Held equal: one thread, no other process is woken, nothing is waited for in earnest. So this is
//! the price of crossing alone, which the CPU's mitigations decide; an operation that does
//! something saves the same nanoseconds out of more. A NOP's time includes writing its submission
//! and taking its completion; the ring is set up as the server's.

use std::os::unix::process::parent_id;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use io_uring::{IoUring, opcode};

const BATCHES: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
const LARGEST: u32 = BATCHES[BATCHES.len() - 1];

fn ring() -> std::io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(LARGEST)
}

/// Hands `batch` NOPs to the kernel with one system call, and takes their completions.
fn enter(ring: &mut IoUring, batch: u32) {
    let nop = opcode::Nop::new().build();
    let mut submissions = ring.submission();
    for _ in 0..batch {
        // SAFETY: a NOP refers to no memory and to no file that would have to outlive it.
        unsafe { submissions.push(&nop) }.expect("there is room for the largest batch");
    }
    drop(submissions);
    let batch = batch as usize;
    ring.submit_and_wait(batch).expect("the ring is open");
    assert_eq!(ring.completion().count(), batch, "completions");
}

fn system_call(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("system_call");
    group.throughput(Throughput::Elements(1));
    // No C library keeps the parent's id: it may change at any time (getppid(2)).
    group.bench_function("getppid", |bencher| bencher.iter(parent_id));
    let mut ring = match ring() {
        Ok(ring) => ring,
        Err(error) => {
            eprintln!("NOPs on a ring: skipped: io_uring_setup: {error}");
            return;
        }
    };
    for batch in BATCHES {
        group.bench_function(BenchmarkId::new("NOPs an enter", batch), |bencher| {
            // Criterion counts operations; only whole batches can be timed.
            bencher.iter_custom(|operations| {
                let batches = operations.div_ceil(batch.into());
                let start = Instant::now();
                for _ in 0..batches {
                    enter(&mut ring, batch);
                }
                let done = batches * u64::from(batch);
                start.elapsed().mul_f64(operations as f64 / done as f64)
            });
        });
    }
    group.finish();
}

criterion_group!(benches, system_call);
criterion_main!(benches);
