//! Why there can be no ring here: what the kernel said, what around this process explains it, and
//! what would help.
//!
//! The kernel's errors say little: EPERM is the administrator's switch, a container's filter or a
//! security module. So what can be read about this process is read, and only then.

use std::fs;
use std::io;

use io_uring::opcode;
use io_uring::register::Probe;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// An operation or a feature, and since when Linux has it.
pub(super) type Known = (&'static str, &'static str);

/// The operations that the main model needs, with their first kernels. Multishot ones are flags of
/// older operations, which the probe does not tell; what is set up along with them is younger.
const OPERATIONS: [(u8, Known); 8] = [
    (opcode::AcceptMulti::CODE, ("IORING_OP_ACCEPT", "5.5")),
    (
        opcode::AsyncCancel2::CODE,
        ("IORING_OP_ASYNC_CANCEL", "5.5"),
    ),
    (opcode::Close::CODE, ("IORING_OP_CLOSE", "5.6")),
    (opcode::Read::CODE, ("IORING_OP_READ", "5.6")),
    (opcode::RecvMulti::CODE, ("IORING_OP_RECV", "5.6")),
    (opcode::Send::CODE, ("IORING_OP_SEND", "5.6")),
    (opcode::Shutdown::CODE, ("IORING_OP_SHUTDOWN", "5.11")),
    (opcode::Timeout::CODE, ("IORING_OP_TIMEOUT", "5.4")),
];

/// What this kernel's ring lacks of `OPERATIONS`, as it says itself (IORING_REGISTER_PROBE,
/// Linux 5.6), and of `features`, each with whether it is there; in a sentence's part.
pub(super) fn lacking(probe: &Probe, features: &[(Known, bool)]) -> Option<String> {
    missing(|code| probe.is_supported(code), features)
}

fn missing(has: impl Fn(u8) -> bool, features: &[(Known, bool)]) -> Option<String> {
    let operations = OPERATIONS.iter().map(|(code, known)| (*known, has(*code)));
    let all = operations.chain(features.iter().copied());
    let lacks: Vec<_> = all
        .filter(|(_, there)| !there)
        .map(|((name, since), _)| format!("{name} (Linux {since})"))
        .collect();
    (!lacks.is_empty()).then(|| format!("this kernel's io_uring lacks {}", lacks.join(", ")))
}

/// Why there can be no ring, when the kernel answers `error`; `lacks` is what it then does not know.
pub(super) fn explain(error: &io::Error, lacks: &str) -> String {
    Surroundings::read().explain(error, lacks)
}

/// What around this process may forbid a ring.
struct Surroundings {
    /// `kernel.io_uring_disabled` (Linux 6.6): 1 but for a group, 2 for all.
    disabled: u32,
    /// A seccomp filter is in force: `Seccomp:` of proc_pid_status(5).
    filtered: bool,
    /// RLIMIT_MEMLOCK in bytes, where there is one.
    locked_bytes: Option<u64>,
}

impl Surroundings {
    fn read() -> Surroundings {
        let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mode = status
            .lines()
            .find_map(|line| line.strip_prefix("Seccomp:"));
        let limit = getrlimit(Resource::RLIMIT_MEMLOCK).ok();
        Surroundings {
            disabled: disabled.map_or(0, |text| text.trim().parse().unwrap_or(0)),
            filtered: mode.is_some_and(|mode| mode.trim() == "2"),
            locked_bytes: limit
                .map(|(soft, _)| soft)
                .filter(|soft| *soft != RLIM_INFINITY),
        }
    }

    fn explain(&self, error: &io::Error, lacks: &str) -> String {
        const ALLOW: &str = "run outside it, or have it allow io_uring_setup, io_uring_enter and \
            io_uring_register";
        match error.raw_os_error() {
            Some(libc::EPERM) if self.disabled == 2 => "the sysctl kernel.io_uring_disabled is 2, \
                which forbids it to everybody; an administrator can allow it with `sysctl \
                kernel.io_uring_disabled=0`"
                .to_owned(),
            Some(libc::EPERM) if self.disabled == 1 => "the sysctl kernel.io_uring_disabled is 1, \
                which forbids it to who is not in the group kernel.io_uring_group; an administrator \
                can allow it with `sysctl kernel.io_uring_disabled=0`"
                .to_owned(),
            Some(libc::EPERM | libc::EACCES | libc::ENOSYS) if self.filtered => {
                format!("a seccomp filter, as containers have, answers {error}; {ALLOW}")
            }
            Some(libc::EPERM | libc::EACCES) => {
                format!("the kernel answers {error}, as where a security module forbids it; allow it there")
            }
            Some(libc::ENOSYS) => {
                "this kernel was built without io_uring; boot one with CONFIG_IO_URING".to_owned()
            }
            Some(libc::EINVAL) => format!("this kernel lacks {lacks}"),
            Some(libc::ENOMEM) => match self.locked_bytes {
                Some(bytes) => format!(
                    "the ring does not fit what its user may lock in memory, {} KiB \
                     (RLIMIT_MEMLOCK, for all processes of the user); raise `ulimit -l`",
                    bytes / 1024
                ),
                None => "the kernel lacks memory for the ring; free some".to_owned(),
            },
            Some(libc::EMFILE) => "descriptors ran out; raise `ulimit -n`".to_owned(),
            Some(libc::ENFILE) => "the machine's table of open files is full; close some, or raise \
                `sysctl fs.file-max`"
                .to_owned(),
            _ => error.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Surroundings = Surroundings {
        disabled: 0,
        filtered: false,
        locked_bytes: None,
    };

    fn check(around: Surroundings, errno: i32, words: &[&str]) {
        let said = around.explain(&io::Error::from_raw_os_error(errno), "what is new");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        }
    }

    #[test]
    fn each_cause_has_its_remedy() {
        let disabled = |disabled| Surroundings { disabled, ..FREE };
        check(
            disabled(1),
            libc::EPERM,
            &["kernel.io_uring_group", "sysctl"],
        );
        check(disabled(2), libc::EPERM, &["everybody", "sysctl"]);
        let filtered = || Surroundings {
            filtered: true,
            ..FREE
        };
        for errno in [libc::EPERM, libc::ENOSYS, libc::EACCES] {
            check(filtered(), errno, &["seccomp", "allow io_uring_setup"]);
        }
        check(FREE, libc::EPERM, &["security module"]);
        check(FREE, libc::ENOSYS, &["CONFIG_IO_URING"]);
        check(FREE, libc::EINVAL, &["lacks what is new"]);
        let locked = Surroundings {
            locked_bytes: Some(65536),
            ..FREE
        };
        check(locked, libc::ENOMEM, &["64 KiB", "`ulimit -l`"]);
        check(FREE, libc::ENOMEM, &["lacks memory"]);
        check(FREE, libc::EMFILE, &["`ulimit -n`"]);
        check(FREE, libc::ENFILE, &["fs.file-max"]);
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        assert_eq!(missing(|_| true, &[(("X", "6.1"), true)]), None);
        let without_shutdown = |code| code != opcode::Shutdown::CODE;
        let said = missing(without_shutdown, &[(("X", "6.1"), false)]).expect("two are missing");
        assert!(
            said.ends_with("lacks IORING_OP_SHUTDOWN (Linux 5.11), X (Linux 6.1)"),
            "{said}"
        );
    }
}
