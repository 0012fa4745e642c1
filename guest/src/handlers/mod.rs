//! The built-in handlers: one file each, with its function `handle`.
//!
//! Their modules run in a memory of fixed size: each takes a bounded input, and what it allocates
//! is bounded with it, within the heap that its file of the same name in `examples/` sets aside.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::{Handler, Request};

pub mod count;
pub mod deflate;
pub mod echo;
pub mod hello;
pub mod json;
pub mod mandelbrot;
pub mod pbkdf2;
pub mod primes;
pub mod redos;
mod sha256;
pub mod spin;

/// Every built-in handler: its name, its function, and what it does in a sentence.
pub const ALL: &[(&str, Handler, &str)] = &[
    (
        "hello",
        hello::handle,
        "Answers a fixed line of text: as little work as a handler can do.",
    ),
    (
        "echo",
        echo::handle,
        "Answers the request's body and its content type.",
    ),
    (
        "count",
        count::handle,
        "Counts to the square of ?n=N, one step at a time.",
    ),
    (
        "spin",
        spin::handle,
        "Computes for ?iterations=N steps, or for about ?ms=N milliseconds.",
    ),
    (
        "primes",
        primes::handle,
        "Counts the primes below ?n=N by trial division.",
    ),
    (
        "json",
        json::handle,
        "Parses the body, adds one to its whole numbers, and prints it.",
    ),
    (
        "redos",
        redos::handle,
        "Matches a pattern that takes 1.6 times as long for each of ?n=N characters.",
    ),
    (
        "pbkdf2",
        pbkdf2::handle,
        "Makes a key of a password: ?iterations=N of HMAC-SHA256.",
    ),
    (
        "deflate",
        deflate::handle,
        "Compresses the body, or a text of ?n=N bytes.",
    ),
    (
        "mandelbrot",
        mandelbrot::handle,
        "Paints the set: ?size=N pixels a side, ?iterations=M steps a pixel.",
    ),
];

/// The query parameter `name` as a number; none if it is missing or is not one.
fn query_number<N: FromStr>(request: &Request, name: &str) -> Option<N> {
    request.query(name)?.parse().ok()
}

/// The query parameter `name` as a number, or `default` if it is missing; none if it is not a
/// number within `range`.
fn number_within<N: FromStr + PartialOrd>(
    request: &Request,
    name: &str,
    default: N,
    range: RangeInclusive<N>,
) -> Option<N> {
    match request.query(name) {
        Some(text) => text.parse().ok().filter(|number| range.contains(number)),
        None => Some(default),
    }
}

/// Status, header lines and body that `handler` answers to a GET of `target`.
#[cfg(test)]
fn get(handler: Handler, target: &str) -> (u16, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("answers are text");
    let response = handler(&Request::new("GET", target, &[], b""));
    let (lines, body) = (response.header_lines(), response.body());
    (response.status(), text(lines), text(body))
}

/// `handler` answers a GET of `target` with `status` and a body that begins with `body`.
#[cfg(test)]
fn check(handler: Handler, target: &str, status: u16, body: &str) {
    let (found_status, _, found_body) = get(handler, target);
    assert_eq!(found_status, status, "{target}");
    assert!(found_body.starts_with(body), "{target}: {found_body}");
}
