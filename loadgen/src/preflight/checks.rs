//! Whether a machine can carry a run: a function of both, without a look at the kernel.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::machine::Machine;
use crate::plan::{EngineChoice, HANDSHAKES_MAX};
use crate::units::{show_bytes, show_count, show_ns};

/// Descriptors besides those of clients: standard ones, rings, files, a spawned relay's pipes.
const DESCRIPTORS_BESIDES: u64 = 64;

/// What a client costs in memory: 3 KiB of this program's (state, decoder, buffers) and 4 KiB of the
/// kernel's for each end of its connection, as 15,000 idle ones showed; doubled for what is under way.
const CLIENT_BYTES: u64 = 6 * 1024;
const SOCKET_BYTES: u64 = 8 * 1024;

/// What a client costs the relay with its lobby, as in docs/operating.md.
const SESSION_BYTES: u64 = 8 * 1024;

/// What one signed message costs besides its frame.
const RECORD_BYTES: u64 = 28;

/// What one metric's histogram of one second costs: what values touch of its 254 KB. A minute on a noisy machine
/// showed 160 KB; where times are more alike it is less.
const HISTOGRAM_BYTES: u64 = 160 * 1024;

/// A fast clock takes 20 to 60 ns to read; one that traps into a hypervisor or reads a chip takes a
/// microsecond and more.
const CLOCK_READ_MAX_NS: u64 = 250;

/// How well the machine suits the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// As it should be.
    Fit,
    /// The run can go on, and its figures may suffer.
    Doubtful,
    /// There can be no run.
    Unfit,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub subject: &'static str,
    /// How it is.
    pub grade: Grade,
    /// What was found, for a person.
    pub found: String,
    /// What to do about it, where there is something.
    pub fix: Option<String>,
}

impl Check {
    fn fit(subject: &'static str, found: String) -> Self {
        Self { subject, grade: Grade::Fit, found, fix: None }
    }

    fn doubtful(subject: &'static str, found: String, fix: String) -> Self {
        Self { subject, grade: Grade::Doubtful, found, fix: Some(fix) }
    }

    fn unfit(subject: &'static str, found: String, fix: String) -> Self {
        Self { subject, grade: Grade::Unfit, found, fix: Some(fix) }
    }

    /// What was found and what to do, as one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        match &self.fix {
            None => self.found.clone(),
            Some(fix) => format!("{}: {fix}", self.found),
        }
    }
}

/// What a run asks of the machine.
#[derive(Clone, Debug)]
pub struct Demand {
    /// Clients and visitors.
    pub connections: u64,
    /// Connections that are closed and made anew in a storm: their first ports stay taken for a minute.
    pub redialled: u64,
    /// Worker threads.
    pub workers: usize,
    /// Their cores; none leaves them to the kernel.
    pub pin_cores: Vec<usize>,
    /// Their engine.
    pub engine: EngineChoice,
    /// Messages signed before the run.
    pub signed_ahead: u64,
    /// Bytes of one of them.
    pub frame_bytes: u64,
    /// Seconds of the steady phase: the histograms of each are kept.
    pub seconds: u64,
    /// Metrics that have values in each of them.
    pub metrics: u64,
    /// Local addresses to connect from.
    pub source_ips: Vec<IpAddr>,
    /// Where the relay is.
    pub relay: IpAddr,
    /// Of a relay that is started for the run: how many shards it was asked for and which cores.
    pub spawned: Option<Shards>,
}

/// What a relay of our own was told of shards and cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shards {
    /// `--shards`, or as many as `--pin-cores` names.
    pub count: Option<usize>,
    /// `--pin-cores`; none if it was not told.
    pub pin_cores: Vec<usize>,
}

impl Demand {
    fn is_on_this_machine(&self) -> bool {
        self.spawned.is_some() || self.relay.is_loopback()
    }

    /// Local ports that are taken at the same time.
    fn ports(&self) -> u64 {
        self.connections + self.redialled
    }

    /// Connects from further addresses of the loopback network where one has too few ports. They
    /// need no set-up: all of 127.0.0.0/8 is this machine.
    pub fn spread_over_loopback(&mut self, machine: &Machine) {
        let Some(ports) = machine.ports.filter(|&ports| ports > 0) else { return };
        let needed = self.ports();
        if self.source_ips.is_empty() && self.relay == IpAddr::V4(Ipv4Addr::LOCALHOST) && needed > ports {
            let wanted = needed.div_ceil(ports).min(254);
            self.source_ips = (1..=wanted).map(|last| Ipv4Addr::new(127, 0, 0, last as u8).into()).collect();
        }
    }
}

/// Looks at everything, in the order in which a person would mend it.
#[must_use]
pub fn checks(machine: &Machine, demand: &Demand) -> Vec<Check> {
    let all = [
        files(machine, demand),
        ports(machine, demand),
        memory(machine, demand),
        pins(machine, demand),
        cores(machine, demand),
        siblings(machine, demand),
        engine(machine, demand),
        accept_queue(machine, demand),
        tracking(machine, demand),
        clock(machine),
        governor(machine, demand),
    ];
    all.into_iter().flatten().collect()
}

fn files(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "open files";
    let needed = demand.connections + DESCRIPTORS_BESIDES;
    let hard = machine.files_hard.unwrap_or(u64::MAX);
    if hard < needed {
        let ceiling = machine.files_ceiling.filter(|&ceiling| ceiling < needed);
        let raise = ceiling.map_or_else(String::new, |_| format!("`sysctl -w fs.nr_open={needed}`, then "));
        return Some(Check::unfit(
            SUBJECT,
            format!("{needed} are needed, one for each client, and {hard} are allowed"),
            format!(
                "raise the hard limit with {raise}`ulimit -Hn {needed}` as root or LimitNOFILE={needed} in the unit, \
                 or use fewer --clients"
            ),
        ));
    }
    // A relay on the same machine opens as many again.
    let of_system = if demand.is_on_this_machine() { 2 * needed } else { needed };
    if let Some(left) = machine.files_system.filter(|&left| left < of_system) {
        return Some(Check::unfit(
            SUBJECT,
            format!("{of_system} are needed on this machine, and it has {left} left for all processes"),
            "raise fs.file-max with `sysctl -w`, or use fewer --clients".to_owned(),
        ));
    }
    Some(Check::fit(SUBJECT, format!("{} needed, {} allowed", show_count(needed), show_count(hard))))
}

fn ports(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "local ports";
    let ports = machine.ports?;
    let needed = demand.ports();
    let sources = demand.source_ips.len().max(1) as u64;
    if needed > ports * sources {
        let wanted = needed.div_ceil(ports.max(1));
        let fix = if demand.relay.is_loopback() {
            format!("connect from {wanted} addresses (--source-ip 127.0.0.1,127.0.0.2 and so on)")
        } else {
            format!(
                "give this machine {wanted} addresses (`ip addr add ADDRESS/32 dev INTERFACE`) and name them with \
                 --source-ip"
            )
        };
        return Some(Check::unfit(
            SUBJECT,
            format!("{needed} connections need as many, and {sources} × {ports} are there"),
            format!("{fix}, or `sysctl -w net.ipv4.ip_local_port_range='1024 65535'`"),
        ));
    }
    let from = if sources > 1 { format!(" of {sources} addresses") } else { String::new() };
    Some(Check::fit(SUBJECT, format!("{} needed, {}{from} there", show_count(needed), show_count(ports * sources))))
}

fn memory(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "memory";
    let available = machine.memory_bytes?;
    let ends = if demand.is_on_this_machine() { 2 } else { 1 };
    let session = if demand.is_on_this_machine() { SESSION_BYTES } else { 0 };
    let signed = demand.signed_ahead.saturating_mul(demand.frame_bytes + RECORD_BYTES);
    let sure = signed.saturating_add(demand.connections * (CLIENT_BYTES + ends * SOCKET_BYTES + session));
    let histograms = demand.seconds * demand.metrics * HISTOGRAM_BYTES;
    let needed = sure.saturating_add(histograms);
    let found = format!(
        "about {} are needed, {} of them for signed messages and {} for the histograms of each second, and {} are \
         available",
        show_bytes(needed),
        show_bytes(signed),
        show_bytes(histograms),
        show_bytes(available)
    );
    let fix = "sign fewer messages ahead (--presign), use fewer --clients or a shorter --duration".to_owned();
    Some(if sure > available {
        Check::unfit(SUBJECT, found, fix)
    } else if needed > available / 5 * 4 {
        Check::doubtful(SUBJECT, found, fix)
    } else {
        Check::fit(SUBJECT, format!("about {} needed, {} available", show_bytes(needed), show_bytes(available)))
    })
}

fn several(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn list(cores: &[usize]) -> String {
    cores.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Whether the cores named are there.
fn pins(machine: &Machine, demand: &Demand) -> Option<Check> {
    if machine.cores.is_empty() {
        return None;
    }
    let missing = demand.pin_cores.iter().find(|core| !machine.cores.contains(core))?;
    Some(Check::unfit(
        "cores",
        format!("core {missing} is not available"),
        format!("--pin-cores can name {}", list(&machine.cores)),
    ))
}

/// Whether everybody who works has a core of their own.
fn cores(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "cores";
    let there = machine.cores.len();
    if there == 0 {
        return None;
    }
    let mut workers_on: BTreeMap<usize, usize> = BTreeMap::new();
    if !demand.pin_cores.is_empty() {
        for worker in 0..demand.workers {
            *workers_on.entry(demand.pin_cores[worker % demand.pin_cores.len()]).or_default() += 1;
        }
    }
    if let Some((core, count)) = workers_on.iter().find(|&(_, &count)| count > 1) {
        return Some(Check::doubtful(
            SUBJECT,
            format!("{count} workers share core {core}, and each delays the other's messages"),
            "name as many cores in --pin-cores as there are --workers".to_owned(),
        ));
    }
    let workers = demand.workers;
    if let Some(relay) = &demand.spawned {
        if let Some(core) = relay.pin_cores.iter().find(|core| workers_on.contains_key(core)) {
            return Some(Check::doubtful(
                SUBJECT,
                format!("relay and generator are both on core {core}, and each slows the other"),
                "give them cores of their own: --pin-cores here, --pin-cores in --relay-args".to_owned(),
            ));
        }
        // A relay that is not told takes a shard for each core.
        let shards = relay.count.unwrap_or(there);
        if shards + workers > there {
            let free = there.saturating_sub(workers).max(1);
            let fix = if there > 1 {
                format!(
                    "leave the generator its own: --relay-args '--shards {free} --pin-cores {}' --pin-cores {}",
                    list(&machine.cores[..free]),
                    list(&machine.cores[free..])
                )
            } else {
                "take a machine with more cores, or run the relay on another one".to_owned()
            };
            return Some(Check::doubtful(
                SUBJECT,
                format!(
                    "{} and {} share {there} cores, and slow each other",
                    several(shards, "shard"),
                    several(workers, "worker")
                ),
                fix,
            ));
        }
    } else if workers > there {
        return Some(Check::doubtful(
            SUBJECT,
            format!("{workers} workers share {there} cores, and each delays the others' messages"),
            format!("use --workers {there}"),
        ));
    }
    Some(Check::fit(SUBJECT, format!("{}, {there} there", several(workers, "worker"))))
}

/// Whether two who work hard share one physical core.
fn siblings(machine: &Machine, demand: &Demand) -> Option<Check> {
    let relays: &[usize] = demand.spawned.as_ref().map_or(&[], |relay| &relay.pin_cores);
    let busy = |core: &usize| demand.pin_cores.contains(core) || relays.contains(core);
    let (core, sibling) = demand.pin_cores.iter().find_map(|core| {
        let siblings = machine.siblings.get(core)?;
        Some((core, siblings.iter().find(|&sibling| sibling != core && busy(sibling))?))
    })?;
    Some(Check::doubtful(
        "cores",
        format!("cores {core} and {sibling} are two threads of one physical core, and slow each other"),
        format!("name one of them: /sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list tells which"),
    ))
}

fn engine(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "io_uring";
    const FIX: &str = "allow it with `sysctl -w kernel.io_uring_disabled=0`, and in a container by a seccomp profile \
                       with io_uring_setup, io_uring_enter and io_uring_register";
    match (&machine.ring_fault, demand.engine) {
        (_, EngineChoice::Epoll) => None,
        (None, _) => Some(Check::fit(SUBJECT, "works".to_owned())),
        (Some(fault), EngineChoice::Ring) => Some(Check::unfit(
            SUBJECT,
            format!("does not work here ({fault})"),
            format!("{FIX}, or use --engine epoll"),
        )),
        (Some(fault), EngineChoice::Auto) => Some(Check::doubtful(
            SUBJECT,
            format!("does not work here ({fault}), and epoll costs the generator more"),
            FIX.to_owned(),
        )),
    }
}

/// Whether a relay on this machine can take all handshakes that are under way at once.
fn accept_queue(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "somaxconn";
    let (waiting, at_once) = (machine.accept_queue?, HANDSHAKES_MAX as u64);
    if !demand.is_on_this_machine() {
        return None;
    }
    Some(if waiting < at_once {
        Check::doubtful(
            SUBJECT,
            format!(
                "the relay on this machine can let {waiting} connections wait, and {at_once} come at once: some would \
                 wait a second for their next try"
            ),
            "`sysctl -w net.core.somaxconn=4096`, and start the relay again".to_owned(),
        )
    } else {
        Check::fit(SUBJECT, format!("{at_once} connections come at once, {} may wait", show_count(waiting)))
    })
}

fn tracking(machine: &Machine, demand: &Demand) -> Option<Check> {
    let left = machine.tracked_left?;
    if left >= demand.connections {
        return None;
    }
    Some(Check::doubtful(
        "conntrack",
        format!("the firewall can follow {left} more connections of {}, and drops the others", demand.connections),
        format!("`sysctl -w net.netfilter.nf_conntrack_max={}`", (demand.connections * 2).next_power_of_two()),
    ))
}

fn clock(machine: &Machine) -> Option<Check> {
    const SUBJECT: &str = "clock";
    let (source, read_ns) = (&machine.clock_source, machine.clock_read_ns);
    if read_ns <= CLOCK_READ_MAX_NS {
        return Some(Check::fit(SUBJECT, format!("{source}, {} a reading", show_ns(read_ns))));
    }
    let fix = if machine.clock_sources.split(' ').any(|known| known == "tsc") && source != "tsc" {
        "`echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource`"
    } else {
        "take a machine whose clock source is tsc or kvm-clock; the kernel's log (`dmesg | grep -i tsc`) says why \
         this one has none"
    };
    Some(Check::doubtful(
        SUBJECT,
        format!("a reading takes {} (clock source {source}), and every message costs several", show_ns(read_ns)),
        fix.to_owned(),
    ))
}

fn governor(machine: &Machine, demand: &Demand) -> Option<Check> {
    const SUBJECT: &str = "governor";
    let of_run = |core: &&usize| demand.pin_cores.is_empty() || demand.pin_cores.contains(core);
    let mut governors = machine.governors.iter().filter(|(core, _)| of_run(core)).peekable();
    governors.peek()?;
    Some(match governors.find(|(_, governor)| *governor != "performance") {
        None => Check::fit(SUBJECT, "performance".to_owned()),
        Some((core, governor)) => Check::doubtful(
            SUBJECT,
            format!("core {core} changes its speed (governor {governor}), and quiet seconds look slow"),
            "`cpupower frequency-set -g performance`".to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests;
