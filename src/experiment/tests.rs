//! Each check made to fail once, on blocks made up for it; the same blocks pass without the fault.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::analysis::{Analysis, analyse};
use super::block::{Block, Client, Finding, Pass};
use super::plan::{Load, Plan, arms};
use super::result::{Experiment, FORMAT, StoreError};
use super::setting::Setting;
use super::stretch::Stretch;
use crate::control::Report;
use crate::layout::Layout;
use crate::measure::host::{Build, Host};
use crate::measure::noise::{Limits, Noise};
use crate::measure::perf::Counted;
use crate::measure::probe::Stage;
use crate::measure::reading::Reading;
use crate::measure::stats::{Level, Outcome};
use crate::models::find;
use crate::offload::Policy;
use crate::sandbox::Isolation;
use crate::shard::Figures;

const ROUNDS: usize = 12;
const WINDOW_NS: u64 = 450_000_000;

pub(super) fn plan() -> Plan {
    let models = [find("epoll").unwrap(), find("io_uring").unwrap()];
    Plan {
        setting: Setting {
            arms: arms(
                &models,
                &[Isolation::Reuse],
                &[Layout::Threads],
                &[Policy::Inline],
                &["hello".to_string()],
            ),
            control_of: 0,
            left_out: Vec::new(),
            warnings: Vec::new(),
            server_cores: vec![1],
            client_cores: vec![0],
        },
        ledger_rounds: 0,
        count_rounds: 0,
        path: "/".to_string(),
        connections: 64,
        rounds: ROUNDS,
        equal_rate_rounds: 0,
        warm_up: Duration::from_millis(100),
        window: Duration::from_nanos(WINDOW_NS),
        rate: None,
        seed: 1,
        until_percent: None,
        max_time: Duration::from_secs(60),
    }
}

/// A server that used `cpu_ns` for `requests`.
pub(super) fn report(cpu_ns: u64, requests: u64, now_ns: u64) -> Report {
    let mut figures = Figures::default();
    figures.served.answered = requests;
    figures.io.recv = requests;
    figures.io.send = requests;
    Report {
        now_ns,
        cpu_ns,
        helpers_ns: cpu_ns / 100,
        workers_ns: 0,
        figures,
        system_calls: figures.io.system_calls(),
        voluntary_switches: 0,
        involuntary_switches: 0,
        minor_faults: 0,
        major_faults: 0,
        reset_bytes: 0,
        ticks: 0,
        coarse_ticks: 0,
        untimed_threads: 0,
        tick_ns: None,
        coarse_tick_ns: None,
    }
}

/// A block of 110 000 requests at about `ns` each, with ±0.5 % of repeatable noise.
pub(super) fn block(arm: usize, round: usize, ns: f64) -> Block {
    let wobble = 1.0 + 0.005 * ((round * 7 + arm * 5) as f64).sin();
    let requests = 110_000;
    let cpu_ns = (ns * wobble * requests as f64) as u64;
    let mut latency = Histogram::new(3).unwrap();
    latency.record_n(300_000, requests).unwrap();
    Block {
        arm,
        load: Load::Saturation,
        pass: Pass::Plain,
        round,
        times_faults: false,
        server: report(cpu_ns, requests, WINDOW_NS),
        first_half: Some(report(cpu_ns / 2, requests / 2, WINDOW_NS / 2)),
        machine_ns: Reading::Value(2 * WINDOW_NS),
        calls: None,
        work: None,
        client: Client {
            sent: requests,
            answered: requests,
            failed: 0,
            seen_by_server: requests,
            unsent: 0,
            latency_ns_p50: Some(300_000),
            latency_ns_p99: Some(300_000),
            typical_p99_ns: Some(300_000),
            pacing_error_ns_p99: None,
            cpu_ns: WINDOW_NS,
            switches: 0,
            events_per_wait: Some(8.0),
            invalid: Vec::new(),
            partial: false,
        },
        noise: Noise {
            wall_ns: WINDOW_NS,
            cpus: 1,
            steal_ns: Reading::Value(0),
            involuntary_switches: Reading::Value(0),
            run_queue_wait_ns: Reading::Value(0),
            off_cpu_ns: Reading::Value(0),
            crowded: Reading::Value(false),
            threads_gone: Reading::Value(0),
        },
        marks: Vec::new(),
        memory_bytes: Reading::Value(8 << 20),
        latency,
    }
}

/// epoll and its control at 4 µs, io_uring at 3.8 µs, after `change` to each block.
fn analysis(plan: &Plan, change: impl Fn(&mut Block)) -> Analysis {
    let mut blocks = Vec::new();
    for round in 0..ROUNDS {
        for (arm, ns) in [(0, 4000.0), (1, 3800.0), (2, 4000.0)] {
            let mut block = block(arm, round, ns);
            change(&mut block);
            blocks.push(block);
        }
    }
    analyse(plan, &blocks, 0.0, &Limits::default())
}

fn check(change: impl Fn(&mut Block), level: Level, what: &str) {
    let analysis = analysis(&plan(), change);
    assert_eq!(analysis.verdict.level, level, "{:?}", analysis.verdict);
    let said = analysis
        .verdict
        .causes
        .iter()
        .any(|cause| cause.what.contains(what));
    assert!(
        said || what.is_empty(),
        "{what:?} is not said in {:?}",
        analysis.verdict
    );
}

#[test]
fn a_sound_run_is_valid_and_claims_what_is_there() {
    let analysis = analysis(&plan(), |_| {});
    assert_eq!(
        analysis.verdict.level,
        Level::Valid,
        "{:?}",
        analysis.verdict
    );
    let table = &analysis.tables[0];
    assert!(table.control.as_ref().unwrap().valid());
    let row = &table.rows[1];
    assert!((row.cpu_ratio.as_ref().unwrap().ratio - 0.95).abs() < 0.005);
    assert_eq!(
        row.claim.as_ref().unwrap().outcome,
        Outcome::FindingCandidate
    );
    assert_eq!(row.latency_ns_p99.unwrap() / 1000, 300);
    assert_eq!(row.system_calls, Some(2.0));
}

#[test]
fn memory_is_the_median_or_the_reason_why_there_is_none() {
    let sound = analysis(&plan(), |block| {
        block.memory_bytes = Reading::Value((8 << 20) + block.round as u64);
    });
    let memory = &sound.tables[0].rows[1].memory_bytes;
    let middle = (8 << 20) + ROUNDS as u64 / 2;
    assert!(
        memory
            .value()
            .is_some_and(|bytes| bytes.abs_diff(middle) <= 1)
    );
    let blind = analysis(&plan(), |block| {
        block.memory_bytes = Reading::missing("no smaps");
    });
    let memory = &blind.tables[0].rows[1].memory_bytes;
    assert_eq!(*memory, Reading::missing("no smaps"));
}

#[test]
fn a_runtimes_own_system_calls_are_the_kernels_to_count() {
    let mut plan = plan();
    plan.setting.arms[1].model = "tokio_uring".to_string();
    let mut blocks: Vec<Block> = (0..3).map(|arm| block(arm, 0, 4000.0)).collect();
    let mut observed = block(1, 0, 4000.0);
    observed.pass = Pass::Counts;
    // Three a request by the kernel's count, where the program counts two.
    observed.calls = Some(Stretch {
        least: observed.server,
        most: observed.server,
        kernel: Counted {
            system_calls: Reading::Value(330_000),
            by_name: vec![("epoll_wait".to_string(), Reading::Value(220_000))],
            ..Counted::default()
        },
        unsettled: 0,
    });
    blocks.push(observed);
    let analysis = analyse(&plan, &blocks, 0.0, &Limits::default());
    assert_eq!(analysis.tables[0].rows[1].system_calls, None);
    let row = |name: &str| analysis.counts[0].rows.iter().find(|row| row.name == name);
    let calls = row("system calls").unwrap();
    assert_eq!((calls.program, &calls.kernel), (None, &Reading::Value(3.0)));
    assert_eq!(row("epoll_wait").unwrap().kernel, Reading::Value(2.0));
    let causes = format!("{:?}", analysis.verdict.causes);
    assert!(!causes.contains("the program counts"), "{causes}");
}

#[test]
fn an_arm_that_answers_nothing_is_no_pass() {
    let silent_until = |round| {
        move |block: &mut Block| {
            if block.arm == 1 && block.round < round {
                block.server.figures.served.answered = 0;
            }
        }
    };
    let said =
        |blocks| format!("at saturation, io_uring answered nothing in {blocks} of 12 blocks");
    check(silent_until(1), Level::Noisy, &said(1));
    check(silent_until(4), Level::Invalid, &said(4));
}

#[test]
fn an_arm_that_does_less_work_is_seen() {
    // It skips half of its requests: the same CPU, half the answers.
    let skip = |block: &mut Block| {
        if block.arm == 1 {
            block.server.figures.served.answered /= 2;
        }
    };
    let ratio = analysis(&plan(), skip).tables[0].rows[1]
        .cpu_ratio
        .clone()
        .unwrap();
    assert!(ratio.interval.low > 1.8, "{ratio:?}");
    // Or it says that it answered what the client never got.
    check(
        |block| block.client.seen_by_server += 1000,
        Level::Invalid,
        "client and server differ by 1000 requests",
    );
}

#[test]
fn a_biased_control_makes_a_run_invalid() {
    let bias = |block: &mut Block| {
        if block.arm == 2 {
            block.server.cpu_ns = block.server.cpu_ns * 103 / 100;
        }
    };
    check(bias, Level::Invalid, "A/A control sees a difference");
    let analysis = analysis(&plan(), bias);
    let claim = analysis.tables[0].rows[1].claim.clone().unwrap();
    assert_eq!(claim.outcome, Outcome::ControlInvalid);
}

#[test]
fn a_server_that_slows_down_in_its_second_half_is_seen() {
    let slow = |block: &mut Block| {
        if block.arm == 1 {
            block.first_half.as_mut().unwrap().cpu_ns = block.server.cpu_ns * 45 / 100;
        }
    };
    check(slow, Level::Noisy, "io_uring is not steady");
}

#[test]
fn a_slow_generator_makes_a_run_invalid() {
    let slow = |block: &mut Block| {
        block.client.invalid.push(Finding {
            cause: "the rate was not reached".to_string(),
            remedy: "lower the rate".to_string(),
        });
    };
    check(slow, Level::Invalid, "the rate was not reached");
    // One block of many is what rounds are for.
    check(
        |block| {
            if block.round == 0 && block.arm == 0 {
                slow(block)
            }
        },
        Level::Noisy,
        "in 1 of 36 blocks",
    );
}

#[test]
fn an_idle_server_makes_the_throughput_a_lower_bound() {
    let limited = |analysis: Analysis| analysis.tables[0].rows[0].client_limited;
    assert!(!limited(analysis(&plan(), |_| {})));
    assert!(limited(analysis(&plan(), |block| block.server.now_ns *= 2)));
}

#[test]
fn failed_requests_make_a_run_invalid() {
    check(
        |block| block.client.failed = 1,
        Level::Invalid,
        "36 requests failed",
    );
}

#[test]
fn disturbed_blocks_make_a_run_noisy() {
    let disturb = |block: &mut Block| {
        block.noise.run_queue_wait_ns = Reading::Value(WINDOW_NS / 2);
    };
    check(disturb, Level::Noisy, "run-queue wait");
}

#[test]
fn a_ledger_that_leaves_much_unexplained_makes_a_run_noisy() {
    let cause = |http_ns_per_request: u64| {
        let mut block = block(0, 0, 6000.0);
        block.pass = Pass::Time;
        let http_ns = block.server.cpu_ns * http_ns_per_request / 6000;
        block.server.figures.stages.ns[Stage::Http as usize] = http_ns.cast_signed();
        let analysis = analyse(&plan(), &[block], 0.0, &Limits::default());
        let mut causes = analysis.verdict.causes.iter();
        causes
            .find(|cause| cause.what.contains("unexplained"))
            .map(|cause| cause.what.clone())
    };
    // A hundredth is of helper threads.
    let said = |part: &str| {
        format!("at saturation, {part} % of epoll's time is unexplained, more than 10 %")
    };
    assert_eq!(cause(5350), None);
    assert_eq!(cause(5310), Some(said("10")));
    assert_eq!(cause(3000), Some(said("49")));
    assert_eq!(cause(6500), None);
    assert_eq!(cause(7140), Some(said("-20")));
}

#[test]
fn a_shared_core_makes_a_run_noisy() {
    let mut plan = plan();
    plan.setting.client_cores = vec![1];
    let verdict = analysis(&plan, |_| {}).verdict;
    assert_eq!(verdict.level, Level::Noisy);
    assert!(
        verdict
            .causes
            .iter()
            .any(|cause| cause.what.contains("share a core"))
    );
}

#[test]
fn the_equal_rate_has_its_own_table() {
    let table = analysis(&plan(), |block| block.load = Load::EqualRate)
        .tables
        .remove(0);
    assert_eq!(table.load, Load::EqualRate);
    assert!(
        !table.rows[0].client_limited,
        "an open loop leaves the server idle on purpose"
    );
}

#[test]
fn a_stored_run_reads_back_and_a_foreign_file_is_refused() {
    let directory = std::env::temp_dir().join(format!("ringlab-store-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("result.json");
    let plan = plan();
    let missing = || Reading::Missing("a test".to_string());
    let build = Build {
        toolchain: missing(),
        allocator: missing(),
        lockfile_hash: missing(),
        wasm_hash: missing(),
    };
    let experiment = Experiment {
        format: FORMAT,
        started_s: 1,
        host: Host::read("/".as_ref(), build),
        analysis: analysis(&plan, |_| {}),
        plan,
        noise_limits: Limits::default(),
        rate: 0.0,
        partial: false,
        until: None,
        blocks: vec![block(0, 0, 4000.0)],
    };
    experiment.store(&path).unwrap();
    let back = Experiment::load(&path).unwrap();
    assert_eq!(back.plan.setting.arms, experiment.plan.setting.arms);
    assert_eq!(
        back.blocks[0].server.cpu_ns,
        experiment.blocks[0].server.cpu_ns
    );

    let refused = |text: &str| {
        std::fs::write(&path, text).unwrap();
        matches!(Experiment::load(&path), Err(StoreError::Read { .. }))
    };
    assert!(refused("{}"));
    assert!(refused("{\"format\": 999}"));
    assert!(refused("not json"));
    let nowhere = experiment.store(&directory.join("no/such/result.json"));
    assert!(matches!(nowhere, Err(StoreError::Write { .. })));
    let left: Vec<_> = std::fs::read_dir(&directory).unwrap().collect();
    assert_eq!(left.len(), 1, "nothing half-written is left");
    std::fs::remove_dir_all(&directory).unwrap();
}
