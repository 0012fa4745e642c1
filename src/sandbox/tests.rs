//! The sandbox from outside: guests in text form that behave, misbehave and lie.

mod leaks;
mod steady;

use super::*;
use crate::clock::Time;
use nix::time::ClockId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Where a test's guest keeps its record, its texts and its request area.
const RECORD: u32 = 64;
const TEXTS: u32 = 128;
const AREA: u32 = 1024;
const CAPACITY: u32 = 4096;

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: here\r\n\r\n";
/// A request with a body, at which a guest made by [`misbehaving`] does its worst.
const BAD: &str = "POST /bad HTTP/1.1\r\nHost: here\r\n\r\n";

/// Every isolation that has a sandbox.
const SANDBOXED: [Isolation; 4] = [
    Isolation::Reuse,
    Isolation::Reset,
    Isolation::Fresh,
    Isolation::OnDemand,
];

/// An answer's status, header lines and body, owned.
type Parts = (u16, Vec<u8>, Vec<u8>);

fn limits() -> Limits {
    Limits {
        deadline: Some(Duration::from_millis(30)),
        memory_bytes: 4 * 65536,
        response_bytes: 3000,
        instances: 2,
        ..Limits::default()
    }
}

/// A module of one page. `handle` is its function's body, after `(param $length i32)`; `record`
/// lies at [`RECORD`] and `texts` at [`TEXTS`].
fn guest(record: [u8; 24], texts: &[u8], handle: &str) -> String {
    let data = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("\\{b:02x}")).collect() };
    format!(
        "(module
            (memory (export \"memory\") 1)
            (global (export \"ringlab_v1\") i32 (i32.const {AREA}))
            (data (i32.const {AREA}) \"{}\")
            (data (i32.const {RECORD}) \"{}\")
            (data (i32.const {TEXTS}) \"{}\")
            (global $calls (mut i32) (i32.const 0))
            (table 1 funcref)
            (type $other (func (result i64)))
            (func $deeper (param i32) (result i32)
                (i32.add (i32.const 1) (call $deeper (local.get 0))))
            (func (export \"handle\") (param $length i32) (result i32) {handle}))",
        data(&CAPACITY.to_le_bytes()),
        data(&record),
        data(texts),
    )
}

/// A record: kind, status, and address and length of header lines and body.
fn record(kind: u16, status: u16, lines: (u32, u32), body: (u32, u32)) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&status.to_le_bytes());
    for (at, word) in [lines.0, lines.1, body.0, body.1].into_iter().enumerate() {
        bytes[4 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Answers "a: 1" and "fine", but to a request with a body does what `worst` says.
fn misbehaving(worst: &str) -> String {
    guest(
        record(0, 200, (TEXTS, 6), (TEXTS + 6, 4)),
        b"a: 1\r\nfine",
        &format!(
            "(if (i32.load (i32.const {})) (then {worst})) (i32.const {RECORD})",
            AREA + 8 + 24
        ),
    )
}

/// Refuses header lines with a bang in them.
fn check_lines(lines: &[u8]) -> Result<(), &'static str> {
    if lines.contains(&b'!') {
        Err("a bang")
    } else {
        Ok(())
    }
}

fn load(text: &str, isolation: Isolation, limits: &Limits) -> Result<Handler, LoadError> {
    let directory = std::env::temp_dir();
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let unique = FILES.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("ringlab-{}-{unique}.wat", std::process::id()));
    std::fs::write(&path, text).expect("the temporary directory is writable");
    let handler = Handler::load(&Source::File(path.clone()), isolation, limits);
    std::fs::remove_file(path).expect("the file was there");
    handler
}

fn shard(text: &str, isolation: Isolation, limits: &Limits) -> Arc<ShardSandbox> {
    let handler = load(text, isolation, limits).unwrap_or_else(|error| panic!("{error}"));
    ShardSandbox::new(&handler, check_lines).expect("it was loaded before")
}

fn sandbox(text: &str, isolation: Isolation) -> Sandbox {
    Sandbox::new(shard(text, isolation, &limits())).expect("a timer can be made")
}

fn call(sandbox: &mut Sandbox, head: &str, body: &[u8]) -> Result<Parts, Failure> {
    call_taking(sandbox, head, body, |answer| {
        answer.map(|a| (a.status, a.header_lines.to_vec(), a.body.to_vec()))
    })
}

fn call_taking<R>(
    sandbox: &mut Sandbox,
    head: &str,
    body: &[u8],
    take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
) -> R {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(head.as_bytes()).expect("a valid head");
    assert!(parsed.is_complete());
    let call = Call {
        method: request.method.expect("complete"),
        target: request.path.expect("complete"),
        head: head.as_bytes(),
        headers: request.headers,
        body,
    };
    sandbox.call(&call, take)
}

fn fine() -> Result<Parts, Failure> {
    Ok((200, b"a: 1\r\n".to_vec(), b"fine".to_vec()))
}

/// A guest that does `worst` on one request fails that request as `expected` and no other.
fn check(worst: &str, expected: Failure) {
    check_on(&SANDBOXED, worst, expected);
}

fn check_on(isolations: &[Isolation], worst: &str, expected: Failure) {
    for &isolation in isolations {
        let mut sandbox = sandbox(&misbehaving(worst), isolation);
        for _ in 0..3 {
            assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{worst}");
            assert_eq!(call(&mut sandbox, BAD, b"x"), Err(expected), "{worst}");
        }
        assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{worst}");
    }
}

/// As [`check`], with a record written over the good one.
fn check_record(bytes: [u8; 24], expected: Failure) {
    let mut worst = String::new();
    for (at, word) in bytes.chunks_exact(4).enumerate() {
        let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        worst += &format!(
            "(i32.store (i32.const {}) (i32.const {word}))",
            256 + 4 * at
        );
    }
    check(&format!("{worst} (return (i32.const 256))"), expected);
}

fn trap(class: &'static str) -> Failure {
    Failure::Trap { class }
}

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
fn an_endless_loop_meets_its_deadline() {
    check("(loop $again (br $again))", Failure::Deadline);
}

/// As `deadline` says: between the deadline and two ticks and two of the kernel's timer interrupts
/// more. CPU time is the thread's own, however busy the machine is; what else this thread does is
/// given as much again.
#[test]
fn a_deadline_is_kept_as_exactly_as_is_said() {
    let interrupt = Duration::from_millis(crate::clock::Coarse.step_ms());
    let tick = Duration::from_millis(4);
    let used = || {
        Duration::from(
            ClockId::CLOCK_THREAD_CPUTIME_ID
                .now()
                .expect("Linux has it"),
        )
    };
    for deadline in [10, 50].map(Duration::from_millis) {
        let limits = Limits {
            deadline: Some(deadline),
            ..limits()
        };
        let endless = misbehaving("(loop $again (br $again))");
        let shard = shard(&endless, Isolation::Reuse, &limits);
        let mut sandbox = Sandbox::new(shard).expect("a timer");
        for _ in 0..3 {
            let before = used();
            assert_eq!(call(&mut sandbox, BAD, b"x"), Err(Failure::Deadline));
            let took = used() - before;
            let latest = deadline + 4 * (tick + interrupt);
            assert!((deadline..latest).contains(&took), "{deadline:?}: {took:?}");
        }
    }
}

#[test]
fn without_a_deadline_nothing_ends_a_long_request() {
    let spin = |deadline: Option<Duration>| {
        let limits = Limits {
            deadline,
            ..Limits::default()
        };
        let source = Source::Builtin("spin".to_owned());
        let handler = Handler::load(&source, Isolation::Reuse, &limits).expect("a built-in");
        let shard = ShardSandbox::new(&handler, check_lines).expect("it was loaded");
        let mut sandbox = Sandbox::new(shard).expect("a timer");
        let head = "GET /spin?ms=100 HTTP/1.1\r\nHost: here\r\n\r\n";
        call(&mut sandbox, head, b"").map(|answer| answer.0)
    };
    assert_eq!(spin(Some(Duration::from_millis(1))), Err(Failure::Deadline));
    assert_eq!(spin(None), Ok(200));
}

#[test]
fn every_sandbox_of_a_thread_keeps_its_deadline_and_their_number_is_bounded() {
    let shard = shard(
        &misbehaving("(loop $again (br $again))"),
        Isolation::Reuse,
        &Limits {
            instances: 64,
            ..limits()
        },
    );
    let mut sandboxes = Vec::new();
    let refused = loop {
        match Sandbox::new(Arc::clone(&shard)) {
            Ok(sandbox) => sandboxes.push(sandbox),
            Err(error) => break error.to_string(),
        }
    };
    assert!(refused.contains("drop one first"), "{refused}");
    sandboxes.remove(0);
    sandboxes.push(Sandbox::new(shard).expect("one was dropped"));
    for sandbox in &mut sandboxes {
        assert_eq!(call(sandbox, BAD, b"x"), Err(Failure::Deadline));
        assert_eq!(call(sandbox, GOOD, b""), fine());
    }
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
fn an_answer_in_memory_that_grew_is_read() {
    // Record, header lines and body in a page that was not there when the instance began.
    let grown = format!(
        "(drop (memory.grow (i32.const 1)))
         (memory.copy (i32.const 70000) (i32.const {RECORD}) (i32.const 200))
         (i32.store (i32.const 70004) (i32.const {})) (i32.store (i32.const 70012) (i32.const {}))
         (return (i32.const 70000))",
        70000 + TEXTS - RECORD,
        70000 + TEXTS - RECORD + 6,
    );
    for isolation in SANDBOXED {
        let mut sandbox = sandbox(&misbehaving(&grown), isolation);
        for _ in 0..2 {
            assert_eq!(call(&mut sandbox, BAD, b"x"), fine(), "{isolation}");
            assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{isolation}");
        }
    }
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

#[test]
fn a_record_that_lies_about_a_range_is_refused() {
    let good = (TEXTS, 6);
    let outside = [(65536, 1), (65535, 2), (u32::MAX, 1), (u32::MAX, u32::MAX)];
    let wrapping = [(0x8000_0000, 0x8000_0000), (16, u32::MAX - 8), (65537, 0)];
    for range in outside.into_iter().chain(wrapping) {
        check_record(
            record(0, 200, range, good),
            Failure::BadRecord("its header lines lie outside the memory"),
        );
        check_record(
            record(0, 200, good, range),
            Failure::BadRecord("its body lies outside the memory"),
        );
    }
    for address in ["-1", "65536", "65513", "-24", "0x80000000"] {
        check(
            &format!("(return (i32.const {address}))"),
            Failure::BadRecord("it lies outside the memory"),
        );
    }
}

#[test]
fn a_record_that_is_no_answer_is_refused() {
    let text = (TEXTS, 6);
    check_record(record(1, 200, text, text), Failure::Unsupported("wait"));
    check_record(
        record(2, 200, text, text),
        Failure::Unsupported("send a file"),
    );
    let unknown = Failure::BadRecord("its kind is unknown");
    check_record(record(3, 200, text, text), unknown);
    check_record(record(0xffff, 200, text, text), unknown);
    for status in [0, 100, 199, 600, 0xffff] {
        check_record(
            record(0, status, text, text),
            Failure::BadRecord("its status is not 200 to 599"),
        );
    }
}

#[test]
fn an_answer_over_its_limits_is_refused() {
    let text = (TEXTS, 6);
    check_record(record(0, 200, text, (0, 3001)), Failure::ResponseTooLarge);
    let lines = (0, HEADER_LINES_LIMIT as u32 + 1);
    check_record(record(0, 200, lines, text), Failure::ResponseTooLarge);
}

#[test]
fn header_lines_that_the_check_refuses_are_refused() {
    check(
        &format!("(i32.store8 (i32.const {}) (i32.const 0x21))", TEXTS + 3),
        Failure::BadHeaderLines("a bang"),
    );
}

#[test]
fn the_same_header_lines_are_checked_once() {
    static CHECKS: AtomicUsize = AtomicUsize::new(0);
    let handler = load(
        &misbehaving(&format!(
            "(i32.store8 (i32.const {TEXTS}) (i32.const 0x62))"
        )),
        Isolation::Fresh,
        &limits(),
    );
    let shard = ShardSandbox::new(&handler.expect("a good guest"), |_| {
        CHECKS.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let mut sandbox = Sandbox::new(shard.expect("a good guest")).expect("a timer");
    let mut checks_after = |body: &[u8]| {
        call(&mut sandbox, GOOD, body).expect("a good guest");
        CHECKS.load(Ordering::Relaxed)
    };
    assert_eq!([checks_after(b""), checks_after(b"")], [1, 1]);
    assert_eq!([checks_after(b"x"), checks_after(b"x")], [2, 2]);
    assert_eq!(checks_after(b""), 3);
}

#[test]
fn the_guest_is_given_every_part_of_the_request() {
    // The answer's body is the request as the host wrote it.
    let store = format!(
        "(i32.store (i32.const {}) (local.get $length))",
        RECORD + 16
    );
    let text = guest(
        record(0, 200, (0, 0), (AREA + 8, 0)),
        b"",
        &format!("{store} (i32.const {RECORD})"),
    );
    let head = "PUT /a?b=c HTTP/1.1\r\nHost: here\r\nX-Empty:\r\nx-CASE: As Sent\r\n\r\n";
    for isolation in SANDBOXED {
        let mut sandbox = sandbox(&text, isolation);
        let (_, _, seen) = call(&mut sandbox, head, b"the body").expect("a good guest");
        let word = |at: usize| u32::from_le_bytes(seen[at..at + 4].try_into().expect("4")) as usize;
        let part = |at: usize| {
            std::str::from_utf8(&seen[word(at)..word(at) + word(at + 4)]).expect("ASCII")
        };
        assert_eq!(word(0), 0, "flags");
        assert_eq!((part(4), part(12), part(20)), ("PUT", "/a?b=c", "the body"));
        assert_eq!(word(28), 3, "header count");
        let headers: Vec<_> = (0..3)
            .map(|i| (part(32 + 16 * i), part(40 + 16 * i)))
            .collect();
        assert_eq!(
            headers,
            [("Host", "here"), ("X-Empty", ""), ("x-CASE", "As Sent")]
        );
    }
}

#[test]
fn a_request_that_does_not_fit_is_refused_and_costs_no_instance() {
    let mut sandbox = sandbox(&counting(), Isolation::Reuse);
    let table = 32 + 16;
    let fits = CAPACITY as usize - table - GOOD.len();
    let body = vec![b'x'; fits + 1];
    let count = |sandbox: &mut Sandbox, body: &[u8]| call(sandbox, GOOD, body).map(|a| a.2);
    assert_eq!(count(&mut sandbox, &body[..fits]), Ok(b"1".to_vec()));
    assert_eq!(count(&mut sandbox, &body), Err(Failure::RequestTooLarge));
    assert_eq!(count(&mut sandbox, b""), Ok(b"2".to_vec()));
}

/// A capacity that the guest raised beyond its memory since it was loaded.
#[test]
fn a_capacity_that_lies_does_not_reach_beyond_the_memory() {
    let lie = format!("(i32.store (i32.const {AREA}) (i32.const -1))");
    let mut sandbox = sandbox(&misbehaving(&lie), Isolation::Reuse);
    assert_eq!(call(&mut sandbox, BAD, b"x"), fine());
    let room = 65536 - AREA as usize - 8 - 32 - 16 - GOOD.len();
    let body = vec![0; room + 1];
    assert_eq!(call(&mut sandbox, GOOD, &body[..room]), fine());
    assert_eq!(
        call(&mut sandbox, GOOD, &body),
        Err(Failure::RequestTooLarge)
    );
}

/// Answers how many requests this instance has seen: in its memory, a global and a table.
fn counting() -> String {
    guest(
        record(0, 200, (0, 0), (TEXTS, 1)),
        b"0",
        &format!(
            "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
             (i32.store8 (i32.const {TEXTS}) (i32.add (i32.load8_u (i32.const {TEXTS}))
                (i32.const 1)))
             (if (i32.ne (i32.sub (i32.load8_u (i32.const {TEXTS})) (i32.const 48))
                         (global.get $calls)) (then unreachable))
             (i32.const {RECORD})"
        ),
    )
}

#[test]
fn reuse_keeps_state_and_no_other_does() {
    let count = |isolation, expected: [&[u8]; 3]| {
        let mut sandbox = sandbox(&counting(), isolation);
        let seen = [(); 3].map(|()| call(&mut sandbox, GOOD, b"").expect("a good guest").2);
        assert_eq!(seen, expected, "{isolation}");
    };
    count(Isolation::Reuse, [b"1", b"2", b"3"]);
    for isolation in [Isolation::Reset, Isolation::Fresh, Isolation::OnDemand] {
        count(isolation, [b"1", b"1", b"1"]);
    }
}

#[test]
fn an_instance_that_failed_is_never_called_again() {
    let worst = format!(
        "(if (i32.load (i32.const {})) (then unreachable))",
        AREA + 8 + 24
    );
    let text = counting().replace("(i32.const 64)))", &format!("{worst} (i32.const 64)))"));
    let mut sandbox = sandbox(&text, Isolation::Reuse);
    let mut count = |body: &[u8]| call(&mut sandbox, GOOD, body).map(|answer| answer.2);
    for _ in 0..2 {
        assert_eq!(count(b""), Ok(b"1".to_vec()));
        assert_eq!(count(b""), Ok(b"2".to_vec()));
        assert_eq!(count(b"x"), Err(trap("unreachable")));
    }
}

#[test]
fn threads_of_a_shard_take_turns_at_its_slots() {
    let limits = Limits {
        instances: 1,
        ..limits()
    };
    for isolation in SANDBOXED {
        let shard = shard(&misbehaving("unreachable"), isolation, &limits);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
                    for _ in 0..100 {
                        assert_eq!(call(&mut sandbox, GOOD, b""), fine());
                        assert_eq!(call(&mut sandbox, BAD, b"x"), Err(trap("unreachable")));
                        sandbox.release();
                    }
                });
            }
        });
    }
}

#[test]
fn a_call_that_gets_no_slot_in_time_fails_and_the_next_may_not() {
    let limits = Limits {
        instances: 1,
        instance_wait: Duration::from_millis(10),
        ..limits()
    };
    let shard = shard(&counting(), Isolation::Reuse, &limits);
    let mut first = Sandbox::new(Arc::clone(&shard)).expect("a timer");
    let mut second = Sandbox::new(shard).expect("a timer");
    let count = |sandbox: &mut Sandbox| call(sandbox, GOOD, b"").map(|answer| answer.2);
    assert_eq!(count(&mut first), Ok(b"1".to_vec()));
    assert_eq!(count(&mut second), Err(Failure::Exhausted));
    assert_eq!(count(&mut first), Ok(b"2".to_vec()));
    first.release();
    assert_eq!(count(&mut second), Ok(b"3".to_vec()));
    assert_eq!(count(&mut first), Err(Failure::Exhausted));
    drop(second);
    assert_eq!(count(&mut first), Ok(b"4".to_vec()));
}

#[test]
fn a_released_instance_serves_the_next_thread() {
    let shard = shard(&counting(), Isolation::Reuse, &limits());
    for expected in [b"1", b"2", b"3"] {
        let shard = Arc::clone(&shard);
        let thread = std::thread::spawn(move || {
            let mut sandbox = Sandbox::new(shard).expect("a timer");
            call(&mut sandbox, GOOD, b"").expect("a good guest").2
        });
        assert_eq!(thread.join().expect("no panic"), expected);
    }
}

#[test]
fn an_instance_that_a_panic_left_behind_serves_nobody() {
    for isolation in SANDBOXED {
        let shard = shard(&counting(), isolation, &limits());
        let its_own = Arc::clone(&shard);
        let thread = std::thread::spawn(move || {
            let mut sandbox = Sandbox::new(its_own).expect("a timer");
            call_taking(&mut sandbox, GOOD, b"", |_| panic!("on purpose"));
        });
        thread.join().expect_err("it panicked");
        let mut sandbox = Sandbox::new(shard).expect("a timer");
        let seen = call(&mut sandbox, GOOD, b"").expect("a good guest").2;
        assert_eq!(seen, b"1", "{isolation}");
    }
}

#[test]
fn native_and_wasm_give_the_same_answers() {
    let get = |target: &str| format!("GET {target} HTTP/1.1\r\nHost: here\r\n\r\n");
    let typed = "POST / HTTP/1.1\r\nHost: here\r\nContent-Type: text/html\r\n\r\n";
    let requests = [
        ("hello", get("/"), ""),
        ("echo", typed.to_owned(), "some bytes"),
        ("echo", get("/"), ""),
        ("count", get("/count?n=30"), ""),
        ("count", get("/count?n=x"), ""),
        ("count", get("/count"), ""),
        ("spin", get("/spin?iterations=1000"), ""),
        ("spin", get("/spin?ms=1"), ""),
        ("spin", get("/spin"), ""),
        ("primes", get("/primes?n=1000"), ""),
        ("primes", get("/primes?n=x"), ""),
        ("json", get("/json"), ""),
        (
            "json",
            get("/json"),
            r#"{"a": [1, -2.50, "\u00e9", {"b": null}]}"#,
        ),
        ("json", get("/json"), "[1,]"),
        ("redos", get("/redos"), ""),
        ("redos", get("/redos"), "no/match\n"),
        ("pbkdf2", get("/pbkdf2?iterations=3&password=p&salt=s"), ""),
        ("pbkdf2", get("/pbkdf2?iterations=0"), ""),
        ("deflate", get("/deflate"), ""),
        ("deflate", get("/deflate"), "a body, a body, a body"),
        ("mandelbrot", get("/mandelbrot"), ""),
        ("mandelbrot", get("/mandelbrot?size=256&iterations=10"), ""),
    ];
    for (name, head, body) in requests {
        let [native, sandboxed @ ..] = Isolation::ALL.map(|isolation| {
            let source = Source::parse(name);
            let handler = Handler::load(&source, isolation, &Limits::default());
            let handler = handler.unwrap_or_else(|error| panic!("{error}"));
            let shard = ShardSandbox::new(&handler, check_lines).expect("it was loaded");
            let mut sandbox = Sandbox::new(shard).expect("a timer");
            let first = call(&mut sandbox, &head, body.as_bytes());
            assert_eq!(first, call(&mut sandbox, &head, body.as_bytes()));
            first.expect("the built-ins do not fail")
        });
        for (answer, isolation) in sandboxed.into_iter().zip(SANDBOXED) {
            assert_eq!(native, answer, "{isolation}: {name} {head}");
        }
    }
}

/// Loading `text` fails with a message that contains `expected`.
fn check_load(text: &str, expected: &str) {
    match load(text, Isolation::Reuse, &limits()) {
        Ok(_) => panic!("loaded, without: {expected}"),
        Err(error) => {
            let sentence = error.to_string();
            assert!(sentence.contains(expected), "{sentence}\nlacks: {expected}");
            assert!(!sentence.contains('\n'), "{sentence}");
        }
    }
}

#[test]
fn what_is_no_module_is_refused_in_words() {
    check_load("", "it is empty");
    check_load("\x7fELF", "it begins with 7f 45 4c 46");
    check_load("\0asm\x01\0\0\0\x01", "its code is refused");
    check_load(
        "(module (func $f)",
        "its text is refused: expected `)` at line 1, column 18; correct",
    );
    check_load(
        ";; a comment\n(module (fun))",
        "expected valid module field at line 2, column 10",
    );
    let threads = "(module (memory 1 1 shared))";
    check_load(threads, "its text is refused");
}

#[test]
fn a_module_without_the_abi_is_refused_in_words() {
    let good = misbehaving("");
    assert!(load(&good, Isolation::Fresh, &limits()).is_ok());
    check_load(
        r#"(module (import "wasi" "exit" (func)))"#,
        "it imports wasi.exit",
    );
    check_load("(module)", "it lacks the export ringlab_v1");
    check_load(
        &good.replace("ringlab_v1", "ringlab_v2"),
        "it exports ringlab_v2, and this host speaks ringlab_v1",
    );
    check_load(
        &good.replace("\"ringlab_v1\") i32", "\"ringlab_v1\") (mut i32)"),
        "its export ringlab_v1 is another global",
    );
    check_load(
        &good.replace("handle", "handel"),
        "it lacks the export handle",
    );
    check_load(
        &good.replace("(param $length i32)", "(param $length i64)"),
        "its export handle is another function",
    );
    check_load(
        &good.replace("\"memory\"", "\"mem\""),
        "it lacks the export memory",
    );
}

#[test]
fn a_module_that_cannot_run_within_the_limits_is_refused_in_words() {
    let good = misbehaving("");
    check_load(
        &good.replace("\"memory\") 1", "\"memory\") 5"),
        "its memory starts with 327680 bytes, over the limit of 262144",
    );
    let area = |at: &str| {
        let from = format!("(export \"ringlab_v1\") i32 (i32.const {AREA})");
        good.replace(
            &from,
            &format!("(export \"ringlab_v1\") i32 (i32.const {at})"),
        )
    };
    check_load(&area("-1"), "lies outside its memory of 65536 bytes");
    check_load(&area("65529"), "lies outside its memory of 65536 bytes");
    check_load(&area("32"), "has a capacity of 0 bytes");
    check_load(&area("1022"), "ends outside its memory of 65536 bytes");
    check_load(
        &good.replace("(table 1 f", "(table 10001 f"),
        "its code is refused",
    );
    let start = |body: &str| {
        let module = good
            .trim_end()
            .strip_suffix(')')
            .expect("a module")
            .to_owned();
        module + "(func $start " + body + ") (start $start))"
    };
    check_load(&start("unreachable"), "the handler trapped: unreachable");
    check_load(&start("(loop $l (br $l))"), "passed its deadline");
}

#[test]
fn a_source_that_leads_nowhere_is_refused_in_words() {
    let check = |source: &str, isolation, expected: &str| {
        let error = match Handler::load(&Source::parse(source), isolation, &limits()) {
            Ok(_) => panic!("{source} was loaded"),
            Err(error) => error.to_string(),
        };
        assert!(error.contains(expected), "{error}\nlacks: {expected}");
    };
    check("./missing.wasm", Isolation::Reuse, "there is no such file");
    check("/", Isolation::Reuse, "the file cannot be read");
    check("/dev/zero", Isolation::Reuse, "it is no regular file");
    check("helo", Isolation::Reuse, "did you mean hello?");
    check("helo", Isolation::Native, "did you mean hello?");
    check("./x.wasm", Isolation::Native, "isolation native runs");
}

#[test]
fn isolations_are_known_by_name() {
    for isolation in Isolation::ALL {
        assert_eq!(
            isolation.to_string().parse::<Isolation>().ok(),
            Some(isolation)
        );
        assert!(isolation.sentence().ends_with('.'));
    }
    let error = "none".parse::<Isolation>().expect_err("no such rung");
    assert!(
        error
            .to_string()
            .contains("native, reuse, reset, fresh, on-demand")
    );
}

#[test]
fn a_description_tells_modules_apart() {
    let describe = |isolation| {
        let handler = Handler::load(&Source::parse("hello"), isolation, &limits());
        handler.expect("a built-in").describe().to_string()
    };
    assert_eq!(describe(Isolation::Native), "hello (linked in)");
    assert!(describe(Isolation::Reuse).contains("fnv1a64"));
    assert_eq!(describe(Isolation::Reuse), describe(Isolation::Fresh));
}
