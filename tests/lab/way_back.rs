//! How the answers of other threads reach the thread that waits in a model's own way.

use std::process::{Command, Stdio};

use crate::client::get;
use crate::refusals::refuse_operation;
use crate::server::{PROGRAM, Server};
use crate::{Lab, on_every_model};

on_every_model![
    no_answer_is_lost_in_thousands_of_hand_offs,
    a_sleeping_thread_is_woken_by_what_its_model_has,
];

const POOL: [&str; 4] = ["--offload", "pool", "--workers", "2"];
/// Rounds in which every connection has its request out at the same time.
const ROUNDS: usize = 300;
const CLIENTS: usize = 8;

fn serve_by_pool(server: &Server) {
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| server.connect()).collect();
    for round in 0..ROUNDS {
        // Together, so that answers come in batches; now and then alone, so that each is waited for.
        let width = if round % 3 == 0 { 1 } else { CLIENTS };
        for client in &mut clients[..width] {
            client.send(get("/"));
        }
        for client in &mut clients[..width] {
            assert_eq!(client.receive().status, 200, "round {round}");
        }
    }
    // A connection has one request out at a time: its next one leaves when this one is home.
    for client in &mut clients {
        client.send(get("/").repeat(ROUNDS));
    }
    for client in &mut clients {
        for _ in 0..ROUNDS {
            assert_eq!(client.receive().status, 200);
        }
    }
}

fn no_answer_is_lost_in_thousands_of_hand_offs(lab: Lab) {
    let mut server = lab.serve("hello", &POOL);
    serve_by_pool(&server);
    let alone = ROUNDS / 3;
    let together = (ROUNDS - alone) * CLIENTS;
    let expected = (alone + together + CLIENTS * ROUNDS) as u64;
    let served = server.figures().served;
    let came = (served.answered, served.come_home, served.queued);
    assert_eq!(came, (expected, expected, expected), "{served:?}");
    assert!(served.queued_ns > 0, "{served:?}");
    // Whoever waits for one answer alone is woken for it, or was still awake; and none comes twice.
    assert!((1..=expected).contains(&served.woken), "{served:?}");
}

const EVENTFD: &str = "anon_inode:[eventfd]";

fn a_sleeping_thread_is_woken_by_what_its_model_has(lab: Lab) {
    let mut server = lab.serve("hello", &POOL);
    let mut client = server.connect();
    client.expect_open();
    let way_back = (lab.model.way_back)();
    let by_eventfd = way_back.starts_with("by an eventfd");
    let eventfds = server.descriptors_of(EVENTFD);
    match lab.model.name {
        // Its shard is woken by one; its connections, which await the answers, by unparking.
        "blocking" => assert!(!by_eventfd),
        // Its runtime has some of its own.
        "tokio_uring" => assert!(by_eventfd && eventfds > 0, "{eventfds}"),
        _ => assert_eq!(eventfds, usize::from(by_eventfd), "{way_back}"),
    }
    let own = match lab.model.name {
        "blocking" => "unparking",
        "nonblocking" => "flag",
        "signal" => "SIGUSR1",
        "io_uring" => "ring",
        _ => "eventfd",
    };
    assert!(way_back.contains(own), "{way_back}");
    // Nothing is read to take a wake-up back but an eventfd, and the signals themselves.
    let before = server.figures().io;
    for _ in 0..50 {
        client.expect_open();
    }
    let io = server.figures().io.since(&before);
    if matches!(lab.model.name, "io_uring" | "blocking" | "nonblocking") {
        assert_eq!(io.read, 0, "{way_back}: {io:?}");
    }
}

/// include/uapi/linux/io_uring.h.
const IORING_REGISTER_SEND_MSG_RING: u32 = 31;

fn older(command: &mut Command) {
    let call = libc::SYS_io_uring_register;
    refuse_operation(command, call, IORING_REGISTER_SEND_MSG_RING, libc::EINVAL);
}

/// Before Linux 6.13, or where a filter allows less: everything is served, and it is said how.
#[test]
fn a_ring_that_takes_no_messages_reads_an_eventfd() {
    crate::run("io_uring", ringlab::sandbox::Isolation::Reuse, |lab| {
        let server = lab.serve_changed("hello", &POOL, older);
        assert_eq!(server.descriptors_of(EVENTFD), 1);
        serve_by_pool(&server);

        let mut command = Command::new(PROGRAM);
        command.arg("models").stdin(Stdio::null());
        older(&mut command);
        let output = command.output().expect("it can be started");
        let said = String::from_utf8_lossy(&output.stdout);
        let said: Vec<_> = said.split_whitespace().collect();
        let said = said.join(" ");
        for words in [
            "model io_uring yes",
            "come back by an eventfd that its ring",
            "Linux 6.13",
        ] {
            assert!(said.contains(words), "{words:?} is not in {said}");
        }
    });
}
