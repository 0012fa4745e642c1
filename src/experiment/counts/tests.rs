//! Two counts of one stretch, side by side, and what they cost.

use super::*;
use crate::experiment::tests::{block, plan, report};
use crate::measure::perf::Counted;
use crate::measure::stats::Level;

/// A counting block of epoll, beside one that is not: 10 000 requests in the stretch, each with
/// a recv and a send, and by the kernel's count `recvfrom`, and `all` calls.
fn counted(all: Reading<u64>, recvfrom: u64) -> (Vec<CountColumn>, Verdict) {
    counted_of(&plan(), all, recvfrom)
}

/// The same of another plan's first arm.
fn counted_of(plan: &Plan, all: Reading<u64>, recvfrom: u64) -> (Vec<CountColumn>, Verdict) {
    let stretch = report(44_000_000, 10_000, 150_000_000);
    counted_by((stretch, 0), plan, all, recvfrom)
}

/// The same, where the program counts what is in `stretch`, with so many connections not served yet.
fn counted_by(
    (stretch, unsettled): (Report, u64),
    plan: &Plan,
    all: Reading<u64>,
    recvfrom: u64,
) -> (Vec<CountColumn>, Verdict) {
    let named = |name: &&str| {
        let count = match *name {
            "recvfrom" => recvfrom,
            "sendto" => 10_000,
            // Of which the program counts none.
            "futex" => 700,
            _ => 0,
        };
        (name.to_string(), all.clone().map(|_| count))
    };
    let kernel = Counted {
        system_calls: all.clone(),
        by_name: kernel_names(&plan.setting.arms[0])
            .iter()
            .map(named)
            .collect(),
        ..Counted::default()
    };
    let mut counting = block(0, 0, 4040.0);
    counting.pass = Pass::Counts;
    counting.calls = Some(Stretch {
        least: stretch,
        most: stretch,
        kernel,
        unsettled,
    });
    let mut beside = block(0, 0, 4000.0);
    beside.pass = Pass::Beside;
    let mut verdict = Verdict::default();
    let columns = counts(plan, &[counting, beside], &mut verdict);
    (columns, verdict)
}

fn check(all: u64, recvfrom: u64, said: &[&str]) {
    let (_, verdict) = counted(Reading::Value(all), recvfrom);
    let causes: Vec<&str> = verdict.causes.iter().map(|cause| &*cause.what).collect();
    assert_eq!(causes.len(), said.len(), "{causes:?}");
    for (cause, said) in causes.iter().zip(said) {
        assert!(cause.contains(said), "{cause}");
    }
    let level = [Level::Valid, Level::Noisy][usize::from(!said.is_empty())];
    assert_eq!(verdict.level, level);
}

#[test]
fn counts_more_than_one_percent_apart_are_reported() {
    check(20_700, 10_000, &[]);
    check(20_800, 10_099, &[]);
    check(20_800, 9_901, &[]);
    let all = "20000 to 20000 system calls, the kernel 20300 of the same";
    check(21_000, 10_000, &[all]);
    check(20_700, 10_200, &["10000 to 10000 recv, the kernel 10200"]);
    check(
        20_700,
        9_800,
        &["the kernel 9800 of the same: more than 1 % apart"],
    );
}

/// What others call for a request is no disagreement: but that the program counts what was not called is.
#[test]
fn a_count_that_lacks_some_is_at_least_so_many() {
    for (policy, isolation) in [
        ("pool", "reuse"),
        ("spawn", "reuse"),
        ("inline", "on-demand"),
    ] {
        let mut plan = plan();
        plan.setting.arms[0].offload = policy.to_string();
        plan.setting.arms[0].isolation = isolation.to_string();
        let (columns, verdict) = counted_of(&plan, Reading::Value(234_000), 10_000);
        assert_eq!(
            verdict.level,
            Level::Valid,
            "{policy}: {:?}",
            verdict.causes
        );
        assert!(columns[0].not_counted.is_some(), "{policy}");
        let row = |name: &str| columns[0].rows.iter().find(|row| row.name == name).cloned();
        let all = row(ALL_CALLS).expect("it is the first");
        assert_eq!((all.program, all.at_least), (Some(2.0), true), "{policy}");
        assert_eq!(all.kernel, Reading::Value(23.4), "{policy}");
        let others = row(OTHER_CALLS).expect("the kernel counts more than by name");
        // But for recvfrom, sendto and futex.
        assert_eq!(others.kernel, Reading::Value(21.33), "{policy}");
        let (_, verdict) = counted_of(&plan, Reading::Value(19_000), 10_000);
        assert_eq!(verdict.level, Level::Noisy, "{policy}");
        let (_, verdict) = counted_of(&plan, Reading::Value(234_000), 10_200);
        assert_eq!(
            verdict.level,
            Level::Noisy,
            "{policy}: recv is counted twice"
        );
    }
}

/// Those that were born for connections before it call something in it where they begin late.
#[test]
fn where_connections_are_not_served_yet_their_threads_may_call_something() {
    let level_of = |model: &str, unsettled: u64| {
        let mut plan = plan();
        plan.setting.arms[0].model = model.to_string();
        let stretch = report(44_000_000, 10_000, 150_000_000);
        let (_, verdict) = counted_by((stretch, unsettled), &plan, Reading::Value(21_400), 10_000);
        verdict.level
    };
    for (model, unsettled, level) in [
        ("blocking", 64, Level::Valid),
        ("blocking", 0, Level::Noisy),
        ("epoll", 64, Level::Noisy),
    ] {
        assert_eq!(level_of(model, unsettled), level, "{model}, {unsettled}");
    }
}

/// Thirty threads are born in the stretch, each for a connection that came late.
#[test]
fn what_threads_call_at_their_birth_is_no_disagreement() {
    let late = |births: u64, all: u64, recvfrom: u64| {
        let mut stretch = report(44_000_000, 10_000, 150_000_000);
        stretch.figures.io.clone3 = births;
        counted_by((stretch, 0), &plan(), Reading::Value(all), recvfrom)
    };
    let (columns, verdict) = late(30, 21_400, 10_000);
    assert_eq!(verdict.level, Level::Valid, "{:?}", verdict.causes);
    let lacks = columns[0].not_counted.as_deref();
    assert!(
        lacks.is_some_and(|lacks| lacks.contains("birth")),
        "{lacks:?}"
    );
    let (columns, verdict) = late(0, 21_400, 10_000);
    assert_eq!(verdict.level, Level::Noisy, "nobody was born");
    assert_eq!(columns[0].not_counted, None);
    for (births, all, recvfrom) in [
        (30, 19_000, 10_000),
        (30, 21_400, 10_200),
        (30, 25_000, 10_000),
        (1, 21_400, 10_000),
    ] {
        let (_, verdict) = late(births, all, recvfrom);
        let what = format!("{births}, {all}, {recvfrom}: {:?}", verdict.causes);
        assert_eq!(verdict.level, Level::Noisy, "{what}");
    }
    // With the locks that it has besides.
    let (_, verdict) = late(1, 20_970, 10_000);
    assert_eq!(verdict.level, Level::Valid, "{:?}", verdict.causes);
}

#[test]
fn both_counts_stand_side_by_side_with_their_price() {
    let (columns, _) = counted(Reading::Value(20_700), 10_000);
    let row = |name: &str| columns[0].rows.iter().find(|row| row.name == name).cloned();
    let all = row("system calls").expect("it is the first");
    // All of them: futex, too.
    assert_eq!((all.program, all.kernel), (Some(2.0), Reading::Value(2.07)));
    assert!(!all.at_least);
    let copied = row(COPIED_BYTES).expect("every arm has it");
    assert_eq!(copied.program, Some(0.0), "counted, and none");
    assert!(copied.kernel.value().is_none(), "its copies are not in it");
    let futex = row("futex").expect("the kernel counts it");
    assert_eq!((futex.program, futex.kernel), (None, Reading::Value(0.07)));
    // 4.04 µs against 4.00 in the window, 4.40 while calls were traced.
    let near = |price: Option<f64>, expected: f64| {
        let price = price.expect("there is a block beside");
        assert!((price - expected).abs() < 0.005, "{price}");
    };
    near(columns[0].price, 0.01);
    near(columns[0].price_of_tracing, 0.1);
}

/// Of all calls those are taken off that the program does not count. Where the kernel does not tell how many
/// they are, nothing can be compared but each of the others, and that is said: once, and no noise.
#[test]
fn a_total_that_cannot_be_compared_says_so() {
    let (columns, _) = counted(Reading::Value(20_700), 10_000);
    assert!(columns[0].price_interval.is_none(), "of one round");
    let reason = "this kernel has no tracepoint syscalls:sys_enter_futex";
    let named = |name: &&str| {
        let reading = match *name {
            "futex" => Reading::missing(reason),
            "recvfrom" | "sendto" => Reading::Value(10_000),
            _ => Reading::Value(0),
        };
        (name.to_string(), reading)
    };
    let stretch = report(44_000_000, 10_000, 150_000_000);
    let plan = plan();
    let calls = Stretch {
        least: stretch,
        most: stretch,
        kernel: Counted {
            // Far more than the program's 20 000.
            system_calls: Reading::Value(90_000),
            by_name: kernel_names(&plan.setting.arms[0])
                .iter()
                .map(named)
                .collect(),
            ..Counted::default()
        },
        unsettled: 0,
    };
    let mut verdict = Verdict::default();
    for _ in 0..2 {
        super::check(&calls, ProgramCounts::All, "epoll", &mut verdict);
    }
    let [remark] = &verdict.causes[..] else {
        panic!("{verdict:?}");
    };
    assert!(
        remark.what.contains("all system calls") && remark.what.contains(reason),
        "{remark:?}"
    );
    assert_eq!(verdict.level, Level::Valid, "it is no noise");
}

/// Between 9 900 and 10 200 of 10 000 nobody can tell one percent.
#[test]
fn a_wide_bracket_says_how_wide() {
    let (columns, _) = counted(Reading::Value(20_700), 10_000);
    assert_eq!(columns[0].compared_within, Some(0.0));
    let mut calls = Stretch {
        least: report(44_000_000, 9_900, 150_000_000),
        most: report(44_000_000, 10_210, 150_000_000),
        kernel: Counted::default(),
        unsettled: 0,
    };
    let named = |name: &str| (name.to_string(), Reading::Value(10_000));
    calls.kernel.by_name = vec![named("recvfrom"), named("sendto")];
    let within = compared_within(&calls, ProgramCounts::All);
    assert_eq!(within, Some(0.02));
    let (mut verdict, label) = (Verdict::default(), "epoll");
    super::check(&calls, ProgramCounts::All, label, &mut verdict);
    assert_eq!(verdict.level, Level::Valid, "none of it is a disagreement");
}

#[test]
fn entries_are_counted_with_the_calls_that_take_them() {
    let mut most = report(44_000_000, 10_000, 150_000_000);
    most.figures.io.io_uring_enter = 500;
    most.figures.io.cqe = 12_000;
    let stretch = Stretch {
        least: most,
        most,
        kernel: Counted::default(),
        unsettled: 0,
    };
    let rows = moved(&stretch, "io_uring");
    let program = |name: &str| {
        let row = rows.iter().find(|row| row.name == name).expect(name);
        row.program
    };
    assert_eq!(program("CQEs"), Some(1.2));
    assert_eq!(program(CQES_PER_ENTER), Some(24.0));
    // Counted, and none: not the same as not counted.
    for none in ["re-arms", "ENOBUFS", "CQ overflows"] {
        assert_eq!(program(none), Some(0.0), "{none}");
        let elsewhere = moved(&stretch, "epoll");
        assert!(!elsewhere.iter().any(|row| row.name == none), "{none}");
    }
}

#[test]
fn counters_that_took_turns_are_named_in_their_column() {
    let stretch = report(44_000_000, 10_000, 150_000_000);
    let shares = [("cache misses", 0.43), ("branch misses", 0.57)];
    let mut counting = block(0, 0, 4000.0);
    counting.pass = Pass::Counts;
    let counted = |multiplexed| {
        Some(Stretch {
            least: stretch,
            most: stretch,
            kernel: Counted {
                cache_misses: Reading::Value(20_000),
                multiplexed,
                ..Counted::default()
            },
            unsettled: 0,
        })
    };
    counting.calls = counted(Vec::new());
    counting.work = counted(shares.map(|(name, share)| (name.to_string(), share)).into());
    let columns = counts(&plan(), &[counting], &mut Verdict::default());
    let named = columns[0].multiplexed.iter();
    let named: Vec<_> = named.map(|(name, share)| (&**name, *share)).collect();
    assert_eq!(named, shares);
    let misses = |row: &&CountRow| row.name == "cache misses";
    let misses = columns[0].rows.iter().find(misses);
    assert_eq!(misses.map(|row| &row.kernel), Some(&Reading::Value(2.0)));
}

#[test]
fn what_the_kernel_does_not_count_is_missing_and_has_no_price() {
    let (columns, verdict) = counted(Reading::missing("a test"), 0);
    assert_eq!(verdict.level, Level::Valid);
    assert_eq!(columns[0].price_of_tracing, None);
    let counted = ["system calls", "recv", "futex", "context switches"];
    let rows = || columns[0].rows.iter();
    for row in rows().filter(|row| counted.contains(&&*row.name)) {
        assert_eq!(row.kernel.value(), None, "{}: never 0", row.name);
    }
    assert_eq!(columns[0].rows[0].kernel, Reading::missing("a test"));
}
