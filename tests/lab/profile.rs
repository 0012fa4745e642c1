//! `compare --profile`: a graph with names, or a sentence that says what is missing for one.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::server::PROGRAM;

/// The shortest experiment of one arm, then its profile into `directory`; perf is looked for in
/// `search`.
fn compare(directory: &Path, search: Option<&str>) -> Output {
    let _ = fs::remove_dir_all(directory);
    let mut command = Command::new(PROGRAM);
    command
        .args(["compare", "--quiet", "--model", "epoll", "--rounds", "1"])
        .args(["--handler", "primes"])
        .args(["--equal-rate-rounds", "0", "--ledger-rounds", "0"])
        .args(["--warm-up", "20ms", "--window", "200ms", "--json"])
        .arg(directory.with_extension("json"))
        .arg("--profile")
        .arg(directory);
    if let Some(search) = search {
        command.env("PATH", search);
    }
    command.output().expect("the program was built")
}

fn check(name: &str, search: Option<&str>, expected: fn(&str, &Path)) {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let output = compare(&directory, search);
    let said = String::from_utf8_lossy(&output.stdout);
    // However long it took, the verdict is of the experiment alone.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
    assert!(said.contains("The full result is in"), "{said}");
    let words: Vec<_> = said.split_whitespace().collect();
    expected(&words.join(" "), &directory);
    let _ = fs::remove_dir_all(&directory);
    let _ = fs::remove_file(directory.with_extension("json"));
}

#[test]
fn an_arm_is_drawn_with_names_or_the_reason_why_not_is_given() {
    check("profile", None, |said, directory| {
        let Ok(svg) = fs::read_to_string(directory.join("epoll.svg")) else {
            assert!(said.contains("No flame graph") || said.contains("no flame graph: "));
            return;
        };
        assert!(said.contains("epoll: the flame graph is"), "{said}");
        assert!(svg.contains("ringlab::event_loop::"), "{said}");
        let folded = fs::read_to_string(directory.join("epoll.folded"));
        let folded = folded.expect("it is written before the graph");
        let kernel = folded.contains("do_syscall") || folded.contains("syscall_");
        assert!(kernel || said.contains("kernel's part is missing"));
        // Most of the time is the guest's, and its functions have their names.
        assert!(folded.contains(";[guest];handle"), "{said}");
        let left = fs::read_dir(directory).expect("it is there").count();
        assert_eq!(left, 2, "what perf recorded is removed");
    });
}

#[test]
fn without_perf_the_comparison_is_whole_and_says_how_to_get_it() {
    check("profile-without", Some("/nowhere"), |said, directory| {
        assert!(said.contains("there is no `perf` on PATH; install"));
        let left = fs::read_dir(directory).expect("it is there").count();
        assert_eq!(left, 0);
    });
}
