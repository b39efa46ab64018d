//! The relay ends, killed at any moment or drained in peace, and starts anew with as many shards or
//! others.
//!
//! What a kill leaves is what the disk keeps: everything in the shards, between them and on the
//! connections is gone. Clients see their connections break, and find nobody for a while.

use protocol::PublicKey;
use relay_core::{Nanos, Shard, ShardId};

use crate::invariant::Checked;
use crate::network::{LinkId, Place};
use crate::plant;
use crate::relay::{Host, Waiting};
use crate::schedule::{MS, SECOND};
use crate::world::{Occurrence, World};

/// How long a drain may take before it is a kill.
const DRAIN_MAX: Nanos = 10 * SECOND;

impl World {
    /// Ends the relay and starts it again, while clients go on.
    pub(crate) fn restart(&mut self, in_peace: bool) -> Checked {
        let is_orderly = in_peace && self.drain()? && !self.disk.has_failed;
        self.stop(is_orderly);
        for _ in 0..self.random.below(6) {
            let gap = self.random.below(self.scenario.step_gap_max + 1);
            self.run_for(gap)?;
            self.step()?;
        }
        let down = self.random.below(2 * SECOND);
        self.run_for(down)?;
        self.start()
    }

    /// Tells all shards that the relay goes away, and waits until nothing is left to be done. False if that
    /// took too long.
    fn drain(&mut self) -> Checked<bool> {
        self.seen.note("relay", "drained");
        self.trace.note(self.schedule.now(), || "the relay drains".to_owned());
        self.end_congestion();
        self.begin_drain()?;
        let until = self.schedule.now() + DRAIN_MAX;
        while self.schedule.now() < until {
            self.run_for(20 * MS)?;
            if self.has_drained() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Tells the shards one by one.
    pub(crate) fn begin_drain(&mut self) -> Checked {
        self.draining = true;
        for session in self.sessions.iter_mut().filter(|session| !session.is_ended()) {
            session.restarted = true;
        }
        for shard in 0..self.hosts.len() {
            self.give(shard, Waiting::Drain);
            let gap = self.random.below(self.scenario.hop_max + 1);
            self.run_for(gap)?;
            let device = self.random.index(self.devices.len());
            self.connect(device);
        }
        Ok(())
    }

    fn has_drained(&self) -> bool {
        self.disk.is_idle()
            && self.mesh.iter().all(std::collections::VecDeque::is_empty)
            && self.hosts.iter().all(Host::has_drained)
    }

    /// The relay's process is gone.
    fn stop(&mut self, is_orderly: bool) {
        let now = self.schedule.now();
        self.seen.note("relay", if is_orderly { "ended in peace" } else { "killed" });
        self.trace.note(now, || format!("the relay ends, in peace: {is_orderly}"));
        let acked_by = if is_orderly { Some(now) } else { self.ids_stored_by() };
        self.crash_disk();
        self.ledger.start_anew(is_orderly, acked_by);
        self.ledger.rooms.forget(|_| true);
        if !self.scenario.has_store() {
            self.ledger.rooms.clear(now);
        }
        self.forget_what_is_lost(is_orderly);
        for link in self.hosts.iter().flat_map(Host::accepting).collect::<Vec<_>>() {
            self.refuse(link);
        }
        for link in 0..self.links.len() {
            if matches!(self.links[link].place, Place::Open { .. } | Place::Moving) {
                self.refuse(link);
            }
        }
        self.note_stats();
        self.hosts.clear();
        self.mesh.clear();
        self.congested.clear();
        (self.is_down, self.draining) = (true, false);
    }

    /// The operating system closes a connection that no relay holds.
    pub(crate) fn refuse(&mut self, link: LinkId) {
        self.sessions[link].restarted = true;
        let at = self.links[link].close_relay(self.schedule.now(), &self.scenario, &mut self.random);
        self.schedule.at(at, Occurrence::ReadDown(link));
    }

    /// Until when an ack must have come for its id to be on the disk by now, if its message is not.
    fn ids_stored_by(&self) -> Option<Nanos> {
        let now = self.schedule.now();
        // Ids wait for 100 ms and a free place among the batches that are given out.
        let wait = 3 * SECOND + 12 * self.scenario.temper.sync_max;
        (!self.disk.has_failed && self.disk.troubled_at.saturating_add(wait) < now).then(|| now - wait)
    }

    /// What the relay does not have to know afterwards.
    fn forget_what_is_lost(&mut self, is_orderly: bool) {
        let has_store = self.scenario.has_store();
        if is_orderly && has_store {
            return;
        }
        let kept = self.disk.kept();
        let is_kept =
            |key: &PublicKey, epoch: u64| kept.user(key).is_some_and(|user| user.exact && user.epoch == epoch);
        self.epochs.retain(|key, epoch| has_store && is_kept(key, *epoch));
        for device in &mut self.devices {
            let user = kept.user(&self.users[device.user].key).filter(|_| has_store);
            if !user.is_some_and(|user| user.devices.iter().any(|known| *known.id == *device.name)) {
                device.known_since = None;
            }
        }
    }

    /// The relay starts on what the disk has.
    fn start(&mut self) -> Checked {
        self.scenario.start_anew(&mut self.random);
        self.trace.note(self.schedule.now(), || format!("the relay starts with {} shards", self.scenario.shards));
        self.is_down = false;
        self.run_first = self.links.len();
        self.make_hosts();
        if !self.scenario.has_store() {
            return Ok(());
        }
        let now = self.now();
        for shard in 0..self.hosts.len() {
            let config = self.scenario.config(ShardId(shard as u16), self.plant);
            let mut restored = self.disk.kept().restored(&config);
            if let Some(plant) = self.plant {
                plant::spoil_restored(plant, &mut restored, &mut self.random);
            }
            self.with_effects(shard, |shard, effects| shard.restore(restored, now, effects))?;
            self.plan_pass(shard, now.nanos);
        }
        Ok(())
    }

    /// Makes empty shards and the ways between them.
    pub(crate) fn make_hosts(&mut self) {
        let shards = self.scenario.shards;
        let host = |shard| Host::new(Shard::new(self.scenario.config(ShardId(shard), self.plant)));
        self.hosts = (0..shards).map(host).collect();
        self.mesh.resize_with(usize::from(shards) * usize::from(shards), Default::default);
    }
}
