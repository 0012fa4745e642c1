//! The errors of perf_event_open(2) in words, with the next command.

use std::{fs, io};

use nix::errno::Errno;

use super::event::{Side, Source};

/// Why the kernel does not count what `source` has, on this `side`.
pub(super) fn refusal(error: &io::Error, side: Side, source: Source) -> String {
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok();
    let paranoid = paranoid.and_then(|n| n.trim().parse().ok());
    explain(error, side, source, paranoid)
}

/// `paranoid` is the sysctl's level: from 2 on the kernel's side is hidden; some distributions have
/// higher levels, which hide everything.
fn explain(error: &io::Error, side: Side, source: Source, paranoid: Option<i32>) -> String {
    let errno = error.raw_os_error().map(Errno::from_raw);
    match (errno, paranoid, source) {
        (Some(Errno::EACCES), Some(level @ 2..), _) if side != Side::User => format!(
            "kernel.perf_event_paranoid is {level} and hides what happens in the kernel: run as \
             root, or `sudo sysctl kernel.perf_event_paranoid=1`"
        ),
        (Some(Errno::EACCES), Some(level @ 3..), _) => format!(
            "kernel.perf_event_paranoid is {level} and allows no counters: run as root, or \
             `sudo sysctl kernel.perf_event_paranoid=2`"
        ),
        (Some(Errno::EACCES), ..) => {
            "this user may not look into the process: run as its owner or as root".to_owned()
        }
        (Some(Errno::EPERM), ..) => {
            "perf_event_open is forbidden here, by a container's seccomp filter or a security \
             module: run outside of it, or start the container with `--cap-add PERFMON`"
                .to_owned()
        }
        (Some(Errno::ENOSYS), ..) => {
            "this kernel or sandbox has no perf_event_open: take one with CONFIG_PERF_EVENTS"
                .to_owned()
        }
        (Some(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP), _, Source::Hardware) => {
            "no PMU that counts this, as in most virtual machines: run on bare metal, or give the \
             machine a PMU"
                .to_owned()
        }
        (Some(Errno::EMFILE | Errno::ENFILE), ..) => {
            "descriptors ran out: raise the limit with `ulimit -n`".to_owned()
        }
        (Some(Errno::EBUSY), ..) => {
            "somebody else has the counters for themselves: stop what uses them, as `perf` or a hypervisor's \
             watchdog (`sudo sysctl kernel.nmi_watchdog=0`)"
                .to_owned()
        }
        (Some(Errno::ENOSPC), ..) => {
            "no counter of the processor is free: stop what uses them, as `perf`, or ask for fewer".to_owned()
        }
        (Some(Errno::EINVAL | Errno::E2BIG), ..) => format!(
            "this kernel does not take what perf_event_open is asked for ({error}): see what `perf list` has, \
             or take a newer one"
        ),
        _ => format!("perf_event_open: {error}; see what `perf list` has"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::Event;
    use super::*;

    fn check(errno: Errno, event: &Event, paranoid: Option<i32>, expected: &str) {
        let reason = explain(
            &io::Error::from(errno),
            event.side(),
            event.source(),
            paranoid,
        );
        assert!(reason.contains(expected), "{event}, {errno}: {reason}");
    }

    #[test]
    fn every_refusal_names_cause_and_next_command() {
        let named = &Event::SystemCall("read".to_owned());
        let raw = &Event::SystemCalls;
        let cycles = &Event::CyclesUser;
        check(Errno::EACCES, raw, Some(2), "is 2 and hides");
        check(Errno::EACCES, raw, Some(2), "perf_event_paranoid=1");
        check(Errno::EACCES, raw, Some(4), "is 4 and hides");
        check(Errno::EACCES, named, Some(4), "perf_event_paranoid=2");
        check(Errno::EACCES, named, Some(2), "run as its owner");
        check(Errno::EACCES, raw, Some(1), "run as its owner");
        check(Errno::EACCES, raw, None, "run as its owner");
        check(Errno::EPERM, named, Some(2), "seccomp");
        check(Errno::ENOSYS, named, None, "CONFIG_PERF_EVENTS");
        check(Errno::ENOENT, cycles, Some(-1), "no PMU");
        check(Errno::EOPNOTSUPP, cycles, Some(-1), "no PMU");
        check(Errno::ENOENT, named, Some(-1), "perf_event_open: ");
        check(Errno::EMFILE, named, Some(-1), "ulimit -n");
        check(Errno::EINVAL, named, Some(-1), "perf list");
        check(Errno::EBUSY, cycles, Some(-1), "nmi_watchdog=0");
        check(Errno::ENOSPC, cycles, Some(-1), "stop what uses them");
        check(Errno::EIO, named, Some(-1), "perf list");
    }
}
