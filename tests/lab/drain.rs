//! How a server ends: what it had accepted is answered, then it exits with 0.

use nix::sys::signal::Signal;

use crate::client::{Client, Response, get, post};
use crate::server::Server;
use crate::{Lab, on_every_model};

on_every_model![
    sigint_drains,
    sigterm_drains,
    the_end_of_the_input_drains,
    what_runs_is_answered,
    what_was_received_of_a_pipeline_is_answered,
    a_second_signal_ends_it_at_once,
    the_drain_limit_ends_it,
    an_idle_server_ends,
];

/// Clients in every state that waits for the client: idle, within a head, and within a body.
pub struct Clients {
    idle: [Client; 2],
    in_head: Client,
    in_body: Client,
}

const HEAD: &str = "POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 4\r\n\r\n";

impl Clients {
    pub fn connect(server: &mut Server) -> Self {
        let mut clients = Self {
            idle: [server.connect(), server.connect()],
            in_head: server.connect(),
            in_body: server.connect(),
        };
        // One of the idle ones has been served before, and so has who is within a body.
        clients.idle[1].expect_open();
        clients.in_body.expect_open();
        clients.in_head.send(&HEAD[..20]);
        clients.in_body.send(format!("{HEAD}bo"));
        let before = 2 * get("/still-there").len() as u64;
        server.until_received(before + 20 + HEAD.len() as u64 + 2);
        server.until("accepted", |now| now.served.accepted == 4);
        clients
    }

    /// The idle ones get FIN; the others finish what they had begun, and then get FIN.
    fn expect_drained(self) {
        self.expect_answered(|response| {
            assert_eq!(response.header("connection"), Some("close"));
        });
    }

    /// The same where an idle one's FIN does not mean that the others' process has heard of the end:
    /// what they had begun is answered, as `check` expects, and then they get FIN.
    pub fn expect_answered(mut self, check: impl Fn(&Response)) {
        for idle in &mut self.idle {
            idle.expect_fin();
        }
        self.in_head.send(format!("{}body", &HEAD[20..]));
        self.in_body.send("dy");
        for mut client in [self.in_head, self.in_body] {
            let response = client.receive();
            assert_eq!((response.status, response.text()), (200, "body"));
            check(&response);
            client.expect_fin();
        }
    }
}

/// Ends a server by `end` while clients are at every stage.
fn check(lab: Lab, end: impl Fn(&mut Server)) {
    let mut server = lab.serve("echo", &[]);
    let clients = Clients::connect(&mut server);
    end(&mut server);
    clients.expect_drained();
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert_eq!(said, "");
}

fn sigint_drains(lab: Lab) {
    check(lab, |server| server.signal(Signal::SIGINT));
}

fn sigterm_drains(lab: Lab) {
    check(lab, |server| server.signal(Signal::SIGTERM));
}

fn the_end_of_the_input_drains(lab: Lab) {
    check(lab, Server::close_input);
}

fn what_runs_is_answered(lab: Lab) {
    let mut server = lab.serve("spin", &["--deadline", "20s"]);
    let mut client = server.connect();
    let request = get("/?ms=300");
    client.send(&request);
    server.until_received(request.len() as u64);
    server.signal(Signal::SIGTERM);
    assert_eq!(client.receive().status, 200);
    client.expect_fin();
    assert_eq!(server.end().0.code(), Some(0));
}

/// Answers wait for their reader when the signal comes, and requests behind them.
fn what_was_received_of_a_pipeline_is_answered(lab: Lab) {
    const DEPTH: usize = 400;
    const BYTES: usize = 100_000;
    let server = lab.serve("echo", &[]);
    let mut client = server.connect();
    let sender = client.send_aside(post(&vec![b'x'; BYTES]).repeat(DEPTH));
    client.receive_at_least(1);
    server.signal(Signal::SIGINT);
    // Each answer is whole, and the last one says that it is the last.
    let mut answers = 0;
    loop {
        let response = client.receive();
        assert_eq!((response.status, response.body.len()), (200, BYTES));
        answers += 1;
        if response.header("connection") == Some("close") {
            break;
        }
    }
    assert!(answers <= DEPTH);
    drop(client);
    // What the server did not take any more fails to be sent.
    let _ = sender.join();
    assert_eq!(server.end().0.code(), Some(0));
}

fn a_second_signal_ends_it_at_once(lab: Lab) {
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 130)] {
        let mut server = lab.serve("echo", &[]);
        let mut clients = Clients::connect(&mut server);
        server.signal(signal);
        // The first one has been seen.
        clients.idle[0].expect_fin();
        server.signal(signal);
        assert_eq!(server.end().0.code(), Some(code));
    }
}

fn the_drain_limit_ends_it(lab: Lab) {
    let mut server = lab.serve("echo", &["--drain", "100ms"]);
    let _clients = Clients::connect(&mut server);
    server.signal(Signal::SIGINT);
    let (status, said) = server.end();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("the drain limit passed"), "{said}");
}

fn an_idle_server_ends(lab: Lab) {
    let server = lab.serve("hello", &[]);
    server.signal(Signal::SIGTERM);
    let (status, said) = server.end();
    assert_eq!((status.code(), &*said), (Some(0), ""));
}
