//! More connections than the limit, and fewer descriptors than connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nix::errno::Errno;

use crate::client::{Client, get};
use crate::refusals::can_be_asked;
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    one_connection_over_the_limit_is_told_so,
    a_flood_over_the_limit_harms_nobody,
    a_flood_without_a_place_is_said_and_survived,
    few_descriptors_mean_few_connections,
    running_out_of_descriptors_is_survived,
    running_out_of_descriptors_is_said_once_a_second,
];

/// The models that accept by a system call of their own; on a ring the kernel does.
mod on_every_model_that_calls {
    use super::a_full_table_of_files_is_survived;

    crate::tests_at!(
        blocking,
        "blocking",
        Reuse,
        a_full_table_of_files_is_survived
    );
    crate::tests_at!(
        nonblocking,
        "nonblocking",
        Reuse,
        a_full_table_of_files_is_survived
    );
    crate::tests_at!(epoll, "epoll", Reuse, a_full_table_of_files_is_survived);
    crate::tests_at!(signal, "signal", Reuse, a_full_table_of_files_is_survived);
}

fn refused(server: &Server) -> Client {
    let mut client = server.connect();
    let response = client.receive();
    assert_eq!(response.status, 503);
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("connection"), Some("close"));
    client.expect_fin();
    client
}

fn one_connection_over_the_limit_is_told_so(lab: Lab) {
    let mut server = lab.serve("hello", &["--connections", "2"]);
    let mut first = server.connect();
    first.expect_open();
    let mut second = server.connect();
    second.expect_open();
    drop(refused(&server));
    drop(refused(&server));
    first.expect_open();
    second.expect_open();
    assert_eq!(server.figures().served.refused, 2);
    // A place that becomes free can be had.
    drop(first);
    server.until("closed", |now| now.served.closed == 3);
    server.connect().expect_open();
    second.expect_open();
}

/// Some of these are not even told, when more come at once than the server keeps places for.
fn a_flood_over_the_limit_harms_nobody(lab: Lab) {
    let mut server = lab.serve("hello", &["--connections", "2"]);
    let mut kept = [server.connect(), server.connect()];
    kept.iter_mut().for_each(Client::expect_open);
    let flood: Vec<_> = (0..300).map(|_| server.connect()).collect();
    kept.iter_mut().for_each(Client::expect_open);
    drop(flood);
    drop(kept);
    server.until("closed", |now| {
        now.served.accepted >= 66 && now.served.closed == now.served.accepted
    });
    // Some of the flood may still wait to be accepted, and be in the way.
    let served = (0..1000).any(|_| server.connect().is_served());
    assert!(served, "nobody is let in any more");
}

/// They all come before the server looks: there is not even a place to refuse each of them in. On a
/// ring of its own that is the kernel's ENFILE, since its table of files is full.
fn a_flood_without_a_place_is_said_and_survived(lab: Lab) {
    let mut server = lab.serve("hello", &["--connections", "2"]);
    let mut kept = [server.connect(), server.connect()];
    kept.iter_mut().for_each(Client::expect_open);
    let start = Instant::now();
    let flood: Vec<_> = server.while_stopped(|| (0..200).map(|_| server.connect()).collect());
    kept.iter_mut().for_each(Client::expect_open);
    let figures = server.until("out of places", |now| now.served.accept_failed > 0);
    drop(flood);
    kept.iter_mut().for_each(Client::expect_open);
    drop(kept);
    let served = (0..1000).any(|_| server.connect().is_served());
    assert!(served, "nobody is let in any more");
    assert_eq!(figures.served.answered, 4);
    expect_said(&server.kill(), "raise --connections", start);
}

/// Asserts that accepting was said to have failed, once a second, and what helps.
fn expect_said(said: &str, remedy: &str, start: Instant) {
    assert!(!said.contains('\x1b'), "no colours for a file: {said:?}");
    let lines = said.matches("no connection could be accepted").count() as u64;
    let seconds = start.elapsed().as_secs();
    assert!((1..=1 + seconds).contains(&lines), "in {seconds} s: {said}");
    assert_eq!(said.matches(remedy).count() as u64, lines, "{said}");
}

/// How often accepting may have been tried since `start`: there is a rest after each failure, four times
/// a second, whatever else there is to do.
fn most_tries(start: Instant) -> u64 {
    2 + start.elapsed().as_millis() as u64 / 200
}

/// ENFILE: the limit of the whole machine, so this test answers in the kernel's place.
fn a_full_table_of_files_is_survived(lab: Lab) {
    const FAILURES: u64 = 3;
    if !can_be_asked() {
        return;
    }
    let full = Arc::new(AtomicBool::new(false));
    let refused = Arc::new(AtomicU64::new(0));
    let rule = {
        let (full, refused) = (full.clone(), refused.clone());
        move |_| {
            let full = full.load(Ordering::SeqCst);
            refused.fetch_add(u64::from(full), Ordering::SeqCst);
            full.then_some(Errno::ENFILE)
        }
    };
    let mut server = lab.serve_answered("hello", &[], &[libc::SYS_accept4], rule);
    let mut before = server.connect();
    before.expect_open();
    let start = Instant::now();
    full.store(true, Ordering::SeqCst);
    // Two: whoever accepted the first looks for another, and that call, let through just before, may
    // find one of these.
    let mut waiting = [server.connect(), server.connect()];
    for client in &mut waiting {
        client.send(get("/"));
    }
    server.until("accepting has failed again and again", |now| {
        now.served.accept_failed >= FAILURES
    });
    before.expect_open();
    full.store(false, Ordering::SeqCst);
    let most = most_tries(start);
    assert!((FAILURES..=most).contains(&refused.load(Ordering::SeqCst)));
    for client in &mut waiting {
        assert_eq!(client.receive().status, 200);
    }
    server.connect().expect_open();
    before.expect_open();
    expect_said(&server.kill(), "raise `sysctl fs.file-max`", start);
}

fn few_descriptors_mean_few_connections(lab: Lab) {
    let mut server = lab.serve_with_descriptors(128, "hello", &[]);
    let mut clients = Vec::new();
    while server.figures().served.refused == 0 {
        let mut client = server.connect();
        client.send(get("/"));
        clients.push((client.receive().status, client));
        assert!(clients.len() <= 128, "nobody is refused");
    }
    let (last, _) = clients.pop().expect("one was refused");
    assert_eq!(last, 503);
    for (status, client) in &mut clients {
        assert_eq!(*status, 200);
        client.expect_open();
    }
    let said = server.kill();
    let number = clients.len().to_string();
    for words in ["128 descriptors", &number, "not 1024", "ulimit -n"] {
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
}

/// Takes the server's descriptors away while it runs; what had connected is served on, and who
/// waited is served when there are some again.
fn running_out_of_descriptors_is_survived(lab: Lab) {
    let mut server = lab.serve("hello", &[]);
    let mut before = server.connect();
    before.expect_open();
    let (soft, hard) = server.limit_descriptors(None);
    // Lowering the limit closes nothing; it only forbids new ones.
    server.limit_descriptors(Some((3, hard)));
    let mut waiting = server.connect();
    waiting.send(get("/"));
    // A ring with files of its own needs no descriptors, and answers at once.
    server.until("accepting has failed, or not", |now| {
        now.served.accept_failed > 0 || now.served.answered == 2
    });
    before.expect_open();
    server.limit_descriptors(Some((soft, hard)));
    assert_eq!(waiting.receive().status, 200);
    server.connect().expect_open();
    before.expect_open();
}

fn running_out_of_descriptors_is_said_once_a_second(lab: Lab) {
    const FAILURES: u64 = 6;
    let mut server = lab.serve("hello", &[]);
    let (soft, hard) = server.limit_descriptors(None);
    let start = Instant::now();
    server.limit_descriptors(Some((3, hard)));
    let mut waiting = server.connect();
    waiting.send(get("/"));
    // A ring with files of its own needs no descriptors, and has nothing to say.
    let figures = server.until("accepting has failed again and again, or not", |now| {
        now.served.accept_failed >= FAILURES || now.served.answered == 1
    });
    let most = most_tries(start);
    server.limit_descriptors(Some((soft, hard)));
    assert_eq!(waiting.receive().status, 200);
    let said = server.kill();
    let lines = said.matches("no connection could be accepted").count() as u64;
    if figures.served.accept_failed == 0 {
        assert_eq!(lines, 0, "{said}");
    } else {
        let seconds = start.elapsed().as_secs();
        assert!((1..=1 + seconds).contains(&lines), "in {seconds} s: {said}");
        let failed = figures.served.accept_failed;
        assert!(failed <= most, "{failed} of at most {most}");
        assert!(lines < failed || failed < FAILURES, "{failed}: {said}");
    }
}
