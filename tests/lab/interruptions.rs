//! System calls that end before they are done, because a signal came: they are made again, and
//! nothing is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::{Client, get, pattern, post};
use crate::refusals::can_be_asked;
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    a_storm_of_signals_loses_nothing,
    calls_that_are_interrupted_are_made_again,
];

/// Requests of all lengths on old and new connections, to the server's end.
fn visit(mut server: Server) {
    let before = server.figures().served.closed;
    let mut clients: Vec<_> = (0..8).map(|_| server.connect()).collect();
    for round in 1..=6 {
        let body = pattern(round * round * 4000);
        for client in &mut clients {
            client.send(post(&body));
        }
        for client in &mut clients {
            let response = client.receive();
            assert!(
                response.status == 200 && response.body == body,
                "round {round}"
            );
        }
        let mut brief = server.connect();
        brief.send(get("/").repeat(10));
        brief.send_fin();
        for _ in 0..10 {
            assert_eq!(brief.receive().status, 200);
        }
        brief.expect_fin();
    }
    server.until("closed", |now| now.served.closed == 6 + before);
    server.signal(Signal::SIGTERM);
    clients.iter_mut().for_each(Client::expect_fin);
    drop(clients);
    let (status, said) = server.end();
    assert_eq!((status.code(), &*said), (Some(0), ""));
}

/// The signal that ticks while a handler runs: it has a handler, which does nothing that shows.
fn a_storm_of_signals_loses_nothing(lab: Lab) {
    let mut server = lab.serve("echo", &[]);
    server.connect().expect_open();
    server.until("closed", |now| now.served.closed == 1);
    let (ends, sent) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
    );
    let pid = server.pid();
    let storm = {
        let (ends, sent) = (ends.clone(), sent.clone());
        thread::spawn(move || {
            while !ends.load(Ordering::SeqCst) {
                sent.fetch_add(interrupt_all(pid), Ordering::SeqCst);
                thread::sleep(Duration::from_micros(200));
            }
        })
    };
    // While it sleeps first, and then while it works.
    while sent.load(Ordering::SeqCst) < 100 {
        thread::yield_now();
    }
    visit(server);
    ends.store(true, Ordering::SeqCst);
    storm.join().expect("no panic");
}

/// Sends a signal to each thread of a process; says how many.
fn interrupt_all(pid: nix::unistd::Pid) -> u64 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let ids = threads.into_iter().flatten().flatten();
    let ids = ids.filter_map(|thread| thread.file_name().to_str()?.parse::<i32>().ok());
    let sent = ids.filter(|&id| {
        // SAFETY: numbers alone. The process is a child that has not been waited for, or it is and
        // its number is not yet another's: then there is no such thread in it.
        unsafe { libc::syscall(libc::SYS_tgkill, pid.as_raw(), id, libc::SIGVTALRM) == 0 }
    });
    sent.count() as u64
}

/// About half of the calls that may be interrupted are, also those that the kernel itself restarts
/// after that signal.
fn calls_that_are_interrupted_are_made_again(lab: Lab) {
    const CALLS: [libc::c_long; 8] = [
        libc::SYS_accept4,
        libc::SYS_recvfrom,
        libc::SYS_sendto,
        libc::SYS_read,
        libc::SYS_poll,
        libc::SYS_epoll_wait,
        libc::SYS_epoll_pwait,
        libc::SYS_io_uring_enter,
    ];
    if !can_be_asked() {
        return;
    }
    let interrupted = Arc::new(AtomicU64::new(0));
    let serves = Arc::new(AtomicBool::new(false));
    // In no rhythm that the server's own calls could fall into.
    let mut random = StdRng::seed_from_u64(5);
    let rule = {
        let (interrupted, serves) = (interrupted.clone(), serves.clone());
        move |_| {
            let fails = serves.load(Ordering::SeqCst) && random.random_bool(0.5);
            interrupted.fetch_add(u64::from(fails), Ordering::SeqCst);
            fails.then_some(Errno::EINTR)
        }
    };
    let server = lab.serve_answered("echo", &[], &CALLS, rule);
    serves.store(true, Ordering::SeqCst);
    visit(server);
    assert!(interrupted.load(Ordering::SeqCst) > 0);
}
