//! The limit of open descriptors (RLIMIT_NOFILE, getrlimit(2)).

use nix::sys::resource::{Resource, getrlimit, setrlimit};

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
