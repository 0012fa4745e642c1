//! Blocks in, rows with intervals and a verdict out. Pure: the same blocks give the same sentence.

use std::collections::HashMap;
use std::ops::Range;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::block::{Block, Pass};
use super::checks;
use super::counts::{self, CountColumn};
use super::latency::{self, Latency};
use super::ledger::{self, Ledger};
use super::plan::{Arm, Load, Plan, ProgramCounts};
use crate::measure::noise::Limits;
use crate::measure::reading::Reading;
use crate::measure::stats::{
    Claim, Control, Level, Ratio, Verdict, claim, half_width_percent, holm, mean, median,
    paired_log_ratio, steadiness,
};

/// A server whose cores were idle for more than this part was not the limit of a closed loop.
const IDLE_LIMIT: f64 = 0.05;

/// What an experiment says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Analysis {
    /// A table for each load that has blocks.
    pub tables: Vec<LoadTable>,
    /// Where the time goes, for each load that was recorded.
    pub ledgers: Vec<Ledger>,
    /// What was done, at saturation, an arm a column; empty if it was not counted.
    pub counts: Vec<CountColumn>,
    /// How far it may be trusted.
    pub verdict: Verdict,
}

/// All arms under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadTable {
    /// Which load.
    pub load: Load,
    /// Requests per second offered, at the equal rate.
    pub rate: Option<f64>,
    /// An arm a row, the control last.
    pub rows: Vec<Row>,
    /// What the A/A control allows; `Err` with the reason when there is none.
    pub control: Result<Control, String>,
    /// The arms' latency against each other, under an offered rate. Older results have none.
    #[serde(default)]
    pub latency: Option<Latency>,
}

/// One arm under one load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The arm.
    pub label: String,
    /// Blocks measured, and how many of them were disturbed.
    pub blocks: usize,
    /// See `blocks`.
    pub marked: usize,
    /// Server CPU per request, in nanoseconds: the median over the blocks.
    pub cpu_ns: Option<f64>,
    /// Against the first arm; of the control: against its twin.
    pub cpu_ratio: Result<Ratio, String>,
    /// What may be said of that ratio. `None` for the first arm and the control.
    pub claim: Option<Claim>,
    /// Requests per second: the median over the blocks.
    pub throughput: f64,
    /// The server's cores were idle, so the throughput is a lower bound of what it could do.
    pub client_limited: bool,
    /// Latency, in nanoseconds, from all blocks' histograms together.
    pub latency_ns_p50: Option<u64>,
    /// See `latency_ns_p50`.
    pub latency_ns_p99: Option<u64>,
    /// System calls per request by the program's count, where it has all of them.
    pub system_calls: Option<f64>,
    /// The same where the program counts all of its own calls, and others make more.
    #[serde(default)]
    pub system_calls_at_least: Option<f64>,
    /// Context switches per request, of both kinds.
    pub switches: f64,
    /// System calls by name and ring figures, per request.
    pub counts: Vec<(String, f64)>,
    /// Non-idle time of all cores per request, in nanoseconds, the generator's included.
    pub machine_ns: Option<f64>,
    /// Memory of the server at the end of a window, in bytes: PSS, all its processes together, the
    /// median over the blocks.
    #[serde(default = "no_memory")]
    pub memory_bytes: Reading<u64>,
    /// Second half over first half of the blocks, in percent off 1, when it is unsteady.
    pub drift_percent: Option<f64>,
}

/// Draws the conclusions.
pub fn analyse(plan: &Plan, blocks: &[Block], rate: f64, limits: &Limits) -> Analysis {
    let mut verdict = Verdict::default();
    let ledgers = ledger::ledgers(plan, blocks);
    checks::check_unexplained(&ledgers, &mut verdict);
    let counts = counts::counts(plan, blocks, &mut verdict);
    // Blocks with an observer in them say where time goes, not how much there is.
    let plain: Vec<Block> = blocks
        .iter()
        .filter(|block| block.pass == Pass::Plain)
        .cloned()
        .collect();
    let blocks = plain.as_slice();
    let mut tables: Vec<LoadTable> = Load::ALL
        .into_iter()
        .filter(|load| blocks.iter().any(|block| block.load == *load))
        .map(|load| table(plan, blocks, load, rate, &mut verdict))
        .collect();
    claim_all(&mut tables, plan);
    checks::check(plan, blocks, limits, &mut verdict);
    Analysis {
        tables,
        ledgers,
        counts,
        verdict,
    }
}

/// The widest interval at saturation, as ± percent; `None` if there is none yet.
pub fn widest_percent(plan: &Plan, blocks: &[Block]) -> Option<f64> {
    let column = |arm| column(blocks, Load::Saturation, arm, Block::cpu_ns_per_request);
    (1..plan.setting.arms.len())
        .map(|arm| paired_log_ratio(&column(arm), &column(0), 0.95).ok())
        .map(|ratio| ratio.as_ref().map(half_width_percent))
        .try_fold(0.0_f64, |widest, percent| Some(widest.max(percent?)))
}

/// A figure of one arm, a place for each round, empty where the round has none.
pub(super) fn column(
    blocks: &[Block],
    load: Load,
    arm: usize,
    figure: impl Fn(&Block) -> Option<f64>,
) -> Vec<Option<f64>> {
    let of_load = || blocks.iter().filter(|block| block.load == load);
    let rounds = of_load().map(|block| block.round + 1).max().unwrap_or(0);
    let mut column = vec![None; rounds];
    for block in of_load().filter(|block| block.arm == arm) {
        column[block.round] = figure(block);
    }
    column
}

fn table(plan: &Plan, blocks: &[Block], load: Load, rate: f64, verdict: &mut Verdict) -> LoadTable {
    let cpu = |arm| column(blocks, load, arm, Block::cpu_ns_per_request);
    let runners = plan.setting.runners();
    let twin = runners.len() - 1;
    let rows = runners
        .iter()
        .enumerate()
        .map(|(arm, runner)| {
            let base = if arm == twin {
                plan.setting.control_of
            } else {
                0
            };
            let own: Vec<&Block> = blocks
                .iter()
                .filter(|block| block.load == load && block.arm == arm)
                .collect();
            let mut row = row(plan, &own, runner, load);
            row.cpu_ratio =
                paired_log_ratio(&cpu(arm), &cpu(base), 0.95).map_err(|error| error.to_string());
            row.drift_percent = drift(blocks, load, arm, &runner.label, verdict);
            row
        })
        .collect();
    let control =
        Control::new(&cpu(plan.setting.control_of), &cpu(twin)).map_err(|error| error.to_string());
    match &control {
        Ok(control) if !control.valid() => verdict.add(
            Level::Invalid,
            format!(
                "at {}, the A/A control sees a difference between an arm and itself: its 99 % interval {:.3} to {:.3} leaves out 1",
                load.name(), control.interval_99.low, control.interval_99.high
            ),
            "run it again on a quieter machine, with more --rounds",
        ),
        Ok(control) if control.floor > 1.03 => verdict.add(
            Level::Noisy,
            format!(
                "at {}, the A/A control is ±{:.1} %, wider than 3 %: no smaller effect can be claimed",
                load.name(), (control.floor - 1.0) * 100.0
            ),
            "add --rounds, or quiet the machine",
        ),
        Ok(_) => {}
        Err(why) => verdict.add(
            Level::Noisy,
            format!("at {}, there is no A/A control: {why}", load.name()),
            "ask for at least 2 --rounds",
        ),
    }
    LoadTable {
        load,
        rate: (load == Load::EqualRate).then_some(rate),
        rows,
        control,
        latency: latency::latency(plan, blocks, load, verdict),
    }
}

fn row(plan: &Plan, own: &[&Block], arm: &Arm, load: Load) -> Row {
    let requests: u64 = own.iter().map(|block| block.requests()).sum();
    let per_request = |total: u64| total as f64 / requests.max(1) as f64;
    let sum = |figure: &dyn Fn(&Block) -> u64| own.iter().map(|block| figure(block)).sum::<u64>();
    let mut latency = Histogram::<u64>::new(3).expect("three digits are within range");
    for block in own {
        // Percentiles are of all blocks' answers together, never averaged.
        latency.add(&block.latency).expect("histograms of one kind");
    }
    let percentile = |q: f64| carries(&latency, q).then(|| latency.value_at_quantile(q));
    let medians = |figure: &dyn Fn(&Block) -> Option<f64>| {
        median(
            &own.iter()
                .filter_map(|block| figure(block))
                .collect::<Vec<_>>(),
        )
    };
    let cores = plan.setting.server_cores.len();
    let busy = mean(
        &own.iter()
            .map(|block| block.server_busy(cores))
            .collect::<Vec<_>>(),
    );
    let mut counts: HashMap<&str, u64> = HashMap::new();
    let mut names = Vec::new();
    for block in own {
        for (name, value) in block.server.figures.io.named() {
            if !counts.contains_key(name) {
                names.push(name);
            }
            *counts.entry(name).or_default() += value;
        }
    }
    let counted = arm.program_counts();
    let calls = per_request(sum(&|block| block.server.figures.io.system_calls()));
    Row {
        label: arm.label.clone(),
        blocks: own.len(),
        marked: own.iter().filter(|block| !block.marks.is_empty()).count(),
        cpu_ns: medians(&Block::cpu_ns_per_request),
        cpu_ratio: Err("not computed".to_string()),
        claim: None,
        throughput: medians(&|block| Some(block.throughput())).unwrap_or(0.0),
        client_limited: load == Load::Saturation
            && arm.has_clients()
            && busy.is_some_and(|busy| busy < 1.0 - IDLE_LIMIT),
        latency_ns_p50: percentile(0.5),
        latency_ns_p99: percentile(0.99),
        system_calls: (counted == ProgramCounts::All).then_some(calls),
        system_calls_at_least: matches!(counted, ProgramCounts::AllBut(_)).then_some(calls),
        switches: per_request(sum(&|block| {
            block.server.voluntary_switches + block.server.involuntary_switches
        })),
        counts: names
            .into_iter()
            .filter(|name| counts[name] > 0)
            .map(|name| (name.to_string(), per_request(counts[name])))
            .collect(),
        machine_ns: medians(&|block| block.per_request(*block.machine_ns.value()? as f64)),
        memory_bytes: memory(own),
        drift_percent: None,
    }
}

/// The median over the blocks, or why one of them has none.
fn memory(own: &[&Block]) -> Reading<u64> {
    let mut all = Vec::new();
    for block in own {
        match &block.memory_bytes {
            Reading::Value(bytes) => all.push(*bytes as f64),
            missing => return missing.clone(),
        }
    }
    median(&all).map_or_else(no_memory, |bytes| Reading::Value(bytes as u64))
}

/// Results of before memory was asked for have none.
fn no_memory() -> Reading<u64> {
    Reading::missing("not asked for")
}

/// A percentile needs at least ten answers beyond it.
pub(super) fn carries(latency: &Histogram<u64>, q: f64) -> bool {
    // Rounding: 1000 × (1 − 0.99) is a hair below 10.
    latency.len() as f64 * (1.0 - q) >= 10.0 - 1e-6
}

fn drift(
    blocks: &[Block],
    load: Load,
    arm: usize,
    label: &str,
    verdict: &mut Verdict,
) -> Option<f64> {
    let first = column(blocks, load, arm, |block| block.halves().0);
    let second = column(blocks, load, arm, |block| block.halves().1);
    let steadiness = steadiness(&first, &second)
        .ok()
        .filter(|steadiness| !steadiness.steady)?;
    let percent = (steadiness.drift.ratio - 1.0) * 100.0;
    verdict.add(
        Level::Noisy,
        format!(
            "at {}, {label} is not steady: the second half of its blocks costs {percent:+.1} % per request",
            load.name()
        ),
        "give it a longer --warm-up, or look for what slows it down",
    );
    Some(percent)
}

/// Says of every arm but the first and the control what may be claimed, corrected for their number:
/// cost and latency under all loads are one family.
fn claim_all(tables: &mut [LoadTable], plan: &Plan) {
    let mut judged: Vec<Judged<'_>> = tables
        .iter_mut()
        .flat_map(|table| judged(table, 1..plan.setting.arms.len()))
        .collect();
    let p_values: Vec<f64> = judged.iter().map(|row| row.ratio.p_value).collect();
    for (row, adjusted) in judged.iter_mut().zip(holm(&p_values)) {
        *row.claim = row
            .control
            .map(|control| claim(&row.ratio, &control, adjusted));
    }
}

/// A ratio of which something is to be said, and where that goes.
struct Judged<'a> {
    ratio: Ratio,
    control: Option<Control>,
    claim: &'a mut Option<Claim>,
}

/// Those of `arms` that have a ratio.
fn judged(table: &mut LoadTable, arms: Range<usize>) -> Vec<Judged<'_>> {
    let control = table.control.as_ref().ok().copied();
    let cost = table.rows[arms.clone()].iter_mut().filter_map(move |row| {
        Some(Judged {
            ratio: *row.cpu_ratio.as_ref().ok()?,
            control,
            claim: &mut row.claim,
        })
    });
    let latency = table.latency.iter_mut().flat_map(|latency| {
        let control = latency.control.as_ref().ok().copied();
        latency.rows[arms.clone()]
            .iter_mut()
            .filter_map(move |row| {
                Some(Judged {
                    ratio: *row.ratio.as_ref().ok()?,
                    control,
                    claim: &mut row.claim,
                })
            })
    });
    cost.chain(latency).collect()
}
