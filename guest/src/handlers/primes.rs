//! `primes`: how many primes there are below N, by trial division.
//!
//! Integer division and branches that no predictor learns: the work of a loop that was never
//! optimised.

use super::number_within;
use crate::{Request, Response};

/// What `/primes` counts below: a tenth of a millisecond or so.
const DEFAULT: u32 = 10_000;
/// The largest N: some seconds.
const MOST: u32 = 10_000_000;

/// Answers `/primes?n=N` with the number of primes below N; N is 10 000 if it is missing, and
/// 10 000 000 at most. Answers 400 to any other `n`.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    match number_within(request, "n", DEFAULT, 0..=MOST) {
        Some(n) => Response::number(u64::from(primes_below(n))),
        None => Response::text("primes takes ?n=N, a whole number from 0 to 10000000\n")
            .with_status(400),
    }
}

fn primes_below(n: u32) -> u32 {
    (0..n).map(|number| u32::from(is_prime(number))).sum()
}

fn is_prime(number: u32) -> bool {
    if number < 4 || number.is_multiple_of(2) {
        return matches!(number, 2 | 3);
    }
    let mut divisor = 3;
    while divisor * divisor <= number {
        if number.is_multiple_of(divisor) {
            return false;
        }
        divisor += 2;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    /// The prime-counting function at powers of ten (OEIS A006880).
    #[test]
    fn the_primes_are_counted() {
        for (n, primes) in [(0, 0), (2, 0), (3, 1), (10, 4), (100, 25), (1000, 168)] {
            check(
                handle,
                &format!("/primes?n={n}"),
                200,
                &format!("{primes}\n"),
            );
        }
        check(handle, "/primes", 200, "1229\n");
        check(handle, "/primes?n=100000", 200, "9592\n");
    }

    #[test]
    fn a_limit_that_is_none_is_refused() {
        for n in ["", "x", "-1", "10000001", "4294967296"] {
            check(handle, &format!("/primes?n={n}"), 400, "primes takes ?n=N");
        }
    }
}
