//! A guest whose memory grows by much gets zeros, and what lies behind them is not its own.

use super::*;
use crate::measure::counter::Counter;
use crate::measure::probe::{self, On, Probe, Stage, StageNs};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use nix::sys::resource::{UsageWho, getrusage};
use std::num::NonZeroUsize;

/// Taken at a time, in pages of 64 KiB: no multiple of a huge page.
const BITE: u32 = 17;
/// Of the guest below, in bytes: its one page and fifteen bites, and a page that no bite fits in.
const LIMIT_BYTES: usize = 65536 * (1 + 15 * BITE as usize + 1);

/// Takes memory as many times as the body has bytes, and writes one word on each 4 KiB of it, where it
/// must find zero. Then it reads the byte behind its memory, if the body begins with `x`.
pub(super) fn growing() -> String {
    let (length, body) = (AREA + 8 + 24, RECORD);
    guest(
        record(0, 200, (0, 0), (TEXTS, 4)),
        b"fine",
        &format!(
            "(local $at i32) (local $end i32) (local $left i32) (local $first i32)
            (local.set $first (i32.load8_u (i32.sub
                (i32.add (i32.const {first}) (local.get $length)) (i32.const 1))))
            (local.set $left (i32.load (i32.const {length})))
            (block $done (loop $more
                (br_if $done (i32.eqz (local.get $left)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (local.set $at (i32.mul (memory.size) (i32.const 65536)))
                (br_if $done (i32.eq (memory.grow (i32.const {BITE})) (i32.const -1)))
                (local.set $end (i32.mul (memory.size) (i32.const 65536)))
                (loop $write
                    (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
                    (i64.store (local.get $at) (i64.const -1))
                    (local.set $at (i32.add (local.get $at) (i32.const 4096)))
                    (br_if $write (i32.lt_u (local.get $at) (local.get $end))))
                (br $more)))
            (if (i32.eq (local.get $first) (i32.const 120))
                (then (drop (i32.load8_u (i32.mul (memory.size) (i32.const 65536))))))
            (i32.const {body})",
            first = AREA + 8,
        ),
    )
}

/// The guest above, with the memory that it takes.
fn with_room(isolation: Isolation) -> Sandbox {
    with_room_for(&growing(), isolation)
}

fn with_room_for(guest: &str, isolation: Isolation) -> Sandbox {
    let shard = shard(guest, isolation, &room());
    Sandbox::new(shard).expect("a timer")
}

/// What it may have.
pub(super) fn room() -> Limits {
    let mut limits = Limits {
        // The host's first pages may take some time.
        deadline: Some(Duration::from_secs(1)),
        ..limits()
    };
    limits.set_memory(LIMIT_BYTES);
    limits
}

fn minor_faults() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD);
    usage.expect("of the calling thread").minor_page_faults()
}

#[test]
fn what_grows_is_zeros_and_what_lies_behind_is_out_of_bounds() {
    // With much data the memories are wasmtime's own, under `fresh` its pool's.
    let much = format!("(data \"{}\") (global $calls", "x".repeat(65 * 1024));
    for guest in [growing(), growing().replacen("(global $calls", &much, 1)] {
        for isolation in SANDBOXED {
            let mut sandbox = with_room_for(&guest, isolation);
            // Their memories are lent again where a pool has them.
            for bites in (1..=15).chain([15, 1, 7, 2]) {
                let beyond = call(&mut sandbox, BAD, &vec![b'x'; bites]);
                let trapped = Err(trap("memory out of bounds"));
                assert_eq!(beyond, trapped, "{isolation:?}, {bites}");
            }
        }
    }
}

#[test]
fn who_takes_much_memory_does_not_fault_for_every_page_of_it() {
    if crate::sandbox::growth::huge_page_bytes().is_none() {
        eprintln!("skipped: the kernel gives no huge pages");
        return;
    }
    let pages = (15 * BITE * 65536 / 4096) as i64;
    for isolation in SANDBOXED {
        let faults = || {
            let mut sandbox = with_room(isolation);
            let before = minor_faults();
            let (status, ..) = call(&mut sandbox, BAD, &[b'y'; 15]).expect("it has the room");
            assert_eq!(status, 200);
            minor_faults() - before
        };
        // The kernel may have none to give just now.
        let faults = (0..5).map(|_| faults()).min().expect("there are five");
        // It begins with a huge page, and has most of the last one.
        assert!(
            faults < pages / 32,
            "{isolation:?}: {faults} for {pages} pages"
        );
    }
}

/// Whether the kernel gives a huge page where small ones were, once these are given back: it has to free
/// the table of these for it, as Linux does from 6.14 on where it is built to (CONFIG_PT_RECLAIM).
fn huge_pages_come_again(huge: usize) -> bool {
    let bytes = NonZeroUsize::new(2 * huge).expect("a page is not empty");
    let (flags, open) = (
        MapFlags::MAP_PRIVATE,
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
    );
    // SAFETY: a new mapping, where the kernel likes it, overlaps no other; all that follows lies in it,
    // where nobody refers to any byte.
    unsafe {
        let mapped = mmap_anonymous(None, bytes, open, flags).expect("there is room");
        let page = mapped.byte_add(mapped.addr().get().wrapping_neg() % huge);
        let advised = madvise(page, huge, MmapAdvise::MADV_HUGEPAGE);
        let mut faults = [0; 2];
        for faults in &mut faults {
            let before = minor_faults();
            for small in (0..huge).step_by(PAGE_BYTES) {
                page.byte_add(small).cast::<u8>().write_volatile(1);
            }
            *faults = minor_faults() - before;
            for protection in [ProtFlags::PROT_NONE, open] {
                mprotect(page, huge / 2, protection).expect("there is room");
            }
            madvise(page, huge, MmapAdvise::MADV_DONTNEED).expect("it is not locked");
        }
        munmap(mapped, bytes.get()).expect("it is mapped");
        advised.is_ok() && faults == [1; 2]
    }
}

#[test]
fn who_takes_as_much_again_does_not_fault_more_for_it() {
    let huge = crate::sandbox::growth::huge_page_bytes();
    if !huge.is_some_and(huge_pages_come_again) {
        eprintln!("skipped: the kernel gives no huge pages where there were small ones");
        return;
    }
    for isolation in SANDBOXED {
        let mut sandbox = with_room(isolation);
        let mut faults = || {
            let before = minor_faults();
            // Within a huge page, not at its end. The instance is thrown away.
            let ended = call(&mut sandbox, BAD, &[b'x'; 13]);
            assert_eq!(ended, Err(trap("memory out of bounds")), "{isolation}");
            minor_faults() - before
        };
        let first = faults();
        let again = (0..5).map(|_| faults()).min().expect("there are five");
        let of_half_a_huge_page = 256;
        assert!(
            again < first + of_half_a_huge_page,
            "{isolation}: {first}, then {again} at least"
        );
    }
}

#[test]
fn by_default_a_memory_grows_to_4_mib_or_not_at_all_if_it_begins_with_more() {
    let check = |first: u32, more: u32, expected: &Result<Parts, Failure>| {
        let failed = format!("(i32.eq (memory.grow (i32.const {more})) (i32.const -1))");
        let worst = format!("(if {failed} (then unreachable))");
        let first = format!("(export \"memory\") {first}");
        let text = misbehaving(&worst).replace("(export \"memory\") 1", &first);
        for isolation in SANDBOXED {
            let shard = shard(&text, isolation, &Limits::default());
            let mut sandbox = Sandbox::new(shard).expect("a timer");
            let answered = call(&mut sandbox, BAD, b"x");
            assert_eq!(&answered, expected, "{isolation}, {first} and {more}");
            assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{isolation}");
        }
    };
    check(1, 63, &fine());
    check(1, 64, &Err(Failure::Memory));
    check(256, 1, &Err(Failure::Memory));
}

/// The rows of a thread that has one request answered, after which the instance is as `isolation` says.
fn rows(isolation: Isolation) -> StageNs {
    let times = Arc::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sandbox = with_room(isolation);
            probe::begin::<On>(&times, 1, None);
            On::within(Stage::Sandbox, || {
                let answered = parsed(BAD, &[b'y'; 15], |call| {
                    sandbox.call_probed::<On, _>(call, &Counter::default(), |answer| answer.is_ok())
                });
                assert!(answered, "{isolation:?}: it has the room");
            });
        });
    });
    times.snapshot()
}

/// They are made where no probe's type reaches: in what wasmtime calls back.
#[test]
fn calls_for_memory_are_rows_of_their_own() {
    let gives = crate::sandbox::growth::huge_page_bytes().is_some();
    let times = |rows: &StageNs, stage: Stage| rows.entered[stage as usize];
    // Each growth is opened, and all of them are given back and closed again when the memory comes back.
    let fresh = rows(Isolation::Fresh);
    assert!(times(&fresh, Stage::Protect) > 15, "{fresh:?}");
    assert!(times(&fresh, Stage::Advise) >= 1, "{fresh:?}");
    assert!(times(&fresh, Stage::Guest) > 15, "it goes on behind each");
    // Of the others each growth is, too, and those for huge pages are.
    let reuse = rows(Isolation::Reuse);
    assert_eq!(times(&reuse, Stage::Advise) >= 1, gives, "{reuse:?}");
    assert!(times(&reuse, Stage::Protect) > 15, "{reuse:?}");
    for stage in [Stage::Protect, Stage::Advise] {
        assert!(fresh.ns[stage as usize] > 0, "{stage:?}: {fresh:?}");
    }
}
