//! The built-in handlers: one file each, with its function `handle`.
//!
//! None of them allocates, so that their modules run in a memory of fixed size.
//! Each is also a module of its own, by the file of its name in `examples/`.

use std::str::FromStr;

use crate::{Handler, Request};

pub mod count;
pub mod echo;
pub mod hello;
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
];

/// The query parameter `name` as a number; none if it is missing or is not one.
fn query_number<N: FromStr>(request: &Request, name: &str) -> Option<N> {
    request.query(name)?.parse().ok()
}

/// Status, header lines and body that `handler` answers to a GET of `target`.
#[cfg(test)]
fn get(handler: Handler, target: &str) -> (u16, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("answers are text");
    let response = handler(&Request::new("GET", target, &[], b""));
    let (lines, body) = (response.header_lines(), response.body());
    (response.status(), text(lines), text(body))
}
