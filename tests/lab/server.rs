//! The real program as a child process: started on a free port, asked for its figures, signalled,
//! and killed by its own handle at the latest when a test ends.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use ringlab::control::{Processes, Report};
use ringlab::shard::Figures;
use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::{Lab, PATIENCE, refusals};

/// The program, as this test run built it.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_ringlab");

/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(2);

/// A server at work.
pub struct Server {
    process: Child,
    address: SocketAddr,
    /// Closing it tells the server to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// What it has said on standard error so far.
    errors: Arc<Mutex<String>>,
    /// Gathers that, until its end.
    gathers: Option<JoinHandle<()>>,
}

impl Lab {
    /// A server with `handler` at this place on the axes.
    pub fn serve(self, handler: &str, options: &[&str]) -> Server {
        let mut command = Command::new(PROGRAM);
        let core = some_core().to_string();
        command.args(self.arguments(handler, &core)).args(options);
        Server::start(command)
    }

    /// A server with routes, which are among the options.
    pub fn serve_routes(self, options: &[&str]) -> Server {
        let mut command = Command::new(PROGRAM);
        let mut arguments = self.arguments("hello", &some_core().to_string());
        let at = arguments.iter().position(|word| word == "--handler");
        let at = at.expect("there is one");
        arguments.drain(at..at + 2);
        command.args(arguments).args(options);
        Server::start(command)
    }

    /// The same with a shard on every core.
    pub fn serve_on_all_cores(self, handler: &str) -> Server {
        let mut command = Command::new(PROGRAM);
        command.args(self.arguments(handler, "all"));
        Server::start(command)
    }

    /// The same with a process on every core.
    pub fn serve_in_processes(self, handler: &str, options: &[&str]) -> Server {
        self.serve_in_processes_at("127.0.0.1:0", handler, options)
    }

    /// The same at an address that was in use before.
    pub fn serve_in_processes_at(self, listen: &str, handler: &str, options: &[&str]) -> Server {
        let mut command = Command::new(PROGRAM);
        let mut arguments = self.arguments(handler, "all");
        let at = arguments.iter().position(|argument| argument == "--listen");
        arguments[at.expect("it is one of them") + 1] = listen.to_owned();
        command.args(arguments);
        command.args(["--layout", "processes"]).args(options);
        Server::start(command)
    }

    /// A server under a limit of descriptors, soft and hard.
    pub fn serve_with_descriptors(self, limit: usize, handler: &str, options: &[&str]) -> Server {
        let mut command = Command::new("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, PROGRAM]);
        command.args(self.arguments(handler, &some_core().to_string()));
        command.args(options);
        Server::start(command)
    }

    /// A server whose system calls of those kinds fail as `rule` says; see
    /// [`answer`](refusals::answer).
    pub fn serve_answered(
        self,
        handler: &str,
        options: &[&str],
        calls: &[libc::c_long],
        rule: impl FnMut(libc::c_long) -> Option<Errno> + Send + 'static,
    ) -> Server {
        let mut command = Command::new(PROGRAM);
        command.args(self.arguments(handler, &some_core().to_string()));
        command.args(options);
        refusals::answer(&mut command, calls, rule);
        Server::start(command)
    }

    /// A server that is started under other terms.
    pub fn serve_changed(
        self,
        handler: &str,
        options: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Server {
        let mut command = Command::new(PROGRAM);
        command.args(self.arguments(handler, &some_core().to_string()));
        command.args(options);
        change(&mut command);
        Server::start(command)
    }

    fn arguments(self, handler: &str, cores: &str) -> Vec<String> {
        let isolation = self.isolation.to_string();
        let arguments = [
            "serve",
            "--control",
            "--listen",
            "127.0.0.1:0",
            "--model",
            self.model.name,
            "--isolation",
            &isolation,
            "--handler",
            handler,
            "--cores",
            cores,
        ];
        arguments.map(str::to_owned).to_vec()
    }
}

/// The cores in turn: tests run side by side, and so should their servers.
pub fn some_core() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let cores = ringlab::config::cores();
    cores[NEXT.fetch_add(1, Ordering::Relaxed) % cores.len()]
}

impl Server {
    fn start(mut command: Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program can be started");
        let stderr = process.stderr.take().expect("it is piped");
        let errors = Arc::new(Mutex::new(String::new()));
        let said = Arc::clone(&errors);
        let gathers = thread::spawn(move || {
            let mut lines = BufReader::new(stderr);
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                said.lock().expect("no panic").push_str(&line);
                line.clear();
            }
        });
        let input = process.stdin.take();
        let output = process.stdout.take().expect("it is piped");
        let mut server = Self {
            process,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            input,
            output: BufReader::new(output),
            errors,
            gathers: Some(gathers),
        };
        let said = server.line();
        server.address = said
            .strip_prefix("listening on http://")
            .and_then(|address| address.trim_end().parse().ok())
            .unwrap_or_else(|| panic!("the server said {said:?} where its address was expected"));
        server
    }

    /// A new connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("its output is text");
        line
    }

    /// What it has done so far.
    pub fn figures(&mut self) -> Figures {
        self.report().figures
    }

    /// The same, with what it cost.
    pub fn report(&mut self) -> Report {
        self.ask("report")
    }

    /// Its processes.
    pub fn processes(&mut self) -> Processes {
        self.ask("processes")
    }

    fn ask<T: DeserializeOwned>(&mut self, question: &str) -> T {
        let input = self.input.as_mut().expect("its input is still open");
        writeln!(input, "{question}").expect("it reads its input");
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the figures are as expected.
    pub fn until(&mut self, what: &str, expected: impl Fn(&Figures) -> bool) -> Figures {
        let mut last = self.figures();
        let start = Instant::now();
        while !expected(&last) {
            assert!(start.elapsed() < PATIENCE, "not {what}: {last:?}");
            thread::sleep(LOOK);
            last = self.figures();
        }
        last
    }

    /// Waits until it has said these words on standard error.
    pub fn until_said(&self, words: &str) {
        let start = Instant::now();
        while !self.errors.lock().expect("no panic").contains(words) {
            assert!(start.elapsed() < PATIENCE, "it does not say {words:?}");
            thread::sleep(LOOK);
        }
    }

    /// Waits until it has received `bytes` in all: what was sent next is then a read of its own.
    pub fn until_received(&mut self, bytes: u64) {
        self.until("all received", |now| now.served.bytes_in >= bytes);
    }

    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it is a child of this process");
    }

    /// Has the server find at once what `act` does.
    pub fn while_stopped<R>(&self, act: impl FnOnce() -> R) -> R {
        self.signal(Signal::SIGSTOP);
        // Each of its threads stops when it gets a core; until then it takes in what comes.
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::Pid(self.pid()), stopped).expect("it is a child");
        assert!(matches!(status, WaitStatus::Stopped(..)), "{status:?}");
        let done = act();
        self.signal(Signal::SIGCONT);
        done
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id().cast_signed())
    }

    /// Its descriptors and threads now; among the descriptors the sockets in its rings' own tables.
    pub fn holdings(&self) -> (usize, usize) {
        let all = |what: &str| {
            std::fs::read_dir(format!("/proc/{}/{what}", self.pid())).expect("it is running")
        };
        // One that was closed since the folder was read has none.
        let in_ring = |info: std::io::Result<std::fs::DirEntry>| {
            let info = std::fs::read_to_string(info.ok()?.path()).ok()?;
            Some(info.matches(": socket:[").count())
        };
        let in_rings: usize = all("fdinfo").filter_map(in_ring).sum();
        (all("fd").count() + in_rings, all("task").count())
    }

    /// Its limit of descriptors, soft and hard, and the limit that it has from now on, if any.
    pub fn limit_descriptors(&self, limit: Option<(u64, u64)>) -> (u64, u64) {
        self.limit(libc::RLIMIT_NOFILE, limit)
    }

    /// How many descriptors of a kind it has open, by what the kernel calls them: `anon_inode:[eventfd]`.
    pub fn descriptors_of(&self, kind: &str) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        let all = std::fs::read_dir(folder).expect("it is running");
        let links = all.filter_map(|one| std::fs::read_link(one.ok()?.path()).ok());
        links.filter(|link| link.to_string_lossy() == kind).count()
    }

    /// From now on the kernel queues no signal for it that the user has no room for.
    pub fn limit_signals(&self, limit: u64) {
        self.limit(libc::RLIMIT_SIGPENDING, Some((limit, limit)));
    }

    fn limit(&self, resource: libc::__rlimit_resource_t, limit: Option<(u64, u64)>) -> (u64, u64) {
        let mut before = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        let new = limit.map(|(rlim_cur, rlim_max)| libc::rlimit { rlim_cur, rlim_max });
        let new = new.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: prlimit(2) reads one rlimit where `new` is not null, and writes one: both are
        // values of this function. The process is a child that has not been waited for.
        let result = unsafe { libc::prlimit(self.pid().as_raw(), resource, new, &mut before) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        (before.rlim_cur, before.rlim_max)
    }

    /// The most memory that it ever had resident, in bytes: `VmHWM` of proc_pid_status(5).
    pub fn peak_memory_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    /// A size in its proc_pid_status(5), in bytes.
    pub fn status_bytes(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("it is running");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
        kib.and_then(|kib| kib.parse::<u64>().ok())
            .expect("the kernel writes it so")
            * 1024
    }

    /// Closes its standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for its end: how it ended, and what it had said on standard error.
    pub fn end(mut self) -> (ExitStatus, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().expect("it is a child") {
                break status;
            }
            assert!(start.elapsed() < PATIENCE, "the server does not end");
            thread::sleep(LOOK);
        };
        (status, self.said())
    }

    /// Waits for its end: what it had still to say on standard output.
    pub fn end_and_said(mut self) -> String {
        let mut said = String::new();
        let read = self.output.read_to_string(&mut said);
        read.expect("its output is text");
        said
    }

    /// Ends it at once; what it had said on standard error.
    pub fn kill(mut self) -> String {
        self.stop();
        self.said()
    }

    fn stop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    fn said(&mut self) -> String {
        if let Some(gathers) = self.gathers.take() {
            let _ = gathers.join();
        }
        std::mem::take(&mut *self.errors.lock().expect("no panic"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let said = self.said();
        if thread::panicking() && !said.is_empty() {
            eprintln!("the server had said: {said}");
        }
    }
}
