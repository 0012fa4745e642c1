//! One thread's book-keeping: which request counts where.
//!
//! All rules of what belongs to the measured window are here, and nowhere else.

use hdrhistogram::Histogram;

use super::client::Sent;
use super::live::Live;
use super::result::{Failure, Failures, WindowCounts, histogram};
use super::typical::Typical;

/// The run's instants, in nanoseconds of the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timetable {
    /// Warm-up begins.
    pub start_ns: u64,
    /// The measured window opens.
    pub opens_ns: u64,
    /// It closes, and nothing is sent any more.
    pub closes_ns: u64,
}

impl Timetable {
    #[inline]
    fn in_window(&self, at_ns: u64) -> bool {
        (self.opens_ns..self.closes_ns).contains(&at_ns)
    }

    /// The part of a stretch that lies in the window, 0 to 1.
    #[inline]
    fn part_in_window(&self, from_ns: u64, to_ns: u64) -> f64 {
        if from_ns >= self.opens_ns && to_ns <= self.closes_ns {
            return 1.0;
        }
        let within = to_ns
            .min(self.closes_ns)
            .saturating_sub(from_ns.max(self.opens_ns));
        within as f64 / (to_ns - from_ns).max(1) as f64
    }
}

/// Counts and histograms of one thread.
#[derive(Debug)]
pub struct Tally<'a> {
    live: &'a Live,
    is_open_loop: bool,
    times: Timetable,
    pub planned: u64,
    pub unsent: u64,
    pub waited: u64,
    pub failed: Failures,
    pub in_window: WindowCounts,
    pub answered_in_part: f64,
    pub latency: Histogram<u64>,
    pub service_time: Histogram<u64>,
    pub pacing_error: Histogram<u64>,
    pub typical: Typical,
}

impl<'a> Tally<'a> {
    pub fn new(live: &'a Live, is_open_loop: bool, times: Timetable) -> Self {
        Self {
            live,
            is_open_loop,
            times,
            planned: 0,
            unsent: 0,
            waited: 0,
            failed: Failures::default(),
            in_window: WindowCounts::default(),
            answered_in_part: 0.0,
            latency: histogram(),
            service_time: histogram(),
            pacing_error: histogram(),
            typical: Typical::new(),
        }
    }

    /// Gives the run's instants, once they are agreed on.
    pub fn set_times(&mut self, times: Timetable) {
        self.times = times;
    }

    /// Requests sent that are neither answered nor failed, by the totals.
    #[inline]
    pub fn in_flight(&self) -> u64 {
        self.live.sent.get() - self.live.answered.get() - self.live.failed.get()
    }

    /// Closed loop: `count` requests go out at once.
    #[inline]
    pub fn batch_sent(&mut self, count: usize) {
        self.live.sent.add(count as u64);
    }

    /// Open loop: a request goes out, on a connection that is idle since `idle_since_ns`.
    #[inline]
    pub fn planned_sent(&mut self, sent: &Sent, idle_since_ns: u64) {
        self.live.sent.add(1);
        self.planned += 1;
        // Connections are taken in the order in which they became idle: this
        // one was the first, so at the planned time there was none.
        self.waited += u64::from(idle_since_ns > sent.planned_ns);
        if self.times.in_window(sent.planned_ns) {
            self.in_window.planned += 1;
            let lag_ns = sent.sent_ns - sent.planned_ns;
            self.pacing_error.saturating_record(lag_ns);
        }
    }

    /// Open loop: a request fell due and the run ended before it could be sent.
    pub fn planned_unsent(&mut self, planned_ns: u64) {
        self.planned += 1;
        self.unsent += 1;
        if self.times.in_window(planned_ns) {
            self.in_window.planned += 1;
            self.in_window.unsent += 1;
        }
    }

    /// A right answer was complete at `now_ns`.
    #[inline]
    pub fn answered(&mut self, sent: &Sent, now_ns: u64) {
        self.live.answered.add(1);
        self.in_window.completed += u64::from(self.times.in_window(now_ns));
        self.answered_in_part += self.times.part_in_window(sent.sent_ns, now_ns);
        if self.counts(sent, now_ns) {
            self.in_window.answered += 1;
            let latency_ns = now_ns - sent.planned_ns;
            self.live.record(latency_ns);
            self.latency.saturating_record(latency_ns);
            self.typical.record(latency_ns);
            if self.is_open_loop {
                self.service_time.saturating_record(now_ns - sent.sent_ns);
            }
        }
    }

    /// A request that was sent has no right answer, as was known at `now_ns`.
    pub fn failed(&mut self, sent: &Sent, cause: Failure, now_ns: u64) {
        self.live.failed.add(1);
        self.failed.add(cause);
        self.in_window.failed += u64::from(self.counts(sent, now_ns));
    }

    #[inline]
    fn counts(&self, sent: &Sent, now_ns: u64) -> bool {
        let moment_ns = if self.is_open_loop {
            sent.planned_ns
        } else {
            now_ns
        };
        self.times.in_window(moment_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Timetable = Timetable {
        start_ns: 0,
        opens_ns: 100,
        closes_ns: 200,
    };

    /// One answer, planned, sent and complete at these times; in the window,
    /// and complete while it was open?
    fn check(is_open_loop: bool, times_ns: [u64; 3], expected: (u64, u64)) {
        let live = Live::default();
        let mut tally = Tally::new(&live, is_open_loop, TIMES);
        let [planned_ns, sent_ns, now_ns] = times_ns;
        let sent = Sent {
            planned_ns,
            sent_ns,
            target: 0,
        };
        tally.answered(&sent, now_ns);
        let got = (tally.in_window.answered, tally.in_window.completed);
        assert_eq!(got, expected, "{is_open_loop} {times_ns:?}");
        assert_eq!(tally.latency.len(), expected.0);
        if expected.0 == 1 {
            assert_eq!(tally.latency.max(), now_ns - planned_ns);
        }
        let service_times = if is_open_loop { expected.0 } else { 0 };
        assert_eq!(tally.service_time.len(), service_times);
        tally.failed(&sent, Failure::TimedOut, now_ns);
        assert_eq!(tally.in_window.failed, expected.0);
        assert_eq!(tally.failed.of(Failure::TimedOut), 1);
    }

    #[test]
    fn an_open_loop_counts_by_the_plan_and_a_closed_one_by_the_answer() {
        check(true, [90, 95, 110], (0, 1));
        check(true, [100, 101, 150], (1, 1));
        check(true, [199, 230, 250], (1, 0));
        check(true, [200, 201, 202], (0, 0));
        check(false, [90, 90, 110], (1, 1));
        check(false, [90, 90, 99], (0, 0));
        check(false, [199, 199, 200], (0, 0));
    }

    #[test]
    fn an_answer_counts_with_the_part_of_it_that_lies_in_the_window() {
        for (sent_ns, now_ns, part) in [
            (120, 180, 1.0),
            (100, 200, 1.0),
            (50, 150, 0.5),
            (150, 350, 0.25),
            (0, 400, 0.25),
            (10, 90, 0.0),
            (210, 290, 0.0),
            (90, 90, 0.0),
        ] {
            assert_eq!(
                TIMES.part_in_window(sent_ns, now_ns),
                part,
                "{sent_ns}..{now_ns}"
            );
        }
    }

    #[test]
    fn every_planned_request_is_sent_or_unsent() {
        let live = Live::default();
        let mut tally = Tally::new(&live, true, TIMES);
        let sent = Sent {
            planned_ns: 150,
            sent_ns: 157,
            target: 0,
        };
        tally.planned_sent(&sent, 120);
        tally.planned_sent(&sent, 155);
        tally.planned_unsent(199);
        tally.planned_unsent(50);
        assert_eq!((tally.planned, tally.unsent, tally.waited), (4, 2, 1));
        assert_eq!((tally.in_window.planned, tally.in_window.unsent), (3, 1));
        assert_eq!((live.sent.get(), tally.pacing_error.max()), (2, 7));
    }
}
