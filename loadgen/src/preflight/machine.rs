//! What the kernel says of the machine, read once and judged elsewhere.

use std::collections::BTreeMap;
use std::fs;
use std::hint::black_box;
use std::time::Instant;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::environment::{kilobytes, line};

/// The machine, as far as a run depends on it. What could not be read is `None` or empty, and not
/// judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Machine {
    /// Open files that this process may ask for.
    pub files_hard: Option<u64>,
    /// Open files that the hard limit can be raised to (`fs.nr_open`).
    pub files_ceiling: Option<u64>,
    /// Open files that are left for the whole system (`fs.file-nr`).
    pub files_system: Option<u64>,
    /// Local ports of one address, reserved ones left out.
    pub ports: Option<u64>,
    /// Cores that this process may use.
    pub cores: Vec<usize>,
    /// By core: all that share its physical core, itself included.
    pub siblings: BTreeMap<usize, Vec<usize>>,
    /// By core: the frequency governor, where there is one.
    pub governors: BTreeMap<usize, String>,
    /// Connections that may wait to be accepted (`net.core.somaxconn`).
    pub accept_queue: Option<u64>,
    /// Connections that the firewall can still follow, where it follows any.
    pub tracked_left: Option<u64>,
    /// The clock source in use.
    pub clock_source: String,
    /// Those that could be.
    pub clock_sources: String,
    /// What one reading of the clock takes.
    pub clock_read_ns: u64,
    /// Memory that can be had: the system's, or less if the process's group is limited.
    pub memory_bytes: Option<u64>,
    /// Why io_uring does not work, if it does not.
    pub ring_fault: Option<String>,
}

impl Machine {
    /// Asks the kernel. Takes about a millisecond.
    #[must_use]
    pub fn read() -> Self {
        let cores = cores();
        let topology = |core: &usize| format!("/sys/devices/system/cpu/cpu{core}");
        let of_cores = |file: &str| {
            let read = |core: &usize| (*core, line(&format!("{}/{file}", topology(core))));
            cores.iter().map(read).filter(|(_, text)| !text.is_empty()).collect::<BTreeMap<_, _>>()
        };
        let siblings = of_cores("topology/thread_siblings_list");
        Self {
            files_hard: getrlimit(Resource::Nofile).maximum,
            files_ceiling: number("/proc/sys/fs/nr_open"),
            files_system: files_system(&line("/proc/sys/fs/file-nr")),
            ports: ports(
                &line("/proc/sys/net/ipv4/ip_local_port_range"),
                &line("/proc/sys/net/ipv4/ip_local_reserved_ports"),
            ),
            siblings: siblings.into_iter().map(|(core, list)| (core, list_of(&list))).collect(),
            governors: of_cores("cpufreq/scaling_governor"),
            accept_queue: number("/proc/sys/net/core/somaxconn"),
            tracked_left: number("/proc/sys/net/netfilter/nf_conntrack_max")
                .zip(number("/proc/sys/net/netfilter/nf_conntrack_count"))
                .map(|(most, now)| most.saturating_sub(now)),
            clock_source: line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            clock_sources: line("/sys/devices/system/clocksource/clocksource0/available_clocksource"),
            clock_read_ns: clock_read_ns(),
            memory_bytes: memory_bytes(),
            ring_fault: relay_engine::ring::probe().err().map(|error| error.to_string()),
            cores,
        }
    }
}

fn cores() -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect()
}

fn number(path: &str) -> Option<u64> {
    line(path).parse().ok()
}

/// What is left of `allocated unused maximum`.
fn files_system(file_nr: &str) -> Option<u64> {
    let mut numbers = file_nr.split(' ').map_while(|number| number.parse::<u64>().ok());
    let (allocated, _, most) = (numbers.next()?, numbers.next()?, numbers.next()?);
    Some(most.saturating_sub(allocated))
}

/// Ports of a range `first last` that are not in a list of reserved ones.
fn ports(range: &str, reserved: &str) -> Option<u64> {
    let (first, last) = range.split_once(' ')?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let reserved = list_of(reserved).into_iter().filter(|port| (first..=last).contains(port)).count();
    Some(((last + 1).saturating_sub(first)).saturating_sub(reserved) as u64)
}

/// The numbers of a kernel's list, as `0,2-4`; none of one that cannot be read.
fn list_of(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(range).flatten().collect()
}

/// The time of one reading, the least of several batches: what the clock costs, not what disturbed it.
fn clock_read_ns() -> u64 {
    const READINGS: u32 = 200;
    let batch = || {
        let begin = Instant::now();
        for _ in 0..READINGS {
            black_box(Instant::now());
        }
        begin.elapsed() / READINGS
    };
    (0..5).map(|_| batch()).min().map_or(0, crate::clock::to_ns)
}

fn memory_bytes() -> Option<u64> {
    let available = kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable");
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(most, now)| most.saturating_sub(now));
    Some(available.min(group.unwrap_or(u64::MAX))).filter(|&bytes| bytes > 0)
}

#[cfg(test)]
mod tests {
    use super::{Machine, files_system, list_of, ports};

    #[test]
    fn lists_ranges_and_counts_are_read() {
        assert_eq!(list_of("0,2-4"), [0, 2, 3, 4]);
        assert_eq!(list_of(""), [0; 0]);
        assert_eq!(ports("32768 60999", ""), Some(28_232));
        assert_eq!(ports("32768 60999", "8080,32768-32777,60999"), Some(28_221));
        assert_eq!(ports("", ""), None);
        assert_eq!(files_system("788 0 1000"), Some(212));
        assert_eq!(files_system("788"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(!machine.cores.is_empty());
        assert!(machine.ports.is_some_and(|ports| ports > 0));
        assert!(machine.memory_bytes.is_some_and(|bytes| bytes > 0));
        assert!(machine.clock_read_ns < 1_000_000, "{}", machine.clock_read_ns);
    }
}
