//! What goes to the guest and what comes from it: every part of a request, every lie in a record, and
//! the same bytes natively and in wasm.

use super::*;

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

/// The body is the header lines and what follows them, which is the record's own business.
#[test]
fn ranges_that_overlap_are_answered_as_they_stand() {
    let texts = b"a: 1\r\nfine";
    let both = record(0, 200, (TEXTS, 6), (TEXTS, 10));
    let whole = guest(both, texts, &format!("(i32.const {RECORD})"));
    for isolation in SANDBOXED {
        let answered = call(&mut sandbox(&whole, isolation), GOOD, b"");
        let expected = (200, texts[..6].to_vec(), texts.to_vec());
        assert_eq!(answered, Ok(expected), "{isolation}");
    }
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
fn an_answer_in_memory_that_the_start_function_grew_is_read() {
    let grown = misbehaving("unreachable").replace(
        "(global $calls",
        &format!(
            "(func $start
                (drop (memory.grow (i32.const 1)))
                (memory.copy (i32.const 70000) (i32.const {RECORD}) (i32.const 24)))
             (start $start)
             (global $calls"
        ),
    );
    let grown = grown.replace(&format!("(i32.const {RECORD})))"), "(i32.const 70000)))");
    for isolation in SANDBOXED {
        let mut sandbox = sandbox(&grown, isolation);
        for _ in 0..3 {
            assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{isolation}");
            let trapped = Err(trap("unreachable"));
            assert_eq!(call(&mut sandbox, BAD, b"x"), trapped, "{isolation}");
        }
    }
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
    let lines = (0, limits().header_line_bytes as u32 + 1);
    check_record(record(0, 200, lines, text), Failure::HeaderLinesTooLarge);
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
