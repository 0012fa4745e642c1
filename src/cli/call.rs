//! `ringlab call`: one request through the sandbox without a server, for people who write handlers.
//!
//! The request is written and parsed as a client's would be, so what a server refuses is refused here.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::{Exit, Refusal, fail, not_loaded, say};
use crate::http::{self, Decoder, HeaderStorage, Step};
use crate::sandbox::{
    Answer, Call, Failure, Handler, Isolation, Limits, PAGE_BYTES, Sandbox, ShardSandbox, Source,
    Touched, touched,
};

/// Room on the calling thread's stack for what is not the guest's.
const STACK_BYTES: usize = 512 * 1024;
/// Calls are repeated so often at most, or for so long: enough for a median.
const CALLS: usize = 1001;
const TIME: Duration = Duration::from_millis(500);

/// Pass one request through the sandbox, without a server: the answer, nanoseconds, memory touched
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// A built-in handler's name, or a file of wasm or its text format
    #[arg(value_name = "NAME|FILE.wasm|FILE.wat")]
    handler: String,
    /// Request target: a path with its query
    #[arg(long, default_value = "/")]
    path: String,
    /// Request method
    #[arg(short, long, default_value = "GET")]
    method: String,
    /// A further header, `name: value`; several times
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = super::load::parse_header)]
    headers: Vec<(String, String)>,
    /// Request body: a text, or @FILE
    #[arg(long, default_value = "", value_name = "TEXT|@FILE")]
    body: String,
    /// What stands between two requests: an isolation, as `ringlab models` lists them
    #[arg(long, default_value = "reuse")]
    isolation: Isolation,
}

/// An answer that has left the sandbox, or why there is none.
type Answered = Result<Vec<u8>, Failure>;

/// What the calls showed.
struct Report {
    answered: Answered,
    /// The first call, which makes the instance.
    first: Duration,
    /// The others, the quickest first.
    others: Vec<Duration>,
    touched: Option<Touched>,
}

/// Exits 0 with an answer, 2 if the handler failed.
pub fn run(arguments: &Arguments) -> Exit {
    let body = match body(&arguments.body) {
        Ok(body) => body,
        Err(sentence) => return fail(Exit::BadInput, sentence),
    };
    let arguments = arguments.clone();
    // Guests run on the caller's stack, and nobody knows how large the main thread's is.
    let caller = thread::Builder::new()
        .stack_size(Limits::default().thread_stack_bytes() + STACK_BYTES)
        .spawn(move || call(&arguments, &body));
    let report = match caller.map(thread::JoinHandle::join) {
        Ok(Ok(report)) => report,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => {
            return fail(
                Exit::HostCannot,
                format_args!("no thread can be started: {error}; raise `ulimit -u`"),
            );
        }
    };
    match report {
        Ok(report) => show(&report),
        Err((exit, sentence)) => fail(exit, sentence),
    }
}

fn body(text: &str) -> Result<Vec<u8>, String> {
    match text.strip_prefix('@') {
        Some(path) => std::fs::read(path)
            .map_err(|error| format!("the body cannot be read from {path}: {error}")),
        None => Ok(text.as_bytes().to_vec()),
    }
}

fn call(arguments: &Arguments, body: &[u8]) -> Result<Report, Refusal> {
    let source = Source::parse(&arguments.handler);
    let handler =
        Handler::load(&source, arguments.isolation, &Limits::default()).map_err(not_loaded)?;
    let bytes = arguments.request(body);
    let mut storage = HeaderStorage::new();
    let limits = http::Limits::default();
    let request = match Decoder::new().decode(&bytes, &mut storage, &limits) {
        Step::Request { request, .. } => request,
        Step::Reject(reject) => {
            let sentence = format!(
                "no handler would see this request: a server answers {}, {}",
                reject.status, reject.reason
            );
            return Err((Exit::BadInput, sentence));
        }
        Step::Incomplete { .. } | Step::Carry => {
            let sentence = "the headers promise another body than the one given; leave out \
                Content-Length and Transfer-Encoding";
            return Err((Exit::BadInput, sentence.to_owned()));
        }
    };
    let call = Call {
        method: request.method,
        target: request.target,
        head: request.head,
        headers: request.headers,
        body: request.body,
    };
    let shard = ShardSandbox::new(&handler, |lines| {
        http::check_header_lines(lines).map_err(http::BadHeaderLine::reason)
    })
    .map_err(not_loaded)?;
    let mut sandbox = Sandbox::new(shard).map_err(|error| (Exit::HostCannot, error.to_string()))?;
    let began = Instant::now();
    let answered = sandbox.call(&call, |answer| {
        answer.map(|answer| encode(&answer, request.method == "HEAD"))
    });
    let first = began.elapsed();
    let mut others = Vec::with_capacity(CALLS);
    while others.len() < CALLS && began.elapsed() < TIME {
        let begun = Instant::now();
        sandbox.call(&call, |answer| std::hint::black_box(answer.is_ok()));
        others.push(begun.elapsed());
    }
    others.sort_unstable();
    let touched = touched(&handler, &call).map_err(not_loaded)?;
    Ok(Report {
        answered,
        first,
        others,
        touched,
    })
}

fn encode(answer: &Answer<'_>, head_only: bool) -> Vec<u8> {
    let phrase = http::reason_phrase(answer.status);
    let mut out = format!("{} {phrase}\n", answer.status).into_bytes();
    out.extend(answer.header_lines.iter().filter(|byte| **byte != b'\r'));
    out.push(b'\n');
    if !head_only {
        out.extend_from_slice(answer.body);
    }
    out
}

/// The answer goes to standard output, what it cost to standard error.
fn show(report: &Report) -> Exit {
    let exit = match &report.answered {
        Ok(answer) => {
            let _ = std::io::stdout().write_all(answer);
            Exit::Done
        }
        Err(failure) => {
            say(format_args!("{} {}\n", failure.status(), failure.reason()));
            eprintln!("ringlab: {failure}");
            Exit::BadInput
        }
    };
    let first = report.first.as_nanos();
    match (
        report.others.first(),
        report.others.get(report.others.len() / 2),
    ) {
        (Some(least), Some(median)) => eprintln!(
            "first call {first} ns; {} more: median {} ns, least {} ns",
            report.others.len(),
            median.as_nanos(),
            least.as_nanos()
        ),
        _ => eprintln!("first call {first} ns; too long to repeat"),
    }
    match report.touched {
        Some(touched) => eprintln!(
            "memory {} bytes, {} of them grown; pages of {PAGE_BYTES} bytes changed: {}",
            touched.after_bytes,
            touched.after_bytes - touched.before_bytes,
            touched.changed_pages
        ),
        None => eprintln!("memory n/a: the handler is linked in"),
    }
    exit
}

impl Arguments {
    /// The request as a client would send it.
    fn request(&self, body: &[u8]) -> Vec<u8> {
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let given = |name: &str| {
            self.headers
                .iter()
                .any(|(header, _)| header.eq_ignore_ascii_case(name))
        };
        if !given("host") {
            text += "Host: localhost\r\n";
        }
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() && !given("content-length") {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "\r\n";
        [text.as_bytes(), body].concat()
    }
}
