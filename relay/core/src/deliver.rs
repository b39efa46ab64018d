//! A verified message at the recipient's home: into the inbox, to the devices that keep up, and into
//! the journal.
//!
//! # Invariants
//! - What is refused leaves no trace; what is not has a seq, and its waiter hears exactly once.
//! - A device is given a seq only when it was given, or skipped as its own or as a hole, every seq before
//!   it on this connection; and with a store only once the store knows that seqs are being given away
//!   ([`Record::is_open`](crate::journal::Record::is_open)).
//! - One user's inbox is bounded in messages and bytes, and in messages of one sender; all inboxes together
//!   in messages, but for a few for each user who is online.

use protocol::splice::{splice_seq, spliced_bytes};
use protocol::{PublicKey, websocket};

use crate::connection::{Connection, State};
use crate::envelope::{Outcome, Parcel, Waiter};
use crate::inbox::{Body, Entry, KeptEntry};
use crate::journal::Need;
use crate::receipts::Meta;
use crate::router::{User, UserId};
use crate::shard::Core;
use crate::stats::DropReason;
use crate::store::{Conversation, DeviceTag, IdRecord, MessageId};

/// Bytes of frames in tails that are not stored yet; past it messages are refused.
pub(crate) const TAIL_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// So many messages an inbox takes while a device is online, however much waits in others: who fills those
/// of users that do not come stops no live message.
const ONLINE_MESSAGES: usize = 64;

/// Without a store: so many times the messages that stay in memory stay for a device that is behind.
const BEHIND_FACTOR: usize = 4;

/// Users looked at, at most, to make room in memory for one message: without a store.
const EVICTION_STEPS: usize = 256;

/// How a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// It is done, well or not.
    Done(Outcome),
    /// The waiter will hear.
    Waits,
}

/// A message on its way into one inbox.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) sender: PublicKey,
    pub(crate) sender_hash: u64,
    pub(crate) with: Conversation,
    pub(crate) id: MessageId,
    /// The user's own device that sent it.
    pub(crate) origin: Option<DeviceTag>,
    pub(crate) at_ms: i64,
    pub(crate) body: Body,
    pub(crate) history: bool,
    pub(crate) waiter: Option<Waiter>,
    pub(crate) id_record: Option<IdRecord>,
}

impl Core {
    /// Delivers a message of one user to another, whose home is here.
    pub(crate) fn deliver(&mut self, waiter: Waiter, parcel: Parcel) -> Delivery {
        let Parcel { recipient, sender, id, mut id_record, may_be_unseen, frame } = parcel;
        let sender_hash = id_record.sender_hash;
        let user = match self.recipient(&recipient, sender_hash, frame.len(), may_be_unseen) {
            Ok(user) => user,
            Err(outcome) => {
                self.post.pool.put(frame);
                return Delivery::Done(outcome);
            }
        };
        id_record.at_ms = self.now.unix_ms;
        let has_store = self.journal.has_store();
        let item = Item {
            sender,
            sender_hash,
            with: Conversation::User(sender),
            id,
            origin: None,
            at_ms: self.now.unix_ms,
            body: Body::Own(frame),
            history: false,
            waiter: has_store.then_some(waiter),
            id_record: has_store.then_some(id_record),
        };
        self.accept(user, item, has_store);
        if has_store {
            Delivery::Waits
        } else {
            Delivery::Done(Outcome::Accepted { online: true, stored: false, id_stored: false, unseen: false })
        }
    }

    /// The user who is to get a message, if it can be taken for it.
    fn recipient(
        &mut self,
        key: &PublicKey,
        sender_hash: u64,
        bytes: usize,
        may_be_unseen: bool,
    ) -> Result<UserId, Outcome> {
        let known = self.router.find(key);
        if known.is_none() && key.to_verifying_key().is_err() {
            return Err(Outcome::InvalidRecipient);
        }
        if !self.journal.has_store() {
            return known.filter(|&user| self.router.user(user).devices.is_online()).ok_or(Outcome::Offline);
        }
        if !self.journal.has_room() || self.totals.tail_bytes >= TAIL_BYTES_MAX {
            return Err(Outcome::Overloaded);
        }
        let is_seen = known.is_some_and(|user| self.router.user(user).seen);
        let has_room = is_seen || may_be_unseen && self.has_room_for_unseen();
        if !has_room {
            return Err(self.inbox_full());
        }
        if let Some(user) = known {
            return if self.has_room_in(user, sender_hash, bytes) { Ok(user) } else { Err(self.inbox_full()) };
        }
        let limits = &self.config.limits;
        if self.totals.kept >= limits.inboxes_messages_max as u64 || bytes as u64 > limits.inbox_bytes_max {
            return Err(self.inbox_full());
        }
        let user = self.router.find_or_make(*key, self.now.unix_ms);
        let record = &mut self.router.user_mut(user).record;
        self.journal.note_user(user, record, Need::Soon, self.now.nanos);
        Ok(user)
    }

    fn inbox_full(&mut self) -> Outcome {
        self.stats.inbox_full += 1;
        Outcome::InboxFull
    }

    /// Whether an inbox has room for one more message of a sender.
    pub(crate) fn has_room_in(&mut self, user: UserId, sender_hash: u64, bytes: usize) -> bool {
        let limits = &self.config.limits;
        let User { inbox, devices, .. } = self.router.user_mut(user);
        let is_reserved = devices.is_online() && inbox.kept() < ONLINE_MESSAGES;
        (is_reserved || self.totals.kept < limits.inboxes_messages_max as u64)
            && inbox.kept() < limits.inbox_messages_max
            && inbox.kept_bytes() + bytes as u64 <= limits.inbox_bytes_max
            && !inbox.is_full_of(sender_hash, limits.inbox_sender_messages_max)
    }

    /// Gives a message its seq in an inbox, pushes it to the devices that keep up, and notes it in the
    /// journal. One that is not to be `keep`t, for want of room, is pushed only: its waiter does not hear,
    /// and a device that would miss it has to resume. Gives the seq.
    pub(crate) fn accept(&mut self, id: UserId, item: Item, keep: bool) -> u64 {
        let has_store = self.journal.has_store();
        let Self { router, slots, post, stats, pushed, totals, journal, now, .. } = self;
        let user = router.user_mut(id);
        let Item { sender, sender_hash, with, id: message_id, origin, at_ms, body, history, waiter, id_record } = item;
        user.inbox.seq += 1;
        let seq = user.inbox.seq;
        let frame = body.as_bytes();
        let is_open = user.record.is_open;
        let mut is_encoded = false;
        let mut is_pushed = false;
        let mut waits_for_open = false;
        for device in user.devices.all_mut() {
            let Some(slot) = device.connection else { continue };
            if is_open && device.next == seq && origin == Some(device.tag) {
                device.next = seq + 1;
                continue;
            }
            let Some(Connection { link, state: State::Active(session) }) =
                slots[slot as usize].connection.as_deref_mut()
            else {
                stats.drop_push(DropReason::Closing);
                continue;
            };
            if !is_open || device.next != seq {
                // It may be behind by nothing but a hole, and then nothing else would have it looked at.
                if !std::mem::replace(&mut session.member.is_behind, true) && is_open {
                    post.touch(link);
                }
                waits_for_open |= !is_open;
                if !keep {
                    self.closing.push(slot);
                }
                continue;
            }
            if !is_encoded {
                encode_push(pushed, frame, seq);
                is_encoded = true;
            }
            if post.push(link, pushed, &[]) {
                device.next = seq + 1;
                is_pushed = true;
            } else {
                stats.drop_push(DropReason::TooSlow);
            }
        }
        stats.messages_delivered += u64::from(origin.is_none() && user.devices.is_online());
        if is_pushed && origin.is_none() {
            user.metas.note(Meta::new(seq, sender, message_id, &with), user.inbox.confirmed);
        }
        if waits_for_open {
            journal.note_user(id, &mut user.record, Need::Soon, now.nanos);
            journal.urge(now.nanos);
        }
        if has_store && !keep {
            user.inbox.removed_through = seq;
            journal.note_user(id, &mut user.record, Need::Soon, now.nanos);
            while let Some(slot) = self.closing.pop() {
                self.close_behind(slot);
            }
            return seq;
        }
        if has_store {
            let kept = KeptEntry { origin, at_ms, bytes: frame.len() as u32, is_stored: false };
            user.inbox.keep(seq, sender_hash, kept, totals);
            self.unseen_kept += u64::from(!user.seen);
            journal.note_entry(id, seq, now.nanos);
        }
        // One's own device is not whom it was sent to.
        let online = origin.is_none() && user.devices.is_online();
        let entry = Entry {
            seq,
            at_ms,
            sender,
            with,
            id: message_id,
            origin,
            body,
            history,
            waiter,
            id_record,
            online,
            is_given_out: false,
        };
        user.inbox.add(entry, totals);
        if has_store {
            self.reach(id, origin);
        } else {
            self.bound_memory(id);
        }
        seq
    }

    /// Moves the cursor of the device that sent a message itself over it, if it has all before.
    pub(crate) fn reach(&mut self, id: UserId, origin: Option<DeviceTag>) {
        let Some(tag) = origin else { return };
        let user = self.router.user_mut(id);
        let Some(device) = user.devices.all().iter().find(|device| device.tag == tag) else { return };
        let reached = user.inbox.reach(device.cursor, tag);
        if reached > device.cursor {
            self.advance(id, tag, reached);
        }
    }

    /// Without a store: keeps what stays in memory for resume within its bounds.
    fn bound_memory(&mut self, id: UserId) {
        let limits = &self.config.limits;
        let (messages_max, bytes_max) = (limits.memory_messages_max, limits.memory_bytes_max as u64);
        let (totals, pool) = (&mut self.totals, &mut self.post.pool);
        let User { inbox, devices, .. } = self.router.user_mut(id);
        let online = devices.all().iter().filter(|device| device.connection.is_some());
        let needed = online.map(|device| device.next).min().unwrap_or(u64::MAX);
        while let Some(first) = inbox.tail().front()
            && inbox.tail().len() > if first.seq < needed { messages_max } else { BEHIND_FACTOR * messages_max }
        {
            inbox.drop_oldest(totals, pool);
        }
        let mut steps = 0;
        while totals.tail_bytes > bytes_max && steps < EVICTION_STEPS {
            steps += 1;
            self.evict_at = (self.evict_at + 1) % self.router.places().max(1);
            let Some(id) = self.router.at_place(self.evict_at) else { continue };
            let inbox = &mut self.router.user_mut(id).inbox;
            for _ in 0..inbox.tail().len().div_ceil(2) {
                inbox.drop_oldest(totals, pool);
                self.stats.memory_evicted += 1;
            }
        }
    }

    /// Asks for a session to be closed with 4408: it can only go on by resuming.
    pub(crate) fn close_behind(&mut self, slot: u32) {
        let connection = self.slots[slot as usize].connection.as_deref_mut();
        if let Some(Connection { link, state: State::Active(_) }) = connection
            && !std::mem::replace(&mut link.overflowed, true)
        {
            self.post.overflowed.push(link.id);
        }
    }
}

/// Encodes the push of a frame, header and all.
pub(crate) fn encode_push(out: &mut Vec<u8>, frame: &[u8], seq: u64) {
    out.clear();
    websocket::text_header(frame.len() + spliced_bytes(seq), out);
    splice_seq(out, frame, seq);
}

impl User {
    /// What nobody needs any more: all that every known device has confirmed.
    pub(crate) fn floor(&self) -> u64 {
        self.devices.floor().unwrap_or(self.inbox.confirmed)
    }
}
