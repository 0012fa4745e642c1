//! `ringlab new`: writes a handler's project, which needs nothing but itself and a Rust compiler.
//!
//! The SDK goes into the project as a copy: who has this program alone can build a handler, without a
//! network, against the very ABI that this program speaks. May touch one new directory. It
//! deliberately runs neither cargo nor git.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::{Exit, fail, say};

/// Write a handler's project, in Rust, that builds and serves in two commands
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The project's name; a directory of this name is made here
    name: String,
}

/// The longest name, in bytes: a file of that name has more than its name, and may have 255.
const NAME_BYTES: usize = 64;

/// Crates that there are already: the compiler's, and the SDK.
const CRATES: [&str; 6] = [
    "alloc",
    "core",
    "proc_macro",
    "ringlab_guest",
    "std",
    "test",
];

/// Words of the language, which no crate can be called; those kept for later are among them.
#[rustfmt::skip]
const KEYWORDS: [&str; 51] = [
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate",
    "do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in",
    "let", "loop", "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref",
    "return", "self", "static", "struct", "super", "trait", "true", "try", "type", "typeof",
    "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

macro_rules! template {
    ($file:literal) => {
        include_str!(concat!("template/", $file))
    };
}

macro_rules! sdk {
    ($file:literal) => {
        include_str!(concat!("../../../guest/src/", $file))
    };
}

/// Every file of a project and what is in it. The template's say `NAME` for the project's name, and
/// `MODULE` for its module's, which has no hyphens.
const FILES: [(&str, &str); 11] = [
    (".gitignore", "/target\n"),
    ("Cargo.toml", template!("Cargo.toml.in")),
    ("README.md", template!("README.md.in")),
    ("src/lib.rs", template!("lib.rs.in")),
    ("sdk/Cargo.toml", template!("sdk.toml.in")),
    ("sdk/src/abi.rs", sdk!("abi.rs")),
    ("sdk/src/heap.rs", sdk!("heap.rs")),
    ("sdk/src/lib.rs", sdk!("lib.rs")),
    ("sdk/src/request.rs", sdk!("request.rs")),
    ("sdk/src/response.rs", sdk!("response.rs")),
    ("sdk/src/view.rs", sdk!("view.rs")),
];

/// Exits 0 with a project, 2 if there can be none of that name here.
pub fn run(arguments: &Arguments) -> Exit {
    let name = &arguments.name;
    if let Err(sentence) = check(name) {
        return fail(Exit::BadInput, sentence);
    }
    match write(name) {
        Ok(()) => {
            say(next_steps(name));
            Exit::Done
        }
        Err(sentence) => fail(Exit::BadInput, sentence),
    }
}

/// # Errors
/// Why neither cargo nor the compiler would take a package of this name.
fn check(name: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !name.starts_with(|first: char| first.is_ascii_alphabetic()) || !name.bytes().all(plain) {
        return Err(format!(
            "{name:?} can be no project's name: it begins with a letter and goes on with letters, \
             digits, - and _, such as my-handler; the directory is made where you are"
        ));
    }
    if name.len() > NAME_BYTES {
        return Err(format!(
            "the name has {} bytes, and {NAME_BYTES} are the most; choose a shorter one",
            name.len()
        ));
    }
    let module = module_of(name);
    if KEYWORDS.contains(&&*module) || CRATES.contains(&&*module) {
        return Err(format!(
            "{name} means something in Rust already and can be no project's name; choose another, \
             such as my-{name}"
        ));
    }
    Ok(())
}

/// What cargo calls the library: an identifier.
fn module_of(name: &str) -> String {
    name.replace('-', "_")
}

/// Writes the project; whatever it began goes again if it cannot be finished.
fn write(name: &str) -> Result<(), String> {
    let root = Path::new(name);
    fs::create_dir(root).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("{name} is there already and stays as it is; choose another name, or move it")
        }
        _ => format!("{name} cannot be made here: {error}; go where this user may write"),
    })?;
    write_files(root, name).map_err(|error| {
        // It was made above, empty.
        let _ = fs::remove_dir_all(root);
        format!("{name} cannot be written: {error}; nothing was left behind")
    })
}

fn write_files(root: &Path, name: &str) -> io::Result<()> {
    for (path, content) in FILES {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(root))?;
        fs::write(path, fill(content, name))?;
    }
    Ok(())
}

/// A template's text for this project. The SDK has none of these words, which a test holds.
fn fill(template: &str, name: &str) -> String {
    template
        .replace("SDK_VERSION", env!("CARGO_PKG_VERSION"))
        .replace("SDK_RUST", env!("CARGO_PKG_RUST_VERSION"))
        .replace("MODULE", &module_of(name))
        .replace("NAME", name)
}

fn next_steps(name: &str) -> String {
    format!(
        "{name}/ is a handler's project: src/lib.rs is yours to change. Build it, serve it:\n\n  \
         cd {name}\n  \
         cargo build --release --target wasm32-unknown-unknown\n  \
         ringlab serve --handler target/wasm32-unknown-unknown/release/{}.wasm\n",
        module_of(name)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_crate_may_have() {
        for name in ["a", "greet", "my-handler", "my_handler2", "Test", "X-9"] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        let refused = |name: &str, word: &str| {
            let said = check(name).expect_err(name);
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        };
        for name in [
            "",
            "9a",
            "-a",
            "_a",
            "a b",
            "a/b",
            "..",
            "./a",
            "gr\u{fc}n",
            "a.b",
            "a\n",
        ] {
            refused(name, "begins with a letter");
        }
        refused(&"x".repeat(65), "65 bytes");
        for name in ["fn", "self", "test", "core", "ringlab-guest", "proc-macro"] {
            refused(name, "means something in Rust");
        }
    }

    #[test]
    fn the_sdk_is_copied_as_it_is() {
        for (path, content) in FILES {
            let filled = fill(content, "greet");
            if path.starts_with("sdk/src/") {
                assert_eq!(filled, content, "{path}");
            }
            for word in ["NAME", "MODULE", "SDK_"] {
                assert!(!filled.contains(word), "{word} is left in {path}");
            }
        }
    }
}
