//! A guest that looks for what the last request left, and then leaves what it can.
//!
//! It answers `clean`, or what it found first. What it leaves differs from request to request, as the
//! four bytes of the body say: marks on pages all over its memory, filled ranges across pages, copies,
//! other values in all its globals, other entries in its table, more memory with marks in it. Each
//! request first reads all of its memory, so nothing can hide.

use super::*;
use crate::sandbox::counted::Counted;

/// Requests in a row that find nothing.
const ROUNDS: u32 = 10_000;

/// Two of its three pages of 64 KiB are looked at from end to end; the first holds the request.
const MEMORY: u32 = 3 * 65536;
const LOOKED_AT: u32 = 65536;
/// A text that stands there from the beginning, in the middle of zeros.
const TEXT_AT: u32 = 2 * 65536 - 8;
const FINDINGS: [&str; 5] = ["clean ", "memory", "global", "grown ", "table "];

/// What a guest may leave.
const ALL: [&str; 4] = ["memory", "global", "grown", "table"];
/// The same without what `reset` does not take.
const WITHOUT_TABLE: [&str; 3] = ["memory", "global", "grown"];

/// A guest that looks for everything and leaves these of it.
fn prying(leaves: &[&str]) -> String {
    let found = |which: &str| {
        let nth = FINDINGS
            .iter()
            .position(|finding| finding.trim_end() == which);
        let text = TEXTS + 6 * nth.expect("it is listed") as u32;
        let body = RECORD + 12;
        format!(
            "(then (i32.store (i32.const {body}) (i32.const {text})) (return (i32.const {RECORD})))"
        )
    };
    let look = format!(
        "(if (i32.ne (memory.size) (i32.const 3)) {grown})
        (if (i32.or (i32.ne (global.get $calls) (i32.const 0))
            (i32.or (i64.ne (global.get $wide) (i64.const 7))
            (i32.or (f64.ne (global.get $float) (f64.const 1.5))
                (v128.any_true (v128.xor (global.get $vector) (v128.const i64x2 3 4))))))
            {global})
        (if (i32.or (ref.is_null (table.get $t (i32.const 0)))
            (i32.ne (table.size $t) (i32.const 2))) {table})
        ;; all bytes are zero but the text's
        (local.set $at (i32.const {LOOKED_AT}))
        (loop $words
            (if (i64.ne (i64.load (local.get $at))
                (select (i64.const 0x6867666564636261) (i64.const 0)
                    (i32.eq (local.get $at) (i32.const {TEXT_AT})))) {memory})
            (local.set $at (i32.add (local.get $at) (i32.const 8)))
            (br_if $words (i32.lt_u (local.get $at) (i32.const {MEMORY}))))",
        grown = found("grown"),
        global = found("global"),
        table = found("table"),
        memory = found("memory"),
    );
    // As many marks as the lowest bits say; now and then a range, a copy.
    let marks = format!(
        "(local.set $left (i32.and (local.get $seed) (i32.const 31)))
        (loop $marks
            (local.set $seed (i32.add (i32.const 12345)
                (i32.mul (local.get $seed) (i32.const 1103515245))))
            (i32.store8 (i32.add (i32.const {LOOKED_AT})
                (i32.rem_u (local.get $seed) (i32.const {span}))) (i32.const 0xff))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $marks (i32.gt_s (local.get $left) (i32.const 0))))
        (if (i32.eqz (i32.and (local.get $seed) (i32.const 0x70000)))
            (then (memory.fill (i32.const {fill_at}) (i32.const 1) (i32.const 20000))))
        (if (i32.eqz (i32.and (local.get $seed) (i32.const 0x700000)))
            (then (memory.copy (i32.const {copy_to}) (i32.const {TEXT_AT}) (i32.const 9000))))",
        span = MEMORY - LOOKED_AT,
        fill_at = LOOKED_AT + 30_001,
        copy_to = MEMORY - 12_345,
    );
    // One request in eight grows, looks at what it got, and fills it.
    let growth = format!(
        "(if (i32.eqz (i32.and (local.get $seed) (i32.const 0xe0)))
            (then (if (i32.ne (memory.grow (i32.const 1)) (i32.const -1)) (then
                (local.set $at (i32.const {MEMORY}))
                (loop $words
                    (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) {grown})
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (br_if $words (i32.lt_u (local.get $at) (i32.const {end}))))
                (memory.fill (i32.const {MEMORY}) (i32.const 2) (i32.const 65536))))))",
        grown = found("grown"),
        end = MEMORY + 65536,
    );
    let globals = "(global.set $calls (local.get $seed))
        (global.set $wide (i64.extend_i32_u (local.get $seed)))
        (global.set $float (f64.convert_i32_u (local.get $seed)))
        (global.set $vector (i32x4.splat (local.get $seed)))";
    let tables = "(table.set (i32.const 0) (ref.null func))
        (drop (table.grow (ref.func $handle) (i32.const 1)))";
    let leave: String = [
        ("grown", &*growth),
        ("global", globals),
        ("table", tables),
        ("memory", &*marks),
    ]
    .into_iter()
    .filter_map(|(kind, code)| leaves.contains(&kind).then_some(code))
    .collect();
    let handle = format!(
        "(local $at i32) (local $left i32) (local $seed i32)
        ;; the four bytes of the body
        (local.set $seed (i32.load (i32.add (i32.const {}) (i32.load (i32.const {})))))
        {look} {leave} (i32.const {RECORD})",
        AREA + 8,
        AREA + 8 + 20,
    );
    let record = record(0, 200, (0, 0), (TEXTS, 6));
    let more = format!(
        "(table $t 2 funcref) (elem (i32.const 0) func $handle $handle)
        (data (i32.const {TEXT_AT}) \"abcdefgh\")
        (global $wide (mut i64) (i64.const 7))
        (global $float (mut f64) (f64.const 1.5))
        (global $vector (mut v128) (v128.const i64x2 3 4))"
    );
    guest(record, FINDINGS.concat().as_bytes(), &handle)
        .replace("(export \"memory\") 1)", "(export \"memory\") 3)")
        .replace("(func (export", "(func $handle (export")
        .replace("(table 1 funcref)", &more)
}

/// What the requests found, each finding once.
fn findings(leaves: &[&str], isolation: Isolation, rounds: u32) -> Vec<String> {
    findings_of(&prying(leaves), isolation, rounds)
}

fn findings_of(guest: &str, isolation: Isolation, rounds: u32) -> Vec<String> {
    findings_within(&limits(), guest, isolation, rounds)
}

fn findings_within(limits: &Limits, guest: &str, isolation: Isolation, rounds: u32) -> Vec<String> {
    let mut sandbox = Sandbox::new(shard(guest, isolation, limits)).expect("a timer");
    answers(rounds, |round| {
        let answer = call(&mut sandbox, BAD, &seed(round).to_le_bytes());
        answer.map(|(_, _, body)| body)
    })
}

/// Neighbours differ in all their bits; the first leaves something of each kind.
fn seed(round: u32) -> u32 {
    round.wrapping_mul(0x9e37_79b9) ^ (round >> 3)
}

/// What was answered in so many rounds, each finding once.
fn answers(rounds: u32, mut ask: impl FnMut(u32) -> Result<Vec<u8>, Failure>) -> Vec<String> {
    let mut findings = Vec::new();
    for round in 0..rounds {
        let body = ask(round).expect("it looks and answers");
        let finding = String::from_utf8(body)
            .expect("a word")
            .trim_end()
            .to_owned();
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }
    findings
}

#[test]
fn reset_leaves_nothing() {
    // With growth an instance does not live long.
    for leaves in [&WITHOUT_TABLE[..], &["memory", "global"]] {
        assert_eq!(findings(leaves, Isolation::Reset, ROUNDS), ["clean"]);
    }
}

#[test]
fn fresh_leaves_nothing() {
    assert_eq!(findings(&ALL, Isolation::Fresh, ROUNDS), ["clean"]);
}

/// Who grows, or leaves as much as that, has most stores alone: here is one who leaves little.
#[test]
fn fresh_leaves_nothing_to_the_next_in_a_store() {
    let little = [
        ("(drop (table.grow (ref.func $handle) (i32.const 1)))", ""),
        ("(i32.const 131072)))", "(i32.const 8192)))"),
        ("(i32.const 0x70000)", "(i32.const -1)"),
        ("(i32.const 0x700000)", "(i32.const -1)"),
    ];
    let guest = little.into_iter().fold(
        prying(&["memory", "global", "table"]),
        |guest, (much, little)| {
            assert!(guest.contains(much), "{much}");
            guest.replacen(much, little, 1)
        },
    );
    let shard = shard(&guest, Isolation::Fresh, &limits());
    let mut sandbox = Sandbox::new(Arc::clone(&shard)).expect("a timer");
    let full_stores = (0..ROUNDS).filter(|round| {
        let seen = call(&mut sandbox, BAD, &seed(*round).to_le_bytes());
        let seen = seen.expect("it looks and answers").2;
        assert_eq!(seen, FINDINGS[0].as_bytes(), "{round}");
        kept_in(&shard) == 7
    });
    assert_eq!(full_stores.count(), ROUNDS as usize / 8);
}

/// A module with much data gets its memories from wasmtime's pool.
#[test]
fn fresh_leaves_nothing_of_a_module_with_much_data() {
    let data = format!("(data \"{}\") (global $wide", "x".repeat(65 * 1024));
    let guest = prying(&ALL).replacen("(global $wide", &data, 1);
    assert_eq!(findings_of(&guest, Isolation::Fresh, ROUNDS), ["clean"]);
}

#[test]
fn on_demand_leaves_nothing() {
    assert_eq!(findings(&ALL, Isolation::OnDemand, ROUNDS), ["clean"]);
}

/// What is written of them is more than is protected again now and then only: see `written_pages`.
#[test]
fn large_memories_of_which_much_is_written_keep_nothing() {
    let large = |pages: u32| {
        let small = prying(&["memory", "global"]);
        let grown = [
            (
                "(export \"memory\") 3)".to_string(),
                format!("(export \"memory\") {pages})"),
            ),
            (
                "(memory.size) (i32.const 3)".to_string(),
                format!("(memory.size) (i32.const {pages})"),
            ),
            // What is looked at, and what is marked.
            (
                format!("(i32.const {MEMORY})"),
                format!("(i32.const {})", pages * 65536),
            ),
            (
                format!("(i32.const {})))", MEMORY - LOOKED_AT),
                format!("(i32.const {})))", pages * 65536 - LOOKED_AT),
            ),
            (
                "(i32.const 1) (i32.const 20000)".to_string(),
                "(i32.const 1) (i32.const 300000)".to_string(),
            ),
        ];
        grown.into_iter().fold(small, |guest, (small, large)| {
            assert!(guest.contains(&small), "{small}");
            guest.replace(&small, &large)
        })
    };
    let guest = large(10);
    let mut limits = limits();
    limits.set_memory(10 * 65536);
    for isolation in [Isolation::Reset, Isolation::Fresh] {
        let found = findings_within(&limits, &guest, isolation, ROUNDS);
        assert_eq!(found, ["clean"], "{isolation}");
    }
    let found = findings_within(&limits, &guest, Isolation::Reuse, 2);
    assert_eq!(found, ["clean", "global"]);
}

/// Looks at its request area behind its own request, where longer ones have been. (Its marks' page is another.)
#[test]
fn a_longer_request_leaves_nothing_behind_a_shorter_one() {
    let look = format!(
        "(local $at i32)
        (local.set $at (i32.add (i32.const {}) (local.get $length)))
        (loop $bytes
            (if (i32.load8_u (local.get $at))
                (then (i32.store (i32.const {}) (i32.const {})) (return (i32.const {RECORD}))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br_if $bytes (i32.lt_u (local.get $at) (i32.const {}))))
        (i32.const {RECORD})",
        AREA + 8,
        RECORD + 12,
        TEXTS + 6,
        AREA + 8 + CAPACITY,
    );
    let record = record(0, 200, (0, 0), (TEXTS, 6));
    let guest = guest(record, FINDINGS.concat().as_bytes(), &look);
    let found = |isolation, rounds| {
        let mut sandbox = sandbox(&guest, isolation);
        answers(rounds, |round| {
            let body = vec![0xff; (seed(round) % 3000) as usize];
            call(&mut sandbox, BAD, &body).map(|(_, _, body)| body)
        })
    };
    for isolation in [Isolation::Reset, Isolation::Fresh, Isolation::OnDemand] {
        assert_eq!(found(isolation, ROUNDS), ["clean"], "{isolation}");
    }
    assert_eq!(found(Isolation::Reuse, 10), ["clean", "memory"]);
}

/// Guests on stacks of their own, suspended some hundred times each and one at a time.
#[test]
fn slices_leave_nothing() {
    // What ends them is the number of looks at the time.
    let _by_number = Counted::by(7);
    let found = |leaves: &[&str], isolation, rounds| {
        let limits = Limits {
            quantum: Some(Duration::from_secs(1)),
            ..limits()
        };
        let shard = shard(&prying(leaves), isolation, &limits);
        let mut slicer = Slicer::new(shard).expect("timers can be made");
        let (mut slices, mut requests) = (0, 0);
        let found = answers(rounds, |round| {
            let asked = slices::to_the_end(&mut slicer, BAD, &seed(round).to_le_bytes());
            (slices, requests) = (slices + asked.0, requests + 1);
            asked.1
        });
        assert!(slices > 100 * requests, "{slices} of {requests}");
        found
    };
    for (isolation, leaves) in [
        (Isolation::Reset, &WITHOUT_TABLE[..]),
        (Isolation::Fresh, &ALL),
        (Isolation::OnDemand, &ALL),
    ] {
        assert_eq!(
            found(leaves, isolation, ROUNDS / 10),
            ["clean"],
            "{isolation}"
        );
    }
    assert_eq!(found(&["memory"], Isolation::Reuse, 3), ["clean", "memory"]);
}

/// The same guest finds all that it leaves, so elsewhere it would have found it too.
#[test]
fn reuse_leaves_everything() {
    for kind in ALL {
        assert_eq!(findings(&[kind], Isolation::Reuse, 2), ["clean", kind]);
    }
}
