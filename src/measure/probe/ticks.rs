//! The time-stamp counter, the length of its ticks, and whether it can be trusted.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

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

/// When the clocks were first read together.
fn origin() -> &'static (u64, Instant) {
    static ORIGIN: OnceLock<(u64, Instant)> = OnceLock::new();
    ORIGIN.get_or_init(|| (ticks(), Instant::now()))
}

/// Nanoseconds of a tick, measured once, over 10 ms or what has passed since [`calibrate`].
fn tick_ns() -> f64 {
    static TICK_NS: OnceLock<f64> = OnceLock::new();
    *TICK_NS.get_or_init(|| {
        let (start, instant) = origin();
        let left = CALIBRATION.saturating_sub(instant.elapsed());
        std::thread::sleep(left);
        // Read as close together as at the start.
        let (now, elapsed) = (ticks(), instant.elapsed());
        elapsed.as_nanos() as f64 / now.saturating_sub(*start).max(1) as f64
    })
}

/// Over this time a clock that is read 25 ns late is wrong by 2.5 in a million.
const CALIBRATION: Duration = Duration::from_millis(10);

/// Measures the length of a tick, if that is not known yet. Takes up to 10 ms.
pub fn calibrate() {
    tick_ns();
}

pub(super) fn ticks_to_ns(count: u64) -> u64 {
    (count as f64 * tick_ns()) as u64
}

pub(super) fn ns_to_ticks(ns: u64) -> u64 {
    (ns as f64 / tick_ns()) as u64
}

/// Why stage times cannot be trusted here, if so.
pub fn check() -> Result<(), String> {
    check_flags(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
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
