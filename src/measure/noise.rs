//! Noise gauges: how much a block was disturbed from outside, and whether that is too much.
//!
//! Limits are set before the run; blocks over a limit are marked, and none is
//! dropped. Only reads /proc. A snapshot is taken at each end of a block; the block's noise is
//! their difference.
//!
//! Three gauges: time stolen by the hypervisor from the server's cores, involuntary context
//! switches of the server's threads, and the time these threads were ready but waited for a core.
//! The last two count the kernel's io_uring workers too, which are threads of the process. Beside them
//! stands how long the threads slept, which disturbs nobody.
//!
//! What this cannot see: threads that both start and end within a block, and the last part of
//! those that end in it (`threads_gone` counts them); so the two gauges of threads are lower
//! bounds.

#[cfg(test)]
mod tests;

use crate::control::HELPERS;

use super::cpu_clock::{read_cores, tick_ns};
use super::reading::Reading;
use super::stats::{Level, Verdict};
use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::path::Path;
use std::time::Duration;
use std::{fs, io};

/// Counters at one moment. They only mean something as a difference: see [`Noise::between`].
#[derive(Debug, Clone)]
pub struct Snapshot {
    cpus: usize,
    steal_ticks: Reading<u64>,
    /// CPU time of the whole process, threads that have ended included.
    process_ticks: Reading<u64>,
    status: Reading<PerThread<Status>>,
    schedule: Reading<PerThread<Schedule>>,
}

type PerThread<T> = BTreeMap<i32, T>;

/// Of /proc/PID/task/TID/status (proc_pid_status(5)).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Status {
    /// Neither the main thread nor one of [`HELPERS`].
    serves: bool,
    involuntary_switches: u64,
}

/// The first two fields of /proc/PID/task/TID/schedstat (Documentation/scheduler/sched-stats.rst).
#[derive(Debug, Clone, Copy)]
struct Schedule {
    on_cpu_ns: u64,
    run_queue_wait_ns: u64,
}

impl Snapshot {
    /// Reads the gauges of the processes `pids` together, whose threads are meant to run on `cpus`.
    /// `proc_root` is `/proc` outside of tests. What cannot be read is missing with its reason.
    pub fn take(proc_root: &Path, pids: &[i32], cpus: &[usize]) -> Self {
        let none = Self {
            cpus: cpus.len(),
            steal_ticks: read_steal(proc_root, cpus),
            process_ticks: Reading::Value(0),
            status: Reading::Value(BTreeMap::new()),
            schedule: Reading::Value(BTreeMap::new()),
        };
        let each = pids.iter().map(|pid| Self::of(proc_root, *pid));
        each.fold(none, |all, one| Self {
            process_ticks: sum(all.process_ticks, one.process_ticks),
            status: join(all.status, one.status),
            schedule: join(all.schedule, one.schedule),
            ..all
        })
    }

    /// The gauges of one process, without those of the cores.
    fn of(proc_root: &Path, pid: i32) -> Self {
        let process = proc_root.join(pid.to_string());
        let task = process.join("task");
        let threads = list_threads(&task);
        let threads = threads.as_ref();
        Self {
            cpus: 0,
            steal_ticks: Reading::missing("it is of the cores"),
            process_ticks: read_process_ticks(&process),
            status: threads
                .clone()
                .and_then(|threads| read_each(&task, threads, "status", parse_status))
                .map(|mut status| {
                    if let Some(main) = status.get_mut(&pid) {
                        main.serves = false;
                    }
                    status
                }),
            schedule: threads
                .and_then(|threads| read_each(&task, threads, "schedstat", parse_schedule))
                .and_then(switched_on),
        }
    }
}

/// What disturbed one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noise {
    pub wall_ns: u64,
    /// How many cores the server was given.
    pub cpus: usize,
    /// Sum over these cores, in steps of [`tick_ns`].
    pub steal_ns: Reading<u64>,
    pub involuntary_switches: Reading<u64>,
    /// Sum over the server's threads, so it may exceed the wall time.
    pub run_queue_wait_ns: Reading<u64>,
    /// Time that threads slept: they neither ran nor waited for a core. Sum over those that serve and
    /// were there throughout. Older results have none.
    #[serde(default = "no_time")]
    pub off_cpu_ns: Reading<u64>,
    /// More threads than cores did the work, as with a thread per connection. They preempt and
    /// wait for each other by design, so neither gauge of threads tells a disturbance.
    pub crowded: Reading<bool>,
    /// Threads that ended within the block, so that their part of the gauges is lost.
    pub threads_gone: Reading<usize>,
}

fn no_time() -> Reading<u64> {
    Reading::missing("not asked for")
}

impl Noise {
    /// The difference of two snapshots of the same process, `wall` apart.
    pub fn between(before: &Snapshot, after: &Snapshot, wall: Duration) -> Self {
        let status = both(&before.status, &after.status);
        let schedule = both(&before.schedule, &after.schedule);
        Self {
            wall_ns: wall.as_nanos() as u64,
            cpus: after.cpus,
            steal_ns: both(&before.steal_ticks, &after.steal_ticks)
                .map(|(was, is)| is.saturating_sub(*was) * tick_ns()),
            involuntary_switches: status
                .clone()
                .map(|(was, is)| growth(was, is, |thread| thread.involuntary_switches).sum()),
            off_cpu_ns: status.clone().and_then(|(_, threads)| {
                let schedule = schedule.clone();
                schedule.map(|(was, is)| off_cpu_ns(threads, was, is, wall))
            }),
            run_queue_wait_ns: schedule
                .clone()
                .map(|(was, is)| growth(was, is, |thread| thread.run_queue_wait_ns).sum()),
            crowded: schedule.and_then(|(was, is)| {
                let on_cpu = growth(was, is, |thread| thread.on_cpu_ns).collect();
                both(&before.process_ticks, &after.process_ticks).map(|(was, is)| {
                    crowded(on_cpu, is.saturating_sub(*was) * tick_ns(), after.cpus)
                })
            }),
            threads_gone: status
                .map(|(was, is)| was.keys().filter(|id| !is.contains_key(id)).count()),
        }
    }
}

fn sum(all: Reading<u64>, one: Reading<u64>) -> Reading<u64> {
    all.and_then(|all| one.map(|one| all + one))
}

/// No two processes have a thread of the same number.
fn join<T>(all: Reading<PerThread<T>>, one: Reading<PerThread<T>>) -> Reading<PerThread<T>> {
    all.and_then(|mut all| {
        one.map(|one| {
            all.extend(one);
            all
        })
    })
}

fn both<'a, T>(before: &'a Reading<T>, after: &'a Reading<T>) -> Reading<(&'a T, &'a T)> {
    before
        .as_ref()
        .and_then(|before| after.as_ref().map(|after| (before, after)))
}

/// By how much a counter grew in each thread that is still there. A thread that is new started
/// from 0, and so did one whose counter fell: its number was used again.
fn growth<T>(
    before: &PerThread<T>,
    after: &PerThread<T>,
    counter: impl Fn(&T) -> u64,
) -> impl Iterator<Item = u64> {
    after.iter().map(move |(id, is)| {
        let is = counter(is);
        let was = before.get(id).map_or(0, &counter);
        is.checked_sub(was).unwrap_or(is)
    })
}

/// How long those of `threads` slept that serve and were there at both ends of `wall`. The kernel brings a
/// running thread's time up to date at the tick, so that at either end one may be off.
fn off_cpu_ns(
    threads: &PerThread<Status>,
    was: &PerThread<Schedule>,
    is: &PerThread<Schedule>,
    wall: Duration,
) -> u64 {
    let slept = |(id, is): (&i32, &Schedule)| {
        let was = was.get(id)?;
        let on_cpu_ns = is.on_cpu_ns.checked_sub(was.on_cpu_ns)?;
        let wait_ns = is.run_queue_wait_ns.saturating_sub(was.run_queue_wait_ns);
        threads.get(id).filter(|thread| thread.serves)?;
        Some((wall.as_nanos() as u64).saturating_sub(on_cpu_ns + wait_ns))
    };
    is.iter().filter_map(slept).sum()
}

/// Whether the `cpus` busiest threads did less than four fifths of the process's work. The rest
/// may be housekeeping: a timer thread has been seen to take a tenth of a core.
fn crowded(mut on_cpu_ns: Vec<u64>, process_ns: u64, cpus: usize) -> bool {
    on_cpu_ns.sort_unstable_by(|a, b| b.cmp(a));
    let busiest: u64 = on_cpu_ns.iter().take(cpus).sum();
    // User and system time are each cut to a tick: a process that did little is not crowded.
    process_ns.saturating_sub(2 * tick_ns()) > busiest + busiest / 4
}

/// How much disturbance a block may have. Set before the run and stored with the result.
///
/// Run-queue wait is the sharpest of the gauges: an epoll server at saturation, its core shared
/// with a compiler, waited for half of the time, but was preempted only 10 to 50 times a second,
/// since it sleeps often and so gives way by itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Stolen time in percent of the cores' time. One tick a core is forgiven, since that much
    /// may be rounding: 2.2 % of a block of 0.45 s on one core.
    pub steal_percent: f64,
    /// Per second of each core's time. One costs some microseconds, mostly of cold caches, so 1 000
    /// are about 0.5 %. The kernel's own threads alone cause 60 to 200 a second here.
    pub involuntary_switches_per_cpu_second: f64,
    /// Waiting for a core in percent of the cores' time.
    pub run_queue_wait_percent: f64,
    /// A run with more of its blocks marked is NOISY.
    pub marked_blocks_percent: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            steal_percent: 2.0,
            involuntary_switches_per_cpu_second: 1000.0,
            run_queue_wait_percent: 2.0,
            marked_blocks_percent: 25.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Gauge {
    Steal,
    InvoluntarySwitches,
    RunQueueWait,
}

impl Display for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Steal => "steal time",
            Self::InvoluntarySwitches => "involuntary switches",
            Self::RunQueueWait => "run-queue wait",
        })
    }
}

impl Gauge {
    fn remedy(self) -> &'static str {
        match self {
            Self::Steal => "the hypervisor gave the cores to others: run at a quieter time",
            Self::InvoluntarySwitches | Self::RunQueueWait => {
                "stop what else runs on the server's cores, or choose others with --cores"
            }
        }
    }
}

/// One gauge of one block over its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub gauge: Gauge,
    /// The value and the limit.
    pub why: String,
}

impl Limits {
    /// Why this block is marked; empty if it is not. A gauge that is missing marks nothing.
    pub fn marks(&self, noise: &Noise) -> Vec<Mark> {
        let cpu_ns = (noise.wall_ns * noise.cpus as u64) as f64;
        let percent = |ns: f64| 100.0 * ns / cpu_ns;
        let over = |gauge, value: Option<f64>, limit: f64, unit: &str| {
            value.filter(|&value| value > limit).map(|value| Mark {
                gauge,
                why: format!("{gauge} {value:.1}{unit}, limit {limit}{unit}"),
            })
        };
        let alone = noise.crowded != Reading::Value(true);
        let of_threads = |reading: &Reading<u64>| reading.value().filter(|_| alone).copied();

        let forgiven_ns = noise.cpus as u64 * tick_ns();
        let steal = noise.steal_ns.value();
        let steal = steal.map(|ns| percent(ns.saturating_sub(forgiven_ns) as f64));
        let switches = of_threads(&noise.involuntary_switches).map(|n| n as f64 * 1e9 / cpu_ns);
        let wait = of_threads(&noise.run_queue_wait_ns).map(|ns| percent(ns as f64));
        [
            over(Gauge::Steal, steal, self.steal_percent, " %"),
            over(
                Gauge::InvoluntarySwitches,
                switches,
                self.involuntary_switches_per_cpu_second,
                " /s",
            ),
            over(Gauge::RunQueueWait, wait, self.run_queue_wait_percent, " %"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// NOISY if too many of a run's blocks are marked, with a cause for each gauge that was over.
    pub fn verdict(&self, blocks: &[Noise]) -> Verdict {
        let marks: Vec<Vec<Mark>> = blocks.iter().map(|block| self.marks(block)).collect();
        let marked = marks.iter().filter(|marks| !marks.is_empty()).count();
        let mut verdict = Verdict::default();
        if marked as f64 * 100.0 > self.marked_blocks_percent * blocks.len() as f64 {
            let mut over = BTreeMap::<Gauge, Vec<&Mark>>::new();
            for mark in marks.iter().flatten() {
                over.entry(mark.gauge).or_default().push(mark);
            }
            for (gauge, marks) in over {
                let what = format!(
                    "{} of {} blocks were disturbed, as by {}",
                    marks.len(),
                    blocks.len(),
                    marks[0].why
                );
                verdict.add(Level::Noisy, what, gauge.remedy());
            }
        }
        verdict
    }
}

fn read_steal(proc_root: &Path, cpus: &[usize]) -> Reading<u64> {
    read_cores(proc_root).and_then(|cores| {
        let mut sum = 0;
        for &cpu in cpus {
            let Some(core) = cores.iter().find(|core| core.number == Some(cpu)) else {
                return Reading::missing(format!("/proc/stat has no cpu{cpu}: is it offline?"));
            };
            match &core.steal_ticks {
                Reading::Value(ticks) => sum += ticks,
                missing => return missing.clone(),
            }
        }
        Reading::Value(sum)
    })
}

/// utime + stime, the 14th and 15th field of /proc/PID/stat (proc_pid_stat(5)). The second field is
/// the program's name in brackets, which may itself hold spaces and brackets.
fn read_process_ticks(process: &Path) -> Reading<u64> {
    let ticks = |text: &str| {
        let mut after_name = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
        let user: u64 = after_name.next()?.parse().ok()?;
        let system: u64 = after_name.next()?.parse().ok()?;
        Some(user + system)
    };
    match fs::read_to_string(process.join("stat")) {
        Ok(text) => match ticks(&text) {
            Some(ticks) => Reading::Value(ticks),
            None => Reading::missing("/proc/PID/stat has an unknown format"),
        },
        Err(error) => Reading::missing(format!("/proc/PID/stat: {error}")),
    }
}

fn list_threads(task: &Path) -> Reading<Vec<i32>> {
    let list = || -> io::Result<Vec<i32>> {
        let mut threads = Vec::new();
        for entry in fs::read_dir(task)? {
            threads.extend(
                entry?
                    .file_name()
                    .to_str()
                    .and_then(|id| id.parse::<i32>().ok()),
            );
        }
        Ok(threads)
    };
    match list() {
        Ok(threads) => Reading::Value(threads),
        Err(error) => Reading::missing(format!("/proc/PID/task: {error}")),
    }
}

/// Reads one file of each thread, without those that have ended since they were listed.
fn read_each<T>(
    task: &Path,
    threads: &[i32],
    file: &str,
    parse: fn(&str) -> Option<T>,
) -> Reading<PerThread<T>> {
    let mut read = BTreeMap::new();
    for &id in threads {
        let thread = task.join(id.to_string());
        match fs::read_to_string(thread.join(file)) {
            Ok(text) => match parse(&text) {
                Some(value) => {
                    read.insert(id, value);
                }
                None => {
                    return Reading::missing(format!(
                        "/proc/PID/task/TID/{file} lacks it on this kernel"
                    ));
                }
            },
            Err(error) if has_ended(&error, &thread) => {}
            Err(error) => return Reading::missing(format!("/proc/PID/task/TID/{file}: {error}")),
        }
    }
    Reading::Value(read)
}

/// A thread may end before its file is opened, or between opening and reading (ESRCH). A kernel
/// without the file keeps the thread's directory.
fn has_ended(error: &io::Error, thread: &Path) -> bool {
    error.raw_os_error() == Some(Errno::ESRCH as i32)
        || error.kind() == io::ErrorKind::NotFound && !thread.exists()
}

fn parse_status(status: &str) -> Option<Status> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    Some(Status {
        serves: !HELPERS.contains(&field("Name:")?.trim()),
        involuntary_switches: field("nonvoluntary_ctxt_switches:")?.trim().parse().ok()?,
    })
}

fn parse_schedule(schedstat: &str) -> Option<Schedule> {
    let mut fields = schedstat.split_ascii_whitespace();
    Some(Schedule {
        on_cpu_ns: fields.next()?.parse().ok()?,
        run_queue_wait_ns: fields.next()?.parse().ok()?,
    })
}

/// Kernels whose scheduling statistics are off print zeroes (fs/proc/base.c). A process that
/// never ran cannot be asked about, so all zeroes means off.
fn switched_on(schedule: PerThread<Schedule>) -> Reading<PerThread<Schedule>> {
    if schedule.values().all(|thread| thread.on_cpu_ns == 0) {
        return Reading::missing("the kernel's scheduling statistics are off");
    }
    Reading::Value(schedule)
}
