//! A directory that stands in for `/` in the tests of gauges and of the host's fingerprint.
//! Removed when dropped.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, process};

pub struct Fixture {
    root: PathBuf,
}

impl Fixture {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let unique = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = env::temp_dir().join(format!("ringlab-fixture-{}-{unique}", process::id()));
        fs::create_dir(&root).expect("a directory of this name cannot exist yet");
        Self { root }
    }

    /// Writes one file below the root, with the directories it needs.
    pub fn with(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.root.join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        fs::write(path, content).expect("the fixture's file");
        self
    }

    pub fn root(&self) -> &Path {
        &self.root
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // A leftover directory must not turn a passing test into an abort.
        let _ = fs::remove_dir_all(&self.root);
    }
}
