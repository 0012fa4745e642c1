//! How `compare` ends before its time: by a signal, by a second one, with a server that hangs.

use nix::sys::signal::{Signal, killpg};

use crate::runs::{Folder, SHORT, start_compare, stored, wait_for};

/// Of far more rounds than this test waits for.
const ENDLESS: [&str; 4] = ["--rounds", "9999", "--ledger-rounds", "0"];

/// Its first block does not end while this test runs.
const LONG_WARM_UP: [&str; 2] = ["--warm-up", "1h"];

#[test]
fn ctrl_c_ends_with_what_was_measured() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &[&ENDLESS[..], &SHORT].concat());
    // The pilot and a few blocks.
    let servers = run.until_servers(7);
    let mut servers = [servers, run.servers()].concat();
    // A terminal signals the whole group, the servers too.
    killpg(run.pid(), Signal::SIGINT).expect("it is a group");
    servers.extend(run.servers());
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    said.expect_words(&["partial run", &json.display().to_string()]);
    assert!(servers.iter().all(|server| server.is_gone()));
    let experiment = stored(&json);
    assert!(experiment.partial);
    assert!(!experiment.blocks.is_empty());
    assert!(experiment.blocks.iter().all(|block| !block.client.partial));
    assert_eq!(folder.names(), ["result.json"]);
}

/// As `kill` or a supervisor does it: the program alone is told, before anything was measured.
#[test]
fn a_signal_in_the_first_block_ends_with_an_empty_result() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &LONG_WARM_UP);
    let server = run.until_servers(1)[0];
    run.signal(Signal::SIGTERM);
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    said.expect_words(&["partial run", "Nothing was measured"]);
    assert!(server.is_gone());
    assert!(stored(&json).partial);
}

/// One that has stopped answering is asked in vain when the window opens.
#[test]
fn a_server_that_hangs_ends_the_run_with_a_sentence() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &["--warm-up", "2s", "--window", "100ms"]);
    let server = run.until_servers(1)[0];
    wait_for("the load", || server.descriptors() > 40);
    server.signal(Signal::SIGSTOP);
    let said = run.end();
    assert_eq!((said.code, &*said.out), (Some(4), ""), "{}", said.err);
    for word in ["arm blocking", "hangs", "`ringlab serve`"] {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
    assert!(server.is_gone(), "a process that hangs is killed");
    assert_eq!(folder.names(), [""; 0]);
}

/// Also while a server that hangs is waited for.
#[test]
fn ctrl_c_ends_it_with_a_server_that_hangs() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let run = start_compare(&json, &LONG_WARM_UP);
    let server = run.until_servers(1)[0];
    server.signal(Signal::SIGSTOP);
    run.signal(Signal::SIGINT);
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    assert!(server.is_gone());
    assert!(stored(&json).partial);
}

/// A server that hangs keeps the program waiting, so that the second signal finds it there.
#[test]
fn a_second_signal_ends_it_at_once() {
    let folder = Folder::new();
    let run = start_compare(&folder.path("result.json"), &LONG_WARM_UP);
    let server = run.until_servers(1)[0];
    server.signal(Signal::SIGSTOP);
    run.signal(Signal::SIGINT);
    run.until_taken(Signal::SIGINT);
    run.signal(Signal::SIGINT);
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    // The result of an interrupted run may be there already, but no part of one.
    assert!(folder.names().iter().all(|name| name == "result.json"));
    // The server ends with its standard input, once it goes on.
    server.signal(Signal::SIGCONT);
    wait_for("the server's end", || server.is_gone());
}
