//! From a run's result to its summary and exit code.

use std::time::SystemTime;

use crate::environment::Environment;
use crate::exit::Exit;
use crate::plan::{Rate, Spawn, WorkloadRecord};
use crate::recorder::Metric;
use crate::run::{RelayResult, RunResult};
use crate::scenario::outcome::{self, StormSummary};
use crate::slo::{Judgement, Measured, overall};
use crate::summary::{Generator, RelayRecord, SCHEMA, Summary, TargetRecord, Throughput, Verdict, metrics};
use crate::validity::Standing;

/// Judges a run and sums it up. `spawn` is how its relay was started, if it was.
#[must_use]
pub fn summarize(result: &RunResult, spawn: Option<&Spawn>, started: SystemTime, argv: Vec<String>) -> (Summary, Exit) {
    let plan = &result.plan;
    let workload = &plan.workload;
    let seconds = workload.duration.as_secs_f64();
    let steady = result.steady;
    let missing = result.missing();
    let throughput = Throughput {
        due_per_second: steady.due as f64 / seconds,
        sent_per_second: steady.sent as f64 / seconds,
        delivered_per_second: steady.delivered_within as f64 / seconds,
    };
    let scenario = &result.scenario;
    let storm = workload.scenario.storm.map(|_| StormSummary::new(&scenario.storm, &result.lobby, result.settled_ns));
    let caught_up = result.workers.iter().all(|worker| worker.health.caught_up);
    let standing = Standing::of(&result.findings, &result.ledger, &result.lobby, caught_up);
    let (terms, too_few) = plan.slo.judge(&Measured {
        recorder: &result.recorder,
        missing: &missing,
        ledger: &result.ledger,
        lobby: &result.lobby,
        delivered_per_second: throughput.delivered_per_second,
        standing,
        storm: storm.as_ref(),
    });
    let judgement = overall(&terms, standing.spoiled);
    let relay_failed = result.relay.as_ref().is_some_and(|relay| relay.end.is_err());
    let exit = match judgement {
        Judgement::Fail => Exit::Missed,
        Judgement::Invalid => Exit::Invalid,
        Judgement::Pass if relay_failed => Exit::CouldNotRun,
        Judgement::Pass => Exit::Pass,
    };
    let seen = result.recorder.of(Metric::LobbyJoin).len() + result.recorder.of(Metric::LobbyLeave).len();
    let expected = (steady.joins + steady.leaves) * steady.watchers;
    let summary = Summary {
        schema: SCHEMA.to_owned(),
        started: humantime::format_rfc3339_seconds(started).to_string(),
        argv,
        verdict: Verdict { judgement, exit_code: exit.code(), terms },
        findings: result.findings.iter().cloned().chain(too_few).collect(),
        workload: WorkloadRecord::from(workload),
        target: TargetRecord {
            url: format!("ws://{}{}", plan.target.authority, plan.target.path),
            relay_name: plan.target.relay_name.clone(),
        },
        metrics: metrics(&result.recorder, &missing),
        steady,
        throughput,
        ledger: result.ledger.clone(),
        lobby: result.lobby,
        lobby_reach: (expected > 0).then(|| seen as f64 / expected as f64),
        aside: scenario.aside,
        steps: outcome::steps(workload, result.intervals.iter().skip(1).map(|interval| &*interval.recorder)),
        storm,
        slow_readers: workload.scenario.slow_readers.map(|_| scenario.slow_readers.clone()),
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
    };
    (summary, exit)
}

fn relay_record(result: &RunResult, relay: &RelayResult, spawn: &Spawn) -> RelayRecord {
    let clients = u64::from(result.plan.workload.clients);
    let cpu_ns = relay.steady_end.cpu_ns().saturating_sub(relay.steady_begin.cpu_ns());
    let grown = relay.steady_end.rss_anon_bytes.saturating_sub(relay.empty.rss_anon_bytes);
    let messages = if result.plan.workload.rate == Rate::Idle { 0 } else { result.steady.delivered_within };
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
