//! Whole runs against small servers, each with one fault.
//!
//! They test behaviour: what is counted where, and that every run ends. No
//! assertion depends on how fast this machine is, beyond bounds of seconds.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};

use super::*;

/// A server on a free port, one thread per connection; gone when dropped.
struct Server {
    address: SocketAddr,
    gone: Arc<AtomicBool>,
    /// Every open connection, to be cut when the server dies.
    open: Arc<Mutex<HashMap<usize, TcpStream>>>,
    accepting: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(life: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        Self::start_counting(move |_, stream| life(stream))
    }

    /// The same; each life is told how many connections there were before.
    fn start_counting(life: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let gone = Arc::new(AtomicBool::new(false));
        let open = Arc::new(Mutex::new(HashMap::new()));
        let life = Arc::new(life);
        let accepting = thread::spawn({
            let (gone, open) = (Arc::clone(&gone), Arc::clone(&open));
            move || {
                for (number, stream) in listener.incoming().enumerate() {
                    if gone.load(SeqCst) {
                        return;
                    }
                    let stream = stream.unwrap();
                    stream.set_nodelay(true).unwrap();
                    let clone = stream.try_clone().unwrap();
                    open.lock().unwrap().insert(number, clone);
                    let (life, open) = (Arc::clone(&life), Arc::clone(&open));
                    thread::spawn(move || {
                        // The last owner's drop closes; the clone must go first.
                        let last = stream.try_clone().unwrap();
                        life(number, stream);
                        open.lock().unwrap().remove(&number);
                        drop(last);
                    });
                }
            }
        });
        Self {
            address,
            gone,
            open,
            accepting: Some(accepting),
        }
    }

    /// Answers the nth request of a connection (from 0) with `answer(n)`.
    fn answering(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start(move |mut stream| {
            for number in 0.. {
                if read_head(&mut stream).is_none() || stream.write_all(&answer(number)).is_err() {
                    return;
                }
            }
        })
    }

    /// Closes the port and every connection.
    fn die(&mut self) {
        let Some(accepting) = self.accepting.take() else {
            return;
        };
        self.gone.store(true, SeqCst);
        let _ = TcpStream::connect(self.address);
        accepting.join().unwrap();
        for stream in self.open.lock().unwrap().values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

/// One request's head; `None` at the end of the stream.
fn read_head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    Some(head)
}

fn ok(body: &str) -> Vec<u8> {
    answer("200 OK", "", body)
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}").into_bytes()
}

fn plan(server: &Server) -> Plan {
    plan_to(server.address)
}

/// Four connections, closed loop, 50 ms of warm-up and 100 ms of window.
fn plan_to(address: SocketAddr) -> Plan {
    Plan {
        connections: 4,
        warm_up: Duration::from_millis(50),
        duration: Duration::from_millis(100),
        request_timeout: Duration::from_secs(5),
        ..Plan::new(address, "test", vec![Target::get("/")])
    }
}

fn open_loop(rate: f64) -> Mode {
    Mode::Open {
        rate,
        arrivals: Arrivals::Constant,
    }
}

/// Runs a plan, and checks what must hold of every run.
fn check(plan: &Plan) -> Outcome {
    let began = Instant::now();
    let outcome = run(plan, &AtomicBool::new(false), &mut ()).expect("the run takes place");
    let bound = plan.warm_up + plan.duration + plan.request_timeout + Duration::from_secs(5);
    assert!(
        began.elapsed() < bound,
        "the run took {:?}",
        began.elapsed()
    );
    assert_adds_up(&outcome);
    outcome
}

/// The same, in a longer window and a longer one until it was long enough: what a machine that stalls
/// kept from happening in the first one does then.
fn check_until(plan: &Plan, mut enough: impl FnMut(&Outcome) -> bool) -> Outcome {
    let mut plan = plan.clone();
    loop {
        let outcome = check(&plan);
        if enough(&outcome) || plan.duration > Duration::from_secs(5) {
            return outcome;
        }
        plan.duration *= 4;
    }
}

fn assert_adds_up(outcome: &Outcome) {
    let broken = audit(outcome).into_iter().find(|f| f.check == "accounting");
    assert_eq!(broken, None);
}

/// A run in which every request fails for one cause, or nearly every one: the
/// last of a connection may be cut by its close.
fn check_fails(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static, cause: Failure) {
    let server = Server::answering(answer);
    let outcome = check(&plan(&server));
    assert!(
        outcome.failed.of(cause) > 0,
        "{cause:?}: {:?}",
        outcome.failed
    );
    assert_eq!(outcome.failed.total(), outcome.failed.of(cause));
    assert_eq!(outcome.in_flight_at_end, 0);
}

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
fn wrong_answers_are_failures_by_cause() {
    check_fails(|_| answer("500 Oops", "", "x"), Failure::WrongStatus);
    check_fails(|_| b"SSH-2.0-x\r\n\r\n".to_vec(), Failure::Malformed);
    check_fails(
        |_| b"HTTP/1.1 200 OK\r\n\r\nbody".to_vec(),
        Failure::Unframed,
    );
}

#[test]
fn a_length_that_changes_is_a_failure() {
    let server = Server::answering(|n| ok(if n == 3 { "other" } else { "same" }));
    let mut plan = plan(&server);
    plan.connections = 1;
    let outcome = check_until(&plan, |outcome| outcome.sent > 3);
    assert_eq!(outcome.failed.of(Failure::WrongLength), 1);
    assert_eq!(outcome.failed.total(), 1);
    assert_eq!(outcome.reconnects, 0);
}

#[test]
fn a_wrong_body_of_the_right_length_is_a_failure() {
    let server = Server::answering(|n| ok(if n % 2 == 0 { "right" } else { "wrong" }));
    let mut plan = plan(&server);
    plan.targets[0].expect.body = Some(b"right".to_vec());
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(
        outcome.failed.total(),
        outcome.failed.of(Failure::WrongBody)
    );
    assert!(outcome.failed.total().abs_diff(outcome.answered) <= 4);
}

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

#[test]
fn answers_in_single_bytes_behind_interim_ones_are_right() {
    let server = Server::start(|mut stream| {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
        while read_head(&mut stream).is_some() {
            for byte in [interim.clone(), ok("hello")].concat() {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
            }
        }
    });
    let mut plan = plan(&server);
    plan.targets[0].expect.body = Some(b"hello".to_vec());
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(outcome.failed.total(), 0);
}

#[test]
fn bodies_larger_than_any_buffer_go_out_and_come_in_whole() {
    const LENGTH: usize = 8 << 20;
    let server = Server::start(|mut stream| {
        let mut body = vec![0; LENGTH];
        while read_head(&mut stream).is_some() && stream.read_exact(&mut body).is_ok() {
            assert!(body.iter().all(|&b| b == b'b'));
            if stream.write_all(&ok(&"a".repeat(LENGTH))).is_err() {
                return;
            }
        }
    });
    let mut plan = plan(&server);
    plan.connections = 2;
    plan.targets[0].method = "POST".into();
    plan.targets[0].body = vec![b'b'; LENGTH];
    plan.targets[0].expect.length = BodyLength::Exactly(LENGTH as u64);
    let outcome = check(&plan);
    assert!(outcome.answered > 0);
    assert_eq!(outcome.failed.total(), 0);
}

#[test]
fn bytes_that_answer_nothing_are_counted() {
    let server = Server::answering(|_| [ok("x"), b"surplus".to_vec()].concat());
    let outcome = check(&plan(&server));
    assert!(outcome.unsolicited > 0);
    assert!(audit(&outcome).iter().any(|f| f.check == "unsolicited"));
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
