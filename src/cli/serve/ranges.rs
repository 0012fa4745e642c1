//! What an option may be: times and sizes within bounds that are said where they are crossed.

use std::time::Duration;

use bytesize::ByteSize;

/// Times from `least` to `most`, both written as on the command line.
pub(super) fn times(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    let read = |text: &str| text.parse::<humantime::Duration>().map(Duration::from);
    move |text| {
        let time = read(text).map_err(|error| format!("{error}; write a time such as {most}"))?;
        within(least, time, most, |bound| read(bound).expect("a time"))
    }
}

/// Sizes from `least` to `most`, both written as on the command line, in bytes.
pub(super) fn sizes(
    least: &'static str,
    most: &'static str,
) -> impl Fn(&str) -> Result<ByteSize, String> + Clone + Send + Sync + 'static {
    let read = |text: &str| text.parse::<ByteSize>();
    move |text| {
        let size = read(text).map_err(|error| format!("{error}; write a size such as {most}"))?;
        within(least, size, most, |bound| read(bound).expect("a size"))
    }
}

fn within<T: PartialOrd>(
    least: &str,
    value: T,
    most: &str,
    bound: impl Fn(&str) -> T,
) -> Result<T, String> {
    if (bound(least)..=bound(most)).contains(&value) {
        Ok(value)
    } else {
        Err(format!("it may be from {least} to {most}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_are_within() {
        let time = times("1ms", "1h");
        for (text, good) in [
            ("1ms", true),
            ("1h", true),
            ("999us", false),
            ("0s", false),
            ("1h 1ns", false),
            ("18446744073709551615s", false),
        ] {
            assert_eq!(time(text).is_ok(), good, "{text}");
        }
        let size = sizes("64B", "1MiB");
        for (text, good) in [
            ("64", true),
            ("1MiB", true),
            ("63", false),
            ("1048577", false),
            ("16EiB", false),
            ("18446744073709551615", false),
        ] {
            assert_eq!(size(text).is_ok(), good, "{text}");
        }
        let said = size("0B").expect_err("too little");
        assert_eq!(said, "it may be from 64B to 1MiB");
        assert!(time("soon").is_err_and(|said| said.contains("such as 1h")));
    }
}
