//! Each system call of a server is in the row that bears its name: as often as a row is entered, so often
//! the program counts the call. No clock has a say in that, so it is exact, however busy the machine.
//!
//! Without it a call that nobody notes would be a part of the row around it, and the rows would sum to the
//! total all the same.

use std::thread;
use std::time::Duration;

use ringlab::io::CountsSnapshot;
use ringlab::measure::probe::Stage;
use ringlab::offload::Policy;

use super::start;
use crate::client::{Client, get};
use crate::server::some_core;
use crate::{Lab, on_every_model};

on_every_model![each_system_call_is_in_a_row_of_its_own];

/// Requests of each connection.
const REQUESTS: u64 = 20;
const CONNECTIONS: u64 = 3;

/// Rows that are entered once for each of some calls, and how many calls that was. Timers are none of
/// these: the sandbox sets some, too, which the driver does not count.
type Row = (&'static [Stage], fn(&CountsSnapshot) -> u64);

const ROWS: [Row; 11] = [
    (&[Stage::Accept], |io| io.accept4),
    (&[Stage::Receive, Stage::BlockingReceive], |io| io.recv),
    (&[Stage::Send, Stage::BlockingSend], |io| io.send),
    (&[Stage::EpollWait], |io| io.epoll_wait),
    (&[Stage::EpollControl], |io| io.epoll_ctl),
    (
        &[Stage::EnterSubmit, Stage::EnterTaskWork, Stage::EnterWait],
        |io| io.io_uring_enter,
    ),
    (&[Stage::SignalRead, Stage::EventRead], |io| io.read),
    (&[Stage::Poll], |io| io.poll),
    // Three for each socket.
    (&[Stage::FileControl], |io| io.fcntl / 3),
    (&[Stage::Shutdown], |io| io.shutdown),
    (&[Stage::Close], |io| io.close),
];

/// What each model enters for each connection, and for each request.
fn entered_by(lab: Lab) -> [&'static [Stage]; 2] {
    match lab.model.name {
        "blocking" => [
            &[Stage::Accept, Stage::Close],
            &[Stage::BlockingReceive, Stage::BlockingSend],
        ],
        "epoll" => [
            &[Stage::Accept, Stage::EpollControl, Stage::Close],
            &[Stage::Receive, Stage::Send, Stage::EpollWait],
        ],
        "signal" => [
            &[Stage::Accept, Stage::FileControl, Stage::Close],
            &[Stage::Receive, Stage::Send, Stage::SignalRead],
        ],
        "nonblocking" => [
            &[Stage::Accept, Stage::Close],
            &[Stage::Receive, Stage::Send],
        ],
        "io_uring" => [&[], &[Stage::EnterSubmit, Stage::EnterWait]],
        "tokio_uring" => [&[Stage::Close], &[Stage::Runtime]],
        name => panic!("what does {name} enter?"),
    }
}

fn each_system_call_is_in_a_row_of_its_own(lab: Lab) {
    // A server that takes doses records every turn, and its dose is nothing.
    let (server, _) = start(lab, "hello", Policy::Inline, some_core(), None);
    let handle = server.handle();
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| Client::connect(server.address()))
        .collect();
    for _ in 0..REQUESTS {
        for client in &mut clients {
            client.send(get("/"));
            assert_eq!(client.receive().status, 200);
        }
        // Who has nothing to do sleeps.
        thread::sleep(Duration::from_millis(1));
    }
    drop(clients);
    while handle.figures().served.closed < CONNECTIONS {
        thread::sleep(Duration::from_millis(1));
    }
    // Nothing is under way any more.
    assert!(server.drain());
    let figures = handle.figures();
    let (name, entered) = (lab.model.name, &figures.stages.entered);
    let mut wrong = Vec::new();
    for (stages, calls) in ROWS {
        let times: u64 = stages.iter().map(|stage| entered[*stage as usize]).sum();
        let calls = calls(&figures.io);
        if times != calls {
            wrong.push(format!("{stages:?} {times} times, and {calls} calls"));
        }
    }
    let [connection, request] = entered_by(lab);
    for (stages, least) in [
        (connection, CONNECTIONS),
        // Those of several connections may share a turn; these ask one after the other.
        (request, REQUESTS),
    ] {
        for stage in stages {
            let times = entered[*stage as usize];
            if times < least {
                wrong.push(format!("{stage:?} {times} times only"));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{name} enters {wrong:#?}: {:?}",
        figures.io
    );
}
