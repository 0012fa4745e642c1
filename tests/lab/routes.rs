//! Routes: the longest path wins, each has an isolation and a policy of its own, and what has none
//! is a 404 on a stream that stays good.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::client::get;
use crate::guests::{File, misbehaving};
use crate::server::PROGRAM;
use crate::{Lab, on_every_model};

on_every_model![
    the_longest_path_wins_in_every_form_of_target,
    each_route_has_its_isolation_and_policy,
    a_route_that_loops_is_ended_beside_nine_others,
];

fn answer(lab: Lab, target: &str, routes: &[&str]) -> Vec<(u16, String)> {
    let options: Vec<_> = routes.iter().flat_map(|route| ["--route", route]).collect();
    let server = lab.serve_routes(&options);
    let mut client = server.connect();
    let targets = target.split_whitespace();
    targets
        .map(|target| {
            client.send(get(target));
            let response = client.receive();
            (response.status, response.text().to_owned())
        })
        .collect()
}

fn the_longest_path_wins_in_every_form_of_target(lab: Lab) {
    let text = concat!(
        "/deep=",
        env!("CARGO_MANIFEST_DIR"),
        "/guest/text/hello.wat"
    );
    let targets = "/hello /hello?x /hello/below /deep http://lab/deep/ /deeper / /hello";
    let answers = answer(lab, targets, &["/hello=hello", text]);
    let hello = (200, "Hello, World!\n".to_owned());
    let deep = (200, "Hello from the text format\n".to_owned());
    let none = (404, "no route\n".to_owned());
    let expected = [
        hello.clone(),
        hello.clone(),
        hello.clone(),
        deep.clone(),
        deep,
        none.clone(),
        none,
        hello,
    ];
    assert_eq!(answers, expected);
}

/// A guest that counts its requests: what `reuse` keeps, `fresh` does not.
fn counting() -> File {
    let count = "(global $n (mut i32) (i32.const 48))
        (func (export \"count\") (result i32)
            (global.set $n (i32.add (global.get $n) (i32.const 1))) (global.get $n))
        (table 1 funcref)";
    let guest = misbehaving([]).replace("(table 1 funcref)", count);
    let store = "(i32.store8 (i32.const 192) (call 0))\n(i32.const 64)))";
    let end = guest.rfind("(i32.const 64)").expect("it ends so");
    let guest = guest[..end].to_owned() + store;
    File::new("counting.wat", guest)
}

fn each_route_has_its_isolation_and_policy(lab: Lab) {
    let guest = counting();
    let route = |path: &str, how: &str| format!("{path}={}{how}", guest.path());
    let routes = [
        route("/kept", ",reuse"),
        route("/new", ",fresh"),
        route("/pool", ",pool,fresh"),
        route("/spawn", ",spawn,fresh"),
    ];
    let routes: Vec<_> = routes.iter().map(String::as_str).collect();
    let targets = "/kept /new /pool /spawn /kept /new /pool /spawn /kept";
    let answers = answer(lab, targets, &routes);
    let counts: Vec<_> = answers.iter().map(|(_, text)| &text[..1]).collect();
    assert_eq!(counts, ["1", "1", "1", "1", "2", "1", "1", "1", "3"]);
}

fn a_route_that_loops_is_ended_beside_nine_others(lab: Lab) {
    let guest = misbehaving([]);
    let end = guest.rfind("(i32.const 64)").expect("it ends so");
    let guest = guest[..end].to_owned() + "(loop $again (br $again)) (i32.const 64)))";
    let looping = File::new("loops.wat", guest);
    let mut options = vec!["--deadline".to_owned(), "50ms".to_owned()];
    for nth in 0..9 {
        options.extend(["--route".to_owned(), format!("/{nth}=hello")]);
    }
    options.extend(["--route".to_owned(), format!("/loops={}", looping.path())]);
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let server = lab.serve_routes(&options);
    let mut client = server.connect();
    for target in ["/0", "/loops", "/8", "/loops", "/none", "/4"] {
        client.send(get(target));
        let expected = match target {
            "/loops" => 504,
            "/none" => 404,
            _ => 200,
        };
        assert_eq!(client.receive().status, expected, "{target}");
    }
}

/// What a server says of its start when nobody but a person has started it, to the line that begins with
/// `last`.
pub fn said_at_start(options: &[&str], last: &str) -> Vec<String> {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--listen", "127.0.0.1:0"]);
    if !options.contains(&"processes") {
        // Several processes have none, and refuse to hear of it.
        command.args(["--socket", "none"]);
    }
    command.args(options);
    let process = command.stdout(Stdio::piped()).spawn();
    let mut process = process.expect("the program can be started");
    let output = BufReader::new(process.stdout.take().expect("it is piped"));
    let mut said = Vec::new();
    for line in output.lines() {
        said.push(line.expect("it speaks UTF-8"));
        if said.last().is_some_and(|line| line.starts_with(last)) {
            break;
        }
    }
    process.kill().expect("it is a child");
    process.wait().expect("it is a child");
    said
}

#[test]
fn what_is_said_at_the_start_fits_the_terminal() {
    let long = format!("/{}=spin,reset,time-slice", "long".repeat(8));
    let routes = ["/a=hello", &long, "/b=hello,fresh,pool"];
    let options: Vec<_> = routes.iter().flat_map(|route| ["--route", route]).collect();
    for options in [&options[..], &["--handler", "spin", "--offload", "spawn"]] {
        let said = said_at_start(options, "answers of other threads");
        let widest = said.iter().map(|line| line.chars().count()).max();
        assert!(widest <= Some(80), "{said:#?}");
        let words = said.join(" ");
        let policy = if options.len() > 4 {
            "reset, time-slice, compiled"
        } else {
            "reuse, spawn, compiled"
        };
        let words: Vec<_> = words.split_whitespace().collect();
        assert!(words.join(" ").contains(policy), "{said:#?}");
    }
}

#[test]
fn the_same_source_is_compiled_once_and_that_is_said() {
    let routes = ["/a=hello", "/b=echo", "/c=hello,fresh", "/d=hello,native"];
    let options: Vec<_> = routes.iter().flat_map(|route| ["--route", route]).collect();
    let said = said_at_start(&options, "ready in ");
    let check = |nth: usize, words: &[&str]| {
        for word in words {
            assert!(said[nth].contains(word), "{word:?} is not in {said:?}");
        }
    };
    assert_eq!(said.len(), 6, "{said:?}");
    check(1, &["/a: hello", "reuse, compiled in "]);
    check(2, &["/b: echo", "reuse, compiled in "]);
    check(3, &["/c: hello", "fresh, compiled with /a"]);
    check(4, &["/d: hello", "native, not compiled"]);
    check(5, &["to compile 2 modules"]);
}

#[test]
fn a_handler_whose_memory_may_not_grow_is_told_of() {
    let guest = misbehaving([]).replace("\"memory\") 4", "\"memory\") 256");
    let large = File::new("large.wat", guest);
    let said = |options: &[&str]| {
        let options = [&["--handler", large.path()], options].concat();
        said_at_start(&options, "ready in ").join(" ")
    };
    let told = "; its memory of 16777216 bytes may not grow: --memory";
    let words: Vec<_> = said(&[]).split_whitespace().map(str::to_owned).collect();
    assert!(words.join(" ").contains(told), "{words:?}");
    let more = said(&["--memory", "17MiB"]);
    assert!(!more.contains("memory"), "{more}");
}
