//! `compare --measure mix` as a program: what it counts, prints and stores, how it ends, what it refuses.
//!
//! Blocks are far too short to conclude anything from. Asserted is what follows from how each policy
//! works, such as that a light request waits for a heavy one inline.

use std::path::Path;

use nix::sys::signal::{Signal, killpg};
use ringlab::experiment::mix::block::Block;
use ringlab::experiment::mix::result::Mix;
use serde_json::Value;

use crate::measuring_refused::check_refused;
use crate::runs::{Folder, Run, Said};

/// What is beside the light requests is named by each test.
const SHORT: [&str; 8] = [
    "--rounds",
    "1",
    "--warm-up",
    "20ms",
    "--window",
    "200ms",
    "--rate",
    "300",
];

fn start(json: &Path, options: &[&str]) -> Run {
    let json = json.to_str().expect("the path is text");
    Run::start(&[&["compare", "--quiet", "--json", json], options].concat())
}

/// Runs to the end; the verdict is the machine's, and the code has to say the same.
fn mix(options: &[&str]) -> (Said, Mix) {
    let folder = Folder::new();
    let json = folder.path("mix.json");
    let said = start(&json, &[&SHORT[..], options].concat()).end();
    let text = std::fs::read_to_string(&json).unwrap_or_else(|error| {
        panic!("{error}: {:?} {}{}", said.code, said.out, said.err);
    });
    let stored: Mix = serde_json::from_str(&text).expect("it reads back");
    let invalid = stored.analysis.verdict.level == ringlab::measure::stats::Level::Invalid;
    assert_eq!(said.code, Some(if invalid { 3 } else { 0 }), "{}", said.err);
    (said, stored)
}

fn block<'a>(mix: &'a Mix, label: &str, step: usize) -> &'a Block {
    let arm = mix
        .plan
        .setting
        .runners()
        .iter()
        .position(|arm| arm.label == label);
    let arm = arm.unwrap_or_else(|| panic!("no arm {label}"));
    let found = mix
        .blocks
        .iter()
        .find(|block| (block.arm, block.step) == (arm, step));
    found.unwrap_or_else(|| panic!("no block of {label} at {step}"))
}

#[test]
fn the_numbers_of_light_and_heavy_add_up() {
    let (said, mix) = mix(&[
        "--model",
        "blocking,epoll,io_uring",
        "--offload",
        "all",
        "--heavy",
        "30ms:2",
    ]);
    let labels: Vec<_> = mix
        .plan
        .setting
        .runners()
        .into_iter()
        .map(|arm| arm.label)
        .collect();
    assert_eq!(labels.len(), 12, "{labels:?}");
    assert_eq!(mix.blocks.len(), 24);
    for block in &mix.blocks {
        let light = &block.light;
        assert!(light.planned > 0 && light.answered > 0);
        // Every one that was sent was answered, however late.
        assert_eq!((light.sent, light.failed), (light.answered, 0), "{block:?}");
        assert_eq!(
            light.latency_ns.len(),
            light.planned - light.unsent,
            "planned in the window"
        );
        let heavy = block.heavy.as_ref();
        assert_eq!(heavy.is_some(), block.step == 1);
        if let Some(heavy) = heavy {
            assert_eq!((heavy.sent, heavy.failed), (heavy.answered, 0));
            assert!(heavy.answered > 0, "{heavy:?}");
            // By the wall clock none takes less than it takes the CPU.
            assert!(heavy.latency_ns.is_empty() || heavy.latency_ns.max() > 10_000_000);
        }
    }
    // A machine that stalls may put all of them past one block's window, but not past every one's.
    let done = mix.blocks.iter().filter_map(|block| block.heavy.as_ref());
    assert!(done.map(|heavy| heavy.done).sum::<f64>() > 0.0);
    for model in ["blocking", "epoll", "io_uring"] {
        assert!(said.out.contains(&format!("\n{model}\n")), "{}", said.out);
    }
    said.expect_words(&[
        "time-slice with blocking n/a",
        "percent of a core",
        "2 × 30ms",
    ]);
    let widest = said
        .out
        .lines()
        .map(|line| line.trim_end().chars().count())
        .max();
    assert!(widest <= Some(80), "{}", said.out);
    let blank = said.out.lines().find(|line| line.ends_with(' '));
    assert_eq!(blank, None, "of the last column");
    let seeds: Vec<u64> = mix.blocks[..12]
        .iter()
        .map(|block| block.light.planned)
        .collect();
    assert!(
        seeds.iter().all(|planned| *planned == seeds[0]),
        "the same arrivals: {seeds:?}"
    );
}

#[test]
fn inline_makes_light_requests_wait_for_heavy_ones() {
    for model in ["epoll", "io_uring"] {
        let (_, mix) = mix(&[
            "--model",
            model,
            "--offload",
            "inline,time-slice",
            "--heavy",
            "100ms:2",
        ]);
        let longest = |label: &str| block(&mix, label, 1).light.latency_ns.max();
        // A whole heavy request is in the way of the unluckiest, by far more than a slice.
        assert!(
            longest("inline") > 50_000_000,
            "{model}: {} ns",
            longest("inline")
        );
        // From the planned send: with one heavy request or two to wait for, half of all wait long.
        let median = block(&mix, "inline", 1)
            .light
            .latency_ns
            .value_at_quantile(0.5);
        assert!(median > 20_000_000, "{model}: {median} ns");
    }
}

/// Light requests that keep to the I/O thread do not wait in the pool's queue.
#[test]
fn light_requests_may_run_elsewhere_than_heavy_ones() {
    let options = [
        "--model",
        "epoll",
        "--offload",
        "pool",
        "--measure",
        "mix",
        "--heavy",
        "30ms:50%",
    ];
    let (said, mix) = mix(&[&options[..], &["--light", "inline"]].concat());
    assert_eq!(mix.plan.light.as_deref(), Some("inline"));
    said.expect_words(&["hello, inline whatever"]);
    let light = &block(&mix, "epoll", 1).light;
    assert_eq!(light.sent, light.answered);
}

#[test]
fn the_stored_result_has_the_histograms() {
    let folder = Folder::new();
    let json = folder.path("mix.json");
    start(
        &json,
        &[
            &SHORT[..],
            &[
                "--model",
                "epoll",
                "--offload",
                "inline,pool",
                "--heavy",
                "20ms:1",
            ],
        ]
        .concat(),
    )
    .end();
    let text = std::fs::read_to_string(&json).expect("it was written");
    let value: Value = serde_json::from_str(&text).expect("JSON");
    for path in [
        "/mix_format",
        "/host",
        "/plan/rate",
        "/plan/heavy/0/share/always",
        "/analysis/verdict",
        "/analysis/rows/0/latency_ns_max",
        "/analysis/rows/0/other_cpu_percent",
        "/blocks/0/light/latency_ns/0/1",
        "/blocks/0/server/cpu_ns",
        "/blocks/0/whole/cpu_ns",
        "/blocks/3/heavy/done",
    ] {
        assert!(
            value.pointer(path).is_some_and(|value| !value.is_null()),
            "{path}"
        );
    }
    // A comparison of cost is not repeated from it.
    let json = json.to_str().expect("text");
    let said = Run::start(&["compare", "--again", json]).end();
    assert_eq!(said.code, Some(2));
    assert!(said.err.contains("of a mix"), "{}", said.err);
}

#[test]
fn ctrl_c_ends_a_mix_with_what_was_measured() {
    let folder = Folder::new();
    let json = folder.path("mix.json");
    let endless = [
        "--model",
        "epoll",
        "--offload",
        "all",
        "--rounds",
        "9999",
        "--heavy",
        "20ms:50%",
    ];
    let run = start(&json, &[&endless[..], &SHORT[2..]].concat());
    // One times the handler, and then there are blocks, of which the first may have been tried again.
    let servers = run.until_servers(5);
    killpg(run.pid(), Signal::SIGINT).expect("it is a group");
    let said = run.end();
    assert_eq!(said.code, Some(130), "{}{}", said.out, said.err);
    said.expect_words(&["partial run", &json.display().to_string()]);
    assert!(servers.iter().all(|server| server.is_gone()));
    let text = std::fs::read_to_string(&json).expect("it was written");
    let mix: Mix = serde_json::from_str(&text).expect("it reads back");
    assert!(mix.partial && !mix.blocks.is_empty());
    assert!(mix.blocks.iter().all(|block| block.light.planned > 0));
    assert_eq!(folder.names(), ["mix.json"]);
}

#[test]
fn what_is_no_mix_is_refused() {
    let all = ["--offload", "all"];
    let refused =
        |options: &[&str], words: &[&str]| check_refused(&[&all, options].concat(), words);
    refused(
        &["--handler", "echo"],
        &["hello and spin", "--handler", "--measure cost"],
    );
    refused(&["--path", "/x"], &["hello and spin", "--path"]);
    refused(
        &["--isolation", "reuse,fresh"],
        &["one isolation", "name one of each"],
    );
    refused(&["--layout", "all"], &["one layout"]);
    refused(&["--until", "2%"], &["--until means nothing in a mix"]);
    refused(
        &["--ledger-rounds", "0"],
        &["--ledger-rounds means nothing in a mix"],
    );
    refused(&["--rate", "0"], &["rate", "at least 1"]);
    refused(&["--model", "null"], &["null n/a", "no mix"]);
    check_refused(
        &[
            "--offload",
            "time-slice",
            "--measure",
            "mix",
            "--model",
            "blocking",
        ],
        &["time-slice with blocking n/a", "the kernel slices"],
    );
    check_refused(
        &[
            "--offload",
            "time-slice",
            "--measure",
            "mix",
            "--isolation",
            "native",
        ],
        &["time-slice with native n/a", "linked in"],
    );
    check_refused(
        &["--heavy", "1ms:50%"],
        &["--heavy", "of the mix", "--measure mix"],
    );
    check_refused(
        &["--light", "inline"],
        &["--light", "of the mix", "--measure mix"],
    );
    check_refused(
        &["--offload", "fast,slow"],
        &["no offload policy is called \"fast\""],
    );
}

#[test]
fn a_share_or_length_that_is_none_is_refused() {
    for (heavy, words) in [
        ("10ms", "no kind of heavy requests"),
        ("10ms:0%", "a share of 0%"),
        ("10ms:200%", "a share of 200%"),
        ("10ms:1000", "a share of 1000"),
        ("1us:50%", "heavy requests of 1us"),
    ] {
        let said = Run::start(&["compare", "--offload", "all", "--heavy", heavy]).end();
        assert_eq!((said.code, &*said.out), (Some(2), ""), "{heavy}");
        assert!(
            said.flat().contains(words) || said.err.contains(words),
            "{}",
            said.err
        );
    }
}

/// More than a core answers by itself: there is no latency but that of a queue that grows.
#[test]
fn a_rate_that_cannot_be_reached_is_refused() {
    let folder = Folder::new();
    let json = folder.path("mix.json");
    let options = [
        "--model",
        "epoll",
        "--offload",
        "spawn,inline",
        "--rate",
        "5000000",
    ];
    let short = ["--warm-up", "20ms", "--window", "100ms"];
    let said = start(&json, &[&options[..], &short].concat()).end();
    assert_eq!((said.code, &*said.out), (Some(2), ""), "{}", said.err);
    for word in ["with no heavy request beside them", "answered", "--rate"] {
        assert!(said.err.contains(word), "{word:?} is not in {:?}", said.err);
    }
}

#[test]
fn a_dry_run_of_a_mix_does_nothing() {
    let folder = Folder::new();
    let dry = ["--dry-run", "--offload", "all"];
    let said = start(&folder.path("mix.json"), &dry).end();
    said.expect_done(0);
    said.expect_words(&[
        "epoll time-slice, io_uring inline",
        "spin 1ms:25%, 1ms:50%, 10ms:25%, 10ms:50%, 100ms:50%, 100ms:8",
        "hello at 4000/s",
        "rounds, about",
    ]);
    let options = [&dry[..], &["--model", "blocking", "--heavy", "5ms:10%"]].concat();
    let said = start(&folder.path("mix.json"), &options).end();
    said.expect_done(0);
    said.expect_words(&["spin 5ms:10%", "left out"]);
    assert_eq!(folder.names(), [""; 0]);
}
