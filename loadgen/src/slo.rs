//! Targets and whether they were met.
//!
//! ```text
//! targets  = term {"," term}
//! term     = metric "." percentile ("<" | "<=") duration        message.p99<500ms
//!          | count ("=" | "<" | "<=") number                    loss=0
//!          | "rate" (">" | ">=") number                         rate>=40000
//!          | "storm.converged" ("<" | "<=") duration            storm.converged<5s
//! metric   = message | service | send_lag | blocked | ack | connect | auth
//!          | lobby | lobby.join | lobby.leave | lobby.first | lobby.median | lobby.last
//! percentile = p50 | p90 | p99 | p99.9 | p99.99 | max           (any number behind the p)
//! count    = loss | duplicates | errors | diverged
//! ```
//! `lobby` is joins and leaves together, as each watcher saw them; `lobby.last` has one value for each
//! join or leave, when the last watcher saw it; `loss` counts whatever was due and did not arrive as sent;
//! `errors` everything else that is wrong; `rate` is messages delivered a second.
//!
//! A term about something that never happened is neither met nor missed: it is invalid. So is one
//! about a percentile that too few samples settle (see [`samples_needed`]), and one of a run in which
//! the generator's own trouble explains what was measured (see [`crate::validity`]).

use std::fmt;
use std::str::FromStr;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::clock::to_ns;
use crate::ledger::{Ledger, LobbyOutcome};
use crate::recorder::{Metric, Missing, Recorder, quantile};
use crate::scenario::outcome::StormSummary;
use crate::units::{show_count, show_ns};
use crate::validity::{Finding, FindingKind, SAMPLES_BEYOND, Severity, Standing};

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
    StormConverged,
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

impl fmt::Display for Term {
    /// As it was given.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why targets cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("target `{term}`: {reason}; for example message.p99<500ms,lobby.p99<100ms,loss=0,rate>=2000/s")]
pub struct SloError {
    term: String,
    reason: String,
}

/// The relay's promises.
const MESSAGE_TERMS: &str = "message.p99<500ms,loss=0,duplicates=0";
const LOBBY_TERMS: &str = "lobby.p99<100ms";
const TERMS: &str = "errors=0";

impl Slo {
    /// What the relay promises, as far as a run can tell: with messages, with visitors who join and leave.
    ///
    /// # Panics
    /// Never: the terms are constants, and a test reads them.
    #[must_use]
    pub fn standard(messages: bool, visitors: bool) -> Self {
        let promised = [messages.then_some(MESSAGE_TERMS), visitors.then_some(LOBBY_TERMS), Some(TERMS)];
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
            Subject::Quantile { .. } | Subject::StormConverged => &[Relation::Below, Relation::AtMost],
            Subject::Rate => &[Relation::Above, Relation::AtLeast],
            _ => &[Relation::Below, Relation::AtMost, Relation::Equal],
        };
        if !allowed.contains(&relation) {
            return Err(error("asks for the wrong direction: times and counts are bounded above, the rate below"));
        }
        let bound = match subject {
            Subject::Quantile { .. } | Subject::StormConverged => {
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
            "storm.converged" => Self::StormConverged,
            _ => {
                let unknown = || format!("`{name}` is unknown");
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
                matches!(metric, Metric::Message | Metric::Service | Metric::Ack)
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
            Subject::Duplicates if ledger.duplicates + ledger.sent == 0 => self.judge_nothing(run, "no messages"),
            Subject::Diverged if run.lobby.diverged + run.lobby.clients == 0 => self.judge_nothing(run, "no lobbies"),
            Subject::Loss => self.judge_count(run, ledger.undelivered(), run.standing.lost_by_relay),
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

#[cfg(test)]
mod tests {
    use super::{Judgement, Measured, Slo, TermVerdict, overall, samples_needed};
    use crate::ledger::{Ledger, LobbyOutcome};
    use crate::recorder::{Metric, Missing, Recorder};
    use crate::scenario::outcome::{StormCounts, StormSummary};
    use crate::validity::{FindingKind, Standing};
    use Judgement::{Fail, Invalid, Pass};

    fn verdicts(
        targets: &str,
        recorder: &Recorder,
        undelivered: u64,
        ledger: &Ledger,
        standing: Standing,
    ) -> (Vec<TermVerdict>, Vec<FindingKind>) {
        let slo: Slo = targets.parse().unwrap();
        let lobby = LobbyOutcome { diverged: 2, ..LobbyOutcome::default() };
        let mut missing = Missing::default();
        missing.set(Metric::Message, undelivered);
        let measured = Measured {
            recorder,
            missing: &missing,
            ledger,
            lobby: &lobby,
            delivered_per_second: 1999.5,
            standing,
            storm: None,
        };
        let (verdicts, findings) = slo.judge(&measured);
        (verdicts, findings.iter().map(|finding| finding.kind).collect())
    }

    fn judge(targets: &str, recorder: &Recorder, undelivered: u64, ledger: &Ledger) -> Vec<Judgement> {
        judge_standing(targets, recorder, undelivered, ledger, Standing::default())
    }

    fn judge_standing(
        targets: &str,
        recorder: &Recorder,
        undelivered: u64,
        ledger: &Ledger,
        standing: Standing,
    ) -> Vec<Judgement> {
        let (verdicts, _) = verdicts(targets, recorder, undelivered, ledger, standing);
        verdicts.into_iter().map(|verdict| verdict.judgement).collect()
    }

    /// A thousand messages, of 1, 2 … 1,000 ns, which a histogram tells apart exactly.
    fn thousand() -> Recorder {
        let mut recorder = Recorder::default();
        for value in 1..=1000 {
            recorder.record(Metric::Message, value);
        }
        recorder
    }

    #[test]
    fn without_targets_the_relays_promises_are_judged() {
        let texts = |messages, visitors| {
            let slo = Slo::standard(messages, visitors);
            slo.terms.iter().map(|term| term.text.clone()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(texts(true, true), "message.p99<500ms loss=0 duplicates=0 lobby.p99<100ms errors=0");
        assert_eq!(texts(true, false), "message.p99<500ms loss=0 duplicates=0 errors=0");
        // Also who only keeps connections is told when they break.
        assert_eq!(texts(false, false), "errors=0");
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
        let ledger = Ledger { sent: 1000, duplicates: 3, ..Ledger::default() };
        let judged = judge(
            "message.p50<501ns,message.p50<500ns,message.p50<=500ns,message.max<1ms,loss=0,duplicates<3,duplicates<=3",
            &thousand(),
            0,
            &ledger,
        );
        assert_eq!(judged, [Pass, Fail, Pass, Pass, Pass, Fail, Pass]);
    }

    #[test]
    fn the_undelivered_break_percentiles_and_loss() {
        let ledger = Ledger { lost: 20, refused: 4, not_sent: 3, blocked: 2, overdue: 1, ..Ledger::default() };
        let judged = judge("message.p97<1ms,message.p98<1h,loss=0,loss<=30,diverged=0", &thousand(), 30, &ledger);
        assert_eq!(judged, [Pass, Fail, Fail, Pass, Fail]);
    }

    #[test]
    fn a_target_without_samples_is_invalid() {
        let ledger = Ledger::default();
        assert_eq!(judge("lobby.p99<1s,rate>=1999", &Recorder::default(), 0, &ledger), [Invalid, Pass]);
        let all = |targets: &str| {
            let (verdicts, _) = verdicts(targets, &Recorder::default(), 0, &ledger, Standing::default());
            overall(&verdicts, false)
        };
        assert_eq!(all("lobby.p99<1s,loss=0"), Invalid);
        assert_eq!(all("lobby.p99<1s,rate>=2000"), Fail);
        assert_eq!((overall(&[], false), overall(&[], true)), (Pass, Invalid));
    }

    #[test]
    fn zero_of_nothing_is_no_target_met() {
        let judge = |targets: &str, ledger: &Ledger, lobby: &LobbyOutcome| {
            let slo: Slo = targets.parse().unwrap();
            let measured = Measured {
                recorder: &Recorder::default(),
                missing: &Missing::default(),
                ledger,
                lobby,
                delivered_per_second: 0.0,
                standing: Standing::default(),
                storm: None,
            };
            slo.judge(&measured).0.iter().map(|verdict| verdict.judgement).collect::<Vec<_>>()
        };
        let (nothing, nobody) = (Ledger::default(), LobbyOutcome::default());
        let targets = "loss=0,duplicates=0,diverged=0,errors=0";
        assert_eq!(judge(targets, &nothing, &nobody), [Invalid, Invalid, Invalid, Pass]);
        let some = Ledger { sent: 1, ..Ledger::default() };
        let looked = LobbyOutcome { clients: 1, ..LobbyOutcome::default() };
        assert_eq!(judge(targets, &some, &looked), [Pass; 4]);
        // What was due and never went is something.
        let unsent = Ledger { not_sent: 1, ..Ledger::default() };
        assert_eq!(judge("loss=0", &unsent, &nobody), [Fail]);
    }

    #[test]
    fn ten_samples_beyond_settle_a_percentile() {
        let needed = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0].map(samples_needed);
        assert_eq!(needed, [20, 100, 1000, 10_000, 100_000, 1]);
    }

    #[test]
    fn a_percentile_of_too_few_samples_is_neither_met_nor_missed() {
        let few = |targets: &str, undelivered| {
            verdicts(targets, &thousand(), undelivered, &Ledger::default(), Standing::default())
        };
        let (judged, found) = few("message.p99<1ms,message.p99.9<1ms,message.max<1ms", 0);
        assert_eq!(judged.iter().map(|verdict| verdict.judgement).collect::<Vec<_>>(), [Pass, Invalid, Pass]);
        assert_eq!(found, [FindingKind::FewSamples]);
        assert!(judged[1].measured.contains("in 1,000 samples"), "{}", judged[1].measured);
        // Nine beyond the bound are chance, ten are a miss: those of 991 ns and more.
        for (bound, expected) in [("991ns", Invalid), ("990ns", Fail), ("100ns", Fail)] {
            assert_eq!(few(&format!("message.p99.9<={bound}"), 0).0[0].judgement, expected, "{bound}");
        }
        assert_eq!(few("message.p99.9<1h", 9).0[0].judgement, Invalid);
        assert_eq!(few("message.p99.9<1h", 10).0[0].judgement, Fail);
    }

    #[test]
    fn a_storm_is_judged_by_when_all_lobbies_were_right() {
        let judge = |storm: Option<&StormSummary>, spoiled| {
            let slo: Slo = "storm.converged<5ms".parse().unwrap();
            let measured = Measured {
                recorder: &Recorder::default(),
                missing: &Missing::default(),
                ledger: &Ledger::default(),
                lobby: &LobbyOutcome::default(),
                delivered_per_second: 0.0,
                standing: Standing { spoiled, ..Standing::default() },
                storm,
            };
            let (verdicts, _) = slo.judge(&measured);
            (verdicts[0].judgement, verdicts[0].measured.clone())
        };
        let counts = StormCounts { dropped: 1, logins: 1, back: 1, ..StormCounts::default() };
        let lobby = LobbyOutcome { clients: 2, ..LobbyOutcome::default() };
        let storm = |settled_ns| StormSummary::new(&counts, &lobby, settled_ns);
        assert_eq!(judge(Some(&storm(4_000_000)), false), (Pass, "4.00 ms".to_owned()));
        assert_eq!(judge(Some(&storm(5_000_000)), false).0, Fail);
        assert_eq!(judge(Some(&storm(4_000_000)), true).0, Invalid);
        let busy = StormCounts { busy: Some(0.95), ..counts.clone() };
        let of_busy = |settled_ns| judge(Some(&StormSummary::new(&busy, &lobby, settled_ns)), false).0;
        assert_eq!((of_busy(4_000_000), of_busy(5_000_000)), (Pass, Invalid));
        let missing = StormCounts { back: 0, ..counts.clone() };
        assert_eq!(judge(Some(&StormSummary::new(&missing, &lobby, 0)), false), (Fail, "never".to_owned()));
        let blind = StormSummary::new(&counts, &LobbyOutcome::default(), 0);
        assert_eq!((judge(Some(&blind), false).0, judge(None, false).0), (Invalid, Invalid));
        assert!("storm.converged>5s".parse::<Slo>().is_err() && "storm.converged<5".parse::<Slo>().is_err());
    }

    #[test]
    fn a_spoiled_run_says_nothing_but_what_only_the_relay_can_have_done() {
        let ledger = Ledger { lost: 5, duplicates: 1, altered: 2, ..Ledger::default() };
        let targets = "message.p99<1ms,message.p99<500ns,rate>=1,rate>=9999,loss=0,errors=0,diverged=0,duplicates=0,\
                       duplicates<=1";
        let judge = |standing| judge_standing(targets, &thousand(), 0, &ledger, standing);
        let spoiled = Standing { spoiled: true, ..Standing::default() };
        let nothing = Invalid;
        assert_eq!(judge(spoiled), [nothing, nothing, nothing, nothing, nothing, nothing, nothing, Fail, nothing]);
        let seen = Standing { lost_by_relay: 5, faults_of_relay: 2, diverged_by_relay: 1, ..spoiled };
        assert_eq!(judge(seen), [nothing, nothing, nothing, nothing, Fail, Fail, Fail, Fail, nothing]);
        assert_eq!(judge(Standing::default()), [Pass, Fail, Pass, Fail, Fail, Fail, Fail, Fail, Pass]);
    }

    #[test]
    fn the_floor_of_a_closed_loop_can_meet_a_target_and_not_miss_it() {
        let floor = Standing { floor: true, ..Standing::default() };
        let targets = "message.p99<1ms,message.p99<500ns,rate>=1,rate>=9999,loss=0";
        let ledger = Ledger { sent: 1000, ..Ledger::default() };
        let judged = judge_standing(targets, &thousand(), 0, &ledger, floor);
        assert_eq!(judged, [Pass, Invalid, Pass, Invalid, Pass]);
    }

    #[test]
    fn the_tightest_and_the_strictest_are_found() {
        let slo: Slo = "message.p50<9ms,message.p99<20ms,lobby.p99.9<1ms,ack.max<10ms,loss=0".parse().unwrap();
        assert_eq!((slo.tightest_ns(), slo.strictest()), (Some(9_000_000), Some(1.0)));
        assert_eq!((Slo::default().tightest_ns(), Slo::default().strictest()), (None, None));
    }
}
