//! Tells subscribers who is online: snapshots, shared updates, and merged ones for those who lag.

use protocol::websocket;

use crate::connection::{Connection, Link, Member, State, Subscription};
use crate::effect::{Effect, Effects};
use crate::envelope::Envelope;
use crate::event::{ConnectionId, Nanos, ShardId};
use crate::lobby::{CatchUp, Cursor, Lobby};
use crate::post::Post;
use crate::shard::Core;
use crate::stats::Stats;

/// A subscriber with more than this waiting in its outbox is skipped by flushes and gets one merged
/// update once it has caught up.
const LAG_BYTES: usize = 64 * 1024;

/// A snapshot's next page goes into an outbox that holds less than this: one page waits while one is
/// written. More would cost memory in a storm of logins and save nothing, for the kernel buffers too.
const SNAPSHOT_BYTES: usize = protocol::limits::RELAY_FRAME_BYTES;

/// The parts of a shard that bring one subscriber up to date.
struct Teller<'a> {
    lobby: &'a mut Lobby,
    post: &'a mut Post,
    stats: &'a mut Stats,
}

/// Snapshots that a client asks for come at most this often.
const SYNC_INTERVAL: Nanos = 2_000_000_000;

impl Core {
    /// Adds a session to those that get lobby frames; its snapshot comes at the end of the batch that
    /// announces its own key.
    pub(crate) fn subscribe(&mut self, id: ConnectionId) -> Subscription {
        let place = u32::try_from(self.subscribers.len()).expect("fewer than 2^32 sessions");
        self.subscribers.push(id.index);
        self.waiting.push(id);
        Subscription { cursor: Cursor::Waiting, place, sync_from: 0, sync_wanted: false }
    }

    pub(crate) fn unsubscribe(&mut self, place: u32) {
        self.subscribers.swap_remove(place as usize);
        let Some(&moved) = self.subscribers.get(place as usize) else { return };
        let connection = self.slots[moved as usize].connection.as_deref_mut();
        if let Some(Connection { state: State::Active(session), .. }) = connection
            && let Some(subscription) = &mut session.member.subscription
        {
            subscription.place = place;
        }
    }

    /// A client asks for a fresh snapshot: it gets one now, or as soon as it may.
    pub(crate) fn lobby_sync(&mut self, link: &mut Link, member: &mut Member) {
        let Some(subscription) = &mut member.subscription else { return };
        if self.now.nanos >= subscription.sync_from {
            self.sync(link, member);
        } else {
            subscription.sync_wanted = true;
            self.timers.arm(link.id, &mut link.armed, subscription.sync_from);
        }
    }

    /// Syncs a session that asked too early, if it is time; or says when it is.
    pub(crate) fn sync_if_due(&mut self, link: &Link, member: &mut Member) -> Option<Nanos> {
        let subscription = member.subscription.as_ref().filter(|subscription| subscription.sync_wanted)?;
        if self.now.nanos < subscription.sync_from {
            return Some(subscription.sync_from);
        }
        self.sync(link, member);
        None
    }

    fn sync(&mut self, link: &Link, member: &mut Member) {
        let Some(subscription) = &mut member.subscription else { return };
        subscription.sync_wanted = false;
        subscription.sync_from = self.now.nanos + SYNC_INTERVAL;
        // A snapshot already on its way is as fresh as any: its pages must not be broken off.
        if matches!(subscription.cursor, Cursor::At(_)) {
            subscription.cursor = Cursor::Waiting;
            self.waiting.push(link.id);
        }
    }

    /// Tells the other shards of this shard's changes, and this shard's subscribers of everyone's, if
    /// it is time.
    pub(crate) fn flush_lobby(&mut self, effects: &mut Effects) {
        if let Some((joined, left)) = self.lobby.take_outgoing() {
            for to in (0..self.config.shards).map(ShardId).filter(|&to| to != self.config.shard) {
                let envelope = Envelope::Lobby { joined: joined.clone(), left: left.clone() };
                effects.push(Effect::Send { to, envelope });
            }
        }
        if self.lobby.flush_at(self.subscribers.len()).is_some_and(|at| at <= self.now.nanos) {
            self.stats.lobby_flushes += 1;
            let mut head = Vec::new();
            while let Some(update) = self.lobby.flush(self.now.nanos) {
                head.clear();
                websocket::text_header(update.len(), &mut head);
                // The frame is borrowed from the lobby while outboxes are filled.
                let update = update.to_vec();
                self.tell_all(&head, &update);
            }
        }
        self.start_snapshots();
    }

    /// Gives one update to every subscriber that was told everything before it and keeps up.
    fn tell_all(&mut self, head: &[u8], update: &[u8]) {
        let rev = self.lobby.rev();
        for &at in &self.subscribers {
            let Some(Connection { link, state: State::Active(session) }) =
                self.slots[at as usize].connection.as_deref_mut()
            else {
                continue;
            };
            let Some(subscription) = &mut session.member.subscription else { continue };
            let is_current = matches!(subscription.cursor, Cursor::At(told) if told + 1 == rev);
            if is_current && link.outbox.pending_bytes() < LAG_BYTES && self.post.push(link, head, update) {
                subscription.cursor = Cursor::At(rev);
            }
        }
    }

    /// Starts the snapshots of those who wait and whose own key is announced.
    fn start_snapshots(&mut self) {
        if !self.lobby.has_pending() {
            self.waiting.append(&mut self.unannounced);
        }
        let (slots, post, stats) = (&mut self.slots, &mut self.post, &mut self.stats);
        let mut teller = Teller { lobby: &mut self.lobby, post, stats };
        for id in self.waiting.drain(..) {
            let Some(slot) = slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation) else {
                continue;
            };
            let Some(Connection { link, state: State::Active(session) }) = slot.connection.as_deref_mut() else {
                continue;
            };
            let key = session.member.key;
            let Some(subscription) = &mut session.member.subscription else { continue };
            if !matches!(subscription.cursor, Cursor::Waiting) {
                continue;
            }
            if teller.lobby.is_announced(&key) {
                teller.start_snapshot(subscription);
                teller.tell(link, subscription);
            } else {
                self.unannounced.push(id);
            }
        }
    }

    /// Brings those whose outbox moved in this batch up to date.
    pub(crate) fn catch_up(&mut self) {
        let rev = self.lobby.rev();
        let mut at = 0;
        // Telling adds connections to the list; those are up to date, so the list is read once.
        let end = self.post.dirty.len();
        while at < end {
            let index = self.post.dirty[at];
            at += 1;
            let Some(Connection { link, state: State::Active(session) }) =
                self.slots[index as usize].connection.as_deref_mut()
            else {
                continue;
            };
            let Some(subscription) = &mut session.member.subscription else { continue };
            let is_behind = match subscription.cursor {
                Cursor::Waiting => false,
                Cursor::Reading { .. } => true,
                Cursor::At(told) => told < rev,
            };
            if is_behind {
                let (lobby, post, stats) = (&mut self.lobby, &mut self.post, &mut self.stats);
                Teller { lobby, post, stats }.tell(link, subscription);
            }
        }
    }
}

impl Teller<'_> {
    fn start_snapshot(&mut self, subscription: &mut Subscription) {
        self.stats.lobby_snapshots += 1;
        subscription.cursor = Cursor::Reading { snapshot: self.lobby.snapshot(), next: 0 };
    }

    /// Gives a subscriber what it lacks, as far as its outbox has room.
    fn tell(&mut self, link: &mut Link, subscription: &mut Subscription) {
        loop {
            match &mut subscription.cursor {
                Cursor::Waiting => return,
                Cursor::Reading { snapshot, next } => {
                    let Some(page) = snapshot.pages.get(*next) else {
                        subscription.cursor = Cursor::At(snapshot.rev);
                        continue;
                    };
                    if link.outbox.bytes() >= SNAPSHOT_BYTES || !self.post.push(link, page, &[]) {
                        return;
                    }
                    *next += 1;
                }
                Cursor::At(rev) => {
                    if *rev == self.lobby.rev() || link.outbox.pending_bytes() >= LAG_BYTES {
                        return;
                    }
                    match self.lobby.catch_up(*rev) {
                        CatchUp::Snapshot => self.start_snapshot(subscription),
                        CatchUp::Nothing => subscription.cursor = Cursor::At(self.lobby.rev()),
                        CatchUp::Update => {
                            let lobby = &*self.lobby;
                            let fits = self.post.text(link, |out| out.extend_from_slice(lobby.merged()));
                            self.stats.lobby_merged += 1;
                            if fits {
                                subscription.cursor = Cursor::At(lobby.rev());
                            }
                            return;
                        }
                    }
                }
            }
        }
    }
}
