//! What perf(1) recorded, as folded stacks: read by inferno, with the guest's functions by their names, and
//! summed up in a sentence.

use inferno::collapse::Collapse;
use inferno::collapse::perf as collapse;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The frame that stands for whatever called the guest.
pub const GUEST: &str = "[guest]";

/// What inferno appends to the names of the kernel's functions.
const KERNEL: &str = "_[k]";
/// The same for those in a perf map.
const MAPPED: &str = "_[j]";

/// Each distinct stack on a line, outermost frame first, with its number of samples.
pub(super) fn fold(script: &Path, event: &str) -> Result<String, String> {
    let failed = |error| format!("what perf wrote cannot be read: {error}; try again");
    let file = File::open(script).map_err(failed)?;
    let mut options = collapse::Options::default();
    options.annotate_jit = true;
    options.annotate_kernel = true;
    options.event_filter = Some(event.to_string());
    options.nthreads = 1;
    let mut folded = Vec::new();
    collapse::Folder::from(options)
        .collapse(BufReader::new(file), &mut folded)
        .map_err(failed)?;
    Ok(rooted(&String::from_utf8_lossy(&folded)))
}

/// Whether perf fell back to the user's side, which shows in the event's name: `cpu-clock:u:`.
pub(super) fn samples_user_only(script: &Path) -> bool {
    let Ok(script) = File::open(script) else {
        return false;
    };
    let mut lines = BufReader::new(script).lines().map_while(Result::ok);
    let event = lines.find(|line| !line.trim().is_empty());
    event.is_some_and(|line| line.trim_end().ends_with(":u:"))
}

/// Puts stacks that end in the guest's code on [`GUEST`].
fn rooted(folded: &str) -> String {
    let mut text = String::new();
    for line in folded.lines() {
        match line.split_once(';') {
            Some((thread, stack)) if outermost(stack).ends_with(MAPPED) => {
                text += &format!("{thread};{GUEST};{}\n", demangled(stack));
            }
            _ => text += &format!("{line}\n"),
        }
    }
    text
}

/// A folded stack with the guest's functions as their source calls them: perf has no symbol table
/// for them, and leaves their names as the compiler mangled them.
fn demangled(stack: &str) -> String {
    let name = |frame: &str| match frame.split_once(MAPPED) {
        // The hash at the end tells two copies of one function apart, and nobody reads it. A
        // semicolon, as in an array's type, would divide the frame in two.
        Some((name, rest)) => {
            let name = format!("{:#}", rustc_demangle::demangle(mangled(name)));
            format!("{}{MAPPED}{rest}", name.replace(';', ","))
        }
        None => frame.to_string(),
    };
    stack.split(';').map(name).collect::<Vec<_>>().join(";")
}

/// The part of a name in a perf map that its compiler mangled: wasmtime writes the module before it.
fn mangled(name: &str) -> &str {
    let begins = ["_ZN", "_R"]
        .iter()
        .filter_map(|mark| name.find(mark))
        .min();
    begins.map_or(name, |at| &name[at..])
}

/// A folded stack's first frame.
fn outermost(stack: &str) -> &str {
    let frames = stack.rsplit_once(' ').map_or(stack, |(frames, _)| frames);
    frames.split(';').next().unwrap_or_default()
}

/// How many frames a sentence names.
const TOP: usize = 3;

/// Where the samples were taken, and what was running most often.
pub(super) fn top(folded: &str) -> String {
    let mut samples: HashMap<&str, u64> = HashMap::new();
    let (mut total, mut kernel, mut guest) = (0, 0, 0);
    for line in folded.lines() {
        let Some((stack, count)) = line.rsplit_once(' ') else {
            continue;
        };
        let count = count.parse().unwrap_or(0);
        let running = stack.rsplit(';').next().unwrap_or(stack);
        *samples.entry(running).or_default() += count;
        total += count;
        if running.ends_with(KERNEL) {
            kernel += count;
        } else if running.ends_with(MAPPED) {
            guest += count;
        }
    }
    let mut samples: Vec<_> = samples.into_iter().collect();
    // Names decide between equals, so that the same samples make the same sentence.
    samples.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then(a.cmp(b)));
    let percent = |part: u64| format!("{:.1} %", part as f64 * 100.0 / total.max(1) as f64);
    let named: Vec<String> = samples
        .iter()
        .take(TOP)
        .map(|(frame, count)| format!("{} {}", in_words(frame), percent(*count)))
        .collect();
    format!(
        "Of {total} samples {} are the kernel's and {} the guest's; most often on top: {}.",
        percent(kernel),
        percent(guest),
        named.join(", ")
    )
}

/// A frame with its place in words instead of a suffix.
fn in_words(frame: &str) -> String {
    if let Some(name) = frame.strip_suffix(KERNEL) {
        format!("{name} (kernel)")
    } else if let Some(name) = frame.strip_suffix(MAPPED) {
        format!("{name} (guest)")
    } else {
        frame.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, thread};

    /// As `perf script` writes it: an event, its stack from the inside out, an empty line.
    const SCRIPT: &str = "\
shard 0  7  1.000100: cpu-clock: \n\
\tffffffff81000001 tcp_sendmsg ([kernel.kallsyms])\n\
\t            1001 ringlab::event_loop::run (/bin/ringlab)\n\
\n\
shard 0  7  1.000200: cpu-clock: \n\
\t    7f0000000010 inner (/tmp/perf-7.map)\n\
\t    7f0000000000 handle (/tmp/perf-7.map)\n\
\n\
shard 0  7  1.000300: cpu-clock: \n\
\tffffffff81000002 timer ([kernel.kallsyms])\n\
\t    7f0000000000 handle (/tmp/perf-7.map)\n\
\n\
shard 0  7  1.000400: cpu-clock: \n\
\tffffffff81000001 tcp_sendmsg ([kernel.kallsyms])\n\
\t            1001 ringlab::event_loop::run (/bin/ringlab)\n\
\n";

    fn of<T>(script: &str, read: fn(&Path) -> T) -> T {
        let test = thread::current()
            .name()
            .unwrap_or_default()
            .replace(':', "-");
        let name = format!("ringlab-{}-{test}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, script).expect("the directory is for that");
        let result = read(&path);
        let _ = fs::remove_file(&path);
        result
    }

    fn folded(script: &str) -> String {
        let fold = |path: &Path| fold(path, "cpu-clock").expect("it is what perf writes");
        of(script, fold)
    }

    #[test]
    fn the_events_name_says_whose_side_was_sampled() {
        let check = |script: &str, expected| assert_eq!(of(script, samples_user_only), expected);
        check(SCRIPT, false);
        check(&SCRIPT.replace("cpu-clock:", "cpu-clock:u:"), true);
        check("", false);
    }

    #[test]
    fn stacks_fold_and_those_of_the_guest_stand_on_its_frame() {
        let folded = folded(SCRIPT);
        let mut lines: Vec<_> = folded.lines().collect();
        lines.sort_unstable();
        let expected = [
            "shard;[guest];handle_[j];inner_[j] 1",
            "shard;[guest];handle_[j];timer_[k] 1",
            "shard;ringlab::event_loop::run;tcp_sendmsg_[k] 2",
        ];
        assert_eq!(lines, expected);
        assert_eq!(
            top(&folded),
            "Of 4 samples 75.0 % are the kernel's and 25.0 % the guest's; most often on top: \
             tcp_sendmsg (kernel) 50.0 %, inner (guest) 25.0 %, timer (kernel) 25.0 %."
        );
    }

    #[test]
    fn the_guests_functions_have_the_names_of_their_source() {
        let check = |frames: &str, expected: &str| {
            let folded = format!("shard;{frames} 3\n");
            assert_eq!(rooted(&folded), format!("shard;[guest];{expected} 3\n"));
        };
        check("handle_[j]", "handle_[j]");
        check(
            "handle_[j];_ZN13ringlab_guest8handlers5count3run17h0123456789abcdefE_[j]",
            "handle_[j];ringlab_guest::handlers::count::run_[j]",
        );
        check(
            "wasm[0]::function[3]::_ZN4core3fmt5write17h0123456789abcdefE_[j];timer_[k]",
            "core::fmt::write_[j];timer_[k]",
        );
        check(
            "_RNvCskwGfYPst2Cb_3foo16example_function_[j]",
            "foo::example_function_[j]",
        );
    }

    #[test]
    fn no_samples_fold_to_nothing() {
        assert_eq!(folded(""), "");
    }
}
