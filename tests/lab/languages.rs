//! Handlers in other languages than Rust, written from the ABI's page and built by `scripts/guests.sh`:
//! right over HTTP and by `ringlab call`, and taken by `inspect`. A language whose compiler is not
//! installed is skipped, and said so.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::client::get;
use crate::server::PROGRAM;
use crate::{Lab, on_every_sandbox, say_left_out};

on_every_sandbox![c, assemblyscript, text];

/// Builds all of them, once in this test run; what the script said.
fn build() -> &'static (PathBuf, String) {
    static BUILT: OnceLock<(PathBuf, String)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        // What an earlier run made must not answer for this one.
        let _ = std::fs::remove_dir_all(&directory);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/guests.sh");
        let output = Command::new(script).arg(&directory).output();
        let output = output.expect("the script can be run");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).expect("it speaks UTF-8");
        assert!(output.status.success(), "{said}");
        (directory, said)
    })
}

/// The module of a language, if its compiler is installed.
fn module(language: &str, file: &str) -> Option<String> {
    let (directory, said) = build();
    let path = directory.join(file);
    let line = said
        .lines()
        .find(|line| line.starts_with(&format!("guests: {language}: ")));
    let line = line.unwrap_or_else(|| panic!("nothing is said of {language}: {said}"));
    if line.contains("left out") {
        assert!(line.contains("install") && !path.exists(), "{line}");
        say_left_out(line);
        return None;
    }
    Some(path.to_str().expect("it is text").to_owned())
}

/// What the handler in this file answers to these targets, over HTTP and by `call`.
fn check(lab: Lab, module: &str, expected: &[(&str, u16, &str)]) {
    let server = lab.serve(module, &[]);
    let mut client = server.connect();
    let isolation = lab.isolation.to_string();
    for (target, status, text) in expected {
        client.send(get(target));
        let response = client.receive();
        assert_eq!((response.status, response.text()), (*status, *text));
        assert!(response.head.contains("content-type: text/plain\r\n"));
        let call = ["call", module, "--isolation", &isolation, "--path", target];
        let output = Command::new(PROGRAM).args(call).output();
        let output = output.expect("the program can be started");
        let answer = String::from_utf8(output.stdout).expect("it speaks UTF-8");
        assert!(answer.starts_with(&status.to_string()), "{answer}");
        assert!(answer.ends_with(&format!("\n\n{text}")), "{answer}");
    }
    let output = Command::new(PROGRAM).args(["inspect", module]).output();
    let output = output.expect("the program can be started");
    let said = String::from_utf8(output.stdout).expect("it speaks UTF-8");
    assert!(output.status.success(), "{said}");
    assert!(said.contains("65536 bytes at first, never more"), "{said}");
}

/// Names that are there, are not, come late, and are too long.
fn check_greeting(lab: Lab, module: &str, from: &str, unknown: &str) {
    let greeting = format!("Hello, Ada, from {from}\n");
    let longest = format!("/?name={}", "x".repeat(64));
    let longest_greeting = format!("Hello, {}, from {from}\n", "x".repeat(64));
    let expected = [
        ("/?name=Ada", 200, &*greeting),
        ("/", 400, unknown),
        ("/?name=", 400, unknown),
        ("/?nam", 400, unknown),
        ("/x?a=1&name=Ada&b", 200, &greeting),
        (&longest, 200, &longest_greeting),
    ];
    check(lab, module, &expected);
    let server = lab.serve(module, &[]);
    let mut client = server.connect();
    for (target, status) in [(longest + "x", 400), ("/?name=Ada".to_owned(), 200)] {
        client.send(get(&target));
        assert_eq!(client.receive().status, status);
    }
}

fn c(lab: Lab) {
    if let Some(module) = module("c", "c.wasm") {
        let unknown = "Who are you? Ask for /?name=...\n";
        check_greeting(lab, &module, "C", unknown);
    }
}

fn assemblyscript(lab: Lab) {
    if let Some(module) = module("assemblyscript", "assemblyscript.wasm") {
        check_greeting(lab, &module, "AssemblyScript", "Who?\n");
    }
}

fn text(lab: Lab) {
    let module = module("text", "text.wat").expect("it needs no compiler");
    let text = "Hello from the text format\n";
    check(lab, &module, &[("/", 200, text), ("/any?x", 200, text)]);
}

#[test]
fn what_is_not_installed_is_said_with_how_to_get_it() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests-none");
    let _ = std::fs::remove_dir_all(&directory);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/guests.sh");
    let mut command = Command::new(script);
    command.env("CLANG", "no-clang").env("ASC", "no-asc");
    let output = command.arg(&directory).output();
    let output = output.expect("the script can be run");
    let said = String::from_utf8(output.stdout).expect("it speaks UTF-8");
    assert!(output.status.success(), "{said}");
    for words in [
        "c: left out: there is no no-clang; install it",
        "assemblyscript: left out: there is no no-asc; install it",
        "text.wat",
    ] {
        assert!(said.contains(words), "{words:?} is not in {said}");
    }
}
