//! What must hold once nothing is under way.

use std::collections::BTreeSet;

use protocol::PublicKey;
use relay_core::Stats;

use crate::invariant::{Checked, Invariant, ensure};
use crate::lobby::totals;
use crate::network::Place;
use crate::session::Phase;
use crate::world::World;

impl World {
    /// Checks everything that can be said at rest.
    pub(crate) fn check_quiet(&self) -> Checked {
        self.check_sessions()?;
        self.check_lobby()?;
        self.check_messages()?;
        self.check_accounts()
    }

    /// Each connection is where its session says, and each session where its behaviour led it.
    fn check_sessions(&self) -> Checked {
        for session in &self.sessions {
            let (id, place) = (session.id, self.links[session.id].place);
            match session.phase {
                Phase::Ended(_) => {
                    ensure(place == Place::Closed, Invariant::ConnectionLeak, || {
                        format!("connection {id} is over, and {place:?} at the relay")
                    })?;
                }
                Phase::Active => {
                    let home = usize::from(self.scenario.shared().home(&session.key).0);
                    ensure(
                        matches!(place, Place::Open { shard, .. } if shard == home),
                        Invariant::ConnectionLeak,
                        || format!("connection {id} is active, its home is {home}, and it is {place:?}"),
                    )?;
                    let must_close = !session.causes.is_empty() || session.half_closed || session.close_sent.is_some();
                    ensure(!must_close, Invariant::CloseMissing, || {
                        format!("connection {id} is still open: causes {:?}", session.causes)
                    })?;
                }
                phase => {
                    ensure(false, Invariant::LoginMissing, || {
                        format!("connection {id} is still {phase:?} after a {:?} opening, {place:?}", session.opening)
                    })?;
                }
            }
            session.check_quiet()?;
        }
        Ok(())
    }

    /// Every list is exactly who is online.
    fn check_lobby(&self) -> Checked {
        let truth: BTreeSet<PublicKey> =
            self.sessions.iter().filter(|session| session.is_active()).map(|session| session.key).collect();
        for (shard, host) in self.hosts.iter().enumerate() {
            let told = host.shard.lobby_totals();
            ensure(told == totals(&truth), Invariant::LobbyTruth, || {
                format!("shard {shard} counts {told:?}, online are {:?}", totals(&truth))
            })?;
        }
        for session in self.sessions.iter().filter(|session| session.is_active() && World::watches(session)) {
            let id = session.id;
            ensure(session.lobby.is_complete(), Invariant::LobbyTruth, || {
                format!("connection {id} has no whole list")
            })?;
            let users = session.lobby.users();
            ensure(*users == truth, Invariant::LobbyTruth, || {
                let ghosts: Vec<_> = users.difference(&truth).collect();
                let missing: Vec<_> = truth.difference(users).collect();
                format!("connection {id} sees ghosts {ghosts:?} and misses {missing:?}")
            })?;
        }
        Ok(())
    }

    /// Everything is answered, and what was acked arrived.
    fn check_messages(&self) -> Checked {
        self.ledger.check_answers(|session| self.sessions[session].is_healthy())?;
        self.ledger.rooms.check_answers(|session| self.sessions[session].is_healthy())?;
        // What a failed store has cannot be read any more: it comes after the next start.
        let may_miss = |record: &crate::ledger::Record| {
            record.room.is_some() && self.scenario.small_inboxes || self.disk.has_failed
        };
        for record in self.ledger.records().iter().filter(|record| record.acked && !may_miss(record)) {
            let sent = record.sendings[0].at;
            let missed = self.sessions.iter().find(|session| {
                record.owed.contains(&session.key)
                    && session.is_active()
                    && session.welcomed_at.is_some_and(|at| at < sent)
                    && !record.arrived_on.contains(&session.id)
            });
            ensure(missed.is_none(), Invariant::AckedLost, || {
                format!("{} was acked and did not come to connection {:?}", record.id, missed.map(|session| session.id))
            })?;
        }
        Ok(())
    }

    /// The shards' counts agree with each other and with the model.
    fn check_accounts(&self) -> Checked {
        let sum = |count: fn(&Stats) -> u64| self.hosts.iter().map(|host| count(host.shard.stats())).sum::<u64>();
        let equal = |what: &str, left: u64, right: u64| {
            ensure(left == right, Invariant::Accounting, || format!("{what}: {left} and {right}"))
        };
        let active = self.sessions.iter().filter(|session| session.is_active());
        let users: BTreeSet<PublicKey> = active.clone().map(|session| session.key).collect();
        equal("sessions counted and active", sum(|stats| stats.sessions), active.count() as u64)?;
        equal("users counted and active", sum(|stats| stats.users), users.len() as u64)?;
        let open: usize = self.hosts.iter().map(crate::relay::Host::open).sum();
        equal("connections counted and open", sum(|stats| stats.connections), open as u64)?;
        equal(
            "messages taken, and acked, known or refused",
            sum(|stats| stats.messages_in),
            sum(|stats| stats.messages_acked + stats.messages_duplicate + stats.messages_refused),
        )?;
        if self.scenario.has_store() {
            equal("messages that the store should have had, and none", sum(|stats| stats.entries_missing), 0)?;
        } else if sum(|stats| stats.room_messages) == 0 {
            let (acked, delivered) = (sum(|stats| stats.messages_acked), sum(|stats| stats.messages_delivered));
            equal("messages acked and delivered", acked, delivered)?;
        }
        let of_this_run = self.sessions.iter().skip(self.run_first);
        let welcomed = of_this_run.filter(|session| session.welcomed_at.is_some()).count() as u64;
        let at_most = |what: &str, seen: u64, counted: u64| {
            ensure(seen <= counted, Invariant::Accounting, || format!("{what}: seen {seen}, counted {counted}"))
        };
        at_most("logins", welcomed, sum(|stats| stats.logins))?;
        at_most("connections", sum(|stats| stats.accepted), self.links.len() as u64)?;
        at_most("messages taken", sum(|stats| stats.messages_in), self.ledger.sent)
    }

    /// Checks, after the last connection ended, that nothing is left.
    pub(crate) fn check_empty(&self) -> Checked {
        for (link, end) in self.links.iter().enumerate() {
            ensure(end.place == Place::Closed, Invariant::ConnectionLeak, || {
                format!("connection {link} is {:?} in the end", end.place)
            })?;
        }
        self.check_accounts()
    }
}
