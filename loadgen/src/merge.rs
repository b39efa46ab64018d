//! Several generators' runs of one test put together, so that one machine's limits are not the
//! test's.
//!
//! Histograms are added, second by second from the beginning of each generator's own steady phase;
//! percentiles are taken from the sums, never averaged. Ledgers and counts are added. Findings keep the
//! name of their generator. Targets are judged anew.
//!
//! # Invariants
//! - No latency depends on two clocks: sender and recipient of a message share a worker of one
//!   generator. Clocks of generators only tell whether their steady phases overlap.
//! - What is merged is one test: the same relay, the same workload but for how much of it each
//!   generator had, other keys on each, at the same time.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::archive::Archive;
use crate::interference::Interference;
use crate::interval_log::Interval;
use crate::ledger::{Ledger, LobbyOutcome, SteadyCounts};
use crate::measure::Measurement;
use crate::plan::WorkloadRecord;
use crate::recorder::{Metric, Missing, Recorder};
use crate::report::{Facts, judge};
use crate::scenario::Ramp;
use crate::scenario::outcome::{Aside, SlowReaderCounts, StepSummary};
use crate::slo::Slo;
use crate::spread::Reach;
use crate::summary::{Generator, MetricSummary, Part, SCHEMA, Summary, Throughput, metrics};
use crate::validity::{Finding, FindingKind};

#[cfg(test)]
mod tests;

/// The share of the steady phase in which all generators have to be at work together.
const OVERLAP_MIN: f64 = 0.8;

/// What each generator has a part of; everything else of a workload has to be the same.
const SHARED_OUT: [&str; 5] = ["clients", "senders", "churn_per_second", "rate", "seed"];

/// Why runs cannot be merged.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// There is nothing to merge.
    #[error("one run is no test of several generators: name the folder of each")]
    One,
    /// A generator started a relay for itself.
    #[error("{name} started a relay of its own (--spawn-relay), so the runs were not one test: give all the same URL")]
    OwnRelay {
        /// Its folder.
        name: String,
    },
    /// A storm and an `--offline-share` have figures of which no histogram is kept.
    #[error("{name} had a {option}, whose times are percentiles already and cannot be added: look at each generator's")]
    Percentiles {
        /// Its folder.
        name: String,
        /// What it did.
        option: &'static str,
    },
    /// Two generators had the same keys.
    #[error(
        "{one} and {other} had the same --seed {seed} and so the same keys: each took the other's messages for its own; \
         run again with another --seed for each"
    )]
    SameKeys {
        /// A folder.
        one: String,
        /// Another.
        other: String,
        /// Of both.
        seed: u64,
    },
    /// They did not do the same.
    #[error(
        "the runs are not parts of one test:\n{0}run all with the same options but --seed, --clients, --senders, --rate \
         and --churn, or add --force"
    )]
    Differ(String),
    /// They were not at work together.
    #[error(
        "the steady phases overlap for {overlap:.1} s of {duration:.1} s, so the relay did not bear all of them together: \
         start the generators at the same time (or set their clocks), or add --force"
    )]
    Apart {
        /// Seconds.
        overlap: f64,
        /// Seconds.
        duration: f64,
    },
    /// The runs' targets cannot be read.
    #[error("{0}; say with --slo what to judge by")]
    Targets(String),
}

/// Puts runs together. `slo` is what to judge by, if not the runs' own targets. `force` merges also
/// what does not belong together.
///
/// # Errors
/// [`MergeError`].
pub fn merge(runs: &[Archive], slo: Option<Slo>, force: bool) -> Result<Measurement, MergeError> {
    let [first, _, ..] = runs else { return Err(MergeError::One) };
    if let Some(run) = runs.iter().find(|run| run.summary.relay.is_some()) {
        return Err(MergeError::OwnRelay { name: name_of(&run.dir) });
    }
    for run in runs {
        let summary = &run.summary;
        let options = [("--storm", summary.storm.is_some()), ("--offline-share", summary.offline.is_some())];
        if let Some((option, _)) = options.into_iter().find(|&(_, made)| made) {
            return Err(MergeError::Percentiles { name: name_of(&run.dir), option });
        }
    }
    let workload = workload(runs, force)?;
    let slo = slo.map_or_else(|| targets(runs), Ok)?;
    let overlap = overlap(runs);
    let duration = Duration::from_nanos(first.summary.workload.duration_ns());
    if !force && overlap.as_secs_f64() < OVERLAP_MIN * duration.as_secs_f64() {
        return Err(MergeError::Apart { overlap: overlap.as_secs_f64(), duration: duration.as_secs_f64() });
    }

    let intervals = intervals(runs);
    let mut recorder = Recorder::default();
    for interval in &intervals {
        recorder.add(&interval.recorder);
    }
    let (mut ledger, mut steady, mut missing) = (Ledger::default(), SteadyCounts::default(), Missing::default());
    let mut lobby = LobbyOutcome { truth_known: true, ..LobbyOutcome::default() };
    // Each generator's watchers see its own visitors.
    let mut reach = Reach::default();
    for run in runs {
        ledger.add(&run.summary.ledger);
        steady.add(&run.summary.steady);
        lobby.add(&run.summary.lobby);
        reach.add(&run.summary.reach);
        let of_run = run.missing();
        for metric in Metric::ALL {
            missing.set(metric, missing.of(metric) + of_run.of(metric));
        }
    }
    let rate = |rate: fn(&Throughput) -> f64| runs.iter().map(|run| rate(&run.summary.throughput)).sum::<f64>();
    let throughput = Throughput {
        due_per_second: rate(|throughput| throughput.due_per_second),
        sent_per_second: rate(|throughput| throughput.sent_per_second),
        delivered_per_second: rate(|throughput| throughput.delivered_per_second),
        acked_per_second: runs.iter().map(|run| run.summary.throughput.acked_per_second).sum(),
    };
    let generator = generator(runs);
    let findings = findings(runs);
    let verdict = judge(&Facts {
        slo: &slo,
        recorder: &recorder,
        missing: &missing,
        ledger: &ledger,
        lobby: &lobby,
        delivered_per_second: throughput.delivered_per_second,
        findings: &findings,
        workers: &generator.workers,
        relay_failed: false,
        storm: None,
    });
    let mut notes = vec![format!(
        "{} generators merged; their steady phases overlap for {:.1} s of {:.1} s",
        runs.len(),
        overlap.as_secs_f64(),
        duration.as_secs_f64()
    )];
    notes.extend(
        runs.iter().flat_map(|run| run.summary.notes.iter().map(|note| format!("{}: {note}", name_of(&run.dir)))),
    );
    let summary = Summary {
        schema: SCHEMA.to_owned(),
        started: runs.iter().map(|run| run.summary.started.clone()).min().unwrap_or_default(),
        argv: std::env::args().collect(),
        verdict: verdict.verdict,
        findings: findings.into_iter().chain(verdict.too_few).collect(),
        workload,
        target: first.summary.target.clone(),
        metrics: metrics(&recorder, &missing),
        steady,
        throughput,
        ledger,
        lobby,
        lobby_reach: reach.share(),
        reach,
        aside: runs.iter().fold(Aside::default(), |mut sum, run| {
            sum.add(&run.summary.aside);
            sum
        }),
        steps: steps(runs, &intervals),
        storm: None,
        slow_readers: slow_readers(runs),
        offline: None,
        crash: None,
        generator,
        relay: None,
        relay_about: first.summary.relay_about.clone(),
        relay_loads: first.summary.relay_loads.clone(),
        environment: first.summary.environment.clone(),
        notes,
        merged: runs.iter().map(part).collect(),
    };
    let began = runs.iter().map(|run| run.began).min().unwrap_or(first.began);
    Ok(Measurement::new(summary, verdict.exit, began, intervals))
}

/// The folder's own name: what people called the generator.
fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or(dir.as_os_str()).to_string_lossy().into_owned()
}

fn part(run: &Archive) -> Part {
    Part {
        name: name_of(&run.dir),
        started: run.summary.started.clone(),
        argv: run.summary.argv.clone(),
        workload: run.summary.workload.clone(),
        verdict: run.summary.verdict.judgement,
        environment: run.summary.environment.clone(),
    }
}

/// The workload of all together.
fn workload(runs: &[Archive], force: bool) -> Result<WorkloadRecord, MergeError> {
    let records: Vec<Map<String, Value>> = runs
        .iter()
        .map(|run| match serde_json::to_value(&run.summary.workload) {
            Ok(Value::Object(fields)) => fields,
            _ => Map::new(),
        })
        .collect();
    for (at, run) in records.iter().enumerate() {
        if let Some(before) = records[..at].iter().position(|other| other.get("seed") == run.get("seed")) {
            let seed = run.get("seed").and_then(Value::as_u64).unwrap_or_default();
            return Err(MergeError::SameKeys { one: name_of(&runs[before].dir), other: name_of(&runs[at].dir), seed });
        }
    }
    let mut differences = String::new();
    let mut merged = records[0].clone();
    for (run, fields) in runs.iter().zip(&records).skip(1) {
        let name = name_of(&run.dir);
        for (field, value) in &records[0] {
            let own = fields.get(field).unwrap_or(&Value::Null);
            if own != value && !SHARED_OUT.contains(&field.as_str()) {
                differences.push_str(&format!("  {field}: {} {value}, {name} {own}\n", name_of(&runs[0].dir)));
            }
        }
        if run.summary.target.relay_name != runs[0].summary.target.relay_name {
            let (one, other) = (&runs[0].summary.target.relay_name, &run.summary.target.relay_name);
            differences.push_str(&format!("  relay: {} {one}, {name} {other}\n", name_of(&runs[0].dir)));
        }
        for field in SHARED_OUT {
            let (Some(sum), Some(more)) = (merged.get(field), fields.get(field)) else { continue };
            if field == "seed" {
                continue;
            }
            match add(sum, more) {
                Some(sum) => _ = merged.insert(field.to_owned(), sum),
                None => differences.push_str(&format!("  {field}: {sum} and {name} {more} cannot be added\n")),
            }
        }
    }
    if !differences.is_empty() && !force {
        return Err(MergeError::Differ(differences));
    }
    // The fields are those of a record, with values of the same kind.
    serde_json::from_value(Value::Object(merged)).map_err(|error| MergeError::Differ(format!("  {error}\n")))
}

/// Adds numbers, and rates as `500/s` or `100..500/s`; what has no sum (`max`) stays if both are the
/// same.
fn add(one: &Value, other: &Value) -> Option<Value> {
    if let (Some(one), Some(other)) = (one.as_u64(), other.as_u64()) {
        return Some((one + other).into());
    }
    if let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) {
        return Some((one + other).into());
    }
    let (one_text, other_text) = (one.as_str()?, other.as_str()?);
    let rate = |text: &str| text.strip_suffix("/s")?.parse::<f64>().ok();
    if let (Some(one), Some(other)) = (rate(one_text), rate(other_text)) {
        return Some(format!("{}/s", one + other).into());
    }
    if let (Ok(one), Ok(other)) = (one_text.parse::<Ramp>(), other_text.parse::<Ramp>()) {
        let sum = Ramp { from: one.from + other.from, to: one.to + other.to, steps: one.steps };
        return (one.steps == other.steps).then(|| sum.to_string().into());
    }
    (one == other).then(|| one.clone())
}

/// The targets that all runs had.
fn targets(runs: &[Archive]) -> Result<Slo, MergeError> {
    let of_run =
        |run: &Archive| -> Vec<String> { run.summary.verdict.terms.iter().map(|term| term.term.clone()).collect() };
    let terms = of_run(&runs[0]);
    if let Some(other) = runs.iter().find(|run| of_run(run) != terms) {
        return Err(MergeError::Targets(format!(
            "{} had other targets than {}",
            name_of(&other.dir),
            name_of(&runs[0].dir)
        )));
    }
    if terms.is_empty() {
        return Ok(Slo::default());
    }
    terms.join(",").parse().map_err(|error: crate::slo::SloError| MergeError::Targets(error.to_string()))
}

/// For how long all were in their steady phase.
fn overlap(runs: &[Archive]) -> Duration {
    let end = |run: &Archive| run.began + Duration::from_nanos(run.summary.workload.duration_ns());
    let (last_began, first_ended) = (runs.iter().map(|run| run.began).max(), runs.iter().map(end).min());
    let overlap = last_began
        .zip(first_ended)
        .and_then(|(began, ended): (SystemTime, SystemTime)| ended.duration_since(began).ok());
    overlap.unwrap_or_default()
}

/// The sums of the runs' intervals, by number.
fn intervals(runs: &[Archive]) -> Vec<Interval> {
    let mut sums: Vec<Interval> = Vec::new();
    for run in runs {
        for (at, interval) in run.intervals.iter().enumerate() {
            match sums.get_mut(at) {
                Some(sum) => {
                    sum.recorder.add(&interval.recorder);
                    sum.length = sum.length.max(interval.length);
                }
                None => sums.push(interval.clone()),
            }
        }
    }
    sums
}

/// The steps of a rate that rises, from the sums of its seconds. All generators had the same steps.
fn steps(runs: &[Archive], intervals: &[Interval]) -> Vec<StepSummary> {
    let of_first = runs.first().map(|run| &run.summary.steps[..]).unwrap_or_default();
    let sum_of = |step: &StepSummary| {
        let (start, end) =
            (Duration::from_millis(step.start_ms), Duration::from_millis(step.start_ms + step.length_ms));
        let mut sum = Recorder::default();
        for second in intervals.iter().skip(1).filter(|second| (start..end).contains(&second.start)) {
            sum.add(&second.recorder);
        }
        sum
    };
    let step = |(at, step): (usize, &StepSummary)| {
        let sum = sum_of(step);
        StepSummary {
            due_per_second: runs
                .iter()
                .filter_map(|run| run.summary.steps.get(at))
                .map(|step| step.due_per_second)
                .sum(),
            message: MetricSummary::of(sum.of(Metric::Message), 0),
            send_lag: MetricSummary::of(sum.of(Metric::SendLag), 0),
            ..step.clone()
        }
    };
    of_first.iter().enumerate().map(step).collect()
}

fn slow_readers(runs: &[Archive]) -> Option<SlowReaderCounts> {
    let counts = runs.iter().filter_map(|run| run.summary.slow_readers.as_ref());
    counts.cloned().reduce(|mut sum, more| {
        sum.add(&more);
        sum
    })
}

fn generator(runs: &[Archive]) -> Generator {
    let generators = || runs.iter().map(|run| &run.summary.generator);
    let engines: BTreeSet<&str> = generators().map(|generator| generator.engine.as_str()).collect();
    let interference = || generators().map(|generator| &generator.interference);
    let total =
        |count: fn(&Interference) -> Option<u64>| interference().filter_map(count).reduce(|sum, more| sum + more);
    Generator {
        engine: engines.into_iter().collect::<Vec<_>>().join(" and "),
        pin_cores: generators().flat_map(|generator| generator.pin_cores.clone()).collect(),
        source_ips: generators().flat_map(|generator| generator.source_ips.clone()).collect(),
        signed_ahead: generators().map(|generator| generator.signed_ahead).sum(),
        workers: generators().flat_map(|generator| generator.workers.clone()).collect(),
        heartbeats: generators().flat_map(|generator| generator.heartbeats.clone()).collect(),
        interference: Interference {
            steal: interference().filter_map(|interference| interference.steal).reduce(f64::max),
            throttled_periods: total(|interference| interference.throttled_periods),
            throttled_ns: total(|interference| interference.throttled_ns),
        },
    }
}

/// What was found of each generator, with its name. Whether there are enough samples is judged anew.
fn findings(runs: &[Archive]) -> Vec<Finding> {
    let named = |run: &Archive, finding: &Finding| Finding {
        text: format!("{}: {}", name_of(&run.dir), finding.text),
        ..finding.clone()
    };
    runs.iter()
        .flat_map(|run| run.summary.findings.iter().map(move |finding| (run, finding)))
        .filter(|(_, finding)| finding.kind != FindingKind::FewSamples)
        .map(|(run, finding)| named(run, finding))
        .collect()
}
