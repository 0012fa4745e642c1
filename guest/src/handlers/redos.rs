//! `redos`: a pattern that takes exponential time on the wrong text.
//!
//! The pattern is `(\/.+)+$`, as one finds it where paths are checked. A `/` can either be one more
//! character of `.+` or begin the group anew, so n of them can be divided up in about 1.6ⁿ ways. If
//! the text ends in a newline, which `.` does not match, none of them leads to a match, and a
//! matcher that backtracks tries them all.

use super::number_within;
use crate::{Request, Response};

/// Slashes in the text of `/redos`: a millisecond or so.
const DEFAULT: usize = 20;
/// The longest text, in bytes.
const MOST: usize = 4096;

/// Looks for a match in the request's body or, if there is none, in `?n=N` slashes and a newline; N
/// is 20 if it is missing. Answers where the match is, or that there is none, and how many steps
/// that took. Answers 400 if `n` is not 0 to 4095, and 413 if the body is over 4096 bytes long.
pub fn handle<'a>(request: &Request<'a>) -> Response<'a> {
    let body = request.body();
    if body.len() > MOST {
        return Response::text("redos takes a body of at most 4096 bytes\n").with_status(413);
    }
    if !body.is_empty() {
        return answer(body);
    }
    match number_within(request, "n", DEFAULT, 0..=MOST - 1) {
        Some(slashes) => {
            let mut text = vec![b'/'; slashes];
            text.push(b'\n');
            answer(&text)
        }
        None => {
            Response::text("redos takes ?n=N, a whole number from 0 to 4095\n").with_status(400)
        }
    }
}

fn answer(text: &[u8]) -> Response<'static> {
    let Found { place, steps } = search(&PATTERN, text);
    Response::text(match place {
        Some((from, to)) => format!("a match from {from} to {to}, {steps} steps\n"),
        None => format!("no match, {steps} steps\n"),
    })
}

/// One step of a pattern, as a machine that backtracks takes it (Thompson's instructions, as in
/// Cox 2009, "Regular Expression Matching: the Virtual Machine Approach").
#[derive(Clone, Copy)]
enum Step {
    /// This character.
    Char(u8),
    /// Any character but a newline.
    Any,
    /// On at the first place, and if that does not lead to a match, at the second.
    Either(u8, u8),
    /// Nothing may follow.
    End,
    Match,
}

/// `(\/.+)+$`
const PATTERN: [Step; 6] = [
    Step::Char(b'/'),
    Step::Any,
    Step::Either(1, 3),
    Step::Either(0, 4),
    Step::End,
    Step::Match,
];

struct Found {
    /// The match's first byte and the byte behind its last.
    place: Option<(usize, usize)>,
    steps: u64,
}

/// The first match of `pattern` in `text`, from the left.
fn search(pattern: &[Step], text: &[u8]) -> Found {
    let mut steps = 0;
    // What is left to be tried: places in the pattern and in the text. A character is behind two of
    // these at most.
    let mut untried: Vec<(u8, u16)> = Vec::with_capacity(2 * text.len() + 1);
    for from in 0..=text.len() {
        untried.push((0, from as u16));
        while let Some((mut step, at)) = untried.pop() {
            let mut at = usize::from(at);
            loop {
                steps += 1;
                let next = text.get(at);
                let matches = match pattern[usize::from(step)] {
                    Step::Char(char) => next == Some(&char),
                    Step::Any => next.is_some_and(|next| *next != b'\n'),
                    Step::Either(first, second) => {
                        untried.push((second, at as u16));
                        step = first;
                        continue;
                    }
                    Step::End => {
                        if next.is_none() {
                            step += 1;
                            continue;
                        }
                        false
                    }
                    Step::Match => {
                        let place = Some((from, at));
                        return Found { place, steps };
                    }
                };
                if !matches {
                    break;
                }
                step += 1;
                at += 1;
            }
        }
    }
    Found { place: None, steps }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

    fn check_match(text: &str, place: Option<(usize, usize)>) {
        assert_eq!(search(&PATTERN, text.as_bytes()).place, place, "{text:?}");
    }

    #[test]
    fn the_pattern_matches_what_it_says() {
        check_match("/a", Some((0, 2)));
        check_match("a/b/cd", Some((1, 6)));
        check_match("//", Some((0, 2)));
        check_match("\n/a", Some((1, 3)));
        for text in ["", "/", "abc", "a/", "/a\n", "///\n"] {
            check_match(text, None);
        }
    }

    #[test]
    fn a_bad_text_takes_exponential_time() {
        let steps =
            |slashes: usize| search(&PATTERN, &[&[b'/'].repeat(slashes)[..], b"\n"].concat()).steps;
        // Each further slash makes it longer by the golden ratio, nearly.
        for slashes in 10..20 {
            let growth = steps(slashes + 1) as f64 / steps(slashes) as f64;
            assert!((1.6..1.7).contains(&growth), "{slashes}: {growth}");
        }
        let good = [b'/'].repeat(MOST);
        assert!(search(&PATTERN, &good).steps < 3 * MOST as u64);
    }

    #[test]
    fn the_answer_tells_the_match_and_the_steps() {
        check(handle, "/redos?n=0", 200, "no match, 2 steps\n");
        let steps = search(&PATTERN, &[&[b'/'; DEFAULT][..], b"\n"].concat()).steps;
        check(handle, "/redos", 200, &format!("no match, {steps} steps\n"));
        let request = Request::new("POST", "/redos", &[], b"x/yz");
        assert_eq!(handle(&request).body(), b"a match from 1 to 4, 11 steps\n");
    }

    #[test]
    fn what_is_too_long_is_refused() {
        for n in ["", "x", "-1", "4096"] {
            check(handle, &format!("/redos?n={n}"), 400, "redos takes ?n=N");
        }
        let body = [b'/'; MOST + 1];
        let response = handle(&Request::new("POST", "/redos", &[], &body));
        assert_eq!(response.status(), 413);
    }
}
