//! The kernel's own counts of what a server process did, by perf_event_open(2), opened from the
//! laboratory's process. They check what the program counts itself.
//!
//! Reads /proc and tracefs and opens counters; never mounts, never changes a sysctl, never stops
//! the process. Each counter is a value or says why not (rule 15); one that is refused spoils no
//! other. Deliberately lacking: profiles, and counts of another process's children alone.
//!
//! | file        | subject                                                            |
//! |-------------|--------------------------------------------------------------------|
//! | `event`     | what can be counted, and how the kernel is asked for it            |
//! | `tracefs`   | the numbers that this kernel gave its tracepoints                  |
//! | `refusal`   | the kernel's errors in words, with the next command                |
//! | `spans`     | how long a thread is at page faults, and at calls for memory       |
//! | `self_test` | a known number of system calls, counted before counts are believed |
//! | `total`     | counter and times summed over threads; counters that took turns    |
//! | `counted`   | the result                                                         |
//!
//! # What it costs
//!
//! While any tracepoint of system calls is open, in whatever process, every system call of every
//! process leaves the kernel's fast path, and each open counter that matches is added to on top:
//! together they can double a trivial call (`price_of_counting` in the tests). Each counter is also
//! taken off and put on at every context switch, except between threads that inherited theirs from
//! the same parent, which merely exchange them. So counters are attached while the process has few
//! threads, and are gone before a figure of time is taken; and cycles are counted apart from system
//! calls, since they would count the tracing too. [`Selection`] has a constructor for either.

mod counted;
mod event;
mod refusal;
mod self_test;
pub(super) mod spans;
#[cfg(test)]
mod tests;
mod total;
mod tracefs;

use std::collections::BTreeSet;
use std::path::Path;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use perf_event::{Builder, Counter};
use procfs::ProcError;
use procfs::process::Process;

pub use counted::Counted;
pub use self_test::self_test;

use super::reading::Reading;
use event::Event;
use refusal::refusal;
use self_test::SelfTest;
use total::Total;
use tracefs::Tracefs;

/// The system calls that ringlab's models make, as tracepoints name them: recv(2) is `recvfrom`,
/// send(2) is `sendto`. Calls that the vDSO answers, most of `clock_gettime`, never reach the kernel.
pub const SYSTEM_CALLS: &[&str] = &[
    "accept4",
    "recvfrom",
    "sendto",
    "epoll_wait",
    "epoll_pwait",
    "epoll_ctl",
    "io_uring_enter",
    "futex",
    "read",
    "write",
    "madvise",
    "poll",
    "shutdown",
    "close",
    "timerfd_settime",
    "timer_settime",
    "clone3",
    "clock_gettime",
    "sched_yield",
    "rt_sigreturn",
];

/// Threads of one process that are counted. A counter is a descriptor for each thread that is
/// there when it is attached; those born later share their parent's.
const MAX_THREADS: usize = 512;

/// How often counters are attached anew because a thread was born meanwhile.
const MAX_ATTEMPTS: usize = 8;

/// What to count. What is left out reads `n/a`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// All system calls together.
    pub system_calls: bool,
    /// System calls to count by name, as [`SYSTEM_CALLS`] writes them.
    pub names: Vec<String>,
    /// Context switches, migrations and page faults.
    pub software: bool,
    /// io-wq punts.
    pub io_wq: bool,
    /// Cycles, instructions, cache and branch misses.
    pub hardware: bool,
}

impl Selection {
    /// System calls: all together, and these by name. Name only what the model
    /// calls: each name costs at context switches, and when it is closed.
    pub fn calls(names: &[&str]) -> Self {
        Self {
            system_calls: true,
            names: names.iter().map(|&name| name.to_owned()).collect(),
            ..Self::default()
        }
    }

    /// What the processor counts, which leaves system calls on their fast path.
    pub fn processor() -> Self {
        Self {
            hardware: true,
            ..Self::default()
        }
    }

    /// In order of importance: descriptors may not suffice for all.
    fn events(&self) -> Vec<Event> {
        let calls = self.system_calls.then_some(Event::SystemCalls);
        let names = self.names.iter().cloned().map(Event::SystemCall);
        let software = self.software.then_some(Event::SOFTWARE);
        let io_wq = self.io_wq.then_some(&[Event::IoWqPunts][..]);
        let hardware = self.hardware.then_some(Event::HARDWARE);
        let fixed = software.into_iter().chain(io_wq).chain(hardware);
        let fixed = fixed.flatten().cloned();
        calls.into_iter().chain(names).chain(fixed).collect()
    }
}

/// Counters attached to a running process: to the threads it has, the kernel's io_uring workers
/// among them, and to those born later, which inherit them. Child processes inherit them too.
///
/// Dropping them sleeps for some 40 ms for each tracepoint: the kernel waits until no core can
/// still be inside it.
pub struct Counters {
    counters: Vec<(Event, Result<Open, String>)>,
}

/// One counter on every thread of a process.
struct Open {
    threads: Vec<Counter>,
    /// What it stood at when the current interval began.
    since: Total,
}

impl Counters {
    /// Attaches to the processes `pids`, which are counted together. Never fails as a whole: what cannot be counted reads why.
    ///
    /// Best done before the load starts: threads that are born later cost no descriptors and switch
    /// cheaply. If threads are born meanwhile, nobody can tell whether they inherited each counter,
    /// so it is done again, up to 8 times.
    pub fn attach(pids: &[i32], selection: &Selection) -> Self {
        Self::attach_but(pids, |_, _| false, selection)
    }

    /// The same, without the threads of which `left_out` says so, by id and name, and without those
    /// that they bear later.
    pub fn attach_but(
        pids: &[i32],
        left_out: impl Fn(i32, &str) -> bool,
        selection: &Selection,
    ) -> Self {
        let tracefs = Tracefs::find(Path::new("/"));
        Self::attach_to(
            &mut || list_threads(pids, &left_out),
            &tracefs,
            SelfTest::of_this_process,
            selection,
        )
    }

    fn attach_to(
        list: ListThreads,
        tracefs: &Tracefs,
        self_test: impl FnOnce() -> SelfTest,
        selection: &Selection,
    ) -> Self {
        let events = selection.events();
        // Costs some 80 ms, which a pass without system calls need not pay.
        let tested = events
            .iter()
            .any(Event::is_system_call)
            .then(self_test)
            .unwrap_or_default();
        let builders: Vec<Result<Builder, String>> = events
            .iter()
            .map(|event| tested.of(event).and_then(|()| event.builder(tracefs)))
            .collect();
        let opened = open_on_all(list, &events, &builders).unwrap_or_else(|reason| {
            let refused = |_: &Event| Err(reason.clone());
            events.iter().map(refused).collect()
        });
        let mut counters = Self {
            counters: events.into_iter().zip(opened).collect(),
        };
        // What was counted while others were still being attached is nobody's interval.
        counters.take();
        counters
    }

    /// Whether anything is counted at all.
    pub fn is_counting(&self) -> bool {
        self.counters.iter().any(|(_, counter)| counter.is_ok())
    }

    /// What was counted since the last `take`, or since [`attach`](Self::attach). Reading is an
    /// interrupt on the core of each thread that runs: do it at the ends of a block, not within.
    ///
    /// Still answers for threads that have ended, and when the whole process has.
    pub fn take(&mut self) -> Counted {
        let mut counted = Counted::default();
        for (event, counter) in &mut self.counters {
            let passed = match counter {
                Ok(open) => open.take(),
                Err(reason) => Reading::missing(reason.clone()),
            };
            counted.set(event, passed);
        }
        counted
    }
}

impl Open {
    fn take(&mut self) -> Reading<Total> {
        let now = Total::read(&mut self.threads);
        Reading::from(now).map(|now| now.since(&std::mem::replace(&mut self.since, now)))
    }
}

type ListThreads<'a> = &'a mut dyn FnMut() -> Result<BTreeSet<i32>, String>;

/// The threads of the processes `pids` that are there now, and are not `left_out`.
fn list_threads(
    pids: &[i32],
    left_out: &impl Fn(i32, &str) -> bool,
) -> Result<BTreeSet<i32>, String> {
    let mut all = BTreeSet::new();
    for &pid in pids {
        all.extend(list_threads_of(pid, left_out)?);
    }
    Ok(all)
}

fn list_threads_of(
    pid: i32,
    left_out: &impl Fn(i32, &str) -> bool,
) -> Result<BTreeSet<i32>, String> {
    let tasks = Process::new(pid).and_then(|process| process.tasks());
    // One that ends meanwhile has no name any more; that it cannot be counted shows later.
    let name = |tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/comm")).unwrap_or_default();
    match tasks {
        Ok(tasks) => Ok(tasks
            .flatten()
            .map(|task| task.tid)
            .filter(|&tid| !left_out(tid, name(tid).trim_end()))
            .collect()),
        Err(ProcError::NotFound(_)) => Err(format!("there is no process {pid}")),
        Err(error) => Err(format!("/proc/{pid}/task: {error}")),
    }
}

/// Opens every counter on every thread, until no thread was born meanwhile. A thread that is new
/// may have been born before its parent had the counter, or after: in the one case it must be
/// given its own, in the other it would be counted twice. So all begins again.
fn open_on_all(
    list: ListThreads,
    events: &[Event],
    builders: &[Result<Builder, String>],
) -> Result<Vec<Result<Open, String>>, String> {
    let mut opened: Vec<Result<Open, String>> = Vec::new();
    for _ in 0..MAX_ATTEMPTS {
        let threads = list()?;
        if threads.len() > MAX_THREADS {
            return Err(format!(
                "the process has {} threads, and {MAX_THREADS} can be counted: attach before the \
                 load starts, or offer fewer connections",
                threads.len()
            ));
        }
        // One descriptor of each keeps its tracepoint alive: the next attempt would otherwise wait
        // until the kernel has taken it away, only to ask for it again.
        for open in opened.iter_mut().flatten() {
            open.threads.truncate(1);
        }
        let mut allowance = descriptor_allowance();
        opened = std::iter::zip(events, builders)
            .map(|(event, builder)| open_one(event, builder.clone()?, &threads, &mut allowance))
            .collect();
        if list()?.is_subset(&threads) {
            return Ok(opened);
        }
    }
    Err(format!(
        "threads were born at each of {MAX_ATTEMPTS} attempts to attach: attach before the load \
         starts"
    ))
}

/// How many descriptors the counters may take: half of what this process may open. The rest is for
/// the load generator.
fn descriptor_allowance() -> usize {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| soft as usize / 2)
}

/// One counter on each of `threads`, or on none: part of a sum is not the sum.
fn open_one(
    event: &Event,
    mut builder: Builder,
    threads: &BTreeSet<i32>,
    allowance: &mut usize,
) -> Result<Open, String> {
    if threads.len() > *allowance {
        return Err(format!(
            "no descriptors left for counters on {} threads: raise the limit with `ulimit -n`",
            threads.len()
        ));
    }
    let mut open = Vec::with_capacity(threads.len());
    for &thread in threads {
        match builder.observe_pid(thread).build() {
            Ok(counter) => open.push(counter),
            Err(error) if is(&error, Errno::ESRCH) => {}
            Err(error) => return Err(refusal(&error, event.side(), event.source())),
        }
    }
    if open.is_empty() {
        return Err("all threads of the process have ended".to_owned());
    }
    *allowance -= open.len();
    Ok(Open {
        threads: open,
        since: Total::default(),
    })
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
