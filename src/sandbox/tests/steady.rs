//! A request in steady state makes no system call, but under `on-demand`: shown by a seccomp filter
//! that ends the process at the first.
//!
//! The filter cannot be taken off again and its victim is the process, so each isolation gets a child:
//! this program again, told by the environment to run the same test as the child.

use super::*;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

/// Tells the child which isolation it is to show.
const ISOLATION: &str = "RINGLAB_TEST_STEADY";
/// How the child ends without a system call that is not allowed.
const SHOWN: i32 = 77;
/// How it ends where the kernel takes no filter.
const NO_FILTER: i32 = 78;

/// As many as see the set of written pages looked at again, several times, in each of the memories that
/// `fresh` takes turns with.
const WARM_UP: usize = 8000;
const CALLS: usize = 1000;

/// Allowed besides: what a tick of the deadline's timer makes, every few milliseconds of CPU time
/// whatever is called, and the end.
fn filter() -> BpfProgram {
    let allowed = [
        libc::SYS_rt_sigreturn,
        libc::SYS_clock_gettime,
        libc::SYS_exit_group,
    ];
    let filter = SeccompFilter::new(
        allowed.into_iter().map(|call| (call, vec![])).collect(),
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH
            .try_into()
            .expect("seccompiler knows it"),
    );
    let filter = filter.expect("a filter in order");
    filter.try_into().expect("a short filter")
}

/// The child: calls handlers as often as makes them steady, and then under the filter.
fn show(isolation: Isolation) -> ! {
    let sandboxes = ["hello", "json", "echo"].into_iter().map(|name| {
        let handler = Handler::load(&Source::parse(name), isolation, &Limits::default());
        let shard = ShardSandbox::new(&handler.expect("a built-in"), check_lines);
        Sandbox::new(shard.expect("there is room")).expect("a timer")
    });
    let mut sandboxes: Vec<Sandbox> = sandboxes.collect();
    let mut call = |calls: usize| {
        for _ in 0..calls {
            for sandbox in &mut sandboxes {
                let answered = call_taking(sandbox, BAD, &[b'x'; 1000], |answer| answer.is_ok());
                assert!(answered);
            }
        }
    };
    call(WARM_UP);
    let filter = filter();
    if seccompiler::apply_filter(&filter).is_err() {
        std::process::exit(NO_FILTER);
    }
    call(CALLS);
    // SAFETY: ends the process at once, without the exit handlers, which make calls.
    unsafe { libc::_exit(SHOWN) }
}

/// How the child ended. `test` is the name of the test that runs this.
fn run(test: &str, isolation: Isolation) -> ExitStatus {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args([&*format!("{}::{test}", module()), "--exact", "--nocapture"]);
    command
        .args(["--include-ignored", "--quiet"])
        .env(ISOLATION, isolation.to_string());
    command.output().expect("it was run before").status
}

fn module() -> &'static str {
    module_path!()
        .split_once("::")
        .expect("the crate comes first")
        .1
}

#[test]
fn no_call_makes_a_system_call_but_on_demand() {
    if let Ok(isolation) = std::env::var(ISOLATION) {
        show(isolation.parse().expect("the parent names one"));
    }
    for isolation in Isolation::ALL {
        let status = run("no_call_makes_a_system_call_but_on_demand", isolation);
        if status.code() == Some(NO_FILTER) {
            // Past the test harness, which keeps what a passing test prints to itself.
            let line = "skipped: no system call per request: no seccomp filter is taken here\n";
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
        if isolation == Isolation::OnDemand {
            assert_eq!(
                status.signal(),
                Some(libc::SIGSYS),
                "the filter sees nothing"
            );
        } else {
            assert_eq!(status.code(), Some(SHOWN), "{isolation}: {status}");
        }
    }
}
