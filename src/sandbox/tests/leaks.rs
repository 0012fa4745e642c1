//! A guest that looks for what the last request left, and then leaves what it can.
//!
//! It answers `clean`, or what it found first. What it leaves differs from request to request, as the
//! four bytes of the body say: marks on pages all over its memory, filled ranges across pages, copies,
//! other values in all its globals, other entries in its table, more memory with marks in it. Each
//! request first reads all of its memory, so nothing can hide.

use super::*;

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
    let mut sandbox = sandbox(guest, isolation);
    let mut findings = Vec::new();
    for round in 0..rounds {
        // Neighbours differ in all their bits; the first leaves something of each kind.
        let seed = round.wrapping_mul(0x9e37_79b9) ^ (round >> 3);
        let answer = call(&mut sandbox, BAD, &seed.to_le_bytes());
        let (_, _, body) = answer.expect("it looks and answers");
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
        let seed = round.wrapping_mul(0x9e37_79b9) ^ (round >> 3);
        let seen = call(&mut sandbox, BAD, &seed.to_le_bytes());
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

/// The same guest finds all that it leaves, so elsewhere it would have found it too.
#[test]
fn reuse_leaves_everything() {
    for kind in ALL {
        assert_eq!(findings(&[kind], Isolation::Reuse, 2), ["clean", kind]);
    }
}
