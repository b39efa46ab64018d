//! Targets and whether they were met.
//!
//! ```text
//! targets  = term {"," term}
//! term     = metric "." percentile ("<" | "<=") duration        message.p99<500ms
//!          | count ("=" | "<" | "<=") number                    loss=0
//!          | "rate" (">" | ">=") number                         rate>=40000
//!          | "storm.converged" ("<" | "<=") duration            storm.converged<5s
//! metric   = message | service | send_lag | blocked | ack | ack.offline | connect | auth | catch_up
//!          | lobby | lobby.join | lobby.leave | lobby.first | lobby.median | lobby.last
//! percentile = p50 | p90 | p99 | p99.9 | p99.99 | max           (any number behind the p)
//! count    = loss | unacked | duplicates | errors | diverged
//! ```
//! `lobby` is joins and leaves together, as each watcher saw them; `lobby.last` has one value for each
//! join or leave, when the last watcher saw it; `loss` counts whatever was due and did not arrive as sent;
//! `unacked` what was sent and neither acked nor refused;
//! `errors` everything else that is wrong; `rate` is messages delivered a second.
//!
//! A term about something that never happened is neither met nor missed: it is invalid. So is one
//! about a percentile that too few samples settle (see [`samples_needed`]), and one of a run in which
//! the generator's own trouble explains what was measured (see [`crate::validity`]).

use std::fmt;
use std::str::FromStr;

use crate::clock::to_ns;
use crate::recorder::Metric;

mod judge;

pub use judge::{Judgement, Measured, TermVerdict, overall, samples_needed};

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
    Unacked,
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
const MAIL_TERMS: &str = "loss=0,duplicates=0";
const TERMS: &str = "errors=0";
const LOBBY_TERMS: &str = "lobby.p99<100ms";
const CRASH_TERMS: &str = "loss=0,duplicates=0,unacked=0";
const ACK_TERMS: [&str; 2] = ["ack.p99<500ms", "unacked=0"];
const OFFLINE_ACK_TERMS: [&str; 2] = ["ack.offline.p99<500ms", "unacked=0"];

impl Slo {
    /// What the relay promises, as far as a run can tell: with messages to who is online, with messages at all,
    /// with visitors who join and leave.
    ///
    /// # Panics
    /// Never: the terms are constants, and a test reads them.
    #[must_use]
    pub fn standard(online: bool, messages: bool, visitors: bool) -> Self {
        let of_messages = if online { MESSAGE_TERMS } else { MAIL_TERMS };
        let promised = [messages.then_some(of_messages), visitors.then_some(LOBBY_TERMS), Some(TERMS)];
        let texts = promised.into_iter().flatten().flat_map(|terms| terms.split(','));
        Self { terms: texts.map(|text| Term::parse(text).expect("the relay's promises are terms")).collect() }
    }
}

impl Slo {
    /// Adds targets for acks, as far as there are none: how late they may be, and that none is missing.
    /// `online` and `offline` say to whom messages go.
    ///
    /// # Panics
    /// Never: the terms are constants, and a test reads them.
    #[must_use]
    pub fn with_acks(mut self, online: bool, offline: bool) -> Self {
        let wanted = [(online, ACK_TERMS), (offline, OFFLINE_ACK_TERMS)];
        for text in wanted.into_iter().filter(|&(wanted, _)| wanted).flat_map(|(_, terms)| terms) {
            let term = Term::parse(text).expect("the relay's promises are terms");
            let same = |other: &Term| match (other.subject, term.subject) {
                (Subject::Quantile { metric: one, .. }, Subject::Quantile { metric: other, .. }) => one == other,
                (one, other) => one == other,
            };
            if !self.terms.iter().any(same) {
                self.terms.push(term);
            }
        }
        self
    }
}

impl Slo {
    /// What a relay promises that is killed.
    ///
    /// # Panics
    /// Never: the terms are constants, and a test reads them.
    #[must_use]
    pub fn of_crash() -> Self {
        CRASH_TERMS.parse().expect("the relay's promises are terms")
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
            "unacked" => Self::Unacked,
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

#[cfg(test)]
mod tests;
