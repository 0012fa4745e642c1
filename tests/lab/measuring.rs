//! `compare` and `load` as programs: what they print and store, how they end, and what they refuse.
//!
//! Blocks here are far too short to conclude anything from, so no test asserts a speed, a ratio or
//! how far a verdict goes. Where an exit code depends on the verdict, both must say the same.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, socket};
use nix::unistd::Pid;
use procfs::process::{Process, all_processes};
use ringlab::config::cores;
use ringlab::control::Report;
use ringlab::experiment::block::Pass;
use ringlab::experiment::plan::Load;
use ringlab::experiment::result::Experiment;
use ringlab::shard::Figures;
use serde_json::Value;

use crate::PATIENCE;
use crate::guests::{File, misbehaving};
use crate::server::PROGRAM;

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(2);

/// Short blocks, since what they measure is of no interest here.
const SHORT: [&str; 4] = ["--warm-up", "20ms", "--window", "60ms"];
/// Two arms at saturation and nothing else. On a busy machine a block may be without a request; in
/// so many rounds each arm has some that are not.
const TWO_ARMS: [&str; 8] = [
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
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new() -> Self {
        static FOLDERS: AtomicUsize = AtomicUsize::new(0);
        let unique = FOLDERS.fetch_add(1, Ordering::Relaxed);
        let name = format!("measuring-{}-{unique}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir(&path).expect("cargo made the directory that it is in");
        Self(path)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn names(&self) -> Vec<String> {
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
pub(super) struct Run {
    process: Child,
    streams: Folder,
}

/// How a run ended.
pub(super) struct Said {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl Run {
    pub(super) fn start(arguments: &[&str]) -> Self {
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

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is a child of this process");
    }

    /// Its servers now, as opposed to what else it runs, or is about to.
    pub(super) fn servers(&self) -> Vec<Identity> {
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
    pub(super) fn until_servers(&self, count: usize) -> Vec<Identity> {
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
    fn until_taken(&self, signal: Signal) {
        wait_for("the signal's reception", || {
            let status = Process::new(self.pid().as_raw()).and_then(|process| process.status());
            let pending = status.expect("it has not been waited for").shdpnd;
            pending & (1 << (signal as i32 - 1)) == 0
        });
    }

    pub(super) fn end(mut self) -> Said {
        let mut status = None;
        wait_for("the end", || {
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
pub(super) struct Identity {
    pid: i32,
    born: u64,
}

impl Identity {
    /// It may have ended already.
    fn signal(self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// How many descriptors it has open; a server that is under load has one for each connection.
    fn descriptors(self) -> usize {
        let process = Process::new(self.pid);
        process.and_then(|process| process.fd_count()).unwrap_or(0)
    }

    /// Not there any more, or only for whoever adopted it to take note of.
    pub(super) fn is_gone(self) -> bool {
        let stat = Process::new(self.pid).and_then(|process| process.stat());
        !stat.is_ok_and(|stat| stat.starttime == self.born && stat.state != 'Z')
    }
}

pub(super) fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let start = Instant::now();
    while !happened() {
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(LOOK);
    }
}

impl Said {
    /// All that was said on standard output as one line: the report breaks lines where it likes.
    pub(super) fn flat(&self) -> String {
        self.out.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(super) fn expect_words(&self, words: &[&str]) {
        let flat = self.flat();
        for word in words {
            assert!(flat.contains(word), "{word:?} is not in {}", self.out);
        }
    }

    /// The code is `done`, or 3 where the verdict is INVALID and says so.
    pub(super) fn expect_done(&self, done: i32) {
        let invalid = self.out.lines().any(|line| line.starts_with("INVALID"));
        let code = if invalid { 3 } else { done };
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
    }
}

/// Runs `compare` to its end, with short blocks and its result in `json`.
fn compare(json: &Path, options: &[&str]) -> Said {
    start_compare(json, &[&SHORT[..], options].concat()).end()
}

fn start_compare(json: &Path, options: &[&str]) -> Run {
    let json = json.to_str().expect("cargo's directories are text");
    Run::start(&[&["compare", "--quiet", "--json", json], options].concat())
}

fn stored(json: &Path) -> Experiment {
    Experiment::load(json).unwrap_or_else(|error| panic!("{error}"))
}

/// Has `run` measure in longer and longer windows, until there are requests in every block: on a machine
/// that stalls, a short window may be without. Of the longest window it takes what it gets.
pub(super) fn in_long_windows<T>(run: impl Fn(&str) -> (T, Experiment)) -> (T, Experiment) {
    for window in ["60ms", "400ms"] {
        let (said, experiment) = run(window);
        if experiment.blocks.iter().all(|block| block.requests() > 0) {
            return (said, experiment);
        }
    }
    run("3s")
}

/// How many blocks of this kind `arm` has in each of `rounds` rounds.
fn blocks(
    experiment: &Experiment,
    load: Load,
    pass: Pass,
    arm: usize,
    rounds: usize,
) -> Vec<usize> {
    let mut per_round = vec![0; rounds];
    for block in &experiment.blocks {
        if (block.load, block.pass, block.arm) == (load, pass, arm) {
            per_round[block.round] += 1;
        }
    }
    per_round
}

#[test]
fn every_arm_is_measured_at_both_loads_and_in_the_ledger() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let rounds = [
        "--rounds",
        "2",
        "--equal-rate-rounds",
        "1",
        "--ledger-rounds",
        "1",
        // Long enough for an answer on a machine that has much else to do.
        "--warm-up",
        "50ms",
        "--window",
        "250ms",
    ];
    let said = start_compare(&json, &rounds).end();
    said.expect_done(0);
    assert_eq!(said.err, "");
    assert_eq!(folder.names(), ["result.json"]);
    let experiment = stored(&json);
    let plan = &experiment.plan;
    let runners = plan.runners();
    said.expect_words(&[
        "Saturation: closed loop, 64 in flight",
        "Equal rate: open loop",
        "Ledger at saturation",
        "Ledger at equal rate",
        "unexplained",
        "System calls per request",
        "single run",
        &json.display().to_string(),
    ]);
    let level = experiment.analysis.verdict.level.to_string();
    assert!(said.out.lines().any(|line| line.starts_with(&level)));
    // A row each at both loads; an arm has a column in both ledgers besides.
    for runner in &runners {
        let rows = said.out.lines().filter(|line| {
            let rest = line.strip_prefix(&runner.label);
            rest.is_some_and(|rest| {
                rest.starts_with("  ")
                    || rest.trim_start().starts_with(|c: char| c.is_ascii_digit())
            })
        });
        assert_eq!(rows.count(), 2, "{}: {}", runner.label, said.out);
    }
    for arm in &plan.arms {
        let heads = said.out.lines().filter(|line| {
            line.starts_with("ns of server CPU")
                && line.split_whitespace().any(|word| word == arm.label)
        });
        assert_eq!(heads.count(), 2, "{}: {}", arm.label, said.out);
    }
    assert!(!experiment.partial);
    for (arm, runner) in runners.iter().enumerate() {
        // The control has no ledger: what it would say, its twin says.
        let recorded = usize::from(arm < plan.arms.len());
        for (load, rounds) in [(Load::Saturation, 2), (Load::EqualRate, 1)] {
            let of = |pass, rounds| blocks(&experiment, load, pass, arm, rounds);
            let label = &runner.label;
            assert_eq!(
                of(Pass::Plain, rounds),
                vec![1; rounds],
                "{label}, {load:?}"
            );
            assert_eq!(of(Pass::Time, 1), [recorded], "{label}, {load:?}");
        }
    }
    for block in &experiment.blocks {
        let client = &block.client;
        assert!(client.answered > 0 && client.failed == 0, "{client:?}");
        let apart = client.answered.abs_diff(client.seen_by_server);
        assert!(apart <= plan.connections as u64, "{client:?}");
    }
}

#[test]
fn a_stored_run_is_repeated_and_each_arm_compared() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    compare(&json, &TWO_ARMS).expect_done(0);
    let before = fs::read(&json).expect("it was stored");
    let said = compare(&json, &["--again", json.to_str().expect("text")]);
    said.expect_done(0);
    said.expect_words(&["Against the stored run: - epoll, saturation: "]);
    let has_ratio = |json: &Path| stored(json).analysis.tables[0].rows[1].cpu_ratio.is_ok();
    match [&json, &folder.path("result.again.json")].map(|json| has_ratio(json)) {
        [true, true] => said.expect_words(&[" then, ", " now: "]),
        [true, false] => said.expect_words(&["this run has no ratio: "]),
        [false, _] => said.expect_words(&["the stored run has no ratio: "]),
    }
    assert!(!said.out.contains("unlike hosts"), "{}", said.out);
    // The stored one stays, and the new one is of the same plan.
    assert_eq!(fs::read(&json).expect("it is still there"), before);
    let plan = |json: &Path| serde_json::to_value(stored(json).plan).expect("plain data");
    assert_eq!(plan(&folder.path("result.again.json")), plan(&json));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let folder = Folder::new();
    let said = compare(&folder.path("result.json"), &["--dry-run", "--rounds", "7"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.expect_words(&[
        "blocking, epoll",
        "(control) on hello",
        "7 + 6 rounds",
        "about",
    ]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn it_says_whether_the_interval_asked_for_was_reached() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    for (goal, time) in [("50%", "5s"), ("0.0001%", "0s")] {
        let options = ["--until", goal, "--max-time", time];
        let said = compare(&json, &[&TWO_ARMS[..], &options].concat());
        said.expect_done(0);
        let until = stored(&json).until.expect("it was asked for");
        said.expect_words(&[&until]);
        let reached = until.starts_with("every ratio at saturation is known to ±");
        let given_up = until.contains("--max-time was up");
        assert!(reached || given_up, "{until}");
        assert!(goal == "50%" || given_up, "{until}");
    }
}

/// What cannot be is refused with code 2 and one line, before a server is started: nothing is
/// announced, nothing stored.
pub(super) fn check_refused(options: &[&str], words: &[&str]) {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let json = json.to_str().expect("text");
    let place = if options.contains(&"--json") {
        vec![]
    } else {
        vec!["--json", json]
    };
    // Not --quiet: the plan is announced before anything is measured.
    let said = Run::start(&[&["compare"], &place[..], options].concat()).end();
    assert_eq!(said.code, Some(2), "{options:?}: {}{}", said.out, said.err);
    assert_eq!(said.out, "", "{options:?}");
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    assert!(!said.err.contains("rounds, about"), "{}", said.err);
    for word in words {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
    assert_eq!(folder.names(), [""; 0], "{options:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    check_refused(
        &["--model", "uring"],
        &["\"uring\"", "choose from", "io_uring", "`all`"],
    );
    check_refused(
        &["--isolation", "epol"],
        &["\"epol\"", "choose one of", "fresh"],
    );
    check_refused(
        &["--handler", "nobody"],
        &["nobody", "no built-in handler", "hello"],
    );
    check_refused(
        &["--handler", "./no.wat"],
        &["./no.wat", "no such file", "give the path"],
    );
    check_refused(
        &["--path", "no-slash"],
        &["\"no-slash\"", "no path", "--path /"],
    );
    check_refused(&["--path", "/a b"], &["\"/a b\"", "no path", "--path /"]);
    check_refused(&["--rate", "0"], &["rate", "at least 1"]);
    let there = format!("{:?}", cores());
    check_refused(
        &["--cores", "4095"],
        &["no core 4095", "choose from", &there],
    );
    check_refused(
        &["--client-cores", "4095"],
        &["no core 4095", "choose from", &there],
    );
}

#[test]
fn a_server_and_a_generator_on_one_core_are_refused() {
    let [first, _, ..] = cores()[..] else {
        // On a machine of one core there is nothing else to do, so it is done and marked.
        return;
    };
    let core = &first.to_string();
    check_refused(
        &["--cores", "all"],
        &["every core", "leave at least one", "--cores"],
    );
    let shared = ["--cores", core, "--client-cores", core];
    check_refused(
        &shared,
        &[
            &format!("share core {core}"),
            "measure each other",
            "--share-cores",
        ],
    );
}

#[test]
fn a_shared_core_is_named_in_the_verdict() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let core = &cores()[0].to_string();
    let shared = ["--cores", core, "--client-cores", core, "--share-cores"];
    let said = compare(&json, &[&TWO_ARMS[..], &shared].concat());
    said.expect_done(0);
    said.expect_words(&["- server and generator share a core"]);
    let causes = stored(&json).analysis.verdict.causes;
    assert!(
        causes
            .iter()
            .any(|cause| cause.what.contains("share a core"))
    );
}

#[test]
fn a_place_that_cannot_be_written_to_is_refused() {
    let folder = Folder::new();
    let file = File::new("in-the-way", "");
    let in_file = format!("{}/result.json", file.path());
    let missing = folder.path("missing/result.json");
    // Nobody can make a file there, not even root.
    let forbidden = "/proc/result.json";
    for place in [missing.to_str().expect("text"), &in_file, forbidden] {
        check_refused(
            &["--json", place],
            &[place, "cannot be written", "another file with --json"],
        );
    }
}

/// A file can be made beside it, but not renamed to it.
#[test]
fn a_directory_in_the_result_s_place_is_refused() {
    let folder = Folder::new();
    let place = folder.0.to_str().expect("text");
    check_refused(
        &["--json", place],
        &[place, "cannot be written", "another file with --json"],
    );
}

#[test]
fn what_is_no_stored_run_is_not_repeated() {
    let words = ["is no stored result", "store one with"];
    check_refused(
        &["--again", "./missing.json"],
        &[&words[..], &["./missing.json"]].concat(),
    );
    for (content, what) in [
        ("", "names no format"),
        ("not even JSON", "names no format"),
        ("{\"answer\": 42}", "names no format"),
        ("{\"format\": 99}", "format 99"),
        ("{\"format\": 2}", "missing field"),
    ] {
        let file = File::new("foreign.json", content);
        check_refused(
            &["--again", file.path()],
            &[&words[..], &[file.path(), what]].concat(),
        );
    }
}

/// Of far more rounds than this test waits for.
const ENDLESS: [&str; 4] = ["--rounds", "9999", "--ledger-rounds", "0"];
/// Its first block does not end while this test runs.
const LONG_WARM_UP: [&str; 2] = ["--warm-up", "1h"];

#[test]
fn ctrl_c_ends_with_what_was_measured() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &[&ENDLESS[..], &SHORT].concat());
    // The pilot and a few blocks.
    let servers = run.until_servers(7);
    let mut servers = [servers, run.servers()].concat();
    // A terminal signals the whole group, the servers too.
    killpg(run.pid(), Signal::SIGINT).expect("it is a group");
    servers.extend(run.servers());
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    said.expect_words(&["partial run", &json.display().to_string()]);
    assert!(servers.iter().all(|server| server.is_gone()));
    let experiment = stored(&json);
    assert!(experiment.partial);
    assert!(!experiment.blocks.is_empty());
    assert!(experiment.blocks.iter().all(|block| !block.client.partial));
    assert_eq!(folder.names(), ["result.json"]);
}

/// As `kill` or a supervisor does it: the program alone is told, before anything was measured.
#[test]
fn a_signal_in_the_first_block_ends_with_an_empty_result() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &LONG_WARM_UP);
    let server = run.until_servers(1)[0];
    run.signal(Signal::SIGTERM);
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    said.expect_words(&["partial run", "Nothing was measured"]);
    assert!(server.is_gone());
    assert!(stored(&json).partial);
}

/// One that has stopped answering is asked in vain when the window opens.
#[test]
fn a_server_that_hangs_ends_the_run_with_a_sentence() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &["--warm-up", "2s", "--window", "100ms"]);
    let server = run.until_servers(1)[0];
    wait_for("the load", || server.descriptors() > 40);
    server.signal(Signal::SIGSTOP);
    let said = run.end();
    assert_eq!((said.code, &*said.out), (Some(4), ""), "{}", said.err);
    for word in ["arm blocking", "hangs", "`ringlab serve`"] {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
    assert!(server.is_gone(), "a process that hangs is killed");
    assert_eq!(folder.names(), [""; 0]);
}

/// Also while a server that hangs is waited for.
#[test]
fn ctrl_c_ends_it_with_a_server_that_hangs() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &LONG_WARM_UP);
    let server = run.until_servers(1)[0];
    server.signal(Signal::SIGSTOP);
    run.signal(Signal::SIGINT);
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    assert!(server.is_gone());
    assert!(stored(&json).partial);
}

/// One round has no control to be read against, which is NOISY, whatever the machine does.
#[test]
fn noisy_counts_as_invalid_under_strict() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let one_round = [&TWO_ARMS[..2], &["--rounds", "1"], &TWO_ARMS[4..]].concat();
    let said = compare(&json, &one_round);
    said.expect_words(&["there is no A/A control"]);
    said.expect_done(0);
    let said = compare(&json, &[&one_round[..], &["--strict"]].concat());
    assert_eq!(said.code, Some(3), "{}", said.out);
    // Stored all the same, for whoever wants to see what was noisy.
    assert_eq!(stored(&json).plan.rounds, 1);
}

/// On a file system of its own of two pages, where the kernel lets this process mount one.
#[test]
fn a_disk_that_fills_up_leaves_what_was_there() {
    let folder = Folder::new();
    let script = "mount -t tmpfs -o size=8k tmpfs \"$0\" || exit 99
        cd \"$0\" && echo kept > result.json && \"$@\" > /dev/null; code=$?
        echo \"code $code: $(cat result.json), $(ls | wc -l) file\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(&folder.0)
        .args([PROGRAM, "compare", "--quiet", "--json", "result.json"])
        .args(SHORT)
        .args(TWO_ARMS)
        .output();
    let (out, error) = match &output {
        Ok(output) if matches!(output.status.code(), Some(1 | 99)) => {
            return skip("no file system can be mounted here");
        }
        Err(_) => return skip("there is no unshare(1) here"),
        Ok(output) => (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ),
    };
    assert_eq!(out, "code 4: kept, 1 file\n", "{error}");
    for word in ["result.json", "No space left"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

/// Past the test harness, which keeps what a passing test prints to itself.
fn skip(reason: &str) {
    let test = thread::current();
    let line = format!("skipped: {}: {reason}\n", test.name().unwrap_or_default());
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Known before anything is measured, not a minute later.
#[test]
fn a_directory_that_may_not_be_written_to_is_refused_at_once() {
    if Process::myself().and_then(|own| own.uid()).ok() != Some(0) {
        return check_unwritable(Command::new(PROGRAM));
    }
    // Root may write anywhere; nobody may not.
    let mut command = Command::new(PROGRAM);
    command.uid(65_534).gid(65_534);
    check_unwritable(command);
}

fn check_unwritable(mut command: Command) {
    let folder = Folder::new();
    let mut permissions = fs::metadata(&folder.0).unwrap().permissions();
    permissions.set_mode(0o555);
    fs::set_permissions(&folder.0, permissions).unwrap();
    let output = command
        .args(["compare", "--quiet", "--json"])
        .arg(folder.path("result.json"))
        .output();
    let output = match output {
        Ok(output) => output,
        // The build directory may lie where nobody else may go.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return skip("another user may not run this build");
        }
        Err(error) => panic!("{error}"),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    for word in ["cannot be written", "result.json", "--json"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

/// A stored run of another host is repeated, but first it is said that it was another.
#[test]
fn a_run_of_an_unlike_host_is_said_first() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    compare(&json, &TWO_ARMS).expect_done(0);
    let text = fs::read_to_string(&json).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["host"]["kernel_release"] = serde_json::json!("2.6.32");
    fs::write(&json, value.to_string()).unwrap();
    let said = compare(&json, &["--again", json.to_str().expect("text")]);
    said.expect_done(0);
    let out = &said.out;
    let place = |what: &str| {
        out.find(what)
            .unwrap_or_else(|| panic!("no {what:?}: {out}"))
    };
    assert!(place("Unlike hosts") < place("Saturation:"), "{out}");
    assert!(place("2.6.32") < place("Saturation:"), "{out}");
    assert!(
        place("second run") < place("Against the stored run"),
        "{out}"
    );
    assert!(!out.contains("single run"), "{out}");
}

/// It answers requests of its own, so there is no rate to offer it.
#[test]
fn null_is_measured_without_a_generator_and_has_no_equal_rate() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let rounds = [
        "--model",
        "epoll,null",
        "--rounds",
        "2",
        "--equal-rate-rounds",
        "1",
        "--ledger-rounds",
        "1",
        "--path",
        "/?n=7",
        "--handler",
        "count",
    ];
    let (_, experiment) = in_long_windows(|window| {
        let length = ["--warm-up", "20ms", "--window", window];
        start_compare(&json, &[&length[..], &rounds].concat())
            .end()
            .expect_done(0);
        ((), stored(&json))
    });
    let [saturation, equal_rate] = &experiment.analysis.tables[..] else {
        panic!("two loads were asked for");
    };
    let null = &saturation.rows[1];
    assert!(null.throughput > 0.0 && null.cpu_ns.is_some());
    assert!(!null.client_limited);
    assert_eq!(null.system_calls, Some(0.0));
    assert_eq!(
        (equal_rate.rows[1].blocks, equal_rate.rows[1].cpu_ns),
        (0, None)
    );
    for block in experiment.blocks.iter().filter(|block| block.arm == 1) {
        assert_eq!(block.load, Load::Saturation);
        assert_eq!(block.client.failed, 0);
        assert_eq!(block.server.figures.served.failed, 0);
    }
}

#[test]
fn null_is_not_served_by_hand() {
    let output = Command::new(PROGRAM)
        .args(["serve", "--model", "null", "--listen", "127.0.0.1:0"])
        .output()
        .expect("the program can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    for word in ["null takes no connections", "ringlab compare"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

/// A server that hangs keeps the program waiting, so that the second signal finds it there.
#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = Folder::new();
    let run = start_compare(&folder.path("result.json"), &LONG_WARM_UP);
    let server = run.until_servers(1)[0];
    server.signal(Signal::SIGSTOP);
    run.signal(Signal::SIGINT);
    run.until_taken(Signal::SIGINT);
    run.signal(Signal::SIGINT);
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    // The result of an interrupted run may be there already, but no part of one.
    assert!(folder.names().iter().all(|name| name == "result.json"));
    // The server ends with its standard input, once it goes on.
    server.signal(Signal::SIGCONT);
    wait_for("the server's end", || server.is_gone());
}

#[test]
fn an_arm_that_fails_every_request_is_named() {
    let refusing = misbehaving([]).replace(r"\00\00\c8\00", r"\00\00\f4\01");
    let handler = File::new("refusing.wat", refusing);
    let folder = Folder::new();
    let options = ["--handler", handler.path(), "--model", "epoll"];
    let said = compare(&folder.path("result.json"), &options);
    assert!(said.code.is_some_and(|code| code != 0), "{}", said.out);
    assert_eq!(said.out, "");
    for word in [
        "arm epoll",
        "answered none of",
        "status 200",
        "`ringlab serve`",
    ] {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_threshold_that_every_arm_crosses_is_exit_code_1() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let said = compare(&json, &[&TWO_ARMS[..], &["--threshold", "0"]].concat());
    said.expect_done(1);
    if said.code == Some(1) {
        said.expect_words(&["Over the threshold of 0: epoll at saturation."]);
    }
    // The result is stored all the same.
    assert_eq!(stored(&json).plan.arms.len(), 2);
}

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
