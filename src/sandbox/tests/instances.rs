//! Instances: what one keeps, who gets the next one, and who none.

use super::*;

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
                    for round in 0..100 {
                        assert_eq!(call(&mut sandbox, GOOD, b""), fine());
                        // In the other rounds a store goes from one thread to another.
                        if round % 3 == 0 {
                            assert_eq!(call(&mut sandbox, BAD, b"x"), Err(trap("unreachable")));
                        }
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
fn fresh_instances_follow_each_other_in_a_store_until_it_must_go() {
    // By the body's first byte: it traps, its memory or its table grows, it writes more than is zeroed at
    // once.
    let worst = format!(
        "(local $what i32)
         (local.set $what (i32.load8_u (i32.add (i32.const {}) (i32.load (i32.const {})))))
         (if (i32.eq (local.get $what) (i32.const 116)) (then unreachable))
         (if (i32.eq (local.get $what) (i32.const 103))
            (then (drop (memory.grow (i32.const 1)))))
         (if (i32.eq (local.get $what) (i32.const 101))
            (then (drop (table.grow (ref.null func) (i32.const 1)))))
         (if (i32.eq (local.get $what) (i32.const 119))
            (then (memory.fill (i32.const 65536) (i32.const 1) (i32.const 131072))))",
        AREA + 8,
        AREA + 8 + 20
    );
    let text = counting()
        .replace("(export \"memory\") 1)", "(export \"memory\") 3)")
        .replace(
            "(param $length i32) (result i32)",
            &format!("(param $length i32) (result i32) {worst}"),
        );
    let shard = shard(&text, Isolation::Fresh, &limits());
    let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
    let mut kept_after = |body: &[u8]| {
        let answer = call(&mut sandbox, GOOD, body).map(|answer| answer.2);
        let expected = match body {
            b"t" => Err(trap("unreachable")),
            _ => Ok(b"1".to_vec()),
        };
        assert_eq!(answer, expected);
        kept_in(&shard)
    };
    let good = [(); 20].map(|()| kept_after(b"."));
    let expected = [1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4];
    assert_eq!(good, expected);
    for what in [b"t", b"g", b"e"] {
        assert_eq!(kept_after(what), 0, "{what:?}");
        assert_eq!([(); 3].map(|()| kept_after(b".")), [1, 2, 3]);
    }
    // What was written once is zeroed some hundred times more, before its pages are watched again.
    assert_eq!([b"w", b"."].map(|what| kept_after(what)), [0, 0]);
    assert!((0..600).any(|_| kept_after(b".") == 3));
    drop(sandbox);
    assert_eq!(kept_in(&shard), 3, "its slot's");
}

#[test]
fn where_a_store_can_have_no_other_instance_the_next_one_gets_a_new_store() {
    let shard = shard(&counting(), Isolation::Fresh, &limits());
    let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
    let mut count = || call(&mut sandbox, GOOD, b"").map(|answer| answer.2);
    assert_eq!(count(), Ok(b"1".to_vec()));
    assert_eq!(kept_in(&shard), 1);
    let creator = memories(&shard).creator();
    let lend = || {
        let ty = wasmtime::MemoryType::new(1, None);
        creator.new_memory(ty, 65536, None, Some(1 << 32), 65536)
    };
    let all: Vec<_> = std::iter::from_fn(|| lend().ok()).collect();
    assert!(!all.is_empty());
    for _ in 0..3 {
        assert_eq!(count(), Ok(b"1".to_vec()));
    }
}

#[test]
fn few_stores_wait_while_nobody_uses_them() {
    let limits = Limits {
        instances: 20,
        ..limits()
    };
    let shard = shard(&counting(), Isolation::Fresh, &limits);
    let sandboxes = (0..20).map(|_| Sandbox::new(Arc::clone(&shard)).expect("a timer"));
    let mut sandboxes: Vec<Sandbox> = sandboxes.collect();
    for _ in 0..2 {
        for sandbox in &mut sandboxes {
            let seen = call(sandbox, GOOD, b"").expect("a good guest").2;
            assert_eq!(seen, b"1");
        }
    }
    assert_eq!(kept_in(&shard), 2 * 20);
    sandboxes.iter_mut().for_each(Sandbox::release);
    assert_eq!(kept_in(&shard), 2 * 4);
}
