//! What is sent when, and to whom: closed loops, open ones, several side by side.

use super::*;

#[test]
fn a_closed_loop_counts_what_the_server_counts() {
    let received = Arc::new(AtomicUsize::new(0));
    let server = Server::answering({
        let received = Arc::clone(&received);
        move |_| {
            received.fetch_add(1, SeqCst);
            ok("hello")
        }
    });
    let outcome = check_until(&plan(&server), |outcome| {
        assert_eq!(outcome.sent, received.swap(0, SeqCst) as u64);
        outcome.in_window.completed > 0
    });
    assert!(outcome.sent > 0);
    assert_eq!(outcome.sent, outcome.answered);
    assert_eq!(outcome.failed.total(), 0);
    assert_eq!((outcome.reconnects, outcome.ended), (0, Ended::Complete));
    assert!(outcome.window >= Duration::from_millis(100));
    let one_answer = ok("hello").len() as u64;
    assert_eq!(outcome.bytes_in, outcome.answered * one_answer);
    assert!(outcome.throughput().unwrap() > 0.0);
    assert!(outcome.client.cpu_ns > 0 && outcome.waits.events > 0);
}

#[test]
fn a_pipeline_is_sent_whole_and_refilled_whole() {
    let server = Server::start(|mut stream| {
        let mut buffer = [0; 4096];
        let request = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
        loop {
            // A batch is one segment: far smaller than the loopback's.
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(count) => assert_eq!(&buffer[..count], request.repeat(8).as_bytes()),
            }
            // Halves, so that a refill before the last answer would be seen.
            stream.write_all(&ok("x").repeat(4)).unwrap();
            thread::sleep(Duration::from_millis(1));
            stream.write_all(&ok("x").repeat(4)).unwrap();
        }
    });
    let mut plan = plan(&server);
    plan.mode = Mode::Closed { pipeline: 8 };
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(outcome.answered % 8, 0);
    assert_eq!(outcome.failed.total(), 0);
}

#[test]
fn one_request_per_connection_opens_one_for_each() {
    let server = Server::start(|mut stream| {
        let head = read_head(&mut stream);
        if head.is_some_and(|head| head.ends_with(b"Connection: close\r\n\r\n")) {
            let _ = stream.write_all(&answer("200 OK", "Connection: close\r\n", "x"));
        }
    });
    for mode in [Mode::Closed { pipeline: 1 }, open_loop(200.0)] {
        let mut plan = plan(&server);
        plan.reuse = ConnectionUse::OnePerRequest;
        plan.mode = mode;
        let outcome = check_until(&plan, |outcome| outcome.answered > 4);
        assert!(outcome.answered > 4, "{mode:?}: {}", outcome.answered);
        assert_eq!(outcome.failed.total(), 0, "{mode:?}: {:?}", outcome.failed);
        assert!(outcome.reconnects + 4 >= outcome.answered);
    }
}

#[test]
fn an_open_loop_sends_every_planned_request() {
    for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
        let server = Server::answering(|_| ok("hello"));
        let mut plan = plan(&server);
        plan.connections = 16;
        plan.mode = Mode::Open {
            rate: 1000.0,
            arrivals,
        };
        let outcome = check(&plan);
        assert_eq!(outcome.planned, outcome.sent + outcome.unsent);
        if arrivals == Arrivals::Constant {
            assert_eq!((outcome.planned, outcome.in_window.planned), (150, 100));
        }
        assert!(outcome.answered > 0);
        let in_window = outcome.in_window;
        assert_eq!(in_window.answered, in_window.planned - in_window.unsent);
        assert_eq!(outcome.service_time.len(), in_window.answered);
        assert_eq!(outcome.pacing_error.len(), in_window.answered);
        assert!(outcome.service_time.max() <= outcome.latency.max());
    }
}

/// Who spins looks for events all the time before a send, and who does not sleeps until then.
#[test]
fn only_who_is_asked_to_spins_before_a_send() {
    let server = Server::answering(|_| ok("hello"));
    let looks = |spins: bool| {
        let mut plan = plan(&server);
        plan.mode = open_loop(100.0);
        plan.spins = spins;
        let outcome = check_until(&plan, |outcome| outcome.answered > 5);
        let duties = outcome.planned + outcome.waits.woken;
        (outcome.waits.empty, duties)
    };
    let (in_vain, duties) = looks(false);
    // A tick is a duty too, fifty times a second.
    assert!(in_vain < 4 * duties + 50, "{in_vain} for {duties}");
    let (in_vain, duties) = looks(true);
    assert!(in_vain > 10 * duties, "{in_vain} for {duties}");
}

#[test]
fn classes_run_side_by_side_and_each_is_counted_by_itself() {
    // Which class a request is of is seen by its path; the heavy take 20 ms.
    let server = Server::start(|mut stream| {
        while let Some(head) = read_head(&mut stream) {
            let is_heavy = head.starts_with(b"GET /heavy");
            if is_heavy {
                thread::sleep(Duration::from_millis(20));
            }
            let answer = ok(if is_heavy { "heavy one" } else { "light" });
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let (mut light, mut heavy) = (plan(&server), plan(&server));
    (light.connections, light.mode) = (16, open_loop(1000.0));
    heavy.targets = vec![Target::get("/heavy")];
    heavy.connections = 2;
    let mut plans = [light, heavy];
    let outcomes = loop {
        let outcomes = run_together(&plans, &AtomicBool::new(false), &mut ()).unwrap();
        let enough = |outcome: &Outcome| outcome.in_window.answered > 0;
        let longest = Duration::from_secs(5);
        if outcomes.iter().all(enough) || plans[0].duration > longest {
            break outcomes;
        }
        plans.iter_mut().for_each(|plan| plan.duration *= 4);
    };
    let [light, heavy] = &outcomes[..] else {
        panic!("{} outcomes", outcomes.len());
    };
    for outcome in [light, heavy] {
        assert_adds_up(outcome);
        assert_eq!(outcome.failed.total(), 0, "{:?}", outcome.failed);
        assert!(outcome.in_window.answered > 0);
    }
    assert_eq!(light.planned, light.sent + light.unsent);
    assert_eq!((heavy.planned, heavy.mode), (0, plans[1].mode));
    assert!(heavy.latency.min() >= 19_000_000, "{}", heavy.latency.min());
    // Two are always running, each for at least 20 ms.
    let most = 1.0 + 2.0 * plans[1].duration.as_secs_f64() / 0.020;
    assert!(heavy.answered_in_part > 0.0 && heavy.answered_in_part < most);
    let mut unlike = plans;
    unlike[1].duration *= 2;
    let error = run_together(&unlike, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(error.to_string().contains("one duration"), "{error}");
}

#[test]
fn a_slow_server_makes_an_open_loop_wait_and_the_wait_is_counted() {
    let server = Server::answering(|_| {
        thread::sleep(Duration::from_millis(20));
        ok("slow")
    });
    let mut plan = plan(&server);
    (plan.connections, plan.mode) = (1, open_loop(500.0));
    // The backlog's head was planned long ago: a warm-up would hold it all.
    plan.warm_up = Duration::ZERO;
    let outcome = check_until(&plan, |outcome| outcome.answered >= 2);
    // Every 2 ms one is planned, and every 20 ms one can be sent.
    assert_eq!(outcome.planned % 50, 0);
    let (unsent, planned) = (outcome.unsent, outcome.planned);
    assert!(unsent * 5 > planned * 4, "{unsent} of {planned}");
    assert!(outcome.waited > 0);
    // Of the requests planned 2 ms apart and answered 20 ms apart, each waits
    // 18 ms longer than the one before.
    assert!(outcome.answered >= 2);
    assert!(outcome.latency.max() > outcome.service_time.min() + 15_000_000);
    assert!(
        audit(&outcome)
            .iter()
            .any(|f| (f.check, f.severity) == ("rate", Severity::Invalid))
    );
}

#[test]
fn targets_are_asked_for_by_weight_and_each_gets_its_own_check() {
    let asked = Arc::new(Mutex::new([0_usize; 3]));
    let server = Server::start({
        let asked = Arc::clone(&asked);
        move |mut stream| {
            while let Some(head) = read_head(&mut stream) {
                let (which, answer) = match head.split(|&b| b == b' ').next() {
                    Some(b"GET") => (0, ok("one")),
                    Some(b"HEAD") => (1, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec()),
                    _ => {
                        let mut body = [0; 4];
                        stream.read_exact(&mut body).unwrap();
                        assert_eq!(&body, b"body");
                        (2, answer("201 Created", "", "a longer one"))
                    }
                };
                asked.lock().unwrap()[which] += 1;
                if stream.write_all(&answer).is_err() {
                    return;
                }
            }
        }
    });
    let mut plan = plan(&server);
    let target = |weight, method: &str, body: &str, status| Target {
        weight,
        method: method.into(),
        body: body.into(),
        expect: Expect {
            status: Some(status),
            ..Expect::default()
        },
        ..Target::get("/")
    };
    plan.targets = vec![
        target(2, "GET", "", 200),
        target(1, "HEAD", "", 200),
        target(1, "POST", "body", 201),
    ];
    plan.mode = Mode::Closed { pipeline: 4 };
    let mut of_last = [0; 3];
    let outcome = check_until(&plan, |outcome| {
        of_last = std::mem::take(&mut *asked.lock().unwrap());
        outcome.answered > 100
    });
    assert_eq!(outcome.failed.total(), 0, "{:?}", outcome.failed);
    let [get, head, post] = of_last;
    assert_eq!((get + head + post) as u64, outcome.answered);
    assert!(get > head && get > post && head > 0 && post > 0);
}

#[test]
fn idle_connections_stay_and_those_that_do_not_are_counted() {
    let is_closed = AtomicBool::new(false);
    let server = Server::start_counting(move |number, mut stream| {
        // The first connection is an idle one: it is closed at once, before anything is answered.
        if number == 0 {
            let _ = stream.shutdown(Shutdown::Both);
            is_closed.store(true, SeqCst);
            return;
        }
        while read_head(&mut stream).is_some() {
            while !is_closed.load(SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
            if stream.write_all(&ok("x")).is_err() {
                return;
            }
        }
    });
    let mut plan = plan(&server);
    plan.idle_connections = 5;
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!((outcome.idle_connections, outcome.idle_open_at_end), (5, 4));
}

#[test]
fn threads_share_the_load_and_are_pinned() {
    let usable = core_affinity::get_core_ids().unwrap();
    let server = Server::answering(|_| ok("x"));
    let mut plan = plan(&server);
    plan.cores = usable.iter().take(2).map(|core| core.id).collect();
    (plan.connections, plan.mode) = (5, open_loop(400.0));
    let outcome = check(&plan);
    assert_eq!(outcome.threads, plan.cores.len());
    // 0.15 s of 400 per second, split evenly.
    assert_eq!(outcome.planned, 60);
    plan.cores = vec![100_000];
    let error = run(&plan, &AtomicBool::new(false), &mut ()).unwrap_err();
    assert!(
        matches!(error, LoadError::Core { core: 100_000, .. }),
        "{error}"
    );
}
