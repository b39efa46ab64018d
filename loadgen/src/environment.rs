//! Where a run took place: without that a number is no result.

use std::collections::BTreeMap;
use std::fs;

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

/// The machine, the kernel and the build.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Environment {
    /// The processor's model.
    pub cpu: String,
    /// Its microcode.
    pub microcode: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// The frequency governor of core 0; empty where there is none, as in most virtual machines.
    pub governor: String,
    /// Whether a hypervisor runs it: then neighbours may take time that nobody here sees.
    #[serde(default)]
    pub hypervisor: bool,
    /// Whether physical cores run two threads each: `1`, `0`, or empty where nobody knows.
    #[serde(default)]
    pub smt: String,
    /// Options of the boot that bear on timing, as `isolcpus=2,3` or `mitigations=off`.
    #[serde(default)]
    pub boot_options: Vec<String>,
    /// The use of huge pages.
    #[serde(default)]
    pub huge_pages: String,
    /// The share of the CPU that the process's group may use, as the kernel writes it; empty without one.
    #[serde(default)]
    pub cpu_quota: String,
    /// Open files that this process may have: the hard limit.
    #[serde(default)]
    pub open_files_max: Option<u64>,
    /// The kernel's clock source.
    pub clock_source: String,
    /// The kernel's answers to known faults of processors, by fault.
    pub mitigations: BTreeMap<String, String>,
    /// Name, release and version of the kernel.
    pub kernel: String,
    /// Settings of the kernel that matter to many connections.
    pub sysctls: BTreeMap<String, String>,
    /// The host's name.
    pub host: String,
    /// How this program was built.
    pub build: Build,
}

/// How this program was built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Build {
    /// Its version.
    pub version: String,
    /// Commit of its source; empty if it was built outside of a checkout.
    pub commit: String,
    /// Whether the checkout had other changes as well.
    pub dirty: bool,
    /// The compiler.
    pub rustc: String,
    /// What it was built for.
    pub target: String,
    /// The features of the processor that it was built for.
    pub target_features: String,
    /// `release` or `debug`.
    pub profile: String,
    /// The memory allocator.
    pub allocator: String,
}

/// This build.
#[must_use]
pub fn build() -> Build {
    Build {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("LOADGEN_COMMIT").to_owned(),
        dirty: matches!(env!("LOADGEN_DIRTY").as_bytes(), b"true"),
        rustc: env!("LOADGEN_RUSTC").to_owned(),
        target: env!("LOADGEN_TARGET").to_owned(),
        target_features: env!("LOADGEN_TARGET_FEATURES").to_owned(),
        profile: env!("LOADGEN_PROFILE").to_owned(),
        allocator: "mimalloc".to_owned(),
    }
}

const SYSCTLS: [&str; 18] = [
    "fs/nr_open",
    "kernel/io_uring_disabled",
    "kernel/numa_balancing",
    "kernel/sched_rt_runtime_us",
    "net/core/busy_poll",
    "net/core/netdev_max_backlog",
    "net/core/rmem_max",
    "net/core/somaxconn",
    "net/core/wmem_max",
    "net/ipv4/ip_local_port_range",
    "net/ipv4/tcp_congestion_control",
    "net/ipv4/tcp_max_syn_backlog",
    "net/ipv4/tcp_rmem",
    "net/ipv4/tcp_slow_start_after_idle",
    "net/ipv4/tcp_syncookies",
    "net/ipv4/tcp_tw_reuse",
    "net/ipv4/tcp_wmem",
    "vm/overcommit_memory",
];

/// Options of the boot that are recorded; others may tell what is nobody's business.
const BOOT_OPTIONS: [&str; 11] = [
    "idle",
    "intel_idle.max_cstate",
    "intel_pstate",
    "isolcpus",
    "mitigations",
    "nohz_full",
    "nosmt",
    "processor.max_cstate",
    "rcu_nocbs",
    "transparent_hugepage",
    "tsc",
];

impl Environment {
    /// Reads it from the kernel. What cannot be read stays empty.
    #[must_use]
    pub fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = rustix::system::uname();
        let part = |part: &std::ffi::CStr| part.to_string_lossy().into_owned();
        Self {
            cpu: field(&cpuinfo, "model name"),
            microcode: field(&cpuinfo, "microcode"),
            cores: crate::preflight::cores(),
            memory_bytes: kilobytes(&meminfo, "MemTotal"),
            governor: line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            hypervisor: field(&cpuinfo, "flags").split(' ').any(|flag| flag == "hypervisor"),
            smt: line("/sys/devices/system/cpu/smt/active"),
            boot_options: boot_options(&line("/proc/cmdline")),
            huge_pages: line("/sys/kernel/mm/transparent_hugepage/enabled"),
            cpu_quota: line("/sys/fs/cgroup/cpu.max"),
            open_files_max: getrlimit(Resource::Nofile).maximum,
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            mitigations: mitigations(),
            kernel: format!("{} {} {}", part(kernel.sysname()), part(kernel.release()), part(kernel.version())),
            sysctls: SYSCTLS
                .into_iter()
                .map(|name| (name.replace('/', "."), line(&format!("/proc/sys/{name}"))))
                .collect(),
            host: part(kernel.nodename()),
            build: build(),
        }
    }
}

fn boot_options(command_line: &str) -> Vec<String> {
    let is_known = |option: &&str| BOOT_OPTIONS.contains(&option.split('=').next().unwrap_or_default());
    command_line.split(' ').filter(is_known).map(str::to_owned).collect()
}

fn mitigations() -> BTreeMap<String, String> {
    let Ok(faults) = fs::read_dir("/sys/devices/system/cpu/vulnerabilities") else { return BTreeMap::new() };
    faults
        .filter_map(Result::ok)
        .map(|fault| (fault.file_name().to_string_lossy().into_owned(), line(&fault.path().to_string_lossy())))
        .filter(|(_, answer)| answer != "Not affected")
        .collect()
}

/// The words of a file, a blank between them; empty if it cannot be read.
pub(crate) fn line(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// The first `name : value` of a file of such lines.
fn field(text: &str, name: &str) -> String {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim().to_owned())
        .unwrap_or_default()
}

/// A field like `VmRSS:  1234 kB`, in bytes; zero if it is missing.
pub(crate) fn kilobytes(text: &str, name: &str) -> u64 {
    field(text, name).split(' ').next().and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::{Environment, boot_options, kilobytes};

    #[test]
    fn fields_are_found() {
        assert_eq!(kilobytes("VmPeak:\t  10 kB\nVmRSS:\t 123 kB\n", "VmRSS"), 123 * 1024);
        assert_eq!(kilobytes("VmRSS:\t 123 kB\n", "RssAnon"), 0);
    }

    #[test]
    fn of_the_boot_only_what_bears_on_timing_is_told() {
        let options = boot_options("root=/dev/vda1 mitigations=off token=abc isolcpus=2,3 nosmt");
        assert_eq!(options, ["mitigations=off", "isolcpus=2,3", "nosmt"]);
    }

    #[test]
    fn this_machine_has_a_kernel_and_memory() {
        let environment = Environment::read();
        assert!(environment.kernel.starts_with("Linux "));
        assert!(environment.memory_bytes > 0 && environment.cores > 0);
    }
}
