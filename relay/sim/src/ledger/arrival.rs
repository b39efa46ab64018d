//! Messages that come to clients, and the places that are told of them.

use protocol::limits;

use crate::invariant::{Checked, Invariant, ensure, violated};
use crate::ledger::{Kind, Ledger, Place, Reader, push_once};
use crate::network::LinkId;
use crate::schedule::MS;
use crate::trace::printable;

/// A message that a client was pushed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) reader: Reader,
    pub(crate) seq: u64,
    /// The sender's bytes.
    pub(crate) bytes: &'a [u8],
}

impl Ledger {
    /// Checks a message that was pushed to a client.
    pub(crate) fn arrive(&mut self, arrival: &Arrival<'_>) -> Checked {
        let Some(&record) = self.by_bytes.get(arrival.bytes) else {
            return violated(Invariant::BytesDiffer, format!("nobody sent {}", printable(arrival.bytes)));
        };
        self.arrived += 1;
        let Reader { session, device, key, epoch, .. } = arrival.reader;
        let message = &mut self.records[record];
        let id = message.id.clone();
        ensure(message.kind == Kind::Valid, Invariant::BadSignature, || {
            format!("{id}: delivered, and it is {:?}", message.kind)
        })?;
        let is_room = message.room.is_some();
        let is_copy = self.has_store && message.sender == key && (message.recipient != key || is_room);
        if let (Some((room, is_private)), false) = (&message.room, is_copy) {
            ensure(!is_private || message.recipient == key, Invariant::PrivateLeak, || {
                format!("{id}, private to {:?}, came to {key:?}", message.recipient)
            })?;
            let sent = message.sendings[0].at;
            ensure(self.rooms.may(room, &key, sent), Invariant::RoomLeak, || {
                format!("{id} in {room} came to {key:?}, who was no member since it was sent")
            })?;
        }
        ensure(message.recipient == key || is_copy || is_room, Invariant::WrongRecipient, || {
            format!("{id} for {:?} came to {key:?}", message.recipient)
        })?;
        let only_its_own = message.sendings.iter().all(|sending| sending.device == device);
        ensure(!is_copy || !only_its_own, Invariant::OwnCopyBack, || {
            format!("{id} came back to device {device}, which alone had sent it, on connection {session}")
        })?;
        let place = Place { owner: key, epoch, seq: arrival.seq };
        let run = arrival.reader.run;
        let is_rival = |other: &&(Place, u32)| {
            other.0 != place && other.0.owner == key && (other.0.epoch == epoch || other.1 == run)
        };
        let rivals = message.places.iter().filter(is_rival).count();
        let on_connection = message.arrived_on.iter().filter(|&&on| on == session).count();
        // What one member's inbox had no room for is refused, and comes to the others again.
        let again = if is_room { message.sendings.len() - 1 } else { 0 };
        let spare = message.places_spare as usize + again;
        ensure(on_connection <= spare, Invariant::DeliveredTwice, || format!("{id} twice on connection {session}"))?;
        ensure(rivals <= spare, Invariant::DeliveredTwice, || {
            format!("{id} under {place:?}, and before under {:?}", message.places)
        })?;
        if !message.places.iter().any(|(other, _)| *other == place) {
            message.places.push((place, run));
        }
        message.arrived_on.push(session);
        push_once(&mut message.had_by, device);
        self.name(place, record)?;
        if is_copy || is_room {
            return Ok(());
        }
        self.check_order(record, session)?;
        self.check_id(record)
    }

    /// A place in an inbox is told to be a message's.
    pub(super) fn name(&mut self, place: Place, record: usize) -> Checked {
        let named = *self.seqs.entry(place).or_insert(record);
        ensure(named == record, Invariant::SeqConsistent, || {
            format!("{place:?} is {} and {}", self.records[named].id, self.records[record].id)
        })?;
        for device in self.skipped.remove(&place).unwrap_or_default() {
            self.check_skipped(place, record, device)?;
        }
        Ok(())
    }

    /// A device was given nothing at a place, and was given what comes behind it: then it sent the message
    /// itself.
    pub(crate) fn skip(&mut self, place: Place, device: usize) -> Checked {
        match self.seqs.get(&place) {
            Some(&record) => self.check_skipped(place, record, device),
            None => {
                push_once(self.skipped.entry(place).or_default(), device);
                Ok(())
            }
        }
    }

    fn check_skipped(&self, place: Place, record: usize, device: usize) -> Checked {
        let message = &self.records[record];
        ensure(message.was_sent_by(device), Invariant::SeqGapless, || {
            format!("device {device} was not given {} at {place:?}, which others sent", message.id)
        })
    }

    /// Checks, in the end, that whoever was given nothing at a place sent something that it heard no place
    /// of.
    pub(crate) fn check_all_skipped(&self) -> Checked {
        for (place, devices) in &self.skipped {
            for &device in devices {
                let is_own = |record: &super::Record| record.may_be_skipped(device, place.epoch);
                ensure(self.records.iter().any(is_own), Invariant::SeqGapless, || {
                    format!("device {device} was given nothing at {place:?}, and sent nothing that could be there")
                })?;
            }
        }
        Ok(())
    }

    /// Messages from one connection to another arrive in the order of sending. One that was sent on
    /// several connections has no place in the order.
    fn check_order(&mut self, record: usize, receiver: LinkId) -> Checked {
        let message = &self.records[record];
        let sender = message.sendings[0].session;
        if message.sendings.iter().any(|sending| sending.session != sender) {
            return Ok(());
        }
        let last = self.pairs.entry((receiver, sender)).or_insert(0);
        match message.sendings.iter().map(|sending| sending.index).find(|index| index > last) {
            Some(index) => {
                *last = index;
                Ok(())
            }
            None => violated(
                Invariant::PairOrder,
                format!(
                    "{}, message {} of connection {sender}, behind its message {last}",
                    message.id, message.sendings[0].index
                ),
            ),
        }
    }

    /// Two messages of one id are both delivered only if the first was sent 10 minutes ago.
    fn check_id(&mut self, record: usize) -> Checked {
        let message = &self.records[record];
        let Some(used) = self.ids.get_mut(&(message.user, message.id.clone())) else {
            return Ok(());
        };
        push_once(&mut used.delivered, record);
        let last_sent = |record: usize| self.records[record].sendings.last().map_or(0, |sending| sending.at);
        let first_sent = used.delivered.iter().map(|&record| self.records[record].sendings[0].at).min().unwrap_or(0);
        let apart = used.delivered.len() == 1
            || used.delivered.iter().any(|&record| last_sent(record) >= first_sent + limits::ID_MEMORY_MS * MS)
            || used.delivered.iter().any(|&record| self.records[record].places_spare > 0);
        ensure(apart, Invariant::IdTwice, || format!("{}: two messages of one id were delivered", message.id))
    }
}
