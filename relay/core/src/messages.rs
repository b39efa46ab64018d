//! Messages: the checks in the contract's order, the wait for the signature, the way to the
//! recipient and the answer to the sender.
//!
//! # Flow
//! `message` (form is known to be right: sender, id, length, rate, timestamp) → a [`Job`] waits →
//! `commit_messages` at the end of the batch (signature) → `deliver` here, or `Envelope::Deliver` to
//! the recipient's home and back as `Envelope::Delivered` → `outcome`: ack or error.
//!
//! # Invariants
//! - Every message that was taken from a session gets exactly one answer, if its connection lives.
//! - An id is noted when the first check that a duplicate would pass is made, and freed when the
//!   message is refused.
//! - Messages of one sender to one recipient keep their order.

use std::ops::Range;

use protocol::frame::{Message, Target};
use protocol::server_frame::Ack;
use protocol::splice::{splice_seq, spliced_bytes};
use protocol::{PublicKey, encode, limits, signed_bytes, websocket};

use crate::config::Config;
use crate::connection::{Connection, Link, Member, State};
use crate::effect::{Effect, Effects};
use crate::envelope::{Envelope, Outcome, Ticket};
use crate::event::{ConnectionId, Nanos};
use crate::recent_ids::{IdKey, IdState, SignatureTag};
use crate::refusal::Refusal;
use crate::router::UserId;
use crate::session::{About, Flow};
use crate::shard::Core;
use crate::stats::{DropReason, Reason};
use crate::verifier::Verifier;

/// How long a key that sent a bad signature is checked alone.
const SUSPICION: Nanos = 10_000_000_000;

/// When to try again after `overloaded`.
const OVERLOADED_RETRY_MS: u64 = 1000;

/// An id on the stack: at most 64 ASCII bytes.
#[derive(Clone, Copy, Debug)]
struct Id {
    bytes: [u8; limits::ID_BYTES],
    len: u8,
}

impl Id {
    fn new(text: &str) -> Self {
        let mut bytes = [0; limits::ID_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Self { bytes, len: text.len() as u8 }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("an id is ASCII")
    }
}

/// A message whose signature is about to be checked.
#[derive(Debug)]
struct Job {
    connection: ConnectionId,
    user: UserId,
    id: Id,
    key: IdKey,
    tag: SignatureTag,
    recipient: Recipient,
    /// The sender's bytes, in the arena.
    frame: Range<usize>,
    /// Another message with this id was waiting already: what becomes of that one decides.
    recheck: bool,
    /// Its length is refused unless it proves a duplicate; for rechecked ones only.
    form: Option<Refusal>,
    /// Its timestamp is refused unless it proves a duplicate; for rechecked ones only.
    is_stale: bool,
}

#[derive(Clone, Copy, Debug)]
enum Recipient {
    User(PublicKey),
    Room(Id),
}

/// A message on its way to another shard.
#[derive(Debug)]
struct InTransit {
    connection: ConnectionId,
    id: Id,
    key: IdKey,
    /// The connections that sent it again meanwhile, once for each time.
    again: Vec<ConnectionId>,
}

#[derive(Debug)]
struct TransitSlot {
    generation: u32,
    entry: Option<InTransit>,
}

/// Messages between their arrival and their answer.
#[derive(Debug)]
pub(crate) struct Messages {
    verifier: Verifier,
    jobs: Vec<Job>,
    arena: Vec<u8>,
    transit: Vec<TransitSlot>,
    free: Vec<u32>,
    in_transit_max: usize,
    pushed: Vec<u8>,
}

impl Messages {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            verifier: Verifier::new(config.verify),
            jobs: Vec::new(),
            arena: Vec::new(),
            transit: Vec::new(),
            free: Vec::new(),
            in_transit_max: config.limits.in_transit_max,
            pushed: Vec::new(),
        }
    }

    fn has_room(&self) -> bool {
        !self.free.is_empty() || self.transit.len() < self.in_transit_max
    }

    fn enter(&mut self, entry: InTransit) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.transit.push(TransitSlot { generation: 0, entry: None });
            (self.transit.len() - 1) as u32
        });
        let place = &mut self.transit[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(entry);
        Ticket { slot, generation: place.generation }
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut InTransit> {
        let place = self.transit.get_mut(ticket.slot as usize)?;
        if place.generation == ticket.generation { place.entry.as_mut() } else { None }
    }

    fn leave(&mut self, ticket: Ticket) -> Option<InTransit> {
        let place = self.transit.get_mut(ticket.slot as usize)?;
        if place.generation != ticket.generation {
            return None;
        }
        let entry = place.entry.take()?;
        self.free.push(ticket.slot);
        Some(entry)
    }
}

impl Core {
    /// Takes a message from a session: everything that can be said without its signature is said now.
    pub(crate) fn message(&mut self, link: &mut Link, member: &mut Member, message: &Message<'_>, text: &str) -> Flow {
        self.stats.messages_in += 1;
        let about = About { id: Some(message.id), room: message.target.room(), retry_after_ms: None };
        if message.sender != member.key {
            member.malformed_in_a_row = 0;
            self.refuse_message(link, Refusal::SENDER_MISMATCH, about);
            return self.spend_control(&mut member.control);
        }
        let now = self.now.nanos;
        let key = self.ids.key(&member.key, message.id);
        let tag = self.ids.tag(&message.signature);
        let known = self.ids.get(key, now);
        let recheck = matches!(known, Some((_, IdState::Verifying)));
        if let (Some((known_tag, state)), false) = (known, recheck) {
            member.malformed_in_a_row = 0;
            if known_tag == tag {
                self.stats.messages_duplicate += 1;
                self.again(link, Id::new(message.id), state);
            } else {
                self.refuse_message(link, Refusal::CONFLICT, about);
            }
            return self.spend_control(&mut member.control);
        }
        let length = message.text.chars().count();
        let form = match length {
            0 => Some(Refusal::EMPTY),
            _ if length > self.config.limits.message_chars_max => Some(Refusal::TOO_LARGE),
            _ => None,
        };
        let skew = message.timestamp.unix_ms().abs_diff(self.now.unix_ms);
        let is_stale = skew > limits::TIMESTAMP_SKEW_MS;
        if !recheck {
            if let Some(refusal) = form {
                self.refuse_message(link, refusal, about);
                if refusal.reason == Reason::Malformed {
                    return self.count_malformed(member);
                }
                member.malformed_in_a_row = 0;
                return self.spend_control(&mut member.control);
            }
            member.malformed_in_a_row = 0;
            if let Some(rate) = self.message_rate
                && let Err(wait) = self.router.user_mut(member.user).messages.take(rate, now)
            {
                let about = About { retry_after_ms: Some(wait.div_ceil(1_000_000)), ..about };
                self.refuse_message(link, Refusal::RATE, about);
                return self.spend_control(&mut member.control);
            }
            if is_stale {
                self.refuse_message(link, Refusal::STALE, about);
                return Flow::Go;
            }
            self.ids.note(key, tag, now);
        }
        let alone = self.router.user(member.user).suspect_until > now;
        let messages = &mut self.messages;
        messages
            .verifier
            .add(&member.verifying_key, message.signature, alone, |out| signed_bytes::message(out, message));
        let start = messages.arena.len();
        messages.arena.extend_from_slice(text.as_bytes());
        messages.jobs.push(Job {
            connection: link.id,
            user: member.user,
            id: Id::new(message.id),
            key,
            tag,
            recipient: match message.target {
                Target::User(recipient) => Recipient::User(recipient),
                Target::Room(room) | Target::RoomMember(room, _) => Recipient::Room(Id::new(room)),
            },
            frame: start..messages.arena.len(),
            recheck,
            form,
            is_stale,
        });
        // What is rechecked is a duplicate or a conflict in all likelihood, and no message that the
        // rate counts: without a cost it would have its signature checked for nothing.
        if recheck { self.spend_control(&mut member.control) } else { Flow::Go }
    }

    /// A message that is known already came again.
    fn again(&mut self, link: &mut Link, id: Id, state: IdState) {
        match state {
            IdState::Accepted => self.ack(link, id, true),
            IdState::InTransit(ticket) => {
                if let Some(entry) = self.messages.get_mut(ticket) {
                    entry.again.push(link.id);
                }
            }
            IdState::Verifying => {}
        }
    }

    fn ack(&mut self, link: &mut Link, id: Id, duplicate: bool) {
        let ack = Ack { id: id.as_str(), online: true, duplicate, seq: None };
        self.post.text(link, |out| encode::ack(out, &ack));
    }

    fn refuse_message(&mut self, link: &mut Link, refusal: Refusal, about: About<'_>) {
        self.stats.messages_refused += 1;
        self.refuse(link, refusal, about);
    }

    /// Checks the signatures that wait and sends the good messages on, in the order they came.
    pub(crate) fn commit_messages(&mut self, effects: &mut Effects) {
        if self.messages.jobs.is_empty() {
            return;
        }
        self.messages.verifier.run(&mut self.stats);
        let mut jobs = std::mem::take(&mut self.messages.jobs);
        let arena = std::mem::take(&mut self.messages.arena);
        for (at, job) in jobs.drain(..).enumerate() {
            let is_good = self.messages.verifier.result(at);
            self.commit(&job, is_good, &arena[job.frame.clone()], effects);
        }
        self.messages.verifier.clear();
        self.messages.jobs = jobs;
        self.messages.arena = arena;
        self.messages.arena.clear();
    }

    fn commit(&mut self, job: &Job, is_good: bool, frame: &[u8], effects: &mut Effects) {
        if job.recheck {
            match self.ids.get(job.key, self.now.nanos) {
                Some((tag, state)) if tag == job.tag => {
                    self.stats.messages_duplicate += 1;
                    self.with_link(job.connection, |core, link| core.again(link, job.id, state));
                    return;
                }
                Some(_) => return self.answer_refused(job, Refusal::CONFLICT),
                None => {}
            }
            // The id is free after all: what a first message goes through before its signature comes now.
            if let Some(refusal) = job.form {
                return self.answer_refused(job, refusal);
            }
            if let Some(rate) = self.message_rate
                && let Err(wait) = self.router.user_mut(job.user).messages.take(rate, self.now.nanos)
            {
                return self.answer_refused_until(job, Refusal::RATE, Some(wait.div_ceil(1_000_000)));
            }
            if job.is_stale {
                return self.answer_refused(job, Refusal::STALE);
            }
            self.ids.note(job.key, job.tag, self.now.nanos);
        }
        if !is_good {
            self.router.user_mut(job.user).suspect_until = self.now.nanos + SUSPICION;
            self.ids.forget(job.key);
            return self.answer_refused(job, Refusal::SIGNATURE);
        }
        let recipient = match job.recipient {
            Recipient::User(recipient) => recipient,
            Recipient::Room(_) => {
                self.ids.forget(job.key);
                return self.answer_refused(job, Refusal::NO_ROOM);
            }
        };
        let home = self.config.home(&recipient);
        if home == self.config.shard {
            let outcome = self.deliver(&recipient, frame);
            self.answer(job.connection, job.id, job.key, outcome);
            return;
        }
        if self.congested[usize::from(home.0)] || !self.messages.has_room() {
            self.ids.forget(job.key);
            return self.answer_refused(job, Refusal::OVERLOADED);
        }
        let entry = InTransit { connection: job.connection, id: job.id, key: job.key, again: Vec::new() };
        let ticket = self.messages.enter(entry);
        self.ids.set(job.key, IdState::InTransit(ticket));
        let mut copy = self.post.pool.take();
        copy.extend_from_slice(frame);
        effects.push(Effect::Send { to: home, envelope: Envelope::Deliver { ticket, recipient, frame: copy } });
    }

    /// Pushes a verified message to every device of a user of this shard.
    pub(crate) fn deliver(&mut self, recipient: &PublicKey, frame: &[u8]) -> Outcome {
        let Some(user) = self.router.find(recipient) else {
            return if recipient.to_verifying_key().is_ok() { Outcome::Offline } else { Outcome::InvalidRecipient };
        };
        let user = self.router.user_mut(user);
        if !user.is_online() {
            return Outcome::Offline;
        }
        user.seq += 1;
        let pushed = &mut self.messages.pushed;
        pushed.clear();
        websocket::text_header(frame.len() + spliced_bytes(user.seq), pushed);
        splice_seq(pushed, frame, user.seq);
        for &device in user.devices() {
            match self.slots[device as usize].connection.as_deref_mut() {
                Some(Connection { link, state: State::Active(_) }) => {
                    if !self.post.push(link, pushed, &[]) {
                        self.stats.drop_push(DropReason::TooSlow);
                    }
                }
                _ => self.stats.drop_push(DropReason::Closing),
            }
        }
        self.stats.messages_delivered += 1;
        Outcome::Online
    }

    /// The recipient's home has answered.
    pub(crate) fn outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(entry) = self.messages.leave(ticket) else { return };
        self.answer(entry.connection, entry.id, entry.key, outcome);
        for again in entry.again {
            self.with_link(again, |core, link| match refusal_of(outcome) {
                None => core.ack(link, entry.id, true),
                Some(refusal) => core.refuse(link, refusal, About { id: Some(entry.id.as_str()), ..About::default() }),
            });
        }
    }

    /// Tells the sender what became of its message.
    fn answer(&mut self, connection: ConnectionId, id: Id, key: IdKey, outcome: Outcome) {
        match refusal_of(outcome) {
            None => {
                self.ids.set(key, IdState::Accepted);
                self.stats.messages_acked += 1;
                self.with_link(connection, |core, link| core.ack(link, id, false));
            }
            Some(refusal) => {
                self.ids.forget(key);
                self.stats.messages_refused += 1;
                let about = About { id: Some(id.as_str()), ..About::default() };
                self.with_link(connection, |core, link| core.refuse(link, refusal, about));
            }
        }
    }

    fn answer_refused(&mut self, job: &Job, refusal: Refusal) {
        let retry_after_ms = (refusal == Refusal::OVERLOADED).then_some(OVERLOADED_RETRY_MS);
        self.answer_refused_until(job, refusal, retry_after_ms);
    }

    fn answer_refused_until(&mut self, job: &Job, refusal: Refusal, retry_after_ms: Option<u64>) {
        self.stats.messages_refused += 1;
        let room = match &job.recipient {
            Recipient::Room(room) => Some(room.as_str()),
            Recipient::User(_) => None,
        };
        let about = About { id: Some(job.id.as_str()), room, retry_after_ms };
        self.with_link(job.connection, |core, link| core.refuse(link, refusal, about));
    }

    /// Acts on the link of a connection, if its session still lives.
    fn with_link(&mut self, id: ConnectionId, act: impl FnOnce(&mut Self, &mut Link)) {
        let Some(slot) = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation) else {
            return;
        };
        let Some(mut connection) = slot.connection.take() else { return };
        if matches!(connection.state, State::Active(_)) {
            act(self, &mut connection.link);
        }
        self.slots[id.index as usize].connection = Some(connection);
    }
}

fn refusal_of(outcome: Outcome) -> Option<Refusal> {
    match outcome {
        Outcome::Online => None,
        Outcome::Offline => Some(Refusal::OFFLINE),
        Outcome::InvalidRecipient => Some(Refusal::RECIPIENT),
    }
}
