//! Which handler a request is for: its path's longest prefix among the server's routes.
//!
//! Pure: a table made once, and look-ups in it. Paths are compared byte by byte as they were sent:
//! nothing is decoded, no dot segment is resolved, no slash is added or taken away.

use std::str::FromStr;

use crate::offload::Policy;
use crate::sandbox::{Isolation, Source};

/// The most routes of a server. Each is an engine in every shard.
pub const MOST: usize = 32;

/// A route as asked for: `PATH=HANDLER[,isolation][,offload]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it answers: this path and all below it.
    pub path: String,
    /// What runs.
    pub handler: Source,
    /// What stands between two of its requests, if not what holds for the whole server.
    pub isolation: Option<Isolation>,
    /// Where and when its handler runs, if not what holds for the whole server.
    pub offload: Option<Policy>,
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Route, String> {
        let (path, rest) = text.split_once('=').ok_or_else(|| {
            format!("{text:?} is no route; write it as `/path=HANDLER[,isolation][,offload]`")
        })?;
        check_path(path)?;
        let mut words = rest.split(',');
        let handler = words.next().unwrap_or_default();
        if handler.is_empty() {
            return Err(format!("the route {path} names no handler"));
        }
        let mut route = Route {
            path: path.to_owned(),
            handler: Source::parse(handler),
            isolation: None,
            offload: None,
        };
        for word in words {
            match (word.parse(), word.parse()) {
                (Ok(isolation), _) if route.isolation.is_none() => {
                    route.isolation = Some(isolation);
                }
                (_, Ok(offload)) if route.offload.is_none() => route.offload = Some(offload),
                (Ok(_), _) | (_, Ok(_)) => {
                    return Err(format!("the route {path} names two of a kind: {word:?}"));
                }
                (Err(isolation), Err(offload)) => return Err(format!("{isolation}; {offload}")),
            }
        }
        Ok(route)
    }
}

/// # Errors
/// What is wrong with it, in words.
pub fn check_path(path: &str) -> Result<(), String> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#".contains(&byte);
    if path.starts_with('/') && path.bytes().all(plain) {
        Ok(())
    } else {
        Err(format!(
            "{path:?} is no path; it begins with / and has no space, query or fragment in it"
        ))
    }
}

/// Finds the route of a target.
#[derive(Clone, Debug)]
pub struct Table {
    /// Each path with its route's number, the longest first.
    paths: Vec<(String, usize)>,
}

impl Table {
    /// A table of these paths; a route's number is its place among them.
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a str>) -> Table {
        let mut paths: Vec<_> = paths.into_iter().map(str::to_owned).zip(0..).collect();
        paths.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Table { paths }
    }

    /// The number of the route for `target`, as it was sent.
    pub fn find(&self, target: &str) -> Option<usize> {
        let path = path_of(target);
        self.paths
            .iter()
            .find(|(prefix, _)| covers(prefix, path))
            .map(|(_, route)| *route)
    }
}

/// Whether `path` is `prefix` or lies below it.
fn covers(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

/// The path of a target: of `/path?query`, or of an absolute URI (RFC 9112, section 3.2.2). `*` has
/// none and stays what it is.
fn path_of(target: &str) -> &str {
    let path = if target.starts_with('/') {
        target
    } else if let Some((_, rest)) = target.split_once("://") {
        // Without a path it is the root's (RFC 9110, section 4.2.3).
        let Some(at) = rest.find(['/', '?', '#']) else {
            return "/";
        };
        if !rest[at..].starts_with('/') {
            return "/";
        }
        &rest[at..]
    } else {
        target
    };
    path.split(['?', '#']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins() {
        let paths = ["/", "/api", "/api/v2", "/files/", "/api/v2/users"];
        let table = Table::new(paths);
        let check = |target: &str, expected: &str| {
            let found = table.find(target).map_or("none", |route| paths[route]);
            assert_eq!(found, expected, "{target}");
        };
        check("/", "/");
        check("/?q=/api", "/");
        check("/api", "/api");
        check("/api?x", "/api");
        check("/api/", "/api");
        check("/apiary", "/");
        check("/api/v1", "/api");
        check("/api/v2", "/api/v2");
        check("/api/v22", "/api");
        check("/api/v2/users/7", "/api/v2/users");
        check("/files", "/");
        check("/files/", "/files/");
        check("/files/a", "/files/");
        check("http://host/api/v2?x", "/api/v2");
        check("http://host", "/");
        check("http://host?/api", "/");
        check("http://host:80/api#part", "/api");
        check("/%61pi", "/");
        check("/x/../api", "/");
        check("*", "none");
        let table = Table::new(["/api"]);
        assert_eq!(table.find("/other"), None);
        assert_eq!(table.find("/"), None);
    }

    #[test]
    fn a_route_is_written_as_the_help_says() {
        let route = |text: &str| Route::from_str(text);
        let plain = route("/a=hello").expect("a route");
        assert_eq!((plain.isolation, plain.offload), (None, None));
        let full = route("/a/b=./x.wasm,pool,fresh").expect("in any order");
        assert_eq!(full.handler, Source::File("./x.wasm".into()));
        let both = (Some(Isolation::Fresh), Some(Policy::Pool));
        assert_eq!((full.isolation, full.offload), both);
        let check = |text: &str, word: &str| {
            let said = route(text).expect_err(text);
            assert!(said.contains(word), "{word:?} is not in {said:?}");
        };
        check("hello", "write it as");
        check("a=hello", "begins with /");
        check("/a b=hello", "begins with /");
        check("/a?b=hello", "query");
        check("/a=", "names no handler");
        check("/a=hello,fresh,reuse", "two of a kind");
        check("/a=hello,steal", "no offload policy is called \"steal\"");
    }
}
