//! Messages that passed every check of their sender's and are not answered yet.
//!
//! # Invariants
//! - A message in transit has one ticket, and leaves once. A ticket that was used names nobody.
//! - The table is bounded; what does not fit is refused before it enters.

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
    /// With a store: the frame, for the sender's other devices.
    pub(crate) frame: Vec<u8>,
    /// The recipient's inbox has it for good, and was its owner online? Then what is waited for is the
    /// sender's own copy, under this seq.
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
    /// The recipient was online.
    pub(crate) online: bool,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    entry: Option<InTransit>,
}

/// All messages in transit of a shard.
#[derive(Debug)]
pub(crate) struct Transit {
    slots: Vec<Slot>,
    free: Vec<u32>,
    max: usize,
}

impl Transit {
    pub(crate) fn new(max: usize) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), max }
    }

    /// Whether one more fits.
    pub(crate) fn has_room(&self) -> bool {
        !self.free.is_empty() || self.slots.len() < self.max
    }

    /// Takes a message in. The caller has asked for room.
    pub(crate) fn enter(&mut self, entry: InTransit) -> Ticket {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            (self.slots.len() - 1) as u32
        });
        let place = &mut self.slots[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        place.entry = Some(entry);
        Ticket { slot, generation: place.generation }
    }

    /// The message of a ticket.
    pub(crate) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut InTransit> {
        let place = self.slots.get_mut(ticket.slot as usize)?;
        if place.generation == ticket.generation { place.entry.as_mut() } else { None }
    }

    /// Takes the message of a ticket out.
    pub(crate) fn leave(&mut self, ticket: Ticket) -> Option<InTransit> {
        let place = self.slots.get_mut(ticket.slot as usize)?;
        if place.generation != ticket.generation {
            return None;
        }
        let entry = place.entry.take()?;
        self.free.push(ticket.slot);
        Some(entry)
    }
}
