//! Answers to the senders of messages, and their own copies.
//!
//! # Flow
//! The recipient's or the room's home has settled a message ([`Outcome`]) → `settle`, at the end of the batch → with a
//! store, the message takes a seq in its sender's inbox too: if other devices of the sender are known they
//! get it under that seq, and it has to be safe in turn → ack or error, to the connection and to all
//! that sent the message again meanwhile. Messages of rooms are copied for history too.
//!
//! # Invariants
//! - A message leaves the transit once, with one answer to each of its connections that live.
//! - With a store, an ack carries a seq that the store knows to be given away.

use protocol::encode;
use protocol::server_frame::Ack;

use crate::connection::{Link, State};
use crate::deliver::Item;
use crate::effect::{Effect, Effects};
use crate::envelope::{Envelope, Outcome, Ticket, Waiter};
use crate::event::ConnectionId;
use crate::inbox::Body;
use crate::journal::Need;
use crate::recent_ids::IdState;
use crate::refusal::Refusal;
use crate::session::About;
use crate::shard::Core;
use crate::store::{Conversation, IdRecord, MessageId};
use crate::transit::{Again, InTransit, OwnCopy};

/// When to try again after `overloaded`.
pub(crate) const OVERLOADED_RETRY_MS: u64 = 1000;

/// What may come under the id of one message in transit, to be answered with it. A client sends a message
/// four times.
const AGAIN_MAX: usize = 64;

/// [`Outcome::Accepted`].
#[derive(Clone, Copy, Debug)]
struct Accepted {
    online: bool,
    stored: bool,
    id_stored: bool,
    unseen: bool,
}

impl Core {
    /// Tells those who wait what became of their messages.
    pub(crate) fn settle(&mut self, effects: &mut Effects) {
        while !self.settled.is_empty() {
            let mut settled = std::mem::replace(&mut self.settled, std::mem::take(&mut self.settling));
            for (Waiter { shard, ticket, is_fan }, outcome) in settled.drain(..) {
                let envelope = match (shard == self.config.shard, is_fan) {
                    (true, false) => {
                        self.outcome(ticket, outcome);
                        continue;
                    }
                    (true, true) => {
                        self.fan_settled(ticket, outcome);
                        continue;
                    }
                    (false, false) => Envelope::Delivered { ticket, outcome, buffer: self.post.pool.take() },
                    (false, true) => Envelope::RoomDelivered { ticket, outcome },
                };
                effects.push(Effect::Send { to: shard, envelope });
            }
            self.settling = settled;
        }
    }

    /// What became of a message.
    pub(crate) fn outcome(&mut self, ticket: Ticket, outcome: Outcome) {
        let refusal = match outcome {
            Outcome::Accepted { online, stored, id_stored, unseen } => {
                return self.taken_over(ticket, Accepted { online, stored, id_stored, unseen });
            }
            Outcome::Offline => Refusal::OFFLINE,
            Outcome::InvalidRecipient => Refusal::RECIPIENT,
            Outcome::InboxFull => Refusal::INBOX_FULL,
            Outcome::Overloaded => Refusal::OVERLOADED,
            Outcome::Refused(fault) => Refusal::of_room(fault),
        };
        let Some(entry) = self.leave_transit(ticket) else { return };
        self.ids.forget(entry.key);
        self.stats.messages_refused += u64::from(!entry.is_duplicate);
        let retry_after_ms = (refusal == Refusal::OVERLOADED).then_some(OVERLOADED_RETRY_MS);
        let room = match &entry.with {
            Conversation::Room(room) => Some(&**room),
            Conversation::User(_) => None,
        };
        let about = About { id: Some(entry.id.as_str()), room, retry_after_ms };
        self.with_link(entry.connection, |core, link| core.refuse(link, refusal, about));
        for again in &entry.again {
            // Another message under the id, which is free now: it may come again.
            let refusal = if again.is_rival { Refusal::OVERLOADED } else { refusal };
            let retry_after_ms = (refusal == Refusal::OVERLOADED).then_some(OVERLOADED_RETRY_MS);
            self.stats.messages_refused += u64::from(again.is_rival);
            let about = About { retry_after_ms, room: room.filter(|_| !again.is_rival), ..about };
            self.with_link(again.connection, |core, link| core.refuse(link, refusal, about));
        }
    }

    /// The recipient's home answers for a message, or this shard for the sender's own copy of it.
    fn taken_over(&mut self, ticket: Ticket, accepted: Accepted) {
        let Accepted { online, stored, id_stored, unseen } = accepted;
        let Some(entry) = self.transit.get_mut(ticket) else { return };
        if let Some(copy) = entry.copy {
            return self.acknowledge(ticket, copy.seq, online || copy.online, id_stored);
        }
        if !self.journal.has_store() {
            return self.acknowledge(ticket, 0, online, true);
        }
        let (sender, device) = (entry.sender, entry.device);
        let is_history = matches!(entry.with, Conversation::Room(_)) && self.config.keeps_history();
        let Some(user) = self.router.get_mut(sender) else {
            return self.acknowledge(ticket, 0, online, id_stored);
        };
        user.unseen += u32::from(unseen);
        if user.devices.is_online() && !user.record.is_open {
            if self.journal.is_failed() {
                // No record will ever make a seq safe to tell.
                return self.outcome(ticket, Outcome::Overloaded);
            }
            self.gated.push((ticket, Outcome::Accepted { online, stored, id_stored, unseen: false }));
            self.journal.note_user(sender, &mut user.record, Need::Soon, self.now.nanos);
            if user.record.opening == 0 {
                self.journal.urge(self.now.nanos);
            }
            return;
        }
        let has_other = user.devices.has_other(device);
        if !has_other && !is_history {
            if !user.devices.is_online() {
                // Nobody is there to hear of a seq, and no record would tell of it.
                return self.acknowledge(ticket, 0, online, id_stored);
            }
            user.inbox.seq += 1;
            let seq = user.inbox.seq;
            if let Some(device) =
                user.devices.all_mut().iter_mut().find(|known| known.tag == device && known.next == seq)
            {
                device.next = seq + 1;
            }
            self.reach(sender, Some(device));
            return self.acknowledge(ticket, seq, online, id_stored);
        }
        // The id of a room's message is stored with the copy. Where the message needed the store, so does the
        // promise that it is known when it comes again.
        self.copy(ticket, online, is_history, has_other || stored);
    }

    /// Puts a message into the inbox of its own sender, for the sender's other devices and for history. It
    /// may be waited for.
    fn copy(&mut self, ticket: Ticket, online: bool, is_history: bool, is_awaited: bool) {
        let id_record = self.id_record(ticket);
        let Some(entry) = self.transit.get_mut(ticket) else { return };
        let InTransit { sender, device, id, .. } = *entry;
        let (with, frame) = (entry.with.clone(), std::mem::take(&mut entry.frame));
        let Some(user) = self.router.get(sender) else { return self.acknowledge(ticket, 0, online, false) };
        let (key, sender_hash) = (user.key, user.hash);
        // Its own inbox is bounded in all, but not as one of its senders.
        let keep = self.journal.has_room() && self.has_room_in(sender, 0, frame.len());
        let item = Item {
            sender: key,
            sender_hash,
            with,
            id,
            origin: Some(device),
            at_ms: self.now.unix_ms,
            body: Body::Own(frame),
            history: is_history,
            waiter: is_awaited.then_some(Waiter::message(self.config.shard, ticket)),
            id_record: Some(IdRecord { copy_due: false, ..id_record }),
        };
        let seq = self.accept(sender, item, keep);
        if let Some(entry) = self.transit.get_mut(ticket) {
            entry.copy = Some(OwnCopy { seq, online });
        }
        self.stats.copies_dropped += u64::from(!keep);
        if !keep || !is_awaited {
            self.acknowledge(ticket, seq, online, false);
        }
    }

    /// Acknowledges a message, with a seq if it is not 0.
    fn acknowledge(&mut self, ticket: Ticket, seq: u64, online: bool, id_stored: bool) {
        let id_record = self.id_record(ticket);
        let Some(entry) = self.leave_transit(ticket) else { return };
        self.ids.set(entry.key, IdState::Accepted { seq, online });
        if !id_stored || id_record.copy_due {
            self.journal.note_id(IdRecord { copy_due: false, ..id_record }, self.now.nanos);
        }
        self.stats.messages_acked += u64::from(!entry.is_duplicate);
        self.with_link(entry.connection, |core, link| core.ack(link, &entry.id, seq, online, entry.is_duplicate));
        for again in &entry.again {
            if again.is_rival {
                self.stats.messages_refused += 1;
                let about = About { id: Some(entry.id.as_str()), ..About::default() };
                self.with_link(again.connection, |core, link| core.refuse(link, Refusal::CONFLICT, about));
            } else {
                self.with_link(again.connection, |core, link| core.ack(link, &entry.id, seq, online, true));
            }
        }
    }

    fn leave_transit(&mut self, ticket: Ticket) -> Option<InTransit> {
        let mut entry = self.transit.leave(ticket)?;
        self.post.pool.put(std::mem::take(&mut entry.frame));
        if let Some(user) = self.router.get_mut(entry.sender) {
            user.unanswered = user.unanswered.saturating_sub(1);
        }
        Some(entry)
    }

    /// What is stored of the id of a message in transit.
    pub(crate) fn id_record(&mut self, ticket: Ticket) -> IdRecord {
        let at_ms = self.now.unix_ms;
        let Some(entry) = self.transit.get_mut(ticket) else {
            return IdRecord { key: 0, tag: 0, sender_hash: 0, copy_due: false, at_ms };
        };
        let user = self.router.get(entry.sender);
        let copy_due = entry.copy.is_none()
            && user
                .is_some_and(|user| user.devices.has_other(entry.device) && entry.with != Conversation::User(user.key));
        let sender_hash = user.map_or(0, |user| user.hash);
        IdRecord { key: entry.key.0, tag: entry.tag.0, sender_hash, copy_due, at_ms }
    }

    /// A message that is known already came again.
    pub(crate) fn again(&mut self, link: &mut Link, id: MessageId, state: IdState) {
        match state {
            IdState::Accepted { seq, online } => self.ack(link, &id, seq, online, true),
            IdState::InTransit(ticket) => {
                if !self.waits_too(ticket, Again { connection: link.id, is_rival: false }) {
                    let retry_after_ms = Some(OVERLOADED_RETRY_MS);
                    let about = About { id: Some(id.as_str()), retry_after_ms, ..About::default() };
                    self.refuse(link, Refusal::OVERLOADED, about);
                }
            }
            IdState::Verifying | IdState::CopyDue => {}
        }
    }

    /// Another message came under an id. If the first is in transit still, its outcome decides: `None`.
    pub(crate) fn rival(&mut self, connection: ConnectionId, state: IdState) -> Option<Refusal> {
        let IdState::InTransit(ticket) = state else { return Some(Refusal::CONFLICT) };
        let waits = self.waits_too(ticket, Again { connection, is_rival: true });
        (!waits).then_some(Refusal::OVERLOADED)
    }

    /// Lets one more wait for the answer to a message in transit, if not too many do.
    fn waits_too(&mut self, ticket: Ticket, again: Again) -> bool {
        let entry = self.transit.get_mut(ticket).filter(|entry| entry.again.len() < AGAIN_MAX);
        entry.map(|entry| entry.again.push(again)).is_some()
    }

    fn ack(&mut self, link: &mut Link, id: &MessageId, seq: u64, online: bool, duplicate: bool) {
        let ack = Ack { id: id.as_str(), online, duplicate, seq: (seq > 0).then_some(seq) };
        self.post.text(link, |out| encode::ack(out, &ack));
    }

    /// Acts on the link of a connection, if its session still lives.
    pub(crate) fn with_link(&mut self, id: ConnectionId, act: impl FnOnce(&mut Self, &mut Link)) {
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
