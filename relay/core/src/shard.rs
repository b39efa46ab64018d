//! The shard: its parts, its table of connections, and the order of a batch.

use std::net::IpAddr;

use protocol::decode::FrameDecoder;
use protocol::server_frame::LobbyTotals;

use crate::config::{Config, nanos};
use crate::connection::{Closing, Connection, Link, Moving, State, Upgrading};
use crate::deliver::Delivery;
use crate::effect::{Effect, Effects, ReadMode};
use crate::envelope::{Arrival, Envelope, Outcome, Ticket, Waiter};
use crate::event::{ConnectionId, Event, Gone, Nanos, Now, ShardId};
use crate::fan_out::Fan;
use crate::inbox::Totals;
use crate::journal::Journal;
use crate::lobby::Lobby;
use crate::membership::{Asker, Changes};
use crate::messages::Messages;
use crate::outbox::Outbox;
use crate::post::Post;
use crate::rate::Rate;
use crate::receipts::Receipts;
use crate::recent_ids::RecentIds;
use crate::refusal::Closure;
use crate::rooms::Rooms;
use crate::router::Router;
use crate::stats::Stats;
use crate::store::Restored;
use crate::sweep::Sweep;
use crate::timers::{Armed, Timers};
use crate::transit::{Ticketed, Transit};
use crate::typing::Typists;

/// One shard of the relay. See the crate for its interface and invariants.
#[derive(Debug)]
pub struct Shard {
    frames: FrameDecoder,
    core: Core,
}

/// Everything of a shard but the buffers that lend frames while it acts on them.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Config,
    pub(crate) now: Now,
    pub(crate) stats: Stats,
    pub(crate) slots: Vec<Slot>,
    pub(crate) router: Router,
    pub(crate) lobby: Lobby,
    pub(crate) ids: RecentIds,
    pub(crate) messages: Messages,
    pub(crate) post: Post,
    pub(crate) timers: Timers,
    /// Slots of sessions that get lobby frames.
    pub(crate) subscribers: Vec<u32>,
    /// Sessions that wait for their snapshot since the last batch.
    pub(crate) waiting: Vec<ConnectionId>,
    /// Sessions that wait for it until the next flush announces their own key. Kept apart, so that a
    /// storm of logins is not looked through in each batch.
    pub(crate) unannounced: Vec<ConnectionId>,
    /// Which shards' queues are full.
    pub(crate) congested: Vec<bool>,
    pub(crate) control_rate: Rate,
    /// `None`: unlimited.
    pub(crate) message_rate: Option<Rate>,
    /// Messages that are not answered yet.
    pub(crate) transit: Transit,
    pub(crate) journal: Journal,
    pub(crate) receipts: Receipts,
    pub(crate) typists: Typists,
    /// The rooms whose home is here.
    pub(crate) rooms: Rooms,
    /// Those that are not stored as they are.
    pub(crate) changes: Changes,
    /// Messages of rooms that not all have answered for.
    pub(crate) fans: Ticketed<Fan>,
    pub(crate) totals: Totals,
    pub(crate) sweep: Sweep,
    /// What became of messages, to be told at the end of the batch; and the spare list for it.
    pub(crate) settled: Vec<(Waiter, Outcome)>,
    pub(crate) settling: Vec<(Waiter, Outcome)>,
    /// Messages whose senders may not be given a seq yet.
    pub(crate) gated: Vec<(Ticket, Outcome)>,
    /// Sessions that are behind and had to stop for the sake of others.
    pub(crate) hungry: Vec<ConnectionId>,
    /// Sessions whose page of history is to be read.
    pub(crate) readers: Vec<ConnectionId>,
    /// Slots of sessions that are to be closed.
    pub(crate) closing: Vec<u32>,
    /// Messages that wait for keys that were never online.
    pub(crate) unseen_kept: u64,
    /// The user whose memory was cut last.
    pub(crate) evict_at: usize,
    /// The push that is being made.
    pub(crate) pushed: Vec<u8>,
    pub(crate) is_draining: bool,
}

/// One place in the table of connections.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) generation: u32,
    pub(crate) connection: Option<Box<Connection>>,
}

impl Shard {
    /// Makes a shard without connections.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let limits = &config.limits;
        let per_second = limits.messages_per_second;
        let core = Core {
            now: Now::default(),
            stats: Stats::default(),
            slots: Vec::new(),
            router: Router::new(config.clone()),
            lobby: Lobby::new(config.clone()),
            ids: RecentIds::new(config.seed, limits.recent_ids_max),
            messages: Messages::new(&config),
            post: Post::new(limits.outbox_bytes_max),
            timers: Timers::default(),
            subscribers: Vec::new(),
            waiting: Vec::new(),
            unannounced: Vec::new(),
            congested: vec![false; usize::from(config.shards)],
            control_rate: Rate::new(
                limits.control_frames_per_second,
                limits.control_frames_per_second.saturating_mul(2),
            ),
            message_rate: (per_second > 0).then(|| Rate::new(per_second, per_second.saturating_mul(2))),
            transit: Transit::new(limits.in_transit_max),
            journal: Journal::new(config.durability),
            receipts: Receipts::default(),
            typists: Typists::default(),
            rooms: Rooms::new(limits.rooms_max.div_ceil(usize::from(config.shards)), limits.owner_rooms_max),
            changes: Changes::default(),
            fans: Ticketed::new(limits.in_transit_max),
            totals: Totals::default(),
            sweep: Sweep::default(),
            settled: Vec::new(),
            settling: Vec::new(),
            gated: Vec::new(),
            hungry: Vec::new(),
            readers: Vec::new(),
            closing: Vec::new(),
            unseen_kept: 0,
            evict_at: 0,
            pushed: Vec::new(),
            is_draining: false,
            config,
        };
        Self { frames: FrameDecoder::new(), core }
    }

    /// Takes in one event. Signatures, lobby changes and writes wait for
    /// [`end_of_batch`](Self::end_of_batch).
    ///
    /// # Panics
    /// If the event breaks the interface: a connection id that is in use already, or a seq of events
    /// that cannot be.
    pub fn handle(&mut self, event: Event<'_>, now: Now, effects: &mut Effects) {
        let Self { frames, core } = self;
        core.now = now;
        match event {
            Event::Accepted { connection, peer, nonce } => core.accepted(connection, peer, nonce, effects),
            Event::Arrived { connection, arrival } => core.arrived(connection, *arrival, frames, effects),
            Event::Received { connection, bytes } => core.received(connection, bytes, frames, effects),
            Event::Written { connection, buffer } => core.written(connection, buffer, effects),
            Event::Disconnected { connection, gone } => core.disconnected(connection, gone, effects),
            Event::FromShard { from, envelope } => core.envelope(from, envelope, effects),
            Event::Congestion { to, full } => core.congested[usize::from(to.0)] = full,
            Event::Stored { batch, result } => core.stored(batch, result, effects),
            Event::Loaded { page } => core.loaded(&page),
            Event::Drain => core.drain(effects),
        }
    }

    /// Takes in what the store has of this shard's, before any event. Effects are only envelopes for
    /// other shards.
    pub fn restore(&mut self, restored: Restored, now: Now, effects: &mut Effects) {
        self.core.now = now;
        self.core.restore(restored, effects);
    }

    /// Whether a batch is given out or due that is not safe yet. After
    /// [`Event::Drain`] the relay may end once every shard says no, and has no connections.
    #[must_use]
    pub fn has_unstored(&self) -> bool {
        self.core.journal.is_busy()
    }

    /// Ends a batch: fires timers, checks the signatures that wait and routes what is good, flushes
    /// the lobby if it is time, and gives out one write for each connection with something to send.
    pub fn end_of_batch(&mut self, now: Now, effects: &mut Effects) {
        let core = &mut self.core;
        core.now = now;
        core.fire_timers(effects);
        core.commit_messages(effects);
        core.settle(effects);
        core.give_out(effects);
        core.read_history(effects);
        core.flush_receipts(effects);
        core.flush_typing(effects);
        core.close_overflowed(effects);
        core.flush_lobby(effects);
        core.catch_up();
        core.pump(effects);
        core.close_overflowed(effects);
        core.flush(effects);
        core.sweep(effects);
        core.gauge();
    }

    /// When [`end_of_batch`](Self::end_of_batch) is to be called at the latest, on the clock of
    /// [`Now::nanos`]; `None` if nothing waits for time to pass.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let core = &self.core;
        let at_once = (!core.settled.is_empty() || !core.hungry.is_empty()).then_some(core.now.nanos);
        let timers = [core.timers.next(), core.lobby.flush_at(core.subscribers.len())];
        let memory = [core.router.forget_at(), core.sweep_at(), core.receipts.due_at(), core.typists.due_at()];
        let store = [core.journal.due_at(), at_once];
        timers.into_iter().chain(memory).chain(store).flatten().min()
    }

    /// Counts so far. Gauges are right after [`end_of_batch`](Self::end_of_batch).
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.core.stats
    }

    /// Count and digest of the users announced online, on any shard.
    #[must_use]
    pub fn lobby_totals(&self) -> LobbyTotals {
        self.core.lobby.totals()
    }
}

impl Core {
    fn accepted(&mut self, id: ConnectionId, peer: IpAddr, nonce: [u8; 32], effects: &mut Effects) {
        self.stats.accepted += 1;
        if self.is_draining {
            effects.push(Effect::Close { connection: id });
            return;
        }
        let deadline = self.now.nanos + nanos(self.config.upgrade_timeout);
        let mut link = self.link(id, peer);
        self.timers.arm(id, &mut link.armed, deadline);
        self.insert(Connection { link, state: State::Upgrading(Upgrading { nonce, request: Vec::new(), deadline }) });
        effects.push(Effect::Read { connection: id, mode: ReadMode::Once });
    }

    fn arrived(&mut self, id: ConnectionId, arrival: Arrival, frames: &mut FrameDecoder, effects: &mut Effects) {
        let mut connection = Box::new(Connection {
            link: self.link(id, arrival.peer),
            // Replaced at once; a connection is in one of its states at every moment.
            state: State::Closing(Closing { deadline: 0, peer_done: false, shut: false }),
        });
        self.reserve(id);
        if self.is_draining {
            self.begin_close(&mut connection, Closure::GOING_AWAY, effects);
        } else {
            self.activate(&mut connection, arrival, frames, effects);
        }
        self.put_back(connection);
    }

    fn link(&self, id: ConnectionId, peer: IpAddr) -> Link {
        Link {
            id,
            peer,
            outbox: Outbox::default(),
            heard_at: self.now.nanos,
            armed: Armed::default(),
            overflowed: false,
        }
    }

    /// Makes place for a new connection.
    fn reserve(&mut self, id: ConnectionId) {
        let at = id.index as usize;
        if at >= self.slots.len() {
            self.slots.resize_with(at + 1, Slot::default);
        }
        let slot = &mut self.slots[at];
        assert!(slot.connection.is_none(), "the shell gave out {id:?}, whose slot is in use");
        slot.generation = id.generation;
        self.stats.connections += 1;
    }

    fn insert(&mut self, connection: Connection) {
        self.reserve(connection.link.id);
        self.put_back(Box::new(connection));
    }

    /// Takes a connection out of its slot to act on it; `None` if it is gone.
    pub(crate) fn take_out(&mut self, id: ConnectionId) -> Option<Box<Connection>> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.connection.take() } else { None }
    }

    pub(crate) fn put_back(&mut self, connection: Box<Connection>) {
        let at = connection.link.id.index as usize;
        self.slots[at].connection = Some(connection);
    }

    fn received(&mut self, id: ConnectionId, bytes: &mut [u8], frames: &mut FrameDecoder, effects: &mut Effects) {
        let Some(mut connection) = self.take_out(id) else { return };
        connection.link.heard_at = self.now.nanos;
        self.stats.bytes_in += bytes.len() as u64;
        if let Some(connection) = self.bytes(connection, bytes, frames, effects) {
            self.put_back(connection);
        }
    }

    fn written(&mut self, id: ConnectionId, buffer: Vec<u8>, effects: &mut Effects) {
        self.stats.bytes_out += buffer.len() as u64;
        self.post.pool.put(buffer);
        let Some(mut connection) = self.take_out(id) else { return };
        connection.link.outbox.written();
        self.post.touch(&mut connection.link);
        if let Some(connection) = self.hand_over_if_idle(connection, effects) {
            self.put_back(connection);
        }
    }

    /// Hands a `Moving` connection over once nothing is in flight; gives any other back.
    pub(crate) fn hand_over_if_idle(
        &mut self,
        connection: Box<Connection>,
        effects: &mut Effects,
    ) -> Option<Box<Connection>> {
        if !matches!(connection.state, State::Moving(_)) || !connection.link.outbox.is_empty() {
            return Some(connection);
        }
        let Connection { link, state: State::Moving(Moving { to, arrival, .. }) } = *connection else {
            return None;
        };
        self.stats.connections -= 1;
        self.stats.handed_over += 1;
        effects.push(Effect::HandOver { connection: link.id, to, arrival });
        None
    }

    fn disconnected(&mut self, id: ConnectionId, gone: Gone, effects: &mut Effects) {
        let Some(mut connection) = self.take_out(id) else { return };
        if let (State::Closing(closing), Gone::Eof) = (&mut connection.state, gone) {
            closing.peer_done = true;
            self.post.touch(&mut connection.link);
            self.put_back(connection);
        } else {
            self.finish(connection, effects);
        }
    }

    fn envelope(&mut self, from: ShardId, envelope: Envelope, effects: &mut Effects) {
        match envelope {
            Envelope::Deliver { ticket, parcel } => {
                if let Delivery::Done(outcome) = self.deliver(Waiter::message(from, ticket), parcel) {
                    let buffer = self.post.pool.take();
                    effects.push(Effect::Send { to: from, envelope: Envelope::Delivered { ticket, outcome, buffer } });
                }
            }
            Envelope::Delivered { ticket, outcome, buffer } => {
                self.post.pool.put(buffer);
                self.outcome(ticket, outcome);
            }
            Envelope::Receipt { to, receipts } => self.receipt(&to, receipts),
            Envelope::Typing { from, to, is_typing } => self.typist(from, to, is_typing),
            Envelope::RoomMessage { ticket, message } => {
                let waiter = Waiter::message(from, ticket);
                if let Delivery::Done(outcome) = self.room_message(waiter, message, effects) {
                    let envelope = Envelope::Delivered { ticket, outcome, buffer: Vec::new() };
                    effects.push(Effect::Send { to: from, envelope });
                }
            }
            Envelope::RoomDeliver { ticket, share } => self.room_deliver(Waiter::fan(from, ticket), &share, effects),
            Envelope::RoomDelivered { ticket, outcome } => self.fan_settled(ticket, outcome),
            Envelope::RoomAsk { connection, asker, room, ask } => {
                self.room_ask(Asker { shard: from, connection, key: asker }, &room, ask, effects);
            }
            Envelope::RoomAnswer { connection, room, answer } => self.room_answer(connection, &room, answer),
            Envelope::RoomTyping { room, from, is_typing } => self.types_in_room(&room, from, is_typing, effects),
            Envelope::Tell { users, except, frame } => self.tell(&users, except, &frame),
            Envelope::Unseen { senders, wait } => self.unseen(&senders, wait),
            Envelope::Lobby { joined, left } => {
                joined.into_iter().for_each(|key| self.lobby.note_other(key, true));
                left.into_iter().for_each(|key| self.lobby.note_other(key, false));
            }
        }
    }

    fn gauge(&mut self) {
        let stats = &mut self.stats;
        stats.ids_evicted = self.ids.evicted();
        stats.users = self.router.online();
        stats.users_known = self.router.known();
        stats.rooms = self.rooms.len() as u64;
        stats.inbox_entries = self.totals.kept;
        stats.inbox_bytes = self.totals.kept_bytes;
        stats.tail_bytes = self.totals.tail_bytes;
    }

    fn fire_timers(&mut self, effects: &mut Effects) {
        let now = self.now.nanos;
        while let Some((at, id)) = self.timers.pop_due(now) {
            let Some(mut connection) = self.take_out(id) else { continue };
            if !connection.link.armed.fire(at) {
                self.put_back(connection);
                continue;
            }
            let deadline = match &connection.state {
                State::Upgrading(Upgrading { deadline, .. })
                | State::Moving(Moving { deadline, .. })
                | State::Closing(Closing { deadline, .. })
                    if *deadline <= now =>
                {
                    self.finish(connection, effects);
                    continue;
                }
                State::Challenged(challenged) if challenged.deadline <= now => {
                    self.begin_close(&mut connection, Closure::AUTH_TIMEOUT, effects);
                    None
                }
                State::Upgrading(Upgrading { deadline, .. })
                | State::Moving(Moving { deadline, .. })
                | State::Closing(Closing { deadline, .. }) => Some(*deadline),
                State::Challenged(challenged) => Some(challenged.deadline),
                State::Active(_) => {
                    let Some(deadline) = self.session_timer(&mut connection) else {
                        self.stats.closed_silent += 1;
                        self.finish(connection, effects);
                        continue;
                    };
                    Some(deadline)
                }
            };
            if let Some(deadline) = deadline {
                self.timers.arm(id, &mut connection.link.armed, deadline);
            }
            self.put_back(connection);
        }
    }

    /// One write for each connection that has something to send and none in flight.
    fn flush(&mut self, effects: &mut Effects) {
        let mut dirty = std::mem::take(&mut self.post.dirty);
        for at in dirty.drain(..) {
            let Some(connection) = self.slots[at as usize].connection.as_deref_mut() else { continue };
            let Connection { link, state } = connection;
            if let Some(buffer) = link.outbox.take_write() {
                effects.push(Effect::Write { connection: link.id, buffer });
            } else if let (State::Closing(closing), true) = (state, link.outbox.is_empty()) {
                if !std::mem::replace(&mut closing.shut, true) && !closing.peer_done {
                    effects.push(Effect::ShutdownWrite { connection: link.id });
                }
                if closing.peer_done {
                    let id = link.id;
                    if let Some(connection) = self.take_out(id) {
                        self.finish(connection, effects);
                    }
                }
            }
        }
        self.post.dirty = dirty;
    }
}
