//! `inspect`: what a module is, and why an isolation refuses it.

use std::process::Command;

use crate::guests::{File, misbehaving};
use crate::server::PROGRAM;

/// Inspects `handler`: the exit code, and what is said on either stream.
fn inspect(handler: &str) -> (Option<i32>, String) {
    let output = Command::new(PROGRAM).args(["inspect", handler]).output();
    let output = output.expect("the program can be started");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).expect("it speaks UTF-8");
    // A path takes the room that it needs, and so does an error.
    let bounded = |line: &&str| !line.contains("module ") && !line.starts_with("ringlab: ");
    let widest = said.lines().filter(bounded).map(str::len).max();
    assert!(widest <= Some(80), "{said}");
    // As one line what is one.
    let said = said.replace("\n            ", " ");
    (output.status.code(), said)
}

fn check(handler: &str, code: i32, words: &[&str]) {
    let (ended, said) = inspect(handler);
    assert_eq!(ended, Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

fn check_file(name: &str, content: impl AsRef<[u8]>, code: i32, words: &[&str]) {
    check(File::new(name, content).path(), code, words);
}

#[test]
fn a_builtin_is_taken_by_all() {
    let words = [
        "binary",
        "ABI         ringlab, version 1",
        "imports     none",
        "handle: function",
        "65536 bytes at first, never more",
        "native      takes it",
        "reuse       takes it",
        "reset       takes it",
        "fresh       takes it",
        "on-demand   takes it",
    ];
    check("hello", 0, &words);
}

#[test]
fn what_reset_cannot_put_back_is_named_and_other_sandboxes_take_it() {
    let guest = misbehaving([
        "(drop (table.grow (ref.null func) (i32.const 1)))",
        "(table.set (i32.const 0) (ref.null func))",
    ]);
    let words = [
        "its code has table.grow, table.set",
        "reuse       takes it",
        "reset       does not: isolation reset cannot put all of its state back: a table changes \
         (table.grow, first in function 1); a table changes (table.set, first in function 1); \
         choose isolation fresh",
        "fresh       takes it",
        "on-demand   takes it",
    ];
    check_file("tables.wat", guest, 0, &words);
}

#[test]
fn a_file_is_not_linked_in() {
    let guest = misbehaving(["(drop (memory.grow (i32.const 1)))"]);
    let words = [
        "text",
        "262144 bytes at first, without a maximum `serve` lets it grow to 4194304 bytes, or to what \
         --memory says",
        "1 entries of funcref",
        "its code has memory.grow",
        "native      does not: isolation native runs handlers that are linked in",
        "reuse       takes it",
    ];
    check_file("plain.wat", guest, 0, &words);
}

#[test]
fn a_large_memory_is_taken_and_does_not_grow() {
    let guest = misbehaving(["(drop (memory.grow (i32.const 1)))"]);
    let large = |pages| guest.replace("\"memory\") 4", &format!("\"memory\") {pages}"));
    let words = [
        "16777216 bytes at first, without a maximum `serve` lets it grow only with --memory",
        "fresh       takes it",
    ];
    check_file("large.wat", large(256), 0, &words);
    let words = [
        "33619968 bytes at first, without a maximum\n",
        "fresh       does not: its memory starts with 33619968 bytes, over the limit of 33554432",
    ];
    check_file("too-large.wat", large(513), 2, &words);
}

#[test]
fn what_no_sandbox_takes_is_still_described() {
    let wasi = "(module (import \"wasi_snapshot_preview1\" \"fd_write\"
                    (func (param i32 i32 i32 i32) (result i32))) (memory (export \"memory\") 1))";
    let words = [
        "none: no export is called ringlab_v1",
        "wasi_snapshot_preview1.fd_write: function",
        "fresh       does not: it imports wasi_snapshot_preview1.fd_write",
        "build it without WASI",
    ];
    check_file("wasi.wat", wasi, 2, &words);
    let later = "(module (memory (export \"memory\") i64 1 1))";
    let words = [
        "64-bit addresses",
        "does not: its text is refused",
        "memory64",
    ];
    check_file("later.wat", later, 2, &words);
}

#[test]
fn what_is_no_module_is_said_in_one_line() {
    check("./no-such.wasm", 2, &["ringlab: ", "no such file"]);
    check("helo", 2, &["did you mean hello?"]);
    check_file("empty.wasm", "", 2, &["is empty"]);
    check_file("elf.wasm", "\x7fELF", 2, &["7f 45 4c 46"]);
}
