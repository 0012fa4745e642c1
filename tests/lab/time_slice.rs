//! Handlers in slices: what is suspended stands in nobody's way, keeps its instance to itself, and
//! ends where it began.

use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use ringlab::swap::{Ask, socket};

use crate::client::{Client, get, post};
use crate::copies::of_the_handler;
use crate::guests::{File, misbehaving};
use crate::routes::said_at_start;
use crate::server::{PROGRAM, Server};
use crate::{Lab, PATIENCE};

/// Slices are had where ringlab's own loop is.
macro_rules! on_every_model_with_turns {
    ($($behaviour:ident),+ $(,)?) => {
        crate::tests_at!(nonblocking, "nonblocking", Reuse, $($behaviour),+);
        crate::tests_at!(epoll, "epoll", Reuse, $($behaviour),+);
        crate::tests_at!(epoll_fresh, "epoll", Fresh, $($behaviour),+);
        crate::tests_at!(signal, "signal", Reset, $($behaviour),+);
        crate::tests_at!(io_uring, "io_uring", Reuse, $($behaviour),+);
        crate::tests_at!(io_uring_on_demand, "io_uring", OnDemand, $($behaviour),+);
    };
}

on_every_model_with_turns![
    heavy_requests_share_the_core,
    a_loop_is_ended_beside_others,
    a_trap_in_a_later_slice_is_its_owners,
    who_finds_no_instance_in_time_is_told,
    who_waited_for_an_instance_is_answered,
    who_waits_for_an_instance_is_copied_aside_and_so_is_its_answer,
    who_has_not_begun_goes_before_who_is_half_run,
    what_is_suspended_ends_with_the_handler_it_began_with,
    a_route_in_slices_leaves_the_others_alone,
    what_is_suspended_is_answered_before_the_end,
    ticks_are_fast_only_while_a_request_is_half_run,
];

mod on_every_model_without_turns {
    crate::tests_at!(blocking, "blocking", Reuse, it_is_refused_in_a_sentence);
    crate::tests_at!(
        tokio_uring,
        "tokio_uring",
        Reuse,
        it_is_refused_in_a_sentence
    );

    use super::it_is_refused_in_a_sentence;
}

/// Runs for far longer than a slice, then goes on.
const LONG: &str = "(local.set 1 (i64.const 80000000))
    (loop $again
        (local.set 1 (i64.sub (local.get 1) (i64.const 1)))
        (br_if $again (i64.ne (local.get 1) (i64.const 0))))";
const FOR_EVER: &str = "(loop $again (br $again))";
const NO_DEADLINE: [&str; 2] = ["--deadline", "1h"];

/// What the guest does for a body of so many bytes.
const RUNS_LONG: usize = 1;
const RUNS_LONG_AND_TRAPS: usize = 2;
const RUNS_FOR_EVER: usize = 3;

fn guest() -> String {
    let long_and_traps = format!("{LONG} (unreachable)");
    let text = misbehaving([LONG, &long_and_traps, FOR_EVER]);
    text.replace(
        "(export \"handle\") (param i32) (result i32)",
        "(export \"handle\") (param i32) (result i32) (local i64)",
    )
}

fn ask(what: usize) -> Vec<u8> {
    post(&vec![b'!'; what])
}

impl Lab {
    fn in_slices(self, handler: &str, options: &[&str]) -> Server {
        self.serve(handler, &[&["--offload", "time-slice"], options].concat())
    }
}

fn expect(client: &mut Client, status: u16, text: &str) {
    let response = client.receive();
    assert_eq!((response.status, response.text()), (status, text));
}

/// Clients of which each has a request that is half run. Beside one that never ends they get short
/// slices: alone, on a busy machine, one may end before a tick finds it.
fn suspend(server: &mut Server, clients: usize, what: usize) -> Vec<Client> {
    let mut beside = server.connect();
    let already = server.figures().served.half_run + 1;
    beside.send(ask(RUNS_FOR_EVER));
    server.until("half run", |now| now.served.half_run >= already);
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let mut client = server.connect();
            client.send(ask(what));
            client
        })
        .collect();
    let expected = already + clients.len() as u64;
    server.until("half run", |now| now.served.half_run >= expected);
    drop(beside);
    clients
}

fn heavy_requests_share_the_core(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let mut server = lab.in_slices(file.path(), &NO_DEADLINE);
    let _for_ever = suspend(&mut server, 1, RUNS_FOR_EVER);
    // They run beside one that never ends, and light ones are answered all the while.
    let mut long = suspend(&mut server, 2, RUNS_LONG);
    let mut light = server.connect();
    for _ in 0..20 {
        light.send(get("/"));
        expect(&mut light, 200, "fine");
    }
    for client in &mut long {
        expect(client, 200, "fine");
    }
    let served = server.figures().served;
    // No slice is as long as a whole request, and each holds its guest's four pages at least.
    assert!(served.resumed > 10, "{served:?}");
    // The others had stacks of their own from the start.
    assert_eq!(served.begun_again, 1, "{served:?}");
    assert!(
        served.held_bytes > served.half_run * 4 * 64 * 1024,
        "{served:?}"
    );
}

fn a_loop_is_ended_beside_others(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let server = lab.in_slices(file.path(), &["--deadline", "30ms"]);
    let mut clients: Vec<_> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.send(ask(RUNS_FOR_EVER));
    }
    // Each has its deadline for itself, however long it waits for its slices.
    for client in &mut clients {
        expect(client, 504, "deadline\n");
        client.send(get("/"));
        expect(client, 200, "fine");
    }
}

fn a_trap_in_a_later_slice_is_its_owners(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let mut server = lab.in_slices(file.path(), &NO_DEADLINE);
    let mut traps = suspend(&mut server, 1, RUNS_LONG_AND_TRAPS);
    let mut long = server.connect();
    long.send(ask(RUNS_LONG));
    expect(&mut traps[0], 500, "unreachable\n");
    expect(&mut long, 200, "fine");
    traps[0].send(get("/"));
    expect(&mut traps[0], 200, "fine");
}

fn who_finds_no_instance_in_time_is_told(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let options = ["--instances", "2", "--instance-wait", "20ms"];
    let mut server = lab.in_slices(file.path(), &[&NO_DEADLINE[..], &options].concat());
    let mut suspended: Vec<_> = (0..2).map(|_| server.connect()).collect();
    for client in &mut suspended {
        client.send(ask(RUNS_FOR_EVER));
    }
    server.until("half run", |now| now.served.half_run == 2);
    let mut client = server.connect();
    client.send(get("/"));
    let response = client.receive();
    assert_eq!(
        (response.status, response.text()),
        (503, "no instance free\n")
    );
    assert_eq!(response.header("retry-after"), Some("1"));
}

fn who_waited_for_an_instance_is_answered(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let options = ["--instances", "1", "--instance-wait", "1h"];
    let mut server = lab.in_slices(file.path(), &[&NO_DEADLINE[..], &options].concat());
    let mut long = server.connect();
    long.send(ask(RUNS_LONG));
    server.until_received(ask(RUNS_LONG).len() as u64);
    // More than one waits, and the first of them is long itself.
    let mut waiting: Vec<_> = (0..3).map(|_| server.connect()).collect();
    waiting[0].send(ask(RUNS_LONG));
    for client in &mut waiting[1..] {
        client.send(get("/"));
    }
    for client in std::iter::once(&mut long).chain(&mut waiting) {
        expect(client, 200, "fine");
    }
}

/// The lent bytes are another connection's by the time that its turn comes, and its answer is not lent.
fn who_waits_for_an_instance_is_copied_aside_and_so_is_its_answer(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let options = ["--instances", "1", "--instance-wait", "1h"];
    let mut server = lab.in_slices(file.path(), &[&NO_DEADLINE[..], &options].concat());
    let (for_ever, light) = (ask(RUNS_FOR_EVER), get("/"));
    let mut beside = server.connect();
    beside.send(&for_ever);
    server.until("half run", |now| now.served.half_run == 1);
    let mut waiting = server.connect();
    waiting.send(&light);
    server.until_received((for_ever.len() + light.len()) as u64);
    drop(beside);
    let answer = of_the_handler(&waiting.receive());
    // It compares its header lines with those of no other answer, if it has any.
    let compared = answer - "fine".len() as u64;
    // The first that outlasts its slice is begun again, on a stack of its own.
    let begun = 2 * for_ever.len() as u64;
    let expected = begun + 2 * (light.len() as u64 + answer) + compared;
    assert_eq!(server.figures().served.bytes_copied, expected);
}

fn who_has_not_begun_goes_before_who_is_half_run(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let options = ["--instances", "2", "--instance-wait", "1h"];
    let mut server = lab.in_slices(file.path(), &[&NO_DEADLINE[..], &options].concat());
    let mut for_ever = server.connect();
    for_ever.send(ask(RUNS_FOR_EVER));
    server.until("half run", |now| now.served.half_run == 1);
    let mut long = server.connect();
    long.send(ask(RUNS_LONG));
    server.until("half run", |now| now.served.half_run == 2);
    // No instance is free until the long one has ended; the other one is half run all the while.
    let mut waiting = server.connect();
    waiting.send(get("/"));
    expect(&mut long, 200, "fine");
    expect(&mut waiting, 200, "fine");
}

fn what_is_suspended_ends_with_the_handler_it_began_with(lab: Lab) {
    let old = File::new("slices.wat", guest());
    let new = File::new("slices-new.wat", guest().replace("\"fine\"", "\"new!\""));
    let socket_path = std::env::temp_dir().join(format!(
        "ringlab-slice-{}-{}-{}",
        std::process::id(),
        lab.model.name,
        lab.isolation
    ));
    let options = ["--socket", socket_path.to_str().expect("it is text")];
    let mut server = lab.in_slices(old.path(), &[&NO_DEADLINE[..], &options].concat());
    let mut suspended = suspend(&mut server, 1, RUNS_LONG);
    let to = new.path().to_owned();
    let swapped = socket::ask(&socket_path, &Ask::Swap { route: None, to });
    assert!(swapped.expect("the server answers").is_ok());
    let mut client = server.connect();
    client.send(get("/"));
    expect(&mut client, 200, "new!");
    expect(&mut suspended[0], 200, "fine");
    // The new one is in slices too.
    let mut suspended = suspend(&mut server, 1, RUNS_LONG);
    expect(&mut suspended[0], 200, "new!");
}

fn a_route_in_slices_leaves_the_others_alone(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let route = |path: &str| format!("{path}={},time-slice", file.path());
    let (heavy, long) = (route("/heavy"), route("/long"));
    let options = [
        "--route",
        "/light=hello",
        "--route",
        &heavy,
        "--route",
        &long,
    ];
    let mut server = lab.serve_routes(&[&NO_DEADLINE[..], &options].concat());
    let to = |path: &str, what: usize| {
        let request = String::from_utf8(ask(what)).expect("it is text");
        request.replacen(" /post ", &format!(" {path} "), 1)
    };
    let mut for_ever = server.connect();
    for_ever.send(to("/heavy", RUNS_FOR_EVER));
    server.until("half run", |now| now.served.half_run == 1);
    // Both routes' suspended requests get their slices.
    let mut long = server.connect();
    long.send(to("/long", RUNS_LONG));
    let mut light = server.connect();
    light.send(get("/light"));
    expect(&mut light, 200, "Hello, World!\n");
    expect(&mut long, 200, "fine");
}

fn what_is_suspended_is_answered_before_the_end(lab: Lab) {
    let file = File::new("slices.wat", guest());
    let mut server = lab.in_slices(file.path(), &NO_DEADLINE);
    let mut suspended = suspend(&mut server, 3, RUNS_LONG);
    server.signal(Signal::SIGTERM);
    for client in &mut suspended {
        expect(client, 200, "fine");
        client.expect_fin();
    }
    assert!(server.end().0.success());
}

fn it_is_refused_in_a_sentence(lab: Lab) {
    let model = lab.model.name;
    let sentence = format!("time-slice does not go with {model}: ");
    refused(&["--model", model, "--offload", "time-slice"], &sentence);
    let route = ["--route", "/a=hello,time-slice", "--route", "/b=hello"];
    refused(&[&["--model", model][..], &route].concat(), &sentence);
}

#[test]
fn linked_in_code_is_not_sliced() {
    let options = ["--isolation", "native", "--offload", "time-slice"];
    refused(&options, "nothing interrupts a handler that is linked in");
}

#[test]
fn a_quantum_has_bounds() {
    for quantum in ["49us", "1001ms", "0s", "1 fortnight"] {
        refused(&["--quantum", quantum], "--quantum");
    }
}

/// What is asked for is obeyed, whatever ticks take then.
#[test]
fn how_long_slices_are_is_said_where_nobody_asked() {
    let check = |handler: &str, options: &[&str], is_said: bool| {
        // The way back of this route's answers is said last.
        let routes = ["--route", handler, "--route", "/b=hello,pool"];
        let said = said_at_start(&[&routes, options].concat(), "answers of other threads");
        let found = said.iter().filter(|line| line.starts_with("slices last "));
        assert_eq!(found.count(), usize::from(is_said), "{said:?}");
    };
    check("/a=hello,time-slice", &[], true);
    // By the parent, for all its processes, which have it from there.
    check("/a=hello,time-slice", &["--layout", "processes"], true);
    check("/a=hello,time-slice", &["--quantum", "50us"], false);
    check("/a=hello,inline", &[], false);
}

fn refused(options: &[&str], sentence: &str) {
    let mut command = std::process::Command::new(PROGRAM);
    command.args(["serve", "--control", "--listen", "127.0.0.1:0"]);
    let output = command.args(options).output().expect("it can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(sentence), "{options:?}: {said}");
    assert_eq!(output.status.code(), Some(2), "{options:?}: {said}");
}

/// An idle server with slices is as idle as one without: what has been half run leaves no timer behind.
#[test]
fn nothing_ticks_when_nothing_is_half_run() {
    let model = ringlab::models::find("epoll").expect("it is in the table");
    let isolation = ringlab::sandbox::Isolation::Reuse;
    let file = File::new("slices.wat", guest());
    let mut server = Lab { model, isolation }.in_slices(file.path(), &NO_DEADLINE);
    let mut ended = suspend(&mut server, 1, RUNS_LONG);
    expect(&mut ended[0], 200, "fine");
    let left = suspend(&mut server, 1, RUNS_FOR_EVER);
    drop(left);
    server.until("cancelled", |now| now.served.cancelled == 3);
    let before = server.report();
    std::thread::sleep(Duration::from_millis(300));
    let since = server.report().since(&before);
    // A timer of 500 µs would have woken it 600 times, and a loop that polls would have turned more often.
    assert!(since.voluntary_switches < 100, "{since:?}");
    assert!(since.figures.turns.turns < 100, "{since:?}");
}

/// The coarse ticks come by CPU time, a few hundred a second at most whatever the clients do; the fine
/// ones by the wall clock, ten times as often.
fn ticks_are_fast_only_while_a_request_is_half_run(lab: Lab) {
    const COARSE_NS: u64 = 4_000_000;
    let file = File::new("slices.wat", guest());
    let mut server = lab.in_slices(file.path(), &NO_DEADLINE);
    let mut light = server.connect();
    let mut expect_coarse = |server: &mut Server| {
        let before = server.report();
        for _ in 0..300 {
            light.send(get("/"));
            expect(&mut light, 200, "fine");
        }
        let since = server.report().since(&before);
        // A coarse tick may meet a light request, which is half run then, for a moment.
        let met = since.figures.served.half_run;
        let most = since.cpu_ns / COARSE_NS + 2 + met;
        assert!(since.ticks <= most, "{} of {most}", since.ticks);
    };
    expect_coarse(&mut server);
    let already = server.figures().served.half_run;
    let mut heavy = server.connect();
    heavy.send(ask(RUNS_FOR_EVER));
    server.until("half run", |now| now.served.half_run > already);
    let before = server.report();
    let start = Instant::now();
    loop {
        let since = server.report().since(&before);
        if since.ticks >= 100 {
            assert!(since.ticks > 2 * since.cpu_ns / COARSE_NS, "{since:?}");
            break;
        }
        assert!(start.elapsed() < PATIENCE, "no ticks: {since:?}");
        sleep(Duration::from_millis(1));
    }
    drop(heavy);
    server.until("cancelled", |now| now.served.cancelled == 1);
    expect_coarse(&mut server);
}
