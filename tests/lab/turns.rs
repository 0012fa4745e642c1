//! What is recorded of a loop's turns.

use nix::sys::signal::Signal;

use crate::Lab;
use crate::client::get;

/// Who has turns of its own.
mod on_every_model_with_turns {
    crate::tests_at!(
        nonblocking,
        "nonblocking",
        Reuse,
        turns_are_measured_on_request
    );
    crate::tests_at!(epoll, "epoll", Reuse, turns_are_measured_on_request);
    crate::tests_at!(signal, "signal", Reuse, turns_are_measured_on_request);
    crate::tests_at!(io_uring, "io_uring", Reuse, turns_are_measured_on_request);

    use super::turns_are_measured_on_request;
}

fn turns_are_measured_on_request(lab: Lab) {
    const STEPS: u64 = 20_000_000;
    let heavy = get(&format!("/spin?iterations={STEPS}"));
    let light = get("/spin?iterations=1");
    // No machine makes a step of spin in less than a nanosecond: six operations, one after the other.
    let surely_ns = STEPS;

    let mut server = lab.serve("spin", &["--turns"]);
    let mut client = server.connect();
    client.send(&heavy);
    assert_eq!(client.receive().status, 200);
    // Received together, or the test would have to wait for luck.
    client.send(light.repeat(16));
    for _ in 0..16 {
        assert_eq!(client.receive().status, 200);
    }
    let turns = server
        .until("counted", |now| now.turns.most_answered > 0)
        .turns;
    assert!(turns.longest_ns > surely_ns, "{turns:?}");
    assert!(turns.away_ns >= turns.longest_ns, "{turns:?}");
    assert!(turns.turns > 1 && turns.most_answered <= 17, "{turns:?}");
    let longest = turns.longest[0];
    assert_eq!(longest.away_ns, turns.longest_ns, "{turns:?}");
    assert_eq!((longest.work.answered, longest.work.come_home), (1, 0));
    server.signal(Signal::SIGTERM);
    client.expect_fin();
    let said = server.end_and_said();
    for words in ["µs at most; at most ", "longest turns, µs"] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }

    let mut server = lab.serve("spin", &["--offload", "time-slice"]);
    let mut client = server.connect();
    client.send(&heavy);
    assert_eq!(client.receive().status, 200);
    let now = server.figures();
    // Each slice is in a turn of its own; and nobody asked for times.
    assert!(
        now.served.resumed > 1 && now.turns.turns >= now.served.resumed,
        "{now:?}"
    );
    assert_eq!((now.turns.away_ns, now.turns.longest_ns), (0, 0));
    assert!(now.turns.longest.iter().all(|turn| turn.away_ns == 0));

    // A slice is in the record of its turn.
    let mut server = lab.serve("spin", &["--turns", "--offload", "time-slice"]);
    let mut client = server.connect();
    client.send(&heavy);
    assert_eq!(client.receive().status, 200);
    let turns = server.figures().turns;
    let resumed = turns.longest.iter().map(|turn| turn.work.resumed);
    assert!(resumed.sum::<u64>() > 0, "{turns:?}");

    let server = lab.serve("spin", &["--turns", "--offload", "pool"]);
    let mut client = server.connect();
    client.send(&heavy);
    assert_eq!(client.receive().status, 200);
    server.signal(Signal::SIGTERM);
    client.expect_fin();
    let said = server.end_and_said();
    let words = "1 answers of other threads for ";
    assert!(said.contains(words), "{words:?} is not in {said}");
}
