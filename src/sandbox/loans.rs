//! What one store has on loan of a shard's [`Memories`]. wasmtime gives nothing back before a whole store
//! goes, so a store that makes one instance after the other keeps the memories of those before.

use super::memories::Memories;
use std::sync::Arc;

/// The most that one store has, one after the other. With eight, little of what a store costs is left to each.
const A_STORE: usize = 8;

/// The most that a store keeps to be zeroed all at once, in bytes, beside what the last instance wrote: that
/// takes some ten microseconds, for which the requests of other connections wait.
const KEPT_BYTES: usize = 128 * 1024;

/// What one store has on loan. Goes after the store.
pub(super) struct Loans {
    /// `None`: its memories are from elsewhere, or nobody watches what is written there.
    memories: Option<Arc<Memories>>,
    /// Those of instances that nobody calls any more.
    kept: usize,
    /// What of these is to be zeroed when the store goes.
    kept_bytes: usize,
}

impl Loans {
    /// Of a store with one of `memories`, which are watched.
    pub(super) fn new(memories: Option<Arc<Memories>>) -> Loans {
        Loans {
            memories,
            kept: 0,
            kept_bytes: 0,
        }
    }

    /// Where they are from.
    pub(super) fn memories(&self) -> Option<&Arc<Memories>> {
        self.memories.as_ref()
    }

    /// Whether the store may keep the one it had last, of which `bytes` are to be zeroed, and have another:
    /// it has few, little is to be zeroed, and there is one for everybody else who may want one.
    pub(super) fn keep(&mut self, bytes: usize) -> bool {
        let bytes = self.kept_bytes + bytes;
        let may_keep = self.kept + 1 < A_STORE && bytes <= KEPT_BYTES;
        let Some(memories) = self.memories.as_ref().filter(|_| may_keep) else {
            return false;
        };
        if !memories.take_spare() {
            return false;
        }
        self.kept += 1;
        self.kept_bytes = bytes;
        true
    }

    /// None of them will come back, nor will the last one.
    pub(super) fn lose(&mut self) {
        if let Some(memories) = &self.memories {
            memories.lose_one();
        }
        self.kept = 0;
    }
}

impl Drop for Loans {
    fn drop(&mut self) {
        if let Some(memories) = &self.memories {
            memories.give_spares(self.kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With one memory for an instance, and its spares.
    fn memories() -> Arc<Memories> {
        const RESIDENT_BYTES: usize = 65536;
        Memories::new(1, Arc::default(), RESIDENT_BYTES, true)
    }

    #[test]
    fn what_is_lost_while_all_is_kept_is_made_up_for_before_anything_is_kept_again() {
        let memories = memories();
        let loans = || Loans::new(Some(Arc::clone(&memories)));
        let mut stores: Vec<Loans> = (0..memories.spared()).map(|_| loans()).collect();
        assert!(stores.iter_mut().all(|one| one.keep(0)));
        loans().lose();
        assert_eq!(memories.spared(), -1);
        for left in [-1, 0, 1] {
            assert_eq!(memories.spared(), left);
            let mut other = loans();
            assert_eq!(other.keep(0), left > 0, "{left}");
            drop(other);
            stores.pop();
        }
    }

    #[test]
    fn a_store_keeps_few_and_gives_them_all_back() {
        let memories = memories();
        let loans = || Loans::new(Some(Arc::clone(&memories)));
        let mut one = loans();
        let kept = (0..A_STORE).map(|_| one.keep(1)).filter(|kept| *kept);
        assert_eq!(kept.count(), A_STORE - 1, "and the last one");
        assert_eq!(memories.kept(), A_STORE - 1);
        drop(one);
        assert_eq!(memories.kept(), 0);
        let mut other = loans();
        assert!(!other.keep(KEPT_BYTES + 1));
        assert!(other.keep(KEPT_BYTES - 1) && other.keep(1) && !other.keep(1));
        assert!(!Loans::new(None).keep(0), "whose are none of these");
    }
}
