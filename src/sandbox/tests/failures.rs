//! What a guest does wrong or wants too much of fails its own request and no other, by its own name.

use super::*;
use nix::sys::resource::{UsageWho, getrusage};

#[test]
fn a_trap_fails_its_own_request_only() {
    check("unreachable", trap("unreachable"));
    check(
        "(drop (i32.load (i32.const -4)))",
        trap("memory out of bounds"),
    );
    check(
        "(drop (i32.div_u (i32.const 1) (i32.sub (local.get $length) (local.get $length))))",
        trap("integer division by zero"),
    );
    check(
        "(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))",
        trap("integer overflow"),
    );
    check(
        "(drop (i32.trunc_f32_s (f32.const nan)))",
        trap("float out of integer range"),
    );
    check(
        "(drop (call_indirect (type $other) (i32.const 7)))",
        trap("table out of bounds"),
    );
    check(
        "(drop (call_indirect (type $other) (i32.const 0)))",
        trap("call of a null function"),
    );
}

#[test]
fn endless_recursion_is_a_stack_overflow_on_the_smallest_promised_stack() {
    let thread = std::thread::Builder::new().stack_size(limits().thread_stack_bytes());
    thread
        .spawn(|| {
            check("(drop (call $deeper (i32.const 0)))", Failure::Stack);
        })
        .expect("a thread can be made")
        .join()
        .expect("no assertion failed");
}

#[test]
fn a_guest_that_wants_more_memory_than_its_limit_is_named_so() {
    // Grows by one page until it is refused, and then gives up, as allocators do.
    let hog = "(loop $more
        (br_if $more (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))) unreachable";
    check(hog, Failure::Memory);
    // What it may have works; giving up afterwards is an ordinary trap.
    check(
        "(if (i32.eq (memory.grow (i32.const 3)) (i32.const -1)) (then (loop $l (br $l))))
         (i32.store (i32.const 262140) (i32.const 1)) unreachable",
        trap("unreachable"),
    );
}

#[test]
fn a_guest_that_wants_a_larger_table_than_its_limit_is_named_so() {
    // Its limit is 10 000 entries, one of which it has.
    let grow = |entries: u32| {
        format!(
            "(if (i32.eq (table.grow (ref.null func) (i32.const {entries})) (i32.const -1))
             (then (drop (call_indirect (type $other) (i32.const 10000))))) unreachable"
        )
    };
    // `reset` takes no module that changes its tables.
    let isolations = [Isolation::Reuse, Isolation::Fresh, Isolation::OnDemand];
    check_on(&isolations, &grow(10_000), Failure::Table);
    check_on(&isolations, &grow(9_999), trap("unreachable"));
}

/// No option of the host's would help.
#[test]
fn a_guest_at_its_modules_own_maximum_is_named_so() {
    let check = |from: &str, to: &str, growth: &str, isolations: &[Isolation], class| {
        let worst = format!("(if (i32.eq ({growth}) (i32.const -1)) (then unreachable))");
        let module = misbehaving(&worst).replace(from, to);
        for &isolation in isolations {
            let mut sandbox = sandbox(&module, isolation);
            for _ in 0..2 {
                assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{isolation}");
                let answered = call(&mut sandbox, BAD, b"x");
                assert_eq!(answered, Err(trap(class)), "{isolation}");
            }
        }
    };
    let memory = "memory at the module's own maximum";
    for pages in [1, 1000] {
        let growth = format!("memory.grow (i32.const {pages})");
        let (from, to) = ("\"memory\") 1", "\"memory\") 1 1");
        check(from, to, &growth, &SANDBOXED, memory);
    }
    let isolations = [Isolation::Reuse, Isolation::Fresh, Isolation::OnDemand];
    check(
        "(table 1 funcref)",
        "(table 1 2 funcref)",
        "table.grow (ref.null func) (i32.const 2)",
        &isolations,
        "table at the module's own maximum",
    );
}

/// What follows in a request is no consequence of it.
#[test]
fn what_a_start_function_is_refused_names_no_failure() {
    let grow = "(func $begin (drop (memory.grow (i32.const 60000)))) (start $begin)";
    let module = misbehaving("unreachable").replacen("(table 1", &format!("{grow} (table 1"), 1);
    for isolation in SANDBOXED {
        let mut sandbox = sandbox(&module, isolation);
        // Under `fresh` some instances have predecessors in their store.
        for good in [0, 1, 2] {
            for _ in 0..good {
                assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{isolation}");
            }
            let trapped = Err(trap("unreachable"));
            assert_eq!(call(&mut sandbox, BAD, b"x"), trapped, "{isolation}");
        }
    }
}

#[test]
fn an_answer_that_is_too_large_leaves_nothing_to_the_next() {
    // Counts, and answers a request with a body by one byte more than may be.
    let counting = counting().replace(
        &format!("(i32.const {RECORD})))"),
        &format!(
            "(if (i32.load (i32.const {})) (then (i32.store (i32.const {}) (i32.const 3001))))
             (i32.const {RECORD})))",
            AREA + 8 + 24,
            RECORD + 16
        ),
    );
    let mut slicer = slices::slicer_of(&counting, Duration::from_secs(1));
    for _ in 0..3 {
        let [bad, good] = [&b"x"[..], b""].map(|body| slices::to_the_end(&mut slicer, BAD, body).1);
        assert_eq!(bad, Err(Failure::ResponseTooLarge));
        assert_eq!(good, Ok(b"1".to_vec()), "under reuse the instance goes");
    }
    for isolation in SANDBOXED {
        let mut sandbox = sandbox(&counting, isolation);
        for _ in 0..3 {
            let too_large = Err(Failure::ResponseTooLarge);
            assert_eq!(call(&mut sandbox, BAD, b"x"), too_large, "{isolation}");
            let answered = call(&mut sandbox, GOOD, b"").map(|answer| answer.2);
            assert_eq!(answered, Ok(b"1".to_vec()), "{isolation}");
        }
    }
}

/// The pages that the handler writes for it are its own from the first time on.
#[test]
fn an_answer_that_is_too_large_faults_in_no_memory_again() {
    for isolation in [Isolation::Reuse, Isolation::Reset, Isolation::Fresh] {
        check_faults_of_too_large(isolation);
    }
}

fn check_faults_of_too_large(isolation: Isolation) {
    let huge = Handler::load(&Source::parse("huge"), isolation, &Limits::default());
    let shard = ShardSandbox::new(&huge.expect("a built-in"), check_lines);
    let mut sandbox = Sandbox::new(shard.expect("there is room")).expect("a timer");
    let mut faults = || {
        let faults = || getrusage(UsageWho::RUSAGE_THREAD).map(|usage| usage.minor_page_faults());
        let before = faults().expect("of this thread");
        let answered = call(&mut sandbox, GOOD, b"");
        assert_eq!(answered, Err(Failure::ResponseTooLarge));
        faults().expect("of this thread") - before
    };
    let (first, second) = (faults(), faults());
    assert!(second < 64, "{isolation}: {first}, then {second}");
}
