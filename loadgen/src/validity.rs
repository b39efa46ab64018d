//! Whether a run may be believed: what speaks against it, and what to change.
//!
//! A [`Finding`] is one reason for doubt. An [`Severity::Invalid`] one makes the run say nothing
//! about the relay; a [`Severity::Warning`] is printed beside the figure that it touches.

use serde::{Deserialize, Serialize};

use crate::units::show_ns;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The generator sent later than it meant to.
    SendLag,
    /// A worker had little or no time left.
    BusyWorker,
    /// Messages waited for their signatures, or were signed too early.
    Supply,
    /// Visitors were due while none was free.
    VisitsMissed,
    /// The machine is not what it should be, as seen before the run.
    Machine,
}

/// How much a finding takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The run says nothing about the relay.
    Invalid,
    /// The figure it touches is to be read with care.
    Warning,
}

/// One reason for doubt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was found.
    pub kind: FindingKind,
    /// How much it takes away.
    pub severity: Severity,
    /// The figure that it touches: a metric by its name, `rate`, `lobby`, `generator` or `relay`.
    /// `None` if it touches all.
    pub metric: Option<String>,
    /// What was measured, for a person.
    pub measured: String,
    /// One sentence.
    pub text: String,
    /// What to change.
    pub fix: String,
}

/// Send lag above which a run is invalid: 5 ms.
pub const SEND_LAG_MAX_NS: u64 = 5_000_000;

/// The share of its core above which a worker is a bottleneck.
pub const BUSY_MAX: f64 = 0.9;

/// What is known of the generator's part in a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence {
    /// The 99th percentile of the send lag; `None` without messages.
    pub send_lag_p99_ns: Option<u64>,
    /// The share of its core that the busiest worker used.
    pub busiest: Option<f64>,
    /// Times a message was due and not yet signed.
    pub starved: u64,
    /// Messages that had been signed too long before they were due.
    pub expired: u64,
    /// Visits that were due while no visitor was free.
    pub visits_missed: u64,
}

/// Looks for reasons for doubt.
#[must_use]
pub fn examine(evidence: &Evidence) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(lag_ns) = evidence.send_lag_p99_ns.filter(|&lag_ns| lag_ns > SEND_LAG_MAX_NS) {
        findings.push(Finding {
            kind: FindingKind::SendLag,
            severity: Severity::Warning,
            metric: Some("send_lag".to_owned()),
            measured: show_ns(lag_ns),
            text: format!("the generator sent late: send lag p99 {}", show_ns(lag_ns)),
            fix: "give it cores of its own (--pin-cores), more --workers or a lower --rate".to_owned(),
        });
    }
    if let Some(busiest) = evidence.busiest.filter(|&busiest| busiest > BUSY_MAX) {
        let measured = format!("{:.0} %", busiest * 100.0);
        findings.push(Finding {
            kind: FindingKind::BusyWorker,
            severity: Severity::Warning,
            metric: Some("generator".to_owned()),
            text: format!("a worker was {measured} busy: the generator may be the bottleneck"),
            measured,
            fix: "add --workers, on cores of their own".to_owned(),
        });
    }
    if evidence.starved > 0 {
        findings.push(Finding {
            kind: FindingKind::Supply,
            severity: Severity::Warning,
            metric: Some("send_lag".to_owned()),
            measured: format!("{} times", evidence.starved),
            text: "messages waited for their signature".to_owned(),
            fix: "raise --presign, or add --workers on cores of their own".to_owned(),
        });
    }
    if evidence.expired > 0 {
        findings.push(Finding {
            kind: FindingKind::Supply,
            severity: Severity::Warning,
            metric: Some("rate".to_owned()),
            measured: format!("{} messages", evidence.expired),
            text: format!("{} signed messages grew too old to be sent", evidence.expired),
            fix: "lower --presign".to_owned(),
        });
    }
    if evidence.visits_missed > 0 {
        findings.push(Finding {
            kind: FindingKind::VisitsMissed,
            severity: Severity::Warning,
            metric: Some("lobby".to_owned()),
            measured: format!("{} visits", evidence.visits_missed),
            text: format!(
                "{} visits were due while no visitor was free: the relay is slow to let them in or out",
                evidence.visits_missed
            ),
            fix: "look at connect and auth, or lower --churn".to_owned(),
        });
    }
    findings
}
