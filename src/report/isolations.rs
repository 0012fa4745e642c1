//! What each isolation costs and buys, one beside the other: a table and a sentence each.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::counts::figure;
use super::terminal::wrap_from;
use super::units::microseconds;
use crate::experiment::analysis::Analysis;
use crate::experiment::counts::{CountRow, RESET_BYTES};
use crate::experiment::plan::Plan;
use crate::sandbox::Isolation;

/// Per request at saturation: CPU time, system calls, page faults, bytes put back.
pub(super) fn isolations(plan: &Plan, analysis: &Analysis) -> String {
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    shown.set_header([
        "per request, at saturation",
        "CPU, µs",
        "system calls",
        "page faults",
        RESET_BYTES,
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
    let mut text = format!("Isolations\n\n{shown}\n\n");
    for isolation in Isolation::ALL {
        let name = isolation.to_string();
        if plan.setting.arms.iter().any(|arm| arm.isolation == name) {
            let sentence = format!("{name}: {}", isolation.sentence());
            let _ = writeln!(text, "{}", wrap_from("- ", &sentence));
        }
    }
    text
}

/// The program's own count where it has one.
fn program_or_kernel(row: &CountRow) -> Option<f64> {
    row.program.or_else(|| row.kernel.value().copied())
}
