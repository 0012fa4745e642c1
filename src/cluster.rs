//! A server as one process for each core, on one address: Node's cluster.
//!
//! The parent serves nothing. It holds the address, starts this program anew for each core, passes
//! signals on, adds up what its processes say of themselves, and ends when they have ended. It starts
//! nobody again: when one dies, the others drain and the server ends with a sentence. None outlives
//! it: the kernel kills them when it dies (PR_SET_PDEATHSIG), and each ends when its standard input
//! does.
//!
//! The kernel spreads connections over the processes (SO_REUSEPORT), and each has its own share of
//! the limit: one may be full while another is not.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use crate::config::Config;
use crate::control::{Answers, Processes, Report};
use crate::io::listener::{self, Reservation};
use crate::server::StartError;
use crate::shard::Figures;

/// How long after the drain limit a process may take to end before it is killed: longer than a server
/// takes to end at once.
const KILL_AFTER: Duration = Duration::from_secs(3);

/// What one process of a cluster is told besides what the whole server was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its only core.
    pub core: usize,
    /// The address in force, which its parent holds.
    pub listen: SocketAddr,
    /// Its part of the connections.
    pub connections: usize,
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.core, self.listen, self.connections)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        let mut parts = text.split(',');
        let mut next = || parts.next().unwrap_or_default();
        let (core, listen, connections) = (next(), next(), next());
        let wrong = |_| format!("{text:?} is not written as core,address,connections");
        Ok(Share {
            core: core.parse().map_err(|_| wrong(()))?,
            listen: listen.parse().map_err(|_| wrong(()))?,
            connections: connections.parse().map_err(|_| wrong(()))?,
        })
    }
}

/// `connections` over so many processes, the larger parts first.
pub fn share_out(connections: usize, processes: usize) -> Vec<usize> {
    (0..processes)
        .map(|nth| connections / processes + usize::from(nth < connections % processes))
        .collect()
}

/// A running cluster.
pub struct Cluster {
    address: SocketAddr,
    members: Vec<Member>,
    handle: Handle,
    /// What the first process said before it served.
    said: Vec<String>,
    /// Nobody else can have the address while its processes are not all there.
    _reservation: Reservation,
}

/// One process, as its parent speaks with it.
struct Member {
    pid: Pid,
    /// It ends when this is closed.
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Ends a cluster from any thread.
#[derive(Clone)]
pub struct Handle {
    /// Those that have not been waited for, with their cores. Whoever signals holds the lock, so that
    /// no process that took over a number is ever meant.
    living: Arc<Mutex<Vec<(Pid, usize)>>>,
    /// They were told to end.
    told: Arc<AtomicBool>,
    drain: Duration,
}

/// How a process of the cluster ended that should not have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the process on core {core} {how}; the server ends with it, start it anew")]
pub struct MemberDied {
    /// Its core.
    pub core: usize,
    /// What happened to it.
    how: String,
}

/// Why a cluster did not start.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// As for any server.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A process could not be started.
    #[error("cannot start a process for core {core}: {error}; raise `ulimit -u`")]
    Spawn {
        /// For which core.
        core: usize,
        /// What the kernel said.
        error: io::Error,
    },
    /// A process said why it cannot serve, and ended with this exit code.
    #[error("the process on core {core} does not serve")]
    Refused {
        /// Its core.
        core: usize,
        /// Its exit code, if it was not killed.
        code: Option<i32>,
    },
}

impl Cluster {
    /// Starts a process for each core of `config`, with `arguments` and its [`Share`], and returns
    /// when all of them serve. To be called on the main thread: the processes die with the thread
    /// that started them.
    ///
    /// # Errors
    /// The first thing that went wrong; whatever had been started has ended again.
    pub fn start(config: &Config, arguments: &[OsString]) -> Result<Cluster, ClusterError> {
        let listen = config.listen;
        let (reservation, address) = listener::reserve(listen).map_err(|error| {
            let address = listen;
            StartError::Listen { address, error }
        })?;
        let mut cluster = Cluster {
            address,
            members: Vec::new(),
            handle: Handle {
                living: Arc::default(),
                told: Arc::default(),
                drain: config.drain,
            },
            said: Vec::new(),
            _reservation: reservation,
        };
        let shares = share_out(config.connections, config.cores.len());
        for (&core, connections) in config.cores.iter().zip(shares) {
            let share = Share {
                core,
                listen: address,
                connections,
            };
            // The first alone: what is wrong with one is mostly wrong with all, and said once.
            let first = cluster.members.is_empty();
            let started = cluster.add(&share, arguments);
            let up = started.and_then(|()| if first { cluster.await_up(0) } else { Ok(()) });
            if let Err(error) = up {
                cluster.abandon();
                return Err(error);
            }
        }
        for nth in 1..cluster.members.len() {
            if let Err(error) = cluster.await_up(nth) {
                cluster.abandon();
                return Err(error);
            }
        }
        Ok(cluster)
    }

    fn add(&mut self, share: &Share, arguments: &[OsString]) -> Result<(), ClusterError> {
        let core = share.core;
        let spawn = || {
            Command::new(std::env::current_exe()?)
                .args(arguments)
                .args(["--share", &share.to_string()])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // A terminal's Ctrl-C would reach it twice: by itself, and passed on.
                .process_group(0)
                .spawn()
        };
        let mut child = spawn().map_err(|error| ClusterError::Spawn { core, error })?;
        let pid = Pid::from_raw(child.id().cast_signed());
        self.handle.living().push((pid, core));
        self.members.push(Member {
            pid,
            input: child.stdin.take().expect("it is piped"),
            output: BufReader::new(child.stdout.take().expect("it is piped")),
        });
        Ok(())
    }

    /// Waits until a process says that it listens. What the first says before is kept: all of them say the
    /// same.
    fn await_up(&mut self, nth: usize) -> Result<(), ClusterError> {
        loop {
            let member = &mut self.members[nth];
            let mut line = String::new();
            match member.output.read_line(&mut line) {
                Ok(1..) if line.starts_with("listening") => return Ok(()),
                Ok(1..) if nth == 0 => self.said.push(line.trim_end().to_owned()),
                Ok(1..) => {}
                _ => return Err(self.refused(nth)),
            }
        }
    }

    fn refused(&mut self, nth: usize) -> ClusterError {
        let pid = self.members[nth].pid;
        let mut living = self.handle.living();
        let core = living.iter().find(|(living, _)| *living == pid);
        let core = core.map_or(0, |(_, core)| *core);
        living.retain(|(living, _)| *living != pid);
        let code = match waitpid(pid, None) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            _ => None,
        };
        ClusterError::Refused { core, code }
    }

    /// Ends at once what has been started.
    fn abandon(&self) {
        self.handle.end(Signal::SIGKILL);
        for (pid, _) in self.handle.living().drain(..) {
            let _ = waitpid(pid, None);
        }
    }

    /// Where it listens, the port as chosen.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What its processes say before they serve: what answers which path.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    /// Ends it from another thread.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// What speaks for all processes together. The processes end when that is dropped.
    pub fn spokesman(&mut self) -> Spokesman {
        Spokesman {
            members: std::mem::take(&mut self.members),
            handle: self.handle(),
        }
    }

    /// Waits until every process has ended.
    ///
    /// # Errors
    /// The first that ended otherwise than told to.
    pub fn wait(self) -> Result<(), MemberDied> {
        let mut result = Ok(());
        while !self.handle.living().is_empty() {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let ended = match waitid(Id::All, flags) {
                Ok(status) => status.pid(),
                Err(nix::errno::Errno::EINTR) => None,
                Err(_) => break,
            };
            let Some(pid) = ended else { continue };
            let told = self.handle.told.load(Ordering::SeqCst);
            let died = self.handle.bury(pid, told);
            if let Err(died) = died {
                if !told {
                    self.handle.end(Signal::SIGTERM);
                }
                if result.is_ok() {
                    result = Err(died);
                }
            }
        }
        result
    }
}

impl Handle {
    /// Sends `signal` to every process: SIGINT and SIGTERM drain them. What does not end is killed.
    pub fn end(&self, signal: Signal) {
        let first = !self.told.swap(true, Ordering::SeqCst);
        for (pid, _) in self.living().iter() {
            // It may have ended; it has not been waited for, so the number is still its own.
            let _ = kill(*pid, signal);
        }
        if first && signal != Signal::SIGKILL {
            let handle = self.clone();
            let limit = self.drain.saturating_add(KILL_AFTER);
            thread::spawn(move || {
                thread::sleep(limit);
                handle.end(Signal::SIGKILL);
            });
        }
    }

    /// Waits for a process that has ended.
    fn bury(&self, pid: Pid, told: bool) -> Result<(), MemberDied> {
        let mut living = self.living();
        let status = waitpid(pid, None);
        let Some(at) = living.iter().position(|(living, _)| *living == pid) else {
            return Ok(());
        };
        let (_, core) = living.swap_remove(at);
        let how = match status {
            Ok(WaitStatus::Exited(_, 0)) if told => return Ok(()),
            Ok(WaitStatus::Exited(_, code)) => format!("ended with exit code {code}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("was killed by {signal}"),
            _ => "has gone".to_string(),
        };
        Err(MemberDied { core, how })
    }

    /// Nothing panics while it holds this lock, so it is never poisoned in earnest.
    fn living(&self) -> MutexGuard<'_, Vec<(Pid, usize)>> {
        self.living.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks every process, and adds up what they answer.
pub struct Spokesman {
    members: Vec<Member>,
    handle: Handle,
}

impl Member {
    fn ask<T: serde::de::DeserializeOwned>(&mut self, question: &str) -> io::Result<T> {
        writeln!(self.input, "{question}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Spokesman {
    /// What the processes said at their end that they did, all together. To be asked when all have ended.
    pub fn last_words(&mut self) -> Figures {
        let mut sum = Figures::default();
        for member in &mut self.members {
            // One that was killed has said nothing.
            let said = member.output.by_ref().lines().map_while(Result::ok).last();
            let figures = said.and_then(|line| serde_json::from_str(&line).ok());
            sum = sum.plus(&figures.unwrap_or_default());
        }
        sum
    }
}

impl Answers for Spokesman {
    fn report(&mut self) -> io::Result<Report> {
        let mut sum = Report::of_a_parent();
        for member in &mut self.members {
            sum = sum.plus(&member.ask("report")?);
        }
        Ok(sum)
    }

    fn processes(&mut self) -> io::Result<Processes> {
        let mut all = Processes::this_one();
        for member in &mut self.members {
            all = all.plus(member.ask("processes")?);
        }
        Ok(all)
    }

    fn end(&mut self) {
        self.handle.end(Signal::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_is_in_one_share() {
        assert_eq!(share_out(10, 4), [3, 3, 2, 2]);
        assert_eq!(share_out(4, 4), [1; 4]);
    }

    #[test]
    fn a_share_is_read_as_it_was_written() {
        for listen in ["127.0.0.1:80", "[::1]:8080"] {
            let share = Share {
                core: 3,
                listen: listen.parse().unwrap(),
                connections: 17,
            };
            assert_eq!(share.to_string().parse(), Ok(share));
        }
        assert!("1,nowhere,3".parse::<Share>().is_err());
    }
}
