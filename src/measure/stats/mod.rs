//! Statistics of a comparison. Pure: numbers in, numbers and sentences out; the bootstrap's seed is
//! fixed, so the same blocks always give the same interval.
//!
//! The block is the sample, not the request: requests of one block share a
//! process, a placement in memory and a moment, so a million of them are one observation of all
//! that.
//!
//! | file        | subject                                                                  |
//! |-------------|--------------------------------------------------------------------------|
//! | `student`   | Student's t distribution: quantile and tail                              |
//! | `bootstrap` | the studentised bootstrap of a mean                                      |
//! | `ratio`     | mean, median, deviation; the ratio of two arms with its interval         |
//! | `median_ratio` | the same by the median pair, for what is disturbed by orders of magnitude |
//! | `claim`     | Holm's correction, the A/A control, what may be claimed, steadiness, and |
//! |             | whether two runs agree                                                   |
//! | `verdict`   | VALID, NOISY or INVALID, with causes and remedies                        |

mod bootstrap;
mod claim;
mod median_ratio;
mod ratio;
mod student;
mod verdict;

pub use claim::{
    Agreement, Claim, Control, Direction, Outcome, SMALLEST_DRIFT, Steadiness, agreement, claim,
    direction, holm, steadiness,
};
pub use median_ratio::paired_median_ratio;
pub use ratio::{
    BOOTSTRAP_FROM, Interval, Method, Ratio, RatioError, half_width_percent, mean, median,
    paired_log_ratio, standard_deviation,
};
pub use student::{student_t_quantile, student_t_tail};
pub use verdict::{Cause, Level, Verdict};

#[cfg(test)]
mod simulation;
