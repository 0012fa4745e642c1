//! What each isolation costs and buys, one beside the other: a table and a sentence each.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::terminal::{wrap, wrap_from};
use super::units::microseconds;
use super::units::per_request;
use crate::experiment::analysis::Analysis;
use crate::experiment::counts::{CountRow, RESET_BYTES};
use crate::experiment::plan::Load;
use crate::experiment::setting::Setting;
use crate::measure::probe::Stage;
use crate::measure::reading::Reading;
use crate::sandbox::Isolation;

/// Per request at saturation: CPU time, system calls, page faults, bytes put back.
/// `online` are the machine's cores, as a list of ranges.
pub(super) fn isolations(
    setting: &Setting,
    analysis: &Analysis,
    online: &Reading<String>,
) -> String {
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
    for arm in &setting.arms {
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
        let cell = |value: Option<f64>| value.map_or_else(absent, per_request);
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
    let online = online.value().map_or(Vec::new(), |list| cores_of(list));
    let note = format!("{} {NOTE}", shards(&setting.server_cores, &online));
    let mut text = format!("Isolations\n\n{}\n\n{}\n\n", shown.join("\n"), wrap(&note));
    for isolation in Isolation::ALL {
        let name = isolation.to_string();
        if setting.arms.iter().any(|arm| arm.isolation == name) {
            let sentence = format!("{name}: {}", isolation.sentence());
            let _ = writeln!(text, "{}", wrap_from("- ", &sentence));
        }
    }
    text
}

/// On how many shards it was measured, and what measures it on more or fewer where `online` are the cores.
fn shards(servers: &[usize], online: &[usize]) -> String {
    let &[server] = servers else {
        let (shards, first) = (servers.len(), servers.first().copied().unwrap_or_default());
        return format!("With {shards} shards, one on each core; one alone: `--cores {first}`.");
    };
    let one = "With one shard, on one core";
    let others: Vec<_> = online.iter().filter(|core| **core != server).collect();
    let Some(&&other) = others.last() else {
        return format!("{one}.");
    };
    let two = format!("--cores {},{}", server.min(other), server.max(other));
    if others.len() > 1 {
        return format!("{one}; two of them: `{two}`.");
    }
    format!(
        "{one}; two of them, one of which shares its core with the generator: `{two} --client-cores \
         {other} --share-cores`."
    )
}

/// The cores of a list of ranges, such as `0-3,8`; of as much of it as is one.
fn cores_of(list: &str) -> Vec<usize> {
    let ranges = list.split(',').map_while(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.trim().parse::<usize>().ok()?..=last.trim().parse().ok()?)
    });
    ranges.flatten().collect()
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

#[cfg(test)]
mod tests {
    use super::super::terminal::tests::row;
    use super::*;
    use crate::experiment::analysis::LoadTable;
    use crate::experiment::counts::CountColumn;
    use crate::experiment::ledger::{Column, Entry, Ledger};
    use crate::experiment::plan::arms;
    use crate::layout::Layout;
    use crate::measure::stats::Verdict;
    use crate::models;
    use crate::offload::Policy;

    fn setting(isolations: &[Isolation]) -> Setting {
        let epoll = models::find("epoll").expect("it is in the table");
        let (layouts, policies) = ([Layout::Threads], [Policy::Inline]);
        let handlers = ["hello".to_owned()];
        Setting {
            arms: arms(&[epoll], isolations, &layouts, &policies, &handlers),
            control_of: 0,
            left_out: Vec::new(),
            warnings: Vec::new(),
            server_cores: vec![1],
            client_cores: vec![0],
        }
    }

    fn ledger(label: &str) -> Ledger {
        let rows = [
            (Stage::Guest, 100.0),
            (Stage::Sandbox, 50.0),
            (Stage::Copy, 7.0),
            (Stage::Http, 9000.0),
        ];
        let rows = rows.map(|(stage, ns)| Entry {
            stage,
            ns,
            rounds: None,
            times: 1.0,
        });
        let column = Column {
            label: label.to_owned(),
            rows: rows.to_vec(),
            total_ns: 9157.0,
            ..Column::default()
        };
        Ledger {
            load: Load::Saturation,
            columns: vec![column],
        }
    }

    fn counted(label: &str) -> CountColumn {
        let row = |name: &str, program: Option<f64>, at_least, kernel| CountRow {
            name: name.to_owned(),
            program,
            at_least,
            kernel,
        };
        CountColumn {
            label: label.to_owned(),
            rows: vec![
                row("system calls", Some(1.5), true, Reading::Value(2.25)),
                row("minor faults", Some(3.5), false, Reading::Value(9.0)),
                row(RESET_BYTES, Some(4096.0), false, Reading::missing("none")),
            ],
            ..CountColumn::default()
        }
    }

    #[test]
    fn every_figure_that_there_is_has_its_cell() {
        let isolations_there = [Isolation::Reset, Isolation::Fresh, Isolation::OnDemand];
        let mut fresh = row("fresh", false);
        fresh.system_calls = Some(4.25);
        let analysis = Analysis {
            tables: vec![LoadTable {
                load: Load::Saturation,
                rate: None,
                rows: vec![row("reset", false), fresh],
                control: Err("none".to_owned()),
                latency: None,
            }],
            ledgers: vec![ledger("reset")],
            counts: vec![counted("reset")],
            verdict: Verdict::default(),
        };
        let online = Reading::Value("0-1".to_owned());
        let text = isolations(&setting(&isolations_there), &analysis, &online);
        let cells = |label: &str| -> Vec<&str> {
            let line = text.lines().find(|line| line.starts_with(label));
            let line = line.unwrap_or_else(|| panic!("{label} is not in {text}"));
            line.split_whitespace().skip(1).collect()
        };
        // By the kernel's count where the program lacks some.
        assert_eq!(cells("reset"), ["12.3", "157", "2.25", "3.50", "4096"]);
        assert_eq!(cells("fresh"), ["12.3", "n/a", "4.25", "n/a", "n/a"]);
        assert_eq!(cells("on-demand"), ["n/a"; 5]);
        for isolation in isolations_there {
            let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(words.contains(&format!("- {isolation}: ")), "{text}");
            assert!(words.contains(isolation.sentence()), "{text}");
        }
        assert!(!text.contains("- reuse"), "{text}");
    }

    /// As `split_cores` of `compare` takes them.
    #[test]
    fn the_command_for_more_shards_fits_the_host() {
        let check = |servers: &[usize], online: &str, expected: &str| {
            let said = shards(servers, &cores_of(online));
            assert!(said.ends_with(expected), "{said}");
        };
        let shared = "`--cores 0,1 --client-cores 0 --share-cores`.";
        check(&[0], "0", "on one core.");
        check(&[0], "", "on one core.");
        check(&[1], "0-1", shared);
        check(&[3], "0-3", "two of them: `--cores 2,3`.");
        check(&[0], "0,2-3,8", "two of them: `--cores 0,8`.");
        check(
            &[2, 3],
            "0-3",
            "With 2 shards, one on each core; one alone: `--cores 2`.",
        );
        assert_eq!(cores_of("0-3,8"), [0, 1, 2, 3, 8]);
    }
}
