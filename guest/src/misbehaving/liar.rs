//! `liar`: a handler whose record says what is not so.

use crate::Request;

/// What `?about=` may name.
pub const LIES: &[&str] = &[
    "body",
    "lines",
    "record",
    "record-end",
    "wrapping",
    "wrapping-lines",
    "everything",
    "overlapping",
    "kind",
];

/// A record as words, little-endian, and where the host is told that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lie {
    /// The address that `handle` returns.
    pub address: u32,
    /// Kind and status, header lines' address and length, body's address and length, and 0.
    pub record: [u32; 6],
}

/// The lie that `?about=` names, the first of [`LIES`] if it is missing; one about the kind if there
/// is no such lie. `record`: where the record will be; `memory`: the length of the memory; in bytes.
pub fn lie(request: &Request, record: u32, memory: u32) -> Lie {
    const ANSWER: u32 = 200 << 16;
    let honest = Lie {
        address: record,
        record: [ANSWER, 0, 0, 0, 0, 0],
    };
    let lines = |address, length| Lie {
        record: [ANSWER, address, length, 0, 0, 0],
        ..honest
    };
    let body = |address, length| Lie {
        record: [ANSWER, 0, 0, address, length, 0],
        ..honest
    };
    let at = |address| Lie { address, ..honest };
    match request.query("about").unwrap_or(LIES[0]) {
        // One byte beyond the end.
        "body" => body(memory - 8, 9),
        "lines" => lines(memory - 8, 9),
        "record" => at(u32::MAX - 3),
        "record-end" => at(memory - 23),
        // The sum is small if it is made in 32 bits.
        "wrapping" => body(u32::MAX - 7, 16),
        "wrapping-lines" => lines(u32::MAX - 7, 16),
        "everything" => body(1, u32::MAX),
        // The header lines are the record itself, which makes bad ones. To overlap is no lie by itself.
        "overlapping" => lines(record, 24),
        _ => Lie {
            record: [ANSWER | 0xffff, 0, 0, 0, 0, 0],
            ..honest
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lie_is_another() {
        let mut lies: Vec<Lie> = Vec::new();
        for about in LIES {
            let target = format!("/?about={about}");
            let found = lie(&Request::new("GET", &*target, &[], b""), 64, 65536);
            assert!(!lies.contains(&found), "{about}");
            lies.push(found);
        }
        assert_eq!(lie(&Request::new("GET", "/", &[], b""), 64, 65536), lies[0]);
    }
}
