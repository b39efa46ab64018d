//! Who else takes CPU time from the generator, as the kernel counts it: the hypervisor (steal), a
//! quota (throttling), other threads (waiting for a core), and a relay on the generator's own cores.
//!
//! What the kernel does not tell is `None`, and nothing is concluded from it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use serde::{Deserialize, Serialize};

/// Counters of the machine at one moment; the difference of two is what happened between them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Time that the hypervisor gave to others while a core had work, in ticks of all cores looked
    /// at.
    steal_ticks: u64,
    /// All time, in the same ticks.
    all_ticks: u64,
    /// Periods in which a quota stopped the process's group, or one above it.
    throttled_periods: Option<u64>,
    /// Time for which it did.
    throttled_ns: Option<u64>,
}

/// What happened between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interference {
    /// The share of the cores' time that the hypervisor gave to others.
    pub steal: Option<f64>,
    /// Periods in which a CPU quota stopped the process; `None` without quotas.
    pub throttled_periods: Option<u64>,
    /// Time for which it did.
    pub throttled_ns: Option<u64>,
}

impl Counters {
    /// Reads them: steal of these cores, or of all if there are none.
    #[must_use]
    pub fn read(cores: &[usize]) -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let (steal_ticks, all_ticks) = cpu_ticks(&stat, cores);
        let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let stats: Vec<_> = cpu_stat_files(&groups).iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
        let sum = |name: &str, scale: u64| {
            let values = stats.iter().filter_map(|stat| named(stat, name));
            values.map(|value| value * scale).reduce(|sum, value| sum + value)
        };
        Self {
            steal_ticks,
            all_ticks,
            throttled_periods: sum("nr_throttled", 1),
            // Version 2 counts microseconds, version 1 nanoseconds under another name.
            throttled_ns: sum("throttled_usec", 1000).or_else(|| sum("throttled_time", 1)),
        }
    }

    /// What happened since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Interference {
        let less = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        let ticks = self.all_ticks.saturating_sub(before.all_ticks);
        let stolen = self.steal_ticks.saturating_sub(before.steal_ticks);
        Interference {
            steal: (ticks > 0).then(|| stolen as f64 / ticks as f64),
            throttled_periods: less(self.throttled_periods, before.throttled_periods),
            throttled_ns: less(self.throttled_ns, before.throttled_ns),
        }
    }
}

/// Steal and all time of some cores, or of the whole machine, from `/proc/stat`.
fn cpu_ticks(stat: &str, cores: &[usize]) -> (u64, u64) {
    let wanted = |name: &str| match name.strip_prefix("cpu") {
        Some("") => cores.is_empty(),
        Some(core) => core.parse().is_ok_and(|core: usize| cores.contains(&core)),
        None => false,
    };
    let (mut steal, mut all) = (0, 0);
    for line in stat.lines() {
        let mut fields = line.split_ascii_whitespace();
        if fields.next().is_some_and(wanted) {
            // user nice system idle iowait irq softirq steal; guest time is part of user time.
            let ticks: Vec<u64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
            all += ticks.iter().sum::<u64>();
            steal += ticks.get(7).copied().unwrap_or(0);
        }
    }
    (steal, all)
}

/// The `cpu.stat` of the process's group and of those above it, whose quotas hold for it too.
fn cpu_stat_files(groups: &str) -> Vec<String> {
    let mut files = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let root = if controllers.is_empty() {
            "/sys/fs/cgroup"
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            "/sys/fs/cgroup/cpu"
        } else {
            continue;
        };
        let mut path = path.trim_end_matches('/');
        loop {
            files.push(format!("{root}{path}/cpu.stat"));
            match path.rfind('/') {
                Some(parent) => path = &path[..parent],
                None => break,
            }
        }
    }
    files
}

/// A line `name value` of a file of such lines.
fn named(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// For how long the calling thread has waited for a core although it had work, since it began.
#[must_use]
pub fn waited_for_core_ns() -> Option<u64> {
    waited_ns(&fs::read_to_string("/proc/thread-self/schedstat").ok()?)
}

fn waited_ns(schedstat: &str) -> Option<u64> {
    schedstat.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Where the threads of a relay on this machine may run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayCores {
    /// Cores that a thread is kept on, with no other to go to.
    pub pinned: BTreeSet<usize>,
    /// All cores that any thread may use.
    pub allowed: BTreeSet<usize>,
}

impl RelayCores {
    /// Of a process; `None` if it is not there or not to be looked at. Of a relay only its shards count:
    /// its other threads sleep.
    #[must_use]
    pub fn of(process: u32) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?.filter_map(Result::ok);
        // A thread may end while it is looked at.
        let statuses = tasks.map(|task| fs::read_to_string(task.path().join("status")).unwrap_or_default());
        let cores = Self::of_threads(&statuses.collect::<Vec<_>>());
        (!cores.allowed.is_empty()).then_some(cores)
    }

    fn of_threads(statuses: &[String]) -> Self {
        let is_shard = |status: &&String| status.starts_with("Name:\tshard-");
        let has_shards = statuses.iter().any(|status| is_shard(&status));
        let mut cores = Self::default();
        for status in statuses.iter().filter(|status| !has_shards || is_shard(status)) {
            cores.add(status);
        }
        cores
    }

    fn add(&mut self, status: &str) {
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let allowed: Vec<_> = list.map(core_list).unwrap_or_default();
        if let [core] = allowed[..] {
            self.pinned.insert(core);
        }
        self.allowed.extend(allowed);
    }
}

/// Reads a list like `0-2,5`.
fn core_list(text: &str) -> Vec<usize> {
    let ranges = text.trim().split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse::<usize>().ok()?..=last.parse().ok()?)
    });
    ranges.flatten().collect()
}

/// Cores that the calling thread may use.
#[must_use]
pub fn own_cores() -> BTreeSet<usize> {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let mut cores = RelayCores::default();
    cores.add(&status);
    cores.allowed
}

/// The process that listens at an address of this machine, if it may be looked for and is not this
/// one. Only root sees those of other users.
#[must_use]
pub fn listener(address: SocketAddr) -> Option<u32> {
    if !is_of_this_machine(address.ip()) {
        return None;
    }
    let inodes: Vec<_> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|file| listening_inodes(&fs::read_to_string(file).unwrap_or_default(), address.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let holds = |process: u32| {
        let files = fs::read_dir(format!("/proc/{process}/fd")).ok()?;
        let mut targets = files.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        targets.any(|target| inodes.iter().any(|inode| target.as_os_str() == inode.as_str())).then_some(process)
    };
    let processes = fs::read_dir("/proc").ok()?;
    let mut numbers = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    numbers.find_map(holds).filter(|&process| process != std::process::id())
}

/// Whether an address is one of this machine's own: only to those can a socket be bound.
fn is_of_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// Inodes of sockets that listen on a port, from `/proc/net/tcp`.
fn listening_inodes(table: &str, port: u16) -> Vec<u64> {
    const LISTEN: &str = "0A";
    let suffix = format!(":{port:04X}");
    let lines = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| fields.get(1).is_some_and(|local| local.ends_with(&suffix)) && fields.get(3) == Some(&LISTEN))
        .filter_map(|fields| fields.get(9)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{
        Counters, RelayCores, core_list, cpu_stat_files, cpu_ticks, is_of_this_machine, listening_inodes, named,
        waited_ns,
    };
    use std::collections::BTreeSet;
    use std::net::UdpSocket;

    const STAT: &str = "cpu  10 20 30 40 50 6 7 8 99 0\ncpu0 1 2 3 4 5 6 7 8 99 0\ncpu1 9 18 27 36 45 0 0 0 0 0\n\
                        intr 5\n";

    #[test]
    fn of_a_relay_only_its_shards_count() {
        let thread = |name: &str, cores: &str| format!("Name:\t{name}\nCpus_allowed_list:\t{cores}\n");
        let (shard, main) = (thread("shard-0", "0"), thread("relay", "0-1"));
        let cores = RelayCores::of_threads(&[main.clone(), shard]);
        assert_eq!((cores.pinned, cores.allowed), ([0].into(), [0].into()));
        let cores = RelayCores::of_threads(&[main]);
        assert_eq!((cores.pinned, cores.allowed), ([].into(), [0, 1].into()));
    }

    #[test]
    fn steal_is_that_of_the_cores_asked_for() {
        assert_eq!(cpu_ticks(STAT, &[]), (8, 171));
        assert_eq!(cpu_ticks(STAT, &[0]), (8, 36));
        assert_eq!(cpu_ticks(STAT, &[1]), (0, 135));
        assert_eq!(cpu_ticks(STAT, &[0, 1]), (8, 171));
    }

    #[test]
    fn what_happened_is_the_difference() {
        let before = Counters { steal_ticks: 5, all_ticks: 100, throttled_periods: Some(3), throttled_ns: None };
        let after = Counters { steal_ticks: 9, all_ticks: 300, throttled_periods: Some(4), throttled_ns: Some(7) };
        let seen = after.since(&before);
        assert_eq!((seen.steal, seen.throttled_periods, seen.throttled_ns), (Some(0.02), Some(1), None));
        assert_eq!(before.since(&before).steal, None);
    }

    #[test]
    fn quotas_above_hold_too() {
        let files = cpu_stat_files("0::/a/b\n");
        assert_eq!(files, ["/sys/fs/cgroup/a/b/cpu.stat", "/sys/fs/cgroup/a/cpu.stat", "/sys/fs/cgroup/cpu.stat"]);
        let files = cpu_stat_files("12:memory:/x\n4:cpu,cpuacct:/y\n");
        assert_eq!(files, ["/sys/fs/cgroup/cpu/y/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"]);
        let stat = "usage_usec 5\nnr_throttled 12\nthrottled_usec 900\n";
        assert_eq!((named(stat, "nr_throttled"), named(stat, "throttled_usec")), (Some(12), Some(900)));
        assert_eq!(named(stat, "throttled"), None);
    }

    #[test]
    fn cores_of_threads_are_told_apart() {
        assert_eq!(core_list("0-2,5\n"), [0, 1, 2, 5]);
        let mut cores = RelayCores::default();
        cores.add("Name:\tshard-0\nCpus_allowed_list:\t1\n");
        cores.add("Name:\tadmin\nCpus_allowed_list:\t0-3\n");
        assert_eq!((cores.pinned, cores.allowed), (BTreeSet::from([1]), BTreeSet::from([0, 1, 2, 3])));
        assert!(RelayCores::of(std::process::id()).is_some());
        assert_eq!(RelayCores::of(u32::MAX), None);
    }

    #[test]
    fn listeners_are_found_by_port_and_state() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             0: 0100007F:1CE8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4242 1 0\n\
             1: 0100007F:1CE8 0100007F:9C40 01 00000000:00000000 00:00000000 00000000  0 0 4243 1 0\n\
             2: 0100007F:1CE9 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 4244 1 0\n";
        assert_eq!(listening_inodes(table, 7400), [4242]);
        assert!(listening_inodes(table, 1).is_empty());
    }

    #[test]
    fn a_relay_at_another_address_of_this_machine_is_on_it_too() {
        assert!(is_of_this_machine([127, 0, 0, 2].into()));
        assert!(!is_of_this_machine([192, 0, 2, 1].into()));
        // What it would send from; nothing is sent.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("192.0.2.1:9").is_ok() {
            assert!(is_of_this_machine(socket.local_addr().unwrap().ip()));
        }
    }

    #[test]
    fn waiting_for_a_core_is_the_second_number() {
        assert_eq!(waited_ns("123 456 7\n"), Some(456));
        assert_eq!(waited_ns(""), None);
    }
}
