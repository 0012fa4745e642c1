//! More connections than the limit, and fewer descriptors than connections.

use std::time::Instant;

use crate::client::{Client, get};
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    one_connection_over_the_limit_is_told_so,
    a_flood_over_the_limit_harms_nobody,
    few_descriptors_mean_few_connections,
    running_out_of_descriptors_is_survived,
    running_out_of_descriptors_is_said_once_a_second,
];

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
        assert!(lines < failed || failed < FAILURES, "{failed}: {said}");
    }
}
