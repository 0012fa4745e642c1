//! VALID, NOISY or INVALID: how far a run may be trusted, why, and what to do about it.
//!
//! The worst cause wins; all are kept, for mending one may uncover the next.

use serde::{Deserialize, Serialize};
use std::fmt::{self, Display};

/// How far a run may be trusted; the later, the worse.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum Level {
    /// Every check was run and passed.
    #[default]
    Valid,
    /// Intervals are wider, or the claims fewer, than the run was made for.
    Noisy,
    /// The numbers answer another question than the one asked.
    Invalid,
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Valid => "VALID",
            Self::Noisy => "NOISY",
            Self::Invalid => "INVALID",
        })
    }
}

/// One check that failed. Both texts are phrases without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    pub level: Level,
    /// The fact, with its number and its limit.
    pub what: String,
    /// What to do next.
    pub remedy: String,
}

/// Starts out VALID and without causes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The worst of the causes.
    pub level: Level,
    pub causes: Vec<Cause>,
}

impl Verdict {
    /// Adds a failed check. A cause of [`Level::Valid`] is a remark: kept, without effect.
    pub fn add(&mut self, level: Level, what: impl Into<String>, remedy: impl Into<String>) {
        self.level = self.level.max(level);
        self.causes.push(Cause {
            level,
            what: what.into(),
            remedy: remedy.into(),
        });
    }

    /// Takes in the causes of another part of the run.
    pub fn merge(&mut self, other: Self) {
        self.level = self.level.max(other.level);
        self.causes.extend(other.causes);
    }
}

/// The level, then one line a cause.
impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.level)?;
        for cause in &self.causes {
            write!(f, "\n  {}: {}; {}", cause.level, cause.what, cause.remedy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(levels: &[Level], expected: Level) {
        let mut one_by_one = Verdict::default();
        let mut merged = Verdict::default();
        for &level in levels {
            one_by_one.add(level, "fact", "remedy");
            let mut part = Verdict::default();
            part.add(level, "fact", "remedy");
            merged.merge(part);
        }
        assert_eq!(one_by_one.level, expected);
        assert_eq!(one_by_one.causes.len(), levels.len());
        assert_eq!(one_by_one, merged);
    }

    #[test]
    fn the_worst_wins_and_all_causes_stay() {
        use Level::*;
        check(&[], Valid);
        check(&[Noisy, Valid], Noisy);
        check(&[Noisy, Invalid, Noisy], Invalid);
    }

    #[test]
    fn a_verdict_reads_as_a_list() {
        let mut verdict = Verdict::default();
        assert_eq!(verdict.to_string(), "VALID");
        verdict.add(
            Level::Noisy,
            "3 of 12 blocks are marked",
            "stop other programs",
        );
        assert_eq!(
            verdict.to_string(),
            "NOISY\n  NOISY: 3 of 12 blocks are marked; stop other programs"
        );
        assert_eq!(serde_json::to_string(&verdict.level).unwrap(), r#""NOISY""#);
    }
}
