//! The invariants about what is absent, read off the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Every Rust file under `folder`, or that file itself.
fn files(path: &Path) -> Vec<PathBuf> {
    if path.is_file() {
        return vec![path.to_owned()];
    }
    let entries = fs::read_dir(path).expect("the folder is there");
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.expect("it can be read").path();
        if path.is_dir() || path.extension().is_some_and(|end| end == "rs") {
            found.extend(files(&path));
        }
    }
    found
}

/// The words and paths of a source text, without comments: `std::net::TcpListener` is one.
fn names(source: &str) -> Vec<String> {
    let code: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default().to_owned() + "\n")
        .collect();
    code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
        .map(|name| name.trim_matches(':').to_owned())
        .filter(|name| !name.is_empty())
        .collect()
}

/// Whether `name` is `absent`, or a path with it in it.
fn is(name: &str, absent: &str) -> bool {
    let (name, absent) = (format!("::{name}::"), format!("::{absent}::"));
    name.contains(&absent)
}

/// No file under `src/{place}` names any of `absent`.
fn check(place: &str, absent: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files = files(&root.join(place));
    assert!(!files.is_empty(), "{place}");
    for file in files {
        let source = fs::read_to_string(&file).expect("it can be read");
        for name in names(&source) {
            for absent in absent {
                assert!(!is(&name, absent), "{} names {name}", file.display());
            }
        }
    }
}

/// Whatever tells the time.
const CLOCKS: [&str; 8] = [
    "Instant",
    "SystemTime",
    "UNIX_EPOCH",
    "clock_gettime",
    "gettimeofday",
    "crate::clock",
    "Clock",
    "rdtsc",
];

#[test]
fn io_knows_neither_http_nor_handlers_nor_policies() {
    check(
        "io",
        &[
            "http", "httparse", "sandbox", "wasmtime", "offload", "session",
        ],
    );
}

#[test]
fn drivers_never_read_a_clock() {
    check("io", &CLOCKS);
}

#[test]
fn http_knows_neither_sockets_nor_clocks_nor_threads_nor_unsafe() {
    check("http", &CLOCKS);
    let systems = [
        "std::net",
        "std::os",
        "std::io",
        "std::thread",
        "std::time",
        "nix",
        "libc",
    ];
    check("http", &systems);
    check("http", &["unsafe", "crate::io", "sandbox", "session"]);
}

#[test]
fn the_session_knows_neither_sockets_nor_clocks() {
    let else_absent = [
        "std::net",
        "std::os",
        "std::thread",
        "nix",
        "libc",
        "unsafe",
    ];
    for place in ["session.rs", "session"] {
        check(place, &CLOCKS);
        check(place, &else_absent);
    }
}

#[test]
fn the_sandbox_and_the_policies_know_no_sockets() {
    let sockets = [
        "std::net",
        "TcpStream",
        "TcpListener",
        "epoll",
        "io_uring",
        "crate::http",
    ];
    check("sandbox", &sockets);
    check(
        "offload",
        &["std::net", "TcpStream", "TcpListener", "epoll", "io_uring"],
    );
}

#[test]
fn names_are_found_in_code_and_not_in_comments() {
    let source = "use std::net::TcpListener; // not std::time\n/// unsafe\nlet u64 = f();";
    let found = names(source);
    let holds = |what| found.iter().any(|name| is(name, what));
    assert!(holds("std::net") && holds("u64") && holds("TcpListener"));
    assert!(!holds("std::time") && !holds("unsafe") && !holds("net::Tcp"));
}
