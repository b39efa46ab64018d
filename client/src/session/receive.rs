//! Messages that come in: checked, shown once, and confirmed once they are handled.

use std::time::{Duration, Instant};

use protocol::encode;
use protocol::frame::{Message, Target};
use protocol::server_frame::Pushed;

use super::state::{State, text_of};
use super::{Effect, Event};
use crate::event::{Dropped, ReceivedMessage};
use crate::history::{Entry, Status, peer_of};
use crate::seqs::Gap;

/// How long a handled message may wait for others to be confirmed with.
const CONFIRM_WITHIN: Duration = Duration::from_millis(50);

/// How many may.
const CONFIRM_TOGETHER: u64 = 32;

/// What is confirmed on one connection.
#[derive(Debug, Default)]
pub(super) struct Confirming {
    /// The seq of the last `received`.
    confirmed: u64,
    /// Since when something handled waits.
    since: Option<Instant>,
    /// Whether all that has arrived was read.
    is_drained: bool,
}

impl Confirming {
    /// A connection that goes on after `resumed`.
    pub(super) fn after(resumed: u64) -> Self {
        Self { confirmed: resumed, ..Self::default() }
    }
}

impl State {
    pub(super) fn pushed(&mut self, pushed: &Pushed<'_>, effects: &mut Vec<Effect>) {
        let Pushed { seq, message } = pushed;
        self.confirming.is_drained = false;
        let dropped =
            Dropped { seq: *seq, sender_public_key: message.sender, client_message_id: message.id.to_owned() };
        let event = if !self.seqs.pushed(*seq) {
            Event::Duplicate(dropped)
        } else if !self.is_mine(message) {
            Event::NotForMe(dropped)
        } else if !self.verifier.verify(message) {
            Event::BadSignature(dropped)
        } else if !self.ids.insert(message.sender, message.id) {
            // Only now: an unsigned claim must not use up the id of an honest message.
            Event::Duplicate(dropped)
        } else {
            let received = Self::received(pushed);
            let entry = Entry { status: self.status_of(message), ..Entry::from(&received) };
            self.history.insert(peer_of(&message.target, message.sender, self.public_key), entry);
            Event::Message(received)
        };
        effects.push(Effect::Event(event));
        self.tell_gap(effects);
    }

    /// Whether a message is for this key or from another device of it.
    pub(super) fn is_mine(&self, message: &Message<'_>) -> bool {
        let recipient = match message.target {
            Target::User(recipient) | Target::RoomMember(_, recipient) => Some(recipient),
            Target::Room(_) => None,
        };
        message.sender == self.public_key || recipient.is_none_or(|key| key == self.public_key)
    }

    /// What another device has sent, the relay has taken.
    pub(super) fn status_of(&self, message: &Message<'_>) -> Status {
        if message.sender == self.public_key { Status::Sent } else { Status::Received }
    }

    pub(super) fn received(pushed: &Pushed<'_>) -> ReceivedMessage {
        let Pushed { seq, message } = pushed;
        let (recipient, room) = match message.target {
            Target::User(recipient) => (Some(recipient), None),
            Target::Room(room) => (None, Some(room)),
            Target::RoomMember(room, recipient) => (Some(recipient), Some(room)),
        };
        ReceivedMessage {
            seq: *seq,
            sender_public_key: message.sender,
            recipient_public_key: recipient,
            room_id: room.map(str::to_owned),
            client_message_id: message.id.to_owned(),
            timestamp: message.timestamp,
            message: message.text.to_owned(),
        }
    }

    /// Tells of messages that did not come, once no own message can explain it.
    pub(super) fn tell_gap(&mut self, effects: &mut Vec<Effect>) {
        let (sent, unanswered) = self.outbox.numbers();
        if let Some(Gap { first, last, missing }) = self.seqs.check(sent, unanswered) {
            effects.push(Effect::Event(Event::Gap { first_seq: first, last_seq: last, missing }));
        }
    }

    pub(super) fn handled(&mut self, epoch: u64, seq: u64) {
        // Seqs of another epoch say nothing of this one's.
        if self.seqs.epoch() == Some(epoch) {
            self.seqs.handled(seq);
        }
    }

    pub(super) fn drained(&mut self) {
        self.confirming.is_drained = true;
    }

    /// Sends `received` if it is time: one frame for all that arrived together, without waiting for
    /// more than 32 or longer than 50 ms.
    pub(super) fn confirm(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        let Some(cursor) = self.confirmable() else {
            self.confirming.since = None;
            return;
        };
        self.confirming.since.get_or_insert(now);
        if self.confirm_at(now).is_some_and(|at| at <= now) {
            self.send_received(cursor, now, effects);
        }
    }

    /// Sends `received` for all that is handled, without waiting for more.
    pub(super) fn confirm_all(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if let Some(cursor) = self.confirmable() {
            self.send_received(cursor, now, effects);
        }
    }

    fn send_received(&mut self, cursor: u64, now: Instant, effects: &mut Vec<Effect>) {
        self.requests.pace.take(now);
        let mut frame = Vec::with_capacity(48);
        encode::received(&mut frame, cursor);
        effects.push(Effect::Send(text_of(frame)));
        self.confirming.confirmed = cursor;
        self.confirming.since = None;
    }

    fn confirmable(&self) -> Option<u64> {
        let confirms = self.options.confirm && self.is_open();
        self.seqs.confirmable(self.confirming.confirmed).filter(|_| confirms)
    }

    /// When `received` is to be sent, if something waits for it.
    pub(super) fn confirm_at(&self, now: Instant) -> Option<Instant> {
        let Confirming { confirmed, since, is_drained } = self.confirming;
        let cursor = self.confirmable()?;
        let is_whole = is_drained && self.seqs.all_handled();
        let due = if is_whole || cursor - confirmed >= CONFIRM_TOGETHER { now } else { since? + CONFIRM_WITHIN };
        Some(due.max(self.requests.pace.ready_at(now)))
    }
}

impl From<&ReceivedMessage> for Entry {
    fn from(message: &ReceivedMessage) -> Self {
        Self {
            seq: Some(message.seq),
            sender: message.sender_public_key,
            id: message.client_message_id.clone(),
            timestamp: message.timestamp,
            text: message.message.clone(),
            status: Status::Received,
        }
    }
}
