//! `ringlab new`: the project that it writes builds offline, is taken by `inspect`, and answers; what
//! it cannot write is said and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::client::get;
use crate::server::PROGRAM;
use crate::{Lab, on_every_sandbox};
use std::sync::OnceLock;

on_every_sandbox![a_new_project_serves];

/// Runs `ringlab new` in a directory: the exit code, and what it says on either stream.
fn new(directory: &Path, name: &str) -> (Option<i32>, String) {
    let mut command = Command::new(PROGRAM);
    let output = command.args(["new", name]).current_dir(directory).output();
    let output = output.expect("the program can be started");
    (output.status.code(), said(output))
}

fn said(output: Output) -> String {
    let both = [output.stdout, output.stderr].concat();
    String::from_utf8(both).expect("it speaks UTF-8")
}

/// An empty directory of this test run's own. It lies within the lab's, so that the compiler is the
/// lab's too; a project that is no workspace of its own would not build there.
fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).expect("cargo made the directory above");
    path
}

/// A project written and built, once in this test run: its module.
fn module() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| {
        let directory = directory("new");
        let (code, said_new) = new(&directory, "my-greeter");
        assert_eq!(code, Some(0), "{said_new}");
        // The command as it is said, and no network.
        let line = "cargo build --release --target wasm32-unknown-unknown";
        assert!(said_new.contains(line), "{said_new}");
        let project = directory.join("my-greeter");
        cargo(
            &project,
            &["build", "--release", "--target", "wasm32-unknown-unknown"],
        );
        let module = said_new
            .lines()
            .find_map(|line| line.trim().strip_prefix("ringlab serve --handler "));
        let module = project.join(module.expect("the second command"));
        module.to_str().expect("it is text").to_owned()
    })
}

/// Runs cargo in a project, without a network, and without what steers the cargo that runs this.
fn cargo(project: &Path, arguments: &[&str]) {
    let mut command = Command::new(env!("CARGO"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let steers =
            name.starts_with("CARGO_") && name != "CARGO_HOME" || name.contains("RUSTFLAGS");
        if steers || name == "CARGO" {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .arg("--offline")
        .current_dir(project);
    let output = command.output().expect("the cargo that runs this");
    let good = output.status.success();
    let said = said(output);
    assert!(good && !said.contains("warning"), "{said}");
}

fn a_new_project_serves(lab: Lab) {
    let server = lab.serve(module(), &[]);
    let mut client = server.connect();
    for (target, status, text) in [
        ("/?name=Ada", 200, "Hello, Ada\n"),
        ("/", 400, "Who are you? Ask for /?name=...\n"),
    ] {
        client.send(get(target));
        let response = client.receive();
        assert_eq!((response.status, response.text()), (status, text));
    }
}

#[test]
fn inspect_and_call_take_it_and_its_own_tests_pass() {
    let module = module();
    let output = Command::new(PROGRAM).args(["inspect", module]).output();
    let output = output.expect("the program can be started");
    assert_eq!(output.status.code(), Some(0), "{}", said(output));
    let call = ["call", module, "--path", "/?name=Ada"];
    let output = Command::new(PROGRAM).args(call).output();
    let output = output.expect("the program can be started");
    assert!(
        output.stdout.ends_with(b"\n\nHello, Ada\n"),
        "{}",
        said(output)
    );
    let project = Path::new(module)
        .ancestors()
        .nth(4)
        .expect("target and so on");
    cargo(project, &["test"]);
}

#[test]
fn what_cannot_be_written_is_said_and_left_alone() {
    let directory = directory("new-refused");
    let check = |directory: &Path, name: &str, word: &str| {
        let (code, said) = new(directory, name);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(word), "{word:?} is not in {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    };
    check(&directory, "../up", "begins with a letter");
    check(&directory, "fn", "means something in Rust");
    fs::create_dir(directory.join("there")).expect("it can be made");
    check(&directory, "there", "is there already and stays as it is");
    fs::write(directory.join("file"), "mine").expect("it can be written");
    check(&directory, "file", "is there already and stays as it is");
    assert_eq!(
        fs::read(directory.join("file")).expect("it is there"),
        b"mine"
    );
    assert_eq!(fs::read_dir(&directory).expect("it is there").count(), 2);
    // Nobody may make anything there, root neither.
    check(Path::new("/sys"), "greet", "go where this user may write");
}
