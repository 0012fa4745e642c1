//! Counters on real threads and processes. What the kernel refuses here is skipped and said so.

use std::io::{BufRead, BufReader, Write};
use std::process::{self, Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use nix::unistd::{getppid, gettid};

use super::*;
use crate::measure::fixture::Fixture;

/// Why system calls cannot be counted here, printed, if so.
fn skipped(kind: Result<(), String>) -> bool {
    kind.inspect_err(|reason| eprintln!("skipped: {reason}"))
        .is_err()
}

fn software_and_hardware() -> Selection {
    Selection {
        software: true,
        io_wq: true,
        ..Selection::processor()
    }
}

fn can_count_by_name() -> bool {
    !skipped(SelfTest::of_this_process().of(&Event::SystemCall(String::new())))
}

fn attach_to_thread(tid: i32, selection: &Selection) -> Counters {
    Counters::attach_to(
        &mut || Ok(BTreeSet::from([tid])),
        &Tracefs::find(Path::new("/")),
        SelfTest::of_this_process,
        selection,
    )
}

fn call_getppid(times: usize) {
    for _ in 0..times {
        getppid();
    }
}

fn by_name(counted: &Counted, name: &str) -> Reading<u64> {
    let found = counted.by_name.iter().find(|(called, _)| called == name);
    found.expect("it was selected").1.clone()
}

/// Attaches to a thread, then lets it do `work`, and end. Other tests' threads are not counted.
fn check_thread(work: impl FnOnce() + Send + 'static, getppid_calls: u64) {
    if !can_count_by_name() {
        return;
    }
    let (tell, tid) = mpsc::channel();
    let (go, started) = mpsc::channel();
    let thread = thread::spawn(move || {
        tell.send(gettid().as_raw()).unwrap();
        started.recv().unwrap();
        work();
    });
    let selection = Selection::calls(&["getppid"]);
    let mut counters = attach_to_thread(tid.recv().unwrap(), &selection);
    go.send(()).unwrap();
    thread.join().unwrap();
    let counted = counters.take();
    assert_eq!(by_name(&counted, "getppid"), Reading::Value(getppid_calls));
    if let Some(&all) = counted.system_calls.value() {
        assert!(all > getppid_calls, "{all}: the thread's end is a call too");
    }
    assert_eq!(counted.multiplexed, []);
    let again = counters.take();
    assert_eq!(by_name(&again, "getppid"), Reading::Value(0));
}

/// Tells the tests below that they run once more.
const AGAIN: &str = "RINGLAB_TEST_TRACEFS";
/// tracefs in a mount namespace of its own, then the program `$0`; 99: that cannot be.
const IN_TRACEFS: &str =
    "mount -t tracefs nodev /sys/kernel/tracing || exit 99; exec \"$0\" \"$@\"";

/// Where tracefs is not mounted, tests of this folder that need it are left out. So all run again in a mount
/// namespace that has it, as root may.
#[test]
fn nothing_is_left_out_where_tracefs_can_be_mounted() {
    if can_count_by_name() || std::env::var_os(AGAIN).is_some() {
        return;
    }
    let module = module_path!().split_once("::").expect("of this crate").1;
    let perf = module.strip_suffix("tests").expect("its last part");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", IN_TRACEFS])
        .arg(std::env::current_exe().expect("this program"))
        .args([perf, "--nocapture"])
        .env(AGAIN, "1")
        .output();
    match output {
        Ok(output) if output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(!said.contains("skipped: tracefs"), "{said}");
        }
        // unshare(1) may not, or there is no tracefs.
        Ok(output) if matches!(output.status.code(), Some(1 | 99)) => {
            // Not by eprintln, which the harness keeps to itself.
            let line =
                b"skipped: the kernel's counts: tracefs cannot be mounted here; run as root\n";
            let _ = std::io::stderr().write_all(line);
        }
        failed => panic!("{failed:?}"),
    }
}

#[test]
fn a_known_number_of_calls_is_counted_exactly_by_both() {
    if let Err(reason) = self_test() {
        assert!(!reason.contains("the kernel counted"), "{reason}");
        eprintln!("skipped: {reason}");
    }
}

#[test]
fn a_thread_that_is_gone_still_counts() {
    check_thread(|| call_getppid(1234), 1234);
}

#[test]
fn threads_born_after_attaching_are_counted_with_their_children() {
    let work = || {
        call_getppid(1);
        thread::scope(|scope| {
            scope.spawn(|| {
                call_getppid(10);
                thread::scope(|scope| scope.spawn(|| call_getppid(100)).join().unwrap());
            });
            scope.spawn(|| call_getppid(1000));
        });
    };
    check_thread(work, 1111);
}

/// A shell that makes 100 kill(2) calls for each line it is sent, and answers with a line.
struct Shell(Child);

impl Shell {
    fn new() -> Self {
        let script = "while read line; do i=0; while [ $i -lt 100 ]; do kill -0 $$; i=$((i+1)); \
                      done; echo; done";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]);
        let shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(shell.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn work(&mut self) {
        let input = self.0.stdin.as_mut().unwrap();
        input.write_all(b"\n").unwrap();
        let mut line = String::new();
        let output = self.0.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut line).unwrap();
    }

    fn end(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().unwrap();
    }
}

#[test]
fn another_process_is_counted_and_so_is_its_end() {
    if !can_count_by_name() {
        return;
    }
    let mut shell = Shell::new();
    shell.work();
    let mut counters = Counters::attach(&[shell.pid()], &Selection::calls(&["kill", "write"]));
    for _ in 0..2 {
        shell.work();
        let counted = counters.take();
        assert_eq!(by_name(&counted, "kill"), Reading::Value(100));
        assert_eq!(by_name(&counted, "write"), Reading::Value(1));
    }
    shell.end();
    let counted = counters.take();
    assert_eq!(by_name(&counted, "kill"), Reading::Value(0));
}

#[test]
fn switches_and_faults_of_a_process_are_counted_or_say_why_not() {
    let mut shell = Shell::new();
    shell.work();
    let mut counters = Counters::attach(&[shell.pid()], &software_and_hardware());
    shell.work();
    let counted = counters.take();
    shell.end();
    match &counted.context_switches {
        Reading::Value(switches) => assert!(*switches > 0, "it waits for a line"),
        Reading::Missing(reason) => assert!(reason.contains("paranoid"), "{reason}"),
    }
    for reading in [&counted.cycles_user, &counted.instructions_user] {
        assert_ne!(reading, &Reading::Value(0), "never 0 without a PMU");
    }
    let unasked = Counted::default();
    assert_eq!(counted.system_calls, unasked.system_calls);
    assert_eq!(counted.by_name, []);

    let json = serde_json::to_string(&counted).unwrap();
    assert_eq!(serde_json::from_str::<Counted>(&json).unwrap(), counted);
}

/// Everything that reads a tracepoint must be missing for `reason`.
fn check_missing(counters: &mut Counters, reason: &str) {
    let counted = counters.take();
    let named = counted.by_name.iter().map(|(_, reading)| reading);
    for reading in named.chain([&counted.system_calls]) {
        match reading {
            Reading::Missing(missing) => assert!(missing.contains(reason), "{missing}"),
            Reading::Value(value) => panic!("{value}, not: {reason}"),
        }
    }
}

#[test]
fn without_tracefs_system_calls_are_missing() {
    let fixture = Fixture::new();
    let tracefs = Tracefs::find(fixture.root());
    let mut counters = Counters::attach_to(
        &mut || list_threads(&[process::id() as i32], &|_, _| false),
        &tracefs,
        || SelfTest::run(&tracefs),
        &Selection::calls(SYSTEM_CALLS),
    );
    check_missing(&mut counters, "tracefs is not mounted");
}

/// io_uring's are renamed now and then, and its tracepoint is one of those asked for with the switches.
#[test]
fn a_renamed_tracepoint_is_missing_by_its_name_and_spoils_no_other() {
    let renamed = "sys/kernel/tracing/events/io_uring/io_uring_queued_async_work/id";
    let fixture = Fixture::new().with(renamed, "7");
    let mut counters = Counters::attach_to(
        &mut || Ok(BTreeSet::from([gettid().as_raw()])),
        &Tracefs::find(fixture.root()),
        SelfTest::default,
        &software_and_hardware(),
    );
    let counted = counters.take();
    let punts = counted.io_wq_punts.to_string();
    let expected = "n/a: this kernel has no tracepoint io_uring:io_uring_queue_async_work";
    assert!(punts.starts_with(expected), "{punts}");
    assert!(punts.contains("perf list 'io_uring:*'"), "{punts}");
    match counted.context_switches {
        Reading::Value(_) => {}
        Reading::Missing(reason) => assert!(reason.contains("perf_event"), "{reason}"),
    }
}

#[test]
fn an_unknown_name_spoils_no_other() {
    if !can_count_by_name() {
        return;
    }
    let selection = Selection::calls(&["no_such_call", "getppid"]);
    let mut counters = attach_to_thread(gettid().as_raw(), &selection);
    call_getppid(5);
    let counted = counters.take();
    assert_eq!(by_name(&counted, "getppid"), Reading::Value(5));
    let missing = by_name(&counted, "no_such_call").to_string();
    assert!(
        missing.contains("no tracepoint syscalls:sys_enter_no_such_call"),
        "{missing}"
    );
}

#[test]
fn a_process_that_is_gone_says_so() {
    let mut child = Command::new("true").spawn().unwrap();
    let pid = child.id() as i32;
    child.wait().unwrap();
    let mut counters = Counters::attach(&[pid], &software_and_hardware());
    let missing = counters.take().context_switches.to_string();
    assert_eq!(missing, format!("n/a: there is no process {pid}"));
}

/// Attaches while the lists of threads follow each other as given; the last one stays. All
/// numbers but this thread's own stand for threads that are gone at once.
fn check_births(lists: &[&[i32]], expected: Result<usize, &str>) {
    let own = gettid().as_raw();
    let mut lists = lists.iter();
    let mut last: &[i32] = &[];
    let mut list = || {
        last = lists.next().copied().unwrap_or(last);
        Ok(last.iter().copied().chain([own]).collect())
    };
    let events = [Event::MinorFaults];
    let tracefs = Tracefs::find(Path::new("/"));
    let mut builder = events[0].builder(&tracefs).unwrap();
    // Anybody may count with the kernel left out.
    builder.exclude_kernel(true);
    let opened = open_on_all(&mut list, &events, &[Ok(builder)]);
    match (opened, expected) {
        (Ok(opened), Ok(threads)) => {
            let open = opened[0].as_ref().map_err(Clone::clone).unwrap();
            assert_eq!(open.threads.len(), threads);
        }
        (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{reason}"),
        (opened, expected) => panic!("{:?}, not {expected:?}", opened.map(|open| open.len())),
    }
}

#[test]
fn a_thread_born_while_attaching_makes_it_begin_again() {
    // Numbers above the kernel's largest, 4 194 304, belong to nobody.
    const GONE: i32 = 5_000_000;
    check_births(&[&[], &[]], Ok(1));
    check_births(&[&[GONE], &[]], Ok(1));
    check_births(&[&[], &[GONE], &[GONE]], Ok(1));
    let born: Vec<Vec<i32>> = (0..20).map(|n| (GONE..GONE + n).collect()).collect();
    let born: Vec<&[i32]> = born.iter().map(Vec::as_slice).collect();
    check_births(&born, Err("threads were born"));
    let crowd: Vec<i32> = (GONE..GONE + MAX_THREADS as i32).collect();
    check_births(&[&crowd], Err("513 threads"));
}

#[test]
fn without_descriptors_nothing_is_opened() {
    let event = Event::MinorFaults;
    let builder = event.builder(&Tracefs::find(Path::new("/"))).unwrap();
    let threads = BTreeSet::from([gettid().as_raw()]);
    let reason = open_one(&event, builder, &threads, &mut 0).err();
    assert!(
        reason.as_ref().is_some_and(|why| why.contains("ulimit -n")),
        "{reason:?}"
    );
}

/// What counting adds to a system call. Printed, not judged:
/// `cargo test --release price -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: takes seconds, and means something on an idle machine only"]
fn price_of_counting() {
    const CALLS: usize = 200_000;
    const ROUNDS: usize = 15;
    let own = gettid().as_raw();
    let call_ns = || {
        let start = Instant::now();
        call_getppid(CALLS);
        start.elapsed().as_nanos() as f64 / CALLS as f64
    };
    let model = ["accept4", "recvfrom", "sendto", "epoll_wait", "close"];
    let hit = [&model[..], &["getppid"]].concat();
    let only_names = |names: &[&str]| Selection {
        system_calls: false,
        ..Selection::calls(names)
    };
    let arms = [
        ("nothing counted", Selection::default()),
        ("switches, faults, punts, PMU", software_and_hardware()),
        ("all together", Selection::calls(&[])),
        ("another call by name", only_names(&["accept4"])),
        ("this call by name", only_names(&["getppid"])),
        ("five others by name", only_names(&model)),
        ("this and five others by name", only_names(&hit)),
        ("all together, six by name", Selection::calls(&hit)),
        ("all together, every name", Selection::calls(SYSTEM_CALLS)),
    ];
    let mut least = [f64::INFINITY; 9];
    for _ in 0..ROUNDS {
        for (least, (_, selection)) in least.iter_mut().zip(&arms) {
            let counters = attach_to_thread(own, selection);
            *least = least.min(call_ns());
            drop(counters);
        }
    }
    for ((name, _), ns) in arms.iter().zip(least) {
        println!("{name:32} {ns:6.1} ns a call, {:+6.1}", ns - least[0]);
    }
}
