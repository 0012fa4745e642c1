//! What a handler may use: every limit that `serve` has an option for bites where it should, with its
//! answer and its counter, and lets through what is within it.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use ringlab::served::ServedSnapshot;

use crate::client::{get, post};
use crate::guests::{File, misbehaving};
use crate::server::{PROGRAM, Server};
use crate::{Lab, on_every_model};

on_every_model![
    memory_is_limited,
    memory_is_limited_by_default,
    the_stack_is_limited,
    tables_are_limited,
    the_answers_size_is_limited,
    the_answers_header_lines_are_limited,
    the_requests_size_is_limited_in_its_three_parts,
    a_request_waits_for_an_instance,
    a_request_that_waits_too_long_for_an_instance_is_a_503,
];

// What an instance is made from has no part in how it is limited, so one model shows it.
crate::tests_at!(
    epoll_reset,
    "epoll",
    Reset,
    memory_is_limited,
    the_stack_is_limited,
    the_answers_size_is_limited,
    the_answers_header_lines_are_limited,
    the_requests_size_is_limited_in_its_three_parts
);
crate::tests_at!(
    epoll_fresh,
    "epoll",
    Fresh,
    memory_is_limited,
    memory_is_limited_by_default,
    the_stack_is_limited,
    tables_are_limited,
    the_answers_size_is_limited,
    the_answers_header_lines_are_limited,
    the_requests_size_is_limited_in_its_three_parts,
    a_request_waits_for_an_instance,
    a_request_that_waits_too_long_for_an_instance_is_a_503
);
crate::tests_at!(
    epoll_on_demand,
    "epoll",
    OnDemand,
    memory_is_limited,
    the_stack_is_limited,
    tables_are_limited
);

/// The server answers `request` with this status and body.
fn check(server: &Server, request: impl AsRef<[u8]>, status: u16, body: &str) {
    let mut client = server.connect();
    client.send(request);
    let response = client.receive();
    assert_eq!((response.status, response.text()), (status, body));
}

/// A guest that traps if `growth`, an instruction, is refused, and answers `fine` if not.
fn growing(growth: &str) -> File {
    let code = format!("(if (i32.eq {growth} (i32.const -1)) (then unreachable))");
    File::new("growing.wat", misbehaving([&*code]))
}

/// A guest that does `growth` is let go on with `enough` of what `option` limits, and ended with
/// `too_little`.
fn check_growth(
    lab: Lab,
    growth: &str,
    option: &str,
    (enough, too_little): (&str, &str),
    reason: &str,
    counter: fn(&ServedSnapshot) -> u64,
) {
    let file = growing(growth);
    let server = lab.serve(file.path(), &[option, enough]);
    check(&server, post(b"x"), 200, "fine");
    let mut server = lab.serve(file.path(), &[option, too_little]);
    check(&server, post(b"x"), 500, &format!("{reason}\n"));
    check(&server, get("/"), 200, "fine");
    let served = server.figures().served;
    assert_eq!((served.failed, counter(&served)), (1, 1));
}

/// From four pages to 36: 2.25 MiB.
fn memory_is_limited(lab: Lab) {
    check_growth(
        lab,
        "(memory.grow (i32.const 32))",
        "--memory",
        ("2304KiB", "2303KiB"),
        "memory limit",
        |served| served.memory_refused,
    );
}

/// A small memory grows to 4 MiB, and one that begins with more does not grow.
fn memory_is_limited_by_default(lab: Lab) {
    let grow = |pages: u32| {
        format!("(if (i32.eq (memory.grow (i32.const {pages})) (i32.const -1)) (then unreachable))")
    };
    let [fits, too_much] = [grow(60), grow(61)];
    let small = misbehaving([&*fits, &*too_much]);
    let large = misbehaving([&*grow(1)]).replace("\"memory\") 4", "\"memory\") 256");
    let small = File::new("small.wat", small);
    let server = lab.serve(small.path(), &[]);
    check(&server, post(b"xx"), 500, "memory limit\n");
    check(&server, post(b"x"), 200, "fine");
    let large = File::new("large.wat", large);
    let server = lab.serve(large.path(), &[]);
    check(&server, get("/"), 200, "fine");
    check(&server, post(b"x"), 500, "memory limit\n");
    check(&server, get("/"), 200, "fine");
}

/// From one entry to 100.
fn tables_are_limited(lab: Lab) {
    check_growth(
        lab,
        "(table.grow (ref.null func) (i32.const 99))",
        "--tables",
        ("100", "99"),
        "table limit",
        |served| served.table_refused,
    );
}

/// Half of the way down, a frame of at least 16 bytes fills the small stack and one of at most 64
/// leaves room in the large.
fn the_stack_is_limited(lab: Lab) {
    let request = get("/?depth=8192");
    let server = lab.serve("deep", &["--stack", "1MiB"]);
    let mut client = server.connect();
    client.send(&request);
    assert_eq!(client.receive().status, 200);
    let mut server = lab.serve("deep", &["--stack", "64KiB"]);
    check(&server, &request, 500, "stack overflow\n");
    check(&server, get("/?depth=0"), 200, "1\n");
    let served = server.figures().served;
    assert_eq!((served.failed, served.stack_overflowed), (1, 1));
}

fn the_answers_size_is_limited(lab: Lab) {
    let mut server = lab.serve("huge", &["--response", "1000B"]);
    check(&server, get("/?bytes=1000"), 200, &"\0".repeat(1000));
    check(&server, get("/?bytes=1001"), 500, "response too large\n");
    let served = server.figures().served;
    assert_eq!((served.failed, served.response_too_large), (1, 1));
}

/// Its one header line is of six bytes.
fn the_answers_header_lines_are_limited(lab: Lab) {
    let file = File::new("good.wat", misbehaving([]));
    let server = lab.serve(file.path(), &["--header-lines", "6B"]);
    check(&server, get("/"), 200, "fine");
    let mut server = lab.serve(file.path(), &["--header-lines", "5B"]);
    check(&server, get("/"), 500, "header lines too large\n");
    let served = server.figures().served;
    assert_eq!((served.failed, served.header_lines_too_large), (1, 1));
}

fn the_requests_size_is_limited_in_its_three_parts(lab: Lab) {
    let options = ["--target", "100B", "--head", "1000B", "--body", "1000B"];
    let mut server = lab.serve("hello", &options);
    let head = |bytes: usize| {
        let empty = "GET / HTTP/1.1\r\nHost: lab\r\nx: \r\n\r\n";
        empty.replace("x: ", &format!("x: {}", "y".repeat(bytes)))
    };
    let status = |request: &[u8]| {
        let mut client = server.connect();
        client.send(request);
        client.receive().status
    };
    let long = |bytes: usize| get(&format!("/{}", "a".repeat(bytes - 1)));
    assert_eq!(status(long(100).as_bytes()), 200);
    assert_eq!(status(long(101).as_bytes()), 414);
    assert_eq!(status(head(500).as_bytes()), 200);
    assert_eq!(status(head(1001).as_bytes()), 431);
    assert_eq!(status(&post(&[b'x'; 1000])), 200);
    assert_eq!(status(&post(&[b'x'; 1001])), 413);
    let served = server.figures().served;
    assert_eq!((served.answered, served.rejected), (3, 3));
    assert_eq!(
        (
            served.target_too_long,
            served.head_too_large,
            served.body_too_large
        ),
        (1, 1, 1)
    );
}

/// A server with one instance and more than one thread that wants it. An I/O thread that runs its
/// handlers itself never wants a second.
fn serve_with_one_instance(lab: Lab, handler: &str, options: &[&str]) -> Server {
    let mut all = vec!["--instances", "1"];
    if lab.model.name != "blocking" {
        all.extend(["--offload", "pool", "--workers", "2"]);
    }
    all.extend(options);
    lab.serve(handler, &all)
}

fn a_request_waits_for_an_instance(lab: Lab) {
    let mut server = serve_with_one_instance(lab, "spin", &["--instance-wait", "30s"]);
    let mut clients = [server.connect(), server.connect(), server.connect()];
    for client in &mut clients {
        client.send(get("/?ms=50"));
    }
    for client in &mut clients {
        assert_eq!(client.receive().status, 200);
    }
    let served = server.figures().served;
    assert_eq!((served.answered, served.failed), (3, 0));
}

fn a_request_that_waits_too_long_for_an_instance_is_a_503(lab: Lab) {
    let file = File::new("for-ever.wat", misbehaving(["(loop $again (br $again))"]));
    let options = ["--instance-wait", "20ms", "--deadline", "1h"];
    let mut server = serve_with_one_instance(lab, file.path(), &options);
    let mut busy = server.connect();
    let request = post(b"x");
    busy.send(&request);
    server.until_received(request.len() as u64);
    let mut client = server.connect();
    // What was received first has the instance soon, if not at once.
    let refused = (0..100).map(|_| {
        client.send(get("/"));
        client.receive()
    });
    let refused = refused.skip_while(|response| response.status == 200);
    let response = refused.into_iter().next().expect("one is refused");
    let found = (response.status, response.text());
    assert_eq!(found, (503, "no instance free\n"));
    assert_eq!(response.header("retry-after"), Some("1"));
    assert_eq!(response.header("connection"), None);
    let served = server.figures().served;
    assert_eq!((served.failed, served.no_instance), (1, 1));
}

#[test]
fn native_says_that_it_has_no_limits() {
    let mut server = Command::new(PROGRAM)
        .args(["serve", "--isolation", "native", "--listen", "127.0.0.1:0"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    let mut said = String::new();
    let errors = server.stderr.take().expect("it is piped");
    let read = BufReader::new(errors).read_line(&mut said);
    let _ = server.kill();
    let _ = server.wait();
    read.expect("it speaks UTF-8");
    for words in ["native", "no limits", "CPU time", "memory", "stack"] {
        assert!(said.contains(words), "{words:?} is not in {said:?}");
    }
}

/// A loop of two seconds and more, where a second is the default.
fn only_a_deadline_ends_a_long_request(lab: Lab) {
    let long = get("/?ms=3000");
    let server = lab.serve("spin", &["--no-deadline"]);
    let mut client = server.connect();
    client.send(&long);
    assert_eq!(client.receive().status, 200);
    let mut server = lab.serve("spin", &[]);
    check(&server, &long, 504, "deadline\n");
    let served = server.figures().served;
    assert_eq!((served.failed, served.deadline_passed), (1, 1));
}

mod without_a_deadline {
    use super::only_a_deadline_ends_a_long_request;

    crate::tests_at!(
        epoll_reuse,
        "epoll",
        Reuse,
        only_a_deadline_ends_a_long_request
    );
    crate::tests_at!(
        epoll_fresh,
        "epoll",
        Fresh,
        only_a_deadline_ends_a_long_request
    );
}

#[test]
fn a_deadline_and_none_exclude_each_other() {
    let arguments = ["serve", "--no-deadline", "--deadline", "5ms"];
    let output = Command::new(PROGRAM).args(arguments).output();
    let output = output.expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--no-deadline"), "{said}");
}
