//! `loadgen capacity`: the highest open-loop rate at which a relay keeps all targets.
//!
//! Each step is a short run of its own, judged as every run is: a step that says nothing about the
//! relay does not count as missed, and if most at one rate say nothing the generator is the limit and
//! the capacity is "at least" what was kept below.
//!
//! # Falling behind
//! Above its capacity a relay falls further behind with every second, but a short step ends before a
//! generous target notices: 5 % above, after 5 s, messages wait for a quarter of a second. So a step
//! must also keep pace: the median response time of its last second may not be above that of its
//! first by more than [`DRIFT_MAX`] for each second between. Medians, since a backlog delays every
//! message, and a stall few.
//!
//! | module | subject |
//! |---|---|
//! | [`search`] | which rate is tried next: a function of verdicts |
//! | [`limit`] | what was full |
//! | `network` | what the kernel counts of the network |
//! | [`table`] | what is printed |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::exit::Exit;
use crate::interval_log::Interval;
use crate::measure::{FileError, Measurement, make_folder, measure};
use crate::plan::Rate;
use crate::progress::Progress;
use crate::recorder::{Metric, quantile};
use crate::relay_admin::RelayAbout;
use crate::run::{Request, RunError};
use crate::slo::{Judgement, TermVerdict};
use crate::summary::Summary;
use crate::units::{show_count, show_ns};
use crate::validity::Severity;

use limit::{Doubt, Evidence, Limit, LimitKind};
use network::{Counters, NetworkUse};
use search::{Bound, Knee, Search, Settings, Trial};

pub mod limit;
mod network;
pub mod search;
pub mod table;

/// The form of [`Capacity`].
pub const SCHEMA: &str = "relay-loadgen-capacity/1";

/// How much later the median message may come with each second of a step: 1 %, as a relay does that
/// gets 1 % more than it can carry.
pub const DRIFT_MAX: f64 = 0.01;

/// And how much later at least from the first second to the last: less may be the machine's mood.
const DRIFT_LEAST_SECONDS: f64 = 0.05;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Inquiry {
    /// One step; its rate is where the search begins.
    pub request: Request,
    /// How to search.
    pub settings: Settings,
    /// The rate that the relay has to carry, if that is asked.
    pub at_least: Option<u64>,
    /// Where `capacity.json` and each step's folder go.
    pub out: Option<PathBuf>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum CapacityError {
    /// A step could not be run.
    #[error("at {rate}/s: {error}")]
    Step {
        /// Its rate.
        rate: u64,
        /// Why.
        error: RunError,
    },
    /// A folder cannot be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// `capacity.json` cannot be written.
    #[error("--out {path}: {error}", path = path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What the search came to, as `capacity.json` holds it. Fields may be added within a version, never
/// changed or removed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Capacity {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the program started, UTC.
    pub started: String,
    /// The command line.
    pub argv: Vec<String>,
    /// What was found.
    pub outcome: Outcome,
    /// Of the program.
    pub exit_code: u8,
    /// Messages a second: the middle of the knee, or what was kept if nothing bounds it from above.
    pub rate_per_second: Option<u64>,
    /// The highest rate that most steps kept.
    pub kept: Option<RateRecord>,
    /// The lowest rate that was decided against.
    pub missed: Option<RateRecord>,
    /// The uncertainty: up to the first rate every step kept its targets, from the second on none.
    pub between: (u64, u64),
    /// What was full.
    pub limit: Limit,
    /// The rate that was asked for, if one was.
    pub at_least: Option<u64>,
    /// The targets of each step; besides them a step must keep pace.
    pub targets: Vec<String>,
    /// How near both sides of the knee were to come.
    pub resolution: f64,
    /// Of how many steps most decided.
    pub repeats: u32,
    /// Each step, in its order.
    pub steps: Vec<Step>,
    /// What the relay said of itself.
    pub relay_about: Option<RelayAbout>,
    /// Where it took place.
    pub environment: Environment,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The knee, from both sides.
    Found,
    /// Everything that could be tried was kept: the relay can do this and perhaps more.
    AtLeast,
    /// Not even the lowest rate was kept.
    NothingKept,
    /// No step says anything about the relay.
    Blind,
}

/// One rate and what its steps said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateRecord {
    /// Messages a second.
    pub rate_per_second: u64,
    /// Steps that kept all targets.
    pub kept: u32,
    /// Of so many.
    pub steps: u32,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Counts from 1.
    pub number: usize,
    /// Messages a second that were due.
    pub rate_per_second: u64,
    /// As a run of its own, but for its pace.
    pub judgement: Judgement,
    /// Why it is not a pass: targets missed, or what speaks against the step.
    pub reasons: Vec<String>,
    /// Its run's folder within that of `capacity.json`, if there is one.
    pub folder: Option<String>,
    /// Messages a second that were delivered.
    pub delivered_per_second: f64,
    /// Of the response time.
    pub message_p50_ns: Option<u64>,
    /// Of the response time; `None` also for messages that never came.
    pub message_p99_ns: Option<u64>,
    /// Of the send lag.
    pub send_lag_p99_ns: Option<u64>,
    /// The busiest worker, from 0 to 1.
    pub generator_busy: Option<f64>,
    /// The relay's busiest thread, from 0 to 1, where it can be seen.
    pub relay_busy: Option<f64>,
    /// Seconds that the median message came later with each second; `None` for steps below two seconds.
    pub drift: Option<f64>,
}

/// A step with what it showed.
struct Shown {
    step: Step,
    evidence: Evidence,
    about: Option<RelayAbout>,
}

/// Searches. Tells of each step as it is over.
///
/// # Errors
/// [`CapacityError`], when a step cannot be run or filed. A relay that ends by itself is one.
pub fn find(inquiry: &Inquiry, progress: &Progress, interrupted: &AtomicBool) -> Result<Capacity, CapacityError> {
    // A line for each step says enough where lines cannot be taken back.
    let silent = Progress::Silent;
    let within = if progress.is_drawn() { progress } else { &silent };
    find_with(inquiry, progress, |request| measure(request, within, interrupted))
}

/// As [`find`], by steps that `run` takes.
///
/// # Errors
/// As [`find`], and those of `run`.
pub fn find_with(
    inquiry: &Inquiry,
    progress: &Progress,
    mut run: impl FnMut(Request) -> Result<Measurement, RunError>,
) -> Result<Capacity, CapacityError> {
    let started = SystemTime::now();
    let mut search = Search::new(inquiry.settings);
    let mut shown: Vec<Shown> = Vec::new();
    let mut barred = None;
    while let Some(rate) = search.next() {
        let number = shown.len() + 1;
        match take_step(inquiry, number, rate, &mut run) {
            Ok(step) => {
                search.note(rate, trial(step.step.judgement));
                progress.line(&table::line(&step.step));
                shown.push(step);
            }
            // The relay's limits, or this machine's, forbid this rate and allowed a lower one.
            Err(CapacityError::Step { error: error @ (RunError::Refused(_) | RunError::Unfit(_)), .. })
                if number > 1 =>
            {
                let reason = error.to_string();
                progress.line(&format!("{}/s cannot be tried: {reason}", show_count(rate)));
                search.note(rate, Trial::Barred);
                barred = Some(reason);
            }
            Err(error) => return Err(error),
        }
    }
    let capacity = conclude(inquiry, &search.knee(), shown, barred.as_deref(), started);
    if let Some(out) = &inquiry.out {
        write(out, &capacity)?;
    }
    Ok(capacity)
}

fn trial(judgement: Judgement) -> Trial {
    match judgement {
        Judgement::Pass => Trial::Kept,
        Judgement::Fail => Trial::Missed,
        Judgement::Invalid => Trial::Blind,
    }
}

fn take_step(
    inquiry: &Inquiry,
    number: usize,
    rate: u64,
    run: &mut impl FnMut(Request) -> Result<Measurement, RunError>,
) -> Result<Shown, CapacityError> {
    let folder = format!("step-{number:02}-{rate}");
    let dir = inquiry.out.as_ref().map(|out| out.join(&folder));
    if let Some(dir) = &dir {
        make_folder(dir)?;
    }
    let mut request = inquiry.request.clone();
    request.workload.rate = Rate::PerSecond(rate as f64);
    request.relay_log = dir.as_ref().filter(|_| request.spawn.is_some()).map(|dir| dir.join("relay.log"));
    let seconds = request.workload.sending_time().as_secs_f64();
    let before = Counters::read();
    let run = run(request).map_err(|error| CapacityError::Step { rate, error })?;
    let network = Counters::read().since(&before, seconds);
    if let Some(dir) = &dir {
        run.file(dir)?;
    }
    Ok(show(number, rate, &run, network, dir.map(|_| folder)))
}

fn show(number: usize, rate: u64, run: &Measurement, network: NetworkUse, folder: Option<String>) -> Shown {
    let summary = &run.summary;
    let drift = Drift::of(run.intervals());
    let (judgement, missed) = judge(summary, drift);
    let doubts = summary.findings.iter().filter(|finding| finding.severity == Severity::Invalid);
    let mut doubts: Vec<_> = doubts
        .map(|finding| Doubt { kind: Some(finding.kind), text: finding.text.clone(), fix: finding.fix.clone() })
        .collect();
    if doubts.is_empty() {
        let silent = summary.verdict.terms.iter().filter(|term| term.judgement == Judgement::Invalid);
        let doubt = |term: &TermVerdict| Doubt {
            kind: None,
            text: format!("{} has nothing to judge (measured: {})", term.term, term.measured),
            fix: String::new(),
        };
        doubts = silent.map(doubt).collect();
    }
    let reasons = match judgement {
        Judgement::Pass => Vec::new(),
        Judgement::Fail => missed.clone(),
        Judgement::Invalid => doubts.iter().map(|doubt| doubt.text.clone()).collect(),
    };
    let metric = |name: &str| summary.metrics.get(name);
    let loads = summary.relay_loads.clone();
    let counts = |counts: &std::collections::BTreeMap<String, u64>| {
        counts.iter().map(|(what, &count)| (what.clone(), count)).collect()
    };
    let step = Step {
        number,
        rate_per_second: rate,
        judgement,
        reasons,
        folder,
        delivered_per_second: summary.throughput.delivered_per_second,
        message_p50_ns: metric("message").and_then(|metric| metric.p50),
        message_p99_ns: metric("message").and_then(|metric| metric.p99),
        send_lag_p99_ns: metric("send_lag").and_then(|metric| metric.p99),
        generator_busy: summary.generator.workers.iter().filter_map(|worker| worker.health.busy).reduce(f64::max),
        relay_busy: loads.iter().map(|load| load.busy).reduce(f64::max),
        drift: drift.map(Drift::rate),
    };
    let polls = summary.relay_about.as_ref().and_then(|about| about.config["busy-poll"].as_str());
    let evidence = Evidence {
        missed,
        doubts,
        refusals: if summary.ledger.refused > 0 { counts(&summary.ledger.errors) } else { Vec::new() },
        disconnects: counts(&summary.ledger.disconnects),
        loads,
        busy_polls: polls.is_some_and(|pause| pause != "0s"),
        network,
    };
    Shown { step, evidence, about: summary.relay_about.clone() }
}

/// The step's verdict, and which targets it missed.
fn judge(summary: &Summary, drift: Option<Drift>) -> (Judgement, Vec<String>) {
    let missed = summary.verdict.terms.iter().filter(|term| term.judgement == Judgement::Fail);
    let mut missed: Vec<_> = missed.map(|term| format!("{} (measured: {})", term.term, term.measured)).collect();
    if let Some(drift) = drift.filter(|drift| drift.is_behind()) {
        let later = show_ns((drift.rate() * 1e9) as u64);
        missed.push(format!("falls behind: messages came {later} later with every second"));
    }
    let judgement = match summary.verdict.judgement {
        Judgement::Pass if !missed.is_empty() => Judgement::Fail,
        judgement => judgement,
    };
    (judgement, missed)
}

/// How much later the median message came at the end of a step than at its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Drift {
    seconds: f64,
    /// Seconds from the middle of the first second to that of the last.
    within: f64,
}

impl Drift {
    /// `None` of a step of less than two seconds, or without messages.
    fn of(intervals: &[Interval]) -> Option<Self> {
        // The first interval is all before the steady phase; a short last one says little.
        let whole = |interval: &&Interval| interval.length.as_millis() >= 500;
        let mut steady = intervals.get(1..)?.iter().filter(whole);
        let (first, last) = (steady.next()?, steady.next_back()?);
        let median = |interval: &Interval| quantile(interval.recorder.of(Metric::Message), 0, 0.5);
        let seconds = (median(last)? as f64 - median(first)? as f64) / 1e9;
        let within = (last.start + last.length / 2).saturating_sub(first.start + first.length / 2);
        Some(Self { seconds, within: within.as_secs_f64().max(1e-3) })
    }

    /// Seconds for each second.
    fn rate(self) -> f64 {
        self.seconds / self.within
    }

    fn is_behind(self) -> bool {
        self.rate() > DRIFT_MAX && self.seconds > DRIFT_LEAST_SECONDS
    }
}

fn conclude(
    inquiry: &Inquiry,
    knee: &Knee,
    mut shown: Vec<Shown>,
    barred: Option<&str>,
    started: SystemTime,
) -> Capacity {
    let outcome = match (knee.kept, knee.bound) {
        (Some(_), Bound::Missed) => Outcome::Found,
        (Some(_), _) => Outcome::AtLeast,
        (None, Bound::Missed) => Outcome::NothingKept,
        (None, _) => Outcome::Blind,
    };
    let limit = match (knee.bound, knee.missed, barred) {
        (Bound::Barred, _, Some(reason)) => Limit::barred(reason),
        (bound, Some((rate, _)), _) => {
            // Of the steps at that rate the last that was decided against.
            let against =
                |shown: &&Shown| shown.step.rate_per_second == rate && shown.step.judgement != Judgement::Pass;
            let wanted = if bound == Bound::Blind { Judgement::Invalid } else { Judgement::Fail };
            let mut steps = shown.iter().filter(against).rev();
            let step = steps.clone().find(|shown| shown.step.judgement == wanted).or_else(|| steps.next());
            step.map_or_else(Limit::asked, |shown| Limit::of(bound, &shown.evidence))
        }
        (..) => Limit::asked(),
    };
    let rate = knee.estimate();
    let enough = inquiry.at_least.map(|wanted| knee.kept.is_some_and(|(kept, _)| kept >= wanted));
    let exit = exit(outcome, enough, limit.kind);
    let record = |(rate_per_second, tally): (u64, search::Tally)| RateRecord {
        rate_per_second,
        kept: tally.kept,
        steps: tally.steps(),
    };
    Capacity {
        schema: SCHEMA.to_owned(),
        started: humantime::format_rfc3339_seconds(started).to_string(),
        argv: std::env::args().collect(),
        outcome,
        exit_code: exit.code(),
        rate_per_second: rate,
        kept: knee.kept.map(record),
        missed: knee.missed.map(record),
        between: knee.between,
        limit,
        at_least: inquiry.at_least,
        targets: inquiry.request.slo.terms.iter().map(ToString::to_string).collect(),
        resolution: inquiry.settings.resolution,
        repeats: inquiry.settings.repeats,
        relay_about: shown.iter_mut().find_map(|shown| shown.about.take()),
        steps: shown.into_iter().map(|shown| shown.step).collect(),
        environment: Environment::read(),
    }
}

/// How the command ends: see `loadgen capacity --help`.
fn exit(outcome: Outcome, enough: Option<bool>, limit: LimitKind) -> Exit {
    match (outcome, enough) {
        (_, Some(true)) => Exit::Pass,
        (Outcome::Blind, _) => Exit::Invalid,
        (Outcome::NothingKept, _) | (Outcome::Found, Some(false)) => Exit::Missed,
        (Outcome::Found, None) => Exit::Pass,
        // Nothing says that the relay could not do more.
        (Outcome::AtLeast, _) if matches!(limit, LimitKind::Generator | LimitKind::Doubt) => Exit::Invalid,
        (Outcome::AtLeast, Some(false)) => Exit::Invalid,
        (Outcome::AtLeast, None) => Exit::Pass,
    }
}

impl Capacity {
    /// How the command ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let enough = self.at_least.map(|wanted| self.kept.is_some_and(|kept| kept.rate_per_second >= wanted));
        exit(self.outcome, enough, self.limit.kind)
    }
}

fn write(out: &Path, capacity: &Capacity) -> Result<(), CapacityError> {
    let path = out.join("capacity.json");
    let text = serde_json::to_vec_pretty(capacity).map_err(io::Error::other);
    text.and_then(|mut text| {
        text.push(b'\n');
        fs::write(&path, text)
    })
    .map_err(|error| CapacityError::Record { path, error })
}

#[cfg(test)]
mod tests;
