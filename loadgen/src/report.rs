//! From a run's result to its summary and exit code.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::exit::Exit;
use crate::ledger::{Ledger, LobbyOutcome};
use crate::plan::{Rate, Spawn, WorkloadRecord};
use crate::recorder::{Missing, Recorder};
use crate::run::{RelayResult, RunResult};
use crate::scenario::outcome::{self, StormSummary};
use crate::slo::{Judgement, Measured, Slo, overall};
use crate::summary::{
    Generator, RelayRecord, SCHEMA, Summary, TargetRecord, Throughput, Verdict, WorkerRecord, metrics,
};
use crate::validity::{Finding, Standing};

/// Judges a run and sums it up. `spawn` is how its relay was started, if it was.
#[must_use]
pub fn summarize(result: &RunResult, spawn: Option<&Spawn>, started: SystemTime, argv: Vec<String>) -> (Summary, Exit) {
    let plan = &result.plan;
    let workload = &plan.workload;
    let seconds = workload.duration.as_secs_f64();
    let steady = result.steady;
    let throughput = Throughput {
        due_per_second: steady.due as f64 / seconds,
        sent_per_second: steady.sent as f64 / seconds,
        delivered_per_second: steady.delivered_within as f64 / seconds,
        acked_per_second: Some(steady.acked_within as f64 / seconds),
    };
    let scenario = &result.scenario;
    let storm = workload.scenario.storm.map(|_| StormSummary::new(&scenario.storm, &result.lobby, result.settled_ns));
    let Judged { verdict, too_few, exit } = judge(&Facts {
        slo: &plan.slo,
        recorder: &result.recorder,
        missing: &result.missing,
        ledger: &result.ledger,
        lobby: &result.lobby,
        delivered_per_second: throughput.delivered_per_second,
        findings: &result.findings,
        workers: &result.workers,
        relay_failed: result.relay.as_ref().is_some_and(|relay| relay.end.is_err()),
        storm: storm.as_ref(),
    });
    let summary = Summary {
        schema: SCHEMA.to_owned(),
        started: humantime::format_rfc3339_seconds(started).to_string(),
        argv,
        verdict,
        findings: result
            .findings
            .iter()
            .cloned()
            .chain(too_few)
            .chain(storm.as_ref().and_then(StormSummary::finding))
            .collect(),
        workload: WorkloadRecord::from(workload),
        target: TargetRecord {
            url: format!("ws://{}{}", plan.target.authority, plan.target.path),
            relay_name: plan.target.relay_name.clone(),
        },
        metrics: metrics(&result.recorder, &result.missing),
        steady,
        throughput,
        ledger: result.ledger.clone(),
        lobby: result.lobby,
        lobby_reach: result.reach.share(),
        reach: result.reach,
        aside: scenario.aside,
        steps: outcome::steps(workload, result.intervals.iter().skip(1).map(|interval| &*interval.recorder)),
        storm,
        slow_readers: workload.scenario.slow_readers.map(|_| scenario.slow_readers.clone()),
        offline: workload.scenario.offline.map(|_| (&scenario.offline).into()),
        crash: workload.scenario.crash.map(|_| scenario.crash.clone()),
        generator: Generator {
            engine: result.engine.to_string(),
            pin_cores: plan.pin_cores.clone(),
            source_ips: plan.source_ips.iter().map(ToString::to_string).collect(),
            signed_ahead: plan.workload.signed_ahead(),
            workers: result.workers.clone(),
            heartbeats: result.testimony.heartbeats.clone(),
            interference: result.testimony.interference,
        },
        relay: result.relay.as_ref().zip(spawn).map(|(relay, spawn)| relay_record(result, relay, spawn)),
        relay_about: result.relay_about.clone(),
        relay_loads: result.relay_loads.clone(),
        environment: Environment::read(),
        notes: result.notes.clone(),
        merged: Vec::new(),
    };
    (summary, exit)
}

/// What a verdict rests on, of one run or of several together.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The targets.
    pub slo: &'a Slo,
    /// Of the steady phase.
    pub recorder: &'a Recorder,
    /// Samples of the steady phase that never came.
    pub missing: &'a Missing,
    /// Of the whole run.
    pub ledger: &'a Ledger,
    /// Of the whole run.
    pub lobby: &'a LobbyOutcome,
    /// Messages delivered a second in the steady phase.
    pub delivered_per_second: f64,
    /// What speaks against the run.
    pub findings: &'a [Finding],
    /// How the workers fared.
    pub workers: &'a [WorkerRecord],
    /// Whether a relay of our own did not end well.
    pub relay_failed: bool,
    /// How a storm ended, if there was one.
    pub storm: Option<&'a StormSummary>,
}

/// A verdict with what follows from it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Over all targets, and each of them.
    pub verdict: Verdict,
    /// Targets that ask for more than the samples say.
    pub too_few: Vec<Finding>,
    /// How the command should end.
    pub exit: Exit,
}

/// Judges every target.
#[must_use]
pub fn judge(facts: &Facts<'_>) -> Judged {
    let caught_up = facts.workers.iter().all(|worker| worker.health.caught_up);
    let standing = Standing::of(facts.findings, facts.ledger, facts.lobby, caught_up);
    let (terms, too_few) = facts.slo.judge(&Measured {
        recorder: facts.recorder,
        missing: facts.missing,
        ledger: facts.ledger,
        lobby: facts.lobby,
        delivered_per_second: facts.delivered_per_second,
        standing,
        storm: facts.storm,
    });
    let judgement = overall(&terms, standing.spoiled);
    let exit = match judgement {
        Judgement::Fail => Exit::Missed,
        Judgement::Invalid => Exit::Invalid,
        Judgement::Pass if facts.relay_failed => Exit::CouldNotRun,
        Judgement::Pass => Exit::Pass,
    };
    Judged { verdict: Verdict { judgement, exit_code: exit.code(), terms }, too_few, exit }
}

fn relay_record(result: &RunResult, relay: &RelayResult, spawn: &Spawn) -> RelayRecord {
    let clients = u64::from(result.plan.workload.clients);
    let cpu_ns = relay.steady_end.cpu_ns().saturating_sub(relay.steady_begin.cpu_ns());
    let grown = relay.steady_end.rss_anon_bytes.saturating_sub(relay.empty.rss_anon_bytes);
    let workload = &result.plan.workload;
    // One that was killed began to count its CPU time anew.
    let is_whole = workload.rate != Rate::Idle && workload.scenario.crash.is_none();
    let messages = if is_whole { result.steady.delivered_within } else { 0 };
    RelayRecord {
        program: spawn.program.display().to_string(),
        arguments: spawn.arguments.clone(),
        start_line: relay.start_line.clone(),
        version: result.relay_about.as_ref().map(|about| about.version.to_string()),
        empty: relay.empty,
        connected: relay.connected,
        steady_begin: relay.steady_begin,
        steady_end: relay.steady_end,
        bytes_per_client: grown.checked_div(clients),
        cpu_ns_per_message: cpu_ns.checked_div(messages),
        end: relay.end.clone(),
    }
}
