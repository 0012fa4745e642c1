//! A value that was read, or the reason why it could not be.
//!
//! What cannot be measured reads `n/a: reason`, never 0. In JSON a reading is
//! the bare value, or the string `n/a: reason`, so a file with results stays pleasant to read.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt::{self, Display};

const PREFIX: &str = "n/a: ";

/// What a gauge answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading<T> {
    Value(T),
    /// Why there is no value: a short phrase without the `n/a`.
    Missing(String),
}

impl<T> Reading<T> {
    pub fn missing(reason: impl Into<String>) -> Self {
        Self::Missing(reason.into())
    }

    pub fn value(&self) -> Option<&T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing(_) => None,
        }
    }

    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Reading<U> {
        self.and_then(|value| Reading::Value(f(value)))
    }

    /// Goes on with a second step that may itself find nothing; the first reason wins.
    pub fn and_then<U>(self, f: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Value(value) => f(value),
            Self::Missing(reason) => Reading::Missing(reason),
        }
    }

    pub fn as_ref(&self) -> Reading<&T> {
        match self {
            Self::Value(value) => Reading::Value(value),
            Self::Missing(reason) => Reading::Missing(reason.clone()),
        }
    }
}

impl<T, E: Display> From<Result<T, E>> for Reading<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Value(value),
            Err(error) => Self::Missing(error.to_string()),
        }
    }
}

impl<T: Display> Display for Reading<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => value.fmt(f),
            Self::Missing(reason) => write!(f, "{PREFIX}{reason}"),
        }
    }
}

impl<T: Serialize> Serialize for Reading<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Value(value) => value.serialize(serializer),
            Self::Missing(reason) => serializer.serialize_str(&format!("{PREFIX}{reason}")),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Reading<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // `Absent` is tried first: for T = String both would fit, and the prefix decides.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw<T> {
            Absent(Absent),
            Present(T),
        }
        Ok(match Raw::deserialize(deserializer)? {
            Raw::Absent(Absent(reason)) => Self::Missing(reason),
            Raw::Present(value) => Self::Value(value),
        })
    }
}

/// A string that starts with the prefix; any other one is refused.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Absent(String);

impl TryFrom<String> for Absent {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.strip_prefix(PREFIX)
            .map(|reason| Self(reason.to_owned()))
            .ok_or("not `n/a: reason`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Debug;

    /// JSON and back, and what a person reads.
    fn check<T>(reading: Reading<T>, json: &str, shown: &str)
    where
        T: Serialize + for<'de> Deserialize<'de> + Display + Debug + PartialEq,
    {
        assert_eq!(serde_json::to_string(&reading).unwrap(), json);
        assert_eq!(serde_json::from_str::<Reading<T>>(json).unwrap(), reading);
        assert_eq!(reading.to_string(), shown);
    }

    #[test]
    fn a_reading_is_a_value_or_a_reason() {
        check(Reading::Value(0u64), "0", "0");
        check(Reading::Value("tsc".to_owned()), r#""tsc""#, "tsc");
        check(
            Reading::<u64>::missing("no such file"),
            r#""n/a: no such file""#,
            "n/a: no such file",
        );
        check(
            Reading::<String>::missing("no such file"),
            r#""n/a: no such file""#,
            "n/a: no such file",
        );
    }
}
