//! Messages that passed every check of their sender's and are not answered yet.
//!
//! # Invariants
//! - A message in transit has one ticket, and leaves once. A ticket that was used names nobody.
//! - The table is bounded, and so is what waits for the answer to one message; what does not fit is refused
//!   before it enters.

use crate::envelope::Ticket;
use crate::event::ConnectionId;
use crate::recent_ids::{IdKey, SignatureTag};
use crate::router::UserId;
use crate::store::{Conversation, DeviceTag, MessageId};

/// A message on its way.
#[derive(Debug)]
pub(crate) struct InTransit {
    pub(crate) connection: ConnectionId,
    pub(crate) sender: UserId,
    /// The sender's device.
    pub(crate) device: DeviceTag,
    pub(crate) with: Conversation,
    pub(crate) id: MessageId,
    pub(crate) key: IdKey,
    pub(crate) tag: SignatureTag,
    /// With a store: the frame, for the sender's other devices and its history.
    pub(crate) frame: Vec<u8>,
    /// The recipients' homes answer for it, and what is waited for is the sender's own copy.
    pub(crate) copy: Option<OwnCopy>,
    /// It was accepted before the relay started; the answer calls it a duplicate.
    pub(crate) is_duplicate: bool,
    /// What was sent under its id meanwhile.
    pub(crate) again: Vec<Again>,
}

/// A message under the id of one in transit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Again {
    pub(crate) connection: ConnectionId,
    /// It is another message: a conflict, if the one in transit is accepted.
    pub(crate) is_rival: bool,
}

/// A message in the inbox of its own sender.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnCopy {
    pub(crate) seq: u64,
    /// The recipient was online, as far as it is known already.
    pub(crate) online: bool,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    entry: Option<T>,
}

/// Things that are named by tickets until they leave.
#[derive(Debug)]
pub(crate) struct Ticketed<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    max: usize,
}

/// All messages in transit of a shard.
pub(crate) type Transit = Ticketed<InTransit>;

impl<T> Ticketed<T> {
    pub(crate) fn new(max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), max }
    }

    /// Whether one more fits.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < self.max
    }

    /// Takes one in. The caller has asked for room.
    pub(crate) fn enter(&mut self, entry: T) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(entry);
        Ticket { slot, generation: place.generation }
    }

    /// What a ticket names.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut T> {
        let place = self.slots.get_mut(ticket.slot as usize)?;
        if place.generation == ticket.generation { place.entry.as_mut() } else { None }
    }

    /// Takes out what a ticket names.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<T> {
        let place = self.slots.get_mut(ticket.slot as usize)?;
        if place.generation != ticket.generation {
            return None;
        }
        let entry = place.entry.take()?;
        self.free.push(ticket.slot);
        Some(entry)
    }
}
