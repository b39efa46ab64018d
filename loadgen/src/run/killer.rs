//! Kills a relay of our own and starts it again, on the same port and with the same data.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Instant;

use super::RunError;
use crate::clock::to_ns;
use crate::plan::{Moments, Spawn, Workload};
use crate::relay_process::RelayProcess;
use crate::scenario::crash;
use crate::scenario::outcome::CrashCounts;

/// The lowest port that a user may take, and the lowest that Linux gives to clients by default.
const PORT_MIN: u16 = 1024;
const LOCAL_PORT_MIN: u16 = 32_768;

/// Ports that are tried.
const ATTEMPTS: usize = 100;

/// When the relay is killed, and how it is started again.
#[derive(Debug)]
pub(super) struct Killer {
    spawn: Spawn,
    log: Option<PathBuf>,
    /// From the beginning of the steady phase, and once that is settled on the run's clock.
    moments: VecDeque<u64>,
    pub(super) counts: CrashCounts,
}

impl Killer {
    /// One for this workload, if it wants one.
    pub(super) fn of(workload: &Workload, spawn: Option<&Spawn>, log: Option<PathBuf>) -> Option<Self> {
        workload.scenario.crash?;
        let moments = crash::moments(workload).into();
        Some(Self { spawn: spawn?.clone(), log, moments, counts: CrashCounts::default() })
    }

    /// The run's moments are settled.
    pub(super) fn start(&mut self, moments: &Moments) {
        for moment in &mut self.moments {
            *moment += moments.steady_ns;
        }
    }

    /// When it strikes next.
    pub(super) fn due_ns(&self) -> Option<u64> {
        self.moments.front().copied()
    }

    /// Kills the relay and starts it again.
    pub(super) fn strike(&mut self, relay: RelayProcess) -> Result<RelayProcess, RunError> {
        self.moments.pop_front();
        let port = relay.address.port();
        let begin = Instant::now();
        relay.kill().map_err(RunError::Worker)?;
        let relay = RelayProcess::start(&self.spawn, port, self.log.as_deref())?;
        let down_ns = to_ns(begin.elapsed());
        self.counts.kills += 1;
        self.counts.down_ns += down_ns;
        self.counts.down_longest_ns = self.counts.down_longest_ns.max(down_ns);
        Ok(relay)
    }
}

/// A free port that the kernel gives to no client. While the relay is down its clients dial a port where
/// nobody listens; could they be given that very port, one would find itself at the other end.
pub(super) fn steady_port() -> Result<u16, RunError> {
    let failed = |error| RunError::System { what: "looking for a port for the relay", error };
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let end = range.split_ascii_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(LOCAL_PORT_MIN);
    let ports = end.saturating_sub(PORT_MIN);
    if ports == 0 {
        return Err(failed(io::Error::other(
            "net.ipv4.ip_local_port_range leaves none for servers; begin it above 1024",
        )));
    }
    let mut last = io::Error::other("none was tried");
    for _ in 0..ATTEMPTS {
        let random = getrandom::u32().map_err(|error| failed(io::Error::other(error)))?;
        let port = PORT_MIN + (random % u32::from(ports)) as u16;
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

#[cfg(test)]
mod tests {
    use super::steady_port;

    #[test]
    fn a_port_is_found_that_no_client_is_given() {
        let port = steady_port().unwrap();
        assert!(port >= super::PORT_MIN);
        assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    }
}
