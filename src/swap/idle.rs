//! Compiling where it disturbs nobody: on a thread that the kernel runs when no other wants the core.
//!
//! Only compiling: whoever holds a lock of the process at idle priority would hold up all who want it,
//! so engines are made and taken down at the ordinary one.

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::Refusal;
use crate::sandbox::{Handler, Isolation, Limits, Source};

/// How long idle priority is tried. On a machine whose cores never rest, as under busy polling, it
/// gets a few thousandths of one.
const IDLE: Duration = Duration::from_secs(1);

/// [`Handler::load`], on an idle thread of its own; if that gets no time, on one that is not idle
/// besides, whichever is done first. (A thread that has become idle may not come back: sched(7),
/// RLIMIT_NICE.)
///
/// # Errors
/// The handler cannot be loaded.
pub fn load(source: &Source, isolation: Isolation, limits: &Limits) -> Result<Handler, Refusal> {
    let (tell, loaded) = sync_channel(2);
    let compile = |idle: bool| {
        let (tell, source, limits) = (tell.clone(), source.clone(), limits.clone());
        thread::Builder::new()
            .name("compile".to_owned())
            .stack_size(limits.compiler_stack_bytes())
            .spawn(move || {
                if idle {
                    become_idle();
                }
                let handler = Handler::load(&source, isolation, &limits);
                // The other one may have been first.
                let _ = tell.send(handler);
            })
            .map_err(|error| Refusal(format!("no thread can be started to compile: {error}")))
    };
    compile(true)?;
    let first = match loaded.recv_timeout(IDLE) {
        Err(RecvTimeoutError::Timeout) => {
            compile(false)?;
            drop(tell);
            loaded.recv().map_err(|_| RecvTimeoutError::Disconnected)
        }
        first => first,
    };
    match first {
        Ok(handler) => Ok(handler?),
        Err(_) => Err("the compiler panicked; please report what it said".into()),
    }
}

fn become_idle() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the call reads the one structure, and 0 means the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
    if result != 0 {
        let error = std::io::Error::last_os_error();
        tracing::warn!(%error, "a module is compiled at the ordinary priority");
    }
}
