//! The sandbox from outside: guests in text form that behave, misbehave and lie. Here are the guests, and
//! how they are called; what they are called for is in a file for each subject.

mod answers;
mod deadlines;
mod failures;
mod growth;
mod instances;
mod leaks;
mod loading;
mod refusals;
mod slices;
mod steady;

use super::*;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use std::io::IoSliceMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Where a test's guest keeps its record, its texts and its request area.
const RECORD: u32 = 64;
const TEXTS: u32 = 128;
const AREA: u32 = 1024;
const CAPACITY: u32 = 4096;

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: here\r\n\r\n";
/// A request with a body, at which a guest made by [`misbehaving`] does its worst.
const BAD: &str = "POST /bad HTTP/1.1\r\nHost: here\r\n\r\n";

/// Every isolation that has a sandbox.
const SANDBOXED: [Isolation; 4] = [
    Isolation::Reuse,
    Isolation::Reset,
    Isolation::Fresh,
    Isolation::OnDemand,
];

/// An answer's status, header lines and body, owned.
type Parts = (u16, Vec<u8>, Vec<u8>);

fn limits() -> Limits {
    let mut limits = Limits {
        response_bytes: 3000,
        instances: 2,
        ..Limits::default()
    };
    limits.set_memory(4 * 65536);
    limits
}

/// A module of one page. `handle` is its function's body, after `(param $length i32)`; `record`
/// lies at [`RECORD`] and `texts` at [`TEXTS`].
fn guest(record: [u8; 24], texts: &[u8], handle: &str) -> String {
    let data = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("\\{b:02x}")).collect() };
    format!(
        "(module
            (memory (export \"memory\") 1)
            (global (export \"ringlab_v1\") i32 (i32.const {AREA}))
            (data (i32.const {AREA}) \"{}\")
            (data (i32.const {RECORD}) \"{}\")
            (data (i32.const {TEXTS}) \"{}\")
            (global $calls (mut i32) (i32.const 0))
            (table 1 funcref)
            (type $other (func (result i64)))
            (func $deeper (param i32) (result i32)
                (i32.add (i32.const 1) (call $deeper (local.get 0))))
            (func (export \"handle\") (param $length i32) (result i32) {handle}))",
        data(&CAPACITY.to_le_bytes()),
        data(&record),
        data(texts),
    )
}

/// A record: kind, status, and address and length of header lines and body.
fn record(kind: u16, status: u16, lines: (u32, u32), body: (u32, u32)) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..2].copy_from_slice(&kind.to_le_bytes());
    bytes[2..4].copy_from_slice(&status.to_le_bytes());
    for (at, word) in [lines.0, lines.1, body.0, body.1].into_iter().enumerate() {
        bytes[4 + 4 * at..][..4].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Answers "a: 1" and "fine", but to a request with a body does what `worst` says.
fn misbehaving(worst: &str) -> String {
    guest(
        record(0, 200, (TEXTS, 6), (TEXTS + 6, 4)),
        b"a: 1\r\nfine",
        &format!(
            "(if (i32.load (i32.const {})) (then {worst})) (i32.const {RECORD})",
            AREA + 8 + 24
        ),
    )
}

/// Refuses header lines with a bang in them.
fn check_lines(lines: &[u8]) -> Result<(), &'static str> {
    if lines.contains(&b'!') {
        Err("a bang")
    } else {
        Ok(())
    }
}

fn load(text: &str, isolation: Isolation, limits: &Limits) -> Result<Handler, LoadError> {
    let directory = std::env::temp_dir();
    static FILES: AtomicUsize = AtomicUsize::new(0);
    let unique = FILES.fetch_add(1, Ordering::Relaxed);
    let path = directory.join(format!("ringlab-{}-{unique}.wat", std::process::id()));
    std::fs::write(&path, text).expect("the temporary directory is writable");
    let handler = Handler::load(&Source::File(path.clone()), isolation, limits);
    std::fs::remove_file(path).expect("the file was there");
    handler
}

fn shard(text: &str, isolation: Isolation, limits: &Limits) -> Arc<ShardSandbox> {
    let handler = load(text, isolation, limits).unwrap_or_else(|error| panic!("{error}"));
    ShardSandbox::new(&handler, check_lines).expect("it was loaded before")
}

fn sandbox(text: &str, isolation: Isolation) -> Sandbox {
    Sandbox::new(shard(text, isolation, &limits())).expect("a timer can be made")
}

fn call(sandbox: &mut Sandbox, head: &str, body: &[u8]) -> Result<Parts, Failure> {
    call_taking(sandbox, head, body, |answer| {
        answer.map(|a| (a.status, a.header_lines.to_vec(), a.body.to_vec()))
    })
}

fn call_taking<R>(
    sandbox: &mut Sandbox,
    head: &str,
    body: &[u8],
    take: impl FnOnce(Result<Answer<'_>, Failure>) -> R,
) -> R {
    parsed(head, body, |call| sandbox.call(call, take))
}

fn parsed<R>(head: &str, body: &[u8], work: impl FnOnce(&Call<'_>) -> R) -> R {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(head.as_bytes()).expect("a valid head");
    assert!(parsed.is_complete());
    let call = Call {
        method: request.method.expect("complete"),
        target: request.path.expect("complete"),
        head: head.as_bytes(),
        headers: request.headers,
        body,
    };
    work(&call)
}

fn fine() -> Result<Parts, Failure> {
    Ok((200, b"a: 1\r\n".to_vec(), b"fine".to_vec()))
}

/// A guest that does `worst` on one request fails that request as `expected` and no other.
fn check(worst: &str, expected: Failure) {
    check_on(&SANDBOXED, worst, expected);
}

fn check_on(isolations: &[Isolation], worst: &str, expected: Failure) {
    for &isolation in isolations {
        let mut sandbox = sandbox(&misbehaving(worst), isolation);
        for _ in 0..3 {
            assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{worst}");
            assert_eq!(call(&mut sandbox, BAD, b"x"), Err(expected), "{worst}");
        }
        assert_eq!(call(&mut sandbox, GOOD, b""), fine(), "{worst}");
    }
}

fn trap(class: &'static str) -> Failure {
    Failure::Trap { class }
}

/// Answers how many requests this instance has seen: in its memory, a global and a table.
fn counting() -> String {
    guest(
        record(0, 200, (0, 0), (TEXTS, 1)),
        b"0",
        &format!(
            "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
             (i32.store8 (i32.const {TEXTS}) (i32.add (i32.load8_u (i32.const {TEXTS}))
                (i32.const 1)))
             (if (i32.ne (i32.sub (i32.load8_u (i32.const {TEXTS})) (i32.const 48))
                         (global.get $calls)) (then unreachable))
             (i32.const {RECORD})"
        ),
    )
}

/// Where a shard's instances of `fresh` have their memories from.
fn memories(shard: &ShardSandbox) -> &Arc<memories::Memories> {
    match &shard.runner {
        slots::Runner::Wasm(blueprint) => blueprint.home.watched().expect("lent"),
        slots::Runner::Native(_) => unreachable!("these are of wasm"),
    }
}

/// How many of them are kept in stores beside the last one of each.
fn kept_in(shard: &ShardSandbox) -> usize {
    memories(shard).kept()
}

/// Whether the byte at `address` can be read.
pub(super) fn is_open(address: usize) -> bool {
    let remote = RemoteIoVec {
        base: address,
        len: 1,
    };
    let mut byte = [0];
    let own = nix::unistd::getpid();
    process_vm_readv(own, &mut [IoSliceMut::new(&mut byte)], &[remote]).is_ok()
}
