//! CPU time: who uses it up is ended, as exactly as `deadline` says, and who has no deadline is not.

use super::*;
use nix::time::ClockId;

#[test]
fn an_endless_loop_meets_its_deadline() {
    check("(loop $again (br $again))", Failure::Deadline);
}

/// As `deadline` says: never before the deadline, and no later than two ticks and two of the kernel's timer
/// interrupts after it. CPU time is the thread's own, however busy the machine is, but what interrupts it is
/// in it too: of five one at least is as it should be.
fn check_deadline(of: &str, deadline: Duration, mut failed: impl FnMut() -> Failure) {
    let resolution = ClockId::CLOCK_MONOTONIC_COARSE.res();
    let interrupt = Duration::from(resolution.expect("Linux has it"));
    let latest = deadline + 2 * (Duration::from_millis(4) + interrupt);
    let used = || {
        let used = ClockId::CLOCK_THREAD_CPUTIME_ID.now();
        Duration::from(used.expect("Linux has it"))
    };
    let took = [(); 5].map(|()| {
        let before = used();
        assert_eq!(failed(), Failure::Deadline, "{of}");
        used() - before
    });
    let least = took.iter().min().expect("there are five");
    assert!(
        (deadline..latest).contains(least),
        "{of}, {deadline:?}: {took:?}, where {latest:?} is too late"
    );
}

const ENDLESS: &str = "(loop $again (br $again))";
const DEADLINES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(50)];

#[test]
fn a_deadline_is_kept_as_exactly_as_is_said() {
    for isolation in SANDBOXED {
        for deadline in DEADLINES {
            let limits = Limits {
                deadline: Some(deadline),
                ..limits()
            };
            let shard = shard(&misbehaving(ENDLESS), isolation, &limits);
            let mut sandbox = Sandbox::new(shard).expect("a timer");
            check_deadline(&isolation.to_string(), deadline, || {
                call(&mut sandbox, BAD, b"x").expect_err("it is endless")
            });
        }
    }
}

#[test]
fn a_deadline_is_kept_as_exactly_in_slices() {
    for isolation in SANDBOXED {
        for deadline in DEADLINES {
            let limits = Limits {
                deadline: Some(deadline),
                quantum: Some(Duration::from_millis(1)),
                ..limits()
            };
            let shard = shard(&misbehaving(ENDLESS), isolation, &limits);
            let mut slicer = Slicer::new(shard).expect("timers can be made");
            // The first is begun again, and its time counts anew.
            check_deadline(&format!("{isolation}, time-slice"), deadline, || {
                let (_, answer) = slices::to_the_end(&mut slicer, BAD, b"x");
                answer.expect_err("it is endless")
            });
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

/// By what `--no-deadline` shows the price of the checks.
#[test]
fn without_a_deadline_no_guest_looks_at_the_time() {
    let code_bytes = |isolation, deadline, quantum| {
        let limits = Limits {
            deadline,
            quantum,
            ..limits()
        };
        let handler = load(&misbehaving(ENDLESS), isolation, &limits);
        let handler = handler.expect("a good guest");
        let handler::Program::Wasm(artifact) = handler.program() else {
            unreachable!("this is of wasm");
        };
        let engine = engine::on_demand(&limits, artifact.data()).expect("a small engine");
        let module = artifact.load_into(&engine).expect("compiled for it");
        module
            .functions()
            .map(|function| function.len)
            .sum::<usize>()
    };
    let second = Some(Duration::from_secs(1));
    for isolation in SANDBOXED {
        let without = code_bytes(isolation, None, None);
        let with = code_bytes(isolation, second, None);
        assert!(without < with, "{isolation}: {without}, {with}");
        // Slices end by the same.
        assert_eq!(code_bytes(isolation, None, second), with, "{isolation}");
    }
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
