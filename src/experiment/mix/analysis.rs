//! Blocks in, rows and a verdict out. Pure: the same blocks give the same table.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::super::analysis::carries;
use super::super::checks::{generator, warn};
use super::block::Block;
use super::{Heavy, Plan};
use crate::measure::noise::{Limits, Noise};
use crate::measure::stats::{Control, Level, Verdict};

/// The percentile that the control is of.
const CONTROLLED: f64 = 0.99;

/// What a mix says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Analysis {
    /// Step by step, an arm a row, the control last.
    pub rows: Vec<Row>,
    /// What the A/A control allows, of the light requests' 99th percentile; `Err` with the reason
    /// when there is none.
    pub control: Result<Control, String>,
    /// How far it may be trusted.
    pub verdict: Verdict,
}

/// One arm at one step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The arm's place among the runners.
    pub arm: usize,
    /// Its label.
    pub label: String,
    /// Its I/O model.
    pub model: String,
    /// Its policy.
    pub policy: String,
    /// Beside what the light requests ran; `None`: beside nothing.
    pub heavy: Option<Heavy>,
    /// Blocks measured, and how many of them were disturbed.
    pub blocks: usize,
    /// See `blocks`.
    pub marked: usize,
    /// Blocks in which the generator's audit failed: it was late itself, and latencies are upper bounds.
    pub late: usize,
    /// Light requests that fell due in the windows.
    pub planned: u64,
    /// Of those, could not be sent, since all connections waited: latencies are lower bounds.
    pub unsent: u64,
    /// Light and heavy requests without a right answer.
    pub failed: u64,
    /// Latency of the light requests from the planned send, in nanoseconds, from all blocks'
    /// histograms together; `None` where they are too few.
    pub latency_ns_p50: Option<u64>,
    /// See `latency_ns_p50`.
    pub latency_ns_p99: Option<u64>,
    /// See `latency_ns_p50`.
    pub latency_ns_p999: Option<u64>,
    /// The longest; `None` without any.
    pub latency_ns_max: Option<u64>,
    /// Heavy requests answered per second, those at the windows' edges in part.
    pub heavy_per_s: Option<f64>,
    /// CPU time of the server that neither handler used, from the load's begin to the last answer, in
    /// percent of a core: I/O, HTTP, switches, ticks, hand-offs.
    pub other_cpu_percent: f64,
    /// What that is known to, in the same: it is a difference, of which what the heavy handlers used was
    /// timed by itself.
    pub other_cpu_error_percent: f64,
    /// Of that, the interruptions that end slices and deadlines; `None` where nobody knows what one
    /// takes.
    pub ticks_percent: Option<f64>,
    /// What each of these takes, in nanoseconds, as the blocks' servers found it, each for itself: on the
    /// average of them.
    #[serde(default)]
    pub tick_ns: Option<u64>,
    /// What a request held when it was suspended first, in bytes; `None` where none was.
    pub held_bytes: Option<u64>,
    /// CPU time of the server, in percent of a core.
    pub cpu_percent: f64,
}

/// Draws the conclusions.
pub fn analyse(plan: &Plan, blocks: &[Block], limits: &Limits) -> Analysis {
    let mut verdict = Verdict::default();
    let runners = plan.setting.runners();
    let rows = plan
        .steps()
        .into_iter()
        .enumerate()
        .flat_map(|(step, heavy)| {
            let of_step = move |block: &&Block| block.step == step;
            runners.iter().enumerate().filter_map(move |(arm, runner)| {
                let own: Vec<&Block> = blocks
                    .iter()
                    .filter(of_step)
                    .filter(|b| b.arm == arm)
                    .collect();
                (!own.is_empty()).then(|| Row {
                    arm,
                    label: runner.label.clone(),
                    model: runner.model.clone(),
                    policy: runner.offload.clone(),
                    heavy,
                    ..row(&own)
                })
            })
        });
    let rows: Vec<Row> = rows.collect();
    let control = control(plan, blocks, &mut verdict);
    check(plan, blocks, &rows, limits, &mut verdict);
    Analysis {
        rows,
        control,
        verdict,
    }
}

/// Without the names.
fn row(own: &[&Block]) -> Row {
    let sum = |figure: fn(&Block) -> u64| own.iter().map(|block| figure(block)).sum::<u64>();
    let wall_ns = sum(|block| block.server.now_ns).max(1) as f64;
    let cpu_ns = sum(|block| block.server.cpu_ns) as f64;
    let ticks_ns: Option<u64> = own.iter().map(|block| block.server.ticks_ns()).sum();
    let tick_ns: Option<u64> = own.iter().map(|block| block.server.tick_ns).sum();
    let whole_ns = sum(|block| block.whole.wall_ns).max(1) as f64;
    let heavy_ns: f64 = own.iter().map(|block| block.heavy_ns()).sum();
    let heavy_error = own.iter().map(|block| block.spin_step_error);
    let heavy_error = heavy_error.fold(0.0, f64::max);
    let suspended = sum(|block| block.server.figures.served.half_run);
    let held_bytes = sum(|block| block.server.figures.served.held_bytes);
    let mut latency = Histogram::<u64>::new(3).expect("three digits are within range");
    for block in own {
        // Percentiles are of all blocks' answers together, never averaged.
        latency
            .add(&block.light.latency_ns)
            .expect("it grows as needed");
    }
    let percentile = |q: f64| carries(&latency, q).then(|| latency.value_at_quantile(q));
    let heavy: Vec<_> = own
        .iter()
        .filter_map(|block| block.heavy.as_ref())
        .collect();
    let done: f64 = heavy.iter().map(|heavy| heavy.done).sum();
    Row {
        arm: 0,
        label: String::new(),
        model: String::new(),
        policy: String::new(),
        heavy: None,
        blocks: own.len(),
        marked: own.iter().filter(|block| !block.marks.is_empty()).count(),
        late: own.iter().filter(|b| !b.light.invalid.is_empty()).count(),
        planned: sum(|block| block.light.planned),
        unsent: sum(|block| block.light.unsent),
        failed: sum(|block| block.light.failed + block.heavy.as_ref().map_or(0, |h| h.failed)),
        latency_ns_p50: percentile(0.5),
        latency_ns_p99: percentile(0.99),
        latency_ns_p999: percentile(0.999),
        latency_ns_max: (!latency.is_empty()).then(|| latency.max()),
        heavy_per_s: (!heavy.is_empty()).then(|| done * 1e9 / wall_ns),
        other_cpu_percent: (sum(|block| block.whole.cpu_ns) as f64 - heavy_ns) / whole_ns * 100.0,
        other_cpu_error_percent: heavy_ns * heavy_error / whole_ns * 100.0,
        ticks_percent: ticks_ns.map(|ns| ns as f64 / wall_ns * 100.0),
        tick_ns: tick_ns.map(|ns| ns / own.len().max(1) as u64),
        held_bytes: held_bytes.checked_div(suspended),
        cpu_percent: cpu_ns / wall_ns * 100.0,
    }
}

/// The arm that ran twice: the light requests' 99th percentiles, paired within a round and step.
fn control(plan: &Plan, blocks: &[Block], verdict: &mut Verdict) -> Result<Control, String> {
    let steps = plan.steps().len();
    let column = |arm: usize| {
        let mut column = vec![None; plan.rounds * steps];
        for block in blocks.iter().filter(|block| block.arm == arm) {
            let latency = &block.light.latency_ns;
            let p99 = || latency.value_at_quantile(CONTROLLED) as f64;
            column[block.round * steps + block.step] = carries(latency, CONTROLLED).then(p99);
        }
        column
    };
    let control = Control::new(
        &column(plan.setting.control_of),
        &column(plan.setting.arms.len()),
    );
    match &control {
        Ok(control) if !control.valid() => verdict.add(
            Level::Invalid,
            format!(
                "the A/A control sees a difference between an arm and itself: of the light requests' p99, its 99 % interval {:.2} to {:.2} leaves out 1",
                control.interval_99.low, control.interval_99.high
            ),
            "run it again on a quieter machine, with more --rounds",
        ),
        Ok(control) if control.floor > 2.0 => verdict.add(
            Level::Noisy,
            format!(
                "the A/A control's p99 is known to a factor of {:.1} only: no smaller effect can be claimed",
                control.floor
            ),
            "add --rounds, or quiet the machine",
        ),
        Ok(_) => {}
        Err(why) => verdict.add(
            Level::Noisy,
            format!("there is no A/A control of the light requests' p99: {why}"),
            "ask for a longer --window, which has more light requests, or more --rounds",
        ),
    }
    control.map_err(|error| error.to_string())
}

/// What else makes a mix less than it seems.
fn check(plan: &Plan, blocks: &[Block], rows: &[Row], limits: &Limits, verdict: &mut Verdict) {
    let noises: Vec<Noise> = blocks.iter().map(|block| block.noise.clone()).collect();
    if !noises.is_empty() {
        verdict.merge(limits.verdict(&noises));
    }
    let found: Vec<_> = blocks
        .iter()
        .map(|block| block.light.invalid.first())
        .collect();
    generator(&found, "", verdict);
    for row in rows.iter().filter(|row| row.failed > 0) {
        verdict.add(
            Level::Invalid,
            format!(
                "{} requests of {} failed or were answered otherwise than expected",
                row.failed, row.label
            ),
            "run `ringlab serve` and `ringlab load` by hand to see which",
        );
    }
    warn(
        &plan.setting.warnings,
        plan.setting.shares_a_core(),
        verdict,
    );
}
