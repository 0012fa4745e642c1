//! Gauges over files of /proc that are made up.

use super::*;
use crate::measure::fixture::Fixture;

const PID: i32 = 77;
const WALL: Duration = Duration::from_millis(500);

/// Counters of one thread: id, involuntary switches, ms on a core, ms waiting for one.
type Row = (i32, u64, u64, u64);

/// /proc with one process on cpu1, after `steal` ticks, and `cpu` ticks of its own.
fn proc(steal: u64, cpu: u64, threads: &[Row]) -> Fixture {
    let mut fixture = Fixture::new()
        .with(
            "stat",
            format!("cpu  0 0 0 0 0 0 0 99 0 0\ncpu1 0 0 0 0 0 0 0 {steal} 0 0\n"),
        )
        .with(
            &format!("{PID}/stat"),
            format!("{PID} (a) b) S 1 2 3 4 5 6 7 8 9 10 {cpu} 0 0 0\n"),
        );
    for (id, switches, on_cpu, wait) in threads {
        fixture = fixture
            .with(
                &format!("{PID}/task/{id}/status"),
                format!(
                    "Name:\tx\nvoluntary_ctxt_switches:\t9\nnonvoluntary_ctxt_switches:\t{switches}\n"
                ),
            )
            .with(
                &format!("{PID}/task/{id}/schedstat"),
                format!("{on_cpu}000000 {wait}000000 9\n"),
            );
    }
    fixture
}

fn between(before: &Fixture, after: &Fixture) -> Noise {
    let take = |fixture: &Fixture| Snapshot::take(fixture.root(), &[PID], &[1]);
    Noise::between(&take(before), &take(after), WALL)
}

/// The gauges over their default limits after a block of 500 ms.
fn check(before: Fixture, after: Fixture, expected: &[Gauge]) {
    let noise = between(&before, &after);
    let marks = Limits::default().marks(&noise);
    let gauges: Vec<_> = marks.iter().map(|mark| mark.gauge).collect();
    assert_eq!(gauges, expected, "{noise:?} {marks:?}");
}

#[test]
fn each_gauge_marks_the_block_that_is_over_its_limit() {
    use Gauge::*;
    let start = || proc(5, 100, &[(77, 10, 1000, 10)]);
    check(start(), proc(5, 140, &[(77, 10, 1400, 10)]), &[]);
    check(start(), proc(7, 140, &[(77, 510, 1400, 20)]), &[]);
    check(start(), proc(8, 140, &[(77, 10, 1400, 10)]), &[Steal]);
    check(
        start(),
        proc(5, 140, &[(77, 511, 1400, 10)]),
        &[InvoluntarySwitches],
    );
    check(
        start(),
        proc(5, 140, &[(77, 10, 1400, 21)]),
        &[RunQueueWait],
    );
}

#[test]
fn threads_that_compete_by_design_are_not_judged() {
    let before = [(77, 0, 1000, 0), (78, 0, 1000, 0), (79, 0, 1000, 0)];
    let after = [
        (77, 50, 1130, 300),
        (78, 50, 1130, 300),
        (79, 50, 1130, 300),
    ];
    check(proc(5, 300, &before), proc(5, 339, &after), &[]);
    // A helper that takes a tenth is no crowd.
    let helped = [(77, 600, 1400, 300), (78, 0, 1040, 0), (79, 0, 1000, 0)];
    let marked = [Gauge::InvoluntarySwitches, Gauge::RunQueueWait];
    check(proc(5, 300, &before), proc(5, 344, &helped), &marked);
    // A thread per request: the work was done by threads that nobody saw.
    let unseen = [(77, 50, 1100, 300)];
    check(proc(5, 300, &before), proc(5, 339, &unseen), &[]);
}

#[test]
fn threads_come_and_go() {
    let before = proc(0, 0, &[(77, 5, 100, 5), (78, 7, 100, 7), (79, 9, 100, 9)]);
    // 78 ended, 79 is another thread by now, 80 is new.
    let after = proc(0, 0, &[(77, 6, 100, 6), (79, 2, 50, 2), (80, 3, 1, 3)]);
    let noise = between(&before, &after);
    assert_eq!(noise.involuntary_switches, Reading::Value(1 + 2 + 3));
    assert_eq!(noise.run_queue_wait_ns, Reading::Value(6_000_000));
    assert_eq!(noise.threads_gone, Reading::Value(1));
}

/// Of 500 ms, by those that serve: neither the main thread nor a helper does, and who came or went was not
/// there throughout.
#[test]
fn who_serves_and_neither_runs_nor_waits_sleeps() {
    let check = |after: &[Row], slept_ms: u64| {
        let before = [
            (77, 0, 100, 0),
            (78, 0, 100, 5),
            (79, 0, 100, 5),
            (80, 0, 100, 5),
        ];
        let helped = |fixture: Fixture| {
            let name = format!("Name:\t{}\nnonvoluntary_ctxt_switches:\t0\n", HELPERS[0]);
            fixture.with("77/task/79/status", name)
        };
        let (before, after) = (helped(proc(0, 0, &before)), helped(proc(0, 0, after)));
        let slept = between(&before, &after).off_cpu_ns;
        assert_eq!(slept, Reading::Value(slept_ms * 1_000_000));
    };
    let others = [(77, 0, 101, 0), (79, 0, 102, 5)];
    let with = |serving: &[Row]| [&others[..], serving].concat();
    check(&with(&[(78, 0, 100, 5), (80, 0, 100, 5)]), 1000);
    check(&with(&[(78, 0, 400, 105), (80, 0, 110, 5)]), 100 + 490);
    // Its last time was brought up to date late.
    check(&with(&[(78, 0, 604, 5)]), 0);
    // One of its number that has run less, and one that is new.
    check(&with(&[(78, 0, 50, 0), (81, 0, 1, 0)]), 0);
}

#[test]
fn a_thread_gone_between_listing_and_reading_is_left_out() {
    let fixture = proc(0, 0, &[(77, 5, 100, 5)]);
    let task = fixture.root().join("77/task");
    let read = read_each(&task, &[77, 78], "status", parse_status);
    let expected = Status {
        serves: true,
        involuntary_switches: 5,
    };
    assert_eq!(read, Reading::Value(BTreeMap::from([(77, expected)])));
}

#[test]
fn what_cannot_be_read_is_missing_and_never_zero() {
    let check = |fixture: Fixture, reason: &str| {
        let noise = between(&fixture, &fixture);
        let shown = serde_json::to_string(&noise).unwrap();
        assert!(shown.contains(&format!("n/a: {reason}")), "{shown}");
        assert_eq!(Limits::default().marks(&noise), [], "{shown}");
    };
    let thread = (77, 1, 1, 1);
    check(
        proc(0, 0, &[thread]).with("stat", ""),
        "/proc/stat has no cpu1",
    );
    check(Fixture::new(), "/proc/PID/task: No such file");
    check(
        proc(0, 0, &[thread]).with("77/stat", "77 (x"),
        "/proc/PID/stat has an unknown format",
    );
    check(
        proc(0, 0, &[thread]).with("77/task/77/status", "Name:\tx\n"),
        "/proc/PID/task/TID/status lacks it",
    );
    check(
        proc(0, 0, &[thread]).with(
            "77/task/78/status",
            "Name:\tx\nnonvoluntary_ctxt_switches:\t1\n",
        ),
        "/proc/PID/task/TID/schedstat: No such file",
    );
    check(
        proc(0, 0, &[(77, 1, 0, 0)]),
        "the kernel's scheduling statistics are off",
    );
}

#[test]
fn a_run_is_noisy_when_too_many_blocks_are_marked() {
    let start = proc(0, 100, &[(77, 0, 1000, 0)]);
    let quiet = between(&start, &proc(0, 140, &[(77, 0, 1400, 0)]));
    let shared = between(&start, &proc(0, 125, &[(77, 600, 1250, 250)]));
    let check = |disturbed: usize, level: Level, causes: usize| {
        let mut blocks = vec![quiet.clone(); 12 - disturbed];
        blocks.extend(vec![shared.clone(); disturbed]);
        let verdict = Limits::default().verdict(&blocks);
        assert_eq!((verdict.level, verdict.causes.len()), (level, causes));
    };
    check(0, Level::Valid, 0);
    check(3, Level::Valid, 0);
    check(4, Level::Noisy, 2);
    assert_eq!(Limits::default().verdict(&[]).level, Level::Valid);
}

#[test]
fn the_gauges_are_readable_here() {
    let own = std::process::id() as i32;
    let snapshot = Snapshot::take(Path::new("/proc"), &[own], &[]);
    assert_eq!(snapshot.steal_ticks, Reading::Value(0), "of no cores");
    assert!(snapshot.process_ticks.value().is_some(), "{snapshot:?}");
    let threads = snapshot.status.value().expect("of all kernels");
    assert!(threads.contains_key(&own));
}
