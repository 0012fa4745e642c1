//! Memory and cost side by side, an arm a line.

use comfy_table::{CellAlignment, Table, presets};

use super::units::{digits, microseconds};
use crate::experiment::analysis::LoadTable;
use crate::measure::reading::Reading;

/// What each arm needs of both, and why a memory could not be read.
pub fn memory(table: &LoadTable) -> String {
    let arms = &table.rows[..table.rows.len().saturating_sub(1)];
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    shown.set_header(["memory and cost", "PSS, MiB", "CPU/req, µs"]);
    let mut reasons: Vec<&str> = Vec::new();
    for row in arms {
        let memory = match &row.memory_bytes {
            Reading::Value(bytes) => digits(*bytes as f64 / (1 << 20) as f64),
            Reading::Missing(reason) => {
                if !reasons.contains(&reason.as_str()) {
                    reasons.push(reason);
                }
                "n/a".to_string()
            }
        };
        let cost = row.cpu_ns.map_or_else(|| "n/a".to_string(), microseconds);
        shown.add_row([row.label.clone(), memory, cost]);
    }
    for (nth, column) in shown.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if nth > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text =
        format!("{shown}\n\nAll processes of the server together, at the end of a window.\n");
    for reason in reasons {
        text += &format!("n/a: {reason}.\n");
    }
    text
}
