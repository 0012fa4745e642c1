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

/// On a ring, and again while it records where the time goes, which is a type of its own and has another way
/// to submit and to wait. `behaviour` gets the options that make the difference.
fn on_a_ring(behaviour: fn(Lab, &[&str])) {
    crate::run("io_uring", Isolation::Reuse, |lab| {
        behaviour(lab, &[]);
        behaviour(lab, &["--probed"]);
    });
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
    on_a_ring(|lab, options| {
        // Fits the sockets' buffers, whether or not anybody reads.
        const AT_ONCE: usize = 48_000;
        let mut server = lab.serve("echo", options);
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

/// Had one way to end a receive kept its buffer, some would be missing afterwards.
#[test]
fn every_buffer_comes_back() {
    on_a_ring(|lab, options| {
        const TIMES: usize = 100;
        let mut server = lab.serve("echo", options);
        let mut crowd = crowd(&server, 20);
        crowd.iter_mut().for_each(Client::expect_open);
        let request = post(&pattern(1000));
        let (part, rest) = request.split_at(500);
        for _ in 0..TIMES {
            crowd[0].expect_open();
            let received = server.figures().served.bytes_in;
            crowd[1].send(part);
            server.until_received(received + part.len() as u64);
            crowd[1].send(rest);
            assert_eq!(crowd[1].receive().status, 200);
        }
        for leave in [drop, Client::reset] {
            let received = server.figures().served.bytes_in;
            let mut leaving: Vec<_> = (0..TIMES).map(|_| server.connect()).collect();
            leaving.iter_mut().for_each(|client| client.send(part));
            server.until_received(received + (TIMES * part.len()) as u64);
            leaving.into_iter().for_each(leave);
        }
        // What comes behind a fault is read and thrown away; what comes behind a pause may still come.
        let fault = [&b"G@T\r\n\r\n"[..], &pattern(100_000)].concat();
        let pipeline = post(&pattern(100_000)).repeat(400);
        for _ in 0..10 {
            let mut client = server.connect();
            client.send(&fault);
            assert_eq!(client.receive().status, 400);
            let mut client = server.connect();
            let sent = client.send_what_fits(&pipeline).expect("it is open");
            assert!(sent < pipeline.len(), "the server took all");
            client.reset();
        }
        let crowds = crowd.len() as u64;
        server.until("they have left", |now| {
            now.served.closed == now.served.accepted - crowds
        });
        // The driver has 128, of 2 KiB.
        assert_eq!(lacking(&mut server, &mut crowd, 6), 0, "of 120 buffers");
        // Were it otherwise, the line above would say nothing.
        assert!(lacking(&mut server, &mut crowd, 7) > 0, "of 140 buffers");
    });
}

/// Has each of `clients` send a request that takes so many `buffers`, all in one turn; how often there
/// was none.
fn lacking(server: &mut Server, clients: &mut [Client], buffers: usize) -> u64 {
    let before = server.figures().io.enobufs;
    let head = post(&pattern(10_000)).len() - 10_000;
    let request = post(&pattern(buffers * 2048 - head));
    assert_eq!(request.len(), buffers * 2048);
    server.while_stopped(|| clients.iter_mut().for_each(|client| client.send(&request)));
    for client in clients {
        assert_eq!(client.receive().status, 200);
    }
    server.figures().io.enobufs - before
}

/// One turn has more to submit than the queue has room for: all its connections end together.
#[test]
fn a_full_submission_queue_loses_nothing() {
    on_a_ring(|lab, options| {
        const CLIENTS: usize = 400;
        let mut server = lab.serve("hello", &[options, &["--keep-alive", "300ms"]].concat());
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
    on_a_ring(|lab, options| {
        const CLIENTS: usize = 800;
        let mut server = lab.serve("echo", options);
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
    on_a_ring(|lab, options| {
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
        let mut server = lab.serve_answered("echo", options, &[libc::SYS_io_uring_enter], rule);
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
