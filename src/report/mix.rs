//! A mix of light and heavy requests: a table for each I/O model, and what it shows in two sentences.

use std::fmt::Write;

use comfy_table::{CellAlignment, Table, presets};

use super::terminal::{closing, trimmed, wrap};
use super::units::{count, digits};
use crate::experiment::mix::analysis::Row;
use crate::experiment::mix::result::Mix;
use crate::experiment::mix::{Heavy, Plan, Share};
use crate::offload::Policy;
use crate::sandbox::Quantum;

/// The whole of it.
pub fn mix(mix: &Mix) -> String {
    let Mix { plan, analysis, .. } = mix;
    let mut text = format!("{}\n", wrap(&heading(plan)));
    let runners = plan.setting.runners();
    let mut models: Vec<&str> = Vec::new();
    for arm in &plan.setting.arms {
        if !models.contains(&&*arm.model) {
            models.push(&arm.model);
        }
    }
    for model in &models {
        let rows: Vec<&Row> = (analysis.rows.iter())
            .filter(|row| row.model == *model)
            .collect();
        if !rows.is_empty() {
            let _ = write!(text, "\n{model}\n\n{}\n", table(&rows, runners.len() - 1));
        }
    }
    text.push('\n');
    if analysis.rows.is_empty() {
        text += "Nothing was measured.\n";
    } else {
        let _ = writeln!(text, "{}", wrap(NOTE));
    }
    if let Ok(control) = &analysis.control {
        let sentence = format!(
            "The control is an arm against itself: of the light requests' p99, differences under a factor of {:.2} are not claimed.",
            control.floor
        );
        let _ = writeln!(text, "{}", wrap(&sentence));
    }
    for reason in &plan.setting.left_out {
        let _ = writeln!(text, "{}", wrap(&format!("{reason}.")));
    }
    text.push('\n');
    for sentence in models
        .iter()
        .flat_map(|model| sentences(plan, &analysis.rows, model))
    {
        let _ = writeln!(text, "{}", wrap(&sentence));
    }
    let kind = match mix.partial {
        true => "partial run",
        false => "single run: a difference is a finding once a second run agrees",
    };
    trimmed(&(text + &closing(&analysis.verdict, kind)))
}

const NOTE: &str = "Latency is from the planned send. p99.9 needs 10 000 light requests a row: raise \
                    --rounds, --window or --rate. `≥`: all connections waited, and some requests were not \
                    sent. `≤`: the generator itself was late in a block of the row, and the latency has \
                    that in it. Other CPU is what neither handler used, in percent of a core: \
                    I/O, HTTP, switches, ticks, hand-offs; `≤`: so little that the heavy ones' own time \
                    is not known well enough to tell it from nothing.";

fn heading(plan: &Plan) -> String {
    let cores = match plan.setting.server_cores.as_slice() {
        [core] => format!("core {core}"),
        cores => format!("{} cores", cores.len()),
    };
    let place = match &plan.light {
        Some(policy) => format!(", {policy} whatever the policy of the heavy ones"),
        None => String::new(),
    };
    format!(
        "Light requests (hello{place}) in open loop, {}/s (Poisson), {} connections; beside them heavy \
         ones (spin). Server on {cores}, loopback.",
        count(plan.rate),
        plan.connections
    )
}

/// What ran beside the light requests, in a few words.
fn beside(heavy: Option<&Heavy>) -> String {
    let Some(heavy) = heavy else {
        return "nothing".to_string();
    };
    let length = humantime::format_duration(heavy.length);
    match heavy.share {
        Share::Percent(percent) => format!("{length}, {percent} %"),
        Share::Always(count) => format!("{count} × {length}"),
    }
}

fn table(rows: &[&Row], control: usize) -> Table {
    let mut shown = Table::new();
    shown.load_style(presets::NOTHING);
    shown.set_header([
        "beside",
        "policy",
        "light p50",
        "p99",
        "p99.9",
        "max",
        "heavy",
        "other CPU",
    ]);
    shown.add_row(["", "", "ms", "ms", "ms", "ms", "/s", "% of core"]);
    let mut before = None;
    for row in rows {
        let heavy = beside(row.heavy.as_ref());
        let is_same = before.replace(heavy.clone()) == Some(heavy.clone());
        let policy = match row.arm == control {
            true => format!("{} again", row.policy),
            false => row.policy.clone(),
        };
        let shown_ms = |bound: &str, ns: Option<u64>| {
            ns.map_or_else(|| "–".to_string(), |ns| format!("{bound}{}", ms(ns)))
        };
        // Few are sent late, and the median is of the others.
        let (median, tail) = match (row.unsent, row.late) {
            (0, 0) => ("", ""),
            (0, _) => ("", "≤ "),
            _ => ("≥ ", "≥ "),
        };
        shown.add_row([
            if is_same { String::new() } else { heavy },
            policy,
            shown_ms(median, row.latency_ns_p50),
            shown_ms(tail, row.latency_ns_p99),
            shown_ms(tail, row.latency_ns_p999),
            shown_ms(tail, row.latency_ns_max),
            row.heavy_per_s.map_or_else(|| "–".to_string(), digits),
            other_cpu(row),
        ]);
    }
    for (nth, column) in shown.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if nth > 1 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    shown
}

/// Nanoseconds as milliseconds, three digits that count.
fn ms(ns: u64) -> String {
    digits(ns as f64 / 1e6)
}

/// A difference: where it is less than what it is known to, its upper bound.
fn other_cpu(row: &Row) -> String {
    let (percent, error) = (row.other_cpu_percent, row.other_cpu_error_percent);
    match percent {
        known if known > error => format!("{known:.1}"),
        small if small + error > 0.0 => format!("≤ {:.1}", small + error),
        _ => "n/a".to_string(),
    }
}

/// What the last, heaviest step shows on one model: the light requests' latency, and the heavy
/// ones' throughput.
fn sentences(plan: &Plan, rows: &[Row], model: &str) -> Vec<String> {
    let arms = 0..plan.setting.arms.len();
    let of = |heavy: Option<Heavy>| {
        let is_it = move |row: &&Row| row.model == model && row.heavy == heavy;
        rows.iter()
            .filter(is_it)
            .filter(|row| arms.contains(&row.arm))
            .collect::<Vec<_>>()
    };
    let Some(&heaviest) = plan.heavy.last() else {
        return Vec::new();
    };
    let (alone, loaded) = (of(None), of(Some(heaviest)));
    let slowest = alone.iter().filter_map(|row| row.latency_ns_p99).max();
    let listed = |figure: &dyn Fn(&Row) -> Option<String>| {
        let named = |row: &&Row| Some(format!("{} with {}", figure(row)?, row.policy));
        loaded
            .iter()
            .filter_map(named)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let light = listed(&|row| row.latency_ns_p99.map(|ns| format!("{} ms", ms(ns))));
    let mut said = Vec::new();
    if let Some(slowest) = slowest.filter(|_| !light.is_empty()) {
        said.push(format!(
            "On {model}, 99 of 100 light requests are answered within {} ms beside nothing, and beside \
             {} heavy ones within {light}.",
            ms(slowest),
            beside(Some(&heaviest)),
        ));
    }
    let base = loaded.iter().find(|row| row.policy == "inline");
    let base = base
        .and_then(|row| row.heavy_per_s)
        .filter(|per_s| *per_s > 0.0);
    if let Some(base) = base.filter(|_| loaded.len() > 1) {
        let heavy = listed(&|row| {
            let part = row.heavy_per_s? / base;
            (row.policy != "inline").then(|| format!("{part:.2}"))
        });
        said.push(format!("Of inline's heavy requests are answered: {heavy}."));
    }
    said.extend(ticks(rows, model));
    said.extend(held(rows, model));
    said
}

/// What suspended requests hold.
fn held(rows: &[Row], model: &str) -> Option<String> {
    let of_it = rows.iter().filter(|row| row.model == model);
    let most = of_it.filter_map(|row| row.held_bytes).max()?;
    Some(format!(
        "A suspended request on {model} holds {:.0} KiB, its instance's memory and what it had touched of its \
         stack; a goroutine's stack begins at 2 KiB.",
        most as f64 / 1024.0
    ))
}

/// What the ticks take of the core where they take most, and beside nothing.
fn ticks(rows: &[Row], model: &str) -> Option<String> {
    let most = |is_beside: bool| {
        let of_it = move |row: &&Row| row.model == model && row.heavy.is_some() == is_beside;
        let known = rows.iter().filter(of_it);
        let known = known.filter_map(|row| Some((row.ticks_percent?, row)));
        known.max_by(|(one, _), (other, _)| one.total_cmp(other))
    };
    let ((alone, _), (loaded, row)) = (most(false)?, most(true)?);
    let said = format!(
        "Ticks on {model} take at most {alone:.2} % of the core beside nothing, and {loaded:.1} % with {} beside {}",
        row.policy,
        beside(row.heavy.as_ref()),
    );
    // Its servers were told of no quantum.
    let lasts = (row.policy == Policy::TimeSlice.to_string())
        .then(|| format!(": {}", Quantum::for_ticks_of(row.tick_ns)));
    Some(said + &lasts.unwrap_or_default() + ".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn widest() -> Row {
        Row {
            arm: 4,
            label: "tokio_uring time-slice (control)".to_string(),
            model: "tokio_uring".to_string(),
            policy: "time-slice".to_string(),
            heavy: Some("100ms:100%".parse().expect("it is one")),
            blocks: 2,
            marked: 0,
            late: 1,
            planned: 2000,
            unsent: 3,
            failed: 0,
            latency_ns_p50: Some(812_345_678),
            latency_ns_p99: Some(1_812_345_678),
            latency_ns_p999: Some(1_812_345_678),
            latency_ns_max: Some(1_912_345_678),
            heavy_per_s: Some(1234.5),
            other_cpu_percent: -2.0,
            other_cpu_error_percent: 102.0,
            held_bytes: Some(140 * 1024),
            ticks_percent: Some(2.5),
            tick_ns: Some(18_000),
            cpu_percent: 100.0,
        }
    }

    #[test]
    fn the_ticks_are_told_where_they_take_most() {
        let (row, other) = (widest(), "100ms:8".parse().ok());
        let mut rows = vec![
            Row {
                heavy: None,
                ticks_percent: Some(0.013),
                ..row.clone()
            },
            Row {
                heavy: other,
                ticks_percent: Some(2.71),
                ..row.clone()
            },
            row,
        ];
        let said = ticks(&rows, "tokio_uring").expect("all is known");
        for word in [
            "0.01 % of the core beside nothing",
            "2.7 % with time-slice beside 8 × 100ms: slices last 600 µs, of which",
        ] {
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(ticks(&rows, "epoll"), None, "nothing of it");
        rows[1].policy = "inline".to_string();
        let said = ticks(&rows, "tokio_uring").expect("all is known");
        assert!(
            said.ends_with("2.7 % with inline beside 8 × 100ms."),
            "{said}"
        );
        rows[0].ticks_percent = None;
        assert_eq!(ticks(&rows, "tokio_uring"), None, "nothing to compare with");
    }

    #[test]
    fn what_is_less_than_its_error_is_a_bound_and_never_negative() {
        let check = |percent: f64, error: f64, said: &str| {
            let row = Row {
                other_cpu_percent: percent,
                other_cpu_error_percent: error,
                ..widest()
            };
            assert_eq!(other_cpu(&row), said);
        };
        check(9.7, 0.0, "9.7");
        check(1.8, 0.9, "1.8");
        check(0.5, 0.9, "≤ 1.4");
        check(-0.5, 0.9, "≤ 0.4");
        // Then what the heavy ones took was timed wrongly.
        check(-1.1, 0.9, "n/a");
    }

    #[test]
    fn what_is_held_is_said_of_who_suspends() {
        let said = held(&[widest()], "tokio_uring").expect("it is known");
        assert!(
            said.contains("tokio_uring holds 140 KiB, its instance's memory"),
            "{said}"
        );
        assert_eq!(held(&[widest()], "epoll"), None);
    }

    #[test]
    fn the_widest_row_fits_the_terminal() {
        let row = widest();
        let text = table(&[&row, &row], 4).to_string();
        let widest = text
            .lines()
            .map(|line| line.trim_end().chars().count())
            .max();
        assert!(widest <= Some(80), "{widest:?}\n{text}");
        assert!(
            text.contains("≥ 812") && text.contains("time-slice again"),
            "{text}"
        );
        assert_eq!(text.matches("100ms").count(), 1, "{text}");
    }

    #[test]
    fn what_the_generator_was_late_with_is_an_upper_bound() {
        let check = |unsent: u64, late: usize, said: &str| {
            let row = Row {
                unsent,
                late,
                latency_ns_p50: Some(52_000),
                latency_ns_p99: Some(1_750_000),
                latency_ns_p999: None,
                latency_ns_max: Some(4_110_000),
                ..widest()
            };
            let text = table(&[&row], 4).to_string();
            let words: Vec<_> = text.split_whitespace().collect();
            assert!(words.join(" ").contains(said), "{said:?}: {text}");
        };
        check(0, 0, "again 0.052 1.75 – 4.11");
        check(0, 1, "again 0.052 ≤ 1.75 – ≤ 4.11");
        // Then connections were what was waited for.
        check(3, 1, "again ≥ 0.052 ≥ 1.75 – ≥ 4.11");
    }
}
