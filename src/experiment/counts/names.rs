//! Which system calls the kernel is asked to count by name, and which of them the program counts too.
//!
//! Each name costs at context switches and takes time to be detached, so an arm asks for what it may
//! call and for nothing else.

use crate::experiment::plan::Arm;
use crate::measure::perf::Selection;
use crate::models;

/// Those that nobody in the program counts, where nothing runs on other threads: of locks, of the guest's
/// memory, and of the ticks that bound the guest's time (the handler's return; the CPU clock).
pub const UNCOUNTED: [&str; 7] = [
    "futex",
    "madvise",
    "mmap",
    "munmap",
    "mprotect",
    "rt_sigreturn",
    "clock_gettime",
];

/// Those by which workers wake a thread that waits, and by which threads are born.
const ELSEWHERE: [&str; 4] = ["write", "tgkill", "io_uring_register", "clone3"];

/// What the kernel is asked to count for `arm`, as its tracepoints are called.
pub fn kernel_names(arm: &Arm) -> Vec<&'static str> {
    let model = models::find(&arm.model).map_or(&[][..], |model| model.calls);
    let elsewhere = if arm.runs_elsewhere() {
        &ELSEWHERE[..]
    } else {
        &[]
    };
    let mut names = Vec::new();
    for name in model.iter().chain(elsewhere).chain(&UNCOUNTED) {
        let name = kernel_name(name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// What the kernel is asked to count for `arm`: system calls, switches and faults; and, apart from them, what
/// the processor does.
pub fn selections(arm: &Arm) -> [Selection; 2] {
    let calls = Selection {
        software: true,
        io_wq: has_ring(&arm.model),
        ..Selection::calls(&kernel_names(arm))
    };
    [calls, Selection::processor()]
}

/// Whether anything is handed to a ring, its own or its runtime's, so that the kernel may punt it.
pub(super) fn has_ring(model: &str) -> bool {
    matches!(model, "io_uring" | "tokio_uring")
}

/// The program's name of a call that the kernel's tracepoints call otherwise.
pub(super) fn kernel_name(name: &str) -> &str {
    match name {
        "recv" => "recvfrom",
        "send" => "sendto",
        name => name,
    }
}

/// As the field calls what the program counts under `name` and is no system call; `None` for one that is.
pub(super) fn ring_term(name: &str) -> Option<&'static str> {
    Some(match name {
        "sqe" => "SQEs",
        "cqe" => "CQEs",
        "rearmed" => "re-arms",
        "enobufs" => "ENOBUFS",
        "io_wq" => "io-wq punts",
        "sq_full" => "SQ full",
        "cq_overflow" => "CQ overflows",
        "signals_lost" => "signals lost",
        _ => return None,
    })
}

/// Whether a model counts that, so that none of it is a 0 worth showing.
pub(super) fn can_have(model: &str, name: &str) -> bool {
    match model {
        "io_uring" => ring_term(name).is_some() && name != "signals_lost",
        // Its runtime keeps the ring to itself.
        "tokio_uring" => matches!(name, "sqe" | "cqe"),
        "signal" => name == "signals_lost",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::tests::plan;
    use crate::io::CountsSnapshot;
    use crate::models::MODELS;
    use crate::offload::Policy;

    #[test]
    fn an_arm_asks_for_what_it_may_call() {
        let names = |model: &str, policy: Policy| {
            let mut arm = plan().setting.arms[0].clone();
            (arm.model, arm.offload) = (model.to_string(), policy.to_string());
            kernel_names(&arm)
        };
        let epoll = names("epoll", Policy::Inline);
        for name in ["recvfrom", "read", "timerfd_settime", "accept4", "futex"] {
            assert!(epoll.contains(&name), "{epoll:?}");
        }
        assert!(!epoll.contains(&"io_uring_enter"), "{epoll:?}");
        assert!(!epoll.contains(&"write"), "{epoll:?}");
        assert!(names("epoll", Policy::Pool).contains(&"write"));
        let blocking = names("blocking", Policy::Spawn);
        let births = blocking.iter().filter(|name| **name == "clone3");
        assert_eq!(births.count(), 1, "once: {blocking:?}");
    }

    /// Each tracepoint takes the kernel some 40 ms to close, and a place at every switch.
    #[test]
    fn who_has_no_ring_is_not_asked_for_punts() {
        for model in MODELS {
            let mut arm = plan().setting.arms[0].clone();
            arm.model = model.name.to_string();
            let [calls, work] = selections(&arm);
            assert!(calls.software && !work.io_wq);
            assert_eq!(calls.io_wq, model.name.ends_with("uring"), "{}", model.name);
        }
    }

    #[test]
    fn what_is_no_system_call_has_a_term() {
        for (name, _) in CountsSnapshot::default().named() {
            let is_call = CountsSnapshot::is_system_call(name);
            assert_eq!(ring_term(name).is_none(), is_call, "{name}");
        }
    }

    #[test]
    fn models_call_what_is_counted() {
        let counted = CountsSnapshot::default().named();
        let counted = counted.iter().map(|(name, _)| *name);
        let counted: Vec<_> = counted
            .filter(|name| CountsSnapshot::is_system_call(name))
            .collect();
        for name in MODELS.iter().flat_map(|model| model.calls) {
            assert!(counted.contains(name), "{name}");
        }
    }
}
