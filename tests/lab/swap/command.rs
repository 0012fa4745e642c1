//! `ringlab swap` and the socket by which it finds a server: each route by its path, and nobody but the
//! socket's owner.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, chown, geteuid};
use ringlab::swap::{Ask, socket};

use super::{Directory, Swapped, epoll};
use crate::client::get;
use crate::server::PROGRAM;

#[test]
fn each_route_is_exchanged_alone() {
    let directory = Directory::new();
    let socket = directory.path("s");
    let text = socket.to_str().expect("it is text");
    let options = [
        "--socket", text, "--route", "/a=hello", "--route", "/b=hello",
    ];
    let server = epoll().serve_routes(&options);
    let program = |arguments: &[&str]| -> Output {
        let mut command = Command::new(PROGRAM);
        command.args(["swap", "--socket", text]).args(arguments);
        command.output().expect("the program can be started")
    };
    let check = |arguments: &[&str], code: i32, word: &str| {
        let output = program(arguments);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8(said).expect("it speaks UTF-8");
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(word), "{word:?} is not in {said}");
    };
    check(&["--to", "echo"], 2, "name one of /a, /b with --route");
    check(
        &["--to", "echo", "--route", "/c"],
        2,
        "choose one of /a, /b",
    );
    check(&["--to", "echo", "--route", "/b"], 0, "exchanged");
    check(
        &["--to", "echo", "--route", "/b"],
        0,
        "nothing was exchanged",
    );
    check(
        &["--status"],
        0,
        "/a: version 1, hello, reuse\n    served 0 since ",
    );
    check(
        &["--status"],
        0,
        "/b: version 2, echo, reuse\n    served 0 since ",
    );
    check(&["--status"], 0, "    --back is hello\n");
    check(&["--back", "--route", "/b"], 0, "/b: version 3, hello");
    let mut client = server.connect();
    for target in ["/a", "/b"] {
        client.send(get(target));
        assert_eq!(client.receive().text(), "Hello, World!\n");
    }
}

/// What the program says when it cannot have this socket.
fn refused(socket: &Path) -> String {
    let mut command = Command::new(PROGRAM);
    command.args(["serve", "--control", "--listen", "127.0.0.1:0", "--socket"]);
    let output = command
        .arg(socket)
        .stdin(std::process::Stdio::null())
        .output();
    let output = output.expect("the program can be started");
    assert_eq!(output.status.code(), Some(4));
    String::from_utf8(output.stderr).expect("it speaks UTF-8")
}

/// What a server answers a process of this user, whom the socket's mode lets in.
fn asked_as(user: u32, socket: &Path) -> String {
    thread::scope(|scope| {
        let asker = scope.spawn(|| {
            // SAFETY: three numbers in, none kept. The bare call changes this thread's user alone,
            // where the C library's changes the process's (setresuid(2)).
            let changed = unsafe { libc::syscall(libc::SYS_setresuid, -1, user, -1) };
            assert_eq!(changed, 0, "root may");
            let mut stream = UnixStream::connect(socket).expect("its mode allows it");
            let mut answer = String::new();
            // Who is not answered may find that nobody reads either.
            let _ = stream.write_all(b"\"status\"\n");
            let _ = stream.read_to_string(&mut answer);
            answer
        });
        asker.join().expect("it ends")
    })
}

#[test]
fn the_socket_is_its_owners_alone() {
    let swapped = Swapped::new(epoll(), "hello", &[]);
    let socket = swapped.directory.path("s");
    let mode = fs::metadata(&socket).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    assert!(refused(&socket).contains("is another server's"));
    assert_eq!(swapped.text(), "Hello, World!\n");
    let Swapped { server, directory } = swapped;
    server.signal(Signal::SIGTERM);
    server.end();
    assert!(!socket.exists());
    let gone = socket::ask(&socket, &Ask::Status).expect_err("no server");
    assert!(gone.to_string().contains("no such file"), "{gone}");

    // A dead server's: nobody listens.
    drop(UnixListener::bind(&socket).expect("the path is free"));
    let gone = socket::ask(&socket, &Ask::Status).expect_err("no server");
    assert!(gone.to_string().contains("is gone"), "{gone}");
    let text = socket.to_str().expect("it is text");
    let server = epoll().serve("hello", &["--socket", text]);
    let asked = socket::ask(&socket, &Ask::Status).expect("it was taken over");
    assert!(asked.is_ok());
    server.kill();

    let file = directory.path("file");
    fs::write(&file, "").expect("it can be written");
    assert!(refused(&file).contains("is no socket"));
    if geteuid().is_root() {
        let server = epoll().serve("hello", &["--socket", text]);
        fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("it is ours");
        fs::set_permissions(&directory.0, Permissions::from_mode(0o711)).expect("it is ours");
        assert_eq!(asked_as(65534, &socket), "");
        assert!(asked_as(0, &socket).starts_with("{\"Ok\""));
        server.kill();
        chown(&socket, Some(Uid::from_raw(65534)), None).expect("root may");
        assert!(refused(&socket).contains("belongs to user 65534"));
        let foreign = socket::ask(&socket, &Ask::Status).expect_err("not ours");
        assert!(foreign.to_string().contains("belongs to user 65534"));
        chown(&directory.0, Some(Uid::from_raw(65534)), None).expect("root may");
        let foreign = socket::make_directory(&socket).expect_err("not ours");
        assert!(foreign.to_string().contains("of user 65534"), "{foreign}");
    } else {
        eprintln!("skipped: another user's socket needs root");
    }
}
