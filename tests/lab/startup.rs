//! What is asked for and cannot be: exit code 2, and a sentence with fact, cause and remedy.

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::get;
use crate::guests::{File, misbehaving};
use crate::refusals::limit;
use crate::server::PROGRAM;
use crate::{Lab, PATIENCE, on_every_sandbox};

on_every_sandbox![a_handler_in_text_format_is_served_as_it_is];

fn a_handler_in_text_format_is_served_as_it_is(lab: Lab) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/text/hello.wat");
    let server = lab.serve(path, &[]);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send(get("/"));
        let response = client.receive();
        assert_eq!(response.text(), "Hello from the text format\n");
        assert_eq!(response.header("content-type"), Some("text/plain"));
    }
}

/// Runs the program with `arguments`; it refuses them with all of `words` in what it says.
/// Returns that.
fn check(arguments: &[&str], words: &[&str]) -> String {
    let mut command = Command::new(PROGRAM);
    // Without input: should it not refuse, it ends at once.
    command.args(["serve", "--control"]).stdin(Stdio::null());
    if !arguments.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    let output = ended(command.args(arguments));
    let said = String::from_utf8(output.stderr).expect("it speaks UTF-8");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
    said
}

/// What it said, which is little; killed if it does not end.
fn ended(command: &mut Command) -> Output {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the program can be started");
    let start = Instant::now();
    let ends = loop {
        match process.try_wait().expect("it is a child") {
            Some(_) => break true,
            None if start.elapsed() > PATIENCE => break false,
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    if !ends {
        process.kill().expect("it is a child");
    }
    let output = process.wait_with_output().expect("it is a child");
    assert!(ends, "{command:?} does not end: {output:?}");
    output
}

/// As [`check`], and what is said is one line.
fn check_line(arguments: &[&str], words: &[&str]) {
    let said = check(arguments, words);
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// As [`check_line`], of a handler.
fn check_handler(handler: &str, words: &[&str]) {
    for isolation in ["reuse", "fresh"] {
        check_line(&["--handler", handler, "--isolation", isolation], words);
    }
}

/// As [`check_handler`], with a file of this content.
fn check_file(name: &str, content: impl AsRef<[u8]>, words: &[&str]) {
    let file = File::new(name, content);
    let mut all = vec![file.path()];
    all.extend(words);
    check_handler(file.path(), &all);
}

/// A good guest but for one replaced text.
fn guest_but(text: &str, with: &str) -> String {
    let good = misbehaving([]);
    assert!(good.contains(text));
    good.replace(text, with)
}

#[test]
fn a_file_that_is_no_handler() {
    check_handler(
        "./no-such.wasm",
        &["./no-such.wasm", "no such file", "give the path"],
    );
    check_handler(
        env!("CARGO_TARGET_TMPDIR"),
        &["cannot be read", "regular file"],
    );
    check_file("empty.wasm", "", &["is empty", "build the handler"]);
    let elf = b"\x7fELF and so on";
    check_file("elf.wasm", elf, &["7f 45 4c 46", "wasm32-unknown-unknown"]);
    check_file(
        "half.wat",
        "(module (func",
        &["its text is refused", "correct the text"],
    );
    let cut = b"\0asm\x01\0\0\0\x01\x80";
    check_file("cut.wasm", cut, &["its code is refused", "build it"]);
}

#[test]
fn a_module_that_is_no_guest() {
    let lacks = [
        "ringlab_v1",
        "lacks the export",
        "build it with the guest SDK",
    ];
    check_file("empty.wat", "(module)", &lacks);
    let no_handle = guest_but("(export \"handle\")", "");
    check_file(
        "no-handle.wat",
        no_handle,
        &["handle", "lacks the export", "guest SDK"],
    );
    let no_memory = guest_but("(export \"memory\")", "");
    check_file(
        "no-memory.wat",
        no_memory,
        &["memory", "lacks the export", "guest SDK"],
    );
    let another = guest_but(
        "(param i32) (result i32)\n                \n",
        "(result i32)",
    );
    check_file(
        "another.wat",
        another,
        &["handle", "another function", "guest SDK"],
    );
    let version = guest_but("ringlab_v1", "ringlab_v2");
    check_file(
        "v2.wat",
        version,
        &["ringlab_v2", "this host speaks ringlab_v1", "SDK"],
    );
    let import = guest_but("(module", "(module (import \"wasi\" \"exit\" (func))");
    check_file(
        "imports.wat",
        import,
        &["wasi.exit", "imports nothing", "build it without"],
    );
    let memory = guest_but("\"memory\") 4", "\"memory\") 4000");
    check_file(
        "large.wat",
        memory,
        &["262144000 bytes", "limit", "`serve` can, with --memory"],
    );
    let table = guest_but("(table 1 funcref)", "(table 10001 funcref)");
    check_file(
        "table.wat",
        table,
        &[
            "10001 entries",
            "limit of 10000",
            "`serve` can, with --tables",
        ],
    );
    let tables = guest_but("(table 1 funcref)", &"(table 1 funcref)".repeat(5));
    check_file("tables.wat", tables, &["5 tables", "limit of 4"]);
    let sixteen = guest_but("\"memory\") 4", "\"memory\") 256");
    let sixteen = File::new("sixteen.wat", sixteen);
    let options = ["--handler", sixteen.path(), "--memory", "8MiB"];
    check_line(&options, &["16777216 bytes", "limit of 8388608"]);
    let area = guest_but("i32 (i32.const 1024)", "i32 (i32.const -4)");
    check_file("area.wat", area, &["request area", "ringlab_v1"]);
    let start = guest_but("(table", "(func $bad unreachable) (start $bad) (table");
    check_file(
        "start.wat",
        start,
        &["trapped", "unreachable", "start function"],
    );
    let endless = guest_but(
        "(table",
        "(func $bad (loop $l (br $l))) (start $bad) (table",
    );
    check_file("endless.wat", &endless, &["deadline", "start function"]);
    let endless = File::new("endless.wat", endless);
    for deadline in [&["--no-deadline"][..], &["--deadline", "1h"]] {
        let words = ["start function passed its deadline", "2 s", "correct"];
        check_line(&[&["--handler", endless.path()], deadline].concat(), &words);
    }
}

#[test]
fn names_that_nothing_has() {
    check_handler(
        "helo",
        &["helo", "no built-in handler", "did you mean hello?"],
    );
    check_handler("unlike-any", &["unlike-any", "choose one of hello, echo"]);
    check_line(
        &["--handler", "./x.wat", "--isolation", "native"],
        &["linked in", "choose"],
    );
    check(
        &["--model", "poll"],
        &[
            "poll",
            "--model",
            "blocking, nonblocking, epoll, signal, io_uring",
        ],
    );
    check(&["--model", "simulated"], &["for tests", "choose from"]);
    check(
        &["--isolation", "none"],
        &["none", "native, reuse, reset, fresh"],
    );
    check(
        &["--route", "/a=hello", "--handler", "hello"],
        &["--route", "cannot be used with"],
    );
    check_line(
        &["--route", "/a=hello", "--route", "/a=echo"],
        &["/a has two routes"],
    );
    let many: Vec<_> = (0..33).map(|nth| format!("/{nth}=hello")).collect();
    let many: Vec<_> = many.iter().flat_map(|route| ["--route", route]).collect();
    check_line(&many, &["33 routes are more than the 32", "another port"]);
    check(&["--route", "a=hello"], &["begins with /"]);
    check_line(&["--route", "/a=helo"], &["did you mean hello?"]);
    check(
        &["--route", "/a=hello,steal"],
        &["no offload policy is called"],
    );
    check(&["--deadline", "soon"], &["soon", "--deadline"]);
    check(&["--listen", "nowhere"], &["nowhere", "--listen"]);
    check(&["--cores", "0,x"], &["\"x\"", "--cores"]);
    check(&["--connections", "0"], &["0", "--connections"]);
    check(&["--cores", "first"], &["first", "`0,2` or `all`"]);
}

/// An option, values outside its range, the range as it is said, and its least and its most.
type Ranged = (
    &'static str,
    &'static [&'static str],
    &'static str,
    [&'static str; 2],
);

const MOST_SECONDS: &str = "18446744073709551615s";
const RANGES: [Ranged; 15] = [
    (
        "--deadline",
        &["0s", "999us", "61m", MOST_SECONDS],
        "from 1ms to 1h",
        ["1ms", "1h"],
    ),
    (
        "--quantum",
        &["0s", "49us", "2s"],
        "from 50us to 1s",
        ["50us", "1s"],
    ),
    (
        "--memory",
        &["0B", "65535B", "5GiB", "16EiB"],
        "from 64KiB to 4GiB",
        ["64KiB", "4GiB"],
    ),
    (
        "--stack",
        &["0B", "100TiB", "16EiB"],
        "from 16KiB to 1GiB",
        ["16KiB", "1GiB"],
    ),
    (
        "--instance-wait",
        &["2days", MOST_SECONDS],
        "from 0s to 1day",
        ["0s", "1day"],
    ),
    (
        "--response",
        &["100GiB", "16EiB"],
        "from 0B to 1GiB",
        ["0B", "1GiB"],
    ),
    (
        "--header-lines",
        &["2MiB", "16EiB"],
        "from 0B to 1MiB",
        ["0B", "1MiB"],
    ),
    (
        "--body",
        &["100GiB", "16EiB"],
        "from 0B to 1GiB",
        ["0B", "1GiB"],
    ),
    (
        "--head",
        &["0", "1B", "2MiB", "16EiB"],
        "from 64B to 1MiB",
        ["64B", "1MiB"],
    ),
    (
        "--target",
        &["0", "2MiB", "18446744073709551615"],
        "from 1B to 1MiB",
        ["1B", "1MiB"],
    ),
    (
        "--keep-alive",
        &["0s", "2days", MOST_SECONDS],
        "from 1ms to 1day",
        ["1ms", "1day"],
    ),
    (
        "--head-timeout",
        &["0s", "2days", MOST_SECONDS],
        "from 1ms to 1day",
        ["1ms", "1day"],
    ),
    (
        "--body-timeout",
        &["0s", "2days", MOST_SECONDS],
        "from 1ms to 1day",
        ["1ms", "1day"],
    ),
    (
        "--send-timeout",
        &["0s", "2days", MOST_SECONDS],
        "from 1ms to 1day",
        ["1ms", "1day"],
    ),
    (
        "--drain",
        &["2days", MOST_SECONDS],
        "from 0s to 1day",
        ["0s", "1day"],
    ),
];

#[test]
fn a_value_outside_its_options_range() {
    for (option, outside, range, _) in RANGES {
        for value in outside {
            check(&[option, value], &[option, value, range]);
        }
    }
}

/// All at their least, and all at their most, do not keep a server from serving and ending.
#[test]
fn values_at_the_ends_of_their_ranges() {
    // Of one page of memory.
    let handler = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/text/hello.wat");
    for end in [0, 1] {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--control", "--listen", "127.0.0.1:0"]);
        command.args(["--handler", handler]);
        for (option, _, _, ends) in RANGES {
            command.args([option, ends[end]]);
        }
        let output = ended(command.stdin(Stdio::null()));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{said}");
        let address = String::from_utf8_lossy(&output.stdout);
        assert!(address.starts_with("listening on"), "{address}");
    }
}

/// What instances of a module with much data begin with is a file to the kernel, and files may have no
/// bytes here: that is no fault of the module's.
#[test]
fn a_limit_that_no_instance_fits_is_the_hosts_fault() {
    let data = format!("(module (data \"{}\")", "x".repeat(65 * 1024));
    let text = include_str!("../../guest/text/hello.wat").replacen("(module", &data, 1);
    let path = std::env::temp_dir().join(format!("ringlab-much-data-{}.wat", std::process::id()));
    std::fs::write(&path, text).expect("the temporary directory is writable");
    let handler = path.to_str().expect("a path in UTF-8");
    for isolation in ["reuse", "fresh"] {
        for arguments in [
            &["serve", "--control", "--listen", "127.0.0.1:0", "--handler"][..],
            &["call"],
        ] {
            let mut command = Command::new(PROGRAM);
            command
                .args(arguments)
                .args([handler, "--isolation", isolation]);
            limit(&mut command, libc::RLIMIT_FSIZE, 0);
            let output = command.stdin(Stdio::null()).output();
            let output = output.expect("the program can be started");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{arguments:?}: {said}");
            for word in [
                "the host cannot make a sandbox",
                "File too large",
                "`ulimit -f`",
            ] {
                assert!(said.contains(word), "{word:?} is not in {said:?}");
            }
        }
    }
    std::fs::remove_file(path).expect("it was written");
}

#[test]
fn a_core_that_does_not_exist() {
    let core = (0..).find(|core| !ringlab::config::cores().contains(core));
    let core = core.expect("no machine has them all").to_string();
    let there = ringlab::config::cores()[0].to_string();
    check_line(
        &["--cores", &core],
        &[&core, "no core", "choose from", &there],
    );
    let twice = format!("{there},{there}");
    check_line(&["--cores", &twice], &["twice", "core of its own"]);
}

#[test]
fn a_port_in_use() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = held.local_addr().expect("it is bound").to_string();
    let words = [&*address, "the port is in use", "choose another"];
    check_line(&["--listen", &address], &words);
}

#[test]
fn an_address_of_no_interface_here() {
    // Of TEST-NET-1 (RFC 5737): nobody's.
    let words = ["192.0.2.1", "no interface", "127.0.0.1"];
    check_line(&["--listen", "192.0.2.1:0"], &words);
}
