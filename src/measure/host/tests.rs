//! The fingerprint of hosts that are made up, a file at a time.

use super::*;
use crate::measure::fixture::Fixture;
use std::process::Command;

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
    let governor = |core: u32| format!("sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor");
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
        0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0x73, 0xf6, 0xf7, 0x73, 0xf3,
        0x74, 0x8f, 0x0f, 0xf1, 0x74, 0xf6, 0x8e, 0x77, 0x0e, 0x08, 0x8d, 0x77, 0x74, 0x76, 0xf6,
        0x0f, 0xf5, 0x0b, 0xf1, 0xf4, 0x73, 0xb7, 0xad, 0xe4, 0x02, 0x00, 0x8e, 0x2c, 0xca, 0x87,
        0x1d, 0x00, 0x00, 0x00,
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
