//! `load` as a program: every request is accounted for, on both sides, and what it refuses.
//!
//! No test asserts a speed. What the generator does inside is tested beside it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use ringlab::control::Report;
use ringlab::shard::Figures;
use serde_json::Value;

use crate::runs::{Folder, Run, Said};
use crate::server::PROGRAM;

/// A server to send load to.
struct Target {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    url: String,
}

impl Target {
    fn serve(handler: &str) -> Self {
        let mut process = Command::new(PROGRAM)
            .args(["serve", "--control", "--listen", "127.0.0.1:0"])
            .args(["--handler", handler])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let input = process.stdin.take().expect("it is piped");
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let mut target = Self {
            process,
            input,
            output,
            url: String::new(),
        };
        let line = target.line();
        let url = line.trim().strip_prefix("listening on ");
        target.url = url.unwrap_or_else(|| panic!("{line:?}")).to_string();
        target
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it speaks UTF-8");
        line
    }

    fn figures(&mut self) -> Figures {
        self.input.write_all(b"\n").expect("it reads its input");
        let line = self.line();
        let report: Result<Report, _> = serde_json::from_str(&line);
        report
            .unwrap_or_else(|error| panic!("{error}: {line:?}"))
            .figures
    }

    /// Sends load to it for a moment; how that ended, and the JSON of it.
    fn load(&self, options: &[&str]) -> (Said, Value) {
        self.load_for("150ms", options)
    }

    fn load_for(&self, duration: &str, options: &[&str]) -> (Said, Value) {
        let folder = Folder::new();
        let json = folder.path("load.json");
        let json_path = json.to_str().expect("text");
        let url = format!("{}/?n=5", self.url);
        let arguments = ["load", &url, "--json", json_path, "--quiet"];
        let short = [
            "--warm-up",
            "30ms",
            "--duration",
            duration,
            "--connections",
            "8",
        ];
        let said = Run::start(&[&arguments[..], &short, options].concat()).end();
        let text =
            fs::read_to_string(&json).unwrap_or_else(|error| panic!("{error}: {}", said.err));
        let value = serde_json::from_str(&text).expect("it is JSON");
        (said, value)
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn number(value: &Value, name: &str) -> u64 {
    value[name]
        .as_u64()
        .unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Sends load to `handler`; whatever was sent is answered, and the server says the same.
fn check_load(handler: &str, options: &[&str], name: &str) {
    let mut target = Target::serve(handler);
    let mut sent_before = 0;
    // On a machine that stalls, a short window may be without an answer.
    let (said, json) = ["150ms", "1s", "5s"]
        .into_iter()
        .find_map(|duration| {
            let (said, json) = target.load_for(duration, options);
            let answered = json["latency_ns_p50"].is_u64() || duration == "5s";
            if !answered {
                sent_before += number(&json, "sent");
            }
            answered.then_some((said, json))
        })
        .expect("the last is taken as it is");
    said.expect_done(0);
    said.expect_words(&[name, "answered as expected", "throughput"]);
    let sent = number(&json, "sent");
    assert!(sent > 0);
    assert_eq!(number(&json, "answered"), sent, "{json}");
    assert_eq!(number(&json, "in_flight_at_end"), 0, "{json}");
    assert_eq!(json["failed"], serde_json::json!({}));
    let served = target.figures().served;
    assert_eq!((served.answered - sent_before, served.failed), (sent, 0));
    assert_eq!(
        json["loop"].as_str().map(|name_of| name_of.contains(name)),
        Some(true)
    );
    // Log format 1.3: comments, then a line of tag, start, length, maximum and histogram each.
    let log = json["hdr_log"].as_str().expect("it is text");
    let latency = log.lines().find(|line| line.starts_with("Tag=latency,"));
    let fields: Vec<_> = latency
        .expect("something was answered")
        .split(',')
        .collect();
    assert!(fields.len() == 5 && fields[4].starts_with("HIST"), "{log}");
}

#[test]
fn a_closed_loop_loses_nothing() {
    check_load("hello", &[], "closed loop, 8 in flight");
}

#[test]
fn an_open_loop_loses_nothing() {
    check_load("hello", &["--rate", "500"], "open loop, 500 req/s, Poisson");
    let constant = ["--rate", "500", "--arrivals", "constant"];
    check_load("hello", &constant, "open loop, 500 req/s, constant");
}

#[test]
fn a_pipeline_loses_nothing() {
    check_load("hello", &["--pipeline", "16"], "closed loop, 128 in flight");
}

#[test]
fn a_connection_for_every_request_loses_nothing() {
    check_load(
        "hello",
        &["--one-request-per-connection"],
        "closed loop, 8 in flight",
    );
}

/// Each target is held to its own first answer, and these differ in length.
#[test]
fn several_targets_are_each_held_to_their_own_answer() {
    let targets = ["--target", "3=/?n=1", "--target", "2=/?n=1000"];
    check_load("count", &targets, "closed loop, 8 in flight");
}

#[test]
fn another_status_than_expected_is_a_failure() {
    let mut target = Target::serve("hello");
    let (said, json) = target.load(&["--expect-status", "204"]);
    assert_eq!(said.code, Some(3), "{}", said.out);
    said.expect_words(&["wrong status", "INVALID: no right answer"]);
    let sent = number(&json, "sent");
    assert_eq!(number(&json["failed"], "wrong status"), sent);
    assert_eq!(number(&json, "answered"), 0);
    assert_eq!(target.figures().served.answered, sent);
}

#[test]
fn a_percentile_over_the_threshold_is_exit_code_1() {
    let (said, json) = Target::serve("hello").load(&["--max-p99", "1ns"]);
    // Without a thousand answers there is no such percentile to be over anything.
    let code = if json["latency_ns_p99"].is_null() {
        0
    } else {
        1
    };
    said.expect_done(code);
    if said.code == Some(1) {
        said.expect_words(&["Over the threshold: p99 is above 1ns."]);
    }
}

/// `load` refuses with code 2 and one line.
fn check_load_refused(arguments: &[&str], words: &[&str]) {
    let said = Run::start(&[&["load", "--quiet"], arguments].concat()).end();
    assert_eq!((said.code, &*said.out), (Some(2), ""), "{}", said.err);
    for word in words {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
}

#[test]
fn a_port_where_nobody_listens_is_said() {
    // Bound, so that nobody else gets it, and not listened at.
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let taken = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a descriptor is free");
    let any = SockaddrIn::new(127, 0, 0, 1, 0);
    bind(taken.as_raw_fd(), &any).expect("loopback is there");
    let address: SockaddrIn = getsockname(taken.as_raw_fd()).expect("it is bound");
    let address = address.to_string();
    let url = format!("http://{address}/");
    let words = [
        &*address,
        "0 of 64",
        "Connection refused",
        "start the server",
    ];
    check_load_refused(&[&url], &words);
}

#[test]
fn what_is_no_load_is_refused() {
    let url = "http://127.0.0.1:9/";
    check_load_refused(&["ftp://127.0.0.1/"], &["http://"]);
    check_load_refused(
        &[url, "--connections", "0"],
        &["no connection", "at least 1"],
    );
    check_load_refused(&[url, "--target", "0=/x"], &["is no target", "3=/path"]);
    check_load_refused(&[url, "--header", "none"], &["is no header", "name: value"]);
    check_load_refused(&[url, "--body", "./none"], &["./none", "cannot be read"]);
    check_load_refused(
        &[url, "--rate", "10", "--pipeline", "2"],
        &["cannot be used with"],
    );
}
