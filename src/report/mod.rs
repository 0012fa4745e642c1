//! Results in, text out; pure functions. What a number means is decided in [`crate::experiment`];
//! here it is only written down, in about 80 columns.

pub mod closing;
mod counts;
mod isolations;
mod ledger;
mod memory;
mod mix;
mod side_by_side;
mod terminal;
mod units;

pub use mix::mix;
pub use terminal::{agreement, experiment, load, unlike_hosts, wrap, wrap_from};
pub use units::{count, duration, microseconds};
