//! What became of each message, and of each lobby.
//!
//! # Invariants
//! - `sent = delivered + altered_unrepaired + refused + lost`: every message sent ends in exactly one
//!   of these, warm-up included. (`altered_unrepaired` are altered deliveries without a right one.) With
//!   several devices `delivered` and `lost` count each device of its own.
//! - A message counts as delivered once; what comes again is a duplicate.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::units::one_line;

/// Counts over a whole run, warm-up and drain included, of one worker or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Messages written to a connection.
    pub sent: u64,
    /// Messages that were due while their sender had no connection.
    pub not_sent: u64,
    /// Messages that waited behind an unfinished write until their connection broke or the run
    /// ended: the relay did not take them.
    #[serde(default)]
    pub blocked: u64,
    /// Messages that were due and that the generator never came to.
    #[serde(default)]
    pub overdue: u64,
    /// Messages the relay acknowledged.
    pub acked: u64,
    /// Messages sent, not refused, and not acknowledged when the run ended.
    #[serde(default)]
    pub unacked: u64,
    /// Acks that came with `duplicate: true`, or a second time.
    pub ack_duplicates: u64,
    /// Messages that reached a device of their recipient, or another of their sender, byte for byte as sent.
    pub delivered: u64,
    /// Such deliveries of messages sent and not refused that had not come when the run ended.
    pub lost: u64,
    /// Messages the relay refused with an `error`.
    pub refused: u64,
    /// Deliveries of a message that had been delivered before.
    pub duplicates: u64,
    /// Deliveries of a message after a later one of the same sender to the same recipient.
    pub out_of_order: u64,
    /// Deliveries that differ from what was sent.
    pub altered: u64,
    /// Of those altered, the ones whose signature is wrong.
    pub bad_signature: u64,
    /// Messages whose only deliveries were altered ones.
    pub altered_unrepaired: u64,
    /// Deliveries to somebody else than the recipient.
    pub misdelivered: u64,
    /// Deliveries of what the relay had refused.
    pub delivered_though_refused: u64,
    /// Pushed messages that nobody here sent.
    pub unknown: u64,
    /// Messages of earlier runs that had waited for these keys.
    #[serde(default)]
    pub leftover: u64,
    /// Inbox numbers that were skipped.
    pub seq_gaps: u64,
    /// Pushes whose inbox number was not above the one before.
    pub seq_backward: u64,
    /// Frames of a relay that could not be read.
    pub unreadable: u64,
    /// Errors by reason, with and without a message they are about.
    pub errors: BTreeMap<String, u64>,
    /// Connections that broke or were closed during the run, by cause.
    pub disconnects: BTreeMap<String, u64>,
}

impl Ledger {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.not_sent += other.not_sent;
        self.blocked += other.blocked;
        self.overdue += other.overdue;
        self.acked += other.acked;
        self.unacked += other.unacked;
        self.ack_duplicates += other.ack_duplicates;
        self.delivered += other.delivered;
        self.lost += other.lost;
        self.refused += other.refused;
        self.duplicates += other.duplicates;
        self.out_of_order += other.out_of_order;
        self.altered += other.altered;
        self.bad_signature += other.bad_signature;
        self.altered_unrepaired += other.altered_unrepaired;
        self.misdelivered += other.misdelivered;
        self.delivered_though_refused += other.delivered_though_refused;
        self.unknown += other.unknown;
        self.leftover += other.leftover;
        self.seq_gaps += other.seq_gaps;
        self.seq_backward += other.seq_backward;
        self.unreadable += other.unreadable;
        for (own, others) in [(&mut self.errors, &other.errors), (&mut self.disconnects, &other.disconnects)] {
            for (name, count) in others {
                *own.entry(name.clone()).or_default() += count;
            }
        }
    }

    /// Messages that were due and did not arrive as sent, for whatever cause.
    #[must_use]
    pub fn undelivered(&self) -> u64 {
        self.lost + self.refused + self.altered_unrepaired + self.unsent()
    }

    /// Messages that were due and never written, for whatever cause.
    #[must_use]
    pub fn unsent(&self) -> u64 {
        self.not_sent + self.blocked + self.overdue
    }

    /// Everything that is wrong beside loss and duplicates.
    #[must_use]
    pub fn faults(&self) -> u64 {
        let errors: u64 = self.errors.values().sum();
        let disconnects: u64 = self.disconnects.values().sum();
        errors + disconnects + self.seq_gaps + self.wrong_pushes()
    }

    /// Of the faults, what the relay pushed and should not have, or not so: no generator in trouble
    /// can bring that about.
    #[must_use]
    pub fn wrong_pushes(&self) -> u64 {
        self.out_of_order
            + self.altered
            + self.misdelivered
            + self.delivered_though_refused
            + self.unknown
            + self.seq_backward
            + self.unreadable
    }
}

/// Names of errors, or of ends of connections, that are told apart.
const NAMES_MAX: usize = 64;

/// What the rest is counted as.
const OTHERS: &str = "others";

/// Counts one more under a name. Names are a relay's own words: they are made fit for a line, and a relay
/// that never repeats one does not fill the memory. Allocates for a new name only.
pub fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
        return;
    }
    let name = one_line(name);
    let name = if counts.contains_key(&name) || counts.len() < NAMES_MAX { name } else { OTHERS.to_owned() };
    *counts.entry(name).or_default() += 1;
}

/// Messages of the steady phase, by their intended send time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteadyCounts {
    /// Due in the steady phase.
    pub due: u64,
    /// Of those, the ones whose turn came before the phase was over: the generator kept up.
    #[serde(default)]
    pub in_time: u64,
    /// Of those due, written to a connection.
    pub sent: u64,
    /// Of those due, the ones for somebody who was offline: they have no response time.
    #[serde(default)]
    pub offline_due: u64,
    /// Of those, written to a connection.
    #[serde(default)]
    pub offline_sent: u64,
    /// Deliveries to other devices of the sender that a relay without a store does not owe.
    #[serde(default)]
    pub copies_waived: u64,
    /// Acked within the steady phase, whenever they were sent.
    #[serde(default)]
    pub acked_within: u64,
    /// Of those, delivered as sent, whenever that was.
    pub delivered: u64,
    /// Delivered within the steady phase, whenever they were sent: the throughput.
    pub delivered_within: u64,
    /// Joins by visitors.
    pub joins: u64,
    /// Leaves by visitors.
    pub leaves: u64,
    /// Clients that watched the lobby, the visitors not counted.
    pub watchers: u64,
    /// Connections begun in the steady phase that never came through the upgrade.
    #[serde(default)]
    pub unconnected: u64,
    /// Connections begun in the steady phase that came through it and were never welcomed.
    #[serde(default)]
    pub unwelcomed: u64,
}

impl SteadyCounts {
    /// Adds the counts of another worker.
    pub fn add(&mut self, other: &Self) {
        self.due += other.due;
        self.in_time += other.in_time;
        self.sent += other.sent;
        self.offline_due += other.offline_due;
        self.offline_sent += other.offline_sent;
        self.copies_waived += other.copies_waived;
        self.acked_within += other.acked_within;
        self.delivered += other.delivered;
        self.delivered_within += other.delivered_within;
        self.joins += other.joins;
        self.leaves += other.leaves;
        self.watchers += other.watchers;
        self.unconnected += other.unconnected;
        self.unwelcomed += other.unwelcomed;
    }
}

/// What the clients' lobbies came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LobbyOutcome {
    /// Clients compared.
    pub clients: u64,
    /// Whether everybody on the relay is a client of this run, so that the truth is known. If not,
    /// clients are compared with each other.
    pub truth_known: bool,
    /// Clients whose lobby was wrong in the end.
    pub diverged_at_end: u64,
    /// Times a client's own list disagreed with the totals of an update; it then asked for a
    /// snapshot.
    pub disagreements: u64,
    /// Clients that disagreed at any time or were wrong in the end.
    pub diverged: u64,
}

impl LobbyOutcome {
    /// Adds what the lobbies of another generator's clients came to. The truth is known if it was to
    /// all.
    pub fn add(&mut self, other: &Self) {
        self.clients += other.clients;
        self.truth_known &= other.truth_known;
        self.diverged_at_end += other.diverged_at_end;
        self.disagreements += other.disagreements;
        self.diverged += other.diverged;
    }
}

#[cfg(test)]
mod tests {
    use super::{NAMES_MAX, OTHERS, count};
    use std::collections::BTreeMap;

    #[test]
    fn a_relays_words_are_bounded_and_fit_for_a_terminal() {
        let mut counts = BTreeMap::new();
        for _ in 0..2 {
            count(&mut counts, "closed with 1000 \x1b]0;evil\x07\n");
        }
        assert_eq!(counts, [("closed with 1000  ]0;evil".to_owned(), 2)].into());
        for number in 0..10_000 {
            count(&mut counts, &format!("{number}{}", "x".repeat(10_000)));
        }
        assert_eq!(counts.len(), NAMES_MAX + 1);
        assert_eq!((counts.values().sum::<u64>(), counts[OTHERS]), (10_002, 10_001 - NAMES_MAX as u64));
        assert!(counts.keys().all(|name| name.len() < 500));
    }
}
