//! The ledgers where tracefs is another's: of a user who is not root, and of a kernel that names a
//! tracepoint otherwise.
//!
//! Each is made in a mount namespace, of a copy of what this kernel's tracefs says: the real one is the
//! machine's, and its modes are not a test's to change. Where nothing can be mounted it is left out.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use ringlab::experiment::counts::{CountColumn, CountRow};
use ringlab::experiment::result::Experiment;

use crate::runs::{Folder, SHORT};
use crate::say_left_out;
use crate::server::PROGRAM;

/// In a mount namespace of its own: the numbers of tracepoints in the folder `$0`, shown in tracefs' place;
/// then `$1`, which a shell runs, before the rest of the arguments become the program. 99: it cannot be.
const IN_ANOTHERS_TRACEFS: &str = "
    cd \"$0\" && place=/sys/kernel/tracing && change=$1 && shift &&
    mount -t tracefs nodev $place && mkdir tracing && (
        cd $place && cp --parents events/raw_syscalls/sys_enter/id \\
            events/syscalls/sys_enter_*/id events/io_uring/io_uring_queue_async_work/id \"$0/tracing\"
    ) && chmod -R u=rwX,go=rX tracing && eval \"$change\" && mount --bind tracing $place || exit 99
    exec \"$@\"";

/// What a short experiment counts of epoll when `change` was made to tracefs, run by `user`; `None` if that
/// cannot be here.
fn count(change: &str, user: &[&str]) -> Option<CountColumn> {
    let folder = Folder::new();
    // Whoever runs it stores its result there.
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.root(), open).expect("it is our own");
    let json = folder.path("result.json");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", IN_ANOTHERS_TRACEFS])
        .arg(folder.root())
        .arg(change)
        .args(user)
        .args([
            PROGRAM, "compare", "--quiet", "--model", "epoll", "--rounds", "1",
        ])
        .args(["--equal-rate-rounds", "0", "--ledger-rounds", "1", "--json"])
        .arg(&json)
        .args(SHORT)
        .output();
    let output = match output {
        Err(_) => {
            say_left_out("there is no unshare(1) here");
            return None;
        }
        Ok(output) => output,
    };
    match output.status.code() {
        // So short a run may well be INVALID; it is whole all the same.
        Some(0 | 3) => {}
        // unshare(1) may not; no tracefs; the build lies where nobody else may go; no setpriv(1).
        Some(1 | 99 | 126 | 127) => {
            say_left_out("another tracefs, as another user: that cannot be made here");
            return None;
        }
        _ => panic!("{output:?}"),
    }
    let experiment = Experiment::load(&json).unwrap_or_else(|error| panic!("{error}"));
    experiment.analysis.counts.into_iter().next()
}

fn row<'a>(column: &'a CountColumn, name: &str) -> &'a CountRow {
    let found = column.rows.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in {column:?}"))
}

/// The kernel's figure is missing for a reason that has these words.
fn check_missing(column: &CountColumn, name: &str, words: &[&str]) {
    let row = row(column, name);
    let reason = row.kernel.to_string();
    assert!(row.kernel.value().is_none(), "{name}: {reason}");
    for word in words {
        assert!(
            reason.contains(word),
            "{name}: {word:?} is not in {reason:?}"
        );
    }
}

/// Of a user who may nothing but run programs.
const NOBODY: [&str; 6] = [
    "setpriv",
    "--reuid",
    "65534",
    "--regid",
    "65534",
    "--clear-groups",
];

#[test]
fn a_tracefs_that_may_not_be_read_leaves_out_the_kernels_calls() {
    let Some(column) = count("chmod 700 tracing", &NOBODY) else {
        return;
    };
    for name in ["system calls", "recv", "send"] {
        check_missing(&column, name, &["tracefs is not readable", "run as root"]);
        assert!(row(&column, name).program.is_some_and(|count| count > 0.0));
    }
}

/// What of the kernel may be counted is the sysctl's to say, which is the machine's: each of its levels has
/// its words.
#[test]
fn a_level_that_hides_the_kernel_hides_no_more() {
    let Some(column) = count("true", &NOBODY) else {
        return;
    };
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid");
    let level: i32 = level
        .ok()
        .and_then(|level| level.trim().parse().ok())
        .expect("a level");
    let is_counted = |name: &str| row(&column, name).kernel.value().is_some_and(|n| *n > 0.0);
    if level >= 2 {
        let words = [
            "kernel.perf_event_paranoid is",
            "hides what happens in the kernel",
        ];
        for name in ["system calls", "context switches", "minor faults"] {
            check_missing(&column, name, &words);
        }
    } else {
        assert!(is_counted("system calls"), "{column:?}");
    }
    for name in ["recv", "send"] {
        if level > 2 {
            check_missing(&column, name, &["allows no counters"]);
        } else {
            assert!(is_counted(name), "{name}: {column:?}");
        }
    }
}

#[test]
fn a_tracepoint_with_another_name_is_missing_alone() {
    let renamed =
        "mv tracing/events/syscalls/sys_enter_futex tracing/events/syscalls/sys_enter_fast";
    let Some(column) = count(renamed, &["env"]) else {
        return;
    };
    let words = ["no tracepoint syscalls:sys_enter_futex", "perf list"];
    check_missing(&column, "futex", &words);
    for name in ["system calls", "recv", "send"] {
        let kernel = &row(&column, name).kernel;
        assert!(
            kernel.value().is_some_and(|count| *count > 0.0),
            "{name}: {kernel}"
        );
    }
}
