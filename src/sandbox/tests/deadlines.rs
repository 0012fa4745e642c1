//! CPU time: who uses it up is ended, as exactly as `deadline` says, and who has no deadline is not.

use super::*;
use crate::clock::Time;
use nix::time::ClockId;

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
