//! `compare` as a program: what it prints and stores, and the code that it ends with.
//!
//! Blocks here are far too short to conclude anything from, so no test asserts a speed, a ratio or
//! how far a verdict goes. Where an exit code depends on the verdict, both must say the same. What it
//! refuses is in `measuring_refused`, how it is ended from outside in `measuring_ended`.

use std::fs;
use std::path::Path;

use ringlab::config::cores;
use ringlab::experiment::block::Pass;
use ringlab::experiment::plan::Load;
use ringlab::experiment::result::Experiment;
use serde_json::Value;

use crate::guests::{File, misbehaving};
use crate::runs::{Folder, TWO_ARMS, compare, in_long_windows, start_compare, stored};

/// How many blocks of this kind `arm` has in each of `rounds` rounds.
fn blocks(
    experiment: &Experiment,
    load: Load,
    pass: Pass,
    arm: usize,
    rounds: usize,
) -> Vec<usize> {
    let mut per_round = vec![0; rounds];
    for block in &experiment.blocks {
        if (block.load, block.pass, block.arm) == (load, pass, arm) {
            per_round[block.round] += 1;
        }
    }
    per_round
}

#[test]
fn every_arm_is_measured_at_both_loads_and_in_the_ledger() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let rounds = [
        "--rounds",
        "2",
        "--equal-rate-rounds",
        "1",
        "--ledger-rounds",
        "1",
        // Long enough for an answer on a machine that has much else to do.
        "--warm-up",
        "50ms",
        "--window",
        "250ms",
    ];
    let said = start_compare(&json, &rounds).end();
    said.expect_done(0);
    assert_eq!(said.err, "");
    assert_eq!(folder.names(), ["result.json"]);
    let experiment = stored(&json);
    let plan = &experiment.plan;
    let runners = plan.setting.runners();
    said.expect_words(&[
        "Saturation: closed loop, 64 in flight",
        "Equal rate: open loop",
        "Ledger at saturation",
        "Ledger at equal rate",
        "unexplained",
        "System calls per request",
        "single run",
        &json.display().to_string(),
    ]);
    let level = experiment.analysis.verdict.level.to_string();
    assert!(said.out.lines().any(|line| line.starts_with(&level)));
    // A row each at both loads; an arm has a column in both ledgers besides.
    for heading in ["Saturation: ", "Equal rate: "] {
        let (_, part) = said.out.split_once(heading).expect("said above");
        let table = part.split("\n\n").nth(1).expect("a table");
        for runner in &runners {
            // The control's name may take two lines.
            let name = |label: &str| label.split(' ').next().map(str::to_owned);
            let own = name(&runner.label);
            let rows = table.lines().filter(|line| name(line) == own).count();
            let expected = runners.iter().filter(|other| name(&other.label) == own);
            assert_eq!(rows, expected.count(), "{}: {table}", runner.label);
        }
    }
    for arm in &plan.setting.arms {
        let heads = said.out.lines().filter(|line| {
            line.starts_with("ns of server CPU")
                && line.split_whitespace().any(|word| word == arm.label)
        });
        assert_eq!(heads.count(), 2, "{}: {}", arm.label, said.out);
    }
    assert!(!experiment.partial);
    for (arm, runner) in runners.iter().enumerate() {
        // The control has no ledger: what it would say, its twin says.
        let recorded = usize::from(arm < plan.setting.arms.len());
        for (load, rounds) in [(Load::Saturation, 2), (Load::EqualRate, 1)] {
            let of = |pass, rounds| blocks(&experiment, load, pass, arm, rounds);
            let label = &runner.label;
            assert_eq!(
                of(Pass::Plain, rounds),
                vec![1; rounds],
                "{label}, {load:?}"
            );
            assert_eq!(of(Pass::Time, 1), [recorded], "{label}, {load:?}");
        }
    }
    for block in &experiment.blocks {
        let client = &block.client;
        assert!(client.answered > 0 && client.failed == 0, "{client:?}");
        let apart = client.answered.abs_diff(client.seen_by_server);
        assert!(apart <= plan.connections as u64, "{client:?}");
    }
}

#[test]
fn a_stored_run_is_repeated_and_each_arm_compared() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    compare(&json, &TWO_ARMS).expect_done(0);
    let before = fs::read(&json).expect("it was stored");
    let said = compare(&json, &["--again", json.to_str().expect("text")]);
    said.expect_done(0);
    said.expect_words(&["Against the stored run: - epoll, saturation: "]);
    let has_ratio = |json: &Path| stored(json).analysis.tables[0].rows[1].cpu_ratio.is_ok();
    match [&json, &folder.path("result.again.json")].map(|json| has_ratio(json)) {
        [true, true] => said.expect_words(&[" then, ", " now: "]),
        [true, false] => said.expect_words(&["this run has no ratio: "]),
        [false, _] => said.expect_words(&["the stored run has no ratio: "]),
    }
    assert!(!said.out.contains("unlike hosts"), "{}", said.out);
    // The stored one stays, and the new one is of the same plan.
    assert_eq!(fs::read(&json).expect("it is still there"), before);
    let plan = |json: &Path| serde_json::to_value(stored(json).plan).expect("plain data");
    assert_eq!(plan(&folder.path("result.again.json")), plan(&json));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let folder = Folder::new();
    let said = compare(&folder.path("result.json"), &["--dry-run", "--rounds", "7"]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    said.expect_words(&[
        "blocking, epoll",
        "(control) on hello",
        "7 + 6 rounds",
        "about",
    ]);
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn it_says_whether_the_interval_asked_for_was_reached() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    for (goal, time) in [("50%", "5s"), ("0.0001%", "0s")] {
        let options = ["--until", goal, "--max-time", time];
        let said = compare(&json, &[&TWO_ARMS[..], &options].concat());
        said.expect_done(0);
        let until = stored(&json).until.expect("it was asked for");
        said.expect_words(&[&until]);
        let reached = until.starts_with("every ratio at saturation is known to ±");
        let given_up = until.contains("--max-time was up");
        assert!(reached || given_up, "{until}");
        assert!(goal == "50%" || given_up, "{until}");
    }
}

#[test]
fn a_shared_core_is_named_in_the_verdict() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let core = &cores()[0].to_string();
    let shared = ["--cores", core, "--client-cores", core, "--share-cores"];
    let said = compare(&json, &[&TWO_ARMS[..], &shared].concat());
    said.expect_done(0);
    said.expect_words(&["- server and generator share a core"]);
    let causes = stored(&json).analysis.verdict.causes;
    assert!(
        causes
            .iter()
            .any(|cause| cause.what.contains("share a core"))
    );
}

/// One round has no control to be read against, which is NOISY, whatever the machine does.
#[test]
fn noisy_counts_as_invalid_under_strict() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let one_round = [&TWO_ARMS[..2], &["--rounds", "1"], &TWO_ARMS[4..]].concat();
    let said = compare(&json, &one_round);
    said.expect_words(&["there is no A/A control"]);
    said.expect_done(0);
    let said = compare(&json, &[&one_round[..], &["--strict"]].concat());
    assert_eq!(said.code, Some(3), "{}", said.out);
    // Stored all the same, for whoever wants to see what was noisy.
    assert_eq!(stored(&json).plan.rounds, 1);
}

/// A stored run of another host is repeated, but first it is said that it was another.
#[test]
fn a_run_of_an_unlike_host_is_said_first() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    compare(&json, &TWO_ARMS).expect_done(0);
    let text = fs::read_to_string(&json).unwrap();
    let mut value: Value = serde_json::from_str(&text).unwrap();
    value["host"]["kernel_release"] = serde_json::json!("2.6.32");
    fs::write(&json, value.to_string()).unwrap();
    let said = compare(&json, &["--again", json.to_str().expect("text")]);
    said.expect_done(0);
    let out = &said.out;
    let place = |what: &str| {
        out.find(what)
            .unwrap_or_else(|| panic!("no {what:?}: {out}"))
    };
    assert!(place("Unlike hosts") < place("Saturation:"), "{out}");
    assert!(place("2.6.32") < place("Saturation:"), "{out}");
    assert!(
        place("second run") < place("Against the stored run"),
        "{out}"
    );
    assert!(!out.contains("single run"), "{out}");
}

/// It answers requests of its own, so there is no rate to offer it.
#[test]
fn null_is_measured_without_a_generator_and_has_no_equal_rate() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let rounds = [
        "--model",
        "epoll,null",
        "--rounds",
        "2",
        "--equal-rate-rounds",
        "1",
        "--ledger-rounds",
        "1",
        "--path",
        "/?n=7",
        "--handler",
        "count",
    ];
    let (_, experiment) = in_long_windows(|window| {
        let length = ["--warm-up", "20ms", "--window", window];
        start_compare(&json, &[&length[..], &rounds].concat())
            .end()
            .expect_done(0);
        ((), stored(&json))
    });
    let [saturation, equal_rate] = &experiment.analysis.tables[..] else {
        panic!("two loads were asked for");
    };
    let null = &saturation.rows[1];
    assert!(null.throughput > 0.0 && null.cpu_ns.is_some());
    assert!(!null.client_limited);
    assert_eq!(null.system_calls, Some(0.0));
    assert_eq!(
        (equal_rate.rows[1].blocks, equal_rate.rows[1].cpu_ns),
        (0, None)
    );
    for block in experiment.blocks.iter().filter(|block| block.arm == 1) {
        assert_eq!(block.load, Load::Saturation);
        assert_eq!(block.client.failed, 0);
        assert_eq!(block.server.figures.served.failed, 0);
    }
}

#[test]
fn an_arm_that_fails_every_request_is_named() {
    let refusing = misbehaving([]).replace(r"\00\00\c8\00", r"\00\00\f4\01");
    let handler = File::new("refusing.wat", refusing);
    let folder = Folder::new();
    let options = ["--handler", handler.path(), "--model", "epoll"];
    let said = compare(&folder.path("result.json"), &options);
    assert!(said.code.is_some_and(|code| code != 0), "{}", said.out);
    assert_eq!(said.out, "");
    for word in [
        "arm epoll",
        "answered none of",
        "status 200",
        "`ringlab serve`",
    ] {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn a_threshold_that_every_arm_crosses_is_exit_code_1() {
    let folder = Folder::new();
    let json = folder.path("result.json");
    let said = compare(&json, &[&TWO_ARMS[..], &["--threshold", "0"]].concat());
    said.expect_done(1);
    if said.code == Some(1) {
        said.expect_words(&["Over the threshold of 0: epoll at saturation."]);
    }
    // The result is stored all the same.
    assert_eq!(stored(&json).plan.setting.arms.len(), 2);
}
