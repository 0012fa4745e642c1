//! Machines and containers that refuse a ring: a sentence with fact, cause and remedy, and what
//! needs no ring goes on.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use crate::guests::File;
use crate::refusals::{limit, put_over, refuse};
use crate::server::PROGRAM;

/// The models that need one.
const ON_A_RING: [&str; 2] = ["io_uring", "tokio_uring"];

/// What the program says, with its table's lines joined.
fn words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn ringlab(arguments: &[&str], change: impl Fn(&mut Command)) -> Output {
    let mut command = Command::new(PROGRAM);
    // Without input: should it not refuse, it ends at once.
    command.args(arguments).stdin(Stdio::null());
    change(&mut command);
    command.output().expect("the program can be started")
}

/// Asserts that where `change` has the kernel refuse, `serve` says so with all of `expected`, and
/// names what can run.
fn check_serve(model: &str, change: impl Fn(&mut Command), expected: &[&str]) {
    let listen = ["--listen", "127.0.0.1:0"];
    let arguments = [&["serve", "--control", "--model", model], &listen[..]].concat();
    let output = ringlab(&arguments, change);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{model}: {said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    let cannot = format!("{model} cannot run here: ");
    for word in [&cannot, "; `--model epoll` can"].iter().chain(expected) {
        assert!(said.contains(word), "{word:?} is not in {said:?}");
    }
}

#[test]
fn a_filter_that_refuses_rings_is_named() {
    for model in ON_A_RING {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let change = |command: &mut Command| refuse(command, libc::SYS_io_uring_setup, errno);
            let error = io::Error::from_raw_os_error(errno).to_string();
            let expected = ["a seccomp filter", &error, "allow io_uring_setup"];
            check_serve(model, change, &expected);
        }
    }
    // It lets a ring be made, and not be used.
    for call in [libc::SYS_io_uring_register, libc::SYS_io_uring_enter] {
        let change = |command: &mut Command| refuse(command, call, libc::EPERM);
        check_serve("io_uring", change, &["a seccomp filter"]);
    }
}

/// The switch is the machine's, and others work on it: the program is shown a switch of its own, and
/// the kernel's answer to who is switched off.
#[test]
fn a_machine_that_switches_rings_off_is_named() {
    const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
    for (value, whom) in [("1", "kernel.io_uring_group"), ("2", "everybody")] {
        let switch = File::new("io_uring_disabled", value);
        let mut models = Command::new(PROGRAM);
        models.arg("models");
        put_over(&mut models, SWITCH, switch.path());
        if let Err(error) = models.output() {
            let what = format!("{SWITCH} cannot be covered here: {error}");
            return crate::say_left_out(&what);
        }
        let change = |command: &mut Command| {
            put_over(command, SWITCH, switch.path());
            refuse(command, libc::SYS_io_uring_setup, libc::EPERM);
        };
        let is = format!("kernel.io_uring_disabled is {value}");
        let expected = [&is, whom, "`sysctl kernel.io_uring_disabled=0`"];
        for model in ON_A_RING {
            check_serve(model, change, &expected);
        }
    }
}

/// An older kernel: it does not know what it is asked for.
#[test]
fn a_kernel_that_lacks_a_feature_is_named() {
    for (model, needs) in ON_A_RING.into_iter().zip(["Linux 6.1", "Linux 5.11"]) {
        let change =
            |command: &mut Command| refuse(command, libc::SYS_io_uring_setup, libc::EINVAL);
        check_serve(model, change, &["this kernel lacks", needs]);
    }
}

#[test]
fn models_says_why_there_are_none() {
    let output = ringlab(&["models"], |command| {
        refuse(command, libc::SYS_io_uring_setup, libc::EPERM)
    });
    assert_eq!(output.status.code(), Some(0));
    let said = words(&output.stdout);
    let rows = said.matches("Not here: a seccomp filter").count();
    assert_eq!(rows, ON_A_RING.len(), "{said}");
    for word in [
        "model epoll yes",
        "model io_uring no",
        "model tokio_uring no",
    ] {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

#[test]
fn compare_goes_on_without_them() {
    let run = "compare --model epoll,io_uring --rounds 1 --equal-rate-rounds 0 --ledger-rounds 0 \
        --warm-up 20ms --window 60ms --quiet";
    let json = concat!(env!("CARGO_TARGET_TMPDIR"), "/no-rings.json");
    let arguments: Vec<_> = run.split_whitespace().chain(["--json", json]).collect();
    let output = ringlab(&arguments, |command| {
        refuse(command, libc::SYS_io_uring_setup, libc::EPERM)
    });
    // So short a run may well be INVALID.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    let said = words(&output.stdout);
    assert!(said.contains("io_uring n/a: a seccomp filter"), "{said}");
    assert!(said.contains("epoll"), "{said}");
    let _ = std::fs::remove_file(json);
}

/// As a user without privileges, who may lock nothing. Linux 5.12 to 6.13 charge no locked memory
/// for a ring.
#[test]
fn a_limit_of_locked_memory_is_named() {
    let change = |command: &mut Command| {
        if nix::unistd::geteuid().is_root() {
            command.uid(65534).gid(65534);
        }
        limit(command, libc::RLIMIT_MEMLOCK, 0);
    };
    let mut models = Command::new(PROGRAM);
    models.arg("models");
    change(&mut models);
    let Ok(output) = models.output() else {
        crate::say(
            "skipped: a limit of locked memory: another user may not run the program here\n",
        );
        return;
    };
    let said = words(&output.stdout);
    if said.contains("model io_uring yes") {
        crate::say("skipped: a limit of locked memory: this kernel charges none for a ring\n");
        return;
    }
    assert!(said.contains("RLIMIT_MEMLOCK"), "{said}");
    for model in ON_A_RING {
        check_serve(model, change, &["0 KiB", "raise `ulimit -l`"]);
    }
}
