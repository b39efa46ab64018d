//! Messages of rooms: from the room's home to every member's, and the answers of all of them.
//!
//! # Flow
//! A verified message comes to the room's home → [`Core::room_message`] checks room and members, and opens a
//! [`Fan`] → one [`RoomShare`] for each shard where members live, the frame shared → there
//! [`Core::room_deliver`] gives it to each member as any message, in a fan of its own → every entry that is
//! safe counts down its shard's fan, every shard that of the room's home → the sender's home hears what
//! hears the sender.
//!
//! The sender's own copy is made then, as for a message to a user.
//!
//! # Invariants
//! - A message goes to those who are members when the room's home takes it, a private one to its target
//!   alone, and neither back to its sender.
//! - It is acked when every member's entry is stored or confirmed. History has what was confirmed once it is
//!   stored, some milliseconds later. If one could not be stored, it is refused
//!   though others may have it: sent again, it comes to those under the same id.
//! - A member whose inbox has no room misses what is for all. It takes a seq all the same, so that the member's
//!   devices cannot go on without hearing of it. A private message is refused to its sender.
//! - A fan ends once, whoever leaves or is forgotten meanwhile. The table of fans is bounded.

use std::sync::Arc;

use protocol::PublicKey;

use crate::deliver::{Delivery, Item, TAIL_BYTES_MAX};
use crate::effect::{Effect, Effects};
use crate::envelope::{Envelope, Outcome, RoomMessage, RoomShare, Ticket, Waiter};
use crate::event::ShardId;
use crate::inbox::Body;
use crate::journal::Need;
use crate::router::UserId;
use crate::shard::Core;
use crate::store::Conversation;

/// What counts as safe where nothing had to be stored.
const SAFE: Outcome = Outcome::Accepted { online: false, stored: false, id_stored: false, unseen: false };

/// A message of a room, counted until all who are to answer for it have.
#[derive(Debug)]
pub(crate) struct Fan {
    /// Who is to hear.
    parent: Waiter,
    /// Entries or shards that have not answered.
    waits: u32,
    /// A member other than the sender was online.
    online: bool,
    /// One of them is safe by the store.
    stored: bool,
    /// What one of them said who could not take it.
    refusal: Option<Outcome>,
}

impl Fan {
    /// A fan that waits for nothing but that all are counted.
    fn of(parent: Waiter) -> Self {
        Self { parent, waits: 1, online: false, stored: false, refusal: None }
    }
}

impl Core {
    /// Takes a verified message for a room whose home is here.
    pub(crate) fn room_message(&mut self, waiter: Waiter, message: RoomMessage, effects: &mut Effects) -> Delivery {
        let RoomMessage { room, to, sender, id, frame } = message;
        if let Err(outcome) = self.may_post(&room, &sender, to.as_ref()) {
            return Delivery::Done(outcome);
        }
        let here = self.config.shard;
        let shares: Vec<(ShardId, Arc<[PublicKey]>)> = match (to, self.rooms.get_mut(&room)) {
            (Some(to), _) => vec![(self.config.home(&to), Arc::new([to]))],
            (None, Some(room)) => room.homes(&self.config).to_vec(),
            (None, None) => Vec::new(),
        };
        let is_private = to.is_some();
        let is_congested = |&(home, _): &(ShardId, _)| home != here && self.congested[usize::from(home.0)];
        if !self.fans.has_room() || self.journal.is_failed() || shares.iter().any(is_congested) {
            return Delivery::Done(Outcome::Overloaded);
        }
        self.stats.room_messages += 1;
        let fan = self.fans.enter(Fan::of(waiter));
        let at_ms = self.now.unix_ms;
        for (home, members) in shares {
            let (room, frame) = (Arc::clone(&room), Arc::clone(&frame));
            let share = RoomShare { room, members, sender, id, is_private, at_ms, frame };
            if home == here {
                self.deliver_share(fan, &share, effects);
            } else {
                self.wait_for_one_more(fan);
                effects.push(Effect::Send { to: home, envelope: Envelope::RoomDeliver { ticket: fan, share } });
            }
        }
        self.fan_settled(fan, SAFE);
        Delivery::Waits
    }

    /// Whether a member may send this to a room, in the contract's order of checks.
    fn may_post(&self, room: &str, sender: &PublicKey, to: Option<&PublicKey>) -> Result<(), Outcome> {
        let is_member = |key: &PublicKey| self.rooms.of_member(room, key).map(drop);
        if let Some(to) = to
            && is_member(to).is_err()
            && to.to_verifying_key().is_err()
        {
            return Err(Outcome::InvalidRecipient);
        }
        is_member(sender).and_then(|()| to.map_or(Ok(()), is_member)).map_err(Outcome::Refused)
    }

    /// Takes a message of a room for members whose home is here; the room's home is elsewhere.
    pub(crate) fn room_deliver(&mut self, parent: Waiter, share: &RoomShare, effects: &mut Effects) {
        if !self.fans.has_room() {
            self.settled.push((parent, Outcome::Overloaded));
            return;
        }
        let fan = self.fans.enter(Fan::of(parent));
        self.deliver_share(fan, share, effects);
        self.fan_settled(fan, SAFE);
    }

    /// Puts a message into the inboxes of members, as far as they are here.
    fn deliver_share(&mut self, fan: Ticket, share: &RoomShare, effects: &mut Effects) {
        let has_store = self.journal.has_store();
        if has_store && (!self.journal.has_room() || self.totals.tail_bytes >= TAIL_BYTES_MAX) {
            return self.refuse_fan(fan, Outcome::Overloaded);
        }
        let sender_hash = self.config.hash(&share.sender);
        for member in share.members.iter().filter(|member| **member != share.sender) {
            let Some(user) = self.member(member, effects) else { continue };
            let keep = has_store && self.has_room_in(user, sender_hash, share.frame.len());
            if share.is_private && has_store && !keep {
                self.stats.inbox_full += 1;
                return self.refuse_fan(fan, Outcome::InboxFull);
            }
            self.stats.room_missed += u64::from(has_store && !keep);
            let online = self.router.user(user).devices.is_online();
            if let Some(fan) = self.fans.get_mut(fan) {
                fan.online |= online;
            }
            let item = self.item(fan, share, sender_hash, keep);
            self.accept(user, item, keep);
        }
    }

    /// A member of a room, who was online once: that is how it joined.
    fn member(&mut self, key: &PublicKey, effects: &mut Effects) -> Option<UserId> {
        let known = self.router.find(key);
        if !self.journal.has_store() {
            return known;
        }
        let id = known.unwrap_or_else(|| self.router.find_or_make(*key, self.now.unix_ms));
        if !self.router.user(id).seen {
            self.was_seen(id, effects);
            let user = self.router.user_mut(id);
            user.seen = true;
            self.journal.note_user(id, &mut user.record, Need::Soon, self.now.nanos);
        }
        Some(id)
    }

    /// The message on its way into one inbox, which the fan may wait for.
    fn item(&mut self, fan: Ticket, share: &RoomShare, sender_hash: u64, waits: bool) -> Item {
        if waits {
            self.wait_for_one_more(fan);
        }
        Item {
            sender: share.sender,
            sender_hash,
            with: Conversation::Room(Arc::clone(&share.room)),
            id: share.id,
            origin: None,
            at_ms: share.at_ms,
            body: Body::Shared(Arc::clone(&share.frame)),
            history: self.config.keeps_history(),
            waiter: waits.then_some(Waiter::fan(self.config.shard, fan)),
            // Stored once all are safe: one that is known is not delivered again.
            id_record: None,
        }
    }

    fn refuse_fan(&mut self, fan: Ticket, refusal: Outcome) {
        if let Some(fan) = self.fans.get_mut(fan) {
            fan.refusal.get_or_insert(refusal);
        }
    }

    fn wait_for_one_more(&mut self, fan: Ticket) {
        if let Some(fan) = self.fans.get_mut(fan) {
            fan.waits += 1;
        }
    }

    /// One of those that a fan waits for has answered.
    pub(crate) fn fan_settled(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(fan) = self.fans.get_mut(ticket) else { return };
        match outcome {
            Outcome::Accepted { online, stored, .. } => {
                fan.online |= online;
                fan.stored |= stored;
            }
            refusal => {
                fan.refusal.get_or_insert(refusal);
            }
        }
        fan.waits -= 1;
        if fan.waits > 0 {
            return;
        }
        let Some(Fan { parent, online, stored, refusal, .. }) = self.fans.leave(ticket) else { return };
        let accepted = Outcome::Accepted { online, stored, id_stored: false, unseen: false };
        self.settled.push((parent, refusal.unwrap_or(accepted)));
    }

    /// Sends a verified message to a room's home.
    pub(crate) fn send_to_room(&mut self, ticket: Ticket, message: RoomMessage, effects: &mut Effects) {
        let home = self.config.home_of_room(&message.room);
        if home != self.config.shard {
            effects.push(Effect::Send { to: home, envelope: Envelope::RoomMessage { ticket, message } });
        } else if let Delivery::Done(outcome) = self.room_message(Waiter::message(home, ticket), message, effects) {
            self.outcome(ticket, outcome);
        }
    }
}
