//! The limit of open descriptors (RLIMIT_NOFILE, getrlimit(2)).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::shard::SPARE_CONNECTIONS;

/// Descriptors that a server on so many cores needs besides its connections: per shard a listener, a
/// wake-up, a timer, an epoll set or a ring; streams; those to be told that they are refused.
pub fn of_a_server(cores: usize) -> usize {
    32 + 8 * cores + SPARE_CONNECTIONS
}

/// Raises the soft limit to `needed`, or as far as the hard one allows, which takes no privilege.
/// Returns how many descriptors this process may now open.
pub fn allow(needed: usize) -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return needed;
    };
    let wanted = (needed as u64).min(hard);
    if soft >= wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_err() {
        return soft as usize;
    }
    wanted as usize
}
