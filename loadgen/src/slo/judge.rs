//! Whether targets were met.

use std::fmt;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Relation, Slo, SloMetric, Subject, Term};
use crate::ledger::{Ledger, LobbyOutcome};
use crate::recorder::{Metric, Missing, Recorder, quantile};
use crate::scenario::outcome::StormSummary;
use crate::units::{show_count, show_ns};
use crate::validity::{Finding, FindingKind, SAMPLES_BEYOND, Severity, Standing};

/// What targets are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Of the steady phase.
    pub recorder: &'a Recorder,
    /// Samples of the steady phase that never came: infinitely late.
    pub missing: &'a Missing,
    /// Of the whole run.
    pub ledger: &'a Ledger,
    /// Of the whole run.
    pub lobby: &'a LobbyOutcome,
    /// Messages delivered a second in the steady phase.
    pub delivered_per_second: f64,
    /// What the generator's own part leaves of that.
    pub standing: Standing,
    /// The storm, if there was one.
    pub storm: Option<&'a StormSummary>,
}

/// Whether one target was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// Met.
    Pass,
    /// Not met.
    Fail,
    /// The run says nothing about it.
    Invalid,
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Invalid => "INVALID",
        })
    }
}

/// One target, judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TermVerdict {
    /// The target as it was given.
    pub term: String,
    /// What was measured, for a person.
    pub measured: String,
    /// Whether it was met.
    pub judgement: Judgement,
}

impl Slo {
    /// Judges every target. What is found is that samples are too few.
    #[must_use]
    pub fn judge(&self, measured: &Measured<'_>) -> (Vec<TermVerdict>, Vec<Finding>) {
        let (verdicts, findings): (_, Vec<_>) = self.terms.iter().map(|term| term.judge(measured)).unzip();
        (verdicts, findings.into_iter().flatten().collect())
    }

    /// The tightest target for the time of a message.
    #[must_use]
    pub fn tightest_ns(&self) -> Option<u64> {
        let of_messages = self.terms.iter().filter(|term| match term.subject {
            Subject::Quantile { metric: SloMetric::One(metric), .. } => {
                matches!(metric, Metric::Message | Metric::Service | Metric::Ack | Metric::AckOffline)
            }
            _ => false,
        });
        of_messages.map(|term| term.bound as u64).min()
    }

    /// The highest percentile asked for, as a share; 1 for a maximum.
    #[must_use]
    pub fn strictest(&self) -> Option<f64> {
        let quantiles = self.terms.iter().filter_map(|term| match term.subject {
            Subject::Quantile { quantile, .. } => Some(quantile),
            _ => None,
        });
        quantiles.reduce(f64::max)
    }
}

/// How many samples settle a percentile: [`SAMPLES_BEYOND`] of them lie beyond it. A maximum is what
/// it is: one.
#[must_use]
pub fn samples_needed(quantile: f64) -> u64 {
    if quantile >= 1.0 {
        return 1;
    }
    // Less a trace, since 1 - 0.9 is not quite 0.1.
    (SAMPLES_BEYOND as f64 / (1.0 - quantile) - 1e-6).ceil() as u64
}

/// The verdict over all targets of a run. `spoiled` is whether it says nothing about the relay: then
/// what is missed all the same can only be the relay's doing.
#[must_use]
pub fn overall(verdicts: &[TermVerdict], spoiled: bool) -> Judgement {
    let any = |judgement| verdicts.iter().any(|verdict| verdict.judgement == judgement);
    if any(Judgement::Fail) {
        Judgement::Fail
    } else if spoiled || any(Judgement::Invalid) {
        Judgement::Invalid
    } else {
        Judgement::Pass
    }
}

impl Term {
    fn judge(&self, run: &Measured<'_>) -> (TermVerdict, Option<Finding>) {
        let ledger = run.ledger;
        match self.subject {
            // Zero of nothing says nothing.
            Subject::Loss if ledger.undelivered() + ledger.sent == 0 => self.judge_nothing(run, "no messages"),
            Subject::Unacked if ledger.sent == 0 => self.judge_nothing(run, "no messages"),
            Subject::Duplicates if ledger.duplicates + ledger.sent == 0 => self.judge_nothing(run, "no messages"),
            Subject::Diverged if run.lobby.diverged + run.lobby.clients == 0 => self.judge_nothing(run, "no lobbies"),
            Subject::Loss => self.judge_count(run, ledger.undelivered(), run.standing.lost_by_relay),
            Subject::Unacked => self.judge_count(run, ledger.unacked, run.standing.unacked_by_relay),
            Subject::Duplicates => self.judge_count(run, ledger.duplicates, ledger.duplicates),
            Subject::Errors => self.judge_count(run, ledger.faults(), run.standing.faults_of_relay),
            Subject::Diverged => self.judge_count(run, run.lobby.diverged, run.standing.diverged_by_relay),
            Subject::Rate => {
                let rate = run.delivered_per_second;
                let met = self.relation.holds(rate, self.bound);
                self.verdict(run, format!("{}/s", show_count(rate as u64)), self.unless_floor(run, met), false)
            }
            Subject::StormConverged => match run.storm.filter(|storm| storm.converged.is_some()) {
                None => self.judge_nothing(run, "no storm, or no lobbies"),
                Some(storm) => {
                    let time = storm.converge_time;
                    let met = self.relation.holds(time.map_or(f64::INFINITY, |ns| ns as f64), self.bound);
                    // A generator that was the bound can show that a target is met, not that it is missed.
                    let judgement = if storm.is_floor() && !met { Judgement::Invalid } else { judged(met) };
                    self.verdict(run, time.map_or_else(|| "never".to_owned(), show_ns), judgement, false)
                }
            },
            Subject::Quantile { metric, quantile } => {
                let (name, histogram, missing) = match metric {
                    SloMetric::One(metric) => (metric.name(), run.recorder.of(metric), run.missing.of(metric)),
                    SloMetric::Lobby => ("lobby", &run.recorder.lobby(), run.missing.lobby()),
                };
                self.judge_quantile(run, name, histogram, missing, quantile)
            }
        }
    }

    /// What the target is about never happened.
    fn judge_nothing(&self, run: &Measured<'_>, what: &str) -> (TermVerdict, Option<Finding>) {
        self.verdict(run, what.to_owned(), Judgement::Invalid, false)
    }

    /// A count, of which so many only the relay can have made.
    fn judge_count(&self, run: &Measured<'_>, count: u64, by_relay: u64) -> (TermVerdict, Option<Finding>) {
        let judgement = judged(self.relation.holds(count as f64, self.bound));
        let stands = match self.relation {
            Relation::Below => by_relay as f64 >= self.bound,
            _ => by_relay as f64 > self.bound,
        };
        self.verdict(run, show_count(count), judgement, stands)
    }

    fn judge_quantile(
        &self,
        run: &Measured<'_>,
        name: &str,
        histogram: &Histogram<u64>,
        missing: u64,
        share: f64,
    ) -> (TermVerdict, Option<Finding>) {
        let samples = histogram.len() + missing;
        if samples == 0 {
            return self.judge_nothing(run, "no samples");
        }
        let value = quantile(histogram, missing, share);
        let measured = value.map_or_else(|| "never".to_owned(), show_ns);
        let met = self.relation.holds(value.map_or(f64::INFINITY, |ns| ns as f64), self.bound);
        let needed = samples_needed(share);
        // A miss is settled by as many samples beyond the bound as a percentile needs beyond itself.
        let beyond = missing + histogram.len() - histogram.count_between(0, self.bound as u64);
        if samples >= needed || (!met && beyond >= SAMPLES_BEYOND) {
            return self.verdict(run, measured, self.unless_floor(run, met), false);
        }
        let longer = needed.div_ceil(samples);
        let finding = Finding {
            kind: FindingKind::FewSamples,
            severity: Severity::Invalid,
            metric: Some(name.to_owned()),
            measured: show_count(samples),
            text: format!(
                "{} asks for more than {} samples can say: {} are needed",
                self.text,
                show_count(samples),
                show_count(needed)
            ),
            fix: format!("measure {longer} times as long (--duration), or ask for a lower percentile"),
        };
        let measured = format!("{measured} in {} samples", show_count(samples));
        let (verdict, _) = self.verdict(run, measured, Judgement::Invalid, false);
        (verdict, Some(finding))
    }

    /// What is missed where the generator was the bound of a closed loop says nothing.
    fn unless_floor(&self, run: &Measured<'_>, met: bool) -> Judgement {
        if run.standing.floor && !met { Judgement::Invalid } else { judged(met) }
    }

    /// `stands` is whether a miss is the relay's whatever the generator did.
    fn verdict(
        &self,
        run: &Measured<'_>,
        measured: String,
        judgement: Judgement,
        stands: bool,
    ) -> (TermVerdict, Option<Finding>) {
        let judgement = match judgement {
            Judgement::Fail if stands => Judgement::Fail,
            _ if run.standing.spoiled => Judgement::Invalid,
            judgement => judgement,
        };
        (TermVerdict { term: self.text.clone(), measured, judgement }, None)
    }
}

fn judged(met: bool) -> Judgement {
    if met { Judgement::Pass } else { Judgement::Fail }
}
