//! The host's fingerprint, which every result carries, and how two differ.
//!
//! Only reads files below a root, `/` outside of tests, and starts `gzip` for a compressed kernel
//! configuration. Nothing is guessed: a field that cannot be read says why. Host name, addresses
//! and users are deliberately lacking: results are made to be shown around.

mod accounting;
#[cfg(test)]
mod tests;

use super::reading::Reading;
use accounting::{cpu_accounting, nohz_full};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

/// What is read of any file at most. The largest is /proc/cpuinfo, under 2 KiB a core.
const MOST_BYTES: u64 = 4 << 20;

/// What the program knows about its own build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The compiler's version and the target.
    pub toolchain: Reading<String>,
    pub allocator: Reading<String>,
    /// A hash of Cargo.lock.
    pub lockfile_hash: Reading<String>,
    /// A hash of the handler's module as it was run.
    pub wasm_hash: Reading<String>,
}

/// Everything outside of the program that is known to change its numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    pub kernel_release: Reading<String>,
    pub kernel_version: Reading<String>,
    pub kernel_command_line: Reading<String>,
    pub cpu_model: Reading<String>,
    /// As a list of ranges, `0-3,8`, like all lists of cores here.
    pub cores_online: Reading<String>,
    /// Of all cores, each one once.
    pub governor: Reading<String>,
    pub turbo: Reading<String>,
    pub smt: Reading<String>,
    /// What the kernel does about each vulnerability that the CPU has.
    pub mitigations: Reading<String>,
    /// How the kernel finds out what used the CPU. Without it, CPU times do not compare.
    pub cpu_accounting: Reading<String>,
    pub clock_source: Reading<String>,
    pub isolated_cores: Reading<String>,
    pub nohz_full_cores: Reading<String>,
    /// The mask for interrupts that nobody placed, in hexadecimal.
    pub irq_affinity: Reading<String>,
    /// Receive packet steering: the queues that have a mask, or `off`.
    pub rps: Reading<String>,
    /// Receive flow steering: entries of the socket flow table, or `off`.
    pub rfs: Reading<String>,
    /// RLIMIT_NOFILE as `soft of hard`, like the other two limits.
    pub limit_open_files: Reading<String>,
    pub limit_pending_signals: Reading<String>,
    /// In bytes.
    pub limit_locked_memory: Reading<String>,
    pub hypervisor: Reading<String>,
    /// Hardware performance counters.
    pub pmu: Reading<String>,
    pub io_uring: Reading<String>,
    /// /proc/sys/kernel/perf_event_paranoid.
    pub perf_event_paranoid: Reading<String>,
    /// MemTotal, in MiB.
    pub memory_mib: Reading<u64>,
    pub build: Build,
}

impl Host {
    /// Reads the fingerprint from the files below `root`.
    pub fn read(root: &Path, build: Build) -> Self {
        let files = Files { root };
        let cpuinfo = files.text("proc/cpuinfo");
        let release = files.text("proc/sys/kernel/osrelease");
        Self {
            cpu_model: cpuinfo.as_ref().and_then(|text| cpu_model(text)),
            hypervisor: cpuinfo.as_ref().and_then(|text| hypervisor(&files, text)),
            cpu_accounting: cpu_accounting(&files, &release),
            kernel_release: release,
            kernel_version: files.text("proc/sys/kernel/version"),
            kernel_command_line: files.text("proc/cmdline"),
            cores_online: files.text("sys/devices/system/cpu/online"),
            governor: governor(&files),
            turbo: turbo(&files),
            smt: files.switch("sys/devices/system/cpu/smt/active", ["off", "on"]),
            mitigations: mitigations(&files),
            clock_source: files
                .text("sys/devices/system/clocksource/clocksource0/current_clocksource"),
            isolated_cores: files
                .text("sys/devices/system/cpu/isolated")
                .map(none_if_empty),
            nohz_full_cores: nohz_full(&files),
            irq_affinity: files.text("proc/irq/default_smp_affinity"),
            rps: rps(&files),
            rfs: files
                .text("proc/sys/net/core/rps_sock_flow_entries")
                .map(|entries| {
                    if entries == "0" {
                        "off".into()
                    } else {
                        entries
                    }
                }),
            limit_open_files: limit(&files, "Max open files"),
            limit_pending_signals: limit(&files, "Max pending signals"),
            limit_locked_memory: limit(&files, "Max locked memory"),
            pmu: pmu(&files),
            io_uring: files.switch(
                "proc/sys/kernel/io_uring_disabled",
                [
                    "allowed",
                    "for members of io_uring_group or CAP_SYS_ADMIN",
                    "disabled",
                ],
            ),
            perf_event_paranoid: files.text("proc/sys/kernel/perf_event_paranoid"),
            memory_mib: memory_mib(&files),
            build,
        }
    }

    /// Every field with its name, in the order of the struct. The pattern has no `..`, so a new
    /// field cannot be forgotten here.
    pub fn fields(&self) -> [(&'static str, Reading<String>); 28] {
        let Self {
            kernel_release,
            kernel_version,
            kernel_command_line,
            cpu_model,
            cores_online,
            governor,
            turbo,
            smt,
            mitigations,
            cpu_accounting,
            clock_source,
            isolated_cores,
            nohz_full_cores,
            irq_affinity,
            rps,
            rfs,
            limit_open_files,
            limit_pending_signals,
            limit_locked_memory,
            hypervisor,
            pmu,
            io_uring,
            perf_event_paranoid,
            memory_mib,
            build:
                Build {
                    toolchain,
                    allocator,
                    lockfile_hash,
                    wasm_hash,
                },
        } = self;
        let memory = memory_mib.as_ref().map(u64::to_string);
        [
            ("kernel release", kernel_release),
            ("kernel version", kernel_version),
            ("kernel command line", kernel_command_line),
            ("CPU model", cpu_model),
            ("cores online", cores_online),
            ("governor", governor),
            ("turbo", turbo),
            ("SMT", smt),
            ("mitigations", mitigations),
            ("CPU accounting", cpu_accounting),
            ("clock source", clock_source),
            ("isolated cores", isolated_cores),
            ("nohz_full cores", nohz_full_cores),
            ("IRQ affinity", irq_affinity),
            ("RPS", rps),
            ("RFS", rfs),
            ("limit of open files", limit_open_files),
            ("limit of pending signals", limit_pending_signals),
            ("limit of locked memory", limit_locked_memory),
            ("hypervisor", hypervisor),
            ("PMU", pmu),
            ("io_uring", io_uring),
            ("perf_event_paranoid", perf_event_paranoid),
            ("memory in MiB", &memory),
            ("toolchain", toolchain),
            ("allocator", allocator),
            ("lockfile hash", lockfile_hash),
            ("wasm hash", wasm_hash),
        ]
        .map(|(name, reading)| (name, reading.clone()))
    }
}

/// One line for each field in which the hosts are unlike, `field: one; other: another`; empty if
/// nothing is known to keep their results apart. A field that only one host told is listed, for
/// nobody can say that it is alike; one that neither told is not.
pub fn differences(one: &Host, other: &Host) -> Vec<String> {
    let known = |reading: &Reading<String>| reading.value().is_some();
    one.fields()
        .into_iter()
        .zip(other.fields())
        .filter(|((_, one), (_, other))| one != other && (known(one) || known(other)))
        .map(|((name, one), (_, other))| format!("{name}: {one}; other: {other}"))
        .collect()
}

struct Files<'a> {
    root: &'a Path,
}

impl Files<'_> {
    /// A file's text without white space around it; reasons name the file as it is on the host.
    fn text(&self, path: &str) -> Reading<String> {
        let read = || -> io::Result<String> {
            let mut text = String::new();
            File::open(self.root.join(path))?
                .take(MOST_BYTES)
                .read_to_string(&mut text)?;
            Ok(text.trim().to_owned())
        };
        match read() {
            Ok(text) => Reading::Value(text),
            Err(error) => Reading::missing(format!("/{path}: {error}")),
        }
    }

    /// A file that holds a small number, as the word for it.
    fn switch<const N: usize>(&self, path: &str, words: [&str; N]) -> Reading<String> {
        self.text(path).and_then(|text| {
            match text
                .parse::<usize>()
                .ok()
                .and_then(|number| words.get(number))
            {
                Some(&word) => Reading::Value(word.to_owned()),
                None => Reading::missing(format!("/{path} holds {text:?}")),
            }
        })
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The names in a directory, sorted.
    fn names(&self, path: &str) -> Reading<BTreeSet<String>> {
        let list = || -> io::Result<BTreeSet<String>> {
            fs::read_dir(self.root.join(path))?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect()
        };
        match list() {
            Ok(names) => Reading::Value(names),
            Err(error) => Reading::missing(format!("/{path}: {error}")),
        }
    }
}

fn none_if_empty(text: String) -> String {
    if text.is_empty() { "none".into() } else { text }
}

/// The value of the first `name : value` line of /proc/cpuinfo.
fn cpuinfo_value<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    cpuinfo.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then_some(value.trim())
    })
}

fn cpu_model(cpuinfo: &str) -> Reading<String> {
    match cpuinfo_value(cpuinfo, "model name") {
        Some(model) => Reading::Value(model.to_owned()),
        None => Reading::missing("/proc/cpuinfo has no model name on this architecture"),
    }
}

/// Xen tells /sys/hypervisor; elsewhere the CPU has a flag (x86: CPUID leaf 1, ECX bit 31), and the
/// firmware's tables (DMI) may name the product.
fn hypervisor(files: &Files, cpuinfo: &str) -> Reading<String> {
    if let Reading::Value(kind) = files.text("sys/hypervisor/type") {
        return Reading::Value(kind);
    }
    let Some(flags) = cpuinfo_value(cpuinfo, "flags") else {
        return Reading::missing("/proc/cpuinfo has no flags on this architecture");
    };
    if !flags.split(' ').any(|flag| flag == "hypervisor") {
        return Reading::Value("none".into());
    }
    let product =
        ["sys_vendor", "product_name"].map(|name| files.text(&format!("sys/class/dmi/id/{name}")));
    Reading::Value(match &product {
        [Reading::Value(vendor), Reading::Value(name)] => format!("{vendor} {name}"),
        _ => "one that does not tell its name".into(),
    })
}

fn governor(files: &Files) -> Reading<String> {
    files.names("sys/devices/system/cpu").and_then(|names| {
        let governors: BTreeSet<String> = names
            .iter()
            .map(|name| {
                files.text(&format!(
                    "sys/devices/system/cpu/{name}/cpufreq/scaling_governor"
                ))
            })
            .filter_map(|reading| reading.value().cloned())
            .collect();
        if governors.is_empty() {
            return Reading::missing("no core has cpufreq/scaling_governor");
        }
        Reading::Value(Vec::from_iter(governors).join(", "))
    })
}

/// Intel's driver says when it is off, all others when it is on.
fn turbo(files: &Files) -> Reading<String> {
    let intel = "sys/devices/system/cpu/intel_pstate/no_turbo";
    if files.exists(intel) {
        return files.switch(intel, ["on", "off"]);
    }
    files.switch("sys/devices/system/cpu/cpufreq/boost", ["off", "on"])
}

/// As `name: what is done`, and how many are not affected, which newer kernels count more of.
fn mitigations(files: &Files) -> Reading<String> {
    let directory = "sys/devices/system/cpu/vulnerabilities";
    files.names(directory).map(|names| {
        let mut told = Vec::new();
        let mut unaffected = 0;
        for name in names {
            match files.text(&format!("{directory}/{name}")) {
                Reading::Value(state) if state == "Not affected" => unaffected += 1,
                state => told.push(format!("{name}: {state}")),
            }
        }
        told.push(format!("{unaffected} not affected"));
        told.join(" | ")
    })
}

fn rps(files: &Files) -> Reading<String> {
    files.names("sys/class/net").map(|interfaces| {
        let mut steered = Vec::new();
        for interface in interfaces {
            let directory = format!("sys/class/net/{interface}/queues");
            // An interface may vanish, and some have no queues: neither steers anything.
            let queues = files.names(&directory).value().cloned().unwrap_or_default();
            for queue in queues.iter().filter(|queue| queue.starts_with("rx-")) {
                let mask = files.text(&format!("{directory}/{queue}/rps_cpus"));
                if let Some(mask) = mask
                    .value()
                    .filter(|mask| mask.contains(|c| !matches!(c, '0' | ',')))
                {
                    steered.push(format!("{interface}/{queue}={mask}"));
                }
            }
        }
        if steered.is_empty() {
            "off".into()
        } else {
            steered.join(" ")
        }
    })
}

/// A line of /proc/self/limits: name, soft, hard, unit, in columns.
fn limit(files: &Files, name: &str) -> Reading<String> {
    files.text("proc/self/limits").and_then(|limits| {
        let values = limits.lines().find_map(|line| {
            let mut columns = line.strip_prefix(name)?.split_ascii_whitespace();
            Some(format!("{} of {}", columns.next()?, columns.next()?))
        });
        match values {
            Some(values) => Reading::Value(values),
            None => Reading::missing(format!("/proc/self/limits has no {name}")),
        }
    })
}

/// The core PMU is `cpu` on most machines, `cpu_core` on hybrid ones and `armv8_…` on Arm.
fn pmu(files: &Files) -> Reading<String> {
    files.names("sys/bus/event_source/devices").map(|devices| {
        let core = |name: &&String| {
            ["cpu", "cpu_core"].contains(&name.as_str()) || name.starts_with("armv8_")
        };
        match devices.iter().find(core) {
            Some(name) => name.clone(),
            None => "none".into(),
        }
    })
}

fn memory_mib(files: &Files) -> Reading<u64> {
    files.text("proc/meminfo").and_then(|meminfo| {
        let kib = meminfo.lines().find_map(|line| {
            let total = line.strip_prefix("MemTotal:")?.strip_suffix("kB")?;
            total.trim().parse::<u64>().ok()
        });
        match kib {
            Some(kib) => Reading::Value(kib / 1024),
            None => Reading::missing("/proc/meminfo has no MemTotal"),
        }
    })
}
