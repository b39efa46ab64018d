//! Messages at their sender's home: the checks in the contract's order, the wait for the signature,
//! and the way to the recipient. What is asked of rooms waits between them, so that each client's frames
//! take effect in their order.
//!
//! # Flow
//! `message` (form is known to be right: sender, id, length, rate, timestamp) → a [`Job`] waits →
//! `commit_messages` at the end of the batch (signature) → `deliver` here, or `Envelope::Deliver` to
//! the recipient's home → `answers`. For a room: `fan_out` here or at the room's home.
//!
//! # Invariants
//! - Every message that was taken from a session gets exactly one answer, if its connection lives.
//! - An id is noted when the first check that a duplicate would pass is made, and freed when the
//!   message is refused.
//! - Messages of one sender to one recipient keep their order.

use std::ops::Range;
use std::sync::Arc;

use protocol::frame::{Message, Target};
use protocol::{PublicKey, limits, signed_bytes};

use crate::answers::OVERLOADED_RETRY_MS;
use crate::config::Config;
use crate::connection::{Link, Member};
use crate::deliver::Delivery;
use crate::effect::{Effect, Effects};
use crate::envelope::{Envelope, Outcome, Parcel, RoomAnswer, RoomAsk, RoomFault, RoomMessage, Ticket, Waiter};
use crate::event::{ConnectionId, Nanos};
use crate::membership::Asker;
use crate::recent_ids::{IdKey, IdState, SignatureTag};
use crate::refusal::Refusal;
use crate::router::UserId;
use crate::session::{About, Flow};
use crate::shard::Core;
use crate::stats::Reason;
use crate::store::{Conversation, DeviceTag, MessageId};
use crate::transit::{InTransit, OwnCopy};
use crate::verifier::Verifier;

/// How long a key that sent a bad signature is checked alone.
const SUSPICION: Nanos = 10_000_000_000;

/// A message whose signature is about to be checked.
#[derive(Debug)]
struct Job {
    connection: ConnectionId,
    user: UserId,
    sender: PublicKey,
    device: DeviceTag,
    id: MessageId,
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
    /// A room, by its id, and the member that the message is for if it is private.
    Room(MessageId, Option<PublicKey>),
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
struct From {
    connection: ConnectionId,
    user: UserId,
    device: DeviceTag,
}

/// Messages between their arrival and their signature's check.
#[derive(Debug)]
pub(crate) struct Messages {
    verifier: Verifier,
    jobs: Vec<Job>,
    arena: Vec<u8>,
    /// What was asked of rooms meanwhile, each with the number of messages before it.
    asks: Vec<(usize, Asked)>,
}

/// Something asked of a room by a connection of this shard.
#[derive(Debug)]
struct Asked {
    connection: ConnectionId,
    asker: PublicKey,
    room: Arc<str>,
    ask: RoomAsk,
}

impl Messages {
    pub(crate) fn new(config: &Config) -> Self {
        Self { verifier: Verifier::new(config.verify), jobs: Vec::new(), arena: Vec::new(), asks: Vec::new() }
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
                if state == IdState::CopyDue {
                    self.copy_at_last(link, member, message, text, key, tag);
                } else {
                    self.again(link, message_id(message.id), state);
                }
            } else if let Some(refusal) = self.rival(link.id, state) {
                let retry_after_ms = (refusal == Refusal::OVERLOADED).then_some(OVERLOADED_RETRY_MS);
                self.refuse_message(link, refusal, About { retry_after_ms, ..about });
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
            sender: member.key,
            device: member.tag,
            id: message_id(message.id),
            key,
            tag,
            recipient: match message.target {
                Target::User(recipient) => Recipient::User(recipient),
                Target::Room(room) => Recipient::Room(message_id(room), None),
                Target::RoomMember(room, to) => Recipient::Room(message_id(room), Some(to)),
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

    fn refuse_message(&mut self, link: &mut Link, refusal: Refusal, about: About<'_>) {
        self.stats.messages_refused += 1;
        self.refuse(link, refusal, about);
    }

    /// Notes what is asked of a room, behind the messages that came before.
    pub(crate) fn ask_room(&mut self, connection: ConnectionId, asker: PublicKey, room: Arc<str>, ask: RoomAsk) {
        let messages = &mut self.messages;
        messages.asks.push((messages.jobs.len(), Asked { connection, asker, room, ask }));
    }

    /// Checks the signatures that wait and sends the good messages on, in the order they came, and with
    /// them what is asked of rooms.
    pub(crate) fn commit_messages(&mut self, effects: &mut Effects) {
        if self.messages.jobs.is_empty() && self.messages.asks.is_empty() {
            return;
        }
        self.messages.verifier.run(&mut self.stats);
        let mut jobs = std::mem::take(&mut self.messages.jobs);
        let mut asks = std::mem::take(&mut self.messages.asks);
        let arena = std::mem::take(&mut self.messages.arena);
        let mut waiting = asks.drain(..).peekable();
        for (at, job) in jobs.drain(..).enumerate() {
            while let Some((_, asked)) = waiting.next_if(|&(before, _)| before <= at) {
                self.send_ask(asked, effects);
            }
            let is_good = self.messages.verifier.result(at);
            self.commit(&job, is_good, &arena[job.frame.clone()], effects);
        }
        waiting.for_each(|(_, asked)| self.send_ask(asked, effects));
        self.messages.verifier.clear();
        self.messages.jobs = jobs;
        self.messages.asks = asks;
        self.messages.arena = arena;
        self.messages.arena.clear();
    }

    /// Sends what is asked of a room to its home.
    fn send_ask(&mut self, asked: Asked, effects: &mut Effects) {
        let Asked { connection, asker, room, ask } = asked;
        let home = self.config.home_of_room(&room);
        if home == self.config.shard {
            self.room_ask(Asker { shard: home, connection, key: asker }, &room, ask, effects);
        } else if self.congested[usize::from(home.0)] {
            let answer = match ask {
                RoomAsk::Act(_) => RoomAnswer::Refused(RoomFault::Overloaded),
                RoomAsk::Since => RoomAnswer::Unread(RoomFault::Overloaded),
            };
            self.room_answer(connection, &room, answer);
        } else {
            effects.push(Effect::Send { to: home, envelope: Envelope::RoomAsk { connection, asker, room, ask } });
        }
    }

    fn commit(&mut self, job: &Job, is_good: bool, frame: &[u8], effects: &mut Effects) {
        if job.recheck {
            match self.ids.get(job.key, self.now.nanos) {
                Some((tag, state)) if tag == job.tag => {
                    self.stats.messages_duplicate += 1;
                    self.with_link(job.connection, |core, link| core.again(link, job.id, state));
                    return;
                }
                Some((_, state)) => {
                    if let Some(refusal) = self.rival(job.connection, state) {
                        self.answer_refused(job, refusal);
                    }
                    return;
                }
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
        match job.recipient {
            Recipient::User(recipient) => self.send(job, &recipient, frame, effects),
            Recipient::Room(room, to) => self.send_to_members(job, room, to, frame, effects),
        }
    }

    /// Sends a verified message to the recipient's home.
    fn send(&mut self, job: &Job, recipient: &PublicKey, frame: &[u8], effects: &mut Effects) {
        let home = self.config.home(recipient);
        let is_here = home == self.config.shard;
        if self.journal.is_failed() || (!is_here && self.congested[usize::from(home.0)]) || !self.transit.has_room() {
            self.ids.forget(job.key);
            return self.answer_refused(job, Refusal::OVERLOADED);
        }
        let mut copy = self.post.pool.take();
        copy.extend_from_slice(frame);
        let may_be_unseen = self.router.get(job.user).is_some_and(|user| self.may_be_unseen(user));
        let from = From { connection: job.connection, user: job.user, device: job.device };
        let ticket = self.enter(from, job.id, (job.key, job.tag), Conversation::User(*recipient), frame);
        let parcel = Parcel {
            recipient: *recipient,
            sender: job.sender,
            id: job.id,
            id_record: self.id_record(ticket),
            may_be_unseen,
            frame: copy,
        };
        if !is_here {
            effects.push(Effect::Send { to: home, envelope: Envelope::Deliver { ticket, parcel } });
            return;
        }
        match self.deliver(Waiter::message(home, ticket), parcel) {
            Delivery::Done(outcome) => self.outcome(ticket, outcome),
            Delivery::Waits if *recipient == job.sender => {
                // To oneself: what was delivered is the own copy too.
                if let (Some(user), Some(entry)) = (self.router.get(job.user), self.transit.get_mut(ticket)) {
                    entry.copy = Some(OwnCopy { seq: user.inbox.seq, online: true });
                }
            }
            Delivery::Waits => {}
        }
    }

    /// Sends a verified message to a room's home.
    fn send_to_members(
        &mut self,
        job: &Job,
        room: MessageId,
        to: Option<PublicKey>,
        frame: &[u8],
        effects: &mut Effects,
    ) {
        let room: Arc<str> = room.as_str().into();
        let home = self.config.home_of_room(&room);
        let is_congested = home != self.config.shard && self.congested[usize::from(home.0)];
        if self.journal.is_failed() || is_congested || !self.transit.has_room() {
            self.ids.forget(job.key);
            return self.answer_refused(job, Refusal::OVERLOADED);
        }
        let from = From { connection: job.connection, user: job.user, device: job.device };
        let with = Conversation::Room(Arc::clone(&room));
        let ticket = self.enter(from, job.id, (job.key, job.tag), with, frame);
        let message = RoomMessage { room, to, sender: job.sender, id: job.id, frame: frame.into() };
        self.send_to_room(ticket, message, effects);
    }

    /// Puts a message among those in transit. The caller has asked for room.
    fn enter(
        &mut self,
        from: From,
        id: MessageId,
        (key, tag): (IdKey, SignatureTag),
        with: Conversation,
        frame: &[u8],
    ) -> Ticket {
        let mut own = Vec::new();
        if self.journal.has_store() {
            own = self.post.pool.take();
            own.extend_from_slice(frame);
        }
        if let Some(user) = self.router.get_mut(from.user) {
            user.unanswered += 1;
        }
        let ticket = self.transit.enter(InTransit {
            connection: from.connection,
            sender: from.user,
            device: from.device,
            with,
            id,
            key,
            tag,
            frame: own,
            copy: None,
            is_duplicate: false,
            again: Vec::new(),
        });
        self.ids.set(key, IdState::InTransit(ticket));
        ticket
    }

    /// A message came again that was accepted before the relay started anew, and of which the sender's
    /// other devices have no copy yet: they get it now.
    fn copy_at_last(
        &mut self,
        link: &mut Link,
        member: &Member,
        message: &Message<'_>,
        text: &str,
        key: IdKey,
        tag: SignatureTag,
    ) {
        let id = message_id(message.id);
        if !self.transit.has_room() {
            return self.refuse(link, Refusal::OVERLOADED, About { id: Some(id.as_str()), ..About::default() });
        }
        let with = match message.target {
            Target::User(recipient) => Conversation::User(recipient),
            Target::Room(room) | Target::RoomMember(room, _) => Conversation::Room(room.into()),
        };
        let from = From { connection: link.id, user: member.user, device: member.tag };
        let ticket = self.enter(from, id, (key, tag), with, text.as_bytes());
        if let Some(entry) = self.transit.get_mut(ticket) {
            entry.is_duplicate = true;
        }
        let outcome = Outcome::Accepted { online: false, stored: true, id_stored: true, unseen: false };
        self.settled.push((Waiter::message(self.config.shard, ticket), outcome));
    }

    fn answer_refused(&mut self, job: &Job, refusal: Refusal) {
        let retry_after_ms = (refusal == Refusal::OVERLOADED).then_some(OVERLOADED_RETRY_MS);
        self.answer_refused_until(job, refusal, retry_after_ms);
    }

    fn answer_refused_until(&mut self, job: &Job, refusal: Refusal, retry_after_ms: Option<u64>) {
        self.stats.messages_refused += 1;
        let room = match &job.recipient {
            Recipient::Room(room, _) => Some(room.as_str()),
            Recipient::User(_) => None,
        };
        let about = About { id: Some(job.id.as_str()), room, retry_after_ms };
        self.with_link(job.connection, |core, link| core.refuse(link, refusal, about));
    }
}

/// An id that the decoder has accepted.
fn message_id(text: &str) -> MessageId {
    MessageId::new(text).expect("the decoder has checked it")
}
