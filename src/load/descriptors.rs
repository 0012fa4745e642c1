//! File descriptors: how many a run needs, and how many it may have.

use nix::sys::resource::{Resource, getrlimit};

use super::error::LoadError;
use super::plan::Plan;

/// Assumed to be open where `/proc` cannot tell.
const OPEN_ASSUMED: u64 = 32;

/// Refuses plans that would together run out of descriptors on their way.
pub fn check(plans: &[Plan]) -> Result<(), LoadError> {
    let open = std::fs::read_dir("/proc/self/fd").map_or(OPEN_ASSUMED, |fds| fds.count() as u64);
    let needed = plans.iter().map(needed).sum::<u64>() + open;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((allowed, hard)) if needed > allowed => Err(LoadError::Descriptors {
            needed,
            allowed,
            hard,
        }),
        _ => Ok(()),
    }
}

/// The error of a run that ran out nevertheless: others in this process, or
/// the whole system, took what was there.
pub fn error(plan: &Plan) -> LoadError {
    let (allowed, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    LoadError::Descriptors {
        // At least one more than all that were allowed.
        needed: (needed(plan) + OPEN_ASSUMED).max(allowed.saturating_add(1)),
        allowed,
        hard,
    }
}

/// One for each connection, and each thread's epoll.
fn needed(plan: &Plan) -> u64 {
    (plan.connections + plan.idle_connections + plan.threads()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Target;

    #[test]
    fn a_plan_beyond_the_limit_is_refused_with_both_numbers() {
        let (allowed, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let address = "127.0.0.1:80".parse().unwrap();
        let mut plan = Plan::new(address, "h", vec![Target::get("/")]);
        plan.connections = 1;
        check(std::slice::from_ref(&plan)).expect("one connection is within any limit");
        plan.connections = allowed as usize;
        let error = check(std::slice::from_ref(&plan)).unwrap_err();
        assert!(matches!(
            error,
            LoadError::Descriptors { needed, allowed: a, hard: h }
                if needed > allowed && a == allowed && h == hard
        ));
        let text = error.to_string();
        assert!(text.contains(&allowed.to_string()), "{text}");
    }
}
