//! Whether an answer is the right one. Every answer is checked.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::plan::{BodyLength, Target};
use super::response::Response;
use super::result::Failure;

/// No first answer yet.
const UNKNOWN: u64 = u64::MAX;

/// What the answers to each target must be; shared by the threads, so that
/// all hold to the same first answer.
#[derive(Debug)]
pub struct Checks(Vec<Check>);

#[derive(Debug)]
struct Check {
    status: Option<u16>,
    /// The right length, [`UNKNOWN`] until the first answer; `None` if any is.
    length: Option<AtomicU64>,
}

impl Checks {
    pub fn new(targets: &[Target]) -> Self {
        let check = |target: &Target| Check {
            status: target.expect.status,
            length: match target.expect.length {
                BodyLength::SameAsFirst => Some(AtomicU64::new(UNKNOWN)),
                BodyLength::Exactly(length) => Some(AtomicU64::new(length)),
                BodyLength::Any => None,
            },
        };
        Self(targets.iter().map(check).collect())
    }

    /// What is wrong with an answer, the plainest fault first.
    #[inline]
    pub fn judge(&self, target: u16, response: &Response) -> Option<Failure> {
        let check = &self.0[usize::from(target)];
        let status_is_right = match check.status {
            Some(status) => response.status == status,
            None => (200..400).contains(&response.status),
        };
        if !status_is_right {
            return Some(Failure::WrongStatus);
        }
        if !response.body_matches {
            return Some(Failure::WrongBody);
        }
        let expected = check.length.as_ref()?;
        let length = expected.load(Relaxed);
        if length == response.length {
            return None;
        }
        let first = length == UNKNOWN
            && match expected.compare_exchange(UNKNOWN, response.length, Relaxed, Relaxed) {
                Ok(_) => true,
                // Another thread's answer came first.
                Err(length) => length == response.length,
            };
        (!first).then_some(Failure::WrongLength)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::plan::Expect;

    /// Answers (status, length, body matches) with their verdicts, in order.
    fn check(expect: Expect, answers: &[(u16, u64, bool, Option<Failure>)]) {
        let checks = Checks::new(&[Target {
            expect: expect.clone(),
            ..Target::get("/")
        }]);
        for &(status, length, body_matches, expected) in answers {
            let response = Response {
                status,
                length,
                keep_alive: true,
                body_matches,
            };
            let got = checks.judge(0, &response);
            assert_eq!(got, expected, "{expect:?}: {response:?}");
        }
    }

    #[test]
    fn answers_are_judged_by_status_then_body_then_length() {
        let wrong_status = Some(Failure::WrongStatus);
        let wrong_length = Some(Failure::WrongLength);
        check(
            Expect::default(),
            &[
                (500, 9, true, wrong_status),
                (200, 5, true, None),
                (304, 5, true, None),
                (200, 6, true, wrong_length),
                (404, 5, true, wrong_status),
            ],
        );
        check(
            Expect {
                status: Some(404),
                length: BodyLength::Any,
                body: None,
            },
            &[
                (404, 1, true, None),
                (404, 2, true, None),
                (200, 1, true, wrong_status),
            ],
        );
        check(
            Expect {
                length: BodyLength::Exactly(3),
                ..Expect::default()
            },
            &[
                (200, 4, true, wrong_length),
                (200, 3, true, None),
                (200, 3, false, Some(Failure::WrongBody)),
            ],
        );
    }
}
