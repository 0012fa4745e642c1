//! The time-stamp counter, the length of its ticks, and whether it can be trusted.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use crate::control::monotonic_ns;

#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn ticks() -> u64 {
    // SAFETY: every x86_64 processor has the instruction, and Linux does not forbid it to programs
    // unless asked to by prctl(PR_SET_TSC), which nobody here does.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn ticks() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

/// The same once all that came before is done. Without it the counter is read while loads that missed the
/// caches are still under way, and what comes next seems to take so much longer.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn settled_ticks() -> u64 {
    // SAFETY: every x86_64 processor has the instruction (SSE2).
    unsafe { core::arch::x86_64::_mm_lfence() };
    ticks()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn settled_ticks() -> u64 {
    ticks()
}

/// When the clocks were first read together.
fn origin() -> &'static (u64, Instant) {
    static ORIGIN: OnceLock<(u64, Instant)> = OnceLock::new();
    ORIGIN.get_or_init(both)
}

/// Both clocks at one moment.
fn both() -> (u64, Instant) {
    tightest(|| (ticks(), Instant::now(), ticks()))
}

/// The tightest of several readings of a clock between two of the counter: a thread that is preempted between
/// them reads the one long after the other. The counter's is that of the middle.
fn tightest<T>(mut read: impl FnMut() -> (u64, T, u64)) -> (u64, T) {
    const READINGS: usize = 16;
    let readings = (0..READINGS).map(|_| read());
    let width = |(before, _, after): &(u64, T, u64)| after.saturating_sub(*before);
    let (before, now, after) = readings.min_by_key(width).expect("there are some");
    (before + after.saturating_sub(before) / 2, now)
}

/// Nanoseconds of a tick, measured once, over 10 ms or what has passed since [`calibrate`].
fn tick_ns() -> f64 {
    static TICK_NS: OnceLock<f64> = OnceLock::new();
    *TICK_NS.get_or_init(|| {
        let (start, instant) = origin();
        let left = CALIBRATION.saturating_sub(instant.elapsed());
        std::thread::sleep(left);
        let (now, then) = both();
        let elapsed = then.saturating_duration_since(*instant);
        elapsed.as_nanos() as f64 / now.saturating_sub(*start).max(1) as f64
    })
}

/// Over this time a clock that is read 25 ns late is wrong by 2.5 in a million.
const CALIBRATION: Duration = Duration::from_millis(10);

/// Measures the length of a tick, and finds out whether the counter can be trusted ([`check`]), if that is not
/// known yet. Takes some 10 ms.
pub fn calibrate() {
    tick_ns();
    TRUSTED.get_or_init(|| check().is_ok());
}

/// Whether the counter can be trusted, once it is calibrated.
static TRUSTED: OnceLock<bool> = OnceLock::new();

/// A moment, by the clock that takes least to read: the counter, once it is calibrated and if it can be
/// trusted, and CLOCK_MONOTONIC before and elsewhere, which takes longer.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// Of the counter.
    Ticks(u64),
    /// Of CLOCK_MONOTONIC, in nanoseconds.
    Ns(u64),
}

impl Moment {
    /// This one.
    #[inline]
    pub fn now() -> Self {
        match TRUSTED.get() {
            Some(true) => Moment::Ticks(ticks()),
            _ => Moment::Ns(monotonic_ns()),
        }
    }

    /// What has passed since, in nanoseconds.
    #[inline]
    pub fn elapsed_ns(self) -> u64 {
        match self {
            Moment::Ticks(then) => ticks_to_ns(ticks().saturating_sub(then)),
            Moment::Ns(then) => monotonic_ns().saturating_sub(then),
        }
    }
}

pub(super) fn ticks_to_ns(count: u64) -> u64 {
    (count as f64 * tick_ns()) as u64
}

pub(super) fn ns_to_ticks(ns: u64) -> u64 {
    (ns as f64 / tick_ns()) as u64
}

/// Why stage times cannot be trusted here, if so.
pub fn check() -> Result<(), String> {
    check_flags(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())?;
    let sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    check_sources(std::fs::read_to_string(sources).ok().as_deref())
}

/// `sources` are the clocks that the kernel may keep its time by, if it says. A counter that it found to go
/// wrong while it ran (its watchdog, or cores that differ) is none of them any more, and keeps its flags.
fn check_sources(sources: Option<&str>) -> Result<(), String> {
    match sources {
        Some(sources) if cfg!(target_arch = "x86_64") => {
            let named = sources.split_whitespace().any(|source| source == "tsc");
            named.then_some(()).ok_or_else(|| {
                format!(
                    "the kernel does not trust the processor's time-stamp counter (its clock sources: {}), so \
                     stages cannot be timed: see `dmesg | grep -i tsc`, and run on another machine",
                    sources.trim()
                )
            })
        }
        _ => Ok(()),
    }
}

/// `cpuinfo` is /proc/cpuinfo's text. Other architectures' clock is the kernel's, which is steady.
fn check_flags(cpuinfo: &str) -> Result<(), String> {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    let flags: Vec<&str> = flags.unwrap_or_default().split_whitespace().collect();
    let mut lacking = ["constant_tsc", "nonstop_tsc"]
        .into_iter()
        .filter(|flag| !flags.contains(flag));
    match lacking.next() {
        Some(flag) if cfg!(target_arch = "x86_64") => Err(format!(
            "the processor's time-stamp counter may change its rate or stop (/proc/cpuinfo lacks \
             {flag}), so stages cannot be timed: run on another machine, or have the hypervisor \
             pass the flag"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_either_clock_are_as_far_apart() {
        calibrate();
        // The one begins and ends between the others' ends, whoever is preempted between two looks.
        let outer = Moment::Ns(monotonic_ns());
        let counted = Moment::now();
        let inner = Moment::Ns(monotonic_ns());
        assert_eq!(matches!(counted, Moment::Ticks(_)), check().is_ok());
        std::thread::sleep(Duration::from_millis(20));
        let [inner, counted, outer] = [inner, counted, outer].map(Moment::elapsed_ns);
        // What the calibration may be wrong by.
        let least = inner - inner / 100;
        let most = outer + outer / 100;
        assert!(
            (least..=most).contains(&counted),
            "{inner}, {counted}, {outer}"
        );
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_counter_that_the_kernel_has_given_up_is_refused() {
        let refused = |sources| check_sources(Some(sources)).err();
        assert_eq!(refused("tsc kvm-clock acpi_pm \n"), None);
        assert_eq!(refused("kvm-clock tsc\n"), None);
        for sources in ["hpet acpi_pm \n", "kvm-clock tsc-early\n", ""] {
            let reason = refused(sources).expect("it names no tsc");
            let sources = format!("clock sources: {})", sources.trim());
            assert!(reason.contains(&sources), "{reason}");
            assert!(reason.contains("dmesg"), "{reason}");
        }
        assert_eq!(check_sources(None), Ok(()), "the kernel does not tell");
    }

    /// Who is preempted before the reading between, or after it, is none to go by.
    #[test]
    fn of_several_readings_the_tightest_counts() {
        let mut at = 0;
        let mut nth = 0;
        let reading = tightest(|| {
            nth += 1;
            let [first, second] = match nth {
                9 => [10, 20],
                odd if odd % 2 == 1 => [1_000_000, 20],
                _ => [20, 1_000_000],
            };
            let before = at;
            at += first + second;
            (before, before + first, at)
        });
        // In the middle, which is 5 from where it was.
        assert_eq!(reading.0, reading.1 + 5);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_counter_that_is_not_steady_is_named() {
        let check = |flags: &str, lacking: Option<&str>| {
            let cpuinfo = format!("processor\t: 0\nflags\t\t: fpu {flags} sse2\nbugs\t\t:\n");
            match (check_flags(&cpuinfo), lacking) {
                (Ok(()), None) => {}
                (Err(reason), Some(flag)) => assert!(reason.contains(flag), "{reason}"),
                (found, _) => panic!("{flags}: {found:?}"),
            }
        };
        check("constant_tsc nonstop_tsc", None);
        check("constant_tsc", Some("lacks nonstop_tsc"));
        check("nonstop_tsc", Some("lacks constant_tsc"));
        check("not_constant_tsc nonstop_tsc", Some("lacks constant_tsc"));
        check("", Some("lacks constant_tsc"));
        assert!(check_flags("").is_err(), "nothing is known");
    }
}
