//! A server process of one block: started, asked, ended. It ends with its laboratory, whatever
//! becomes of that, because it ends with its standard input.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::ExperimentError;
use super::plan::Arm;
use crate::control::Report;

/// How long a server that was told to end may take before it is killed.
const END_LIMIT: Duration = Duration::from_secs(2);

/// A running server.
pub(super) struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: SocketAddr,
    arm: String,
}

impl Server {
    /// Starts this program anew as a server of `arm`, and returns when it listens. `recorder` is the
    /// flag that makes it record something besides.
    pub(super) fn start(
        arm: &Arm,
        cores: &[usize],
        recorder: Option<&str>,
    ) -> Result<Server, ExperimentError> {
        let failed = |what: String| ExperimentError::Server {
            arm: arm.label.clone(),
            what,
        };
        let program = std::env::current_exe()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
        let mut child = Command::new(program)
            .args(["serve", "--control", "--listen", "127.0.0.1:0"])
            .args(["--model", &arm.model, "--isolation", &arm.isolation])
            .args(["--handler", &arm.handler, "--cores", &cores.join(",")])
            .args(recorder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        let read = output.read_line(&mut line);
        let address = line
            .trim()
            .strip_prefix("listening on http://")
            .and_then(|text| text.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let said = child
                .wait_with_output()
                .map(|output| output.stderr)
                .unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            let why = read
                .err()
                .map_or_else(|| said.trim().to_string(), |error| error.to_string());
            return Err(failed(format!("did not start: {why}")));
        };
        Ok(Server {
            child,
            input,
            output,
            address,
            arm: arm.label.clone(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What the server has done so far.
    pub(super) fn report(&mut self) -> Result<Report, ExperimentError> {
        let mut line = String::new();
        let asked = self
            .input
            .as_mut()
            .map(|input| input.write_all(b"report\n"));
        let answer = matches!(asked, Some(Ok(())))
            .then(|| self.output.read_line(&mut line).ok())
            .and_then(|_| serde_json::from_str(&line).ok());
        answer.ok_or_else(|| ExperimentError::Server {
            arm: self.arm.clone(),
            what:
                "died while it was measured; run `ringlab serve` with the same options to see why"
                    .to_string(),
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
