//! Whether a run may be believed: the generator is audited before its numbers
//! are used. A pure function of the outcome.

use std::fmt;

use super::plan::Mode;
use super::result::{Ended, Outcome};

/// Open loop: the rate counts as reached with this share of it missing.
const RATE_TOLERANCE: f64 = 0.01;
/// Open loop: planned-to-sent lag, 99th percentile, that an idle core keeps.
const LAG_LIMIT_NS: u64 = 50_000;
/// Share of requests that may wait for a connection before the lag is put
/// down to the number of connections.
const WAITED_LIMIT: f64 = 0.01;
/// Closed loop: a generator busier than this was the limit.
const BUSY_LIMIT: f64 = 0.95;

/// How much a finding takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The numbers stand, but not for what one may think.
    Warning,
    /// The numbers must not be used.
    Invalid,
}

/// One thing that is wrong with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// What was checked; stable, for machines.
    pub check: &'static str,
    /// Fact and cause.
    pub cause: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Invalid => "INVALID",
        };
        write!(f, "{severity}: {}: {}", self.cause, self.remedy)
    }
}

/// Everything that is wrong with a run, the worst first. Empty is good.
pub fn audit(outcome: &Outcome) -> Vec<Finding> {
    let mut findings: Vec<Finding> = [
        accounting(outcome),
        anything_measured(outcome),
        end(outcome),
        rate(outcome),
        lag(outcome),
        generator_limit(outcome),
        failures(outcome),
        unsolicited(outcome),
        idle_connections(outcome),
    ]
    .into_iter()
    .flatten()
    .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// What is wrong with the generator's own part of an open loop: whether it sent when it could what was
/// due. How late the answers came, or whether they did, and so whether a connection was idle to send on,
/// is not looked at: where that is what is measured, it is a result and no fault, to be shown as a bound.
pub fn audit_sending(outcome: &Outcome) -> Vec<Finding> {
    let found = [accounting(outcome), end(outcome), lag(outcome)];
    found.into_iter().flatten().collect()
}

fn finding(
    severity: Severity,
    check: &'static str,
    cause: String,
    remedy: &'static str,
) -> Option<Finding> {
    Some(Finding {
        severity,
        check,
        cause,
        remedy,
    })
}

/// Every request that was planned or sent is somewhere.
fn accounting(o: &Outcome) -> Option<Finding> {
    let known = o.answered + o.failed.total() + o.in_flight_at_end;
    let planned_adds_up = match o.mode {
        Mode::Closed { .. } => true,
        Mode::Open { .. } => o.planned == o.sent + o.unsent,
    };
    if o.sent == known && planned_adds_up && o.latency.len() == o.in_window.answered {
        return None;
    }
    finding(
        Severity::Invalid,
        "accounting",
        format!(
            "the counts do not add up: planned {}, sent {}, unsent {}, answered {}, failed {}, \
             in flight {}, in the histogram {} of {}",
            o.planned,
            o.sent,
            o.unsent,
            o.answered,
            o.failed.total(),
            o.in_flight_at_end,
            o.latency.len(),
            o.in_window.answered,
        ),
        "this is a bug of the generator, please report it with the command line",
    )
}

fn anything_measured(o: &Outcome) -> Option<Finding> {
    if o.in_window.answered > 0 {
        return None;
    }
    finding(
        Severity::Invalid,
        "answers",
        "no right answer fell into the measured window".into(),
        "look at the failures, measure longer, or raise the rate",
    )
}

fn end(o: &Outcome) -> Option<Finding> {
    let cause = match o.ended {
        Ended::Complete => return None,
        Ended::Stopped => "the run was stopped early",
        Ended::TargetGone => "the target took no connection any more",
    };
    finding(
        Severity::Warning,
        "partial",
        format!(
            "{cause}: {:.3} s of the window were measured",
            o.window.as_secs_f64()
        ),
        "let it run to its end before comparing it",
    )
}

/// Open loop: what was offered was sent, and answered at the same pace.
fn rate(o: &Outcome) -> Option<Finding> {
    if !matches!(o.mode, Mode::Open { .. }) || o.is_partial() || o.in_window.planned == 0 {
        return None;
    }
    let w = &o.in_window;
    let planned = w.planned as f64;
    // Requests in flight at the window's edges move the count of answers
    // without meaning anything. By Little's law about L of them are in flight
    // at each edge; their difference has a variance of at most 2 L.
    let in_flight = o.latency.mean() * planned / o.window.as_nanos().max(1) as f64;
    let edges = 4.0 * (2.0 * in_flight).sqrt() + 1.0;
    let tolerated = RATE_TOLERANCE * planned;
    let finished = (w.completed + w.failed) as f64;
    if w.unsent as f64 <= tolerated && planned - finished <= tolerated.max(edges) {
        return None;
    }
    finding(
        Severity::Invalid,
        "rate",
        format!(
            "the rate was not reached: of {} requests planned in the window {} could not be sent \
             and {} were answered in it; {} in all waited for an idle connection",
            w.planned, w.unsent, w.completed, o.waited
        ),
        "lower the rate, or add connections if the server was not busy",
    )
}

/// Open loop: the generator kept its own appointments.
fn lag(o: &Outcome) -> Option<Finding> {
    let lag_ns = o.pacing_error_ns(0.99)?;
    if lag_ns <= LAG_LIMIT_NS {
        return None;
    }
    let lag_us = lag_ns as f64 / 1e3;
    if o.waited as f64 > WAITED_LIMIT * o.sent as f64 {
        return finding(
            Severity::Warning,
            "lag",
            format!(
                "1 % of the requests were sent {lag_us:.0} µs late or more, as {} waited for an \
                 idle connection",
                o.waited
            ),
            "the latency includes this wait and stands; add connections to send on time",
        );
    }
    // An own delay as large as what is measured measures the generator.
    let severity = match o.latency_ns(0.5) {
        Some(median_ns) if lag_ns < median_ns => Severity::Warning,
        _ => Severity::Invalid,
    };
    finding(
        severity,
        "lag",
        format!(
            "1 % of the requests were sent {lag_us:.0} µs late or more (limit {} µs), though \
             connections were idle: the generator did not get its core in time",
            LAG_LIMIT_NS / 1000
        ),
        "give the generator a core of its own, or lower the rate",
    )
}

/// Closed loop: throughput is a lower bound if the client had no time left.
fn generator_limit(o: &Outcome) -> Option<Finding> {
    let busy = o.client_busy()?;
    if !matches!(o.mode, Mode::Closed { .. }) || busy <= BUSY_LIMIT {
        return None;
    }
    finding(
        Severity::Warning,
        "client-limited",
        format!(
            "the generator used {:.0} % of its cores: the server may do more",
            busy * 100.0
        ),
        "give it more cores (`--cores`), and read the throughput as a lower bound",
    )
}

fn failures(o: &Outcome) -> Option<Finding> {
    let causes: Vec<String> = (o.failed.occurred())
        .map(|(cause, count)| format!("{count} {}", cause.name()))
        .collect();
    if causes.is_empty() && o.connect_failures == 0 {
        return None;
    }
    let mut cause = format!(
        "{} of {} requests failed ({})",
        o.failed.total(),
        o.sent,
        causes.join(", ")
    );
    if causes.is_empty() {
        cause = "no request failed".into();
    }
    if let Some(error) = &o.last_connect_error {
        cause += &format!(
            "; {} connects failed, the last with: {error}",
            o.connect_failures
        );
    }
    finding(
        Severity::Warning,
        "failures",
        cause,
        "look at the server's log; latency and throughput count right answers only",
    )
}

fn unsolicited(o: &Outcome) -> Option<Finding> {
    if o.unsolicited == 0 {
        return None;
    }
    finding(
        Severity::Warning,
        "unsolicited",
        format!(
            "on {} connections bytes came that answered no request",
            o.unsolicited
        ),
        "check that Content-Length agrees with the bodies (`curl -v`)",
    )
}

fn idle_connections(o: &Outcome) -> Option<Finding> {
    if o.idle_open_at_end == o.idle_connections {
        return None;
    }
    finding(
        Severity::Warning,
        "idle-connections",
        format!(
            "of {} idle connections {} were still open at the end",
            o.idle_connections, o.idle_open_at_end
        ),
        "raise the server's keep-alive timeout above the run's length",
    )
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::load::result::{Failures, WindowCounts, histogram};
    use crate::load::typical::Typical;
    use crate::load::{Arrivals, Failure, ThreadUsage, WaitCounts};

    /// A faultless second of 10 000 requests, each 100 µs long and 5 µs late.
    pub fn outcome() -> Outcome {
        let of = |value_ns| {
            let mut histogram = histogram();
            histogram.record_n(value_ns, 10_000).unwrap();
            histogram
        };
        Outcome {
            mode: Mode::Open {
                rate: 10_000.0,
                arrivals: Arrivals::Poisson,
            },
            ended: Ended::Complete,
            started_at: SystemTime::UNIX_EPOCH,
            window: Duration::from_secs(1),
            threads: 1,
            connections: 64,
            planned: 10_000,
            sent: 10_000,
            answered: 10_000,
            failed: Failures::default(),
            in_flight_at_end: 0,
            unsent: 0,
            waited: 0,
            in_window: WindowCounts {
                planned: 10_000,
                unsent: 0,
                answered: 10_000,
                failed: 0,
                completed: 10_000,
            },
            answered_in_part: 10_000.0,
            reconnects: 0,
            connect_failures: 0,
            last_connect_error: None,
            unsolicited: 0,
            idle_connections: 0,
            idle_open_at_end: 0,
            bytes_in: 0,
            bytes_out: 0,
            latency: of(100_000),
            service_time: of(95_000),
            pacing_error: of(5_000),
            typical: Typical::new(),
            client: ThreadUsage::default(),
            waits: WaitCounts::default(),
        }
    }

    fn check(change: impl FnOnce(&mut Outcome), expected: &[(&str, Severity)]) {
        let mut outcome = outcome();
        change(&mut outcome);
        let findings = audit(&outcome);
        let got: Vec<_> = findings.iter().map(|f| (f.check, f.severity)).collect();
        assert_eq!(got, expected, "{findings:?}");
    }

    fn late(by_ns: u64) -> hdrhistogram::Histogram<u64> {
        let mut histogram = histogram();
        histogram.record_n(5_000, 9_800).unwrap();
        histogram.record_n(by_ns, 200).unwrap();
        histogram
    }

    fn closed(o: &mut Outcome) {
        o.mode = Mode::Closed { pipeline: 1 };
        o.pacing_error = histogram();
    }

    #[test]
    fn a_faultless_run_has_no_findings() {
        check(|_| {}, &[]);
        check(closed, &[]);
    }

    #[test]
    fn every_check_fails_when_it_should() {
        use Severity::{Invalid, Warning};
        check(|o| o.answered -= 1, &[("accounting", Invalid)]);
        check(|o| o.planned += 1, &[("accounting", Invalid)]);
        check(|o| o.in_window.answered -= 1, &[("accounting", Invalid)]);
        check(|o| o.ended = Ended::Stopped, &[("partial", Warning)]);
        // 1 % may be missing, no more.
        let unsent = |count| {
            move |o: &mut Outcome| {
                (o.planned, o.unsent) = (o.planned + count, count);
                (o.in_window.planned, o.in_window.unsent) = (10_000 + count, count);
            }
        };
        check(unsent(90), &[]);
        check(unsent(110), &[("rate", Invalid)]);
        // Sent, but answered more slowly than offered.
        check(|o| o.in_window.completed = 9_950, &[]);
        check(|o| o.in_window.completed = 9_700, &[("rate", Invalid)]);
        check(|o| o.pacing_error = late(60_000), &[("lag", Warning)]);
        check(|o| o.pacing_error = late(200_000), &[("lag", Invalid)]);
        check(
            |o| (o.pacing_error, o.waited) = (late(200_000), 500),
            &[("lag", Warning)],
        );
        check(
            |o| {
                closed(o);
                o.client.cpu_ns = 990_000_000;
            },
            &[("client-limited", Warning)],
        );
        check(
            |o| {
                o.sent += 1;
                o.planned += 1;
                o.failed.add(Failure::Reset);
            },
            &[("failures", Warning)],
        );
        check(|o| o.connect_failures = 1, &[("failures", Warning)]);
        check(|o| o.unsolicited = 1, &[("unsolicited", Warning)]);
        check(
            |o| (o.idle_connections, o.idle_open_at_end) = (2, 1),
            &[("idle-connections", Warning)],
        );
        check(
            |o| {
                closed(o);
                o.in_window = WindowCounts::default();
                o.latency = histogram();
            },
            &[("answers", Invalid)],
        );
    }

    #[test]
    fn answers_that_come_late_are_no_fault_of_who_sent_on_time() {
        let checks = |change: &dyn Fn(&mut Outcome)| {
            let mut outcome = outcome();
            change(&mut outcome);
            let found = audit_sending(&outcome);
            found
                .iter()
                .map(|f| (f.check, f.severity))
                .collect::<Vec<_>>()
        };
        assert_eq!(checks(&|o| o.in_window.completed = 100), []);
        let unsent = checks(&|o| {
            (o.planned, o.unsent) = (10_200, 200);
            (o.in_window.planned, o.in_window.unsent) = (10_200, 200);
        });
        assert_eq!(unsent, [], "all connections waited for answers");
        let late = checks(&|o| o.pacing_error = late(200_000));
        assert_eq!(late, [("lag", Severity::Invalid)]);
    }

    #[test]
    fn slow_answers_in_flight_at_the_edges_are_no_missed_rate() {
        // 1 000 requests of 45 ms in a second: 45 in flight, give or take 7.
        let slow = |completed| {
            move |o: &mut Outcome| {
                (o.planned, o.sent, o.answered) = (1000, 1000, 1000);
                o.in_window.planned = 1000;
                o.in_window.answered = 1000;
                o.in_window.completed = completed;
                o.latency = histogram();
                o.latency.record_n(45_000_000, 1000).unwrap();
            }
        };
        check(slow(975), &[]);
        check(slow(900), &[("rate", Severity::Invalid)]);
    }
}
