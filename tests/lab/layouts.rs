//! The same cores as processes: one server to its clients, whatever becomes of one of its processes.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringlab::experiment::result::Experiment;
use ringlab::sandbox::Isolation;

use crate::client::{Client, get};
use crate::drain::Clients;
use crate::runs::{Run, in_long_windows};
use crate::server::{PROGRAM, Server};
use crate::{Lab, PATIENCE, on_every_model, run};

on_every_model![
    figures_are_of_all_processes,
    requests_under_way_are_answered_at_the_end,
];

fn cores() -> usize {
    ringlab::config::cores().len()
}

/// What a server with several processes says of itself at its start.
fn preface() -> &'static str {
    if cores() == 1 {
        "ringlab: on one core the layouts differ in little but a parent process\n"
    } else {
        ""
    }
}

fn figures_are_of_all_processes(lab: Lab) {
    const CLIENTS: u64 = 24;
    let mut server = lab.serve_in_processes("hello", &[]);
    let pids = server.processes().pids;
    assert_eq!(pids.len(), 1 + cores(), "a parent, and one for each core");
    let before = server.report();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| server.connect()).collect();
    clients.iter_mut().for_each(Client::expect_open);
    let after = server.report();
    let done = after.since(&before);
    assert_eq!(done.figures.served.accepted, CLIENTS);
    assert_eq!(done.figures.served.answered, CLIENTS);
    assert!(done.cpu_ns > 0 && done.helpers_ns < done.cpu_ns, "{done:?}");
    let memory = server.processes().memory_bytes;
    // Each has a guest, an engine and stacks of its own.
    let least = cores() as u64 * 256 * 1024;
    assert!(
        memory.value().is_none_or(|&bytes| bytes > least),
        "{memory}"
    );
}

fn requests_under_way_are_answered_at_the_end(lab: Lab) {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut server = lab.serve_in_processes("echo", &[]);
        let clients = Clients::connect(&mut server);
        server.signal(signal);
        clients.expect_answered(|_| ());
        let (status, said) = server.end();
        assert_eq!((status.code(), &*said), (Some(0), preface()));
    }
}

/// Runs a behaviour of the layout that no model has a part in, on two that differ most.
fn on_two_models(behaviour: fn(Lab)) {
    run("epoll", Isolation::Reuse, behaviour);
    run("tokio_uring", Isolation::Fresh, behaviour);
}

/// Whether a process is there and not only waited for: `State` of proc_pid_status(5).
fn is_running(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| !state.trim_start().starts_with(['Z', 'X']))
}

/// Waits for what comes soon.
fn until(what: &str, come: impl Fn() -> bool) {
    let start = Instant::now();
    while !come() {
        assert!(start.elapsed() < PATIENCE, "not {what}");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

fn expect_gone(pids: &[i32]) {
    until("gone", || !pids.iter().any(|&pid| is_running(pid)));
}

fn kill_one(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it is running");
}

#[test]
fn a_process_that_dies_ends_the_server() {
    on_two_models(|lab| {
        for (signal, how) in [
            (Signal::SIGKILL, "was killed by SIGKILL"),
            // It drains and ends, which nobody has told it to.
            (Signal::SIGTERM, "ended with exit code 0"),
        ] {
            let mut server = lab.serve_in_processes("hello", &[]);
            let pids = server.processes().pids;
            kill_one(pids[1], signal);
            let (status, said) = server.end();
            assert_eq!(status.code(), Some(4), "{said}");
            for words in ["the process on core", how, "start it anew"] {
                assert!(said.contains(words), "{words:?} is not in {said:?}");
            }
            expect_gone(&pids);
        }
    });
}

#[test]
fn a_process_that_dies_lets_the_others_finish() {
    if cores() == 1 {
        return;
    }
    on_two_models(|lab| {
        let mut server = lab.serve_in_processes("echo", &[]);
        // The kernel spreads them by a hash of their ports: half of so many would be missing.
        let mut clients: Vec<Client> = (0..64).map(|_| server.connect()).collect();
        clients.iter_mut().for_each(Client::expect_open);
        let head = "POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 4\r\n\r\nbo";
        let before = server.figures().served.bytes_in;
        clients.iter_mut().for_each(|client| client.send(head));
        server.until_received(before + 64 * head.len() as u64);
        kill_one(server.processes().pids[1], Signal::SIGKILL);
        let answered = clients.iter_mut().map(|client| client.finish("dy"));
        let answered = answered.filter(|status| *status == Some(200)).count();
        assert!((1..64).contains(&answered), "{answered} of 64");
        assert_eq!(server.end().0.code(), Some(4));
    });
}

#[test]
fn processes_die_with_their_parent() {
    on_two_models(|lab| {
        let mut server = lab.serve_in_processes("hello", &[]);
        let pids = server.processes().pids;
        let address = server.address();
        server.connect().expect_open();
        server.kill();
        expect_gone(&pids);
        // Whoever comes next can have the address, when the kernel has put away the last ring.
        until("free", || TcpListener::bind(address).is_ok());
        let listen = address.to_string();
        let server = lab.serve_in_processes_at(&listen, "hello", &[]);
        server.connect().expect_open();
    });
}

#[test]
fn a_second_signal_ends_every_process_at_once() {
    on_two_models(|lab| {
        let mut server = lab.serve_in_processes("echo", &[]);
        let pids = server.processes().pids;
        let mut idle = server.connect();
        let mut busy = server.connect();
        idle.expect_open();
        busy.send("GET /");
        server.until("accepted", |now| now.served.accepted == 2);
        server.signal(Signal::SIGINT);
        idle.expect_fin();
        server.signal(Signal::SIGINT);
        assert_eq!(server.end().0.code(), Some(130));
        expect_gone(&pids);
    });
}

#[test]
fn a_process_that_hangs_is_killed_in_the_end() {
    run("epoll", Isolation::Reuse, |lab| {
        let mut server = lab.serve_in_processes("hello", &["--drain", "10ms"]);
        let pids = server.processes().pids;
        kill_one(pids[1], Signal::SIGSTOP);
        server.signal(Signal::SIGTERM);
        let (status, said) = server.end();
        assert_eq!(status.code(), Some(4), "{said}");
        assert!(said.contains("was killed by SIGKILL"), "{said}");
        expect_gone(&pids);
    });
}

#[test]
fn the_end_of_the_input_drains_every_process() {
    on_two_models(|lab| {
        let mut server = lab.serve_in_processes("echo", &[]);
        let clients = Clients::connect(&mut server);
        server.close_input();
        clients.expect_answered(|_| ());
        assert_eq!(server.end().0.code(), Some(0));
    });
}

#[test]
fn the_end_tells_of_all_processes() {
    for isolation in ["reuse", "fresh"] {
        let options = ["--route", "/trap=trap", "--isolation", isolation];
        let serve = ["serve", "--layout", "processes", "--listen", "127.0.0.1:0"];
        let server = Run::start(&[&serve[..], &options].concat());
        let line = server.first_line();
        let address = line.strip_prefix("listening on http://");
        let address = address.and_then(|address| address.parse().ok());
        let address: SocketAddr = address.unwrap_or_else(|| panic!("no address: {line:?}"));
        // The kernel spreads them by a hash of their ports: one process has all of them once in 32,768.
        for _ in 0..16 {
            let mut client = Client::connect(address);
            client.send([get("/trap"), get("/")].concat());
            let [bad, good] = [client.receive().status, client.receive().status];
            assert_eq!([bad, good], [500, 404]);
        }
        server.signal(Signal::SIGINT);
        let said = server.end();
        assert_eq!(said.code, Some(0), "{}", said.err);
        let end = "failed 32 of 32 requests: trap 16, no route 16\n";
        assert!(said.out.ends_with(end), "{isolation}: {:?}", said.out);
    }
}

/// As one process says it, whatever the number of processes.
#[test]
fn what_answers_and_what_has_no_limits_is_said_once() {
    let routes = ["--route", "/a=hello", "--route", "/b=echo,native"];
    let serve = ["serve", "--layout", "processes", "--listen", "127.0.0.1:0"];
    let server = Run::start(&[&serve[..], &routes].concat());
    assert!(server.first_line().starts_with("listening on "));
    server.signal(Signal::SIGINT);
    let said = server.end();
    assert_eq!(said.code, Some(0), "{}", said.err);
    for words in [
        "/a: hello (",
        "reuse, compiled in ",
        "/b: echo (linked in), native, not compiled\n",
        "\nready in ",
    ] {
        assert_eq!(said.out.matches(words).count(), 1, "{words}: {}", said.out);
    }
    let warned = said.err.matches("isolation native has no limits").count();
    assert_eq!(warned, 1, "{}", said.err);
}

/// Runs the program; it refuses with this code and all of `words`.
fn check_refused(arguments: &[&str], code: i32, words: &[&str]) {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--control", "--layout", "processes"]);
    let output = command.args(arguments).stdin(Stdio::null()).output();
    let output = output.expect("the program can be started");
    let said = String::from_utf8(output.stderr).expect("it speaks UTF-8");
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    let refusals = said.lines().filter(|line| !preface().contains(*line));
    assert_eq!(refusals.count(), 1, "{said}");
}

#[test]
fn what_cannot_be_is_said_once() {
    let free = ["--listen", "127.0.0.1:0"];
    let check = |arguments: &[&str], code, words: &[&str]| {
        check_refused(&[&free[..], arguments].concat(), code, words);
    };
    check(&["--handler", "helo"], 2, &["helo", "no built-in handler"]);
    check(&["--cores", "9999"], 2, &["no core 9999", "choose from"]);
    check(&["--cores", "0,0"], 2, &["twice"]);
    if cores() > 1 {
        let words = ["--connections 1", "processes", "--layout threads"];
        check(&["--connections", "1"], 2, &words);
    }
    check_refused(&["--listen", "192.0.2.1:0"], 2, &["no interface"]);
}

#[test]
fn an_unknown_layout_is_refused() {
    let output = Command::new(PROGRAM)
        .args(["serve", "--layout", "fibres"])
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("choose one of threads, processes"), "{said}");
}

#[test]
fn the_port_of_a_cluster_is_taken() {
    on_two_models(|lab| {
        let server = lab.serve_in_processes("hello", &[]);
        let address = server.address().to_string();
        let words = [&*address, "the port is in use"];
        check_refused(&["--listen", &address], 2, &words);
        server.connect().expect_open();
    });
}

#[test]
fn one_core_is_served_and_said() {
    on_two_models(|lab| {
        let mut server = lab.serve("hello", &["--layout", "processes"]);
        assert_eq!(server.processes().pids.len(), 2);
        server.connect().expect_open();
        let said = server.kill();
        assert!(
            said.contains("on one core the layouts differ in little"),
            "{said}"
        );
    });
}

/// Asks of so many new connections until the server has refused one; how many it had let in.
fn fill(server: &mut Server, most: usize) -> usize {
    let mut clients = Vec::new();
    while server.figures().served.refused == 0 {
        let mut client = server.connect();
        client.send(get("/"));
        clients.push((client.receive().status, client));
        assert!(clients.len() <= most, "nobody is refused");
    }
    let let_in = clients.iter().filter(|(status, _)| *status == 200);
    let_in.count()
}

#[test]
fn connections_are_shared_out() {
    on_two_models(|lab| {
        let limit = (4 * cores()).to_string();
        let mut server = lab.serve_in_processes("hello", &["--connections", &limit]);
        // One process may be full before the others are, and none takes more than its part.
        let let_in = fill(&mut server, 4 * cores() + 1);
        assert!((4..=4 * cores()).contains(&let_in), "{let_in}");
        assert!(server.figures().served.refused >= 1);
    });
}

#[test]
fn few_descriptors_mean_few_connections_in_each_process() {
    on_two_models(|lab| {
        let options = ["--layout", "processes"];
        let mut server = lab.serve_with_descriptors(128, "hello", &options);
        let let_in = fill(&mut server, 128);
        let said = server.kill();
        let number = let_in.to_string();
        for words in ["128 descriptors", &number, "not 1024", "ulimit -n"] {
            assert!(said.contains(words), "{words:?} is not in {said:?}");
        }
    });
}

/// Whoever comes when the last process has closed its listener is refused by the kernel.
fn is_refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn a_cluster_that_has_ended_holds_no_address() {
    on_two_models(|lab| {
        let server = lab.serve_in_processes("hello", &[]);
        let address = server.address();
        server.signal(Signal::SIGTERM);
        assert_eq!(server.end().0.code(), Some(0));
        assert!(is_refused(address));
    });
}

/// Runs `compare` on short blocks; what it printed, and what it stored.
fn compare(options: &[&str]) -> (String, serde_json::Value) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let unique = NEXT.fetch_add(1, Ordering::Relaxed);
    let file = format!("layouts-{}-{unique}.json", std::process::id());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    let in_window = |window: &str| {
        let output = Command::new(PROGRAM)
            .args([
                "compare",
                "--quiet",
                "--warm-up",
                "20ms",
                "--window",
                window,
            ])
            .args(["--rounds", "2", "--equal-rate-rounds", "0"])
            .args(options)
            .arg("--json")
            .arg(&file)
            .output()
            .expect("the program can be started");
        let said = String::from_utf8(output.stdout).expect("it speaks UTF-8");
        let experiment = Experiment::load(&file).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        (said, experiment)
    };
    let (said, _) = in_long_windows(in_window);
    let stored = std::fs::read(&file).expect("it was there");
    let _ = std::fs::remove_file(&file);
    (said, serde_json::from_slice(&stored).expect("it is JSON"))
}

#[test]
fn compare_shows_memory_and_cost_of_both_layouts() {
    let axes = [
        "--model",
        "epoll,tokio_uring",
        "--layout",
        "threads,processes",
    ];
    let (said, stored) = compare(&[&axes[..], &["--ledger-rounds", "0"]].concat());
    let arms = [
        "epoll threads",
        "epoll processes",
        "tokio_uring threads",
        "tokio_uring processes",
    ];
    let shown = said.split("memory and cost").nth(1).expect("it is shown");
    for (nth, label) in arms.into_iter().enumerate() {
        assert!(shown.contains(label), "{label} is not in {said}");
        let layout = &stored["plan"]["arms"][nth]["layout"];
        assert_eq!(*layout, label.split(' ').nth(1).expect("two words"));
        let memory = |block: &&serde_json::Value| block["arm"] == nth;
        for block in stored["blocks"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(memory)
        {
            let memory = &block["memory_bytes"];
            let read = memory.as_u64().is_some_and(|bytes| bytes > 1024 * 1024);
            let missing = memory.as_str().is_some_and(|why| why.starts_with("n/a: "));
            assert!(read || missing, "{memory}");
        }
    }
    // The default is one server core.
    assert!(
        said.contains("on one core the layouts differ in little"),
        "{said}"
    );
}

/// Its ledger and counts are of all processes.
#[test]
fn the_ledger_of_processes_is_recorded() {
    let axes = ["--model", "epoll", "--layout", "processes"];
    let (said, stored) = compare(&[&axes[..], &["--ledger-rounds", "1"]].concat());
    assert!(!said.contains("memory and cost"), "one layout: {said}");
    let column = &stored["analysis"]["ledgers"][0]["columns"][0];
    let sends = column["rows"].as_array().into_iter().flatten();
    let mut sends = sends.filter(|row| row["stage"] == "Send");
    let recorded = sends.any(|row| row["ns"].as_f64() > Some(0.0));
    // Where the counter is not steady, there is no ledger and it is said.
    assert!(recorded || said.contains("the time ledger"), "{said}");
}

#[test]
fn compare_refuses_a_layout_that_there_is_not() {
    let output = Command::new(PROGRAM)
        .args(["compare", "--layout", "threads,fibres"])
        .output()
        .expect("the program can be started");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("\"fibres\"; choose one of threads"), "{said}");
}
