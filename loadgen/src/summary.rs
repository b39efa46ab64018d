//! `summary.json`: everything about one run, for programs. Its form has a version; fields may be
//! added within one, never changed or removed. What is added has a `#[serde(default)]`, so that the
//! files of earlier builds can still be read; unknown fields are passed over.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use relay_engine::EngineStats;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::interference::Interference;
use crate::ledger::{Ledger, LobbyOutcome, SteadyCounts};
use crate::plan::WorkloadRecord;
use crate::recorder::{Metric, Missing, Recorder, quantile};
use crate::relay_admin::{RelayAbout, ShardLoad};
use crate::relay_process::Usage;
use crate::scenario::outcome::{Aside, CrashCounts, OfflineSummary, SlowReaderCounts, StepSummary, StormSummary};
use crate::slo::{Judgement, TermVerdict};
use crate::spread::Reach;
use crate::validity::Finding;
use crate::worker::WorkerHealth;

/// The form of [`Summary`].
pub const SCHEMA: &str = "relay-loadgen-summary/1";

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// [`SCHEMA`].
    pub schema: String,
    /// When the program started, UTC.
    pub started: String,
    /// The command line.
    pub argv: Vec<String>,
    /// Whether targets were met.
    pub verdict: Verdict,
    /// What speaks against the run, or against a figure of it. Runs of the first build have none.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// What was asked for.
    pub workload: WorkloadRecord,
    /// What was loaded.
    pub target: TargetRecord,
    /// By metric, of the steady phase (connect and auth: of the ramp too). Nanoseconds.
    pub metrics: BTreeMap<String, MetricSummary>,
    /// Of the steady phase, by intended send time.
    pub steady: SteadyCounts,
    /// Messages a second in the steady phase.
    pub throughput: Throughput,
    /// Of the whole run.
    pub ledger: Ledger,
    /// Of the whole run.
    pub lobby: LobbyOutcome,
    /// Joins and leaves of the steady phase that watchers saw, of those they should have seen.
    /// `None` without any.
    pub lobby_reach: Option<f64>,
    /// Of the whole run: messages that no target is judged by.
    #[serde(default)]
    pub aside: Aside,
    /// The steps of a rising rate.
    #[serde(default)]
    pub steps: Vec<StepSummary>,
    /// The storm, if there was one.
    #[serde(default)]
    pub storm: Option<StormSummary>,
    /// The slow readers, if there were some.
    #[serde(default)]
    pub slow_readers: Option<SlowReaderCounts>,
    /// Who was offline, if somebody was to be.
    #[serde(default)]
    pub offline: Option<OfflineSummary>,
    /// The relay that was killed now and then, if it was.
    #[serde(default)]
    pub crash: Option<CrashCounts>,
    /// The same in numbers.
    #[serde(default)]
    pub reach: Reach,
    /// The generator.
    pub generator: Generator,
    /// A relay of our own.
    pub relay: Option<RelayRecord>,
    /// What the relay said of itself: its build and its configuration.
    #[serde(default)]
    pub relay_about: Option<RelayAbout>,
    /// How busy its shards were in the steady phase; empty where that cannot be seen.
    #[serde(default)]
    pub relay_loads: Vec<ShardLoad>,
    /// Where it took place.
    pub environment: Environment,
    /// What a reader should know.
    pub notes: Vec<String>,
    /// The generators whose runs were merged into this one; empty for a run of one generator.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<Part>,
}

/// One generator's part in a merged run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Part {
    /// The name of its folder.
    pub name: String,
    /// When its program started, UTC.
    pub started: String,
    /// Its command line.
    pub argv: Vec<String>,
    /// What was asked of it.
    pub workload: WorkloadRecord,
    /// Its own verdict.
    pub verdict: Judgement,
    /// Where it ran.
    pub environment: Environment,
}

/// Whether targets were met.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// Over all targets; a pass without any.
    pub judgement: Judgement,
    /// Of the program.
    pub exit_code: u8,
    /// Each of them.
    pub terms: Vec<TermVerdict>,
}

/// What was loaded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TargetRecord {
    /// `ws://…`.
    pub url: String,
    /// The relay's name.
    pub relay_name: String,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Throughput {
    /// Due.
    pub due_per_second: f64,
    /// Handed to connections.
    pub sent_per_second: f64,
    /// Delivered within the steady phase.
    pub delivered_per_second: f64,
    /// Acked within the steady phase; `None` of earlier builds.
    #[serde(default)]
    pub acked_per_second: Option<f64>,
}

/// The generator's side.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Generator {
    /// The workers' engine.
    pub engine: String,
    /// The cores of the workers; empty if they were not pinned.
    pub pin_cores: Vec<usize>,
    /// Local addresses that were connected from; empty if the kernel chose.
    #[serde(default)]
    pub source_ips: Vec<String>,
    /// Messages that were signed before the run.
    pub signed_ahead: u64,
    /// Each worker.
    pub workers: Vec<WorkerRecord>,
    /// What this machine did to threads that only had to wake up every millisecond, in the steady
    /// phase.
    #[serde(default)]
    pub heartbeats: Vec<HeartbeatRecord>,
    /// What others took of the generator's CPU time in the steady phase.
    #[serde(default)]
    pub interference: Interference,
}

/// One heartbeat.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct HeartbeatRecord {
    /// The core it was kept on; `None` if it floated.
    pub core: Option<usize>,
    /// How late its beats were. Nanoseconds.
    pub late: MetricSummary,
    /// Beats that were late by more than 10 ms.
    pub long_stalls: u64,
    /// Time that lay in them.
    pub stalled_ns: u64,
}

/// One worker.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// How it fared.
    #[serde(flatten)]
    pub health: WorkerHealth,
    /// System calls of its engine.
    pub enters: u64,
    /// Operations of its engine.
    pub submissions: u64,
    /// Completions of its engine.
    pub completions: u64,
    /// Times its completion queue overflowed.
    pub completion_overflows: u64,
    /// Times a receive found no buffer.
    pub buffer_shortages: u64,
}

impl WorkerRecord {
    /// Puts a worker's health and its engine's counts together.
    #[must_use]
    pub fn new(health: WorkerHealth, stats: &EngineStats) -> Self {
        Self {
            health,
            enters: stats.enters,
            submissions: stats.submissions,
            completions: stats.completions,
            completion_overflows: stats.completion_overflows,
            buffer_shortages: stats.buffer_shortages,
        }
    }
}

/// A relay that was started for the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RelayRecord {
    /// Its program.
    pub program: String,
    /// Its arguments, besides its addresses.
    pub arguments: Vec<String>,
    /// The line that it started with: shards, engine, and why.
    pub start_line: String,
    /// What its admin port said of its version, as text; `relay_about` has more.
    pub version: Option<String>,
    /// Before anybody connected.
    pub empty: Usage,
    /// When all clients were there.
    pub connected: Usage,
    /// When the steady phase began.
    pub steady_begin: Usage,
    /// When the steady phase ended.
    pub steady_end: Usage,
    /// Its own memory for each client at the end of the steady phase, over what it had empty.
    pub bytes_per_client: Option<u64>,
    /// Its CPU time for each message delivered in the steady phase; presence is in it too.
    pub cpu_ns_per_message: Option<u64>,
    /// Whether it exited with 0 on SIGTERM; if not, what it did.
    pub end: Result<(), String>,
}

/// The percentiles of one metric. `null` is a message that never came, or no sample.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricSummary {
    /// Samples that came.
    pub n: u64,
    /// Samples that never came, which count as infinite.
    pub infinite: u64,
    /// The mean of those that came, rounded.
    pub mean: u64,
    /// The smallest.
    pub min: u64,
    /// Percentiles over all samples, infinite ones included.
    pub p50: Option<u64>,
    /// 90 %.
    pub p90: Option<u64>,
    /// 99 %.
    pub p99: Option<u64>,
    /// 99.9 %.
    #[serde(rename = "p99.9")]
    pub p99_9: Option<u64>,
    /// 99.99 %.
    #[serde(rename = "p99.99")]
    pub p99_99: Option<u64>,
    /// The largest.
    pub max: Option<u64>,
}

impl MetricSummary {
    /// Sums a histogram up.
    #[must_use]
    pub fn of(histogram: &Histogram<u64>, infinite: u64) -> Self {
        let at = |share| quantile(histogram, infinite, share);
        Self {
            n: histogram.len(),
            infinite,
            mean: histogram.mean().round() as u64,
            min: histogram.min(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: at(1.0),
        }
    }
}

/// The percentiles of all metrics.
#[must_use]
pub fn metrics(recorder: &Recorder, missing: &Missing) -> BTreeMap<String, MetricSummary> {
    let of = |metric: Metric| (metric.name().to_owned(), MetricSummary::of(recorder.of(metric), missing.of(metric)));
    let lobby = ("lobby".to_owned(), MetricSummary::of(&recorder.lobby(), missing.lobby()));
    Metric::ALL.into_iter().map(of).chain([lobby]).collect()
}

#[cfg(test)]
mod tests {
    use super::{MetricSummary, metrics};
    use crate::recorder::{Metric, Missing, Recorder, empty};
    use serde_json::json;

    #[test]
    fn percentiles_have_their_names_and_the_infinite_are_null() {
        let mut histogram = empty();
        for value in 1..=99 {
            histogram.record(value).unwrap();
        }
        let summary = serde_json::to_value(MetricSummary::of(&histogram, 1)).unwrap();
        let expected = json!({
            "n": 99, "infinite": 1, "mean": 50, "min": 1,
            "p50": 50, "p90": 90, "p99": 99, "p99.9": null, "p99.99": null, "max": null,
        });
        assert_eq!(summary, expected);
    }

    #[test]
    fn what_never_came_counts_for_its_own_metric() {
        let mut recorder = Recorder::default();
        recorder.record(Metric::LobbyJoin, 10);
        recorder.record(Metric::LobbyLeave, 30);
        let mut missing = Missing::default();
        missing.set(Metric::Message, 5);
        missing.set(Metric::LobbyLeave, 1);
        let metrics = metrics(&recorder, &missing);
        assert_eq!(metrics["message"].infinite, 5);
        assert_eq!(metrics["service"].infinite, 0);
        assert_eq!((metrics["lobby"].n, metrics["lobby"].infinite), (2, 1));
        assert_eq!((metrics["lobby"].p50, metrics["lobby"].max), (Some(30), None));
        assert_eq!(metrics["lobby.leave"].max, None);
        assert_eq!(metrics["lobby.join"].max, Some(10));
    }
}
