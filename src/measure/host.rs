//! The host's fingerprint, which every result carries, and how two differ.
//!
//! Only reads files below a root, `/` outside of tests, and starts `gzip` for a compressed kernel
//! configuration. Nothing is guessed: a field that cannot be read says why. Host name, addresses
//! and users are deliberately lacking: results are made to be shown around.

use super::reading::Reading;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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

/// From the running kernel's own configuration, else from the one installed beside it.
fn cpu_accounting(files: &Files, release: &Reading<String>) -> Reading<String> {
    let config = if files.exists("proc/config.gz") {
        unzip(files.root.join("proc/config.gz"))
    } else {
        release.as_ref().and_then(
            |release| match files.text(&format!("boot/config-{release}")) {
                Reading::Missing(reason) => {
                    Reading::Missing(format!("no /proc/config.gz, and {reason}"))
                }
                text => text,
            },
        )
    };
    config.and_then(|config| accounting_of(&config, nohz_full(files)))
}

/// By the gzip command, which every distribution has: one file, once a run, is not worth a crate.
fn unzip(path: PathBuf) -> Reading<String> {
    let unzip = || -> io::Result<String> {
        let mut child = Command::new("gzip")
            .arg("-dc")
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let mut text = String::new();
        // Taken, so that the pipe is closed before waiting, whatever was left unread.
        let stdout = child.stdout.take().expect("piped above");
        let read = stdout.take(MOST_BYTES).read_to_string(&mut text);
        let status = child.wait()?;
        read?;
        if status.success() {
            Ok(text)
        } else {
            Err(io::Error::other(status.to_string()))
        }
    };
    match unzip() {
        Ok(text) => Reading::Value(text),
        Err(error) => Reading::missing(format!("gzip -dc /proc/config.gz: {error}")),
    }
}

/// The options of init/Kconfig, "CPU/Task time and stats accounting". Generic virtual accounting
/// only works on nohz_full cores; all others fall back to the tick.
fn accounting_of(config: &str, nohz_full: Reading<String>) -> Reading<String> {
    let is_set = |option: &str| {
        config
            .lines()
            .any(|line| line.strip_prefix(option) == Some("=y"))
    };
    let on_some = nohz_full.value().is_some_and(|cores| cores != "none");
    let base = if is_set("CONFIG_VIRT_CPU_ACCOUNTING_NATIVE") {
        "virtual"
    } else if is_set("CONFIG_VIRT_CPU_ACCOUNTING_GEN") && on_some {
        "virtual on nohz_full cores, tick on others"
    } else if is_set("CONFIG_VIRT_CPU_ACCOUNTING_GEN") || is_set("CONFIG_TICK_CPU_ACCOUNTING") {
        "tick"
    } else {
        return Reading::missing("the kernel's configuration names no CPU accounting");
    };
    let irq = if is_set("CONFIG_IRQ_TIME_ACCOUNTING") {
        "IRQ time apart"
    } else {
        "IRQ time charged to what it interrupts"
    };
    Reading::Value(format!("{base}; {irq}"))
}

/// The kernel prints `(null)` for an empty list here.
fn nohz_full(files: &Files) -> Reading<String> {
    files
        .text("sys/devices/system/cpu/nohz_full")
        .map(|cores| match cores.as_str() {
            "" | "(null)" => "none".into(),
            _ => cores,
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

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    fn build() -> Build {
        Build {
            toolchain: Reading::Value("rustc 1.95.0".into()),
            allocator: Reading::Value("system".into()),
            lockfile_hash: Reading::Value("12ab".into()),
            wasm_hash: Reading::missing("no handler was run"),
        }
    }

    /// What one field shows.
    fn check(fixture: Fixture, field: &str, expected: &str) {
        let host = Host::read(fixture.root(), build());
        let fields = host.fields();
        let (_, shown) = fields.iter().find(|(name, _)| *name == field).expect(field);
        assert_eq!(shown.to_string(), expected);
    }

    fn file(path: &str, text: &str) -> Fixture {
        Fixture::new().with(path, text)
    }

    #[test]
    fn plain_files_lose_the_white_space_around_them() {
        check(
            file("proc/sys/kernel/osrelease", "6.18.44\n"),
            "kernel release",
            "6.18.44",
        );
        check(
            file("proc/irq/default_smp_affinity", "3\n"),
            "IRQ affinity",
            "3",
        );
        check(
            file(
                "proc/meminfo",
                "MemTotal:        2048000 kB\nMemFree: 1 kB\n",
            ),
            "memory in MiB",
            "2000",
        );
        check(
            file("sys/devices/system/cpu/isolated", "\n"),
            "isolated cores",
            "none",
        );
        check(
            file("sys/devices/system/cpu/nohz_full", "  (null)\n"),
            "nohz_full cores",
            "none",
        );
    }

    #[test]
    fn what_is_absent_says_so() {
        let host = Host::read(Fixture::new().root(), build());
        let (own, read): (Vec<_>, Vec<_>) = host
            .fields()
            .into_iter()
            .map(|(_, value)| value.to_string())
            .partition(|shown| ["rustc 1.95.0", "system", "12ab"].contains(&shown.as_str()));
        assert_eq!(own.len(), 3);
        for shown in read {
            assert!(shown.starts_with("n/a: "), "{shown}");
        }
        check(
            Fixture::new(),
            "clock source",
            "n/a: /sys/devices/system/clocksource/clocksource0/current_clocksource: No such file or directory (os error 2)",
        );
    }

    #[test]
    fn switches_read_as_words() {
        let turbo = |path, text, expected| check(file(path, text), "turbo", expected);
        turbo("sys/devices/system/cpu/intel_pstate/no_turbo", "1\n", "off");
        turbo("sys/devices/system/cpu/cpufreq/boost", "1\n", "on");
        turbo(
            "sys/devices/system/cpu/cpufreq/boost",
            "x\n",
            "n/a: /sys/devices/system/cpu/cpufreq/boost holds \"x\"",
        );
        check(
            file("sys/devices/system/cpu/smt/active", "0\n"),
            "SMT",
            "off",
        );
        let io_uring = "proc/sys/kernel/io_uring_disabled";
        check(file(io_uring, "0\n"), "io_uring", "allowed");
        check(file(io_uring, "2\n"), "io_uring", "disabled");
        check(
            file("proc/sys/net/core/rps_sock_flow_entries", "0\n"),
            "RFS",
            "off",
        );
    }

    #[test]
    fn cores_that_differ_are_all_named() {
        let governor =
            |core: u32| format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
        let fixture = file(&governor(0), "performance\n")
            .with(&governor(1), "powersave\n")
            .with(&governor(2), "performance\n");
        check(fixture, "governor", "performance, powersave");
        check(
            file("sys/devices/system/cpu/online", "0-1\n"),
            "governor",
            "n/a: no core has cpufreq/scaling_governor",
        );
    }

    #[test]
    fn mitigations_name_what_the_cpu_is_affected_by() {
        let directory = "sys/devices/system/cpu/vulnerabilities";
        let fixture = file(&format!("{directory}/l1tf"), "Not affected\n")
            .with(&format!("{directory}/mds"), "Not affected\n")
            .with(
                &format!("{directory}/spectre_v2"),
                "Mitigation: Retpolines\n",
            );
        check(
            fixture,
            "mitigations",
            "spectre_v2: Mitigation: Retpolines | 2 not affected",
        );
    }

    #[test]
    fn accounting_comes_from_the_kernels_configuration() {
        let check = |config: &str, nohz_full: &str, expected: &str| {
            let fixture = file("proc/sys/kernel/osrelease", "6.1\n")
                .with("boot/config-6.1", config)
                .with("sys/devices/system/cpu/nohz_full", nohz_full);
            check(fixture, "CPU accounting", expected);
        };
        let generic = "CONFIG_VIRT_CPU_ACCOUNTING_GEN=y\nCONFIG_IRQ_TIME_ACCOUNTING=y\n";
        check(
            "CONFIG_TICK_CPU_ACCOUNTING=y\n# CONFIG_IRQ_TIME_ACCOUNTING is not set\n",
            "\n",
            "tick; IRQ time charged to what it interrupts",
        );
        check(generic, "\n", "tick; IRQ time apart");
        check(
            generic,
            "2-3\n",
            "virtual on nohz_full cores, tick on others; IRQ time apart",
        );
        check(
            "CONFIG_64BIT=y\n",
            "\n",
            "n/a: the kernel's configuration names no CPU accounting",
        );
    }

    #[test]
    fn a_compressed_configuration_is_read_too() {
        /// `CONFIG_TICK_CPU_ACCOUNTING=y` and a line's end, by gzip.
        const CONFIG_GZ: &[u8] = &[
            0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x73, 0xf6, 0xf7, 0x73,
            0xf3, 0x74, 0x8f, 0x0f, 0xf1, 0x74, 0xf6, 0x8e, 0x77, 0x0e, 0x08, 0x8d, 0x77, 0x74,
            0x76, 0xf6, 0x0f, 0xf5, 0x0b, 0xf1, 0xf4, 0x73, 0xb7, 0xad, 0xe4, 0x02, 0x00, 0x8e,
            0x2c, 0xca, 0x87, 0x1d, 0x00, 0x00, 0x00,
        ];
        let gzip = Command::new("gzip").arg("--version").output();
        if gzip.is_err() {
            eprintln!("skipped: no gzip command");
            return;
        }
        check(
            Fixture::new().with("proc/config.gz", CONFIG_GZ),
            "CPU accounting",
            "tick; IRQ time charged to what it interrupts",
        );
        check(
            file("proc/config.gz", "not gzip"),
            "CPU accounting",
            "n/a: gzip -dc /proc/config.gz: exit status: 1",
        );
    }

    #[test]
    fn steering_names_the_queues_that_have_a_mask() {
        let queue = |name: &str| format!("sys/class/net/{name}/rps_cpus");
        let plain = || file(&queue("lo/queues/rx-0"), "00000000,00000000\n");
        check(plain(), "RPS", "off");
        check(
            plain().with(&queue("eth0/queues/rx-1"), "3\n"),
            "RPS",
            "eth0/rx-1=3",
        );
    }

    #[test]
    fn limits_are_soft_of_hard() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 20000                files     \n\
                      Max locked memory         unlimited            unlimited            bytes     \n";
        let check = |field, expected| check(file("proc/self/limits", limits), field, expected);
        check("limit of open files", "1024 of 20000");
        check("limit of locked memory", "unlimited of unlimited");
        check(
            "limit of pending signals",
            "n/a: /proc/self/limits has no Max pending signals",
        );
    }

    #[test]
    fn a_virtual_machine_is_seen() {
        let cpu = |flags: &str| {
            file(
                "proc/cpuinfo",
                &format!("processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n"),
            )
        };
        check(cpu("fpu"), "CPU model", "Some CPU");
        check(cpu("fpu sse"), "hypervisor", "none");
        check(
            cpu("fpu hypervisor"),
            "hypervisor",
            "one that does not tell its name",
        );
        let named = cpu("hypervisor")
            .with("sys/class/dmi/id/sys_vendor", "QEMU\n")
            .with("sys/class/dmi/id/product_name", "Standard PC\n");
        check(named, "hypervisor", "QEMU Standard PC");
        check(
            cpu("").with("sys/hypervisor/type", "xen\n"),
            "hypervisor",
            "xen",
        );
    }

    #[test]
    fn a_pmu_is_there_or_not() {
        let device = |name: &str| format!("sys/bus/event_source/devices/{name}/type");
        check(file(&device("software"), "1\n"), "PMU", "none");
        check(file(&device("cpu"), "4\n"), "PMU", "cpu");
    }

    #[test]
    fn unlike_hosts_are_told_field_by_field() {
        let read = |fixture: Fixture| Host::read(fixture.root(), build());
        let release = "proc/sys/kernel/osrelease";
        let active = "sys/devices/system/cpu/smt/active";
        let one = read(file(release, "6.1\n").with(active, "1\n"));
        assert_eq!(differences(&one, &one.clone()), Vec::<String>::new());
        let other = read(file(release, "6.18\n"));
        let unlike = differences(&one, &other);
        assert_eq!(unlike.len(), 2, "{unlike:?}");
        assert_eq!(unlike[0], "kernel release: 6.1; other: 6.18");
        assert!(unlike[1].starts_with("SMT: on; other: n/a: "), "{unlike:?}");
    }

    #[test]
    fn a_fingerprint_survives_its_json() {
        let host = Host::read(Path::new("/"), build());
        let json = serde_json::to_string(&host).unwrap();
        assert_eq!(serde_json::from_str::<Host>(&json).unwrap(), host);
    }
}
