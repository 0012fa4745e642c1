//! The program's own experiments as child processes: started with short windows, signalled, waited for,
//! and what they said and stored. Servers that a test speaks to itself are `server`'s.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::{Process, all_processes};
use ringlab::experiment::result::Experiment;

use crate::PATIENCE;
use crate::server::PROGRAM;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(2);

/// Short blocks, since what they measure is of no interest here.
pub const SHORT: [&str; 4] = ["--warm-up", "20ms", "--window", "60ms"];

/// Two arms at saturation and nothing else. On a busy machine a block may be without a request; in
/// so many rounds each arm has some that are not.
pub const TWO_ARMS: [&str; 8] = [
    "--model",
    "blocking,epoll",
    "--rounds",
    "4",
    "--equal-rate-rounds",
    "0",
    "--ledger-rounds",
    "0",
];

/// A directory of one test's own, gone with all its files when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let unique = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("measuring-{}-{unique}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).expect("cargo made the directory that it is in");
        Self(path)
    }

    pub fn root(&self) -> &Path {
        &self.0
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it is there");
        let name =
            |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok();
        entries.filter_map(name).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The program at work, what it says going to files beside the test's own.
pub struct Run {
    process: Child,
    streams: Folder,
}

/// How a run ended.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn start(arguments: &[&str]) -> Self {
        let streams = Folder::new();
        let stream = |name| fs::File::create(streams.path(name)).expect("the directory is there");
        let process = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stream("out"))
            .stderr(stream("err"))
            // A group of its own, as a shell makes it, so that Ctrl-C can be played.
            .process_group(0)
            .spawn()
            .expect("the program can be started");
        Self { process, streams }
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is a child of this process");
    }

    /// Its servers now, as opposed to what else it runs, or is about to.
    pub fn servers(&self) -> Vec<Identity> {
        let serves = |process: &Process| {
            let words = process.cmdline().unwrap_or_default();
            words.iter().any(|word| word == "serve")
        };
        let all = all_processes().expect("/proc is there").flatten();
        all.filter(|process| {
            process
                .stat()
                .is_ok_and(|stat| stat.ppid == self.pid().as_raw())
        })
        .filter(serves)
        .filter_map(|process| process.stat().ok())
        .map(|stat| Identity {
            pid: stat.pid,
            born: stat.starttime,
        })
        .collect()
    }

    /// Waits until it has started `count` servers in all, and names the ones that it had.
    pub fn until_servers(&self, count: usize) -> Vec<Identity> {
        let mut seen = Vec::new();
        wait_for("servers", || {
            for server in self.servers() {
                if !seen.contains(&server) {
                    seen.push(server);
                }
            }
            seen.len() >= count
        });
        seen
    }

    /// Waits until such a signal has been taken, and is pending no more (proc_pid_status(5)).
    pub fn until_taken(&self, signal: Signal) {
        wait_for("the signal's reception", || {
            let status = Process::new(self.pid().as_raw()).and_then(|process| process.status());
            let pending = status.expect("it has not been waited for").shdpnd;
            pending & (1 << (signal as i32 - 1)) == 0
        });
    }

    /// Waits until it has said its first line.
    pub fn first_line(&self) -> String {
        let mut said = String::new();
        wait_for("the first line", || {
            said = fs::read_to_string(self.streams.path("out")).expect("it speaks UTF-8");
            said.contains('\n')
        });
        said.lines().next().expect("it has ended").to_owned()
    }

    /// Has some minutes: in the longest of [`in_long_windows`] an experiment takes one.
    pub fn end(mut self) -> Said {
        let mut status = None;
        wait_within(4 * PATIENCE, "the end", || {
            status = self.process.try_wait().expect("it is a child");
            status.is_some()
        });
        let text = |name| fs::read_to_string(self.streams.path(name)).expect("it speaks UTF-8");
        Said {
            code: status.and_then(|status| status.code()),
            out: text("out"),
            err: text("err"),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process, told apart from later ones of the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pid: i32,
    born: u64,
}

impl Identity {
    /// It may have ended already.
    pub fn signal(self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// How many descriptors it has open; a server that is under load has one for each connection.
    pub fn descriptors(self) -> usize {
        let process = Process::new(self.pid);
        process.and_then(|process| process.fd_count()).unwrap_or(0)
    }

    /// Not there any more, or only for whoever adopted it to take note of.
    pub fn is_gone(self) -> bool {
        let stat = Process::new(self.pid).and_then(|process| process.stat());
        !stat.is_ok_and(|stat| stat.starttime == self.born && stat.state != 'Z')
    }
}

pub fn wait_for(what: &str, happened: impl FnMut() -> bool) {
    wait_within(PATIENCE, what, happened);
}

fn wait_within(patience: Duration, what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < patience, "{what} did not come");
        thread::sleep(LOOK);
    }
}

impl Said {
    /// All that was said on standard output as one line: the report breaks lines where it likes.
    pub fn flat(&self) -> String {
        self.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub fn expect_words(&self, words: &[&str]) {
        let flat = self.flat();
        for word in words {
            assert!(flat.contains(word), "{word:?} is not in {}", self.out);
        }
    }

    /// The code is `done`, or 3 where the verdict is INVALID and says so.
    pub fn expect_done(&self, done: i32) {
        let invalid = self.out.lines().any(|line| line.starts_with("INVALID"));
        let code = if invalid { 3 } else { done };
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
    }
}

/// Runs `compare` to its end, with short blocks and its result in `json`.
pub fn compare(json: &Path, options: &[&str]) -> Said {
    start_compare(json, &[&SHORT[..], options].concat()).end()
}

pub fn start_compare(json: &Path, options: &[&str]) -> Run {
    let json = json.to_str().expect("cargo's directories are text");
    Run::start(&[&["compare", "--quiet", "--json", json], options].concat())
}

pub fn stored(json: &Path) -> Experiment {
    Experiment::load(json).unwrap_or_else(|error| panic!("{error}"))
}

/// Has `run` measure in longer and longer windows, until there are some requests in every block: on a
/// machine that stalls, a short window may be without, and of one or two nothing can be said. Of the
/// longest window it takes what it gets.
pub fn in_long_windows<T>(run: impl Fn(&str) -> (T, Experiment)) -> (T, Experiment) {
    for window in ["60ms", "400ms"] {
        let (said, experiment) = run(window);
        if experiment.blocks.iter().all(|block| block.requests() >= 10) {
            return (said, experiment);
        }
    }
    run("3s")
}
