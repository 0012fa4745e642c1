//! The `signal` model where the kernel has no room for its signals.

use ringlab::sandbox::Isolation;

use crate::client::{Client, get, pattern, post};

/// RLIMIT_SIGPENDING is reached: a plain SIGIO comes instead of what would name the socket, and
/// everything is still answered.
#[test]
fn a_full_signal_queue_loses_nothing() {
    crate::run("signal", Isolation::Reuse, |lab| {
        let mut server = lab.serve("echo", &[]);
        let mut clients: Vec<_> = (0..20).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(Client::expect_open);
        assert_eq!(server.figures().io.signals_lost, 0);
        server.limit_signals(0);
        for round in 1..=5 {
            for client in &mut clients {
                client.send(post(&pattern(round * 30_000)));
            }
            for client in &mut clients {
                assert_eq!(client.receive().body, pattern(round * 30_000));
            }
        }
        // New ones are accepted, and an end behind the bytes is seen.
        let mut late = server.connect();
        late.send(get("/"));
        late.send_fin();
        assert_eq!(late.receive().status, 200);
        late.expect_fin();
        let lost = server.figures().io.signals_lost;
        assert!(lost > 0, "the queue was never full");
        drop(clients);
        server.until("closed", |now| now.served.closed == 21);
    });
}
