//! The handlers that come with this program, in both their forms.

use ringlab_guest::Handler as NativeHandler;
use ringlab_guest::handlers::ALL;
use ringlab_guest::misbehaving;

// `WASM: &[(&str, &[u8])]`, each handler's name and module, written by the package's build.
include!(concat!(env!("OUT_DIR"), "/handlers.rs"));

/// The handler called `name`, linked in.
pub(super) fn native(name: &str) -> Option<NativeHandler> {
    ALL.iter()
        .find_map(|(found, handler, _)| (*found == name).then_some(*handler))
}

/// Whether `name` is a handler that is there to misbehave, which only a sandbox may run.
pub(super) fn misbehaves(name: &str) -> bool {
    misbehaving::ALL.iter().any(|(found, _)| *found == name)
}

/// The module of the handler called `name`.
pub(super) fn wasm(name: &str) -> Option<&'static [u8]> {
    WASM.iter()
        .find_map(|(found, wasm)| (*found == name).then_some(*wasm))
}

/// What to choose in place of `name`, which is no handler's.
pub(super) fn suggest(name: &str) -> String {
    let names: Vec<&str> = ALL
        .iter()
        .map(|(name, _, _)| *name)
        .chain(misbehaving::ALL.iter().map(|(name, _)| *name))
        .collect();
    let listed = names.join(", ");
    match names.iter().find(|known| edits(known, name) <= 2) {
        Some(near) => format!("did you mean {near}? The names are {listed}"),
        None => format!("choose one of {listed}, or name a file by a path with / or .wasm in it"),
    }
}

/// How many letters to add, leave out or change to make `to` of `from` (Levenshtein's distance).
fn edits(from: &str, to: &str) -> usize {
    // The distances from what was read of `from` to each beginning of `to`.
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (read, letter) in from.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = read + 1;
        for (at, other) in to.bytes().enumerate() {
            let changed = diagonal + usize::from(letter != other);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested() {
        let check = |name: &str, expected: &str| {
            let sentence = suggest(name);
            assert!(sentence.starts_with(expected), "{name}: {sentence}");
        };
        check("helo", "did you mean hello?");
        check("Hello", "did you mean hello?");
        check("ecoh", "did you mean echo?");
        check("", "choose one of hello, echo");
        check("nothing-like-it", "choose one of hello, echo");
    }

    #[test]
    fn every_other_handler_has_both_forms() {
        for (name, _, _) in ALL {
            assert!(native(name).is_some() && wasm(name).is_some(), "{name}");
            assert!(!misbehaves(name), "{name}");
        }
        assert_eq!(WASM.len(), ALL.len() + misbehaving::ALL.len());
    }

    #[test]
    fn those_that_misbehave_are_never_linked_in() {
        for (name, _) in misbehaving::ALL {
            assert!(misbehaves(name) && wasm(name).is_some(), "{name}");
            assert!(native(name).is_none(), "{name}");
        }
    }
}
