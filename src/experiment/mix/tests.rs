//! What is asked for, and each check made to fail once, on blocks made up for it.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::super::ExperimentError;
use super::super::block::Finding;
use super::super::plan::arms;
use super::super::setting::Setting;
use super::super::tests::{block as of_cost, report};
use super::analysis::{Analysis, analyse};
use super::block::{Block, HeavyDone, Light, Whole};
use super::result::as_pairs;
use super::run::reaching_its_rate;
use super::{Heavy, HeavyError, Plan, Share, connections};
use crate::layout::Layout;
use crate::measure::noise::Limits;
use crate::measure::reading::Reading;
use crate::measure::stats::Level;
use crate::models::find;
use crate::offload::Policy;
use crate::sandbox::Isolation;

const ROUNDS: usize = 3;
const WINDOW_NS: u64 = 1_000_000_000;
/// So many steps of `spin` in a made-up heavy request of 100 ms, at 2 ns each.
const SPIN_STEPS: u64 = 50_000_000;

#[test]
fn heavy_requests_are_read_and_refused_in_words() {
    for (text, ms, share) in [
        ("1ms:25%", 1, Share::Percent(25.0)),
        ("100ms:8", 100, Share::Always(8)),
        ("2s:100%", 2000, Share::Percent(100.0)),
    ] {
        let heavy: Heavy = text.parse().expect(text);
        assert_eq!(heavy, Heavy::new(ms, share));
        assert_eq!(heavy.to_string(), text);
    }
    let refused = |text: &str| text.parse::<Heavy>().expect_err(text);
    for text in [
        "",
        "10ms",
        "10:50%",
        "ten:50%",
        "10ms:",
        "10ms:half",
        "10ms:-1",
        "10ms:x%",
    ] {
        assert_eq!(refused(text), HeavyError::Form(text.to_string()), "{text}");
    }
    for text in ["0ms:50%", "99us:50%", "11s:50%", "10s:7"] {
        assert!(matches!(refused(text), HeavyError::Length(_)), "{text}");
    }
    for text in [
        "1ms:0%", "1ms:101%", "1ms:NaN%", "1ms:-5%", "1ms:0", "1ms:65",
    ] {
        assert!(matches!(refused(text), HeavyError::Share(_)), "{text}");
    }
}

#[test]
fn light_requests_have_as_many_connections_as_may_wait() {
    let always = [Heavy::new(100, Share::Always(8))];
    assert_eq!(connections(1000.0, &always, 1), 2000);
    assert_eq!(connections(200.0, &always, 1), 400);
    assert_eq!(connections(1.0, &always, 1), 64, "some in any case");
    assert_eq!(connections(1e6, &always, 2), 5000, "bounded");
    assert_eq!(connections(1000.0, &[], 1), 64);
}

fn plan() -> Plan {
    Plan {
        setting: Setting {
            arms: arms(
                &[find("epoll").unwrap()],
                &[Isolation::Reuse],
                &[Layout::Threads],
                &[Policy::Inline, Policy::TimeSlice],
                &["hello".to_string()],
            ),
            control_of: 0,
            left_out: Vec::new(),
            warnings: Vec::new(),
            server_cores: vec![1],
            client_cores: vec![0],
        },
        light: None,
        rate: 2000.0,
        connections: 64,
        heavy: vec![Heavy::new(100, Share::Always(8))],
        rounds: ROUNDS,
        warm_up: Duration::from_millis(100),
        window: Duration::from_nanos(WINDOW_NS),
        seed: 1,
    }
}

/// 2000 light requests, and beside them in step 1 nine heavy ones and seventeen in all: of the core, 85 %
/// is theirs and 5 % is neither's.
fn block(arm: usize, step: usize, round: usize) -> Block {
    let mut latency_ns = Histogram::new(3).unwrap();
    let wobble = 1.0 + 0.05 * ((round * 7 + arm * 5 + step * 3) as f64).sin();
    let slow = if step == 1 && arm != 1 { 800 } else { 1 };
    latency_ns
        .record_n((100_000.0 * wobble) as u64 * slow, 2000)
        .unwrap();
    let heavy = (step == 1).then(|| HeavyDone {
        spin_steps: SPIN_STEPS,
        sent: 17,
        answered: 17,
        failed: 0,
        done: 9.0,
        latency_ns: Histogram::new(3).unwrap(),
    });
    let cpu_ns = if step == 1 { 950_000_000 } else { 50_000_000 };
    let of_cost = of_cost(arm, round, 4000.0);
    Block {
        arm,
        step,
        round,
        server: report(cpu_ns, 2000, WINDOW_NS),
        whole: Whole {
            wall_ns: 2 * WINDOW_NS,
            cpu_ns: if step == 1 {
                1_800_000_000
            } else {
                100_000_000
            },
        },
        spin_step_ns: 2.0,
        spin_step_error: 0.01 * round as f64,
        light: Light {
            sent: 2200,
            answered: 2200,
            failed: 0,
            planned: 2000,
            unsent: 0,
            completed: 2000,
            pacing_error_ns_p99: Some(20_000),
            invalid: Vec::new(),
            latency_ns,
        },
        heavy,
        noise: of_cost.noise,
        marks: Vec::new(),
        memory_bytes: Reading::Value(8 << 20),
    }
}

fn analysis(change: impl Fn(&mut Block)) -> Analysis {
    let mut blocks = Vec::new();
    for round in 0..ROUNDS {
        for (step, arm) in (0..2).flat_map(|step| (0..3).map(move |arm| (step, arm))) {
            let mut block = block(arm, step, round);
            change(&mut block);
            blocks.push(block);
        }
    }
    analyse(&plan(), &blocks, &Limits::default())
}

fn check(change: impl Fn(&mut Block), level: Level, what: &str) {
    let Analysis { verdict, .. } = analysis(change);
    assert_eq!(verdict.level, level, "{verdict:?}");
    let said = verdict.causes.iter().any(|cause| cause.what.contains(what));
    assert!(
        said || what.is_empty(),
        "{what:?} is not said in {verdict:?}"
    );
}

#[test]
fn a_row_has_all_blocks_and_what_neither_handler_used() {
    let analysis = analysis(|_| {});
    let labels: Vec<_> = analysis.rows.iter().map(|row| &*row.label).collect();
    let once = ["inline", "time-slice", "inline (control)"];
    assert_eq!(labels, [once, once].concat());
    let (alone, beside) = (&analysis.rows[0], &analysis.rows[3]);
    assert_eq!((alone.heavy, alone.heavy_per_s), (None, None));
    assert_eq!((alone.blocks, alone.planned), (ROUNDS, 6000));
    assert!((alone.other_cpu_percent - 5.0).abs() < 1e-6);
    assert!((beside.other_cpu_percent - 5.0).abs() < 1e-6, "{beside:?}");
    // Heavy requests at the windows' edges make no difference to it.
    assert!((beside.cpu_percent - 95.0).abs() < 1e-6, "{beside:?}");
    // It is known to the worst of what its blocks' handlers were timed to.
    assert_eq!(alone.other_cpu_error_percent, 0.0);
    assert!(
        (beside.other_cpu_error_percent - 1.7).abs() < 1e-6,
        "{beside:?}"
    );
    assert_eq!((alone.held_bytes, beside.held_bytes), (None, None));
    assert!((beside.heavy_per_s.unwrap() - 9.0).abs() < 1e-6);
    assert!(beside.latency_ns_p99.unwrap() > 70_000_000);
    assert!(analysis.rows[4].latency_ns_p99.unwrap() < 120_000);
    assert_eq!(
        beside.latency_ns_p999, None,
        "6 000 answers do not carry it"
    );
    assert!(beside.latency_ns_max >= beside.latency_ns_p99);
}

#[test]
fn what_a_suspended_request_holds_is_the_mean_of_all() {
    let analysis = analysis(|block| {
        let served = &mut block.server.figures.served;
        served.half_run = block.round as u64;
        served.held_bytes = 100_000 * served.half_run;
    });
    let held = analysis.rows.iter().map(|row| row.held_bytes);
    assert!(held.eq([Some(100_000); 6]), "{:?}", analysis.rows);
}

#[test]
fn ticks_are_priced_where_they_are_and_unknown_where_they_have_no_price() {
    let analysis = analysis(|block| {
        block.server.ticks = if (block.arm, block.step) == (1, 1) {
            2000
        } else {
            0
        };
        // Each server finds its own.
        let found = 12_000 + 1000 * (block.round as u64 % 3) - 1000;
        block.server.tick_ns = (block.arm < 2).then_some(found);
    });
    let each: Vec<_> = analysis.rows.iter().map(|row| row.tick_ns).collect();
    let (known, unknown) = (Some(12_000), None);
    assert_eq!(each, [known, known, unknown, known, known, unknown]);
    let percent: Vec<_> = analysis.rows.iter().map(|row| row.ticks_percent).collect();
    let none = Some(0.0);
    assert_eq!(percent, [none, none, none, none, Some(2.4), none]);
    let unpriced = self::analysis(|block| block.server.ticks = 1);
    assert!(unpriced.rows.iter().all(|row| row.ticks_percent.is_none()));
}

#[test]
fn a_sound_mix_is_valid_however_late_the_answers_are() {
    check(|_| {}, Level::Valid, "");
    check(|block| block.light.completed = 10, Level::Valid, "");
    assert!(analysis(|_| {}).control.unwrap().valid());
}

#[test]
fn each_check_fails_once() {
    let biased = |block: &mut Block| {
        if block.arm == 2 {
            let p99 = block.light.latency_ns.max() * 3;
            block.light.latency_ns.clear();
            block.light.latency_ns.record_n(p99, 2000).unwrap();
        }
    };
    check(biased, Level::Invalid, "A/A control sees a difference");
    let few = |block: &mut Block| {
        block.light.latency_ns.clear();
        block.light.latency_ns.record_n(100_000, 900).unwrap();
    };
    check(few, Level::Noisy, "no A/A control");
    let late = |block: &mut Block| {
        block.light.invalid.push(Finding {
            cause: "sent late".to_string(),
            remedy: "stop the others".to_string(),
        });
    };
    check(
        late,
        Level::Invalid,
        "in 18 of 18 blocks; the first: sent late",
    );
    let once = |block: &mut Block| {
        if (block.arm, block.step, block.round) == (1, 1, 1) {
            late(block);
        }
    };
    check(once, Level::Noisy, "in 1 of 18 blocks");
    let late_in: Vec<_> = analysis(once).rows.iter().map(|row| row.late).collect();
    assert_eq!(late_in, [0, 0, 0, 0, 1, 0]);
    check(
        |block| block.light.failed = 1,
        Level::Invalid,
        "3 requests of inline failed",
    );
    let heavy = |block: &mut Block| {
        if let Some(heavy) = &mut block.heavy {
            heavy.failed = 2;
        }
    };
    check(heavy, Level::Invalid, "6 requests of time-slice failed");
    let waits = |block: &mut Block| {
        block.noise.run_queue_wait_ns = Reading::Value(WINDOW_NS / 2);
    };
    check(waits, Level::Noisy, "run-queue wait");
}

/// How many blocks it takes when those of the first step complete so many of 2000, and how that ends.
fn tries(step: usize, answered: u64, completed: &[u64]) -> (usize, Result<u64, ExperimentError>) {
    let mut tried = 0;
    let reached = reaching_its_rate(&plan(), &AtomicBool::new(false), || {
        let mut block = block(0, step, 0);
        block.light.answered = answered;
        block.light.completed = completed[tried];
        tried += 1;
        Ok(block)
    });
    let completed = |block: Option<Block>| block.expect("not stopped").light.completed;
    (tried, reached.map(completed))
}

/// One stall of the machine refused a whole run, as if the rate were too high.
#[test]
fn a_rate_is_too_high_when_no_try_reaches_it() {
    assert!(matches!(tries(0, 2200, &[1900]), (1, Ok(1900))));
    let stalled = tries(0, 2200, &[1200, 1799, 1800]);
    assert!(matches!(stalled, (3, Ok(1800))), "{stalled:?}");
    let (tried, refused) = tries(0, 2200, &[1200; 9]);
    let said = refused.expect_err("too many").to_string();
    assert_eq!(tried, 3);
    assert!(said.contains("inline answered 1200 of 2000"), "{said}");
    // Beside heavy ones any number may be late, and a handler that fails does so at once.
    assert!(matches!(tries(1, 2200, &[0]), (1, Ok(0))));
    let fails = tries(0, 0, &[0]);
    assert!(
        matches!(fails, (1, Err(ExperimentError::Answer { .. }))),
        "{fails:?}"
    );
}

#[test]
fn a_block_that_was_cut_off_is_none() {
    let stopped = reaching_its_rate(&plan(), &AtomicBool::new(true), || Ok(block(0, 0, 0)));
    assert!(stopped.expect("no failure").is_none());
}

#[test]
fn a_histogram_survives_its_pairs() {
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Kept(#[serde(with = "as_pairs")] Histogram<u64>);
    let mut histogram = Histogram::new(3).unwrap();
    for value in [0, 1, 1, 77_777, 812_345_678] {
        histogram.record(value).unwrap();
    }
    let json = serde_json::to_string(&Kept(histogram.clone())).unwrap();
    assert!(json.starts_with("[[0,1],[1,2],"), "{json}");
    let Kept(back) = serde_json::from_str(&json).unwrap();
    assert_eq!(back, histogram);
}
