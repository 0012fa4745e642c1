//! The numbers that this kernel gave its tracepoints.
//!
//! perf_event_open(2) wants a number, and only tracefs knows it. tracefs is mounted by most
//! distributions, readable by root alone, and absent from most containers. Mounting it is left to
//! whoever runs the laboratory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use perf_event::events::Tracepoint;

/// Where tracefs may be, the usual place first. The second one is from before Linux 4.1, and only
/// looked at when the first has nothing: merely walking there makes the kernel mount it.
const PLACES: &[&str] = &["sys/kernel/tracing", "sys/kernel/debug/tracing"];

const NOT_MOUNTED: &str =
    "tracefs is not mounted: `sudo mount -t tracefs tracefs /sys/kernel/tracing`";
const NOT_READABLE: &str = "tracefs is not readable by this user: run as root, or \
     `sudo mount -o remount,gid=$(id -g),mode=0750 /sys/kernel/tracing`";
const NO_SYSTEM_CALLS: &str =
    "this kernel has no tracepoints of system calls (CONFIG_FTRACE_SYSCALLS): take one that has";

/// The directory of tracepoints, or why there is none.
pub(super) struct Tracefs {
    events: Result<PathBuf, String>,
}

impl Tracefs {
    /// Looks below `root`, which is `/` outside of tests.
    pub(super) fn find(root: &Path) -> Self {
        let mut hidden = false;
        for place in PLACES {
            let events = root.join(place).join("events");
            match fs::metadata(&events) {
                Ok(_) => return Self { events: Ok(events) },
                Err(error) => hidden |= error.kind() == ErrorKind::PermissionDenied,
            }
        }
        let reason = if hidden { NOT_READABLE } else { NOT_MOUNTED };
        Self {
            events: Err(reason.to_owned()),
        }
    }

    /// The tracepoint `group:name`.
    pub(super) fn find_event(&self, group: &str, name: &str) -> Result<Tracepoint, String> {
        let events = self.events.as_ref().map_err(Clone::clone)?;
        match fs::read_to_string(events.join(group).join(name).join("id")) {
            Ok(id) => match id.trim().parse() {
                Ok(id) => Ok(Tracepoint::with_id(id)),
                Err(_) => Err(format!("the number of {group}:{name} is {id:?}")),
            },
            Err(error) => Err(explain(&error, events, group, name)),
        }
    }
}

fn explain(error: &io::Error, events: &Path, group: &str, name: &str) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => NOT_READABLE.to_owned(),
        ErrorKind::NotFound if group.ends_with("syscalls") && !events.join(group).exists() => {
            NO_SYSTEM_CALLS.to_owned()
        }
        ErrorKind::NotFound => format!(
            "this kernel has no tracepoint {group}:{name}: `sudo perf list '{group}:*'` names its own"
        ),
        _ => format!("the number of {group}:{name} cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use nix::unistd::{Uid, setfsuid};

    use super::*;
    use crate::measure::fixture::Fixture;

    fn check(fixture: Fixture, event: (&str, &str), expected: Result<u64, &str>) {
        let found = Tracefs::find(fixture.root()).find_event(event.0, event.1);
        let found = found.map(|tracepoint| tracepoint.id());
        match (found, expected) {
            (Ok(id), Ok(expected)) => assert_eq!(id, expected),
            (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        }
    }

    const RAW: (&str, &str) = ("raw_syscalls", "sys_enter");

    #[test]
    fn a_tracepoint_has_a_number_in_either_place() {
        for place in PLACES {
            let id = format!("{place}/events/raw_syscalls/sys_enter/id");
            check(Fixture::new().with(&id, "443\n"), RAW, Ok(443));
            check(Fixture::new().with(&id, "many\n"), RAW, Err("\"many\\n\""));
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_next_command() {
        let mounted = || Fixture::new().with("sys/kernel/tracing/events/io_uring/other/id", "7");
        check(Fixture::new(), RAW, Err("sudo mount -t tracefs"));
        check(
            Fixture::new().with("sys/kernel/tracing/README", ""),
            RAW,
            Err("not mounted"),
        );
        check(mounted(), RAW, Err("CONFIG_FTRACE_SYSCALLS"));
        check(
            mounted(),
            ("io_uring", "renamed"),
            Err("no tracepoint io_uring:renamed"),
        );
    }

    /// As somebody who is nobody: root may read everything.
    fn find_as_nobody(root: &Path) -> Result<u64, String> {
        let find = || {
            // Of this thread alone, and for good: it gives up root's capabilities over files with it
            // (setfsuid(2)). Whoever is not root stays who it is, and owns what it may not read.
            setfsuid(Uid::from_raw(65_534));
            Tracefs::find(root).find_event(RAW.0, RAW.1)
        };
        let found = thread::scope(|scope| scope.spawn(find).join());
        found.unwrap().map(|tracepoint| tracepoint.id())
    }

    #[test]
    fn what_may_not_be_read_is_said_to_be_so() {
        use std::os::unix::fs::PermissionsExt;
        let id = "sys/kernel/tracing/events/raw_syscalls/sys_enter/id";
        for locked in ["sys/kernel/tracing", id] {
            let fixture = Fixture::new().with(id, "443");
            let set_mode = |mode| {
                let path = fixture.root().join(locked);
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            };
            assert_eq!(find_as_nobody(fixture.root()), Ok(443));
            set_mode(0o000);
            let found = find_as_nobody(fixture.root());
            set_mode(0o755);
            assert_eq!(found.unwrap_err(), NOT_READABLE, "{locked}");
        }
    }
}
