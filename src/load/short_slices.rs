//! The generator's threads get their core sooner than others that share it.
//!
//! Who wakes with a request to send must not wait until another thread's slice is over: some
//! milliseconds, in which ten requests fall due. A thread may ask for slices shorter than the others'
//! without any privilege, and then takes the core from them when it wakes, as long as it has not had
//! more than its share (sched_setattr(2), `sched_runtime` of SCHED_OTHER; Linux 6.12, and 6.13 on all
//! architectures; before that it is taken and has no effect).

use std::io;

use nix::errno::Errno;

/// The shortest there is, in nanoseconds (kernel/sched/syscalls.c clamps to it).
const SLICE_NS: u64 = 100_000;

/// Asks for them for the calling thread. Its policy and niceness stay; a thread of another policy than
/// the usual one is left alone, since somebody chose it.
///
/// # Errors
/// The kernel's. The thread then waits for its core as others do, which the audit looks at.
pub(super) fn ask() -> io::Result<()> {
    let mut attributes = get()?;
    if attributes.sched_policy != libc::SCHED_OTHER as u32 {
        return Ok(());
    }
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: the kernel reads a whole `sched_attr`, of the size that it says, and keeps nothing of it.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    Errno::result(set)?;
    Ok(())
}

/// Those of the calling thread.
fn get() -> io::Result<libc::sched_attr> {
    const SIZE: usize = size_of::<libc::sched_attr>();
    // SAFETY: it is made of numbers, for all of which 0 is one.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most SIZE bytes there, and keeps nothing of it.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    Errno::result(got)?;
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a thread of its own, as it stays with the thread.
    #[test]
    fn slices_are_short_and_the_rest_stays() {
        let apart = std::thread::spawn(|| {
            // Anybody may be nicer.
            // SAFETY: setpriority(2) touches no memory.
            assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 7) }, 0);
            let before = get().expect("every thread has some");
            ask().expect("nobody forbids it");
            (before, get().expect("every thread has some"))
        });
        let (before, after) = apart.join().expect("it does not panic");
        assert_eq!((before.sched_nice, after.sched_nice), (7, 7));
        assert_eq!(after.sched_policy, before.sched_policy);
        // Before Linux 6.12 slices are all alike, and reported as 0.
        if before.sched_runtime > 0 {
            assert_eq!(after.sched_runtime, SLICE_NS);
        }
    }
}
