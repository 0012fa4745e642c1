//! What good requests say about a claim that is fixed beforehand: in a second with one bad request their
//! 99th percentile is at most [`P99_RATIO`] times what it is in one without. Statistics alone: no server,
//! no clock.
//!
//! A bad request is over, and who waited for it answered, within a small part of its second. So only that
//! part is taken from beside it, and the rest of its second from one without: what else disturbs that rest
//! is in both that are compared, and takes no part in their ratio. Such a second can be made of each
//! second without and each part beside; nobody has to wait for it.
//!
//! A window is the sample, since whatever else runs on a machine holds up many requests at once. Intervals
//! are the percentile bootstrap's over windows (B. Efron and R. Tibshirani, "An Introduction to the
//! Bootstrap", 1993, chapter 13).

use std::fmt;

use hdrhistogram::Histogram;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use ringlab::measure::stats::{Interval, median};

/// The most that the 99th percentile may grow by, as a factor.
pub const P99_RATIO: f64 = 2.0;

/// Requests that are slower than the 99th percentile, as a part of 1.
const SLOWER: f64 = 0.01;

/// Latencies that are told apart: the shortest, how much longer each is than the one before it, and how
/// many there are, up to more than a minute.
const SHORTEST_NS: f64 = 1e3;
const STEP: f64 = 1.02;
const STEPS: usize = 920;

/// One less than a round number, so that the bounds fall on whole order statistics.
const RESAMPLES: usize = 399;
/// Of these, so many lie beyond each bound of 95 %.
const BEYOND: usize = 10;

/// Good requests of a time: which part of 1 of them took longer than each of [`STEPS`] latencies.
#[derive(Clone, Debug)]
pub struct Window(Vec<f64>);

impl Window {
    /// Of latencies in nanoseconds.
    pub fn new(latency: &Histogram<u64>) -> Self {
        let mut parts = vec![0.0; STEPS];
        for value in latency.iter_recorded() {
            let steps = (value.value_iterated_to() as f64 / SHORTEST_NS).ln() / STEP.ln();
            let step = (steps.ceil().max(0.0) as usize).min(STEPS - 1);
            parts[step] += value.count_since_last_iteration() as f64 / latency.len() as f64;
        }
        // From those that took so long to those that took longer.
        let mut longer = 0.0;
        for part in parts.iter_mut().rev() {
            longer += std::mem::replace(part, longer);
        }
        Self(parts)
    }

    /// All of several windows that are as long.
    fn all<'a>(windows: impl ExactSizeIterator<Item = &'a Window>) -> Self {
        let weight = 1.0 / windows.len() as f64;
        let mut sum = vec![0.0; STEPS];
        for Window(parts) in windows {
            let both = sum.iter_mut().zip(parts);
            both.for_each(|(sum, part)| *sum += weight * part);
        }
        Self(sum)
    }
}

/// The 99th percentile, in nanoseconds, of a second that is like `rest` but for so much of it, as a `part`
/// of 1, that is like `beside`.
fn p99_ns(rest: &Window, beside: &Window, part: f64) -> f64 {
    let steps: Vec<usize> = (0..STEPS).collect();
    let slower = |step: &usize| (1.0 - part) * rest.0[*step] + part * beside.0[*step] > SLOWER;
    let step = steps.partition_point(slower);
    SHORTEST_NS * STEP.powi(step as i32)
}

/// Which 99th percentile is meant, of many seconds.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// Each second's own; the median second is spoken of.
    TypicalSecond,
    /// That of all requests together.
    AllTogether,
}

/// Which windows there are.
pub struct Seconds<'a> {
    /// Whole seconds without a bad request.
    pub without: &'a [&'a Window],
    /// How much of a second the windows beside a bad request are, as a part of 1.
    pub part: f64,
}

impl Seconds<'_> {
    /// The 99th percentile of a second without, in nanoseconds.
    pub fn p99_ns(&self, of: Of) -> f64 {
        match of {
            Of::TypicalSecond => {
                let own = self
                    .without
                    .iter()
                    .map(|second| p99_ns(second, second, 0.0));
                median(&own.collect::<Vec<_>>()).expect("there are seconds")
            }
            Of::AllTogether => {
                let all = Window::all(self.without.iter().copied());
                p99_ns(&all, &all, 0.0)
            }
        }
    }

    /// For each second and each window beside a bad request, the 99th percentile of what both make, over
    /// that of the second alone.
    fn ratios(&self, beside: &[&Window]) -> Vec<Vec<f64>> {
        let of_one = |second: &&Window| {
            let alone_ns = p99_ns(second, second, 0.0);
            let ratio = |window: &&Window| p99_ns(second, window, self.part) / alone_ns;
            beside.iter().map(ratio).collect()
        };
        self.without.iter().map(of_one).collect()
    }

    /// How many seconds with a bad request, as a part of 1, have a 99th percentile of more than
    /// [`P99_RATIO`] times their own without.
    pub fn over(&self, beside: &[&Window]) -> f64 {
        let ratios = self.ratios(beside).concat();
        let over = ratios.iter().filter(|ratio| **ratio > P99_RATIO).count();
        over as f64 / ratios.len() as f64
    }

    /// The 99th percentile with a bad request over that without, in bounds of 95 %.
    pub fn ratio(&self, of: Of, beside: &[&Window]) -> Interval {
        let mut random = StdRng::seed_from_u64(0);
        let mut again = |count: usize| -> Vec<usize> {
            (0..count).map(|_| random.random_range(0..count)).collect()
        };
        let of_each = match of {
            Of::TypicalSecond => self.ratios(beside),
            Of::AllTogether => Vec::new(),
        };
        let resample = |_| {
            let (seconds, windows) = (again(self.without.len()), again(beside.len()));
            match of {
                Of::TypicalSecond => {
                    let ratios = seconds
                        .iter()
                        .flat_map(|second| windows.iter().map(|window| of_each[*second][*window]));
                    median(&ratios.collect::<Vec<_>>()).expect("there are windows")
                }
                Of::AllTogether => {
                    let rest = Window::all(seconds.iter().map(|nth| self.without[*nth]));
                    let beside = Window::all(windows.iter().map(|nth| beside[*nth]));
                    p99_ns(&rest, &beside, self.part) / p99_ns(&rest, &rest, 0.0)
                }
            }
        };
        let mut ratios: Vec<f64> = (0..RESAMPLES).map(resample).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        Interval {
            low: ratios[BEYOND - 1],
            high: ratios[RESAMPLES - BEYOND],
        }
    }
}

/// What may be concluded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    Holds,
    Broken,
    /// Too few windows, or too much noise, for what is claimed.
    ShowsNothing,
}

/// One way to look at the windows: 99th percentiles over those without a bad request.
pub struct View {
    pub of: Of,
    /// What they are over, in nanoseconds. No misdeed makes them much longer than it lasts, so a long one
    /// hides all that are short.
    pub without_ns: f64,
    /// The shortest misdeed that must not hide, in nanoseconds.
    pub shortest_ns: f64,
    /// With a good request in a bad one's place, which must not break the claim.
    pub harmless: Interval,
    /// The same, with a stall of more than the claim leaves room for, which must break it: else nothing
    /// could.
    pub stalled: Interval,
    /// For each kind of bad request that is told apart.
    pub beside: Vec<Interval>,
}

impl View {
    /// The claim holds if it does for every kind, and is broken if it is for one.
    pub fn verdict(&self) -> Verdict {
        let is_within = |interval: &Interval| interval.high <= P99_RATIO;
        let is_beyond = |interval: &Interval| interval.low > P99_RATIO;
        let hides = self.without_ns * P99_RATIO > self.shortest_ns;
        if hides || !is_within(&self.harmless) || !is_beyond(&self.stalled) {
            Verdict::ShowsNothing
        } else if self.beside.iter().any(is_beyond) {
            Verdict::Broken
        } else if self.beside.iter().all(is_within) {
            Verdict::Holds
        } else {
            Verdict::ShowsNothing
        }
    }
}

/// No view may say that the claim is broken, and one of them must be able to say that it holds.
pub fn verdict(views: &[View]) -> Verdict {
    let all: Vec<_> = views.iter().map(View::verdict).collect();
    let decisive = [Verdict::Broken, Verdict::Holds];
    let said = decisive.into_iter().find(|one| all.contains(one));
    said.unwrap_or(Verdict::ShowsNothing)
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Holds => "holds",
            Verdict::Broken => "does not hold",
            Verdict::ShowsNothing => "shows nothing",
        })
    }
}

mod tests {
    use super::Verdict::{Broken, Holds, ShowsNothing};
    use super::*;

    fn view(harmless: (f64, f64), stalled: (f64, f64), beside: &[(f64, f64)]) -> View {
        let interval = |(low, high)| Interval { low, high };
        View {
            of: Of::TypicalSecond,
            without_ns: 1e6,
            shortest_ns: 2e6,
            harmless: interval(harmless),
            stalled: interval(stalled),
            beside: beside.iter().map(|bounds| interval(*bounds)).collect(),
        }
    }

    #[test]
    fn a_verdict_needs_controls_that_can_tell() {
        let (harmless, stalled) = ((0.9, 2.0), (2.1, 9.0));
        for (harmless, stalled, beside, expected) in [
            (harmless, stalled, &[(0.9, 2.0)][..], Holds),
            (harmless, stalled, &[(2.1, 3.0)], Broken),
            (harmless, stalled, &[(0.9, 1.1), (2.1, 3.0)], Broken),
            (harmless, stalled, &[(0.9, 2.1), (2.1, 3.0)], Broken),
            (harmless, stalled, &[(0.9, 2.1)], ShowsNothing),
            (harmless, stalled, &[(0.9, 1.1), (0.9, 2.1)], ShowsNothing),
            ((0.9, 2.1), stalled, &[(0.9, 1.1)], ShowsNothing),
            ((0.9, 2.1), stalled, &[(2.1, 3.0)], ShowsNothing),
            (harmless, (2.0, 9.0), &[(0.9, 1.1)], ShowsNothing),
        ] {
            let view = view(harmless, stalled, beside);
            assert_eq!(
                view.verdict(),
                expected,
                "{harmless:?} {stalled:?} {beside:?}"
            );
        }
    }

    #[test]
    fn what_hides_a_misdeed_shows_nothing_of_it() {
        let mut view = view((0.9, 1.1), (5.0, 9.0), &[(0.9, 1.1)]);
        assert_eq!(view.verdict(), Holds);
        view.without_ns += 1.0;
        assert_eq!(view.verdict(), ShowsNothing);
    }

    #[test]
    fn one_view_is_enough_to_break_the_claim_and_one_to_hold_it() {
        let [holds, broken, nothing] = [(0.9, 1.1), (2.1, 3.0), (0.9, 2.1)];
        for (one, other, expected) in [
            (holds, holds, Holds),
            (holds, nothing, Holds),
            (nothing, nothing, ShowsNothing),
            (holds, broken, Broken),
            (nothing, broken, Broken),
        ] {
            for views in [[one, other], [other, one]] {
                let views = views.map(|bounds| view((0.9, 1.1), (5.0, 9.0), &[bounds]));
                assert_eq!(verdict(&views), expected, "{one:?}, {other:?}");
            }
        }
    }

    /// Of requests in microseconds, and how many of a hundred thousand there are besides those of 100 µs,
    /// or up to 30 % longer.
    fn window(random: &mut StdRng, others: &[(f64, u64)]) -> Window {
        let mut latency = Histogram::new_with_bounds(1_000, 60_000_000_000, 2).expect("bounds");
        let mut record = |us: f64, count| {
            latency
                .record_n((us * 1e3) as u64, count)
                .expect("within bounds");
        };
        let rest: u64 = others.iter().map(|(_, count)| count).sum();
        for tenth in 0..10 {
            record(100.0 + 3.0 * f64::from(tenth), (100_000 - rest) / 10);
        }
        for (us, count) in others {
            record(us * (0.8 + 0.4 * random.random::<f64>()), *count);
        }
        Window::new(&latency)
    }

    #[test]
    fn a_99th_percentile_is_that_of_the_requests() {
        let random = &mut StdRng::seed_from_u64(0);
        let near = |ns: f64, us: f64| (ns / (us * 1e3) - 1.0).abs() < 0.25;
        let quick = window(random, &[(5_000.0, 900)]);
        assert!(near(p99_ns(&quick, &quick, 0.0), 125.0));
        let slow = window(random, &[(5_000.0, 1_100)]);
        assert!(near(p99_ns(&slow, &slow, 0.0), 5_000.0));
        // 0.9 % of 0.9, and 1.1 % of 0.1; and 3 % of 0.1.
        assert!(near(p99_ns(&quick, &slow, 0.1), 125.0));
        let slower = window(random, &[(9_000.0, 3_000)]);
        assert!(near(p99_ns(&quick, &slower, 0.1), 5_000.0));
        let all = Window::all([&quick, &slow, &slower].into_iter());
        assert!(near(p99_ns(&all, &all, 0.0), 5_000.0));
        let none = window(random, &[]);
        assert!(near(p99_ns(&none, &none, 0.0), 125.0));
    }

    /// What both views say of a misdeed that holds up so many of the hundred thousand requests of the
    /// tenth of a second around it for 3 ms, where something else does so for a time, between 0 and twice
    /// `noise`, of each second and of each tenth of one, for 2 ms.
    fn verdicts(held_up: u64, noise: f64) -> [Verdict; 2] {
        let random = &mut StdRng::seed_from_u64(1);
        let mut some = |count: usize, held_up: u64| -> Vec<Window> {
            let one = |_| {
                let disturbed = 2.0 * noise * random.random::<f64>() * 1e5;
                window(random, &[(2_000.0, disturbed as u64), (3_000.0, held_up)])
            };
            (0..count).map(one).collect()
        };
        let (without, harmless) = (some(30, 0), some(20, 0));
        let (stalled, beside) = (some(10, 30_000), some(20, held_up));
        let [without, harmless, stalled, beside] =
            [&without, &harmless, &stalled, &beside].map(|own| own.iter().collect::<Vec<_>>());
        let seconds = Seconds {
            without: &without,
            part: 0.1,
        };
        [Of::TypicalSecond, Of::AllTogether].map(|of| {
            let view = View {
                of,
                without_ns: seconds.p99_ns(of),
                shortest_ns: 5e6,
                harmless: seconds.ratio(of, &harmless),
                stalled: seconds.ratio(of, &stalled),
                beside: vec![seconds.ratio(of, &beside)],
            };
            view.verdict()
        })
    }

    #[test]
    fn what_is_held_up_decides_and_what_else_disturbs_does_not() {
        assert_eq!(verdicts(5_000, 0.001), [Holds; 2]);
        assert_eq!(verdicts(15_000, 0.001), [Broken; 2]);
        // With noise of 0.4 % there is less room for the same.
        assert_eq!(verdicts(4_000, 0.004), [Holds; 2]);
        assert_eq!(verdicts(15_000, 0.004), [Broken; 2]);
        // Where noise alone takes as much, nothing of 3 ms can be seen beside its 2 ms.
        assert_eq!(verdicts(5_000, 0.02), [ShowsNothing; 2]);
    }
}
