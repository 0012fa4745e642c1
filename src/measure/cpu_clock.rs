//! CPU time: of a process, of the calling thread, and of all cores together.
//!
//! The process clock is the server's exact total: it keeps threads that have
//! exited and the kernel's own io_uring workers, which are threads of the process since Linux 5.12.
//! The time of all cores stands beside it, since softirq work and polling kernel threads may run
//! elsewhere. getrusage's split into user and system is deliberately lacking: most kernels
//! sample it at the tick.

use super::reading::Reading;
use nix::errno::Errno;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;

/// The CPU clock of a process cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "cannot read the CPU clock of process {pid}: {errno}; has it ended? Read its clock before waiting for it"
)]
pub struct CpuClockError {
    pub pid: i32,
    pub errno: Errno,
}

/// CPU time in ns that a process has used since it started: user and system, all threads, also
/// those that have exited; not its children. Needs no privilege (clock_getcpuclockid(3)).
///
/// The kernel brings the clock of a *running* thread up to date only at the tick and at context
/// switches when another process asks (`thread_group_cputime` in kernel/sched/cputime.c, Linux
/// 6.18): a server that is busy at the moment of reading may read up to one tick too low per
/// running thread, 4 ms at `CONFIG_HZ=250`. Of a block of 0.45 s that is up to 0.9 %, at either end.
/// The clock is exact while the threads sleep, so a caller that can, reads it when nothing
/// is in flight.
///
/// # Errors
/// No process has this id.
pub fn process_ns(pid: i32) -> Result<u64, CpuClockError> {
    clock_getcpuclockid(Pid::from_raw(pid))
        .and_then(read_ns)
        .map_err(|errno| CpuClockError { pid, errno })
}

/// CPU time in ns that this process has used since it started, exact even while its threads run.
///
/// [`process_ns`] of oneself is as late as of another: only the calling thread's part is brought up
/// to date. But reading the clock of a single thread does bring that one up to date
/// (`task_sched_runtime` in kernel/sched/core.c), which only threads of the same process may do. So
/// each is read once before the sum is.
pub fn own_process_ns() -> u64 {
    own_threads_ns();
    read_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID).expect("Linux has had this clock since 2.6.12")
}

/// CPU time in ns of each thread of this process that has not ended, by its id.
pub fn own_threads_ns() -> Vec<(i32, u64)> {
    let threads = fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| thread.file_name().to_str()?.parse::<i32>().ok())
        // One that has ended since is in the process's sum already.
        .filter_map(|thread| Some((thread, read_ns(thread_clock(thread)).ok()?)))
        .collect()
}

/// The CPU clock of a thread of this process: the inverted id above three bits that mean "this
/// thread only" (4) and "by the scheduler's count" (2); include/linux/posix-timers_types.h.
fn thread_clock(tid: i32) -> ClockId {
    ClockId::from_raw((!tid << 3) | 4 | 2)
}

#[cfg(test)]
thread_local! {
    /// How often this thread has asked for its own time.
    pub(super) static READ: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// CPU time in ns that the calling thread has used since it started. Always up to date.
pub fn thread_ns() -> u64 {
    #[cfg(test)]
    READ.set(READ.get() + 1);
    read_ns(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has had this clock since 2.6.12")
}

fn read_ns(clock: ClockId) -> Result<u64, Errno> {
    let time = clock_gettime(clock)?;
    // CPU clocks count up from 0: neither field is ever negative.
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Non-idle time of all cores since boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NonIdle {
    pub ns: u64,
    /// The unit in which the kernel tells this time. Five sums are cut to it one by one, so a
    /// difference of two readings is right within five of these. Under tick accounting the
    /// tick also samples what ran, so only long blocks or many of them carry meaning.
    pub resolution_ns: u64,
}

/// Reads [`NonIdle`] from `proc_root/stat`; `proc_root` is `/proc` outside of tests.
///
/// User, nice, system, irq and softirq count. Idle and iowait are idle; steal is another guest's
/// time; guest and guest_nice are already within user and nice (proc_stat(5)).
pub fn non_idle(proc_root: &Path) -> Reading<NonIdle> {
    read_cores(proc_root).and_then(|cores| {
        let tick_ns = tick_ns();
        match cores.iter().find(|core| core.number.is_none()) {
            Some(all) => Reading::Value(NonIdle {
                ns: all.non_idle_ticks * tick_ns,
                resolution_ns: tick_ns,
            }),
            None => Reading::missing("/proc/stat has no line for all cores"),
        }
    })
}

/// The unit of /proc/stat in ns: 1 s / USER_HZ, 10 ms on nearly every machine. This is not the
/// kernel's own tick.
pub fn tick_ns() -> u64 {
    1_000_000_000 / procfs::ticks_per_second()
}

/// One `cpu` line of /proc/stat, in units of [`tick_ns`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CoreTicks {
    /// None: the line that sums all cores.
    pub number: Option<usize>,
    pub non_idle_ticks: u64,
    pub steal_ticks: Reading<u64>,
}

/// All `cpu` lines. Parsed here because procfs numbers cores by their place in the file, which
/// is wrong as soon as one of them is offline.
pub(super) fn read_cores(proc_root: &Path) -> Reading<Vec<CoreTicks>> {
    match fs::read_to_string(proc_root.join("stat")) {
        Ok(text) => Reading::Value(text.lines().filter_map(parse_core).collect()),
        Err(error) => Reading::missing(format!("/proc/stat: {error}")),
    }
}

fn parse_core(line: &str) -> Option<CoreTicks> {
    let (name, fields) = line.strip_prefix("cpu")?.split_once(' ')?;
    let number = match name {
        "" => None,
        digits => Some(digits.parse().ok()?),
    };
    let ticks: Vec<u64> = fields
        .split_ascii_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, rest @ ..] = ticks.as_slice() else {
        return None;
    };
    Some(CoreTicks {
        number,
        non_idle_ticks: user + nice + system + irq + softirq,
        steal_ticks: match rest.first() {
            Some(&steal) => Reading::Value(steal),
            None => Reading::missing("this kernel's /proc/stat has no steal column"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;
    use std::process::{self, Command};
    use std::thread;
    use std::time::{Duration, Instant};

    fn burn(ns: u64) {
        let start = thread_ns();
        while thread_ns() - start < ns {}
    }

    #[test]
    fn a_sleeping_process_uses_no_cpu() {
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = sleeper.id() as i32;
        // At first there is exec, whose work is real CPU time, for as long as a busy machine takes.
        let begun = Instant::now();
        let used = loop {
            let before = process_ns(pid).unwrap();
            thread::sleep(Duration::from_millis(100));
            let used = process_ns(pid).unwrap() - before;
            if used < 1_000_000 || begun.elapsed() > Duration::from_secs(10) {
                break used;
            }
        };
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(used < 1_000_000, "{used} ns");
        assert_eq!(
            process_ns(pid).map_err(|error| error.pid),
            Err(pid),
            "gone is an error, not 0"
        );
    }

    #[test]
    fn a_thread_that_burned_and_exited_still_counts() {
        const BURNED_NS: u64 = 30_000_000;
        let pid = process::id() as i32;
        let before = process_ns(pid).unwrap();
        let own_before = thread_ns();
        thread::spawn(|| burn(BURNED_NS)).join().unwrap();
        assert!(process_ns(pid).unwrap() - before >= BURNED_NS);
        assert!(thread_ns() - own_before < BURNED_NS, "not this thread's");
    }

    fn check(stat: &str, expected: Reading<u64>) {
        let fixture = Fixture::new().with("stat", stat);
        assert_eq!(
            non_idle(fixture.root()).map(|time| time.ns / time.resolution_ns),
            expected,
            "{stat}"
        );
    }

    #[test]
    fn non_idle_time_leaves_out_idle_iowait_steal_and_guest() {
        check(
            "cpu  1 20 300 7 7 4000 50000 7 7 7\ncpu0 9 9 9 9 9 9 9 9 9 9\nintr 5\n",
            Reading::Value(54_321),
        );
        check("cpu  1 1 1 9 9 1 1\n", Reading::Value(5));
        check(
            "intr 5\n",
            Reading::missing("/proc/stat has no line for all cores"),
        );
    }

    #[test]
    fn a_running_thread_of_ours_is_counted_to_the_moment() {
        // Steps of a tick (1 to 10 ms) would show as readings that stand still while the other
        // thread burns; with the threads read first, the sum moves at every reading.
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    std::hint::spin_loop()
                }
            });
            let tid = |()| {
                let ids = fs::read_dir("/proc/self/task").unwrap().flatten();
                ids.map(|id| id.file_name().to_str().unwrap().parse::<i32>().unwrap())
                    .collect::<Vec<_>>()
            };
            assert!(
                tid(())
                    .into_iter()
                    .all(|tid| read_ns(thread_clock(tid)).is_ok())
            );
            let mut last = own_process_ns();
            for _ in 0..100 {
                let now = own_process_ns();
                assert!(now > last, "{now} after {last}");
                last = now;
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }

    #[test]
    fn the_time_of_all_cores_is_readable_here() {
        let time = non_idle(Path::new("/proc"));
        assert!(time.value().is_some_and(|time| time.ns > 0), "{time:?}");
    }
}
