//! What `compare` refuses in a sentence, before anything is measured, and a result that finds no place.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use procfs::process::Process;
use ringlab::config::cores;
use ringlab::experiment::result::FORMAT;

use crate::guests::File;
use crate::runs::{Folder, Run, SHORT, TWO_ARMS};
use crate::say_left_out;
use crate::server::PROGRAM;

/// What cannot be is refused with code 2 and one line, before a server is started: nothing is
/// announced, nothing stored.
pub fn check_refused(options: &[&str], words: &[&str]) {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let json = json.to_str().expect("text");
    let place = if options.contains(&"--json") {
        vec![]
    } else {
        vec!["--json", json]
    };
    // Not --quiet: the plan is announced before anything is measured.
    let said = Run::start(&[&["compare"], &place[..], options].concat()).end();
    assert_eq!(said.code, Some(2), "{options:?}: {}{}", said.out, said.err);
    assert_eq!(said.out, "", "{options:?}");
    assert_eq!(said.err.lines().count(), 1, "{}", said.err);
    assert!(!said.err.contains("rounds, about"), "{}", said.err);
    for word in words {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
    assert_eq!(folder.names(), [""; 0], "{options:?}");
}

#[test]
fn what_cannot_be_compared_is_refused() {
    check_refused(
        &["--model", "uring"],
        &["\"uring\"", "choose from", "io_uring", "`all`"],
    );
    check_refused(
        &["--isolation", "epol"],
        &["\"epol\"", "choose one of", "fresh"],
    );
    check_refused(
        &["--handler", "nobody"],
        &["nobody", "no built-in handler", "hello"],
    );
    check_refused(
        &["--handler", "./no.wat"],
        &["./no.wat", "no such file", "give the path"],
    );
    check_refused(
        &["--path", "no-slash"],
        &["\"no-slash\"", "no path", "--path /"],
    );
    check_refused(&["--path", "/a b"], &["\"/a b\"", "no path", "--path /"]);
    check_refused(&["--rate", "0"], &["rate", "at least 1"]);
    let there = format!("{:?}", cores());
    check_refused(
        &["--cores", "4095"],
        &["no core 4095", "choose from", &there],
    );
    check_refused(
        &["--client-cores", "4095"],
        &["no core 4095", "choose from", &there],
    );
}

#[test]
fn a_server_and_a_generator_on_one_core_are_refused() {
    let [first, _, ..] = cores()[..] else {
        // On a machine of one core there is nothing else to do, so it is done and marked.
        return;
    };
    let core = &first.to_string();
    check_refused(
        &["--cores", "all"],
        &["every core", "leave at least one", "--cores"],
    );
    let shared = ["--cores", core, "--client-cores", core];
    check_refused(
        &shared,
        &[
            &format!("share core {core}"),
            "measure each other",
            "--share-cores",
        ],
    );
}

#[test]
fn null_is_not_served_by_hand() {
    let output = Command::new(PROGRAM)
        .args(["serve", "--model", "null", "--listen", "127.0.0.1:0"])
        .output()
        .expect("the program can be started");
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    for word in ["null takes no connections", "ringlab compare"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn a_place_that_cannot_be_written_to_is_refused() {
    let folder = Folder::new();
    let file = File::new("in-the-way", "");
    let in_file = format!("{}/result.json", file.path());
    let missing = folder.path("missing/result.json");
    // Nobody can make a file there, not even root.
    let forbidden = "/proc/result.json";
    for place in [missing.to_str().expect("text"), &in_file, forbidden] {
        check_refused(
            &["--json", place],
            &[place, "cannot be written", "another file with --json"],
        );
    }
}

/// A file can be made beside it, but not renamed to it.
#[test]
fn a_directory_in_the_result_s_place_is_refused() {
    let folder = Folder::new();
    let place = folder.root().to_str().expect("text");
    check_refused(
        &["--json", place],
        &[place, "cannot be written", "another file with --json"],
    );
}

/// Known before anything is measured, not a minute later.
#[test]
fn a_directory_that_may_not_be_written_to_is_refused_at_once() {
    if Process::myself().and_then(|own| own.uid()).ok() != Some(0) {
        return check_unwritable(Command::new(PROGRAM));
    }
    // Root may write anywhere; nobody may not.
    let mut command = Command::new(PROGRAM);
    command.uid(65_534).gid(65_534);
    check_unwritable(command);
}

fn check_unwritable(mut command: Command) {
    let folder = Folder::new();
    let mut permissions = fs::metadata(folder.root()).unwrap().permissions();
    permissions.set_mode(0o555);
    fs::set_permissions(folder.root(), permissions).unwrap();
    let output = command
        .args(["compare", "--quiet", "--json"])
        .arg(folder.path("result.json"))
        .output();
    let output = match output {
        Ok(output) => output,
        // The build directory may lie where nobody else may go.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return say_left_out("another user may not run this build");
        }
        Err(error) => panic!("{error}"),
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    for word in ["cannot be written", "result.json", "--json"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

/// On a file system of its own of two pages, where the kernel lets this process mount one.
#[test]
fn a_disk_that_fills_up_leaves_what_was_there() {
    let folder = Folder::new();
    let script = "mount -t tmpfs -o size=8k tmpfs \"$0\" || exit 99
        cd \"$0\" && echo kept > result.json && \"$@\" > /dev/null; code=$?
        echo \"code $code: $(cat result.json), $(ls | wc -l) file\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(folder.root())
        .args([PROGRAM, "compare", "--quiet", "--json", "result.json"])
        .args(SHORT)
        .args(TWO_ARMS)
        .output();
    let (out, error) = match &output {
        Ok(output) if matches!(output.status.code(), Some(1 | 99)) => {
            return say_left_out("no file system can be mounted here");
        }
        Err(_) => return say_left_out("there is no unshare(1) here"),
        Ok(output) => (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ),
    };
    assert_eq!(out, "code 4: kept, 1 file\n", "{error}");
    for word in ["result.json", "No space left"] {
        assert!(error.contains(word), "{word:?} is not in {error:?}");
    }
}

#[test]
fn what_is_no_stored_run_is_not_repeated() {
    let words = ["is no stored result", "store one with"];
    check_refused(
        &["--again", "./missing.json"],
        &[&words[..], &["./missing.json"]].concat(),
    );
    let of_today = format!("{{\"format\": {FORMAT}}}");
    for (content, what) in [
        ("", "names no format"),
        ("not even JSON", "names no format"),
        ("{\"answer\": 42}", "names no format"),
        ("{\"format\": 99}", "format 99"),
        (&of_today, "missing field"),
    ] {
        let file = File::new("foreign.json", content);
        check_refused(
            &["--again", file.path()],
            &[&words[..], &[file.path(), what]].concat(),
        );
    }
}
