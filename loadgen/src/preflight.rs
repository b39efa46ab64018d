//! What the machine has to have before a run, and the exact fix where it has not.
//!
//! # Flow
//! ```text
//! machine::Machine (what the kernel says) ┐
//! Demand (what the run asks)              ┴─ checks ──> Check: fit, doubtful or unfit, with its fix
//! ```
//! What is unfit ends the run before anything starts; what is doubtful is said then and noted in the
//! run's findings.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU64;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::plan::{Rate, Spawn, Workload};
use crate::run::Request;
use crate::stock::Layout;
use crate::units::parse_cores;
use crate::validity::{Finding, FindingKind, Severity};

pub use checks::{Check, Demand, Grade, Shards, checks};
pub use machine::Machine;

mod checks;
mod machine;

/// Why a run cannot start on this machine, with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

/// Looks whether the machine suits a run, and readies both: allows as many open files as it can (a
/// relay that is started afterwards inherits that), and connects from several addresses of the
/// loopback network where one has too few ports. Returns all that was looked at.
///
/// # Errors
/// [`Unfit`], naming everything without which there can be no run.
pub fn prepare(request: &mut Request) -> Result<Vec<Check>, Unfit> {
    let (checks, source_ips) = look(request);
    let faults: Vec<_> = checks.iter().filter(|check| check.grade == Grade::Unfit).map(Check::line).collect();
    if !faults.is_empty() {
        return Err(Unfit(faults.join("\n")));
    }
    allow_files()?;
    request.source_ips = source_ips;
    Ok(checks)
}

/// Looks whether the machine suits a run, and changes nothing. Returns also the addresses that the
/// run would connect from.
#[must_use]
pub fn look(request: &Request) -> (Vec<Check>, Vec<IpAddr>) {
    let (machine, mut demand) = (Machine::read(), Demand::of(request));
    demand.spread_over_loopback(&machine);
    (checks(&machine, &demand), demand.source_ips)
}

/// Renders what was looked at, one line each, and what comes of it.
#[must_use]
pub fn render(checks: &[Check]) -> String {
    let mut out = String::new();
    for check in checks {
        let grade = match check.grade {
            Grade::Fit => "fit",
            Grade::Doubtful => "DOUBTFUL",
            Grade::Unfit => "UNFIT",
        };
        out.push_str(&format!("{grade:<10}{:<13}{}\n", check.subject, check.sentence()));
    }
    out.push_str(match checks.iter().map(|check| check.grade).max() {
        Some(Grade::Unfit) => "\nUNFIT: this machine cannot carry the run\n",
        Some(Grade::Doubtful) => "\nDOUBTFUL: the run can go on, and its figures may suffer\n",
        Some(Grade::Fit) | None => "\nFIT: this machine can carry the run\n",
    });
    out
}

/// Raises the limit of open files to the hard one.
///
/// # Errors
/// [`Unfit`], with what the system said.
pub fn allow_files() -> Result<(), Unfit> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .map_err(|error| Unfit(format!("the limit of open files cannot be raised to the hard one: {error}")))
}

impl Check {
    /// A line for a person: what was looked at, what was found, and the fix.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{}: {}", self.subject, self.sentence())
    }

    /// What a run notes of it: a warning, if it is doubtful.
    #[must_use]
    pub fn finding(&self) -> Option<Finding> {
        let fix = self.fix.clone().filter(|_| self.grade == Grade::Doubtful)?;
        Some(Finding {
            kind: FindingKind::Machine,
            severity: Severity::Warning,
            metric: None,
            measured: self.subject.to_owned(),
            text: format!("{}: {}", self.subject, self.found),
            fix,
        })
    }
}

impl Demand {
    /// What a run that was asked for needs.
    #[must_use]
    pub fn of(request: &Request) -> Self {
        let Request { workload, workers, .. } = request;
        let scenario = workload.scenario;
        let redialled = scenario.storm.map(|storm| storm.share).or(scenario.offline.map(|offline| offline.share));
        Self {
            connections: u64::from(workload.clients) * u64::from(workload.devices)
                + u64::from(workload.visitors(*workers)),
            redialled: u64::from(redialled.map_or(0, |share| share.of(workload.clients))),
            workers: *workers,
            pin_cores: request.pin_cores.clone(),
            engine: request.engine,
            signed_ahead: workload.signed_ahead(),
            frame_bytes: Layout::new(workload.message_bytes, workload.rooms.is_some()).frame_bytes() as u64,
            seconds: workload.duration.as_secs(),
            metrics: metrics_of(workload),
            source_ips: request.source_ips.clone(),
            relay: request
                .target
                .as_ref()
                .map_or(Ipv4Addr::LOCALHOST.into(), |target| target.address.ip().to_canonical()),
            spawned: request.spawn.as_ref().map(|(spawn, _)| Shards::of(spawn)),
        }
    }
}

/// How many metrics have values in a second of a run.
fn metrics_of(workload: &Workload) -> u64 {
    let messages = if workload.rate == Rate::Idle { 0 } else { 5 };
    let visitors = match (workload.churn_per_second > 0.0, workload.lobby) {
        (false, _) => 0,
        (true, false) => 2,
        (true, true) => 7,
    };
    messages + visitors
}

impl Shards {
    /// Reads `--shards` and `--pin-cores` out of a relay's arguments.
    fn of(spawn: &Spawn) -> Self {
        let value = |name: &str| {
            let mut arguments = spawn.arguments.iter();
            let argument = arguments.find_map(|argument| argument.strip_prefix(name))?;
            argument.strip_prefix('=').map(str::to_owned).or_else(|| arguments.next().cloned())
        };
        let cores = value("--pin-cores").and_then(|cores| parse_cores(&cores).ok());
        let pin_cores: Vec<_> = cores.unwrap_or_default();
        let named = Some(pin_cores.len()).filter(|&named| named > 0);
        Self { count: value("--shards").and_then(|count| count.parse().ok()).or(named), pin_cores }
    }
}

/// Cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Keeps the calling thread on a core. Without permission it stays where it is.
pub fn pin_thread(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    // The checks have seen that the core is allowed; what else may forbid it costs precision only.
    let _ = sched_setaffinity(None, &set);
}

/// Makes the calling thread's timers as exact as the kernel can: by default it rounds them by 50 µs.
pub fn sharpen_timers() {
    // What forbids it costs precision only, which the send lag shows.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// Lets every other thread of the core go before the calling one.
pub fn give_way() {
    const LAST: i32 = 19;
    // Lowering one's own priority is always allowed; on other systems it costs precision only.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), LAST);
}

/// CPU time of the calling thread.
#[must_use]
pub fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec.unsigned_abs() * crate::clock::SECOND_NS + time.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::{Check, Grade, Shards, thread_cpu_ns};
    use crate::plan::Spawn;
    use std::path::PathBuf;

    #[test]
    fn a_relays_shards_are_read_out_of_its_arguments() {
        let of = |arguments: &str| {
            let arguments = arguments.split_ascii_whitespace().map(str::to_owned).collect();
            let shards = Shards::of(&Spawn { program: PathBuf::new(), arguments });
            (shards.count, shards.pin_cores)
        };
        assert_eq!(of("--rate-limit 0 --shards 3 --pin-cores 0,2-3"), (Some(3), vec![0, 2, 3]));
        assert_eq!(of("--shards=2 --pin-cores=none"), (Some(2), vec![]));
        assert_eq!(of("--pin-cores 1"), (Some(1), vec![1]));
        assert_eq!(of("--verify off"), (None, vec![]));
    }

    #[test]
    fn what_is_doubtful_becomes_a_finding_and_what_is_fit_does_not() {
        let check = |grade, fix: Option<&str>| Check {
            subject: "clock",
            grade,
            found: "slow".to_owned(),
            fix: fix.map(str::to_owned),
        };
        let finding = check(Grade::Doubtful, Some("another")).finding().unwrap();
        assert_eq!((finding.text.as_str(), finding.fix.as_str()), ("clock: slow", "another"));
        assert_eq!(check(Grade::Fit, None).finding(), None);
    }

    #[test]
    fn cpu_time_never_falls() {
        let before = thread_cpu_ns();
        assert!(thread_cpu_ns() >= before);
    }
}
