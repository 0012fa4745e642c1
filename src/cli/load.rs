//! `ringlab load`: the load generator by itself.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::{Cores, Exit, fail, parse_cores};
use crate::load::{
    self, Arrivals, ConnectionUse, LoadError, Mode, Observer, Outcome, Phase, Plan, Progress,
    Severity, Target, Url,
};
use crate::report;
use crate::whole_file::check_writable;

/// Send requests to a server and say how it answers
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Where to, such as http://127.0.0.1:8080/
    url: String,
    /// Connections at a time
    #[arg(short, long, default_value_t = 64)]
    connections: usize,
    /// The measured time
    #[arg(short, long, default_value = "10s", value_name = "TIME")]
    duration: humantime::Duration,
    /// Load before measuring
    #[arg(long, default_value = "1s", value_name = "TIME")]
    warm_up: humantime::Duration,
    /// Open loop at so many requests per second; without it, closed loop
    #[arg(short, long)]
    rate: Option<f64>,
    /// Arrivals of the open loop
    #[arg(long, default_value = "poisson", value_parser = ["poisson", "constant"])]
    arrivals: String,
    /// Requests in flight on each connection; closed loop only
    #[arg(short, long, default_value_t = 1, conflicts_with = "rate")]
    pipeline: usize,
    /// A connection for every request
    #[arg(long)]
    one_request_per_connection: bool,
    /// Connections that are opened and never used, beside the busy ones
    #[arg(long, default_value_t = 0)]
    idle_connections: usize,
    /// Generator threads, one pinned to each of these cores [default: one, not pinned]
    #[arg(long, value_parser = parse_cores)]
    cores: Option<Cores>,
    /// Request method
    #[arg(short, long, default_value = "GET")]
    method: String,
    /// A further header, `name: value`; several times
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Request body from a file
    #[arg(long, value_name = "FILE", conflicts_with = "body_size")]
    body: Option<PathBuf>,
    /// Request body of this size
    #[arg(long, value_name = "SIZE")]
    body_size: Option<bytesize::ByteSize>,
    /// A further path of the same server with its share of the requests, `WEIGHT=PATH`; several times.
    /// The URL's own has the weight 1
    #[arg(long = "target", value_name = "WEIGHT=PATH", value_parser = parse_target)]
    targets: Vec<(u32, String)>,
    /// The status that is right [default: any from 200 to 399]
    #[arg(long)]
    expect_status: Option<u16>,
    /// The body that is right, from a file
    #[arg(long, value_name = "FILE")]
    expect_body: Option<PathBuf>,
    /// Exit code 1 if the 99th percentile is above this
    #[arg(long, value_name = "TIME")]
    max_p99: Option<humantime::Duration>,
    /// A request without an answer has failed after this time
    #[arg(long, default_value = "5s", value_name = "TIME")]
    request_timeout: humantime::Duration,
    /// Decides the arrivals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the whole result goes, as JSON with the histograms in it
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Says nothing but the result
    #[arg(long)]
    quiet: bool,
}

pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} is no header; write it as `name: value`"))?;
    Ok((name.trim().to_string(), value.trim().to_string()))
}

fn parse_target(text: &str) -> Result<(u32, String), String> {
    let parts = text
        .split_once('=')
        .and_then(|(weight, path)| Some((weight.parse().ok()?, path)));
    match parts {
        Some((weight, path)) if weight > 0 && path.starts_with('/') => {
            Ok((weight, path.to_string()))
        }
        _ => Err(format!(
            "{text:?} is no target; write it as `3=/path?query`"
        )),
    }
}

pub fn run(arguments: &Arguments) -> Exit {
    let plan = match arguments.plan() {
        Ok(plan) => plan,
        Err(sentence) => return fail(Exit::BadInput, sentence),
    };
    if let Some(path) = &arguments.json
        && let Err(error) = check_writable(path)
    {
        return fail(
            Exit::BadInput,
            format_args!(
                "{} cannot be written: {error}; name another file",
                path.display()
            ),
        );
    }
    let stop = Arc::new(AtomicBool::new(false));
    super::stop_on_signal(stop.clone());
    let mut shown = Shown::new(arguments.quiet);
    let result = load::run(&plan, &stop, &mut shown);
    shown.bar.finish_and_clear();
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(error @ LoadError::Kernel { .. }) => return fail(Exit::HostCannot, error),
        Err(error) => return fail(Exit::BadInput, error),
    };
    let findings = load::audit(&outcome);
    super::say(report::load(&plan, &outcome, &findings));
    if let Some(path) = &arguments.json {
        let text = to_json(&plan, &outcome, &findings).to_string();
        if let Err(error) = crate::whole_file::write_whole(path, text.as_bytes()) {
            return fail(
                Exit::HostCannot,
                format_args!("{} cannot be written: {error}", path.display()),
            );
        }
    }
    if outcome.is_partial() {
        Exit::Interrupted
    } else if findings
        .iter()
        .any(|finding| finding.severity == Severity::Invalid)
    {
        Exit::Invalid
    } else if let (Some(max), Some(ns)) = (arguments.max_p99, outcome.latency_ns(0.99))
        && u128::from(ns) > max.as_nanos()
    {
        super::say(format_args!("Over the threshold: p99 is above {max}.\n"));
        Exit::Threshold
    } else {
        Exit::Done
    }
}

fn to_json(plan: &Plan, outcome: &Outcome, findings: &[load::Finding]) -> serde_json::Value {
    let failed: serde_json::Map<_, _> = outcome
        .failed
        .occurred()
        .map(|(cause, times)| (cause.name().to_string(), times.into()))
        .collect();
    json!({
        "loop": plan.loop_label(),
        "window_ns": outcome.window.as_nanos() as u64,
        "sent": outcome.sent,
        "answered": outcome.answered,
        "failed": failed,
        "in_flight_at_end": outcome.in_flight_at_end,
        "unsent": outcome.unsent,
        "reconnects": outcome.reconnects,
        "throughput": outcome.throughput(),
        "latency_ns_p50": outcome.latency_ns(0.5),
        "latency_ns_p99": outcome.latency_ns(0.99),
        "latency_ns_p999": outcome.latency_ns(0.999),
        "latency_ns_max": outcome.latency_ns_max(),
        "service_time_ns_p99": outcome.service_time_ns(0.99),
        "pacing_error_ns_p99": outcome.pacing_error_ns(0.99),
        "client_cpu_ns_per_request": outcome.client_cpu_ns_per_answer(),
        "events_per_wait": outcome.events_per_wait(),
        "partial": outcome.is_partial(),
        "findings": findings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "hdr_log": outcome.hdr_log(),
    })
}

struct Shown {
    bar: ProgressBar,
}

impl Shown {
    fn new(quiet: bool) -> Self {
        let bar = if quiet {
            ProgressBar::hidden()
        } else {
            ProgressBar::no_length()
        };
        let style = ProgressStyle::with_template("{msg}").expect("the template is correct");
        Self {
            bar: bar.with_style(style),
        }
    }
}

impl Observer for Shown {
    fn tick(&mut self, progress: &Progress) {
        let micros = |ns: Option<u64>| {
            ns.map_or_else(|| "–".to_string(), |ns| report::microseconds(ns as f64))
        };
        let left = progress.planned.saturating_sub(progress.elapsed);
        let rate = progress.answered as f64 / progress.elapsed.as_secs_f64().max(0.001);
        let phase = match progress.phase {
            Phase::WarmUp => "warm-up",
            _ => "measuring",
        };
        self.bar.set_message(format!(
            "{phase}: {} req/s, p50 {} µs, p99 {} µs, {} failed, {} left",
            report::count(rate),
            micros(progress.latency_ns_p50),
            micros(progress.latency_ns_p99),
            progress.failed,
            report::duration(left),
        ));
    }
}

impl Arguments {
    fn plan(&self) -> Result<Plan, String> {
        let url = Url::parse(&self.url).map_err(|error| error.to_string())?;
        let mut plan = Plan::for_url(&url).map_err(|error| error.to_string())?;
        let read = |path: &PathBuf| {
            fs::read(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
        };
        let target = &mut plan.targets[0];
        target.method = self.method.clone();
        target.headers = self.headers.clone();
        target.body = match (&self.body, self.body_size) {
            (Some(path), _) => read(path)?,
            (None, Some(size)) => vec![b'x'; size.as_u64() as usize],
            (None, None) => Vec::new(),
        };
        target.expect.status = self.expect_status;
        target.expect.body = self.expect_body.as_ref().map(read).transpose()?;
        let first = target.clone();
        plan.targets
            .extend(self.targets.iter().map(|(weight, path)| Target {
                weight: *weight,
                path: path.clone(),
                ..first.clone()
            }));
        plan.connections = self.connections;
        plan.idle_connections = self.idle_connections;
        plan.cores = self.cores.as_ref().map(Cores::list).unwrap_or_default();
        plan.mode = match self.rate {
            None => Mode::Closed {
                pipeline: self.pipeline,
            },
            Some(rate) if self.arrivals == "constant" => Mode::Open {
                rate,
                arrivals: Arrivals::Constant,
            },
            Some(rate) => Mode::Open {
                rate,
                arrivals: Arrivals::Poisson,
            },
        };
        if self.one_request_per_connection {
            plan.reuse = ConnectionUse::OnePerRequest;
        }
        plan.warm_up = self.warm_up.into();
        plan.duration = Duration::from(self.duration);
        plan.request_timeout = self.request_timeout.into();
        plan.seed = self.seed;
        Ok(plan)
    }
}
