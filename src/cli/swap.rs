//! `ringlab swap`: exchanges a running server's handler, or says how things are.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::{Exit, fail, say};
use crate::sandbox::Source;
use crate::swap::{Answer, Ask, RouteStatus, socket};

/// Exchange a handler of a running server, without a failed request
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The new handler: a file of wasm or its text format, or a built-in's name
    #[arg(long, value_name = "FILE.wasm|FILE.wat|NAME")]
    to: Option<String>,
    /// Go back to the handler before
    #[arg(long, conflicts_with = "to")]
    back: bool,
    /// Say each route's version, hash, since when, and requests served; also without other options
    #[arg(long, conflicts_with_all = ["to", "back"])]
    status: bool,
    /// The path of the route, where there are several
    #[arg(long, value_name = "PATH", conflicts_with = "status")]
    route: Option<String>,
    /// The port of the server
    #[arg(long, default_value_t = 8080, conflicts_with = "socket")]
    port: u16,
    /// The server's socket, if it was given one
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
}

pub fn run(arguments: &Arguments) -> Exit {
    let ask = match arguments.ask() {
        Ok(ask) => ask,
        Err(error) => return fail(Exit::BadInput, error),
    };
    let port = arguments.port;
    let path = arguments.socket.clone();
    let path = path.unwrap_or_else(|| socket::default_path(port));
    match socket::ask(&path, &ask) {
        Ok(Ok(answer)) => {
            say(describe(&ask, &answer));
            Exit::Done
        }
        Ok(Err(refusal)) => fail(
            Exit::BadInput,
            format_args!("not exchanged: {refusal}; the old one stays"),
        ),
        Err(error) => fail(Exit::BadInput, error),
    }
}

impl Arguments {
    fn ask(&self) -> Result<Ask, String> {
        let route = self.route.clone();
        match &self.to {
            _ if self.back => Ok(Ask::Back { route }),
            None => Ok(Ask::Status),
            Some(to) => {
                let to = match Source::parse(to) {
                    Source::Builtin(name) => name,
                    // The server may run in another directory.
                    Source::File(path) => std::path::absolute(&path)
                        .map_err(|error| format!("{}: {error}", path.display()))?
                        .to_string_lossy()
                        .into_owned(),
                };
                Ok(Ask::Swap { route, to })
            }
        }
    }
}

fn describe(ask: &Ask, answer: &Answer) -> String {
    let mut text = match ask {
        Ask::Status => String::new(),
        _ if answer.changed => "exchanged\n".to_owned(),
        _ => "it is the same module; nothing was exchanged\n".to_owned(),
    };
    for route in &answer.routes {
        text += &describe_route(route);
    }
    if answer.retired > 0 {
        text += &format!("exchanged, and in use still: {} engines\n", answer.retired);
    }
    text
}

fn describe_route(route: &RouteStatus) -> String {
    let path = match route.path.as_str() {
        "" => "all",
        path => path,
    };
    let module = match (&route.hash, route.bytes) {
        (Some(hash), Some(bytes)) => format!(
            "{bytes} bytes, fnv1a64 {hash}, compiled in {:.1} ms",
            route.compile_us as f64 / 1000.0
        ),
        _ => "linked in".to_owned(),
    };
    let age = SystemTime::now().duration_since(route.since);
    let age = Duration::from_secs(age.unwrap_or_default().as_secs());
    let before = match &route.before {
        Some(before) => format!("    --back is {before}\n"),
        None => String::new(),
    };
    format!(
        "{path}: version {}, {}, {}\n    served {} since {} ({})\n    {module}\n{before}",
        route.version,
        route.handler,
        route.isolation,
        route.served,
        humantime::format_rfc3339_seconds(route.since),
        humantime::format_duration(age),
    )
}
