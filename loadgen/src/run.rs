//! One run from beginning to end: the coordinator, on the calling thread.
//!
//! # Phases
//! | phase | what happens |
//! |---|---|
//! | connect | clients connect over the ramp; then their lobbies are compared with the truth; who is to be offline leaves |
//! | sign | messages are signed ahead, until all are or the queues are full |
//! | warm-up | messages and visitors begin; nothing is recorded |
//! | steady | what is recorded; a relay that is to be killed is |
//! | drain | nothing new; what is in flight arrives or is lost; who was offline comes back |
//! | settle | lobbies become quiet and are compared with the truth |
//!
//! # Invariants
//! - Every way out ends workers, signers and a spawned relay.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use relay_engine::EngineKind;

use crate::audience::Audience;
use crate::clock::Clock;
use crate::identity;
use crate::interval_log::Interval;
use crate::ledger::{Ledger, LobbyOutcome, SteadyCounts};
use crate::lobby::Visitors;
use crate::plan::{RunPlan, Spawn, Target, Workload};
use crate::preflight::{self, Check};
use crate::progress::Progress;
use crate::recorder::{Metric, Missing, Recorder};
use crate::relay_admin::{Admin, RelayAbout, ShardLoad};
use crate::relay_process::{RelayError, RelayProcess, Usage};
use crate::scenario;
use crate::spread::Reach;
use crate::validity::Finding;

use coordinator::Coordinator;
use killer::Killer;

mod coordinator;
mod killer;
mod lobbies;
mod onlooker;
mod preparing;
mod witness;

pub use witness::Testimony;

/// What is asked of [`run`].
#[derive(Clone, Debug)]
pub struct Request {
    /// What clients do.
    pub workload: Workload,
    /// Where the relay is; `None` if one is spawned.
    pub target: Option<Target>,
    /// A relay of our own, and the name that it is to have.
    pub spawn: Option<(Spawn, String)>,
    /// Where its output goes.
    pub relay_log: Option<PathBuf>,
    /// The admin port of a relay that is not ours.
    pub relay_admin: Option<SocketAddr>,
    /// See [`RunPlan`].
    pub source_ips: Vec<std::net::IpAddr>,
    /// See [`RunPlan`].
    pub workers: usize,
    /// See [`RunPlan`].
    pub pin_cores: Vec<usize>,
    /// See [`RunPlan`].
    pub engine: crate::plan::EngineChoice,
    /// See [`RunPlan`].
    pub slo: crate::slo::Slo,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine cannot.
    #[error(transparent)]
    Unfit(#[from] preflight::Unfit),
    /// There is no relay.
    #[error(transparent)]
    Relay(#[from] RelayError),
    /// The relay's limits forbid the workload; with the fix.
    #[error("{0}")]
    Refused(String),
    /// A worker cannot go on.
    #[error("{0}")]
    Worker(String),
    /// Clients do not connect.
    #[error("{connected} of {clients} clients connected, and then none for 30 s: is the relay able to answer?")]
    Stuck {
        /// So many did.
        connected: u64,
        /// Of so many.
        clients: u32,
    },
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
    /// The system refuses a thread or random numbers.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What it said.
        error: std::io::Error,
    },
}

/// What a run came to.
#[derive(Debug)]
pub struct RunResult {
    /// What was run.
    pub plan: Arc<RunPlan>,
    /// When the steady phase began, by the machine's clock.
    pub steady_began: SystemTime,
    /// Sums of all workers.
    pub recorder: Recorder,
    /// By interval; the first is all before the steady phase.
    pub intervals: Vec<Interval>,
    /// Sums of all workers.
    pub ledger: Ledger,
    /// Sums of all workers.
    pub steady: SteadyCounts,
    /// What lobbies came to.
    pub lobby: LobbyOutcome,
    /// What was not steady; sums of all workers.
    pub scenario: scenario::outcome::Outcome,
    /// When the last lobby came to what it was at the end, on the run's clock.
    pub settled_ns: u64,
    /// How far joins and leaves reached.
    pub reach: Reach,
    /// Samples of the steady phase that should be there and never came.
    pub missing: Missing,
    /// The workers' engine.
    pub engine: EngineKind,
    /// Each worker's own.
    pub workers: Vec<crate::summary::WorkerRecord>,
    /// Of a relay of our own.
    pub relay: Option<RelayResult>,
    /// What the relay said of itself.
    pub relay_about: Option<RelayAbout>,
    /// How busy its threads were in the steady phase, as far as that can be seen.
    pub relay_loads: Vec<ShardLoad>,
    /// What was seen of the machine.
    pub testimony: Testimony,
    /// What speaks against the run.
    pub findings: Vec<Finding>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

impl RunResult {
    /// Counts what should be there and never came, where it follows from the books.
    fn count_missing(&mut self) {
        let (steady, reach, missing) = (&self.steady, &self.reach, &mut self.missing);
        let seen = |metric| self.recorder.of(metric).len();
        let acks = self.scenario.storm.acks;
        let due = steady.due - steady.offline_due;
        let acks_due = (due + acks.surplus).saturating_sub(acks.waived);
        let audience = u64::from(Audience::of(&self.plan.workload).size());
        let owed = |messages: u64| (messages * audience).saturating_sub(steady.copies_waived + steady.delivered);
        let never = [
            (Metric::Message, owed(due)),
            (Metric::Service, owed(steady.sent - steady.offline_sent)),
            (Metric::Ack, acks_due.saturating_sub(seen(Metric::Ack))),
            (Metric::Connect, steady.unconnected),
            (Metric::Auth, steady.unwelcomed),
            (Metric::AckOffline, steady.offline_due.saturating_sub(seen(Metric::AckOffline))),
            (Metric::CatchUp, self.scenario.offline.behind),
            (Metric::LobbyJoin, reach.join_watchers.saturating_sub(seen(Metric::LobbyJoin))),
            (Metric::LobbyLeave, reach.leave_watchers.saturating_sub(seen(Metric::LobbyLeave))),
        ];
        for (metric, count) in never {
            missing.set(metric, count);
        }
    }
}

/// What a relay of our own showed.
#[derive(Debug)]
pub struct RelayResult {
    /// See [`RelayProcess`].
    pub start_line: String,
    /// Before anybody connected.
    pub empty: Usage,
    /// When all clients were there.
    pub connected: Usage,
    /// When the steady phase began.
    pub steady_begin: Usage,
    /// When the steady phase ended.
    pub steady_end: Usage,
    /// How it ended.
    pub end: Result<(), String>,
}

/// Runs once. `interrupted` ends it early.
///
/// # Errors
/// [`RunError`], when there is no result.
pub fn run(mut request: Request, progress: &Progress, interrupted: &AtomicBool) -> Result<RunResult, RunError> {
    let doubts: Vec<_> = preflight::prepare(&mut request)?.iter().filter_map(Check::finding).collect();
    for doubt in &doubts {
        progress.line(&format!("preflight: {}: {}", doubt.text, doubt.fix));
    }
    let mut relay = None;
    let target = match (request.target, &request.spawn) {
        (Some(target), None) => target,
        (_, Some((spawn, name))) => {
            if let Some(log) = &request.relay_log {
                File::create(log).map_err(|error| RunError::System { what: "making the relay's log", error })?;
            }
            let port = if request.workload.scenario.crash.is_some() { killer::steady_port()? } else { 0 };
            let process = RelayProcess::start(spawn, port, request.relay_log.as_deref())?;
            progress.line(&process.start_line);
            let address = process.address;
            relay = Some(process);
            Target {
                authority: address.to_string(),
                path: protocol::upgrade::PATH.to_owned(),
                address,
                relay_name: name.clone(),
            }
        }
        (None, None) => return Err(RunError::Refused("there is neither a URL nor a relay to spawn".to_owned())),
    };
    let about = match (&relay, request.relay_admin) {
        // Other programs may stand in for a relay and need not tell of themselves.
        (Some(process), _) => Admin(process.admin).about().ok(),
        (None, Some(admin)) => Some(Admin(admin).about().map_err(|error| {
            RunError::Refused(format!("the relay's admin port {admin} (--relay-admin) does not answer: {error}"))
        })?),
        (None, None) => None,
    };
    let nonce = getrandom::u32()
        .map_err(|error| RunError::System { what: "random numbers", error: std::io::Error::other(error) })?;
    let workload = request.workload;
    let visitors = workload.visitors(request.workers);
    let visitors = (0..visitors).map(|visitor| identity::public_key(workload.seed, workload.clients + visitor));
    let plan = Arc::new(RunPlan {
        visitors: Visitors::new(visitors.collect()),
        workload,
        target,
        source_ips: request.source_ips,
        workers: request.workers,
        pin_cores: request.pin_cores,
        engine: request.engine,
        nonce,
        clock: Clock::start(),
        slo: request.slo,
    });
    let spawn = request.spawn.as_ref().map(|(spawn, _)| spawn);
    let killer = Killer::of(&plan.workload, spawn, request.relay_log);
    let admin = request.relay_admin.map(Admin);
    let mut coordinator = Coordinator::start(plan, progress, interrupted, relay, killer, admin)?;
    let result = coordinator.conduct();
    coordinator.end_threads();
    let mut result = result?;
    result.findings.extend(doubts);
    result.relay_about = about;
    if let Some(process) = coordinator.relay.take() {
        let end = process.end();
        if let Some(relay) = &mut result.relay {
            relay.end = end;
        }
    }
    Ok(result)
}
