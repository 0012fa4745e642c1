//! Handlers in WebAssembly's text format, made to be served from a file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file of this test run's own, gone when it is dropped.
pub struct File(PathBuf);

impl File {
    /// A file with this content. `name` is the end of its name.
    pub fn new(name: &str, content: impl AsRef<[u8]>) -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let unique = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("lab-{}-{unique}-{name}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, content).expect("cargo made the directory");
        Self(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("cargo's directories are text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Where a guest's record, its header line, its body and its request area lie.
const RECORD: u32 = 64;
const LINE: u32 = 128;
const BODY: u32 = 192;
const AREA: u32 = 1024;
/// Where the request's body length stands: the seventh word of the request.
const BODY_LENGTH: u32 = AREA + 8 + 24;

/// Writes one word of the record; `at` is its place there.
pub fn store(at: u32, word: u32) -> String {
    format!("(i32.store (i32.const {}) (i32.const {word}))", RECORD + at)
}

/// Writes over the header line, which is `a: 1` with CR LF.
pub fn header_line(line: &[u8; 6]) -> String {
    let bytes = line.iter().enumerate();
    let store = |(at, byte)| {
        let at = LINE + at as u32;
        format!("(i32.store8 (i32.const {at}) (i32.const {byte}))")
    };
    bytes.map(store).collect()
}

/// A guest of four pages that answers `fine`, but does `worst[n - 1]` first when the request has a
/// body of n bytes.
pub fn misbehaving<'a>(worst: impl IntoIterator<Item = &'a str>) -> String {
    let mut cases = String::new();
    for (nth, worst) in worst.into_iter().enumerate() {
        cases += &format!(
            "(if (i32.eq (i32.load (i32.const {BODY_LENGTH})) (i32.const {})) (then {worst}))\n",
            nth + 1
        );
    }
    answering(&cases)
}

/// A guest of four pages that answers `fine`, and has grown by one before.
pub fn growing() -> String {
    answering("(drop (memory.grow (i32.const 1)))")
}

/// A guest of four pages that answers `fine`, and does that `first`.
fn answering(first: &str) -> String {
    format!(
        r#"(module
            (memory (export "memory") 4)
            (global (export "ringlab_v1") i32 (i32.const {AREA}))
            (data (i32.const {AREA}) "\00\10\00\00")
            (data (i32.const {RECORD}) "\00\00\c8\00"
                "\{LINE:02x}\00\00\00" "\06\00\00\00" "\{BODY:02x}\00\00\00" "\04\00\00\00")
            (data (i32.const {LINE}) "a: 1\0d\0a")
            (data (i32.const {BODY}) "fine")
            (table 1 funcref)
            (type $nothing (func))
            (func $deeper (param i32) (result i32)
                (i32.add (i32.const 1) (call $deeper (local.get 0))))
            (func (export "handle") (param i32) (result i32)
                {first}
                (i32.const {RECORD})))"#
    )
}
