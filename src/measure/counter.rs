//! Figures with one writing thread, and groups of them.
//!
//! One thread writes, any thread may read: an increment is a plain load and store, not a locked
//! instruction, and a reader sees each figure a little late but never torn.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A figure with one writing thread.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Only the one writing thread may call this.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// The figure so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

macro_rules! counters {
    ($(#[$what:meta])* $live:ident, $snapshot:ident { $($(#[$doc:meta])* $name:ident),* $(,)? }) => {
        $(#[$what])*
        #[derive(Debug, Default)]
        pub struct $live { $($(#[$doc])* pub $name: $crate::measure::counter::Counter,)* }

        /// The same figures at one moment, or the difference or sum of two such. Older results lack
        /// some.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[serde(default)]
        pub struct $snapshot { $($(#[$doc])* pub $name: u64,)* }

        impl $live {
            /// The figures now.
            pub fn snapshot(&self) -> $snapshot {
                $snapshot { $($name: self.$name.get(),)* }
            }
        }

        impl $snapshot {
            /// What came since `earlier`.
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.wrapping_sub(earlier.$name),)* }
            }

            /// Both together.
            pub fn plus(&self, other: &Self) -> Self {
                Self { $($name: self.$name.wrapping_add(other.$name),)* }
            }

            /// Every figure with its name, in the order of the ledger.
            pub fn named(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

pub(crate) use counters;
