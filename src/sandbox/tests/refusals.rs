//! The kernel refuses what a memory needs: that request fails, and nobody gets a memory that is not as it
//! should be.
//!
//! The kernel does so where a process has as many mappings as it may (vm.max_map_count). Here a seccomp
//! filter does, for one thread of its own, since it cannot be taken off again.

use super::growth::{growing, room};
use super::*;
use nix::libc;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule,
};

/// Of mprotect(2).
const LENGTH: u8 = 1;
const PROTECTION: u8 = 2;

/// From now on mprotect(2) is refused to this thread where all of `conditions` hold: an argument, how it is
/// compared, and with what. False: no filter is taken here.
#[must_use]
fn refuse_mprotect(conditions: &[(u8, SeccompCmpOp, i32)]) -> bool {
    let conditions = conditions.iter().map(|(argument, compared, with)| {
        let with = u64::try_from(*with).expect("a length, or bits");
        SeccompCondition::new(*argument, SeccompCmpArgLen::Qword, compared.clone(), with)
    });
    let conditions: Result<Vec<_>, _> = conditions.collect();
    let rule = SeccompRule::new(conditions.expect("arguments that there are"));
    let filter = SeccompFilter::new(
        [(libc::SYS_mprotect, vec![rule.expect("some conditions")])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOMEM as u32),
        std::env::consts::ARCH
            .try_into()
            .expect("seccompiler knows it"),
    );
    let filter: Result<BpfProgram, _> = filter.expect("a filter in order").try_into();
    match seccompiler::apply_filter(&filter.expect("a short filter")) {
        Ok(()) => true,
        Err(Error::Prctl(_) | Error::Seccomp(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// Runs `work` on a thread of its own, which may be filtered. It returns false where no filter is taken.
fn apart(work: impl FnOnce() -> bool + Send) {
    let shown = std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"));
    if !shown {
        eprintln!("skipped: no seccomp filter is taken here");
    }
}

/// One of the memories of `shard`, of a page.
fn lend(shard: &ShardSandbox) -> Result<Box<dyn wasmtime::LinearMemory>, String> {
    let ty = wasmtime::MemoryType::new(1, None);
    let creator = memories(shard).creator();
    creator.new_memory(ty, 65536, None, Some(1 << 32), 65536)
}

/// How many memories `shard` has for somebody who wants one now, each closed behind its page.
fn to_lend(shard: &ShardSandbox) -> usize {
    let all: Vec<_> = std::iter::from_fn(|| lend(shard).ok()).collect();
    for memory in &all {
        assert!(!is_open(memory.as_ptr().addr() + memory.byte_size()));
    }
    all.len()
}

/// The status of its answer to a request with a body of so many bytes.
fn status(sandbox: &mut Sandbox, body: usize) -> Result<u16, Failure> {
    call(sandbox, BAD, &vec![b'y'; body]).map(|answer| answer.0)
}

/// Pages were given for what it grows by, and the addresses behind cannot be closed again.
#[test]
fn a_memory_that_stays_open_is_had_by_nobody_again() {
    if crate::sandbox::growth::huge_page_bytes().is_none() {
        eprintln!("skipped: the kernel gives no huge pages, and nothing is opened");
        return;
    }
    for isolation in SANDBOXED {
        let shard = shard(&growing(), isolation, &room());
        apart(|| {
            let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
            // Those that a store keeps are lost with it.
            assert_eq!([(); 3].map(|()| status(&mut sandbox, 0)), [Ok(200); 3]);
            if !refuse_mprotect(&[(PROTECTION, SeccompCmpOp::Eq, libc::PROT_NONE)]) {
                return false;
            }
            let grown = status(&mut sandbox, 15);
            assert_eq!(grown, Err(Failure::Exhausted), "{isolation}");
            assert_eq!(status(&mut sandbox, 0), Ok(200), "{isolation}");
            true
        });
        let mut after = Sandbox::new(Arc::clone(&shard)).expect("a timer");
        // It finds zeros.
        let grown = [(); 3].map(|()| status(&mut after, 15));
        assert_eq!(grown, [Ok(200); 3], "{isolation}");
        if isolation == Isolation::Fresh {
            drop(after);
            check_all_spared(&shard);
        }
    }
}

/// As many are to be had as may be kept, and one for each slot.
fn check_all_spared(shard: &ShardSandbox) {
    let spared = memories(shard).spared();
    let all = spared + shard.limits.instances.cast_signed();
    assert_eq!(to_lend(shard).cast_signed(), all);
}

/// Where it grew by too little for huge pages, whoever lent it notices when it comes back.
#[test]
fn a_memory_that_grew_a_little_and_stays_open_is_had_by_nobody_again() {
    let worst = "(drop (memory.grow (i32.const 1))) unreachable";
    for isolation in [Isolation::Reuse, Isolation::Fresh] {
        let shard = shard(&misbehaving(worst), isolation, &limits());
        apart(|| {
            let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
            if !refuse_mprotect(&[(PROTECTION, SeccompCmpOp::Eq, libc::PROT_NONE)]) {
                return false;
            }
            for _ in 0..2 * limits().instances {
                let failed = call(&mut sandbox, BAD, b"x");
                assert_eq!(failed, Err(trap("unreachable")), "{isolation}");
                assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{isolation}");
            }
            true
        });
        if isolation == Isolation::Fresh {
            check_all_spared(&shard);
        }
    }
}

/// `reuse` has one for each slot, and has as many again as may be lost.
#[test]
fn one_slot_outlives_many_lost_memories() {
    if crate::sandbox::growth::huge_page_bytes().is_none() {
        eprintln!("skipped: the kernel gives no huge pages, and nothing is opened");
        return;
    }
    let limits = Limits {
        instances: 1,
        ..room()
    };
    for isolation in SANDBOXED {
        let shard = shard(&growing(), isolation, &limits);
        apart(|| {
            let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
            if !refuse_mprotect(&[(PROTECTION, SeccompCmpOp::Eq, libc::PROT_NONE)]) {
                return false;
            }
            for _ in 0..8 {
                let grown = status(&mut sandbox, 15);
                assert_eq!(grown, Err(Failure::Exhausted), "{isolation}");
                assert_eq!(status(&mut sandbox, 0), Ok(200), "{isolation}");
            }
            true
        });
    }
}

#[test]
fn a_memory_that_cannot_be_opened_is_there_for_the_next() {
    let shard = shard(&counting(), Isolation::Fresh, &limits());
    let count = |sandbox: &mut Sandbox| call(sandbox, GOOD, b"").map(|answer| answer.2);
    let mut one = Sandbox::new(Arc::clone(&shard)).expect("a timer");
    assert_eq!(count(&mut one), Ok(b"1".to_vec()));
    apart(|| {
        let mut other = Sandbox::new(Arc::clone(&shard)).expect("a timer");
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        if !refuse_mprotect(&[(PROTECTION, SeccompCmpOp::Eq, writable)]) {
            return false;
        }
        for _ in 0..100 {
            assert_eq!(count(&mut other), Err(Failure::Exhausted));
        }
        // Address space and mappings run out with the same error.
        let said = lend(&shard).err().unwrap_or_default();
        for limit in ["`ulimit -v`", "`sysctl vm.max_map_count`"] {
            assert!(said.contains(limit), "{said:?}");
        }
        true
    });
    let mut other = Sandbox::new(Arc::clone(&shard)).expect("a timer");
    for sandbox in [&mut one, &mut other] {
        assert_eq!(count(sandbox), Ok(b"1".to_vec()));
    }
    drop((one, other));
    check_all_spared(&shard);
}

/// One page of another protection takes two mappings more, all of a memory none.
#[test]
fn where_one_page_cannot_be_made_writable_all_of_the_memory_is() {
    let worst = "(if (i32.load (i32.const 20000)) (then unreachable))
        (i32.store (i32.const 20000) (i32.const 1))";
    for isolation in [Isolation::Reset, Isolation::Fresh] {
        apart(|| {
            let mut sandbox = sandbox(&misbehaving(worst), isolation);
            assert_eq!(call(&mut sandbox, GOOD, b""), fine());
            if !refuse_mprotect(&[(LENGTH, SeccompCmpOp::Lt, 65536)]) {
                return false;
            }
            for _ in 0..3 {
                assert_eq!(call(&mut sandbox, BAD, b"x"), fine(), "{isolation}");
            }
            true
        });
    }
}

/// Nothing can be done about the fault: it is the guest's then, and nobody else's.
#[test]
fn where_nothing_can_be_made_writable_the_guest_traps() {
    let worst = "(i32.store (i32.const 20000) (i32.const 1))";
    for isolation in [Isolation::Reset, Isolation::Fresh] {
        let shard = shard(&misbehaving(worst), isolation, &limits());
        apart(|| {
            let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
            // The first eight are of one store, and each has pages of its own.
            for _ in 0..9 {
                assert_eq!(call(&mut sandbox, GOOD, b""), fine());
            }
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            if !refuse_mprotect(&[(PROTECTION, SeccompCmpOp::Eq, writable)]) {
                return false;
            }
            let trapped = Err(trap("memory out of bounds"));
            assert_eq!(call(&mut sandbox, BAD, b"x"), trapped, "{isolation}");
            true
        });
        let mut sandbox = Sandbox::new(shard).expect("a timer");
        for _ in 0..9 {
            assert_eq!(call(&mut sandbox, BAD, b"x"), fine(), "{isolation}");
        }
    }
}
