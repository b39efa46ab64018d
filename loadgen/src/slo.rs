//! Targets and whether they were met.
//!
//! ```text
//! targets  = term {"," term}
//! term     = metric "." percentile ("<" | "<=") duration        message.p99<500ms
//!          | count ("=" | "<" | "<=") number                    loss=0
//!          | "rate" (">" | ">=") number                         rate>=40000
//! metric   = message | service | send_lag | ack | lobby | lobby.join | lobby.leave | connect | auth
//! percentile = p50 | p90 | p99 | p99.9 | p99.99 | max           (any number behind the p)
//! count    = loss | duplicates | errors | diverged
//! ```
//! `lobby` is joins and leaves together; `loss` counts whatever was due and did not arrive as sent;
//! `errors` everything else that is wrong; `rate` is messages delivered a second.
//!
//! A term about something that never happened is neither met nor missed: it is invalid.

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::to_ns;
use crate::ledger::{Ledger, LobbyOutcome};
use crate::recorder::{Metric, Recorder, quantile};
use crate::units::{show_count, show_ns};

/// All targets of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slo {
    /// In the order in which they were given.
    pub terms: Vec<Term>,
}

/// One target.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    text: String,
    subject: Subject,
    relation: Relation,
    /// Nanoseconds, messages, or messages a second.
    bound: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Subject {
    Quantile { metric: SloMetric, quantile: f64 },
    Loss,
    Duplicates,
    Errors,
    Diverged,
    Rate,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum SloMetric {
    One(Metric),
    Lobby,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Below,
    AtMost,
    Equal,
    Above,
    AtLeast,
}

impl Relation {
    fn holds(self, measured: f64, bound: f64) -> bool {
        match self {
            Self::Below => measured < bound,
            Self::AtMost => measured <= bound,
            Self::Equal => measured == bound,
            Self::Above => measured > bound,
            Self::AtLeast => measured >= bound,
        }
    }
}

/// Why targets cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("target `{term}`: {reason}")]
pub struct SloError {
    term: String,
    reason: String,
}

/// The relay's promises.
const MESSAGE_TERMS: &str = "message.p99<500ms,loss=0";
const LOBBY_TERMS: &str = "lobby.p99<100ms";

impl Slo {
    /// What the relay promises, as far as a run can tell: with messages, with visitors who join and leave.
    ///
    /// # Panics
    /// Never: the terms are constants, and a test reads them.
    #[must_use]
    pub fn standard(messages: bool, visitors: bool) -> Self {
        let promised = [messages.then_some(MESSAGE_TERMS), visitors.then_some(LOBBY_TERMS)];
        let texts = promised.into_iter().flatten().flat_map(|terms| terms.split(','));
        Self { terms: texts.map(|text| Term::parse(text).expect("the relay's promises are terms")).collect() }
    }
}

/// A target about a time, as charts draw it.
#[derive(Clone, Debug, PartialEq)]
pub struct TimeBound {
    /// The target as it was given.
    pub term: String,
    /// The metric's name; `lobby` is joins and leaves together.
    pub metric: &'static str,
    /// Which share of samples has to be within, 0.99 for p99.
    pub share: f64,
    /// How long it may take.
    pub bound_ns: f64,
}

impl Slo {
    /// The targets about times.
    pub fn time_bounds(&self) -> impl Iterator<Item = TimeBound> + use<> {
        let bounds = self.terms.iter().filter_map(|term| {
            let Subject::Quantile { metric, quantile } = term.subject else { return None };
            let metric = match metric {
                SloMetric::One(metric) => metric.name(),
                SloMetric::Lobby => "lobby",
            };
            Some(TimeBound { term: term.text.clone(), metric, share: quantile, bound_ns: term.bound })
        });
        bounds.collect::<Vec<_>>().into_iter()
    }
}

impl FromStr for Slo {
    type Err = SloError;

    fn from_str(text: &str) -> Result<Self, SloError> {
        let terms = text.split(',').map(|term| Term::parse(term.trim())).collect::<Result<_, _>>()?;
        Ok(Self { terms })
    }
}

impl Term {
    fn parse(text: &str) -> Result<Self, SloError> {
        let error = |reason: &str| SloError { term: text.to_owned(), reason: reason.to_owned() };
        let at = text.find(['<', '>', '=']).ok_or_else(|| error("has no `<`, `<=`, `=`, `>` or `>=`"))?;
        let (name, rest) = text.split_at(at);
        let (relation, value) = [
            ("<=", Relation::AtMost),
            (">=", Relation::AtLeast),
            ("<", Relation::Below),
            (">", Relation::Above),
            ("=", Relation::Equal),
        ]
        .into_iter()
        .find_map(|(sign, relation)| Some((relation, rest.strip_prefix(sign)?)))
        .ok_or_else(|| error("has no relation"))?;
        let subject = Subject::parse(name.trim()).map_err(|reason| error(&reason))?;
        let value = value.trim();
        let allowed: &[Relation] = match subject {
            Subject::Quantile { .. } => &[Relation::Below, Relation::AtMost],
            Subject::Rate => &[Relation::Above, Relation::AtLeast],
            _ => &[Relation::Below, Relation::AtMost, Relation::Equal],
        };
        if !allowed.contains(&relation) {
            return Err(error("asks for the wrong direction: times and counts are bounded above, the rate below"));
        }
        let bound = match subject {
            Subject::Quantile { .. } => {
                to_ns(humantime::parse_duration(value).map_err(|_| error("needs a duration, as 500ms"))?) as f64
            }
            _ => value
                .strip_suffix("/s")
                .unwrap_or(value)
                .parse()
                .ok()
                .filter(|bound: &f64| bound.is_finite() && *bound >= 0.0)
                .ok_or_else(|| error("needs a number"))?,
        };
        Ok(Self { text: text.to_owned(), subject, relation, bound })
    }
}

impl Subject {
    fn parse(name: &str) -> Result<Self, String> {
        Ok(match name {
            "loss" => Self::Loss,
            "duplicates" => Self::Duplicates,
            "errors" => Self::Errors,
            "diverged" => Self::Diverged,
            "rate" => Self::Rate,
            _ => {
                let unknown = || format!("`{name}` is unknown; write for example message.p99, lobby.p99, loss or rate");
                // The percentile may hold a dot itself: p99.9.
                let at = name.find(".p").or_else(|| name.find(".max")).ok_or_else(unknown)?;
                let (metric, percentile) = (&name[..at], &name[at + 1..]);
                let metric = if metric == "lobby" {
                    SloMetric::Lobby
                } else {
                    SloMetric::One(Metric::ALL.into_iter().find(|known| known.name() == metric).ok_or_else(unknown)?)
                };
                let quantile = if percentile == "max" {
                    1.0
                } else {
                    // 99.9 / 100 is a little more than 0.999: only whole numbers are divided without such a surplus,
                    // which would make it the next rank.
                    percentile[1..]
                        .parse()
                        .ok()
                        .filter(|percent: &f64| (0.0..=100.0).contains(percent))
                        .map(|percent: f64| (percent * 1e9).round() / 1e11)
                        .ok_or_else(unknown)?
                };
                Self::Quantile { metric, quantile }
            }
        })
    }
}

/// What targets are judged by.
#[derive(Clone, Copy, Debug)]
pub struct Measured<'a> {
    /// Of the steady phase.
    pub recorder: &'a Recorder,
    /// Messages due in the steady phase that never came: infinitely late.
    pub undelivered: u64,
    /// Of the whole run.
    pub ledger: &'a Ledger,
    /// Of the whole run.
    pub lobby: &'a LobbyOutcome,
    /// Messages delivered a second in the steady phase.
    pub delivered_per_second: f64,
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
    /// Judges every target.
    #[must_use]
    pub fn judge(&self, measured: &Measured<'_>) -> Vec<TermVerdict> {
        self.terms.iter().map(|term| term.judge(measured)).collect()
    }
}

/// The verdict over all targets: a missed one makes a miss, else an invalid one makes the run
/// invalid.
#[must_use]
pub fn overall(verdicts: &[TermVerdict]) -> Judgement {
    let any = |judgement| verdicts.iter().any(|verdict| verdict.judgement == judgement);
    if any(Judgement::Fail) {
        Judgement::Fail
    } else if any(Judgement::Invalid) {
        Judgement::Invalid
    } else {
        Judgement::Pass
    }
}

impl Term {
    fn judge(&self, run: &Measured<'_>) -> TermVerdict {
        let count = |count: u64| (show_count(count), Some(count as f64));
        let (measured, value) = match self.subject {
            Subject::Loss => count(run.ledger.undelivered()),
            Subject::Duplicates => count(run.ledger.duplicates),
            Subject::Errors => count(run.ledger.faults()),
            Subject::Diverged => count(run.lobby.diverged),
            Subject::Rate => {
                (format!("{}/s", show_count(run.delivered_per_second as u64)), Some(run.delivered_per_second))
            }
            Subject::Quantile { metric, quantile } => {
                let infinite = match metric {
                    SloMetric::One(Metric::Message | Metric::Service) => run.undelivered,
                    _ => 0,
                };
                match metric {
                    SloMetric::One(metric) => show_quantile(run.recorder.of(metric), infinite, quantile),
                    SloMetric::Lobby => show_quantile(&run.recorder.lobby(), infinite, quantile),
                }
            }
        };
        let judgement = match value {
            None => Judgement::Invalid,
            Some(value) if self.relation.holds(value, self.bound) => Judgement::Pass,
            Some(_) => Judgement::Fail,
        };
        TermVerdict { term: self.text.clone(), measured, judgement }
    }
}

fn show_quantile(histogram: &Histogram<u64>, infinite: u64, share: f64) -> (String, Option<f64>) {
    if histogram.len() + infinite == 0 {
        return ("no samples".to_owned(), None);
    }
    match quantile(histogram, infinite, share) {
        Some(ns) => (show_ns(ns), Some(ns as f64)),
        None => ("never delivered".to_owned(), Some(f64::INFINITY)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Judgement, Measured, Slo, overall};
    use crate::ledger::{Ledger, LobbyOutcome};
    use crate::recorder::{Metric, Recorder};

    fn judge(targets: &str, recorder: &Recorder, undelivered: u64, ledger: &Ledger) -> Vec<Judgement> {
        let slo: Slo = targets.parse().unwrap();
        let lobby = LobbyOutcome { diverged: 2, ..LobbyOutcome::default() };
        let measured = Measured { recorder, undelivered, ledger, lobby: &lobby, delivered_per_second: 1999.5 };
        slo.judge(&measured).into_iter().map(|verdict| verdict.judgement).collect()
    }

    #[test]
    fn without_targets_the_relays_promises_are_judged() {
        let texts = |messages, visitors| {
            let slo = Slo::standard(messages, visitors);
            slo.terms.iter().map(|term| term.text.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(true, true), "message.p99<500ms loss=0 lobby.p99<100ms");
        assert_eq!(texts(true, false), "message.p99<500ms loss=0");
        assert_eq!(texts(false, false), "");
    }

    #[test]
    fn the_usual_targets_are_read() {
        let slo: Slo = "message.p99<500ms, lobby.p99<100ms,loss=0,lobby.join.p99.9<=1s,rate>=2000/s".parse().unwrap();
        assert_eq!(slo.terms.len(), 5);
    }

    #[test]
    fn a_percentile_is_the_share_that_its_decimals_say() {
        for (term, share) in
            [("ack.p99.9<1s", 0.999), ("ack.p99.99<1s", 0.9999), ("ack.p7<1s", 0.07), ("ack.max<1s", 1.0)]
        {
            let bound = term.parse::<Slo>().unwrap().time_bounds().next().unwrap();
            assert_eq!((bound.share, bound.metric, bound.bound_ns), (share, "ack", 1e9), "{term}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (targets, named, why) in [
            ("loss=0,mesage.p99<1s", "mesage.p99<1s", "unknown"),
            ("message.p99", "message.p99", "no `<`"),
            ("message.p99<500", "message.p99<500", "duration"),
            ("message.p101<5ms", "message.p101<5ms", "unknown"),
            ("message.p99>5ms", "message.p99>5ms", "direction"),
            ("rate<5", "rate<5", "direction"),
            ("loss=some", "loss=some", "number"),
            ("loss=0,", "", "no `<`"),
            ("message<5ms", "message<5ms", "unknown"),
        ] {
            let error = targets.parse::<Slo>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{named}`")) && error.contains(why), "{targets}: {error}");
        }
    }

    #[test]
    fn bounds_are_judged_to_the_nanosecond_they_can_tell_apart() {
        let mut recorder = Recorder::default();
        for value in 1..=100 {
            recorder.record(Metric::Message, value * 10);
        }
        let ledger = Ledger { duplicates: 3, ..Ledger::default() };
        let judged = judge(
            "message.p99<991ns,message.p99<990ns,message.p99<=990ns,message.max<1ms,loss=0,duplicates<3,duplicates<=3",
            &recorder,
            0,
            &ledger,
        );
        use Judgement::{Fail, Pass};
        assert_eq!(judged, [Pass, Fail, Pass, Pass, Pass, Fail, Pass]);
    }

    #[test]
    fn the_undelivered_break_percentiles_and_loss() {
        let mut recorder = Recorder::default();
        for _ in 0..97 {
            recorder.record(Metric::Message, 5);
        }
        let ledger = Ledger { lost: 1, refused: 1, not_sent: 1, ..Ledger::default() };
        let judged = judge("message.p97<1ms,message.p98<1h,loss=0,loss<=3,diverged=0", &recorder, 3, &ledger);
        use Judgement::{Fail, Pass};
        assert_eq!(judged, [Pass, Fail, Fail, Pass, Fail]);
    }

    #[test]
    fn a_target_without_samples_is_invalid() {
        let ledger = Ledger::default();
        let judged = judge("lobby.p99<1s,rate>=1999", &Recorder::default(), 0, &ledger);
        assert_eq!(judged, [Judgement::Invalid, Judgement::Pass]);
        let lobby = LobbyOutcome::default();
        let recorder = Recorder::default();
        let measured =
            Measured { recorder: &recorder, undelivered: 0, ledger: &ledger, lobby: &lobby, delivered_per_second: 0.0 };
        let verdicts = |targets: &str| overall(&targets.parse::<Slo>().unwrap().judge(&measured));
        assert_eq!(verdicts("lobby.p99<1s,loss=0"), Judgement::Invalid);
        assert_eq!(verdicts("lobby.p99<1s,rate>=1"), Judgement::Fail);
        assert_eq!(verdicts("loss=0"), Judgement::Pass);
    }
}
