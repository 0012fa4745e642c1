//! Handlers exchanged while requests flow: none fails, the new one answers what comes after, and a bad
//! one changes nothing.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Uid, chown, geteuid};
use ringlab::sandbox::Isolation;
use ringlab::swap::{Answer, Ask, Refusal, socket};

use crate::client::get;
use crate::guests::{File, misbehaving};
use crate::server::{PROGRAM, Server};
use crate::{Lab, PATIENCE, on_every_model};

on_every_model![
    what_comes_after_is_answered_by_the_new_one,
    fifty_exchanges_under_load_fail_no_request,
];

/// A directory of a test's own, gone when it is dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // Short, since a socket's path may have 107 bytes.
        let name = format!("ringlab-lab-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).expect("a new name");
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that can be asked to exchange its handlers.
pub struct Swapped {
    pub server: Server,
    directory: Directory,
}

fn epoll() -> Lab {
    let model = ringlab::models::find("epoll").expect("it is in the table");
    let isolation = Isolation::Reuse;
    Lab { model, isolation }
}

impl Swapped {
    pub fn new(lab: Lab, handler: &str, options: &[&str]) -> Self {
        let directory = Directory::new();
        let socket = directory.path("s");
        let socket = socket.to_str().expect("it is text");
        let options = [&["--socket", socket], options].concat();
        let server = lab.serve(handler, &options);
        Self { server, directory }
    }

    fn ask(&self, ask: Ask) -> Result<Answer, Refusal> {
        let answer = socket::ask(&self.directory.path("s"), &ask);
        answer.expect("the server answers")
    }

    pub fn swap(&self, to: &str) -> Result<Answer, Refusal> {
        let (route, to) = (None, to.to_owned());
        self.ask(Ask::Swap { route, to })
    }

    /// Waits until nothing that was exchanged is in use.
    pub fn until_buried(&self) {
        let start = Instant::now();
        while self.ask(Ask::Status).expect("always").retired > 0 {
            assert!(start.elapsed() < PATIENCE, "old ones are kept");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// What a new connection is answered.
    fn text(&self) -> String {
        let mut client = self.server.connect();
        client.send(get("/"));
        client.receive().text().to_owned()
    }

    fn until(&self, text: &str) {
        let start = Instant::now();
        while self.text() != text {
            assert!(
                start.elapsed() < PATIENCE,
                "{:?} still answers",
                self.text()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A guest that answers these four letters.
pub fn saying(four: &str) -> String {
    misbehaving([]).replace("\"fine\"", &format!("{four:?}"))
}

/// A guest that counts the requests that it was called for.
fn counting() -> String {
    let guest =
        misbehaving([]).replace("(table 1 funcref)", "(global $n (mut i32) (i32.const 48))");
    let end = guest.rfind("(i32.const 64)").expect("it ends so");
    guest[..end].to_owned()
        + "(global.set $n (i32.add (global.get $n) (i32.const 1)))
           (i32.store8 (i32.const 192) (global.get $n)) (i32.const 64)))"
}

fn what_comes_after_is_answered_by_the_new_one(lab: Lab) {
    let first = File::new("first.wat", counting());
    let second = File::new("second.wat", saying("next"));
    let swapped = Swapped::new(lab, first.path(), &[]);
    // Connections of before: idle ones must change over too.
    let mut clients = [(); 3].map(|()| swapped.server.connect());
    let mut answers = || {
        clients.each_mut().map(|client| {
            client.send(get("/"));
            client.receive().text().to_owned()
        })
    };
    answers();
    let answer = swapped.swap(second.path()).expect("a good module");
    assert!(answer.changed && answer.routes[0].version == 2);
    assert_eq!(answers(), ["next", "next", "next"]);
    let answer = swapped.ask(Ask::Back { route: None }).expect("one before");
    assert_eq!(answer.routes[0].version, 3);
    // What `reuse` had kept has ended with its module.
    assert_eq!(answers()[0], "1ine");
    let status = swapped.ask(Ask::Status).expect("always");
    assert_eq!(status.routes[0].served, 3);
}

fn fifty_exchanges_under_load_fail_no_request(lab: Lab) {
    let first = File::new("tick.wat", saying("tick"));
    let second = File::new("tock.wat", saying("tock"));
    let mut swapped = Swapped::new(lab, first.path(), &[]);
    let before = address_space(&swapped.server);
    let seen = exchange_under_load(&swapped, 50, |nth| match nth {
        0 => swapped.swap(second.path()),
        _ => swapped.ask(Ask::Back { route: None }),
    });
    assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    swapped.until_buried();
    // An engine alone reserves more than this.
    let grown = address_space(&swapped.server).saturating_sub(before);
    assert!(grown < 16 << 30, "{grown} bytes of addresses more");
    let failed = swapped.server.figures().served.failed;
    assert_eq!(failed, 0);
}

/// Exchanges the handler so many times, by `exchange`, which gets the exchange's number, under four
/// connections that ask without end. Returns how many answers were `tick`, and how many `tock`.
pub fn exchange_under_load(
    swapped: &Swapped,
    exchanges: u64,
    exchange: impl Fn(u64) -> Result<Answer, Refusal>,
) -> [u64; 2] {
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        let load = |_| {
            let mut client = swapped.server.connect();
            let end = &end;
            scope.spawn(move || {
                let mut seen = [0; 2];
                while !end.load(Ordering::Relaxed) {
                    client.send(get("/"));
                    let response = client.receive();
                    assert_eq!(response.status, 200, "{}", response.text());
                    match response.text() {
                        "tick" => seen[0] += 1,
                        "tock" => seen[1] += 1,
                        other => panic!("{other:?}"),
                    }
                    // Not so much that nothing is left for idle priority.
                    thread::sleep(Duration::from_millis(1));
                }
                seen
            })
        };
        let clients: Vec<_> = (0..4).map(load).collect();
        let done = (0..exchanges).try_for_each(|nth| {
            exchange(nth).and_then(|answer| {
                let same = || Refusal(format!("exchange {nth} was none"));
                answer.changed.then_some(()).ok_or_else(same)
            })
        });
        thread::sleep(Duration::from_millis(20));
        // Before anything panics: the clients would never end.
        end.store(true, Ordering::Relaxed);
        done.expect("all of them good");
        let seen = clients.into_iter().map(|client| client.join());
        seen.map(|seen| seen.expect("no request failed"))
            .fold([0; 2], |sum, seen| [sum[0] + seen[0], sum[1] + seen[1]])
    })
}

/// The addresses that a server has reserved, in bytes: `VmSize` of proc_pid_status(5).
fn address_space(server: &Server) -> u64 {
    server.status_bytes("VmSize:")
}

/// Under every policy that lets others be served meanwhile.
#[test]
fn what_runs_ends_on_the_old_module() {
    // So long that an exchange comes in between on a machine that has the time; right in any case.
    let long = "(local.set 0 (i32.const 400000000))
        (loop $again (br_if $again (local.tee 0 (i32.sub (local.get 0) (i32.const 1)))))";
    let old = misbehaving([long]).replace("\"fine\"", "\"old \"");
    let old = File::new("old.wat", old);
    let new = File::new("new.wat", saying("new "));
    for policy in ["pool", "spawn", "time-slice"] {
        let mut swapped = Swapped::new(
            epoll(),
            old.path(),
            &["--offload", policy, "--deadline", "20s"],
        );
        let mut client = swapped.server.connect();
        let heavy = "POST / HTTP/1.1\r\nHost: lab\r\nContent-Length: 1\r\n\r\nx";
        client.send(heavy);
        swapped.server.until_received(heavy.len() as u64);
        assert!(swapped.swap(new.path()).expect("a good module").changed);
        assert_eq!(swapped.text(), "new ", "{policy}");
        assert_eq!(client.receive().text(), "old ", "{policy}");
        client.send(get("/"));
        assert_eq!(client.receive().text(), "new ", "{policy}");
        swapped.until_buried();
    }
}

/// Whatever a read of it finds: all of one, all of the other, or none that is a module.
#[test]
fn a_file_that_is_written_without_end_is_taken_whole_or_not_at_all() {
    let file = File::new("written.wat", saying("tick"));
    let swapped = Swapped::new(epoll(), file.path(), &[]);
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !end.load(Ordering::Relaxed) {
                for four in ["tick", "tock"] {
                    let content = saying(four);
                    let mut file = fs::File::create(file.path()).expect("it is there");
                    for part in content.as_bytes().chunks(99) {
                        file.write_all(part).expect("it can be written");
                    }
                }
            }
        });
        let mut refusals = Vec::new();
        let start = Instant::now();
        while refusals.is_empty() && start.elapsed() < PATIENCE {
            refusals.extend(swapped.swap(file.path()).err());
            if !["tick", "tock"].contains(&swapped.text().as_str()) {
                refusals.push("it answers something else".into());
            }
        }
        end.store(true, Ordering::Relaxed);
        let refusal = refusals.first().expect("a part is found sooner or later");
        let known = ["is refused", "is empty", "changed while it was read"];
        assert!(known.iter().any(|one| refusal.0.contains(one)), "{refusal}");
    });
}

#[test]
fn a_bad_module_is_refused_and_the_old_one_stays() {
    let good = File::new("good.wat", saying("good"));
    let swapped = Swapped::new(epoll(), good.path(), &[]);
    let check = |name: &str, content: &[u8], word: &str| {
        let bad = File::new(name, content);
        let refusal = swapped.swap(bad.path()).expect_err(name);
        assert!(refusal.0.contains(word), "{word:?} is not in {refusal}");
        assert_eq!(swapped.text(), "good");
    };
    check("empty.wasm", b"", "is empty");
    check(
        "half.wat",
        &saying("half").as_bytes()[..99],
        "its text is refused",
    );
    check(
        "cut.wasm",
        b"\0asm\x01\0\0\0\x01\x80",
        "its code is refused",
    );
    check("later.wat", b"(module (memory i64 1))", "refused");
    check("lies.wat", b"(module)", "lacks the export");
    let huge = File::new("huge.wasm", "");
    let file = fs::OpenOptions::new().write(true).open(huge.path());
    let file = file.expect("it was made");
    // Sparse: it takes no room on the disk.
    file.set_len(100 << 20).expect("the file system has holes");
    let refusal = swapped.swap(huge.path()).expect_err("too large");
    assert!(refusal.0.contains("larger than 64 MiB"), "{refusal}");
    for (to, word) in [
        ("/no/such.wasm", "no such file"),
        ("/", "no regular file"),
        ("/dev/zero", "no regular file"),
        // Longer than its metadata says, as one that is being written.
        ("/proc/version", "changed while it was read"),
        ("helo", "did you mean hello?"),
    ] {
        let refusal = swapped.swap(to).expect_err(to);
        assert!(refusal.0.contains(word), "{word:?} is not in {refusal}");
    }
    let back = swapped.ask(Ask::Back { route: None });
    assert!(back.expect_err("never exchanged").0.contains("no version"));
    assert_eq!(swapped.text(), "good");
    let same = swapped.swap(good.path()).expect("it is good");
    assert!(!same.changed && same.routes[0].version == 1);
}

#[test]
fn two_at_once_are_done_one_after_the_other() {
    let swapped = Swapped::new(epoll(), "hello", &[]);
    let files = ["1st ", "2nd ", "3rd ", "4th "].map(|text| File::new("at-once.wat", saying(text)));
    thread::scope(|scope| {
        let asked = files.each_ref().map(|file| {
            let swapped = &swapped;
            scope.spawn(move || swapped.swap(file.path()))
        });
        for asked in asked {
            assert!(asked.join().expect("it is answered").expect("good").changed);
        }
    });
    let status = swapped.ask(Ask::Status).expect("always");
    assert_eq!(status.routes[0].version, 5);
}

/// A connection on a thread of its own keeps its handler until its next request; what they may keep
/// in all is bounded.
#[test]
fn handlers_that_idle_connections_keep_are_bounded() {
    let model = ringlab::models::find("blocking").expect("it is in the table");
    let isolation = Isolation::Reuse;
    let files = ["tick", "tock"].map(|four| File::new("kept.wat", saying(four)));
    let swapped = Swapped::new(
        Lab { model, isolation },
        files[0].path(),
        // A keeper must not be closed while the compiler has to wait for a core.
        &["--instances", "1", "--keep-alive", "1h"],
    );
    let mut keepers = Vec::new();
    let refusal = (1..=200).find_map(|nth: usize| {
        let mut keeper = swapped.server.connect();
        keeper.send(get("/"));
        assert_eq!(keeper.receive().status, 200);
        keepers.push(keeper);
        swapped.swap(files[nth % 2].path()).err()
    });
    let refusal = refusal.expect("a bound, before two hundred");
    assert!(refusal.0.contains("are in use still"), "{refusal}");
    assert!(keepers.len() <= 65, "{} were kept", keepers.len());
    // Nobody is disturbed, and when they have left all is as before.
    assert_eq!(swapped.text().len(), 4);
    drop(keepers);
    swapped.until_buried();
    let other = if swapped.text() == "tick" { 1 } else { 0 };
    assert!(
        swapped
            .swap(files[other].path())
            .expect("there is room")
            .changed
    );
}

#[test]
fn a_changed_file_is_watched_and_a_half_written_one_refused() {
    let directory = Directory::new();
    let inner = directory.path("inner");
    let file = inner.join("h.wat");
    let write = |content: &str| {
        fs::create_dir_all(&inner).expect("it can be made");
        fs::write(&file, content).expect("it can be written");
    };
    write(&saying("old "));
    let path = file.to_str().expect("it is text").to_owned();
    let swapped = Swapped::new(epoll(), &path, &["--watch"]);
    assert_eq!(swapped.text(), "old ");
    write(&saying("half")[..200]);
    swapped.server.until_said("its text is refused");
    assert_eq!(swapped.text(), "old ");
    write(&saying("new "));
    swapped.until("new ");
    // Its directory vanishes and comes back.
    fs::remove_dir_all(&inner).expect("it is there");
    thread::sleep(Duration::from_millis(500));
    assert_eq!(swapped.text(), "new ");
    write(&saying("back"));
    swapped.until("back");
    let status = swapped.ask(Ask::Status).expect("always");
    assert_eq!(status.routes[0].version, 3);
    let said = swapped.server.kill();
    assert!(said.contains("the old one stays"), "{said}");
    assert!(said.contains("is version 2 now"), "{said}");
}

#[test]
fn a_hangup_loads_the_files_anew() {
    let directory = Directory::new();
    let file = directory.path("h.wat");
    fs::write(&file, saying("old ")).expect("it can be written");
    let path = file.to_str().expect("it is text").to_owned();
    let swapped = Swapped::new(epoll(), &path, &[]);
    assert_eq!(swapped.text(), "old ");
    fs::write(&file, saying("new ")).expect("it can be written");
    swapped.server.signal(Signal::SIGHUP);
    swapped.until("new ");
}

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
