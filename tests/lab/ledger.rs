//! The blocks that the ledgers are made of: what stands beside what, and what the kernel counted.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use ringlab::experiment::block::{Block, Pass};
use ringlab::experiment::counts::RESET_BYTES;
use ringlab::experiment::plan::{Load, PRICED_FROM};
use ringlab::experiment::result::Experiment;
use ringlab::measure::probe::{self, Stage};
use ringlab::sandbox::Isolation;

use crate::guests::File;
use crate::refusals::refuse;
use crate::runs::{in_long_windows, stored};
use crate::server::PROGRAM;
use crate::swap::saying;

/// A short experiment with both ledgers, and its result. `wrapper` is a shell's script that ends by
/// running its arguments.
fn compare(name: &str, wrapper: &str, options: &[&str]) -> Experiment {
    in_long_windows(|window| ((), compare_for(window, name, wrapper, options))).1
}

fn compare_for(window: &str, name: &str, wrapper: &str, options: &[&str]) -> Experiment {
    let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("ledger-{name}.json"));
    let output = Command::new("sh")
        .args([
            "-c", wrapper, PROGRAM, "compare", "--quiet", "--rounds", "1",
        ])
        .args(["--warm-up", "20ms", "--window", window, "--json"])
        .arg(&json)
        .args(options)
        .output()
        .expect("there is a shell");
    // So short a run may well be INVALID; it is whole all the same.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    let experiment = Experiment::load(&json).unwrap_or_else(|error| panic!("{error}"));
    let _ = fs::remove_file(&json);
    experiment
}

/// In the order in which they ran, those of one arm, load and round that belong together.
fn side_by_side(experiment: &Experiment, arm: usize, load: Load, round: usize) -> Vec<Pass> {
    let (observed, at): (Vec<&Block>, Vec<usize>) = experiment
        .blocks
        .iter()
        .zip(0..)
        .filter(|(block, _)| block.pass != Pass::Plain)
        .filter(|(block, _)| (block.arm, block.load, block.round) == (arm, load, round))
        .unzip();
    assert!(at.windows(2).all(|two| two[1] == two[0] + 1), "{at:?}");
    observed.iter().map(|block| block.pass).collect()
}

#[test]
fn policies_are_arms_and_what_cannot_be_is_left_out() {
    let options = [
        "--model",
        "blocking,epoll",
        "--measure",
        "cost",
        "--offload",
        "all",
        "--ledger-rounds",
        "0",
    ];
    let experiment = compare("offload", "exec \"$0\" \"$@\"", &options);
    let plan = &experiment.plan;
    let labels: Vec<_> = plan.setting.arms.iter().map(|arm| &*arm.label).collect();
    let expected = [
        "blocking inline",
        "blocking spawn",
        "blocking pool",
        "epoll inline",
        "epoll spawn",
        "epoll pool",
        "epoll time-slice",
    ];
    assert_eq!(labels, expected);
    let left_out = &plan.setting.left_out;
    let reason = |one: &String| one.starts_with("time-slice with blocking n/a: ");
    assert!(left_out.iter().any(reason), "{left_out:?}");
}

#[test]
fn with_rounds_enough_a_price_has_bounds_and_a_control_beside() {
    let options = ["--model", "epoll", "--equal-rate-rounds", "0"];
    let rounds = PRICED_FROM.to_string();
    let options = [&options[..], &["--ledger-rounds", &rounds]].concat();
    let experiment = compare("prices", "exec \"$0\" \"$@\"", &options);
    let passes = side_by_side(&experiment, 0, Load::Saturation, 0);
    let expected = [Pass::Time, Pass::Beside, Pass::Counts, Pass::Again];
    assert_eq!(passes, expected);
    let column = &experiment.analysis.ledgers[0].columns[0];
    let counts = &experiment.analysis.counts[0];
    for interval in [
        column.price_interval,
        column.control_interval,
        counts.price_interval,
        counts.control_interval,
    ] {
        assert!(interval.is_some(), "{column:?}, {counts:?}");
    }
    assert_eq!(column.control_interval, counts.control_interval);
}

#[test]
fn observed_blocks_stand_beside_one_that_is_not_and_swap_their_places() {
    let options = ["--model", "epoll,io_uring", "--equal-rate-rounds", "1"];
    let experiment = compare("order", "exec \"$0\" \"$@\"", &options);
    for arm in 0..experiment.plan.setting.arms.len() {
        let (this, other) = (arm % 2, (arm + 1) % 2);
        let of = |load, round| side_by_side(&experiment, arm, load, round);
        let whole = [Pass::Time, Pass::Beside, Pass::Counts];
        assert_eq!(of(Load::Saturation, this), whole, "{arm}");
        assert_eq!(of(Load::EqualRate, this), whole[..2], "{arm}");
        let swapped = [Pass::Counts, Pass::Beside, Pass::Time];
        assert_eq!(of(Load::Saturation, other), swapped, "{arm}");
        assert_eq!(of(Load::EqualRate, other), swapped[1..], "{arm}");
    }
    let ledger = &experiment.analysis.ledgers[0];
    assert!(ledger.columns.iter().all(|column| column.price().is_some()));
    for column in &experiment.analysis.counts {
        assert!(column.price.is_some(), "{column:?}");
    }
}

/// What each isolation costs besides time: `reset` and `fresh` put back the pages that were written, and
/// only `on-demand` has memory faulted in at every request.
#[test]
fn isolations_are_told_apart_by_what_they_put_back_and_fault_in() {
    let options = [
        "--isolation",
        "all",
        "--model",
        "epoll",
        "--equal-rate-rounds",
        "0",
        "--ledger-rounds",
        "1",
    ];
    let experiment = compare("isolations", "exec \"$0\" \"$@\"", &options);
    let count = |isolation: Isolation, name: &str| {
        let arm = isolation.to_string();
        let mut columns = experiment.analysis.counts.iter();
        let column = columns.find(|column| column.label == arm).expect("counted");
        let row = column.rows.iter().find(|row| row.name == name);
        row.and_then(|row| row.program).unwrap_or(0.0)
    };
    for isolation in Isolation::ALL {
        // Requests on a window's edges are in one reading and not in the other: in a short window they
        // are a part of the figure, so whole pages and whole faults are told apart and no more.
        let pages = (count(isolation, RESET_BYTES) / 4096.0).round();
        let resets = matches!(isolation, Isolation::Reset | Isolation::Fresh);
        // Either puts back what was written, which is the page of the answer.
        assert_eq!(pages, f64::from(u8::from(resets)), "{isolation}");
        let faults = count(isolation, "minor faults");
        let maps = isolation == Isolation::OnDemand;
        assert_eq!(faults >= 0.5, maps, "{isolation}: {faults}");
    }
    let text = ringlab::report::experiment(&experiment, false);
    let (_, shown) = text
        .split_once("\nIsolations\n")
        .expect("a part of its own");
    for isolation in Isolation::ALL {
        let line = format!("\n{isolation} ");
        assert!(shown.contains(&line), "{isolation}: {shown}");
        assert!(shown.contains(&format!("- {isolation}: ")), "{shown}");
    }
}

/// A ledger of one round of these models, whose requests have memory of their own each.
fn on_demand(models: &str) -> [&str; 8] {
    [
        "--model",
        models,
        "--isolation",
        "on-demand",
        "--equal-rate-rounds",
        "0",
        "--ledger-rounds",
        "1",
    ]
}

/// Under `on-demand` each request's first touch of its memory is a fault.
#[test]
fn page_faults_are_a_row_where_requests_fault() {
    let options = on_demand("blocking,io_uring,tokio_uring");
    let experiment = compare("faults", "exec \"$0\" \"$@\"", &options);
    let refused = probe::can_time_faults().err();
    for column in &experiment.analysis.ledgers[0].columns {
        let mut rows = column.rows.iter();
        let row = rows.find(|row| row.stage == Stage::PageFaults);
        let untimed = column.faults_untimed.as_deref();
        if refused.is_some() {
            assert_eq!(untimed, refused.as_deref());
        } else {
            let row = row.unwrap_or_else(|| panic!("{}: {untimed:?}", column.label));
            assert!(row.times > 0.5 && row.ns > 0.0, "{column:?}");
            // Some of what is counted may be of threads that do not serve, or within a system call.
            let faults = column.faults.expect("counted");
            assert!(row.times < 1.2 * faults + 0.2, "{column:?}");
            assert_eq!(column.calls_untimed, None, "they are ringlab's own");
        }
    }
}

/// Under `on-demand` the memory of each request is mapped, protected and unmapped: by wasmtime, in calls of
/// its own, where the module has much data, by ringlab elsewhere.
#[test]
fn calls_for_memory_are_rows_whoever_makes_them() {
    if !can_trace() {
        return;
    }
    let much = File::new("much.wat", saying("much"));
    // The data of the one is mapped over what was reserved.
    for (name, handler, maps) in [("theirs", much.path(), 3.0), ("own", "hello", 2.0)] {
        let options = [&["--handler", handler][..], &on_demand("epoll")].concat();
        let experiment = compare(name, TRACEFS, &options);
        let column = &experiment.analysis.ledgers[0].columns[0];
        assert_eq!(column.calls_untimed, None);
        // One mmap and one munmap; and one mprotect.
        for (stage, times) in [(Stage::Map, maps), (Stage::Protect, 1.0)] {
            let row = column.rows.iter().find(|row| row.stage == stage);
            let row = row.unwrap_or_else(|| panic!("{name}, {stage:?}: {column:?}"));
            let near = 0.8 * times..1.2 * times + 0.2;
            assert!(
                near.contains(&row.times) && row.ns > 0.0,
                "{name}: {column:?}"
            );
        }
    }
}

/// Without tracefs nobody sees them.
#[test]
fn calls_of_wasmtimes_own_have_no_row_and_it_is_said() {
    let Some(refused) = probe::can_time_memory_calls().err() else {
        let line = "skipped: calls that nobody sees: tracefs is readable here\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    };
    let much = File::new("much.wat", saying("much"));
    let options = [&["--handler", much.path()][..], &on_demand("epoll")].concat();
    let experiment = compare("unseen", "exec \"$0\" \"$@\"", &options);
    let column = &experiment.analysis.ledgers[0].columns[0];
    let stages: Vec<Stage> = column.rows.iter().map(|row| row.stage).collect();
    assert!(!stages.contains(&Stage::Map), "{column:?}");
    assert_eq!(column.calls_untimed, Some(refused));
}

/// What a container's filter does: the call fails, and what it would have counted or timed reads n/a.
#[test]
fn a_kernel_that_refuses_counters_leaves_them_out_with_the_reason() {
    for (errno, reason) in [
        (
            libc::EPERM,
            "forbidden here, by a container's seccomp filter",
        ),
        (libc::EACCES, "run as its owner or as root"),
        (libc::ENOSYS, "has no perf_event_open"),
    ] {
        let json = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("refused-{errno}.json"));
        let (said, _) = in_long_windows(|window| {
            let mut command = Command::new(PROGRAM);
            command
                .args(["compare", "--quiet", "--model", "epoll", "--rounds", "1"])
                .args(["--equal-rate-rounds", "0", "--ledger-rounds", "1"])
                .args(["--isolation", "on-demand"])
                .args(["--warm-up", "20ms", "--window", window, "--json"])
                .arg(&json);
            refuse(&mut command, libc::SYS_perf_event_open, errno);
            let output = command.output().expect("the program can be started");
            assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            (said, stored(&json))
        });
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(reason), "{errno}: {said}");
        // The program's own counts stand, and so does the ledger of time.
        assert!(said.contains("system calls"), "{said}");
        assert!(said.contains("unexplained"), "{said}");
        let (_, faults) = said.split_once("n/a: page faults: ").expect("it is said");
        let (why, _) = faults
            .split_once("; their time is within")
            .expect("and why");
        assert!(why.contains(reason), "{errno}: {why}: {said}");
        let _ = fs::remove_file(&json);
    }
}

/// tracefs in a mount namespace of its own, where it is not mounted already.
const TRACEFS: &str = "[ -e /sys/kernel/tracing/events ] || exec unshare --mount sh -c \
    'mount -t tracefs tracefs /sys/kernel/tracing && exec \"$0\" \"$@\"' \"$0\" \"$@\"; \
    exec \"$0\" \"$@\"";

/// Whether the kernel lets this user count system calls; says so if not.
fn can_trace() -> bool {
    let status = Command::new("sh")
        .args(["-c", TRACEFS, "test", "-r"])
        .arg("/sys/kernel/tracing/events/raw_syscalls/sys_enter/id")
        .output();
    let can = status.is_ok_and(|output| output.status.success());
    if !can {
        let line = "skipped: the kernel's counts: tracefs is not readable here; run as root\n";
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    can
}

#[test]
fn the_program_and_the_kernel_count_the_same_system_calls() {
    if !can_trace() {
        return;
    }
    let options = ["--model", "blocking,epoll", "--equal-rate-rounds", "0"];
    let experiment = compare("counts", TRACEFS, &options);
    let causes = &experiment.analysis.verdict.causes;
    let mut whats = causes.iter().map(|cause| &cause.what);
    let apart = whats.find(|what| what.contains("more than 1 % apart"));
    assert!(apart.is_none(), "{apart:?}");
    // How far they may be apart is the verdict's to say; here, that both were there to compare.
    let compared = |label: &str, name: &str| {
        let columns = experiment.analysis.counts.iter();
        let mut rows = columns
            .filter(|column| column.label == label)
            .flat_map(|column| &column.rows);
        let row = rows.find(|row| row.name == name);
        let row = row.unwrap_or_else(|| panic!("{label} has no {name}"));
        assert!(row.program.is_some_and(|count| count > 0.0), "{row:?}");
        assert!(
            row.kernel.value().is_some_and(|count| *count > 0.0),
            "{row:?}"
        );
    };
    for label in ["blocking", "epoll"] {
        for name in ["system calls", "recv", "send"] {
            compared(label, name);
        }
    }
    compared("epoll", "epoll_wait");
}

#[test]
fn the_time_of_handlers_on_other_threads_is_a_row() {
    for policy in ["inline", "spawn", "pool"] {
        let options = ["--model", "epoll", "--offload", policy];
        let experiment = compare("workers", "exec \"$0\" \"$@\"", &options);
        let column = &experiment.analysis.ledgers[0].columns[0];
        let elsewhere = policy != "inline";
        assert_eq!(column.workers_ns > 0.0, elsewhere, "{policy}: {column:?}");
        let guest = column.ns(Stage::Guest);
        assert_eq!(guest.is_some(), !elsewhere, "{policy}: {column:?}");
        let text = ringlab::report::experiment(&experiment, false);
        assert_eq!(text.contains("\nworkers  "), elsewhere, "{policy}: {text}");
        // What its turns were, and whether there was a way there and back.
        for (row, stands) in [
            ("\nrequests per turn  ", true),
            ("\nturn, ns  ", true),
            ("\nlongest turn since the start, ns  ", true),
            ("\nqueue wait, ns  ", elsewhere),
            ("\nanswers of other threads  ", elsewhere),
        ] {
            assert_eq!(text.contains(row), stands, "{policy}: {row:?}: {text}");
        }
    }
}

/// Whatever of it the program can see, it counts; what it cannot is no disagreement.
#[test]
fn what_handlers_on_other_threads_call_is_counted() {
    let command = ["exec \"$0\" \"$@\"", TRACEFS][usize::from(can_trace())];
    let options = ["--model", "epoll", "--offload", "inline,spawn,pool"];
    let quick = ["--measure", "cost", "--equal-rate-rounds", "0"];
    let experiment = compare("elsewhere", command, &[options, quick].concat());
    let causes = &experiment.analysis.verdict.causes;
    let apart = causes.iter().find(|cause| cause.what.contains("apart"));
    assert!(apart.is_none(), "{apart:?}");
    for column in &experiment.analysis.counts {
        let program = |name: &str| {
            let row = column.rows.iter().find(|row| row.name == name)?;
            row.program.filter(|count| *count > 0.0)
        };
        let all = column.rows.iter().find(|row| row.name == "system calls");
        let all = all.unwrap_or_else(|| panic!("{column:?}"));
        let elsewhere = column.label != "inline";
        assert_eq!(all.at_least, elsewhere, "{column:?}");
        assert_eq!(program("write").is_some(), elsewhere, "{column:?}");
        let expected = column.label == "pool";
        assert_eq!(program("futex").is_some(), expected, "{column:?}");
        // A thread for each request, by those that came in: of the ones answered, up to one on each
        // connection came before the window. Its birth alone is a dozen calls.
        let came_in = program("recv").unwrap_or_else(|| panic!("{column:?}"));
        let spawned = column.label == "spawn";
        let births = program("clone3").unwrap_or(0.0);
        assert_eq!(births > 0.9 * came_in, spawned, "{column:?}");
        if let Some(kernel) = all.kernel.value() {
            let many = *kernel > 12.0 * came_in;
            assert_eq!(many, spawned, "all of raw_syscalls: {column:?}");
        }
    }
    let table = &experiment.analysis.tables[0];
    let whole = table.rows.iter().map(|row| row.system_calls.is_some());
    let whole: Vec<_> = whole.take(3).collect();
    assert_eq!(whole, [true, false, false]);
}

/// /proc/cpuinfo as another machine's, in a mount namespace of its own.
#[test]
fn without_a_steady_counter_the_ledger_of_time_is_left_out_with_the_reason() {
    let cpuinfo = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cpuinfo");
    let real = fs::read_to_string("/proc/cpuinfo").expect("Linux has it");
    fs::write(&cpuinfo, real.replace("nonstop_tsc", "")).expect("it can be written");
    let script = format!(
        "exec unshare --mount sh -c 'mount --bind \"{}\" /proc/cpuinfo && exec \"$0\" \"$@\"' \
         \"$0\" \"$@\"",
        cpuinfo.display()
    );
    let may = Command::new("sh").args(["-c", &script, "true"]).output();
    if !may.is_ok_and(|output| output.status.success()) {
        crate::say_left_out("another /proc/cpuinfo: nothing can be mounted here; run as root");
        return;
    }
    if !cfg!(target_arch = "x86_64") {
        crate::say_left_out("the counter of other processors is the kernel's clock");
        return;
    }
    let options = ["--model", "epoll", "--equal-rate-rounds", "0"];
    let experiment = compare("cpuinfo", &script, &options);
    assert!(experiment.analysis.ledgers.is_empty());
    let text = ringlab::report::experiment(&experiment, false);
    let words: Vec<_> = text.split_whitespace().collect();
    let said = "the time ledger n/a: the processor's time-stamp counter may change its rate or stop \
                (/proc/cpuinfo lacks nonstop_tsc)";
    assert!(words.join(" ").contains(said), "{text}");
    let _ = fs::remove_file(&cpuinfo);
}
