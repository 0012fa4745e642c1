//! What the kernel counted of one process in one interval.

use serde::{Deserialize, Serialize};

use super::event::Event;
use super::total::Total;
use crate::measure::reading::Reading;

/// Counts over all threads of a process, and over an interval that [`Counters::take`] ended.
///
/// [`Counters::take`]: super::Counters::take
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    /// All system calls (`raw_syscalls:sys_enter`).
    pub system_calls: Reading<u64>,
    /// Those asked for by name, in the order of the [`Selection`](super::Selection)
    /// (`syscalls:sys_enter_NAME`).
    pub by_name: Vec<(String, Reading<u64>)>,
    /// Voluntary and involuntary together; /proc/PID/task/TID/status tells them apart.
    pub context_switches: Reading<u64>,
    /// Moves of a thread to another core.
    pub migrations: Reading<u64>,
    /// Page faults that needed no I/O, those of the kernel on the program's behalf among them.
    pub minor_faults: Reading<u64>,
    /// Page faults that needed I/O.
    pub major_faults: Reading<u64>,
    /// Operations that io_uring handed to a worker thread
    /// (`io_uring:io_uring_queue_async_work`).
    pub io_wq_punts: Reading<u64>,
    pub cycles_user: Reading<u64>,
    pub cycles_kernel: Reading<u64>,
    pub instructions_user: Reading<u64>,
    pub instructions_kernel: Reading<u64>,
    /// Of the last level, as most processors understand it, in user and kernel.
    pub cache_misses: Reading<u64>,
    /// Branches predicted wrongly, in user and kernel.
    pub branch_misses: Reading<u64>,
    /// Counters that shared the PMU, so that their values are estimates, and the part of the time
    /// that each one counted, between 0 and 1.
    pub multiplexed: Vec<(String, f64)>,
}

impl Default for Counted {
    /// Nothing was asked for.
    fn default() -> Self {
        let unasked = || Reading::missing("not counted in this pass");
        Self {
            system_calls: unasked(),
            by_name: Vec::new(),
            context_switches: unasked(),
            migrations: unasked(),
            minor_faults: unasked(),
            major_faults: unasked(),
            io_wq_punts: unasked(),
            cycles_user: unasked(),
            cycles_kernel: unasked(),
            instructions_user: unasked(),
            instructions_kernel: unasked(),
            cache_misses: unasked(),
            branch_misses: unasked(),
            multiplexed: Vec::new(),
        }
    }
}

impl Counted {
    /// What `event` came to: a figure, or an estimate that is named as one.
    pub(super) fn set(&mut self, event: &Event, passed: Reading<Total>) {
        let reading = passed.and_then(|passed| {
            let share = passed.share_of_time();
            if share > 0.0 && share < 1.0 {
                self.multiplexed.push((event.to_string(), share));
            }
            passed.estimate()
        });
        let field = match event {
            Event::SystemCall(name) => {
                self.by_name.push((name.clone(), reading));
                return;
            }
            Event::SystemCalls => &mut self.system_calls,
            Event::ContextSwitches => &mut self.context_switches,
            Event::Migrations => &mut self.migrations,
            Event::MinorFaults => &mut self.minor_faults,
            Event::MajorFaults => &mut self.major_faults,
            Event::IoWqPunts => &mut self.io_wq_punts,
            Event::CyclesUser => &mut self.cycles_user,
            Event::CyclesKernel => &mut self.cycles_kernel,
            Event::InstructionsUser => &mut self.instructions_user,
            Event::InstructionsKernel => &mut self.instructions_kernel,
            Event::CacheMisses => &mut self.cache_misses,
            Event::BranchMisses => &mut self.branch_misses,
        };
        *field = reading;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A counter that was wanted for 1 ms, and counted 500 in so much of it.
    fn set(event: &Event, running_ns: u64) -> Counted {
        let mut counted = Counted::default();
        let passed = Total {
            count: 500,
            enabled_ns: 1_000_000,
            running_ns,
        };
        counted.set(event, Reading::Value(passed));
        counted
    }

    #[test]
    fn a_counter_that_took_turns_is_named_with_its_share() {
        let cycles = Event::CyclesUser;
        let whole = set(&cycles, 1_000_000);
        assert_eq!(whole.cycles_user, Reading::Value(500));
        assert_eq!(whole.multiplexed, []);
        let quarter = set(&cycles, 250_000);
        assert_eq!(quarter.cycles_user, Reading::Value(2000));
        assert_eq!(quarter.multiplexed, [("cycles, user".to_owned(), 0.25)]);
        // Without a turn there is no estimate, and nothing to be named as one.
        let none = set(&cycles, 0);
        assert!(none.cycles_user.value().is_none(), "{none:?}");
        assert_eq!(none.multiplexed, []);
    }

    #[test]
    fn each_event_has_its_own_field() {
        let named = Event::SystemCall("read".to_owned());
        let events = [
            Event::SOFTWARE,
            Event::HARDWARE,
            &[Event::SystemCalls, named, Event::IoWqPunts],
        ]
        .concat();
        let mut seen: Vec<Counted> = vec![Counted::default()];
        for event in &events {
            let counted = set(event, 1_000_000);
            assert!(!seen.contains(&counted), "{event} is in another's field");
            seen.push(counted);
        }
    }
}
