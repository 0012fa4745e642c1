//! Before any request: what is refused and in which words, and what a handler is called.

use super::*;

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
    check_load(&area("-1"), "lies outside the 65536 bytes that its memory");
    check_load(
        &area("65529"),
        "lies outside the 65536 bytes that its memory",
    );
    check_load(&area("32"), "has a capacity of 0 bytes");
    check_load(
        &area("1022"),
        "ends outside the 65536 bytes that its memory",
    );
    check_load(
        &good.replace("(table 1 f", "(table 10001 f"),
        "a table of it starts with 10001 entries, over the limit of 10000; link it with fewer functions \
         whose addresses are taken, or raise the limit, which only `serve` can, with --tables",
    );
    let tables = "(table 1 funcref)";
    check_load(
        &good.replace(tables, &tables.repeat(5)),
        "it has 5 tables, over the limit of 4; put what they hold into fewer",
    );
    let four = good.replace(tables, &tables.repeat(4));
    assert!(load(&four, Isolation::Reuse, &limits()).is_ok());
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

/// Who waits for it could not be ended: loading has a deadline of its own.
#[test]
fn a_start_function_without_end_is_refused_whatever_the_deadline() {
    let endless = misbehaving("").replace(
        "(global $calls",
        "(func $start (loop $again (br $again))) (start $start) (global $calls",
    );
    let hour = Duration::from_secs(3600);
    for (deadline, quantum) in [
        (Some(hour), None),
        (None, None),
        (None, Some(Duration::from_millis(1))),
    ] {
        let limits = Limits {
            deadline,
            quantum,
            ..limits()
        };
        // Whoever would wait for it for ever is told here instead.
        let (tell, told) = std::sync::mpsc::channel();
        let text = endless.clone();
        std::thread::spawn(move || {
            let loaded = load(&text, Isolation::Reuse, &limits);
            let _ = tell.send(loaded.map(drop).map_err(|error| error.to_string()));
        });
        let loaded = told.recv_timeout(Duration::from_secs(60));
        let said = loaded.expect("it ends").expect_err("it is endless");
        let words = "start function passed its deadline, the 2 s of CPU time";
        assert!(said.contains(words), "{deadline:?}: {said}");
    }
}

/// What grows in a start function is no place for requests: the host watches and puts back what a memory
/// begins with.
#[test]
fn a_request_area_in_what_the_start_function_grew_is_refused_on_all_isolations() {
    let far = |at: u32| {
        let start = format!(
            "(func $start
                (if (i32.eq (memory.grow (i32.const 7)) (i32.const -1)) (then unreachable))
                (i32.store (i32.const {at}) (i32.const {CAPACITY})))
             (start $start)"
        );
        misbehaving("")
            .replace(
                &format!("(export \"ringlab_v1\") i32 (i32.const {AREA})"),
                &format!("(export \"ringlab_v1\") i32 (i32.const {at})"),
            )
            .replace("(global $calls", &format!("{start} (global $calls"))
    };
    let limits = Limits::default();
    // In the first page that grew, across its beginning, and behind all that a `fresh` memory watches.
    for at in [70_000, 65_536 - 100, 300_000] {
        for isolation in SANDBOXED {
            let loaded = load(&far(at), isolation, &limits);
            let said = match loaded {
                Err(error) => error.to_string(),
                Ok(handler) => {
                    let shard = ShardSandbox::new(&handler, check_lines).expect("it was loaded");
                    let mut sandbox = Sandbox::new(shard).expect("a timer");
                    let answered = call(&mut sandbox, GOOD, b"");
                    panic!("{isolation} took an area at {at} and answered {answered:?}");
                }
            };
            let words = "that its memory begins with; let ringlab_v1 hold";
            assert!(said.contains(words), "{isolation}: {said}");
        }
    }
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
