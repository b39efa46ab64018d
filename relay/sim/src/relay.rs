//! The relay's side of the simulation: what the shell does around the shards.
//!
//! Inputs of a shard queue up in order and are handled in passes: some of them, then the end of the
//! batch. Effects are carried out at once, and each is held against the contract between core and
//! engine.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use protocol::limits;
use protocol::server_frame::ServerFrame;
use relay_core::{
    Arrival, Batch, ConnectionId, Effect, Effects, Envelope, Event, Gone, Now, Page, Shard, ShardId, StoreFault,
};

use crate::disk::Asked;
use crate::frames;
use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::network::{Input, LinkId, Place};
use crate::plant::{self, Fate, Plant};
use crate::schedule::{MS, SECOND};
use crate::world::{Occurrence, World};

/// Something that waits for a shard.
#[derive(Debug)]
pub(crate) enum Waiting {
    Accept(LinkId),
    Arrive(LinkId, Box<Arrival>),
    Link(ConnectionId, Input),
    Envelope(usize, Envelope),
    Congestion { to: usize, full: bool },
    Stored(Box<Batch>, Result<(), StoreFault>),
    Loaded(Box<Page>),
    Drain,
}

/// One slot of a shard's connections.
#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    link: Option<LinkId>,
}

/// One shard and what the shell keeps for it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) shard: Shard,
    waiting: VecDeque<Waiting>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    effects: Effects,
    /// When the next pass is due.
    pass_at: Option<u64>,
    /// Passes in a row that had no input and did nothing.
    idle_passes: u32,
    /// When the last pass was that did something.
    idle_since: u64,
}

impl Host {
    /// Makes the shell around a shard.
    pub(crate) fn new(shard: Shard) -> Self {
        Self {
            shard,
            waiting: VecDeque::new(),
            slots: Vec::new(),
            free: Vec::new(),
            effects: Effects::new(),
            pass_at: None,
            idle_passes: 0,
            idle_since: 0,
        }
    }

    /// Connections that are open here.
    pub(crate) fn open(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Connections that wait to be accepted.
    pub(crate) fn accepting(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Accept(link) => Some(*link),
            _ => None,
        })
    }

    /// After a drain: nothing is left to be done.
    pub(crate) fn has_drained(&self) -> bool {
        self.open() == 0 && self.waiting.is_empty() && !self.shard.has_unstored()
    }

    fn take_slot(&mut self, link: LinkId) -> ConnectionId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.generation += 1;
        slot.link = Some(link);
        ConnectionId { index, generation: slot.generation }
    }

    fn link(&self, connection: ConnectionId) -> Option<LinkId> {
        let slot = self.slots.get(connection.index as usize)?;
        slot.link.filter(|_| slot.generation == connection.generation)
    }

    fn free_slot(&mut self, connection: ConnectionId) {
        self.slots[connection.index as usize].link = None;
        self.free.push(connection.index);
    }
}

impl World {
    /// Puts something in a shard's queue and sees that it is handled soon.
    pub(crate) fn give(&mut self, shard: usize, waiting: Waiting) {
        self.hosts[shard].waiting.push_back(waiting);
        let soon = self.schedule.now() + self.random.below(self.scenario.batch_max as u64 * MS / 50 + 1);
        self.plan_pass(shard, soon);
    }

    pub(crate) fn plan_pass(&mut self, shard: usize, at: u64) {
        let at = at.max(self.schedule.now());
        let host = &mut self.hosts[shard];
        if host.pass_at.is_none_or(|planned| planned > at) {
            host.pass_at = Some(at);
            self.schedule.at(at, Occurrence::Pass(shard));
        }
    }

    pub(crate) fn now(&self) -> Now {
        Now { nanos: self.schedule.now(), unix_ms: self.unix_ms() }
    }

    /// One batch of a shard. A pass that was planned and then brought forward does nothing.
    pub(crate) fn pass(&mut self, shard: usize) -> Checked {
        let now = self.now();
        if self.hosts.get(shard).is_none_or(|host| host.pass_at != Some(now.nanos)) {
            return Ok(());
        }
        self.hosts[shard].pass_at = None;
        let effects_before = self.trace.count;
        let due = self.hosts[shard].waiting.len().min(1 + self.random.index(self.scenario.batch_max));
        for _ in 0..due {
            let Some(waiting) = self.hosts[shard].waiting.pop_front() else { break };
            self.handle(shard, waiting, now)?;
        }
        self.with_effects(shard, |shard, effects| shard.end_of_batch(now, effects))?;
        let host = &mut self.hosts[shard];
        if self.trace.count == effects_before {
            host.idle_passes += 1;
        } else {
            (host.idle_passes, host.idle_since) = (0, now.nanos);
        }
        // Timers are lazy: one of a connection that is gone or lives on wakes the shard for nothing,
        // a few times for each connection. More is a shard that spins.
        // With a store, a look at some users each second does so too.
        let seconds = (now.nanos - host.idle_since) / SECOND;
        let idle_max = 1000 + 4 * self.links.len() as u32 + 2 * seconds as u32;
        ensure(host.idle_passes < idle_max, Invariant::TimerSpins, || {
            format!("shard {shard} woke {idle_max} times for nothing, next at {:?}", host.shard.poll_timeout())
        })?;
        let more = !host.waiting.is_empty();
        let deadline = host.shard.poll_timeout().filter(|_| self.plant != Some(Plant::IgnoreTimers));
        if let Some(deadline) = deadline {
            let lateness = if self.random.chance(50) { 0 } else { self.random.below(MS) };
            self.plan_pass(shard, deadline.max(now.nanos + 1) + lateness);
        }
        if more {
            let soon = now.nanos + self.random.below(MS / 20);
            self.plan_pass(shard, soon);
        }
        Ok(())
    }

    fn handle(&mut self, shard: usize, waiting: Waiting, now: Now) -> Checked {
        match waiting {
            Waiting::Accept(link) => {
                let connection = self.hosts[shard].take_slot(link);
                self.sessions[link].run = self.ledger.run;
                self.links[link].place = Place::Open { shard, connection };
                let nonce = self.random.bytes();
                let peer = IpAddr::V4(Ipv4Addr::new(192, 0, 2, link as u8));
                self.tell(shard, Event::Accepted { connection, peer, nonce }, now)
            }
            Waiting::Arrive(link, arrival) => {
                let connection = self.hosts[shard].take_slot(link);
                self.links[link].place = Place::Open { shard, connection };
                self.tell(shard, Event::Arrived { connection, arrival }, now)
            }
            Waiting::Link(connection, input) => {
                let Some(link) = self.hosts[shard].link(connection) else {
                    return Ok(());
                };
                match input {
                    Input::Bytes(mut bytes) => self.tell(shard, Event::Received { connection, bytes: &mut bytes }, now),
                    Input::Written(buffer) => {
                        self.links[link].write_told();
                        self.tell(shard, Event::Written { connection, buffer }, now)
                    }
                    Input::Gone(gone) => {
                        if gone == Gone::Broken {
                            self.links[link].write_told();
                        }
                        self.tell(shard, Event::Disconnected { connection, gone }, now)
                    }
                }
            }
            Waiting::Envelope(from, envelope) => {
                self.tell(shard, Event::FromShard { from: ShardId(from as u16), envelope }, now)
            }
            Waiting::Congestion { to, full } => {
                self.tell(shard, Event::Congestion { to: ShardId(to as u16), full }, now)
            }
            Waiting::Stored(batch, result) => self.tell(shard, Event::Stored { batch, result }, now),
            Waiting::Loaded(page) => self.tell(shard, Event::Loaded { page }, now),
            Waiting::Drain => self.tell(shard, Event::Drain, now),
        }
    }

    fn tell(&mut self, shard: usize, event: Event<'_>, now: Now) -> Checked {
        self.trace.event(now.nanos, shard, &event);
        self.with_effects(shard, |shard, effects| shard.handle(event, now, effects))
    }

    pub(crate) fn with_effects(&mut self, shard: usize, call: impl FnOnce(&mut Shard, &mut Effects)) -> Checked {
        let mut effects = std::mem::take(&mut self.hosts[shard].effects);
        call(&mut self.hosts[shard].shard, &mut effects);
        let outcome = effects.drain().try_for_each(|effect| self.carry_out(shard, effect));
        self.hosts[shard].effects = effects;
        outcome
    }

    fn open_link(&self, shard: usize, connection: ConnectionId, effect: &str) -> Checked<LinkId> {
        match self.hosts[shard].link(connection) {
            Some(link) => Ok(link),
            None => violated(
                Invariant::EngineContract,
                format!("shard {shard}: {effect} names {connection:?}, which is not open"),
            ),
        }
    }

    fn carry_out(&mut self, shard: usize, effect: Effect) -> Checked {
        self.trace.effect(self.schedule.now(), shard, &effect);
        match effect {
            Effect::Read { connection, mode } => {
                let link = self.open_link(shard, connection, "read")?;
                self.links[link].start_read(mode);
                self.offer(link);
            }
            Effect::Write { connection, buffer } => {
                let link = self.open_link(shard, connection, "write")?;
                self.write(shard, link, buffer)?;
            }
            Effect::ShutdownWrite { connection } => {
                let link = self.open_link(shard, connection, "shutdown")?;
                self.links[link].shutdown();
                self.pump(link);
            }
            Effect::Close { connection } => {
                let link = self.open_link(shard, connection, "close")?;
                if self.plant == Some(Plant::IgnoreClose) && Plant::strikes(&mut self.random) {
                    return Ok(());
                }
                self.hosts[shard].free_slot(connection);
                let at = self.links[link].close_relay(self.schedule.now(), &self.scenario, &mut self.random);
                self.schedule.at(at, Occurrence::ReadDown(link));
            }
            Effect::HandOver { connection, to, mut arrival } => {
                let link = self.open_link(shard, connection, "hand-over")?;
                self.hand_over(shard, link, to, &arrival)?;
                self.hosts[shard].free_slot(connection);
                self.links[link].begin_move();
                if self.plant == Some(Plant::ForgetResume) {
                    arrival.resume = None;
                }
                let lost = self.plant == Some(Plant::LoseHandOver) && Plant::strikes(&mut self.random);
                if !lost {
                    let to = self.hand_over_target(usize::from(to.0));
                    let at = self.schedule.now() + self.random.below(self.scenario.hop_max + 1);
                    let run = self.ledger.run;
                    self.schedule.at(at, Occurrence::HandOver { link, to, arrival, run });
                }
            }
            Effect::Send { to, envelope } => {
                let to = usize::from(to.0);
                ensure(to < self.hosts.len() && to != shard, Invariant::EngineContract, || {
                    format!("shard {shard} sends to {to}")
                })?;
                self.send(shard, to, envelope);
            }
            Effect::Store(batch) => self.ask_disk(shard, Asked::Store(batch))?,
            Effect::Load(request) => self.ask_disk(shard, Asked::Load(request))?,
        }
        Ok(())
    }

    fn write(&mut self, shard: usize, link: LinkId, mut buffer: Vec<u8>) -> Checked {
        let bytes_max = self.scenario.shared().limits.outbox_bytes_max;
        ensure(!buffer.is_empty(), Invariant::EngineContract, || format!("shard {shard} writes nothing"))?;
        ensure(buffer.len() <= bytes_max, Invariant::OutboxBound, || {
            format!("shard {shard} writes {} bytes, bound {bytes_max}", buffer.len())
        })?;
        self.check_acks(link, &buffer)?;
        if self.plant == Some(Plant::FlipByte) && Plant::strikes(&mut self.random) {
            plant::flip_byte(&mut buffer, &mut self.random);
        }
        if self.plant == Some(Plant::RepeatWrite) && buffer.starts_with(&[0x81]) && Plant::strikes(&mut self.random) {
            buffer.extend_from_within(..);
        }
        if self.plant == Some(Plant::LoseWrite) && Plant::strikes(&mut self.random) {
            let Place::Open { connection, .. } = self.links[link].place else { return Ok(()) };
            self.give(shard, Waiting::Link(connection, Input::Written(buffer)));
            return Ok(());
        }
        ensure(self.links[link].start_write(buffer), Invariant::EngineContract, || {
            format!("shard {shard}: a second write in flight on connection {link}, or one behind the shutdown")
        })?;
        self.pump(link);
        Ok(())
    }

    /// With a store, what is acked is safe at the moment that the ack is written.
    fn check_acks(&mut self, link: LinkId, buffer: &[u8]) -> Checked {
        if !self.scenario.has_store() || !self.sessions[link].may_be_acked() {
            return Ok(());
        }
        let (user, small) = (self.sessions[link].user, self.scenario.small_inboxes);
        let mut frames = std::mem::take(&mut self.frames);
        let mut acks = frames::texts(buffer).filter(|text| text.starts_with("{\"type\":\"ack\""));
        let outcome = acks.try_for_each(|text| match frames.decode(text) {
            Ok(ServerFrame::Ack(ack)) => self.ledger.check_safe(user, ack.id, small),
            _ => Ok(()),
        });
        self.frames = frames;
        outcome
    }

    fn hand_over(&self, shard: usize, link: LinkId, to: ShardId, arrival: &Arrival) -> Checked {
        let home = self.scenario.shared().home(&arrival.public_key);
        ensure(to == home && usize::from(to.0) != shard, Invariant::EngineContract, || {
            format!("shard {shard} hands connection {link} over to {}, its home is {}", to.0, home.0)
        })?;
        ensure(self.links[link].is_still(), Invariant::EngineContract, || {
            format!("shard {shard} hands connection {link} over with something in flight")
        })?;
        ensure(self.links[link].moves == 0, Invariant::EngineContract, || {
            format!("connection {link} is handed over again")
        })?;
        ensure(arrival.unread.len() <= 2 * limits::FRAME_BYTES, Invariant::OutboxBound, || {
            format!("connection {link} moves with {} unread bytes", arrival.unread.len())
        })
    }

    fn hand_over_target(&mut self, to: usize) -> usize {
        if self.plant == Some(Plant::MisdirectHandOver) && Plant::strikes(&mut self.random) {
            return (to + 1) % self.hosts.len();
        }
        to
    }

    /// Sends an envelope: delayed, and in order for each pair of shards.
    fn send(&mut self, from: usize, to: usize, envelope: Envelope) {
        let fate = match self.plant {
            Some(plant) if Plant::strikes(&mut self.random) => {
                let someone = self.users[self.random.index(self.users.len())].key;
                plant::meddle(plant, envelope, someone)
            }
            _ => Fate::Pass(envelope),
        };
        match fate {
            Fate::Pass(envelope) => self.post(from, to, envelope, 0),
            Fate::Overtake(envelope) => self.post(from, to, envelope, 1),
            Fate::Twice(envelope, again) => {
                self.post(from, to, envelope, 0);
                self.post(from, to, again, 0);
            }
            Fate::Answer(envelope) => self.post(to, from, envelope, 0),
            Fate::AnswerToo(envelope, answer) => {
                self.post(from, to, envelope, 0);
                self.post(to, from, answer, 0);
            }
            Fate::Lost => {}
        }
    }

    /// Queues an envelope behind all but the last `overtaken` of its pair of shards.
    fn post(&mut self, from: usize, to: usize, envelope: Envelope, overtaken: usize) {
        let queue = &mut self.mesh[from * self.hosts.len() + to];
        queue.insert(queue.len().saturating_sub(overtaken), envelope);
        let at = self.schedule.now() + self.random.below(self.scenario.hop_max + 1);
        let run = self.ledger.run;
        self.schedule.at(at, Occurrence::Envelope { from, to, run });
    }

    /// The next envelope of a pair of shards arrives: whichever was sent first.
    pub(crate) fn envelope_arrives(&mut self, from: usize, to: usize) {
        let way = from * self.hosts.len() + to;
        if let Some(envelope) = self.mesh[way].pop_front() {
            self.give(to, Waiting::Envelope(from, envelope));
        }
    }

    /// Moves a write on, and tells the shard what came of it.
    pub(crate) fn pump(&mut self, link: LinkId) {
        let now = self.schedule.now();
        for at in self.links[link].pump_down(now, &self.scenario, &mut self.random) {
            self.schedule.at(at, Occurrence::ReadDown(link));
        }
        self.offer(link);
    }

    /// Gives the shard whatever its connection has for it.
    pub(crate) fn offer(&mut self, link: LinkId) {
        while let Place::Open { shard, connection } = self.links[link].place {
            let Some(input) = self.links[link].next_input(&mut self.random) else { break };
            self.give(shard, Waiting::Link(connection, input));
        }
    }
}
