//! Files that are whole or not there: written beside, synced, renamed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Held while a file is being written.
static WRITING: Mutex<()> = Mutex::new(());

/// Waits for whoever writes a file, and keeps others from beginning: a process that ends while this
/// is held leaves nothing half-written behind.
pub fn nothing_half_written() -> MutexGuard<'static, ()> {
    // It guards no data that a panic could have left wrong.
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a file could be written at `path`: asked before the work whose result goes there.
///
/// # Errors
/// What [`write_whole`] would say.
pub fn check_writable(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    let temporary = beside(path);
    File::options()
        .write(true)
        .create_new(true)
        .open(&temporary)?;
    fs::remove_file(&temporary)
}

fn beside(path: &Path) -> PathBuf {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(temporary)
}

/// Writes a file so that it holds either all of `bytes` or what it held before.
///
/// # Errors
/// The directory cannot be written to, or is full. Nothing half-written is left.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _writing = nothing_half_written();
    let temporary = beside(path);
    let write = || {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    // The name is safe only once the directory is; that it cannot be synced is no loss of data.
    if let Some(Ok(directory)) = path.parent().map(File::open) {
        let _ = directory.sync_all();
    }
    Ok(())
}
