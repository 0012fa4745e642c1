//! Handlers that misbehave: what a host must survive, one file each.
//!
//! Each is a module of its own, by the file of its name in `examples/`. None is ever linked into a
//! host: a sandbox is what makes them harmless.

pub mod bad_head;
pub mod deep;
pub mod endless;
pub mod hog;
pub mod huge;
pub mod liar;
pub mod trap;

/// Every one of them: its name, and what it does in a sentence.
pub const ALL: &[(&str, &str)] = &[
    ("trap", "Does what WebAssembly forbids."),
    ("loop", "Never returns."),
    ("hog", "Takes memory until there is no more."),
    ("deep", "Calls itself until the stack is used up."),
    (
        "liar",
        "Answers a record that lies, about what ?about= names.",
    ),
    (
        "huge",
        "Answers a body of ?bytes=N, by default over the limit.",
    ),
    (
        "bad-head",
        "Answers a head that would break the framing, by ?what=.",
    ),
];
