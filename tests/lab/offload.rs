//! Handlers on other threads, and in slices: answers leave in order, limits hold, and whoever leaves is
//! not worked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use ringlab::offload::Policy;

use crate::client::{Client, get, post};
use crate::guests::{File, misbehaving, store};
use crate::refusals::can_be_asked;
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    answers_leave_in_order,
    a_light_request_does_not_wait_for_a_heavy_one,
    a_guest_that_loops_is_ended,
    too_many_requests_are_a_503,
    a_thread_that_is_not_born_is_a_503,
    a_connection_that_waits_is_not_read_without_bound,
    what_runs_is_answered_before_the_end,
    past_the_drain_limit_it_is_a_503,
    what_is_queued_is_answered_before_the_end,
    past_the_drain_limit_what_is_queued_is_a_503,
    a_client_that_leaves_its_answer_unsent_leaves_nothing,
];

/// A thread that waits for a handler does not see its client leave; whoever is told by the kernel does.
mod on_every_model_that_is_told {
    crate::tests_at!(
        nonblocking,
        "nonblocking",
        Reuse,
        a_client_that_leaves_is_not_worked_for
    );
    crate::tests_at!(
        epoll,
        "epoll",
        Reuse,
        a_client_that_leaves_is_not_worked_for
    );
    crate::tests_at!(
        signal,
        "signal",
        Reuse,
        a_client_that_leaves_is_not_worked_for
    );
    crate::tests_at!(
        io_uring,
        "io_uring",
        Reuse,
        a_client_that_leaves_is_not_worked_for
    );
    crate::tests_at!(
        tokio_uring,
        "tokio_uring",
        Reuse,
        a_client_that_leaves_is_not_worked_for
    );

    use super::a_client_that_leaves_is_not_worked_for;
}

/// The policies whose answers may come later.
const LATER: [Policy; 3] = [Policy::Spawn, Policy::Pool, Policy::TimeSlice];

/// Does not end by itself, with a deadline that never passes here.
const FOR_EVER: &str = "(loop $again (br $again))";
const NO_DEADLINE: [&str; 2] = ["--deadline", "1h"];

impl Lab {
    /// Those that go with the model; each model has some.
    fn policies(self) -> impl Iterator<Item = Policy> {
        let goes = move |policy: &Policy| policy.check(self.model.shape).is_ok();
        LATER.into_iter().filter(goes)
    }

    /// Those of them in which a request may have to wait before it begins.
    fn policies_that_queue(self) -> impl Iterator<Item = Policy> {
        self.policies().filter(|policy| *policy != Policy::Spawn)
    }

    fn offload(self, policy: Policy, handler: &str, options: &[&str]) -> Server {
        let name = policy.to_string();
        self.serve(handler, &[&["--offload", &name], options].concat())
    }
}

/// Options with which a second request waits while a first one runs.
fn one_at_a_time(policy: Policy) -> &'static [&'static str] {
    match policy {
        Policy::TimeSlice => &["--instances", "1"],
        _ => &["--workers", "1"],
    }
}

/// A guest that answers `fine`, and runs for ever when the request has a body.
fn runs_for_ever() -> File {
    File::new("for-ever.wat", misbehaving([FOR_EVER]))
}

fn heavy() -> Vec<u8> {
    post(b"!")
}

fn expect_fine(client: &mut Client) {
    let response = client.receive();
    assert_eq!((response.status, response.text()), (200, "fine"));
}

fn answers_leave_in_order(lab: Lab) {
    for policy in lab.policies() {
        let server = lab.offload(policy, "spin", &[]);
        let mut client = server.connect();
        let steps = [3_000_000, 2, 900_000, 1, 0];
        let requests = steps.map(|steps| get(&format!("/spin?iterations={steps}")));
        client.send(requests.concat());
        let first = steps.map(|_| client.receive().text().to_owned());
        for (steps, first) in steps.into_iter().zip(first) {
            client.send(get(&format!("/spin?iterations={steps}")));
            assert_eq!(client.receive().text(), first, "{policy}: {steps} steps");
        }
    }
}

fn a_light_request_does_not_wait_for_a_heavy_one(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies() {
        let server = lab.offload(policy, guest.path(), &NO_DEADLINE);
        let mut heavy_client = server.connect();
        heavy_client.send(heavy());
        let mut light_client = server.connect();
        light_client.send(get("/").repeat(3));
        for _ in 0..3 {
            expect_fine(&mut light_client);
        }
    }
}

fn a_guest_that_loops_is_ended(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies() {
        let server = lab.offload(policy, guest.path(), &["--deadline", "20ms"]);
        let mut client = server.connect();
        client.send(heavy());
        let response = client.receive();
        assert_eq!((response.status, response.text()), (504, "deadline\n"));
        client.send(get("/"));
        expect_fine(&mut client);
    }
}

fn too_many_requests_are_a_503(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies() {
        let limits = [&NO_DEADLINE[..], &["--queue", "1"], one_at_a_time(policy)].concat();
        let mut server = lab.offload(policy, guest.path(), &limits);
        let mut clients: Vec<_> = (0..6).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.send(heavy());
        }
        // One in the worker's hands or half run, one in the queue; under spawn, one thread. A refusal
        // is counted before it is sent.
        server.until("refused", |now| now.served.queue_full >= 4);
        let start = std::time::Instant::now();
        let refused = loop {
            if let Some(response) = clients.iter_mut().find_map(Client::receive_if_there) {
                break response;
            }
            assert!(start.elapsed() < crate::PATIENCE, "{policy}: no refusal");
            std::thread::yield_now();
        };
        assert_eq!(refused.status, 503, "{policy}");
        assert_eq!(refused.text(), "queue full\n", "{policy}");
        assert_eq!(refused.header("retry-after"), Some("1"), "{policy}");
    }
}

/// EAGAIN, as where RLIMIT_NPROC or a container's limit of processes is reached; root, as whom tests may
/// run, has none, so this test answers in the kernel's place.
fn a_thread_that_is_not_born_is_a_503(lab: Lab) {
    if !can_be_asked() {
        return;
    }
    let none_left = Arc::new(AtomicBool::new(false));
    let rule = {
        let none_left = none_left.clone();
        move |_| none_left.load(Ordering::SeqCst).then_some(Errno::EAGAIN)
    };
    let births = [libc::SYS_clone, libc::SYS_clone3];
    let mut server = lab.serve_answered("hello", &["--offload", "spawn"], &births, rule);
    // When it answers here, the threads are born that it serves with.
    server.figures();
    let mut client = server.connect();
    let mut expect = |status, text: &str| {
        client.send(get("/"));
        let response = client.receive();
        assert_eq!((response.status, response.text()), (status, text));
        let retry = (status == 503).then_some("1");
        assert_eq!(response.header("retry-after"), retry);
    };
    expect(200, "Hello, World!\n");
    none_left.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        expect(503, "no thread\n");
    }
    none_left.store(false, Ordering::SeqCst);
    expect(200, "Hello, World!\n");
    assert_eq!(server.figures().served.no_thread, 3);
    server.signal(Signal::SIGTERM);
    let (status, said) = server.end();
    assert!(
        status.success() && said.contains("no thread could be started"),
        "{status}: {said}"
    );
}

fn a_client_that_leaves_is_not_worked_for(lab: Lab) {
    let guest = runs_for_ever();
    let leave: [fn(Client); 2] = [Client::reset, drop];
    for (policy, leave) in lab.policies().flat_map(|p| leave.map(|l| (p, l))) {
        let limits = [&NO_DEADLINE[..], &["--queue", "2"], one_at_a_time(policy)].concat();
        let mut server = lab.offload(policy, guest.path(), &limits);
        let mut running = server.connect();
        running.send(heavy());
        let mut queued = server.connect();
        queued.send(heavy());
        server.until_received(2 * heavy().len() as u64);
        leave(running);
        leave(queued);
        server.until("cancelled", |now| now.served.cancelled == 2);
        // Whoever comes next has the place of those who left: nothing else would end them.
        let mut client = server.connect();
        let start = std::time::Instant::now();
        loop {
            client.send(get("/"));
            let response = client.receive();
            if response.status == 200 {
                break;
            }
            assert_eq!((policy, response.status), (Policy::Spawn, 503));
            assert!(start.elapsed() < crate::PATIENCE, "the threads do not end");
        }
    }
}

fn a_connection_that_waits_is_not_read_without_bound(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies() {
        let mut server = lab.offload(policy, guest.path(), &NO_DEADLINE);
        let mut client = server.connect();
        client.send(heavy());
        server.until_received(heavy().len() as u64);
        let flood = get("/").repeat(1_000_000);
        let sent = client.send_what_fits(flood.as_bytes()).expect("no reset");
        assert!(sent < flood.len(), "{policy}: all of it was taken");
        let taken = server.figures().served.bytes_in;
        assert!(taken < 1024 * 1024, "{policy}: {taken} bytes were taken in");
    }
}

fn what_runs_is_answered_before_the_end(lab: Lab) {
    for policy in lab.policies() {
        let mut server = lab.offload(policy, "spin", &[]);
        let mut client = server.connect();
        client.send(get("/spin?ms=150").repeat(2));
        server.until("received", |now| now.served.bytes_in > 0);
        server.signal(Signal::SIGTERM);
        for _ in 0..2 {
            assert_eq!(client.receive().status, 200, "{policy}");
        }
        client.expect_fin();
        assert!(server.end().0.success(), "{policy}");
    }
}

fn past_the_drain_limit_it_is_a_503(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies() {
        let limits = [&NO_DEADLINE[..], &["--drain", "50ms"]].concat();
        let mut server = lab.offload(policy, guest.path(), &limits);
        let mut client = server.connect();
        client.send(heavy());
        server.until_received(heavy().len() as u64);
        server.signal(Signal::SIGTERM);
        let response = client.receive();
        assert_eq!((response.status, response.text()), (503, "shutting down\n"));
        client.expect_fin();
        assert!(server.end().0.success(), "{policy}");
    }
}

/// Ends a server in which one request runs and others wait for its place, each `queued`; the one that
/// runs comes first.
fn end_with_a_queue(server: &mut Server, queued: &[u8]) -> [Client; 3] {
    let mut clients = [(); 3].map(|()| server.connect());
    let mut received = 0;
    for (nth, client) in clients.iter_mut().enumerate() {
        let request = if nth == 0 { heavy() } else { queued.to_vec() };
        client.send(&request);
        received += request.len() as u64;
        server.until_received(received);
    }
    server.signal(Signal::SIGTERM);
    clients
}

fn what_is_queued_is_answered_before_the_end(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies_that_queue() {
        let time = [
            "--deadline",
            "300ms",
            "--instance-wait",
            "1h",
            "--drain",
            "1m",
        ];
        let limits = [&time[..], one_at_a_time(policy)].concat();
        let mut server = lab.offload(policy, guest.path(), &limits);
        let [mut running, mut queued @ ..] = end_with_a_queue(&mut server, get("/").as_bytes());
        assert_eq!(running.receive().status, 504, "{policy}");
        running.expect_fin();
        for client in &mut queued {
            expect_fine(client);
            client.expect_fin();
        }
        assert!(server.end().0.success(), "{policy}");
    }
}

fn past_the_drain_limit_what_is_queued_is_a_503(lab: Lab) {
    let guest = runs_for_ever();
    for policy in lab.policies_that_queue() {
        let drain = ["--drain", "50ms", "--instance-wait", "1h"];
        let limits = [&NO_DEADLINE[..], &drain, one_at_a_time(policy)].concat();
        let mut server = lab.offload(policy, guest.path(), &limits);
        // What is behind the first request of a pipeline is not begun any more.
        let queued = [heavy(), heavy()].concat();
        for mut client in end_with_a_queue(&mut server, &queued) {
            let response = client.receive();
            assert_eq!((response.status, response.text()), (503, "shutting down\n"));
            assert_eq!(response.header("connection"), Some("close"), "{policy}");
            client.expect_fin();
        }
        assert!(server.end().0.success(), "{policy}");
    }
}

/// More than sockets hold, so that the most of it stays with the server while nobody reads.
const LARGE_BYTES: u32 = 12 << 20;

/// A guest that answers `fine`; when the request has a body of one byte, at length and after more than
/// a slice, and of two bytes, never.
fn answers_at_length() -> File {
    let count = "(i32.const 65536)";
    let long = format!(
        "(i32.store {count} (i32.const 0))
        (loop $again
            (i32.store {count} (i32.add (i32.load {count}) (i32.const 1)))
            (br_if $again (i32.ne (i32.load {count}) (i32.const 5000000))))"
    );
    // Its answer's length is the record's fifth word.
    let large = store(16, LARGE_BYTES);
    let text = misbehaving([&*format!("{long}{large}"), FOR_EVER]);
    let fine_otherwise = store(16, 4);
    let text = text
        .replace("(export \"memory\") 4", "(export \"memory\") 256")
        .replacen("(if (i32.eq", &format!("{fine_otherwise}(if (i32.eq"), 1);
    File::new("at-length.wat", text)
}

fn a_client_that_leaves_its_answer_unsent_leaves_nothing(lab: Lab) {
    let guest = answers_at_length();
    let options = [&NO_DEADLINE[..], &["--response", "16MiB"]].concat();
    for policy in lab.policies() {
        let mut server = lab.offload(policy, guest.path(), &options);
        // Beside one that never ends, slices are short.
        let mut for_ever = server.connect();
        for_ever.send(post(b"!!"));
        server.until_received(post(b"!!").len() as u64);
        let leave: [fn(Client); 2] = [Client::reset, drop];
        for (nth, leave) in (1..).zip(leave) {
            let mut client = server.connect();
            client.send(heavy());
            // Some has come, so the rest is on its way.
            client.receive_at_least(64 * 1024);
            leave(client);
            let left = server.until("closed", |now| now.served.closed == 2 * nth - 1);
            let served = left.served;
            assert_eq!((served.cancelled, served.failed), (0, 0), "{policy}");
            assert_eq!(served.timed_out, 0, "{policy}");
            assert!(served.bytes_out < u64::from(LARGE_BYTES), "{policy}");
            // Whoever comes next is answered, by the handler that the other one had.
            let mut next = server.connect();
            next.send(get("/"));
            expect_fine(&mut next);
            drop(next);
            server.until("closed", |now| now.served.closed == 2 * nth);
        }
        let served = server.figures().served;
        assert_eq!((served.accepted, served.answered), (5, 4), "{policy}");
        assert_eq!(served.come_home, 4 * u64::from(policy != Policy::TimeSlice));
    }
}
