//! Bodies of every size, and clients that take them slowly or not at all.

use std::time::Instant;

use crate::client::{Client, pattern, post, post_chunked};
use crate::{Lab, PATIENCE, on_every_model};

on_every_model![
    a_body_with_a_length_comes_back_whole,
    a_body_in_chunks_comes_back_whole,
    many_bodies_at_once_come_back_whole,
    a_slow_reader_gets_all_and_holds_up_nobody,
    who_sends_and_never_reads_costs_bounded_memory_and_is_closed,
    who_sends_and_reads_byte_by_byte_costs_bounded_memory_and_is_closed,
];

const MIB: usize = 1024 * 1024;

fn a_body_with_a_length_comes_back_whole(lab: Lab) {
    let server = lab.serve("echo", &[]);
    let mut client = server.connect();
    for length in [0, 1, 2, 100, 2047, 2048, 2049, 65_535, 65_536, 300_001, MIB] {
        let body = pattern(length);
        client.send(post(&body));
        let response = client.receive();
        assert!(response.body == body, "{length} bytes: {}", response.head);
    }
    client.expect_open();
}

fn a_body_in_chunks_comes_back_whole(lab: Lab) {
    let server = lab.serve("echo", &[]);
    let mut client = server.connect();
    let sizes = [
        (0, 1),
        (1, 1),
        (1000, 1),
        (65_536, 100),
        (300_001, 4096),
        (MIB, MIB),
    ];
    for (length, chunk) in sizes {
        let body = pattern(length);
        client.send(post_chunked(&body, chunk));
        let response = client.receive();
        assert!(response.body == body, "{length} bytes: {}", response.head);
    }
    let plain = post_chunked(b"and a trailer", 4);
    let without_end = &plain[..plain.len() - 2];
    client.send([without_end, b"Checksum: 1\r\n\r\n"].concat());
    assert_eq!(client.receive().text(), "and a trailer");
    client.expect_open();
}

/// More bytes at once than a shard has buffers for.
fn many_bodies_at_once_come_back_whole(lab: Lab) {
    let mut server = lab.serve("echo", &[]);
    let mut clients: Vec<_> = (0..64).map(|_| server.connect()).collect();
    let body = |nth: usize| pattern(200_000 + nth);
    let send = |(nth, client): (usize, &mut Client)| client.send_aside(post(&body(nth)).repeat(3));
    let senders: Vec<_> = clients.iter_mut().enumerate().map(send).collect();
    for (nth, client) in clients.iter_mut().enumerate() {
        for _ in 0..3 {
            assert!(client.receive().body == body(nth), "client {nth}");
        }
        client.expect_fin();
    }
    for sender in senders {
        sender.join().expect("no panic").expect("all was taken");
    }
    assert_eq!(server.figures().served.answered, 192);
}

/// More than the sockets' buffers hold, so that the server meets a full one again and again.
fn a_slow_reader_gets_all_and_holds_up_nobody(lab: Lab) {
    const DEPTH: usize = 16;
    let server = lab.serve("echo", &[]);
    let body = pattern(MIB);
    let mut slow = server.connect();
    let sender = slow.send_aside(post(&body).repeat(DEPTH));
    let mut other = server.connect();
    for _ in 0..200 {
        slow.receive_some(16 * 1024);
        other.expect_open();
    }
    for nth in 0..DEPTH {
        assert!(slow.receive().body == body, "answer {nth}");
    }
    slow.expect_fin();
    sender.join().expect("no panic").expect("all was taken");
}

/// What one connection may make a server keep, with room to spare: a request being carried, the
/// answers gathered and those being sent, each up to a body and a half, and doubled by a growing
/// buffer.
const MEMORY_OF_ONE_BYTES: u64 = 16 * MIB as u64;

fn who_sends_and_never_reads_costs_bounded_memory_and_is_closed(lab: Lab) {
    check_reader(lab, |_| true);
}

/// Each byte is progress, but a buffer of answers has its time as a whole.
fn who_sends_and_reads_byte_by_byte_costs_bounded_memory_and_is_closed(lab: Lab) {
    check_reader(lab, Client::sip);
}

/// A client that sends all the time and reads as `reads` does, until that says it is closed.
fn check_reader(lab: Lab, reads: fn(&mut Client) -> bool) {
    // Time enough for memory without a bound to show, on a loaded machine too.
    let mut server = lab.serve("echo", &["--send-timeout", "1s"]);
    let request = post(&pattern(MIB));
    let mut warm_up = server.connect();
    warm_up.send(&request);
    assert_eq!(warm_up.receive().body.len(), MIB);
    let before = server.peak_memory_bytes();

    let mut client = server.connect();
    let mut sent = 0;
    let start = Instant::now();
    // It takes some, then no more, then it closes. Each time it is offered the rest: another beginning
    // would be a fault, behind which nothing more is kept.
    while let Ok(more) = client.send_what_fits(&request[sent % request.len()..]) {
        if !reads(&mut client) {
            break;
        }
        sent += more;
        assert!(start.elapsed() < PATIENCE, "still open after {sent} bytes");
    }
    let peak = server.peak_memory_bytes() - before;
    assert!(
        peak < MEMORY_OF_ONE_BYTES,
        "{sent} bytes sent, {peak} bytes of memory more"
    );
    let figures = server.until("closed", |now| now.served.closed == 1);
    assert_eq!(figures.served.timed_out, 1);
    warm_up.expect_open();
}
