//! Requests as bytes, rendered once before the run, and the choice among them.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::error::LoadError;
use super::plan::{ConnectionUse, Plan, Target, limits};

/// A target ready to be sent.
#[derive(Debug)]
pub struct Rendered {
    /// Head and body, byte for byte as they go on the wire.
    pub bytes: Vec<u8>,
    /// The answer to HEAD has no body, whatever its header says (RFC 9112, 6.3).
    pub is_head: bool,
    /// What every answer's body must be.
    pub body: Option<Vec<u8>>,
}

/// Renders the plan's targets, or says which is no HTTP/1.1 request.
pub fn render_all(plan: &Plan) -> Result<Vec<Rendered>, LoadError> {
    let render = |target| render(&plan.host, target, plan.reuse).map_err(LoadError::Plan);
    plan.targets.iter().map(render).collect()
}

fn render(host: &str, target: &Target, reuse: ConnectionUse) -> Result<Rendered, String> {
    let Target {
        method,
        path,
        headers,
        body,
        ..
    } = target;
    if !is_token(method) {
        return Err(format!("`{method}` is no HTTP method: use GET, POST, …"));
    }
    if method == "CONNECT" {
        return Err(
            "CONNECT opens a tunnel, which has no answers to count: use GET, POST, …".into(),
        );
    }
    if !path.starts_with('/') || path.contains(|c: char| !c.is_ascii_graphic()) {
        return Err(format!(
            "`{path}` cannot stand on a request line: start with / and percent-encode the rest"
        ));
    }
    let own_host = headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let mut head = format!("{method} {path} HTTP/1.1\r\n");
    if !own_host {
        push_header(&mut head, "Host", host)?;
    }
    for (name, value) in headers {
        if [
            "content-length",
            "transfer-encoding",
            "connection",
            "expect",
        ]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
        {
            return Err(format!(
                "the header `{name}` is the generator's own: leave it out (the body's length and \
                 the use of connections set it)"
            ));
        }
        push_header(&mut head, name, value)?;
    }
    // A body-less POST says so (RFC 9110, 8.6); a body-less GET needs nothing.
    if !body.is_empty() || ["POST", "PUT", "PATCH"].contains(&method.as_str()) {
        push_header(&mut head, "Content-Length", &body.len().to_string())?;
    }
    if reuse == ConnectionUse::OnePerRequest {
        push_header(&mut head, "Connection", "close")?;
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    if bytes.len() > limits::REQUEST_BYTES {
        return Err(format!(
            "the request to {path} is longer than {} bytes: use a shorter body",
            limits::REQUEST_BYTES
        ));
    }
    Ok(Rendered {
        bytes,
        is_head: method == "HEAD",
        body: target.expect.body.clone(),
    })
}

fn push_header(head: &mut String, name: &str, value: &str) -> Result<(), String> {
    if !is_token(name) {
        return Err(format!(
            "`{name}` is no header name: use letters, digits and -"
        ));
    }
    if value.contains(|c: char| c.is_control() && c != '\t') {
        return Err(format!(
            "the value of header `{name}` holds a control character: remove it"
        ));
    }
    head.push_str(name);
    head.push_str(": ");
    head.push_str(value);
    head.push_str("\r\n");
    Ok(())
}

/// RFC 9110, 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Picks targets in proportion to their weights.
#[derive(Debug)]
pub struct Picker {
    /// Running sums of the weights.
    cumulative: Vec<u64>,
    random: StdRng,
}

impl Picker {
    pub fn new(targets: &[Target], seed: u64) -> Self {
        let mut sum = 0;
        let cumulative = targets.iter().map(|target| {
            sum += u64::from(target.weight);
            sum
        });
        Self {
            cumulative: cumulative.collect(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Index of the next request's target.
    #[inline]
    pub fn pick(&mut self) -> u16 {
        match *self.cumulative.as_slice() {
            [] | [_] => 0,
            [.., total] => {
                let point = self.random.random_range(0..total);
                // At most `limits::TARGETS`, so it fits.
                self.cumulative.partition_point(|&sum| sum <= point) as u16
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &Target, reuse: ConnectionUse, expected: Result<&str, &str>) {
        match (render("h:81", target, reuse), expected) {
            (Ok(got), Ok(expected)) => {
                assert_eq!(String::from_utf8(got.bytes).unwrap(), expected);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}, not {part}"),
            (got, expected) => panic!("{got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn requests_are_rendered_as_they_go_on_the_wire() {
        let keep = ConnectionUse::KeepAlive;
        let get = Target::get("/a?b");
        check(&get, keep, Ok("GET /a?b HTTP/1.1\r\nHost: h:81\r\n\r\n"));
        check(
            &get,
            ConnectionUse::OnePerRequest,
            Ok("GET /a?b HTTP/1.1\r\nHost: h:81\r\nConnection: close\r\n\r\n"),
        );
        let mut post = Target {
            method: "POST".into(),
            headers: vec![("X-A".into(), "1".into()), ("host".into(), "own".into())],
            ..Target::get("/")
        };
        check(
            &post,
            keep,
            Ok("POST / HTTP/1.1\r\nX-A: 1\r\nhost: own\r\nContent-Length: 0\r\n\r\n"),
        );
        post.body = b"body".to_vec();
        check(
            &post,
            keep,
            Ok("POST / HTTP/1.1\r\nX-A: 1\r\nhost: own\r\nContent-Length: 4\r\n\r\nbody"),
        );
    }

    #[test]
    fn what_is_no_request_is_refused_in_words() {
        let with = |change: fn(&mut Target)| {
            let mut target = Target::get("/");
            change(&mut target);
            target
        };
        let keep = ConnectionUse::KeepAlive;
        check(
            &with(|t| t.method = "GE T".into()),
            keep,
            Err("no HTTP method"),
        );
        check(&with(|t| t.method = "CONNECT".into()), keep, Err("tunnel"));
        check(&with(|t| t.path = "a".into()), keep, Err("request line"));
        check(&with(|t| t.path = "/a b".into()), keep, Err("request line"));
        check(
            &with(|t| t.headers = vec![("Connection".into(), "close".into())]),
            keep,
            Err("generator's own"),
        );
        check(
            &with(|t| t.headers = vec![("a:".into(), "b".into())]),
            keep,
            Err("no header name"),
        );
        check(
            &with(|t| t.headers = vec![("a".into(), "b\r\nc: d".into())]),
            keep,
            Err("control character"),
        );
    }

    #[test]
    fn targets_are_picked_by_weight() {
        let weighing = |weight| Target {
            weight,
            ..Target::get("/")
        };
        let mut picker = Picker::new(&[weighing(1), weighing(3), weighing(6)], 1);
        let mut counts = [0_i32; 3];
        for _ in 0..10_000 {
            counts[picker.pick() as usize] += 1;
        }
        for (count, expected) in counts.into_iter().zip([1000, 3000, 6000]) {
            assert!((count - expected).abs() < 200, "{counts:?}");
        }
    }
}
