//! `http://host:port/path`, and nothing more of what a URL may be.
//!
//! What cannot be measured here is refused in a sentence and never ignored:
//! a benchmark of something other than what was asked for is worse than none.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Where to send requests, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Name or address, without the brackets of an IPv6 one.
    pub host: String,
    pub port: u16,
    /// Path and query as they go on the request line; starts with `/`.
    pub path: String,
}

/// A URL that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UrlError(String);

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UrlError {}

impl Url {
    /// Reads `http://host[:port][/path][?query]`; a `#fragment` is dropped, as
    /// it never goes on the wire (RFC 9110, 7.1).
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let refuse = |why: &str| Err(UrlError(format!("cannot use the URL `{text}`: {why}")));
        let Some((scheme, rest)) = text.split_once("://") else {
            return refuse("it has no scheme; write it as http://host:port/path");
        };
        if scheme.eq_ignore_ascii_case("https") {
            return refuse("TLS is not spoken here; use the server's plain http:// port");
        }
        if !scheme.eq_ignore_ascii_case("http") {
            return refuse("only http:// is spoken here");
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(split);
        if authority.contains('@') {
            return refuse(
                "it holds user information; send credentials as a header (`Authorization: …`)",
            );
        }
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let Some((host, after)) = bracketed.split_once(']') else {
                return refuse("the IPv6 address has no closing bracket");
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return refuse("what is in brackets is no IPv6 address");
            }
            match after.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if after.is_empty() => (host, None),
                None => return refuse("after the bracket comes `:port` or the path"),
            }
        } else {
            match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            }
        };
        if host.is_empty() {
            return refuse("it names no host; write it as http://host:port/path");
        }
        if host.contains(|c: char| !(c.is_ascii_alphanumeric() || ".-_:".contains(c))) {
            return refuse("the host holds a character that no host name has");
        }
        let port = match port {
            None => 80,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return refuse("the port is no number from 1 to 65535"),
            },
        };
        if path.contains(|c: char| !c.is_ascii_graphic()) {
            return refuse("the path holds a space or another character to be percent-encoded");
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            path: if path.starts_with('/') {
                path.to_owned()
            } else {
                format!("/{path}")
            },
        })
    }

    /// The `Host` header's value: with the port unless it is 80 (RFC 9110, 7.2).
    pub fn authority(&self) -> String {
        let host = match self.host.parse() {
            Ok(IpAddr::V6(address)) => format!("[{address}]"),
            _ => self.host.clone(),
        };
        match self.port {
            80 => host,
            port => format!("{host}:{port}"),
        }
    }

    /// The first address of the host, IPv4 before IPv6: `localhost` often names
    /// both, and most servers under test listen on 127.0.0.1.
    pub fn resolve(&self) -> Result<SocketAddr, UrlError> {
        let unknown = |why: &dyn fmt::Display| {
            UrlError(format!(
                "the host `{}` has no address: {why}; check the name with `getent hosts {}`",
                self.host, self.host
            ))
        };
        let addresses: Vec<SocketAddr> = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| unknown(&error))?
            .collect();
        addresses
            .iter()
            .find(|address| address.is_ipv4())
            .or(addresses.first())
            .copied()
            .ok_or_else(|| unknown(&"the resolver returned none"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<(&str, u16, &str), &str>) {
        match (Url::parse(text), expected) {
            (Ok(url), Ok((host, port, path))) => {
                assert_eq!((&*url.host, url.port, &*url.path), (host, port, path));
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error}, not {part}");
            }
            (got, expected) => panic!("{text}: {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn plain_urls_are_taken_apart() {
        check(
            "http://localhost:8080/a?b=c",
            Ok(("localhost", 8080, "/a?b=c")),
        );
        check("http://127.0.0.1", Ok(("127.0.0.1", 80, "/")));
        check("HTTP://h?x=1", Ok(("h", 80, "/?x=1")));
        check("http://[::1]:81/a#b", Ok(("::1", 81, "/a")));
        check("http://[::1]", Ok(("::1", 80, "/")));
    }

    #[test]
    fn what_cannot_be_measured_is_refused_in_words() {
        check("localhost:80/", Err("no scheme"));
        check("https://h/", Err("TLS is not spoken"));
        check("ftp://h/", Err("only http://"));
        check("http://user:secret@h/", Err("user information"));
        check("http:///path", Err("names no host"));
        check("http://h:0/", Err("port"));
        check("http://h:99999/", Err("port"));
        check("http://h:8o/", Err("port"));
        check("http://[::1/", Err("closing bracket"));
        check("http://[h]/", Err("no IPv6"));
        check("http://[::1]x/", Err("after the bracket"));
        check("http://h h/", Err("host holds"));
        check("http://h/a b", Err("percent-encoded"));
        check("http://h/a\r\nX: y", Err("percent-encoded"));
    }

    #[test]
    fn the_host_header_names_an_unusual_port_only() {
        let of = |text| Url::parse(text).unwrap().authority();
        assert_eq!(of("http://h/"), "h");
        assert_eq!(of("http://h:81/"), "h:81");
        assert_eq!(of("http://[::1]:81/"), "[::1]:81");
    }

    #[test]
    fn localhost_resolves_to_ipv4_first() {
        let url = Url::parse("http://localhost:81/").unwrap();
        assert_eq!(url.resolve().unwrap(), "127.0.0.1:81".parse().unwrap());
    }
}
