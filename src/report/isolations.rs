//! What each isolation costs and buys, one beside the other: a table and a sentence each.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::counts::figure;
use super::terminal::{wrap, wrap_from};
use super::units::microseconds;
use crate::experiment::analysis::Analysis;
use crate::experiment::counts::{CountRow, RESET_BYTES};
use crate::experiment::plan::{Load, Plan};
use crate::measure::probe::Stage;
use crate::sandbox::Isolation;

/// Per request at saturation: CPU time, system calls, page faults, bytes put back.
pub(super) fn isolations(plan: &Plan, analysis: &Analysis) -> String {
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    let reset_bytes = RESET_BYTES.replacen(' ', "\n", 1);
    shown.set_header([
        "per request,\nat saturation",
        "CPU,\nµs",
        "of that,\nsandbox, ns",
        "system\ncalls",
        "page\nfaults",
        &reset_bytes,
    ]);
    let absent = || "n/a".to_string();
    let rows = analysis.tables.first().map_or(&[][..], |table| &table.rows);
    for arm in &plan.setting.arms {
        let row = rows.iter().find(|row| row.label == arm.label);
        let counted = analysis
            .counts
            .iter()
            .find(|column| column.label == arm.label);
        let count = |name: &str| {
            let row = counted?.rows.iter().find(|row| row.name == name)?;
            program_or_kernel(row)
        };
        // What was not put back has no row.
        let reset = counted.map(|_| count(RESET_BYTES).unwrap_or(0.0));
        let cell = |value: Option<f64>| value.map_or_else(absent, figure);
        shown.add_row([
            arm.label.clone(),
            row.and_then(|row| row.cpu_ns)
                .map_or_else(absent, microseconds),
            sandbox_ns(analysis, &arm.label).map_or_else(absent, |ns| format!("{ns:.0}")),
            cell(
                row.and_then(|row| row.system_calls)
                    .or_else(|| count("system calls")),
            ),
            cell(count("minor faults")),
            cell(reset),
        ]);
    }
    for (nth, column) in shown.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if nth > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    // The last column's padding is no text.
    let shown = shown.to_string();
    let shown: Vec<_> = shown.lines().map(str::trim_end).collect();
    let note = match plan.setting.server_cores.len() {
        1 => "With one shard, on one core; more of them: `--cores 0,1`.".to_string(),
        shards => format!("With {shards} shards, one on each core; one alone: `--cores 0`."),
    };
    let note = format!("{note} {NOTE}");
    let mut text = format!("Isolations\n\n{}\n\n{}\n\n", shown.join("\n"), wrap(&note));
    for isolation in Isolation::ALL {
        let name = isolation.to_string();
        if plan.setting.arms.iter().any(|arm| arm.isolation == name) {
            let sentence = format!("{name}: {}", isolation.sentence());
            let _ = writeln!(text, "{}", wrap_from("- ", &sentence));
        }
    }
    text
}

/// Of the rows of the time ledger: what they are in.
const SANDBOX: [Stage; 7] = [
    Stage::Guest,
    Stage::Sandbox,
    Stage::Copy,
    Stage::Map,
    Stage::Protect,
    Stage::Advise,
    Stage::PageFaults,
];
const NOTE: &str = "Sandbox: the handler's code, the way in and out, copies, calls for memory and page \
     faults, by the ledger of time.";

/// What a request is in the sandbox for, with the handler, in nanoseconds of CPU at saturation; `None` where
/// time was not recorded.
fn sandbox_ns(analysis: &Analysis, label: &str) -> Option<f64> {
    let mut ledgers = analysis.ledgers.iter();
    let ledger = ledgers.find(|ledger| ledger.load == Load::Saturation)?;
    let mut columns = ledger.columns.iter();
    let column = columns.find(|column| column.label == label)?;
    Some(SANDBOX.iter().filter_map(|stage| column.ns(*stage)).sum())
}

/// The program's own count where it has one of all.
fn program_or_kernel(row: &CountRow) -> Option<f64> {
    let program = row.program.filter(|_| !row.at_least);
    program.or_else(|| row.kernel.value().copied())
}
