//! What the queues refuse, and what a worker does with what goes wrong.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pool::{Workers, work};
use super::queue::Queue;
use super::remote::{Dispatch, Errand};
use super::{Home, Job, Offload, Remote, Started, Wake, encode};
use crate::handlers::Handlers;
use crate::http;
use crate::io::{Counts, Token, Waker};
use crate::measure::probe::Off;
use crate::sandbox::{Failure, Handler, Isolation, Limits, ShardSandbox, Source};
use crate::served::Served;

#[test]
fn what_does_not_fit_comes_back() {
    let queue = Queue::new(2);
    let is_due = |item: char| queue.push(item).map(|waking| waking.is_due());
    assert_eq!(is_due('a'), Ok(false), "nobody sleeps");
    assert_eq!(is_due('b'), Ok(false));
    assert_eq!(is_due('c'), Err('c'));
    let pop = || queue.pop(&mut 0, || ());
    assert_eq!(pop(), Some('a'));
    assert_eq!(is_due('c'), Ok(false));
    assert_eq!(queue.remove(|item| *item == 'b'), Some('b'));
    queue.close();
    assert_eq!(is_due('d'), Err('d'), "closed");
    assert_eq!((pop(), pop()), (Some('c'), None));
}

#[test]
fn a_panic_costs_the_request_it_happens_in() {
    let source = Source::Builtin("hello".to_string());
    let handler = Handler::load(&source, Isolation::Native, &Limits::default()).unwrap();
    let check = |lines: &[u8]| http::check_header_lines(lines).map_err(|bad| bad.reason());
    let handler = ShardSandbox::new(&handler, check).unwrap();
    let home = Home::new(Wake::Thread(std::thread::current()));
    let queue = Queue::new(2);
    for _ in 0..2 {
        let errand = Errand {
            job: Job::default(),
            handler: handler.clone(),
            home: home.clone(),
        };
        assert!(queue.push(errand).is_ok());
    }
    queue.close();
    let mut workers = 0;
    let equip = || {
        workers += 1;
        workers
    };
    work(
        &queue,
        equip,
        |_| (),
        |worker, errand| {
            assert!(*worker != 1, "the first one is lost");
            errand.job.fail(Failure::Deadline);
        },
    );
    assert_eq!(workers, 2, "another took its place");
    let mut home_again = Vec::new();
    assert_eq!(home.take(&mut home_again), 0, "it was awake");
    let outcomes: Vec<_> = home_again.iter().map(|job| job.outcome()).collect();
    assert_eq!(outcomes, [Err(Failure::Panic), Err(Failure::Deadline)]);
    assert_eq!(
        Arc::strong_count(&home),
        1,
        "nobody holds on to what is done"
    );
}

/// The panic is in the host's own code, as a guest's never is: in the check of an answer's header lines.
#[test]
fn a_worker_that_panics_is_a_500_and_the_next_request_is_served() {
    static TO_PANIC: AtomicBool = AtomicBool::new(true);
    let source = Source::Builtin("hello".to_string());
    let limits = Limits::default();
    let handler = Handler::load(&source, Isolation::Reuse, &limits).unwrap();
    let handler = ShardSandbox::new(&handler, |_| {
        assert!(!TO_PANIC.swap(false, Ordering::Relaxed), "on purpose");
        Ok(())
    });
    let workers = Workers::start(1, 2, &[], limits.thread_stack_bytes()).expect("a thread");
    let this = Wake::Thread(std::thread::current());
    let counts = Arc::new(Counts::default());
    let mut remote = Remote::<_, Off>::new(workers, handler.unwrap(), this, counts);
    let mut storage = http::HeaderStorage::new();
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let step = http::Decoder::new().decode(text, &mut storage, &http::Limits::default());
    let http::Step::Request { request, .. } = step else {
        panic!("{step:?}, not a request");
    };
    let reply = request.reply();
    let (date, served) = (b"Thu, 01 Jan 1970 00:00:00 GMT", Served::default());
    for (line, body) in [
        ("HTTP/1.1 500 ", "panic\n"),
        ("HTTP/1.1 200 ", "Hello, World!"),
    ] {
        let mut out = Vec::new();
        let started = remote.start(Token::LISTENER, &request, reply, date, &mut out, &served);
        assert_eq!(started, Started::Later);
        let job = loop {
            match remote.next(&served) {
                Some(job) => break job,
                None if remote.may_sleep() => std::thread::park(),
                None => {}
            }
        };
        encode(job.outcome(), reply, date, &mut out, &served);
        let answer = String::from_utf8(out).expect("text");
        assert!(
            answer.starts_with(line) && answer.contains(body),
            "{answer}"
        );
        remote.recycle(job);
    }
    assert_eq!(served.panicked.get(), 1);
}

/// A worker that slept kept the handler of its last errand for as long as it slept.
#[test]
fn a_worker_that_sleeps_lets_go_of_what_was_exchanged() {
    let patience = std::time::Duration::from_secs(30);
    let source = Source::Builtin("hello".to_string());
    let handler = Handler::load(&source, Isolation::Reuse, &Limits::default()).unwrap();
    let check = |lines: &[u8]| http::check_header_lines(lines).map_err(|bad| bad.reason());
    let handlers = Handlers::default();
    let old = ShardSandbox::new(&handler, check).unwrap();
    let workers = Workers::start(2, 2, &[], 1 << 20).unwrap();
    handlers.begin(vec![old.clone()], Some(&workers));
    let home = Home::new(Wake::Thread(std::thread::current()));
    let errand = Errand {
        job: Job::default(),
        handler: old.clone(),
        home: home.clone(),
    };
    assert!(
        workers
            .clone()
            .dispatch::<Off>(errand, &Counts::default())
            .is_ok()
    );
    let mut done = Vec::new();
    let begun = std::time::Instant::now();
    let until = |what: &str, come: &mut dyn FnMut() -> bool| {
        while !come() {
            assert!(begun.elapsed() < patience, "{what}");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    };
    until("it is not done", &mut || {
        home.take(&mut done);
        !done.is_empty()
    });
    // This one's, the route's, and those of the worker that has it ready.
    assert!(Arc::strong_count(&old) > 2);
    handlers.exchange(0, ShardSandbox::new(&handler, check).unwrap());
    until("it is kept", &mut || Arc::strong_count(&old) == 1);
}

#[test]
fn a_batch_wakes_a_sleeping_thread_once_and_one_that_is_awake_never() {
    const THREADS: usize = 4;
    const EACH: usize = 50;
    let waker = Waker::new().expect("a descriptor");
    let home = Home::new(Wake::Driver(waker.clone()));
    let send_batch = || {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| (0..EACH).for_each(|_| home.send(Job::default())));
            }
        });
    };
    let mut jobs = Vec::new();
    for round in 0..10 {
        assert!(home.fall_asleep());
        send_batch();
        assert!(waker.clear(), "round {round}: it was not woken");
        assert_eq!(home.take(&mut jobs), 1, "round {round}");
        assert_eq!(jobs.drain(..).count(), THREADS * EACH);
        send_batch();
        assert!(!waker.clear(), "round {round}: it was awake");
        assert!(!home.fall_asleep(), "round {round}: there are letters");
        assert_eq!(home.take(&mut jobs), 0, "round {round}");
        assert_eq!(jobs.drain(..).count(), THREADS * EACH);
    }
}
