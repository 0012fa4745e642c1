//! Tables and sentences for a terminal of 80 columns.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::differences::Calls;
use super::isolations::isolations;
use super::latency::latency;
use super::memory::memory;
use super::sentences::sentences;
use super::units::{count, microseconds, per_request};
use super::{counts, ledger};
use crate::experiment::analysis::{Analysis, LoadTable, Row};
use crate::experiment::counts::{ALL_CALLS, CountColumn};
use crate::experiment::plan::{Load, Plan};
use crate::experiment::result::Experiment;
use crate::load;
use crate::measure::stats::{Ratio, Verdict};

/// An experiment: a table for each load, two sentences, the verdict. `again`: it repeats a stored
/// one, and whether they agree follows.
pub fn experiment(experiment: &Experiment, again: bool) -> String {
    let Experiment { plan, analysis, .. } = experiment;
    let mut text = String::new();
    for table in &analysis.tables {
        let _ = writeln!(
            text,
            "{}\n\n{}\n",
            wrap(&heading(plan, table)),
            of_load(table)
        );
        if let Some(floor) = floor(table) {
            let _ = writeln!(text, "{}\n", wrap(&floor));
        }
        if let Some(of_table) = &table.latency {
            let _ = writeln!(text, "{}", latency(of_table));
        }
    }
    if plan.has_layouts()
        && let Some(table) = analysis.tables.first()
    {
        let _ = writeln!(text, "{}", memory(table));
    }
    for ledger in &analysis.ledgers {
        let calls = calls(analysis, ledger.load);
        let of_load = analysis
            .tables
            .iter()
            .find(|table| table.load == ledger.load);
        let floor = of_load.and_then(|table| Some(table.control.as_ref().ok()?.floor));
        let _ = writeln!(text, "{}", ledger::text(ledger, &calls, floor));
    }
    if !analysis.ledgers.is_empty() {
        let accounting = &experiment.host.cpu_accounting;
        let _ = writeln!(
            text,
            "{}\n",
            wrap(&format!(
                "The kernel's CPU accounting: {accounting}; all cores are read in its ticks."
            ))
        );
    }
    if !analysis.counts.is_empty() {
        let _ = writeln!(text, "{}", counts::text(&analysis.counts));
    }
    if plan.has_isolations() {
        let _ = writeln!(
            text,
            "{}",
            isolations(&plan.setting, analysis, &experiment.host.cores_online)
        );
    }
    for reason in &plan.setting.left_out {
        let _ = writeln!(text, "{}", wrap(&format!("{reason}.")));
    }
    for sentence in sentences(analysis) {
        let _ = writeln!(text, "{}", wrap(&sentence));
    }
    if let Some(until) = &experiment.until {
        let _ = writeln!(text, "{}", wrap(&format!("{until}.")));
    }
    let kind = match (experiment.partial, again) {
        (true, _) => "partial run",
        (false, true) => "second run: see below whether it agrees with the stored one",
        (false, false) => "single run: a ratio is a finding once `compare --again FILE` agrees",
    };
    trimmed(&(text + &closing(&analysis.verdict, kind)))
}

/// Without the blanks that end a table's lines.
pub(super) fn trimmed(text: &str) -> String {
    let lines = text.lines().map(str::trim_end);
    lines.flat_map(|line| [line, "\n"]).collect()
}

/// System calls of each arm per request under `load`, all by one counter: the program, if it counts all
/// of every arm; else the kernel, which counts at saturation; else the program, of those that it can.
fn calls(analysis: &Analysis, load: Load) -> Calls {
    let table = analysis.tables.iter().find(|table| table.load == load);
    let rows = || table.into_iter().flat_map(|table| &table.rows);
    let by_program = |row: &Row| Some((row.label.clone(), row.system_calls?));
    if rows().all(|row| row.system_calls.is_some()) || load != Load::Saturation {
        return rows().filter_map(by_program).collect();
    }
    let by_kernel = |column: &CountColumn| {
        let row = column.rows.iter().find(|row| row.name == ALL_CALLS)?;
        Some((column.label.clone(), *row.kernel.value()?))
    };
    let kernels: Calls = analysis.counts.iter().filter_map(by_kernel).collect();
    if kernels.is_empty() {
        return rows().filter_map(by_program).collect();
    }
    kernels
}

/// The verdict, on which `kind` of run, and its causes.
pub(super) fn closing(verdict: &Verdict, kind: &str) -> String {
    let mut text = format!("\n{} ({kind})\n", verdict.level);
    for cause in &verdict.causes {
        let _ = writeln!(
            text,
            "{}",
            wrap_from("- ", &format!("{}; {}.", cause.what, cause.remedy))
        );
    }
    text
}

fn heading(plan: &Plan, table: &LoadTable) -> String {
    let cores = match plan.setting.server_cores.as_slice() {
        [core] => format!("server on core {core}"),
        cores => format!("server on {} cores", cores.len()),
    };
    let what = format!("{cores}, loopback, {} connections", plan.connections);
    match (table.load, table.rate) {
        (Load::EqualRate, Some(rate)) => {
            format!(
                "Equal rate: open loop, {} requests/s (Poisson); {what}",
                count(rate)
            )
        }
        _ => format!(
            "Saturation: closed loop, {} in flight; {what}",
            plan.connections
        ),
    }
}

fn of_load(table: &LoadTable) -> Table {
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    shown.set_header([
        "arm", "CPU", "ratio", "95 % CI", "req/s", "p50", "p99", "calls", "switch",
    ]);
    shown.add_row(["", "µs/req", "", "", "", "µs", "µs", "/req", "/req"]);
    for row in &table.rows {
        shown.add_row(cells(row));
    }
    for (nth, column) in shown.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if nth > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    shown
}

fn cells(row: &Row) -> [String; 9] {
    let absent = || "n/a".to_string();
    let latency = |ns: Option<u64>| ns.map_or_else(absent, |ns| microseconds(ns as f64));
    let (ratio, interval) = match &row.cpu_ratio {
        Ok(ratio) if is_itself(ratio) => ("1".to_string(), String::new()),
        Ok(ratio) => (
            format!("{:.3}", ratio.ratio),
            format!("{:.3}–{:.3}", ratio.interval.low, ratio.interval.high),
        ),
        Err(_) => (absent(), String::new()),
    };
    let calls = match (row.system_calls, row.system_calls_at_least) {
        (Some(calls), _) => per_request(calls),
        (None, Some(calls)) => format!("≥{}", per_request(calls)),
        (None, None) => absent(),
    };
    let throughput = count(row.throughput);
    let throughput = if row.blocks == 0 {
        absent()
    } else if row.client_limited {
        // In two lines: the table has 80 columns.
        format!("≥ {throughput}\n(client-limited)")
    } else {
        throughput
    };
    [
        // Likewise.
        row.label.replace(" (control)", "\n(control)"),
        row.cpu_ns.map_or_else(absent, microseconds),
        ratio,
        interval,
        throughput,
        latency(row.latency_ns_p50),
        latency(row.latency_ns_p99),
        calls,
        per_request(row.switches),
    ]
}

/// Whether it is the ratio of an arm to itself.
pub(super) fn is_itself(ratio: &Ratio) -> bool {
    ratio.ratio == 1.0 && ratio.interval.low == ratio.interval.high
}

fn floor(table: &LoadTable) -> Option<String> {
    let control = table.control.as_ref().ok()?;
    let mut text = format!(
        "The control is an arm against itself: effects under {:.1} % are not claimed.",
        (control.floor - 1.0) * 100.0
    );
    if table.rows.iter().any(|row| row.client_limited) {
        text += " Client-limited: the server's core was idle more than 5 %, so the generator was \
                 the limit; CPU per request stands.";
    }
    if table.load == Load::Saturation {
        text += " Latency is queueing, with that many in flight.";
    }
    Some(text)
}

/// A run of the load generator.
pub fn load(plan: &load::Plan, outcome: &load::Outcome, findings: &[load::Finding]) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}, {:.1} s\n",
        plan.loop_label(),
        outcome.window.as_secs_f64()
    );
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.add_row(["sent".to_string(), outcome.sent.to_string()]);
    table.add_row([
        "answered as expected".to_string(),
        outcome.answered.to_string(),
    ]);
    table.add_row(["failed".to_string(), outcome.failed.total().to_string()]);
    for (cause, times) in outcome.failed.occurred() {
        table.add_row([format!("  {}", cause.name()), times.to_string()]);
    }
    table.add_row([
        "in flight at the end".to_string(),
        outcome.in_flight_at_end.to_string(),
    ]);
    if matches!(outcome.mode, load::Mode::Open { .. }) {
        table.add_row(["unsent".to_string(), outcome.unsent.to_string()]);
    }
    if outcome.reconnects > 0 {
        table.add_row([
            "connections opened anew".to_string(),
            outcome.reconnects.to_string(),
        ]);
    }
    let throughput = outcome.throughput().map_or_else(
        || "n/a".to_string(),
        |rate| format!("{} req/s", count(rate)),
    );
    table.add_row(["throughput".to_string(), throughput]);
    let loop_name = match plan.mode {
        load::Mode::Closed { pipeline } => format!("{} in flight", plan.connections * pipeline),
        load::Mode::Open { .. } => "from the planned send".to_string(),
    };
    for (name, q) in [
        ("p50", 0.5),
        ("p90", 0.9),
        ("p99", 0.99),
        ("p99.9", 0.999),
        ("p99.99", 0.9999),
    ] {
        if let Some(ns) = outcome.latency_ns(q) {
            let name = format!("{name}, {loop_name}");
            table.add_row([name, format!("{} µs", microseconds(ns as f64))]);
        }
    }
    if let Some(ns) = outcome
        .service_time_ns(0.99)
        .filter(|_| plan.pipeline() == 1 && matches!(plan.mode, load::Mode::Open { .. }))
    {
        table.add_row([
            "p99, from the actual send".to_string(),
            format!("{} µs", microseconds(ns as f64)),
        ]);
    }
    if let Some(ns) = outcome.pacing_error_ns(0.99) {
        table.add_row([
            "pacing error p99".to_string(),
            format!("{} µs", microseconds(ns as f64)),
        ]);
    }
    if let Some(ns) = outcome.client_cpu_ns_per_answer() {
        table.add_row([
            "generator CPU per request".to_string(),
            format!("{} µs", microseconds(ns)),
        ]);
    }
    for (nth, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if nth == 1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(text, "{table}");
    for finding in findings {
        let _ = writeln!(text, "\n{}", wrap(&finding.to_string()));
    }
    text
}

/// What a terminal has at least.
pub(super) const COLUMNS: usize = 80;

/// Breaks lines at 80 columns.
pub fn wrap(text: &str) -> String {
    wrap_from("", text)
}

/// Breaks lines at [`COLUMNS`]; the first begins with `mark`, the others are indented as far.
pub fn wrap_from(mark: &str, text: &str) -> String {
    broken(mark, &" ".repeat(mark.chars().count()), text)
}

/// Breaks lines at 80 columns; all but the first begin with `indent`.
pub fn wrap_on(indent: &str, text: &str) -> String {
    broken("", indent, text)
}

fn broken(mark: &str, indent: &str, text: &str) -> String {
    let mut lines = vec![mark.to_string()];
    for word in text.split_whitespace() {
        let begins = if lines.len() == 1 { mark } else { indent };
        let line = lines.last_mut().expect("there is always one");
        let used = line.chars().count();
        let empty = used == begins.chars().count();
        if !empty && used + 1 + word.chars().count() > COLUMNS {
            lines.push(format!("{indent}{word}"));
        } else {
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::measure::reading::Reading;
    use crate::measure::stats::{Interval, Method};

    #[test]
    fn lines_do_not_end_in_blanks() {
        assert_eq!(trimmed("a  b  \n\n  c \n"), "a  b\n\n  c\n");
    }

    #[test]
    fn lines_end_before_the_terminal_does() {
        let text = "word ".repeat(60);
        let wrapped = wrap_from("- ", &text);
        assert!(
            wrapped.lines().all(|line| line.chars().count() <= COLUMNS),
            "{wrapped}"
        );
        assert!(
            wrapped
                .lines()
                .skip(1)
                .all(|line| line.starts_with("  word")),
            "{wrapped}"
        );
        assert_eq!(
            wrapped
                .split_whitespace()
                .filter(|word| *word == "word")
                .count(),
            60
        );
        let hanging = wrap_on("    ", &text);
        let begins: Vec<_> = hanging.lines().map(|line| line.find("word")).collect();
        assert_eq!(begins, [0, 4, 4, 4].map(Some), "{hanging}");
        assert!(hanging.lines().all(|line| line.len() <= COLUMNS));
    }

    pub(in crate::report) fn row(label: &str, client_limited: bool) -> Row {
        let interval = Interval {
            low: 0.8567,
            high: 1.0432,
        };
        Row {
            label: label.to_string(),
            blocks: 12,
            marked: 0,
            cpu_ns: Some(12_345.6),
            cpu_ratio: Ok(Ratio {
                ratio: 0.9512,
                interval,
                p_value: 0.01,
                confidence: 0.95,
                n: 12,
                missing: 0,
                method: Method::StudentT,
            }),
            claim: None,
            throughput: 219_876.0,
            client_limited,
            latency_ns_p50: Some(123_456),
            latency_ns_p99: Some(19_876_543),
            system_calls: None,
            system_calls_at_least: Some(12.4567),
            switches: 0.1234,
            counts: Vec::new(),
            machine_ns: None,
            memory_bytes: Reading::missing("not asked for"),
            drift_percent: None,
        }
    }

    #[test]
    fn a_throughput_that_the_client_limits_reads_so_and_the_table_fits() {
        let table = LoadTable {
            load: Load::Saturation,
            rate: None,
            rows: vec![row("on-demand", true), row("on-demand (control)", false)],
            control: Err("none".to_string()),
            latency: None,
        };
        let text = of_load(&table).to_string();
        assert!(text.contains("≥ 220"), "{text}");
        assert!(text.contains("(client-limited)"), "{text}");
        assert_eq!(text.matches("≥ ").count(), 1, "{text}");
        let widest = text.lines().map(|line| line.trim_end().chars().count());
        assert!(widest.max() <= Some(COLUMNS), "{text}");
    }
}
