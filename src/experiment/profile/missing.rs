//! What is missing for a flame graph or in one, and what brings it: sentences.

use std::fs;
use std::path::Path;

/// kernel.perf_event_paranoid.
pub(super) fn paranoid() -> Option<i32> {
    let level = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").ok()?;
    level.trim().parse().ok()
}

/// Why perf did not sample, from what it said.
pub(super) fn refusal(said: &str, paranoid: Option<i32>) -> String {
    let denied = ["perf_event_paranoid", "Permission denied", "not permitted"];
    if denied.iter().any(|words| said.contains(words)) {
        return match paranoid {
            Some(level @ 3..) => format!(
                "perf may not sample, since kernel.perf_event_paranoid is {level}; run as root, or \
                 `sudo sysctl kernel.perf_event_paranoid=1`"
            ),
            _ => "perf may not sample here: a container's seccomp filter or a security module \
                  forbids perf_event_open; run outside of it, or start the container with \
                  `--cap-add PERFMON`"
                .to_string(),
        };
    }
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    match line {
        Some(line) => format!("perf said {line:?}; try `perf record -a -- sleep 1` to see more"),
        None => "perf recorded nothing and said nothing; try `perf record -a -- sleep 1`".into(),
    }
}

/// A file could not be written.
pub(super) fn unwritable(path: &Path) -> impl Fn(std::io::Error) -> String {
    move |error| {
        format!(
            "{} cannot be written: {error}; name another directory with --profile",
            path.display()
        )
    }
}

/// What a graph does not show.
pub(super) struct Missing {
    /// The kernel's side was not sampled.
    pub(super) kernel: bool,
    /// No frame of the guest, though there is one.
    pub(super) guest: bool,
    /// No perf map.
    pub(super) map: bool,
}

impl Missing {
    pub(super) fn sentences(&self, paranoid: Option<i32>) -> String {
        let mut text = String::new();
        if self.kernel {
            let cause = match paranoid {
                Some(level @ 2..) => format!("kernel.perf_event_paranoid is {level}"),
                _ => "perf may not look into it".to_string(),
            };
            text += &format!(
                " The kernel's part is missing, since {cause}; run as root, or `sudo sysctl \
                 kernel.perf_event_paranoid=1 kernel.kptr_restrict=0`."
            );
        }
        if self.guest && self.map {
            text += " The guest's functions are missing, since wasmtime wrote no perf map; see \
                     that /tmp can be written to.";
        } else if self.guest {
            text += " The guest was never met: it takes less than a sample's share. A handler that does \
                     more shows it, such as `--handler json`.";
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_cause_and_next_command() {
        let check = |said: &str, paranoid, expected: &str| {
            let sentence = refusal(said, paranoid);
            assert!(sentence.contains(expected), "{said:?}: {sentence}");
        };
        let denied = "Error:\nAccess limited.\nsee /proc/sys/kernel/perf_event_paranoid";
        check(denied, Some(4), "perf_event_paranoid is 4");
        check(denied, Some(3), "sysctl kernel.perf_event_paranoid=1");
        check(denied, Some(2), "seccomp");
        check("Operation not permitted", None, "--cap-add PERFMON");
        check("\n  Unknown option\n more", Some(1), "\"Unknown option\"");
        check("", Some(1), "perf record -a");
    }

    #[test]
    fn what_a_graph_lacks_is_said() {
        let check = |kernel, guest, map, paranoid, expected: &str| {
            let text = Missing { kernel, guest, map }.sentences(paranoid);
            assert!(text.contains(expected), "{text}");
            assert_eq!(text.is_empty(), expected.is_empty(), "{text}");
        };
        check(false, false, true, Some(2), "");
        check(true, false, false, Some(2), "perf_event_paranoid is 2");
        check(true, false, false, Some(1), "run as root");
        check(false, true, true, Some(1), "no perf map");
        check(false, true, false, Some(1), "--handler json");
    }
}
