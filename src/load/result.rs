//! What a run came to: counts that add up, and histograms merged over threads.

use std::io;
use std::time::{Duration, SystemTime};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::clock::ThreadUsage;
use super::driver::WaitCounts;
use super::plan::Mode;
use super::typical::Typical;

/// Significant decimal digits of the histograms: values are within 0.1 %.
const DIGITS: u8 = 3;
/// Longest time a histogram holds apart; longer ones count as this.
const LONGEST_NS: u64 = 48 * 3600 * 1_000_000_000;
/// Samples that must lie beyond a percentile for it to be given.
const BEYOND: f64 = 10.0;

/// An empty histogram of nanoseconds. All have one shape, so merging cannot fail.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, DIGITS).expect("constant bounds are valid")
}

/// Why a request that was sent has no right answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The connection was closed, in order, before any byte of the answer.
    Closed,
    /// The connection was closed within the answer.
    Short,
    /// The connection was reset.
    Reset,
    /// No whole answer within the request timeout.
    TimedOut,
    /// The answer is not HTTP/1.1, or longer than the limits.
    Malformed,
    /// The answer has neither Content-Length nor chunked framing.
    Unframed,
    WrongStatus,
    WrongLength,
    WrongBody,
}

impl Failure {
    /// Every cause, in the order of [`Failures`].
    pub const ALL: [Self; 9] = [
        Self::Closed,
        Self::Short,
        Self::Reset,
        Self::TimedOut,
        Self::Malformed,
        Self::Unframed,
        Self::WrongStatus,
        Self::WrongLength,
        Self::WrongBody,
    ];

    /// A few words for a table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed before the answer",
            Self::Short => "closed within the answer",
            Self::Reset => "connection reset",
            Self::TimedOut => "timed out",
            Self::Malformed => "not HTTP/1.1",
            Self::Unframed => "body without length",
            Self::WrongStatus => "wrong status",
            Self::WrongLength => "wrong length",
            Self::WrongBody => "wrong body",
        }
    }
}

/// Failed requests by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures([u64; Failure::ALL.len()]);

impl Failures {
    /// Requests that failed for this cause.
    pub fn of(&self, cause: Failure) -> u64 {
        self.0[cause as usize]
    }

    /// All failed requests.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The causes that occurred, with their counts.
    pub fn occurred(&self) -> impl Iterator<Item = (Failure, u64)> {
        let counts = Failure::ALL.into_iter().zip(self.0);
        counts.filter(|&(_, count)| count > 0)
    }

    pub(super) fn add(&mut self, cause: Failure) {
        self.0[cause as usize] += 1;
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(other.0) {
            *sum += more;
        }
    }
}

/// How the run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// As planned.
    Complete,
    /// The caller set the stop flag: partial.
    Stopped,
    /// The target took no connection any more: partial.
    TargetGone,
}

/// Counts of the measured window.
///
/// A request belongs to the window by its planned send (open loop) or by its
/// answer (closed loop). `completed` alone goes by the clock in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Open loop: requests planned within the window, sent or not. Closed: 0.
    pub planned: u64,
    /// Open loop: of those, the ones that could not be sent before its end.
    pub unsent: u64,
    /// Right answers; the histograms hold exactly these.
    pub answered: u64,
    pub failed: u64,
    /// Right answers that came while the window was open, whenever planned:
    /// what the server's CPU time in the window was spent on.
    pub completed: u64,
}

/// What a run measured. Counts are of the whole run unless named otherwise.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub mode: Mode,
    pub ended: Ended,
    pub started_at: SystemTime,
    /// Length of the measured window; shorter than planned when partial.
    pub window: Duration,
    pub threads: usize,
    pub connections: usize,
    /// Open loop: requests that fell due. `planned = sent + unsent`. Closed: 0.
    pub planned: u64,
    /// `sent = answered + failed + in flight at the end`.
    pub sent: u64,
    /// Right answers.
    pub answered: u64,
    pub failed: Failures,
    pub in_flight_at_end: u64,
    /// Requests that fell due and could not be sent before the end.
    pub unsent: u64,
    /// Sent requests that had to wait for an idle connection.
    pub waited: u64,
    pub in_window: WindowCounts,
    /// Right answers, each counted with the part of the time from its send to
    /// its end that lies in the window: where requests are as long as the
    /// window, whole ones at its edges would count for anything.
    pub answered_in_part: f64,
    /// Connections opened in place of closed ones; one request per connection
    /// makes one for each answer.
    pub reconnects: u64,
    /// Connects that failed after the start.
    pub connect_failures: u64,
    /// The last of those.
    pub last_connect_error: Option<String>,
    /// Connections on which bytes came that answered nothing; they were closed.
    pub unsolicited: u64,
    pub idle_connections: usize,
    /// Of those, how many were still open at the end.
    pub idle_open_at_end: usize,
    pub bytes_in: u64,
    pub bytes_out: u64,
    /// From the planned send (open loop) or the send (closed loop) to the
    /// whole answer, in nanoseconds.
    pub latency: Histogram<u64>,
    /// From the actual send to the whole answer. Closed loop: empty, as it
    /// would be the latency.
    pub service_time: Histogram<u64>,
    /// From the planned to the actual send, of every request of the window
    /// that was sent. Closed loop: empty.
    pub pacing_error: Histogram<u64>,
    /// The same as `latency`, by rows of answers.
    pub(super) typical: Typical,
    /// What the generator's threads used within the window.
    pub client: ThreadUsage,
    /// How the threads waited within the window.
    pub waits: WaitCounts,
}

impl Outcome {
    /// Whether the run ended before its plan did.
    pub fn is_partial(&self) -> bool {
        self.ended != Ended::Complete
    }

    /// Right answers per second of the window; `None` when it never opened.
    pub fn throughput(&self) -> Option<f64> {
        let seconds = self.window.as_secs_f64();
        (seconds > 0.0).then(|| self.in_window.completed as f64 / seconds)
    }

    /// Generator CPU per answer of the window, in nanoseconds.
    pub fn client_cpu_ns_per_answer(&self) -> Option<f64> {
        let answers = self.in_window.completed;
        (answers > 0).then(|| self.client.cpu_ns as f64 / answers as f64)
    }

    /// Share of the window in which the generator's threads ran, 0 to 1. Near
    /// 1 in a closed loop, the generator was the limit; an open loop spins.
    pub fn client_busy(&self) -> Option<f64> {
        let available_ns = self.window.as_nanos() as f64 * self.threads as f64;
        (available_ns > 0.0).then(|| self.client.cpu_ns as f64 / available_ns)
    }

    /// Events per `epoll_pwait2` that returned any: the batch the client saw.
    pub fn events_per_wait(&self) -> Option<f64> {
        (self.waits.woken > 0).then(|| self.waits.events as f64 / self.waits.woken as f64)
    }

    /// Latency below which the share `q` (0 to 1) of the answers lies, in
    /// nanoseconds; `None` where the sample cannot carry it.
    pub fn latency_ns(&self, q: f64) -> Option<u64> {
        quantile(&self.latency, q)
    }

    /// The 99th percentile of each thousand answers in a row, in nanoseconds, and of those the median;
    /// `None` below a thousand. What a millisecond of disturbance now and then does not change.
    pub fn typical_p99_ns(&self) -> Option<u64> {
        self.typical.p99_ns()
    }

    /// As [`Outcome::latency_ns`], for the time from the actual send.
    pub fn service_time_ns(&self, q: f64) -> Option<u64> {
        match self.mode {
            Mode::Closed { .. } => quantile(&self.latency, q),
            Mode::Open { .. } => quantile(&self.service_time, q),
        }
    }

    /// Likewise for the lag from the planned to the actual send.
    pub fn pacing_error_ns(&self, q: f64) -> Option<u64> {
        quantile(&self.pacing_error, q)
    }

    /// The longest latency, from the planned send; within the histogram's resolution.
    pub fn latency_ns_max(&self) -> Option<u64> {
        (!self.latency.is_empty()).then(|| self.latency.max())
    }

    /// The histograms as an HDR interval log, each under its tag, that the
    /// common HDR tools read. Times in it are nanoseconds; the log's own
    /// maximum column is in milliseconds, as is the custom.
    pub fn hdr_log(&self) -> String {
        let mut log = Vec::new();
        self.write_hdr_log(&mut log)
            .expect("memory takes what is written");
        String::from_utf8(log).expect("the log is base64 and digits")
    }

    fn write_hdr_log(&self, log: &mut Vec<u8>) -> io::Result<()> {
        let mut serializer = V2DeflateSerializer::new();
        let mut writer = IntervalLogWriterBuilder::new()
            .add_comment("ringlab load; values in nanoseconds")
            .with_base_time(self.started_at)
            .with_start_time(self.started_at)
            .with_max_value_divisor(1e6)
            .begin_log_with(log, &mut serializer)?;
        for (tag, histogram) in [
            ("latency", &self.latency),
            ("service-time", &self.service_time),
            ("pacing-error", &self.pacing_error),
        ] {
            if !histogram.is_empty() {
                writer
                    .write_histogram(histogram, Duration::ZERO, self.window, Tag::new(tag))
                    .map_err(|error| io::Error::other(format!("{error:?}")))?;
            }
        }
        Ok(())
    }
}

/// A quantile with at least [`BEYOND`] samples beyond it: fewer, and the next
/// run's would be anything.
fn quantile(histogram: &Histogram<u64>, q: f64) -> Option<u64> {
    let beyond = histogram.len() as f64 * (1.0 - q);
    // Rounding: 1000 × (1 - 0.99) is a hair below 10.
    (beyond >= BEYOND - 1e-6).then(|| histogram.value_at_quantile(q))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn a_percentile_needs_ten_samples_beyond_it() {
        for (samples, q, given) in [
            (0, 0.5, false),
            (19, 0.5, false),
            (20, 0.5, true),
            (999, 0.99, false),
            (1000, 0.99, true),
            (9_999, 0.999, false),
            (10_000, 0.999, true),
        ] {
            let mut histogram = histogram();
            for value in 0..samples {
                histogram.saturating_record(value);
            }
            assert_eq!(quantile(&histogram, q).is_some(), given, "{samples}, {q}");
        }
    }

    #[test]
    fn the_hdr_log_gives_the_histogram_back() {
        let mut outcome = crate::load::audit::tests::outcome();
        outcome.latency = histogram();
        for value in [1_000, 2_000, 50_000_000] {
            outcome.latency.saturating_record(value);
        }
        let log = outcome.hdr_log();
        let interval = IntervalLogIterator::new(log.as_bytes())
            .find_map(|entry| match entry.unwrap() {
                LogEntry::Interval(i) if i.tag() == Tag::new("latency") => Some(i),
                _ => None,
            })
            .expect("an interval with the tag");
        let bytes = decode_base64(interval.encoded_histogram());
        let got: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(got, outcome.latency);
    }

    /// Base64 with the standard alphabet (RFC 4648, 4), for the test above.
    fn decode_base64(text: &str) -> Vec<u8> {
        let digit = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let text: Vec<u8> = text.bytes().filter(|&b| b != b'=').map(digit).collect();
        let mut bytes = Vec::new();
        for group in text.chunks(4) {
            let bits = group.iter().enumerate().fold(0, |bits, (i, &digit)| {
                bits | u32::from(digit) << (18 - 6 * i)
            });
            bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
        }
        bytes
    }
}
