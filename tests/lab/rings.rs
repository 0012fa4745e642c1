//! The `io_uring` model where its queues are full and its buffers run out. What is to come at once
//! is sent while the server is stopped, so that it finds it in one turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use ringlab::descriptors;
use ringlab::sandbox::Isolation;

use crate::Lab;
use crate::client::{Client, pattern, post};
use crate::refusals::can_be_asked;
use crate::server::Server;

fn on_a_ring(behaviour: fn(Lab)) {
    crate::run("io_uring", Isolation::Reuse, behaviour);
}

fn crowd(server: &Server, clients: usize) -> Vec<Client> {
    let needed = 2000;
    assert!(
        descriptors::allow(needed) >= needed,
        "the tests need {needed} descriptors; raise `ulimit -n`"
    );
    server.while_stopped(|| (0..clients).map(|_| server.connect()).collect())
}

/// Far more bytes at once than the ring has buffers for: whoever finds none waits, and nobody is
/// reset.
#[test]
fn buffers_that_run_out_push_back() {
    on_a_ring(|lab| {
        // Fits the sockets' buffers, whether or not anybody reads.
        const AT_ONCE: usize = 48_000;
        let mut server = lab.serve("echo", &[]);
        let mut clients = crowd(&server, 32);
        clients.iter_mut().for_each(Client::expect_open);
        for round in 1..=3 {
            let body = pattern(100_000 * round);
            let (first, rest) = (post(&body), post(&body).split_off(AT_ONCE));
            server.while_stopped(|| {
                for client in &mut clients {
                    client.send(&first[..AT_ONCE]);
                }
            });
            let last = round == 3;
            let mut senders = Vec::new();
            for client in &mut clients {
                match last {
                    true => senders.push(client.send_aside(rest.clone())),
                    false => client.send(&rest),
                }
            }
            for client in &mut clients {
                let response = client.receive();
                assert!(
                    response.status == 200 && response.body == body,
                    "round {round}"
                );
            }
            for sender in senders {
                sender
                    .join()
                    .expect("no panic")
                    .expect("the server takes it");
            }
        }
        clients.iter_mut().for_each(Client::expect_fin);
        drop(clients);
        let figures = server.until("closed", |now| now.served.closed == 32);
        assert!(figures.io.enobufs > 0, "{:?}", figures.io);
        assert!(figures.io.rearmed >= figures.io.enobufs, "{:?}", figures.io);
        assert_eq!(
            (figures.served.answered, figures.served.timed_out),
            (4 * 32, 0)
        );
    });
}

/// One turn has more to submit than the queue has room for: all its connections end together.
#[test]
fn a_full_submission_queue_loses_nothing() {
    on_a_ring(|lab| {
        const CLIENTS: usize = 400;
        let mut server = lab.serve("hello", &["--keep-alive", "300ms"]);
        let mut clients = crowd(&server, CLIENTS);
        for client in &mut clients {
            client.expect_fin();
        }
        drop(clients);
        let all = CLIENTS as u64;
        let figures = server.until("closed", |now| now.served.closed == all);
        assert_eq!(figures.served.timed_out, all);
        assert!(figures.io.sq_full > 0, "{:?}", figures.io);
        // The same when the server ends.
        let mut clients = crowd(&server, CLIENTS);
        server.until("accepted", |now| now.served.accepted == 2 * all);
        server.signal(Signal::SIGTERM);
        clients.iter_mut().for_each(Client::expect_fin);
        drop(clients);
        assert!(server.end().0.success());
    });
}

/// More connections wait than the queue has room for completions.
#[test]
fn a_full_completion_queue_loses_nothing() {
    on_a_ring(|lab| {
        const CLIENTS: usize = 800;
        let mut server = lab.serve("echo", &[]);
        let mut clients = crowd(&server, CLIENTS);
        for (nth, client) in clients.iter_mut().enumerate() {
            client.send(post(&pattern(nth)));
        }
        for (nth, client) in clients.iter_mut().enumerate() {
            let response = client.receive();
            assert!(
                response.status == 200 && response.body == pattern(nth),
                "client {nth}"
            );
        }
        let all = CLIENTS as u64;
        let figures = server.figures();
        assert_eq!(
            (figures.served.accepted, figures.served.answered),
            (all, all)
        );
        assert!(figures.io.cq_overflow > 0, "{:?}", figures.io);
        drop(clients);
        server.until("closed", |now| now.served.closed == all);
    });
}

/// What `io_uring_enter` may say instead of working; EBUSY is of kernels before 5.19, for a full
/// completion queue. It is answered in the kernel's place.
#[test]
fn an_enter_that_fails_for_now_loses_nothing() {
    on_a_ring(|lab| {
        const FOR_NOW: [Errno; 3] = [Errno::EBUSY, Errno::EAGAIN, Errno::EINTR];
        if !can_be_asked() {
            return;
        }
        let failed = Arc::new(AtomicUsize::new(0));
        let mut asked = 0;
        let rule = {
            let failed = failed.clone();
            move |_| {
                asked += 1;
                let fails = asked % 3 != 0;
                fails.then(|| FOR_NOW[failed.fetch_add(1, Ordering::SeqCst) % FOR_NOW.len()])
            }
        };
        let mut server = lab.serve_answered("echo", &[], &[libc::SYS_io_uring_enter], rule);
        let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
        for round in 1..=10 {
            for client in &mut clients {
                client.send(post(&pattern(round * 7000)));
            }
            for client in &mut clients {
                assert_eq!(client.receive().body, pattern(round * 7000));
            }
        }
        drop(clients);
        server.until("closed", |now| now.served.closed == 8);
        server.signal(Signal::SIGTERM);
        assert!(server.end().0.success());
        assert!(failed.load(Ordering::SeqCst) > 10, "{failed:?} failed");
    });
}
