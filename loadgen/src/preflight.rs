//! What the machine has to have before a run, and the exact fix where it has not.

use std::fs;
use std::num::NonZeroU64;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::plan::Workload;

/// Descriptors besides those of clients: standard ones, rings, files, a spawned relay's pipes.
const DESCRIPTORS_BESIDES: u64 = 64;

/// Why a run cannot start on this machine, with the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

/// Makes room for as many descriptors as connections need, up to the hard limit. A relay that is
/// started afterwards inherits that.
///
/// # Errors
/// [`Unfit`], when the hard limit is too low.
pub fn make_room_for_descriptors(workload: &Workload, workers: usize) -> Result<(), Unfit> {
    let needed = u64::from(workload.clients) + u64::from(workload.visitors(workers)) + DESCRIPTORS_BESIDES;
    let limit = getrlimit(Resource::Nofile);
    let hard = limit.maximum.unwrap_or(u64::MAX);
    if hard < needed {
        return Err(Unfit(format!(
            "{needed} open files are needed, one for each client, and {hard} are allowed: raise the hard limit with \
             `ulimit -Hn {needed}` as root or LimitNOFILE={needed} in the unit, or use fewer --clients"
        )));
    }
    if limit.current.is_some_and(|soft| soft < hard) {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised)
            .map_err(|error| Unfit(format!("the limit of open files cannot be raised to {hard}: {error}")))?;
    }
    Ok(())
}

/// Checks that there are enough local ports: one for each client and source address.
///
/// # Errors
/// [`Unfit`], when there are too few.
pub fn check_ports(workload: &Workload, workers: usize, sources: usize) -> Result<(), Unfit> {
    let Some(range) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok() else { return Ok(()) };
    let mut bounds = range.split_ascii_whitespace().filter_map(|bound| bound.parse::<u64>().ok());
    let (Some(first), Some(last)) = (bounds.next(), bounds.next()) else { return Ok(()) };
    let ports = (last + 1).saturating_sub(first);
    let needed = u64::from(workload.clients) + u64::from(workload.visitors(workers));
    if needed > ports * sources.max(1) as u64 {
        return Err(Unfit(format!(
            "{needed} connections need as many local ports, and one address has {ports}: give more addresses \
             (--source-ip 127.0.0.1,127.0.0.2), or widen net.ipv4.ip_local_port_range"
        )));
    }
    Ok(())
}

/// Checks that every core to pin to is there for this process.
///
/// # Errors
/// [`Unfit`], naming the first that is not.
pub fn check_cores(cores: &[usize]) -> Result<(), Unfit> {
    let Ok(allowed) = sched_getaffinity(None) else { return Ok(()) };
    match cores.iter().find(|&&core| core >= CpuSet::MAX_CPU || !allowed.is_set(core)) {
        None => Ok(()),
        Some(core) => {
            let available: Vec<_> =
                (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).map(|core| core.to_string()).collect();
            Err(Unfit(format!("core {core} is not available; --pin-cores can name {}", available.join(","))))
        }
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
    // `check_cores` has seen that the core is allowed; what else may forbid it costs precision only.
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
    use super::{check_cores, thread_cpu_ns};

    #[test]
    fn a_core_that_is_not_there_is_named() {
        let error = check_cores(&[100_000]).unwrap_err().to_string();
        assert!(error.contains("core 100000"), "{error}");
        assert!(check_cores(&[]).is_ok());
    }

    #[test]
    fn cpu_time_never_falls() {
        let before = thread_cpu_ns();
        assert!(thread_cpu_ns() >= before);
    }
}
