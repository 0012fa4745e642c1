//! Results in, text out; pure functions. What a number means is decided in [`crate::experiment`];
//! here it is only written down, in about 80 columns.

mod again;
pub mod closing;
mod counts;
mod differences;
mod isolations;
mod latency;
mod ledger;
mod memory;
mod mix;
mod sentences;
mod side_by_side;
mod terminal;
mod units;

pub use again::{agreement, unlike_hosts};
pub use mix::mix;
pub use terminal::{experiment, load, wrap, wrap_from, wrap_on};
pub use units::{count, duration, microseconds};
