//! An experiment that repeats a stored one: whether the hosts are alike, and whether both runs tell the
//! same story.

use std::fmt::Write;

use super::terminal::wrap_from;
use crate::experiment::analysis::Analysis;
use crate::measure::stats::{self, Ratio, half_width_percent};

/// What two hosts differ in, said before anything is compared; nothing if nothing.
pub fn unlike_hosts(differences: &[String]) -> String {
    if differences.is_empty() {
        return String::new();
    }
    let mut text = String::from("Unlike hosts: the stored run is of another host than this one:\n");
    for difference in differences {
        let _ = writeln!(text, "{}", wrap_from("- ", difference));
    }
    text.push('\n');
    text
}

/// Two runs of one plan: whether they tell the same story, arm by arm.
pub fn agreement(before: &Analysis, now: &Analysis) -> String {
    let mut text = String::from("Against the stored run:\n");
    for (old, new) in before.tables.iter().zip(&now.tables) {
        let last = new.rows.len().saturating_sub(1);
        for (was, is) in old.rows.iter().zip(&new.rows[..last]).skip(1) {
            let place = format!("{}, {}", is.label, new.load.name());
            line(&mut text, &place, &was.cpu_ratio, &is.cpu_ratio);
        }
        let (Some(old), Some(new_latency)) = (&old.latency, &new.latency) else {
            continue;
        };
        let is = &new_latency.rows[..last];
        for (was, is) in old.rows.iter().zip(is).skip(1) {
            let place = format!("{}, {}, p99", is.label, new.load.name());
            line(&mut text, &place, &was.ratio, &is.ratio);
        }
    }
    text
}

/// One ratio then and now.
fn line(text: &mut String, place: &str, was: &Result<Ratio, String>, is: &Result<Ratio, String>) {
    let said = match (was, is) {
        (Ok(was), Ok(is)) => format!(
            "{place}: {:.3} ±{:.1} % then, {:.3} ±{:.1} % now: {}",
            was.ratio,
            half_width_percent(was),
            is.ratio,
            half_width_percent(is),
            stats::agreement(was, is).sentence()
        ),
        (Err(why), _) => format!("{place}: the stored run has no ratio: {why}"),
        (_, Err(why)) => format!("{place}: this run has no ratio: {why}"),
    };
    let _ = writeln!(text, "{}", wrap_from("- ", &said));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unlike_hosts_are_named_and_alike_ones_are_not_mentioned() {
        assert_eq!(unlike_hosts(&[]), "");
        let text = unlike_hosts(&["CPU accounting: tick; other: IRQ".to_string()]);
        assert!(text.starts_with("Unlike hosts"), "{text}");
        assert!(text.contains("- CPU accounting: tick"), "{text}");
    }
}
