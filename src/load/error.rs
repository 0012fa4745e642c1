//! Why a run could not take place: fact, cause, and what to do next.
//!
//! What goes wrong with single requests is no error of the run; it is counted
//! in the [`Outcome`](super::Outcome).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// A run that never began, or that the host ended.
#[derive(Debug)]
pub enum LoadError {
    /// The plan contradicts itself or leaves its ranges; the sentence says where.
    Plan(String),
    /// The process may not open as many descriptors as the plan needs.
    Descriptors {
        /// Descriptors that the run needs, those already open included.
        needed: u64,
        /// The soft limit (`RLIMIT_NOFILE`).
        allowed: u64,
        /// The hard limit: as far as the soft one can be raised without root.
        hard: u64,
    },
    /// The target did not take all connections in the time given for the start.
    Unreachable {
        address: SocketAddr,
        connected: usize,
        wanted: usize,
        waited: Duration,
        /// The last attempt's error.
        cause: io::Error,
    },
    /// A generator thread could not be pinned.
    Core { core: usize, usable: Vec<usize> },
    /// The kernel refused a call that a healthy host grants.
    Kernel {
        call: &'static str,
        source: io::Error,
    },
}

impl LoadError {
    /// For `map_err` on a kernel call.
    pub(super) fn kernel(call: &'static str) -> impl FnOnce(nix::errno::Errno) -> Self {
        move |errno| Self::Kernel {
            call,
            source: errno.into(),
        }
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(sentence) => f.write_str(sentence),
            Self::Descriptors {
                needed,
                allowed,
                hard,
            } => {
                write!(
                    f,
                    "the run needs {needed} file descriptors and the limit is {allowed}: "
                )?;
                if needed <= hard {
                    write!(f, "run `ulimit -n {needed}` first")
                } else {
                    write!(
                        f,
                        "use fewer connections, or raise the hard limit of {hard}"
                    )
                }
            }
            Self::Unreachable {
                address,
                connected,
                wanted,
                waited,
                cause,
            } => {
                write!(
                    f,
                    "{connected} of {wanted} connections to {address} were open after \
                     {:.1} s: {cause}; ",
                    waited.as_secs_f64()
                )?;
                if *connected == 0 {
                    write!(
                        f,
                        "start the server, or try `curl -v http://{address}/` to see what answers"
                    )
                } else {
                    f.write_str("use fewer connections, or raise the server's connection limit")
                }
            }
            Self::Core { core, usable } => write!(
                f,
                "core {core} cannot be used by this process: choose from {usable:?}, or widen \
                 the process's affinity (`taskset -p`)"
            ),
            Self::Kernel { call, source } => {
                write!(f, "{call} failed: {source}")?;
                match source.raw_os_error() {
                    Some(libc::ENOSYS) => {
                        f.write_str("; the load generator needs Linux 5.11 or later")
                    }
                    _ => f.write_str("; run `ringlab models` to see what this kernel can do"),
                }
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreachable { cause: source, .. } | Self::Kernel { source, .. } => Some(source),
            _ => None,
        }
    }
}
