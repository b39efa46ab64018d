//! The lobbies of all clients, against the truth or against each other.

use protocol::server_frame::LobbyTotals;

use crate::ledger::LobbyOutcome;
use crate::worker::{LobbyGroup, LobbyReport};

/// The lobbies of all clients at one moment.
#[derive(Debug, Default)]
pub(super) struct Lobbies {
    groups: Vec<LobbyGroup>,
    truth: LobbyTotals,
    /// Clients on their way in or out.
    pub(super) moving: u64,
    /// When the last client came to what it sees.
    pub(super) settled_ns: u64,
}

impl Lobbies {
    /// Adds one worker's clients.
    pub(super) fn add(&mut self, report: LobbyReport) {
        self.truth.count += report.online.count;
        self.truth.digest ^= report.online.digest;
        self.moving += report.moving;
        self.settled_ns = self.settled_ns.max(report.settled_ns);
        for group in report.groups {
            match self.groups.iter_mut().find(|known| known.view == group.view && known.agrees == group.agrees) {
                Some(known) => {
                    known.clients += group.clients;
                    known.disagreed += group.disagreed;
                }
                None => self.groups.push(group),
            }
        }
    }

    /// What a lobby has to be: the truth, or without it what most clients have.
    fn right(&self, truth_known: bool) -> Option<LobbyTotals> {
        if truth_known {
            return Some(self.truth);
        }
        self.groups.iter().filter(|group| group.agrees).max_by_key(|group| group.clients).and_then(|group| group.view)
    }

    /// How many clients have another lobby than they should.
    pub(super) fn wrong(&self, truth_known: bool) -> u64 {
        let right = self.right(truth_known);
        let is_wrong = |group: &&LobbyGroup| group.view.is_none() || group.view != right;
        self.groups.iter().filter(is_wrong).map(|group| group.clients).sum()
    }

    /// What it came to.
    pub(super) fn outcome(&self, truth_known: bool) -> LobbyOutcome {
        let right = self.right(truth_known);
        let diverged = self
            .groups
            .iter()
            .map(|group| if group.view.is_some() && group.view == right { group.disagreed } else { group.clients });
        LobbyOutcome {
            clients: self.groups.iter().map(|group| group.clients).sum(),
            truth_known,
            diverged_at_end: self.wrong(truth_known),
            disagreements: 0,
            diverged: diverged.sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Lobbies;
    use crate::worker::{LobbyGroup, LobbyReport};
    use protocol::server_frame::LobbyTotals;

    fn report(online: u64, views: &[(Option<u64>, u64, u64)]) -> LobbyReport {
        let totals = |count| LobbyTotals { count, digest: count };
        let group = |&(view, clients, disagreed): &(Option<u64>, u64, u64)| LobbyGroup {
            view: view.map(totals),
            agrees: view.is_some(),
            clients,
            disagreed,
        };
        LobbyReport { groups: views.iter().map(group).collect(), online: totals(online), moving: 0, settled_ns: 0 }
    }

    #[test]
    fn with_the_truth_every_other_view_is_wrong() {
        let mut lobbies = Lobbies::default();
        lobbies.add(report(1, &[(Some(3), 5, 1)]));
        lobbies.add(report(2, &[(Some(3), 4, 0), (Some(9), 2, 0), (None, 1, 1)]));
        assert_eq!(lobbies.wrong(true), 3);
        let outcome = lobbies.outcome(true);
        assert_eq!((outcome.clients, outcome.diverged_at_end, outcome.diverged), (12, 3, 4));
    }

    #[test]
    fn without_the_truth_the_most_are_right() {
        let mut lobbies = Lobbies::default();
        lobbies.add(report(3, &[(Some(7), 9, 0), (Some(8), 2, 1)]));
        assert_eq!(lobbies.wrong(true), 11);
        assert_eq!(lobbies.wrong(false), 2);
        assert_eq!(lobbies.outcome(false).diverged, 2);
    }
}
