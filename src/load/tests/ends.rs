//! How connections end, and how runs do.

use super::*;

#[test]
fn closes_are_told_apart() {
    for (bytes, cause) in [
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            Failure::Short,
        ),
        ("HTTP/1.1 2", Failure::Short),
        ("", Failure::Closed),
    ] {
        let server = Server::start(move |mut stream| {
            if read_head(&mut stream).is_some() {
                let _ = stream.write_all(bytes.as_bytes());
            }
        });
        let outcome = check_until(&plan(&server), |outcome| outcome.reconnects > 0);
        assert!(
            outcome.failed.of(cause) > 0,
            "{bytes:?}: {:?}",
            outcome.failed
        );
        assert_eq!(outcome.failed.total(), outcome.failed.of(cause));
        assert!(outcome.reconnects > 0);
    }
}

#[test]
fn resets_are_counted_and_the_connection_is_replaced() {
    let server = Server::start(|mut stream| {
        // Closing with bytes unread makes the kernel send a reset (RFC 2525, 2.17).
        let _ = stream.read(&mut [0]);
    });
    let outcome = check_until(&plan(&server), |outcome| outcome.reconnects > 0);
    assert!(
        outcome.failed.of(Failure::Reset) > 0,
        "{:?}",
        outcome.failed
    );
    assert_eq!(outcome.failed.total(), outcome.failed.of(Failure::Reset));
    assert!(outcome.reconnects > 0);
}

#[test]
fn a_server_that_ends_keep_alive_is_followed_without_a_failure() {
    let server = Server::start(|mut stream| {
        for number in 0..5 {
            if read_head(&mut stream).is_none() {
                return;
            }
            let headers = if number == 4 {
                "Connection: close\r\n"
            } else {
                ""
            };
            let _ = stream.write_all(&answer("200 OK", headers, "x"));
        }
    });
    for mode in [Mode::Closed { pipeline: 1 }, open_loop(300.0)] {
        let mut plan = plan(&server);
        plan.mode = mode;
        let outcome = check_until(&plan, |outcome| outcome.answered > 20);
        assert!(outcome.answered > 20, "{mode:?}");
        assert_eq!(outcome.failed.total(), 0, "{mode:?}: {:?}", outcome.failed);
        assert!(outcome.reconnects >= outcome.answered / 5 - 4);
    }
}

#[test]
fn requests_behind_an_announced_close_are_failures() {
    let server = Server::start(|mut stream| {
        if read_head(&mut stream).is_some() {
            let _ = stream.write_all(&answer("200 OK", "Connection: close\r\n", "x"));
            // The rest of the pipeline is read, so that no reset destroys the answer.
            let _ = stream.shutdown(Shutdown::Write);
            while read_head(&mut stream).is_some() {}
        }
    });
    let mut plan = plan(&server);
    plan.mode = Mode::Closed { pipeline: 4 };
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(outcome.failed.of(Failure::Closed), 3 * outcome.answered);
}

#[test]
fn a_server_that_never_answers_makes_timeouts_and_the_run_ends() {
    let server = Server::start(|mut stream| while read_head(&mut stream).is_some() {});
    for mode in [Mode::Closed { pipeline: 2 }, open_loop(100.0)] {
        let mut plan = plan(&server);
        plan.request_timeout = Duration::from_millis(60);
        plan.mode = mode;
        let outcome = check_until(&plan, |outcome| outcome.reconnects > 0);
        assert_eq!(outcome.answered, 0);
        assert!(outcome.failed.of(Failure::TimedOut) > 0, "{mode:?}");
        assert_eq!(outcome.failed.total(), outcome.sent, "{mode:?}");
        assert_eq!(outcome.latency_ns(0.5), None);
        assert!(outcome.reconnects > 0);
        assert!(audit(&outcome).iter().any(|f| f.check == "answers"));
    }
}

#[test]
fn a_server_that_dies_ends_the_run_early_and_partial() {
    let answered = Arc::new(AtomicUsize::new(0));
    let server = Server::answering({
        let answered = Arc::clone(&answered);
        move |_| {
            answered.fetch_add(1, SeqCst);
            ok("x")
        }
    });
    let server = Arc::new(Mutex::new(server));
    let mut plan = plan(&server.lock().unwrap());
    plan.duration = Duration::from_secs(60);
    let killer = thread::spawn({
        let server = Arc::clone(&server);
        move || {
            // Each connection has had an answer by then, and one has had several.
            let began = Instant::now();
            while answered.load(SeqCst) < 100 && began.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(1));
            }
            thread::sleep(Duration::from_millis(200));
            server.lock().unwrap().die();
        }
    });
    let outcome = check(&plan);
    killer.join().unwrap();
    assert_eq!(outcome.ended, Ended::TargetGone);
    assert!(outcome.is_partial() && outcome.answered > 0);
    assert!(outcome.connect_failures > 0);
    assert!(outcome.last_connect_error.is_some());
    assert!(outcome.window < plan.duration);
}

#[test]
fn a_target_that_never_comes_up_is_an_error_that_says_so() {
    // Bound, so that nobody else gets it, and not listened at.
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let taken = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(taken.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
    let address: SockaddrIn = getsockname(taken.as_raw_fd()).unwrap();
    let address = SocketAddrV4::from(address).into();
    for (idle, wanted) in [(0, 4), (2, 2)] {
        let mut plan = plan_to(address);
        plan.start_timeout = Duration::from_millis(100);
        plan.idle_connections = idle;
        let error = run(&plan, &AtomicBool::new(false), &mut ()).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains(&format!("0 of {wanted} connections")),
            "{text}"
        );
        assert!(
            text.contains("refused") && text.contains("start the server"),
            "{text}"
        );
    }
}

#[test]
fn the_stop_flag_ends_the_run_with_what_was_measured() {
    struct Stopper<'a>(&'a AtomicBool, Option<Instant>);
    impl Observer for Stopper<'_> {
        fn tick(&mut self, progress: &Progress) {
            if progress.phase == Phase::Window && progress.answered > 0 && self.1.is_none() {
                self.0.store(true, SeqCst);
                self.1 = Some(Instant::now());
            }
        }
        fn window_closes(&mut self, _: &Progress) {
            panic!("a stopped run's window has no planned close");
        }
    }
    let server = Server::answering(|_| ok("x"));
    for mode in [Mode::Closed { pipeline: 1 }, open_loop(500.0)] {
        let stop = AtomicBool::new(false);
        let mut stopper = Stopper(&stop, None);
        let mut plan = plan(&server);
        (plan.duration, plan.mode) = (Duration::from_secs(60), mode);
        let outcome = run(&plan, &stop, &mut stopper).unwrap();
        assert!(stopper.1.unwrap().elapsed() < Duration::from_secs(5));
        assert_adds_up(&outcome);
        assert_eq!(outcome.ended, Ended::Stopped);
        assert!(outcome.in_window.answered > 0);
        assert!(outcome.window > Duration::ZERO && outcome.window < plan.duration);
    }
}

#[test]
fn the_observer_sees_the_window_open_and_close() {
    #[derive(Default)]
    struct Log(Vec<(&'static str, u64)>);
    impl Observer for Log {
        fn window_opens(&mut self, progress: &Progress) {
            self.0.push(("opens", progress.answered));
        }
        fn window_closes(&mut self, progress: &Progress) {
            self.0.push(("closes", progress.answered));
        }
    }
    let server = Server::answering(|_| ok("x"));
    let mut plan = plan(&server);
    loop {
        let mut log = Log::default();
        let outcome = run(&plan, &AtomicBool::new(false), &mut log).unwrap();
        let [("opens", before), ("closes", after)] = log.0[..] else {
            panic!("{:?}", log.0);
        };
        assert!(before <= after && after <= outcome.answered);
        if before < after {
            break;
        }
        assert!(plan.duration < Duration::from_secs(5), "nothing is counted");
        plan.duration *= 4;
    }
}
