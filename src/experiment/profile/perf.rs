//! perf(1) as a process: what it says goes into a file, it samples before anything is to be sampled, and
//! it does not outlive whoever started it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::missing::unwritable;

/// A running perf; it does not outlive this.
pub(super) struct Perf(Child);

impl Perf {
    /// Starts it; what it says goes into the file `said`.
    pub(super) fn start(
        command: &mut Command,
        input: Stdio,
        output: Stdio,
        said: &Path,
    ) -> Result<Self, String> {
        let file = File::create(said).map_err(unwritable(said))?;
        command.stdin(input).stdout(output).stderr(file);
        let child = command.spawn().map(Self);
        child.map_err(|error| format!("{command:?} cannot be started: {error}; try it by hand"))
    }

    /// Waits until it samples. It starts its `cat` once it does, and that sends back what it is
    /// sent.
    pub(super) fn is_attached(&mut self, limit: Duration) -> bool {
        let (Some(input), Some(output)) = (&mut self.0.stdin, &mut self.0.stdout) else {
            return false;
        };
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        let mut echo = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        let _ = input.write_all(b"\n");
        let came = poll(&mut echo, limit).is_ok_and(|ready| ready > 0);
        // Without one, the pipe's other ends are closed.
        came && output.read(&mut [0]).is_ok_and(|bytes| bytes > 0)
    }

    /// Waits for its end, and kills it after `limit`. A recording ends with its `cat`, and that
    /// with its input: a signal would not do, since a child inherits a mask that blocks it.
    pub(super) fn end(mut self, limit: Duration) -> Result<ExitStatus, String> {
        drop(self.0.stdin.take());
        let until = Instant::now() + limit;
        loop {
            match self.0.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                Ok(None) => {
                    return Err(format!(
                        "perf was killed after {} s without an end; try it again on a machine with less to do",
                        limit.as_secs()
                    ));
                }
                Err(error) => return Err(format!("perf cannot be waited for: {error}")),
            }
        }
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// What a perf said that has ended.
pub(super) fn said(path: &Path) -> String {
    let said = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&said).into_owned()
}
