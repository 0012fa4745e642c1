//! `count`: N² steps of nothing, for work whose size the client chooses.

use std::hint::black_box;

use super::query_number;
use crate::{Request, Response};

/// Answers `/count?n=N` with N², counted one by one; N fits 32 bits, so N²
/// fits 64. Answers 400 to any other `n`.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    match query_number(request, "n") {
        Some(n) => Response::number(squared(n)),
        None => Response::text("count needs ?n=N, a whole number from 0 to 4294967295\n")
            .with_status(400),
    }
}

fn squared(n: u32) -> u64 {
    let mut count = 0;
    for _ in 0..n {
        for _ in 0..n {
            // A one that the optimiser cannot know to be one: it would multiply.
            count += black_box(1);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn the_answer_is_the_square() {
        check(handle, "/count?n=0", 200, "0\n");
        check(handle, "/count?n=1", 200, "1\n");
        check(handle, "/count?x=1&n=300", 200, "90000\n");
    }

    #[test]
    fn a_count_without_a_number_is_refused() {
        for query in ["", "?n", "?n=", "?n=x", "?n=-1", "?n=1.5", "?n=4294967296"] {
            check(handle, &format!("/count{query}"), 400, "count needs ?n=N");
        }
    }
}
