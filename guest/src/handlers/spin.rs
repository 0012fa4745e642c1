//! `spin`: arithmetic that no optimiser shortens and no machine overlaps.
//!
//! Each step needs the result of the one before, so the time is the latency of
//! six operations a step and much alike whichever compiler made the code. The
//! result is the same number natively and in the sandbox.

use super::query_number;
use crate::{Request, Response};

/// Steps that `?ms=` takes for a nominal millisecond: a fixed amount of work and
/// not a time, since a guest has no clock.
///
/// Measured at 1.64 ns a step on a Zen 4 server core, in native code and in
/// WebAssembly alike: six operations of one cycle each near 3.65 GHz. So many
/// steps take 0.99 ms there, and 1.2 ms at 3 GHz.
pub const ITERATIONS_PER_MS: u64 = 600_000;

/// Any number but zero, from which there is no way out.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Answers `?iterations=N` or `?ms=N` with the number that so many steps end at.
/// N is a 64-bit number of steps, or a 32-bit number of nominal milliseconds.
/// Answers 400 if neither is given or it is no such number; if both are, the
/// iterations count.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let steps = match request.query("iterations") {
        Some(_) => query_number(request, "iterations"),
        None => query_number(request, "ms").map(|ms: u32| u64::from(ms) * ITERATIONS_PER_MS),
    };
    match steps {
        Some(steps) => Response::number(spin(steps)),
        None => {
            Response::text("spin needs ?iterations=N or ?ms=N, a whole number\n").with_status(400)
        }
    }
}

/// The xorshift generator of 64 bits with shifts 13, 7, 17 (Marsaglia 2003,
/// "Xorshift RNGs"), `steps` steps on.
fn spin(steps: u64) -> u64 {
    let mut state = SEED;
    for _ in 0..steps {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    state
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    #[test]
    fn the_answer_is_the_state_after_so_many_steps() {
        check(handle, "/spin?iterations=0", 200, &format!("{SEED}\n"));
        let by_hand = (SEED ^ (SEED << 13)) ^ ((SEED ^ (SEED << 13)) >> 7);
        let by_hand = by_hand ^ (by_hand << 17);
        check(handle, "/spin?iterations=1", 200, &format!("{by_hand}\n"));
        check(
            handle,
            "/spin?iterations=2&ms=9",
            200,
            &format!("{}\n", spin(2)),
        );
        let one = spin(ITERATIONS_PER_MS);
        check(handle, "/spin?ms=1", 200, &format!("{one}\n"));
    }

    #[test]
    fn a_spin_without_a_number_is_refused() {
        for query in [
            "",
            "?iterations=",
            "?iterations=x&ms=1",
            "?ms=-1",
            "?ms=4294967296",
        ] {
            check(handle, &format!("/spin{query}"), 400, "spin needs");
        }
    }
}
