//! Handlers exchanged while requests flow: none fails, the new one answers what comes after, and a bad
//! one changes nothing.

mod command;
mod files;

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringlab::sandbox::Isolation;
use ringlab::swap::{Answer, Ask, Refusal, socket};

use crate::client::get;
use crate::guests::{File, misbehaving};
use crate::server::Server;
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

/// A guest that answers these four letters. It has so much data that `fresh` takes its memories from
/// wasmtime's pool, which reserves all of them as long as its engine lives.
pub fn saying(four: &str) -> String {
    let much = format!("(data \"{}\") (table", "x".repeat(65 * 1024));
    let guest = misbehaving([]).replacen("(table", &much, 1);
    guest.replace("\"fine\"", &format!("{four:?}"))
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
    // An engine that has a pool reserves more than this, and so do five instances.
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

/// The swapper has one thread, and who waits on it for ever exchanges nothing more.
#[test]
fn a_start_function_without_end_is_refused_and_the_next_is_exchanged() {
    let start = "(func $start (loop $again (br $again))) (start $start) (table 1 funcref)";
    let endless = saying("none").replace("(table 1 funcref)", start);
    let endless = File::new("endless.wat", endless);
    let next = File::new("next.wat", saying("next"));
    for deadline in [&["--no-deadline"][..], &["--deadline", "1h"]] {
        let swapped = Swapped::new(epoll(), "hello", deadline);
        let refusal = swapped.swap(endless.path()).expect_err("endless");
        assert!(refusal.0.contains("start function passed"), "{refusal}");
        assert!(swapped.swap(next.path()).expect("it is good").changed);
        assert_eq!(swapped.text(), "next");
    }
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
