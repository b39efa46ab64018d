//! Whether a run may be believed: what speaks against it, and what to change.
//!
//! A [`Finding`] is one reason for doubt. An [`Severity::Invalid`] one makes the run say nothing
//! about the relay; a [`Severity::Warning`] is printed beside the figure that it touches.
//!
//! # Who wins
//! A generator in trouble makes everything late, and can even make the relay refuse messages (a
//! backlog sent at once breaks its rate limit) or close connections (a client that does not read is
//! too slow). It cannot make the relay repeat a message, alter it, swap two, announce a wrong lobby.
//! So:
//! 1. A target missed by what **only the relay can have done** is missed, whatever the generator did:
//!    FAIL, exit 99. See [`Standing`] for what that is.
//! 2. Otherwise an invalid finding makes every target INVALID, also those that look met or missed:
//!    exit 3.
//! 3. A percentile without enough samples makes its own target INVALID and no other.
//! 4. What is left is a PASS or a FAIL.
//!
//! Neither hides the other: below a FAIL the findings are printed all the same, and each target has
//! its own verdict.

use serde::{Deserialize, Serialize};

use crate::ledger::{Ledger, LobbyOutcome};

mod evidence;

pub use evidence::{Evidence, Heartbeat, Load, Pace, examine};

/// Send lag above which a run is invalid, if no message target is so tight that a tenth of it is
/// less: 5 ms.
pub const SEND_LAG_MAX_NS: u64 = 5_000_000;

/// The share of a target that the generator's own lag may take.
pub const SEND_LAG_SHARE: f64 = 0.1;

/// The share of the messages due whose turn has to come in time.
pub const ACHIEVED_MIN: f64 = 0.99;

/// The share of its core above which a worker is a bottleneck: what it worked, and what it waited
/// for the core.
pub const BUSY_MAX: f64 = 0.9;

/// The share of the time that others may take from the generator: what is late then is in the 99th
/// percentile.
pub const STOLEN_MAX: f64 = 0.01;

/// A percentile is settled by so many samples beyond it, as 1,000 samples have beyond the 99th. Fewer
/// are chance: with ten, the number beyond it varies by a third.
pub const SAMPLES_BEYOND: u64 = 10;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The generator sent later than it meant to.
    SendLag,
    /// The generator did not reach the rate that it was asked for.
    AchievedRate,
    /// A worker had little or no time left.
    BusyWorker,
    /// A closed loop was bounded by the generator: its figures are a floor.
    Floor,
    /// A thread that only had to wake up woke late.
    Stalls,
    /// The hypervisor gave the generator's cores to others.
    Steal,
    /// A CPU quota stopped the generator.
    Throttling,
    /// Relay and generator ran on the same cores.
    SharedCores,
    /// A percentile was asked for that the samples do not settle.
    FewSamples,
    /// Messages waited behind writes that the relay did not take.
    Blocked,
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

impl Finding {
    /// Whether it makes the run say nothing about the relay, and not one target alone.
    #[must_use]
    pub fn spoils_run(&self) -> bool {
        self.severity == Severity::Invalid && self.kind != FindingKind::FewSamples
    }
}

/// What a target can still be judged by, given what was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// The generator's part explains anything that was late or missing.
    pub spoiled: bool,
    /// A closed loop was bounded by the generator: what is met is met, what is missed says nothing.
    pub floor: bool,
    /// Messages that only the relay can have lost: every message was written, every worker read
    /// until nothing more came for a second, and no connection broke. Altered ones are among them.
    pub lost_by_relay: u64,
    /// Messages that only the relay can have left without an answer, in the same way.
    pub unacked_by_relay: u64,
    /// Faults that only the relay can have made: whatever it pushed that it should not have.
    pub faults_of_relay: u64,
    /// Clients that only the relay can have misled: its own totals contradicted what it had told
    /// them, or they had read all there was.
    pub diverged_by_relay: u64,
}

impl Standing {
    /// Weighs what was found. `caught_up` is whether every worker had read all there was at the end.
    #[must_use]
    pub fn of(findings: &[Finding], ledger: &Ledger, lobby: &LobbyOutcome, caught_up: bool) -> Self {
        // What has not been read yet is missing as if the relay had kept it back.
        let all_read = caught_up && ledger.disconnects.is_empty();
        let surely = |count: u64| if all_read { count } else { 0 };
        let (lost, gaps) = (surely(ledger.lost), surely(ledger.seq_gaps));
        Self {
            spoiled: findings.iter().any(Finding::spoils_run),
            floor: findings.iter().any(|finding| finding.kind == FindingKind::Floor),
            lost_by_relay: ledger.altered_unrepaired + lost,
            unacked_by_relay: surely(ledger.unacked),
            faults_of_relay: ledger.wrong_pushes() + gaps,
            diverged_by_relay: if caught_up { lobby.diverged } else { lobby.diverged.min(lobby.disagreements) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, FindingKind, Severity, Standing};
    use crate::ledger::{Ledger, LobbyOutcome};

    fn finding(kind: FindingKind, severity: Severity) -> Finding {
        let empty = String::new();
        Finding { kind, severity, metric: None, measured: empty.clone(), text: empty.clone(), fix: empty }
    }

    #[test]
    fn invalid_findings_spoil_a_run_but_for_too_few_samples() {
        let of = |kind, severity| {
            Standing::of(&[finding(kind, severity)], &Ledger::default(), &LobbyOutcome::default(), true)
        };
        assert!(of(FindingKind::SendLag, Severity::Invalid).spoiled);
        assert!(!of(FindingKind::SendLag, Severity::Warning).spoiled);
        assert!(!of(FindingKind::FewSamples, Severity::Invalid).spoiled);
        assert!(of(FindingKind::Floor, Severity::Warning).floor);
    }

    #[test]
    fn loss_is_the_relays_only_if_nothing_else_can_have_lost_it() {
        let ledger =
            Ledger { lost: 3, unacked: 9, altered_unrepaired: 1, altered: 2, seq_gaps: 5, ..Ledger::default() };
        let lobby = LobbyOutcome { diverged: 7, disagreements: 2, ..LobbyOutcome::default() };
        let standing = Standing::of(&[], &ledger, &lobby, true);
        assert_eq!((standing.lost_by_relay, standing.faults_of_relay, standing.diverged_by_relay), (4, 7, 7));
        assert_eq!(standing.unacked_by_relay, 9);
        let standing = Standing::of(&[], &ledger, &lobby, false);
        assert_eq!((standing.lost_by_relay, standing.faults_of_relay, standing.diverged_by_relay), (1, 2, 2));
        let broken = Ledger { disconnects: [("reset".to_owned(), 1)].into(), ..ledger };
        let standing = Standing::of(&[], &broken, &lobby, true);
        assert_eq!((standing.lost_by_relay, standing.unacked_by_relay), (1, 0));
    }
}
