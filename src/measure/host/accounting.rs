//! How the kernel finds out what used the CPU: at each tick, or at every change between user and kernel.

use super::{Files, MOST_BYTES};
use crate::measure::reading::Reading;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// From the running kernel's own configuration, else from the one installed beside it.
pub(super) fn cpu_accounting(files: &Files, release: &Reading<String>) -> Reading<String> {
    let config = if files.exists("proc/config.gz") {
        unzip(files.root.join("proc/config.gz"))
    } else {
        release.as_ref().and_then(
            |release| match files.text(&format!("boot/config-{release}")) {
                Reading::Missing(reason) => {
                    Reading::Missing(format!("no /proc/config.gz, and {reason}"))
                }
                text => text,
            },
        )
    };
    config.and_then(|config| accounting_of(&config, nohz_full(files)))
}

/// By the gzip command, which every distribution has: one file, once a run, is not worth a crate.
fn unzip(path: PathBuf) -> Reading<String> {
    let unzip = || -> io::Result<String> {
        let mut child = Command::new("gzip")
            .arg("-dc")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut text = String::new();
        // Taken, so that the pipe is closed before waiting, whatever was left unread.
        let stdout = child.stdout.take().expect("piped above");
        let read = stdout.take(MOST_BYTES).read_to_string(&mut text);
        let status = child.wait()?;
        read?;
        if status.success() {
            Ok(text)
        } else {
            Err(io::Error::other(status.to_string()))
        }
    };
    match unzip() {
        Ok(text) => Reading::Value(text),
        Err(error) => Reading::missing(format!("gzip -dc /proc/config.gz: {error}")),
    }
}

/// The options of init/Kconfig, "CPU/Task time and stats accounting". Generic virtual accounting
/// only works on nohz_full cores; all others fall back to the tick.
fn accounting_of(config: &str, nohz_full: Reading<String>) -> Reading<String> {
    let is_set = |option: &str| {
        config
            .lines()
            .any(|line| line.strip_prefix(option) == Some("=y"))
    };
    let on_some = nohz_full.value().is_some_and(|cores| cores != "none");
    let base = if is_set("CONFIG_VIRT_CPU_ACCOUNTING_NATIVE") {
        "virtual"
    } else if is_set("CONFIG_VIRT_CPU_ACCOUNTING_GEN") && on_some {
        "virtual on nohz_full cores, tick on others"
    } else if is_set("CONFIG_VIRT_CPU_ACCOUNTING_GEN") || is_set("CONFIG_TICK_CPU_ACCOUNTING") {
        "tick"
    } else {
        return Reading::missing("the kernel's configuration names no CPU accounting");
    };
    let irq = if is_set("CONFIG_IRQ_TIME_ACCOUNTING") {
        "IRQ time apart"
    } else {
        "IRQ time charged to what it interrupts"
    };
    Reading::Value(format!("{base}; {irq}"))
}

/// The kernel prints `(null)` for an empty list here.
pub(super) fn nohz_full(files: &Files) -> Reading<String> {
    files
        .text("sys/devices/system/cpu/nohz_full")
        .map(|cores| match cores.as_str() {
            "" | "(null)" => "none".into(),
            _ => cores,
        })
}
