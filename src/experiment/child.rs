//! A server process of one block: started, asked, ended. It ends with its laboratory, whatever
//! becomes of that, because it ends with its standard input.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use serde::de::DeserializeOwned;

use super::ExperimentError;
use super::plan::Arm;
use crate::control::{Processes, Report};

/// How long a server may take to listen: it compiles its handler first.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long a server may take to say what it has done.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// How often a wait for the server looks whether the experiment was stopped.
const LOOK: Duration = Duration::from_millis(50);
/// Connections that a server takes for each of its cores, if nobody needs more.
pub(super) const CONNECTIONS: usize = 1024;
/// How long a server that was told to end may take before it is killed.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A running server.
pub(super) struct Server {
    child: Child,
    pids: Vec<i32>,
    input: Option<ChildStdin>,
    output: Output,
    address: SocketAddr,
    arm: String,
}

/// The lines that a server says.
struct Output {
    pipe: ChildStdout,
    /// Received, and not yet a whole line.
    begun: Vec<u8>,
    stop: Arc<AtomicBool>,
}

impl Output {
    /// The next line.
    ///
    /// # Errors
    /// It did not come in `limit`, or the experiment was stopped, or the server has ended.
    fn line(&mut self, limit: Duration) -> io::Result<String> {
        let until = Instant::now() + limit;
        loop {
            if let Some(end) = self.begun.iter().position(|&byte| byte == b'\n') {
                let rest = self.begun.split_off(end + 1);
                let line = std::mem::replace(&mut self.begun, rest);
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let timeout = PollTimeout::try_from(left.min(LOOK)).unwrap_or(PollTimeout::MAX);
            let mut wanted = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, timeout) {
                Ok(0) | Err(Errno::EINTR) => continue,
                result => result?,
            };
            let mut bytes = [0; 4096];
            match self.pipe.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.begun.extend_from_slice(&bytes[..n]),
            }
        }
    }
}

impl Server {
    /// Starts this program anew as a server of `arm`, and returns when it listens. It takes
    /// `connections` for each of its cores. `options` are what its command line has besides: the
    /// handlers, for one.
    pub(super) fn start(
        arm: &Arm,
        cores: &[usize],
        connections: usize,
        options: &[&str],
        stop: &Arc<AtomicBool>,
    ) -> Result<Server, ExperimentError> {
        let failed = |what: String| ExperimentError::Server {
            arm: arm.label.clone(),
            what,
        };
        let program = std::env::current_exe()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        // Shared out over processes of unequal luck, none of which should refuse anybody.
        let connections = (connections * cores.len()).to_string();
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let mut child = Command::new(program)
            .args(["serve", "--control", "--listen", "127.0.0.1:0"])
            .args(["--model", &arm.model, "--isolation", &arm.isolation])
            .args(["--cores", &cores.join(","), "--connections", &connections])
            .args(["--layout", &arm.layout, "--offload", &arm.offload])
            // Not on the generator's: all arms have the same cores.
            .args(["--worker-cores", &cores.join(",")])
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let input = child.stdin.take();
        let mut output = Output {
            pipe: child.stdout.take().expect("it is piped"),
            begun: Vec::new(),
            stop: stop.clone(),
        };
        let line = output.line(START_LIMIT);
        let address = line.as_ref().ok().and_then(|line| {
            let address = line.trim().strip_prefix("listening on http://")?;
            address.parse().ok()
        });
        let Some(address) = address else {
            let _ = child.kill();
            let said = child
                .wait_with_output()
                .map(|output| output.stderr)
                .unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let why = match line {
                Err(error) if said.trim().is_empty() => error.to_string(),
                _ => said.trim().to_string(),
            };
            return Err(failed(format!("did not start: {why}")));
        };
        let mut server = Server {
            pids: vec![child.id().cast_signed()],
            child,
            input,
            output,
            address,
            arm: arm.label.clone(),
        };
        server.pids = server.processes()?.pids;
        Ok(server)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its processes.
    pub(super) fn pids(&self) -> &[i32] {
        &self.pids
    }

    /// What the server has done so far.
    pub(super) fn report(&mut self) -> Result<Report, ExperimentError> {
        self.ask("report")
    }

    /// Which processes it has, and how much memory.
    pub(super) fn processes(&mut self) -> Result<Processes, ExperimentError> {
        self.ask("processes")
    }

    fn ask<T: DeserializeOwned>(&mut self, question: &str) -> Result<T, ExperimentError> {
        let input = self.input.as_mut().expect("it is open until the end");
        let answer = writeln!(input, "{question}")
            .and_then(|()| self.output.line(ANSWER_LIMIT))
            .and_then(|line| serde_json::from_str(&line).map_err(io::Error::from));
        answer.map_err(|error| ExperimentError::Server {
            arm: self.arm.clone(),
            what: match error.kind() {
                io::ErrorKind::TimedOut => format!(
                    "hangs: it did not say what it had done for {} s",
                    ANSWER_LIMIT.as_secs()
                ),
                _ => "died while it was measured".to_string(),
            } + "; run `ringlab serve` with the same options to see why",
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        let until = Instant::now() + END_LIMIT;
        while Instant::now() < until {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
