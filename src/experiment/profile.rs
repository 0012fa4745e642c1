//! A flame graph of each arm at saturation: sampled by perf(1), folded and drawn by inferno.
//!
//! perf does what this program could only do with privileges and a symbolizer of its own: sample,
//! walk stacks, and name functions of the kernel, of this program and, through the perf map that
//! wasmtime writes, of the guest. Whatever is missing for it is said in a sentence; nothing here
//! can make an experiment fail. The blocks are extra ones, and none of the results come from them.
//!
//! Stacks are walked by unwind tables (`--call-graph dwarf`). Frame pointers would be cheaper, but
//! optimised Rust keeps none, and to force them would change the very code that is measured. What
//! is lost is who called the guest: its code has no unwind tables, so a walk that starts there ends
//! there, and such stacks stand on a frame of their own, [`stacks::GUEST`].

mod missing;
mod perf;
mod stacks;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use inferno::flamegraph::{self, Palette, color::MultiPalette};

use super::block;
use super::child::{CONNECTIONS, Server};
use super::plan::{Arm, Plan};
use crate::control::monotonic_ns;
use crate::load::{self, Observer, Progress};
use crate::whole_file::write_whole;
use missing::{Missing, paranoid, refusal, unwritable};
use perf::{Perf, said};
use stacks::{GUEST, fold, samples_user_only, top};

/// Samples per second and core. Just off a round number, to fall in step with no timer.
const RATE: &str = "1999";
/// How much of the stack perf copies for each sample, in bytes. The loop's frames alone take over
/// 8 KiB; a guest's stack lies above them.
const CALL_GRAPH: &str = "dwarf,16384";
/// How long is sampled: about 2000 samples and 46 MB of stacks a core.
const WINDOW: Duration = Duration::from_secs(1);
/// How long perf may take to attach, and at the end to write its file.
const RECORD_LIMIT: Duration = Duration::from_secs(10);
/// How long perf may take to walk and name all stacks.
const SCRIPT_LIMIT: Duration = Duration::from_secs(60);

/// Profiles every arm of `plan`, one after the other, into `ARM.svg` and `ARM.folded` in
/// `directory`, which must be there. Each item is a sentence: where the graph is and what is on top
/// of it, or what is missing. `search` is where perf is looked for, as in `PATH`.
pub fn profile<'a>(
    plan: &'a Plan,
    directory: &'a Path,
    search: &OsStr,
    stop: &'a Arc<AtomicBool>,
) -> Box<dyn Iterator<Item = String> + 'a> {
    let Some(perf) = find_perf(search) else {
        return Box::new(std::iter::once(NO_PERF.to_string()));
    };
    let arms = plan.setting.arms.iter().zip(file_names(&plan.setting.arms));
    let arms = arms.take_while(|_| !stop.load(Ordering::Relaxed));
    Box::new(arms.map(move |(arm, name)| {
        let paths = Paths::new(directory, &name);
        let result = one(&perf, plan, arm, &paths, stop);
        paths.remove_intermediate();
        match result {
            Ok(seen) => format!(
                "{}: the flame graph is {}. {seen}",
                arm.label,
                paths.svg.display()
            ),
            Err(why) => format!("{}: no flame graph: {why}.", arm.label),
        }
    }))
}

const NO_PERF: &str = "No flame graphs: there is no `perf` on PATH; install it with \
    `apt install linux-perf` (Debian), `apt install linux-tools-generic` (Ubuntu) or \
    `dnf install perf` (Fedora).";

/// The first executable `perf` in `search`.
fn find_perf(search: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(search)
        .map(|directory| directory.join("perf"))
        .find(|path| {
            fs::metadata(path)
                .is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
        })
}

/// The arms' labels as names of files, as unlike as the labels are: a handler's may be a path.
fn file_names(arms: &[Arm]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (nth, arm) in arms.iter().enumerate() {
        let safe = |c: char| c.is_alphanumeric() || "._-".contains(c);
        let name = arm.label.replace(|c| !safe(c), "-");
        let name = name.trim_start_matches('.').to_string();
        let taken = name.is_empty() || names.contains(&name);
        names.push(if taken { format!("{name}-{nth}") } else { name });
    }
    names
}

/// The files of one arm.
struct Paths {
    svg: PathBuf,
    folded: PathBuf,
    /// What perf recorded.
    data: PathBuf,
    /// The same, as text.
    script: PathBuf,
    /// What perf said.
    said: PathBuf,
}

impl Paths {
    fn new(directory: &Path, name: &str) -> Self {
        let path = |end: &str| directory.join(format!("{name}.{end}"));
        Self {
            svg: path("svg"),
            folded: path("folded"),
            data: path("perf-data"),
            script: path("perf-script"),
            said: path("perf-said"),
        }
    }

    fn remove_intermediate(&self) {
        for path in [&self.data, &self.script, &self.said] {
            // One that was never made needs no removing.
            let _ = fs::remove_file(path);
        }
    }
}

/// The list of the guest's functions that wasmtime writes, and which outlives its server. Both the
/// place and the format are perf's.
struct PerfMap(PathBuf);

impl Drop for PerfMap {
    fn drop(&mut self) {
        // An arm without a sandbox has none.
        let _ = fs::remove_file(&self.0);
    }
}

/// One arm's block, and its graph.
fn one(
    perf: &Path,
    plan: &Plan,
    arm: &Arm,
    paths: &Paths,
    stop: &Arc<AtomicBool>,
) -> Result<String, String> {
    let options = ["--handler", &arm.handler, "--perf-map"];
    let server = Server::start(arm, &plan.setting.server_cores, CONNECTIONS, &options, stop)
        .map_err(|error| error.to_string())?;
    let pids: Vec<String> = server.pids().iter().map(i32::to_string).collect();
    let maps = pids.iter().map(|pid| format!("/tmp/perf-{pid}.map"));
    let maps: Vec<PerfMap> = maps.map(|map| PerfMap(PathBuf::from(map))).collect();
    let mut work = block::saturation(plan, server.address());
    work.duration = WINDOW;
    let event = event();
    let mut record = Command::new(perf);
    record
        .args(["record", "--event", event, "--freq", RATE])
        .args(["--call-graph", CALL_GRAPH])
        // So that the window can be told apart afterwards.
        .args(["--clockid", "CLOCK_MONOTONIC"])
        // Nothing is to be kept in the user's home directory.
        .args(["--no-buildid-cache", "--pid", &pids.join(",")])
        .arg("--output")
        .arg(&paths.data)
        .args(["--", "cat"]);
    let mut recording = Perf::start(&mut record, Stdio::piped(), Stdio::piped(), &paths.said)?;
    let mut window = Window::default();
    // Attached to an idle server: to a busy one it takes longer, and threads yet to be born are
    // sampled too.
    let attached = recording.is_attached(RECORD_LIMIT);
    if attached {
        load::run(&work, stop, &mut window).map_err(|error| error.to_string())?;
    }
    if !recording.end(RECORD_LIMIT)?.success() {
        return Err(refusal(&said(&paths.said), paranoid()));
    }
    if !attached {
        return Err(format!(
            "perf did not attach within {} s; try it again on a machine with less to do",
            RECORD_LIMIT.as_secs()
        ));
    }
    drop(server);
    let Some(window) = window.text() else {
        return Err("it was interrupted".to_string());
    };
    let script = File::create(&paths.script).map_err(unwritable(&paths.script))?;
    let mut command = Command::new(perf);
    command
        // Inlined functions take seconds to name, and their frames say little that the outer ones
        // do not.
        .args(["script", "--no-inline", "--fields"])
        .args(["comm,tid,time,event,ip,sym,dso", "--input"])
        .arg(&paths.data)
        .args(["--time", &window])
        // Symbols come from this machine, never from a server.
        .env_remove("DEBUGINFOD_URLS");
    let script = Perf::start(&mut command, Stdio::null(), script.into(), &paths.said)?;
    if !script.end(SCRIPT_LIMIT)?.success() {
        return Err(refusal(&said(&paths.said), paranoid()));
    }
    let folded = fold(&paths.script, event)?;
    if folded.is_empty() {
        return Err(
            "perf took no sample in the window; try `perf record -a -- sleep 1`".to_string(),
        );
    }
    write_whole(&paths.folded, folded.as_bytes()).map_err(unwritable(&paths.folded))?;
    let svg = draw(&folded, arm, event)?;
    write_whole(&paths.svg, &svg).map_err(unwritable(&paths.svg))?;
    let missing = Missing {
        kernel: samples_user_only(&paths.script),
        guest: arm.isolation != "native" && !folded.contains(GUEST),
        map: !maps.iter().any(|map| map.0.exists()),
    };
    Ok(top(&folded) + &missing.sentences(paranoid()))
}

/// Cycles where they can be counted. `cpu-clock` is a timer: it cannot sample where interrupts are
/// off, and shows what ran there where they come on again.
fn event() -> &'static str {
    if Path::new("/sys/bus/event_source/devices/cpu").exists() {
        "cycles"
    } else {
        "cpu-clock"
    }
}

/// When the window opened and closed, by CLOCK_MONOTONIC.
#[derive(Default)]
struct Window {
    opened_ns: Option<u64>,
    closed_ns: Option<u64>,
}

impl Window {
    /// As `perf script` takes it, in seconds; `None` if it did not close.
    fn text(&self) -> Option<String> {
        let seconds = |ns: u64| format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
        Some(format!(
            "{},{}",
            seconds(self.opened_ns?),
            seconds(self.closed_ns?)
        ))
    }
}

impl Observer for Window {
    fn window_opens(&mut self, _: &Progress) {
        self.opened_ns = Some(monotonic_ns());
    }

    fn window_closes(&mut self, _: &Progress) {
        self.closed_ns = Some(monotonic_ns());
    }
}

fn draw(folded: &str, arm: &Arm, event: &str) -> Result<Vec<u8>, String> {
    let mut options = flamegraph::Options::default();
    options.title = format!(
        "ringlab: {} serving {} at saturation",
        arm.label, arm.handler
    );
    options.subtitle = Some(format!("{RATE} samples per second of {event}"));
    // Told apart: kernel, guest, Rust.
    options.colors = Palette::Multi(MultiPalette::Java);
    options.deterministic = true;
    let mut svg = Vec::new();
    flamegraph::from_lines(&mut options, folded.lines(), &mut svg)
        .map_err(|error| format!("inferno cannot draw it: {error}; look at the .folded file"))?;
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::super::setting::Setting;
    use super::*;

    fn arm(label: &str) -> Arm {
        Arm {
            label: label.to_string(),
            model: "epoll".to_string(),
            isolation: "reuse".to_string(),
            handler: "hello".to_string(),
            layout: "threads".to_string(),
            offload: "inline".to_string(),
        }
    }

    #[test]
    fn without_perf_it_says_how_to_get_it() {
        let plan = Plan {
            setting: Setting {
                arms: vec![arm("epoll")],
                control_of: 0,
                left_out: vec![],
                warnings: vec![],
                server_cores: vec![0],
                client_cores: vec![0],
            },
            path: "/".to_string(),
            connections: 1,
            rounds: 1,
            equal_rate_rounds: 0,
            ledger_rounds: 0,
            count_rounds: 0,
            warm_up: Duration::ZERO,
            window: Duration::from_millis(1),
            rate: None,
            seed: 1,
            until_percent: None,
            max_time: Duration::ZERO,
        };
        let stop = Arc::new(AtomicBool::new(false));
        // A path that does not exist, a file, and directories without perf or with one of that name.
        for search in ["", "/nowhere", "/dev/null:/proc/self", "relative"] {
            let said = profile(&plan, Path::new("."), OsStr::new(search), &stop);
            let said: Vec<_> = said.collect();
            assert_eq!(said, [NO_PERF], "{search}");
        }
        assert!(NO_PERF.contains("PATH") && NO_PERF.contains("install"));
    }

    #[test]
    fn file_names_are_safe_and_differ() {
        let check = |labels: &[&str], expected: &[&str]| {
            let arms: Vec<_> = labels.iter().map(|label| arm(label)).collect();
            assert_eq!(file_names(&arms), expected);
        };
        check(&["epoll", "io_uring"], &["epoll", "io_uring"]);
        check(&["epoll fresh", "a/b.wasm"], &["epoll-fresh", "a-b.wasm"]);
        check(&["a/b", "a b", "a-b"], &["a-b", "a-b-1", "a-b-2"]);
        check(&["../../x", "", ".."], &["-..-x", "-1", "-2"]);
    }

    #[test]
    fn a_graph_names_its_frames() {
        let folded = "shard;[guest];handle_[j] 1\n\
                      shard;ringlab::event_loop::run;tcp_sendmsg_[k] 2\n";
        let svg = draw(folded, &arm("epoll"), "cpu-clock").expect("it has frames");
        let svg = String::from_utf8(svg).expect("it is XML");
        for name in ["handle", "tcp_sendmsg", "ringlab::event_loop::run"] {
            assert!(svg.contains(&format!("<title>{name} (")), "{name}");
        }
    }

    #[test]
    fn a_window_is_told_in_seconds() {
        let check = |opened_ns, closed_ns, expected: Option<&str>| {
            let window = Window {
                opened_ns,
                closed_ns,
            };
            assert_eq!(window.text().as_deref(), expected);
        };
        let whole = Some("1.000000005,12.340000000");
        check(Some(1_000_000_005), Some(12_340_000_000), whole);
        check(Some(1), None, None);
        check(None, None, None);
    }
}
