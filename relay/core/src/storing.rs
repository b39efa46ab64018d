//! Writes the open batch out, and tells those who waited once it is stored or is not.
//!
//! # Invariants
//! - A message that every known device has confirmed when its batch is written out is left out of it: it
//!   never touches the disk.
//! - Of a user who is offline every message noted so far goes with the next batch: a record that calls
//!   itself exact never leaves one behind.
//! - A waiter hears of its message once: when a device confirms it, when it is stored, or when it cannot
//!   be stored and nobody has confirmed it.
//! - Of what could not be stored for want of room, messages that no device has confirmed are withdrawn;
//!   everything else is noted again. Whoever may miss a seq by it is closed, and resumes.

use std::sync::Arc;

use crate::effect::{Effect, Effects};
use crate::envelope::{Outcome, Waiter};
use crate::inbox::Body;
use crate::journal::{BATCH_IDS_MAX, BATCH_LAZY_USERS_MAX, BATCH_ROOMS_MAX, Due, Flight, Name, Need};
use crate::router::{User, UserId};
use crate::shard::Core;
use crate::store::{Batch, DeviceRecord, EntryRecord, Removal, StoreFault, UserRecord};

impl Core {
    /// Gives the open batch out, if it is due.
    pub(crate) fn give_out(&mut self, effects: &mut Effects) {
        let Some(due) = self.journal.due(self.now.nanos) else { return };
        let (mut batch, mut flight) = self.journal.begin();
        self.write_entries(&mut batch, &mut flight);
        batch.urgent |= due.urged;
        if !batch.entries.is_empty() || due.urged || due.ids || due.lazy {
            self.write_rest(&mut batch, &mut flight, due);
        }
        if let Some(batch) = self.journal.give_out(batch, flight) {
            self.stats.batches_given_out += 1;
            self.stats.entries_given_out += batch.entries.len() as u64;
            effects.push(Effect::Store(batch));
        }
    }

    fn write_entries(&mut self, batch: &mut Batch, flight: &mut Flight) {
        let mut names = std::mem::take(&mut self.journal.entries);
        let mut shared: Option<(Arc<[u8]>, std::ops::Range<usize>)> = None;
        let now = self.now.nanos;
        names.retain(|name| {
            let &Name { user: id, seq, .. } = name;
            let Some(user) = self.router.get_mut(id) else { return false };
            let (key, floor, is_online) = (user.key, user.floor(), user.devices.is_online());
            let Some(entry) = user.inbox.entry_mut(seq) else {
                self.stats.entries_never_stored += 1;
                return false;
            };
            if is_online && self.journal.is_left(name, now) {
                return true;
            }
            if seq <= floor && !entry.history && entry.waiter.is_none() {
                // It only waits behind history, to be let go.
                self.stats.entries_never_stored += 1;
                return false;
            }
            let frame = match (&entry.body, &shared) {
                (Body::Shared(bytes), Some((last, range))) if Arc::ptr_eq(bytes, last) => range.clone(),
                (body, _) => {
                    let start = batch.bytes.len();
                    batch.bytes.extend_from_slice(body.as_bytes());
                    start..batch.bytes.len()
                }
            };
            if let Body::Shared(bytes) = &entry.body {
                shared = Some((Arc::clone(bytes), frame.clone()));
            }
            if !user.record.is_known {
                self.journal.note_user(id, &mut user.record, Need::Soon, now);
            }
            entry.is_given_out = true;
            batch.urgent |= entry.waiter.is_some();
            batch.ids.extend(entry.id_record);
            batch.entries.push(EntryRecord {
                user: key,
                seq,
                inbox: seq > floor,
                history: entry.history,
                at_ms: entry.at_ms,
                sender: entry.sender,
                with: entry.with.clone(),
                id: entry.id,
                origin: entry.origin,
                frame,
            });
            flight.entries.push(*name);
            user.inbox.give_out(seq);
            false
        });
        self.journal.leave(names);
        flight.entry_ids = batch.ids.len();
    }

    fn write_rest(&mut self, batch: &mut Batch, flight: &mut Flight, due: Due) {
        batch.forgotten_users.append(&mut self.journal.forgotten);
        let mut soon = std::mem::take(&mut self.journal.soon);
        for id in soon.drain(..) {
            self.write_user(id, batch, flight);
        }
        self.journal.soon = soon;
        if due.lazy {
            for _ in 0..BATCH_LAZY_USERS_MAX {
                let Some(id) = self.journal.lazy.pop_front() else { break };
                self.write_user(id, batch, flight);
            }
        }
        for _ in 0..BATCH_ROOMS_MAX {
            let Some(room) = self.journal.rooms.pop_front() else { break };
            self.write_room(room, batch);
        }
        let ids = self.journal.ids.len().min(BATCH_IDS_MAX);
        batch.ids.extend(self.journal.ids.drain(..ids));
        self.journal.taken_along(due, self.now.nanos);
    }

    fn write_user(&mut self, id: UserId, batch: &mut Batch, flight: &mut Flight) {
        let Some(user) = self.router.get_mut(id) else { return };
        let is_online = user.devices.is_online();
        let record = &mut user.record;
        // Noted twice, lazily and then for soon.
        if std::mem::take(&mut record.need) == Need::None {
            return;
        }
        if !is_online {
            record.is_open = false;
            record.opening = 0;
        } else if !record.is_open {
            record.opening = batch.number;
        }
        let through = std::mem::take(&mut record.removal);
        if through > 0 {
            batch.removals.push(Removal { user: user.key, through });
        }
        batch.users.push(user.to_record(!is_online));
        flight.users.push(id);
    }

    /// A batch came back.
    pub(crate) fn stored(&mut self, batch: Box<Batch>, result: Result<(), StoreFault>, effects: &mut Effects) {
        let flight = self.journal.came_back();
        match result {
            Ok(()) => self.is_stored(&batch, &flight),
            Err(StoreFault::Full) => self.had_no_room(&batch, &flight),
            Err(StoreFault::Failed) => {
                self.refuse_all(&flight.entries);
                let open = self.journal.fail();
                self.refuse_all(&open);
                self.stats.store_failed = 1;
                self.undo_all_rooms(effects);
                for (ticket, _) in std::mem::take(&mut self.gated) {
                    self.settled.push((Waiter::message(self.config.shard, ticket), Outcome::Overloaded));
                }
            }
        }
        let is_safe = result.is_ok();
        for room in batch.rooms.iter().map(|room| &room.id).chain(&batch.forgotten_rooms) {
            self.room_stored(room, is_safe, effects);
        }
        self.journal.put_back(batch, flight);
    }

    fn is_stored(&mut self, batch: &Batch, flight: &Flight) {
        self.stats.entries_stored += flight.entries.len() as u64;
        for &Name { user: id, seq, .. } in &flight.entries {
            let Some(user) = self.router.get_mut(id) else { continue };
            let unseen = !user.seen;
            let Some(entry) = user.inbox.entry_mut(seq) else { continue };
            if let Some(waiter) = entry.waiter.take() {
                let id_stored = entry.id_record.is_some();
                let online = entry.online;
                self.settled.push((waiter, Outcome::Accepted { online, stored: true, id_stored, unseen }));
            }
            let was_history = entry.history;
            user.inbox.drop_body(seq, &mut self.totals, &mut self.post.pool);
            if was_history {
                self.release(id);
            }
        }
        for &id in &flight.users {
            let Some(user) = self.router.get_mut(id) else { continue };
            user.record.is_known = true;
            if user.record.opening != batch.number {
                continue;
            }
            user.record.opening = 0;
            user.record.is_open = true;
            for slot in user.devices.all().iter().filter_map(|device| device.connection) {
                if let Some(connection) = self.slots[slot as usize].connection.as_deref_mut() {
                    self.post.touch(&mut connection.link);
                }
            }
            self.ungate();
        }
    }

    fn had_no_room(&mut self, batch: &Batch, flight: &Flight) {
        self.stats.store_full += 1;
        let now = self.now.nanos;
        self.journal.pause(now);
        for &Name { user: id, seq, .. } in &flight.entries {
            let Some(user) = self.router.get_mut(id) else { continue };
            let is_confirmed = seq <= user.inbox.confirmed;
            let Some(entry) = user.inbox.entry_mut(seq) else { continue };
            if is_confirmed {
                entry.is_given_out = false;
                self.journal.note_entry(id, seq, now);
                continue;
            }
            if let Some(waiter) = entry.waiter.take() {
                self.settled.push((waiter, Outcome::Overloaded));
            }
            let was_history = entry.history;
            self.unseen_kept -= u64::from(!user.seen);
            user.inbox.withdraw(seq, &mut self.totals, &mut self.post.pool);
            user.metas.forget(seq);
            self.journal.note_user(id, &mut user.record, Need::Soon, now);
            let behind = user.devices.all().iter().filter(|device| device.next <= seq);
            self.closing.extend(behind.filter_map(|device| device.connection));
            if was_history {
                // What waited behind it to be let go.
                self.release(id);
            }
        }
        while let Some(slot) = self.closing.pop() {
            self.close_behind(slot);
        }
        for &id in &flight.users {
            if let Some(user) = self.router.get_mut(id) {
                self.journal.note_user(id, &mut user.record, Need::Soon, now);
            }
        }
        for removal in &batch.removals {
            if let Some(id) = self.router.find(&removal.user) {
                let record = &mut self.router.user_mut(id).record;
                record.removal = record.removal.max(removal.through);
            }
        }
        for record in &batch.ids[flight.entry_ids..] {
            self.journal.note_id(*record, now);
        }
        for key in &batch.forgotten_users {
            if self.router.find(key).is_none() {
                self.journal.note_forgotten(*key, now);
            }
        }
    }

    /// Looks again at messages whose senders could not be given a seq.
    pub(crate) fn ungate(&mut self) {
        let shard = self.config.shard;
        let gated = self.gated.drain(..).map(|(ticket, outcome)| (Waiter::message(shard, ticket), outcome));
        self.settled.extend(gated);
    }

    /// Nothing can be stored any more: whoever waits is refused, whatever is on the disk.
    fn refuse_all(&mut self, entries: &[Name]) {
        for &Name { user: id, seq, .. } in entries {
            let entry = self.router.get_mut(id).and_then(|user| user.inbox.entry_mut(seq));
            if let Some(waiter) = entry.and_then(|entry| entry.waiter.take()) {
                self.settled.push((waiter, Outcome::Overloaded));
            }
        }
    }
}

impl User {
    /// The user as it is to be stored.
    fn to_record(&self, exact: bool) -> UserRecord {
        let device = |device: &crate::devices::Device| DeviceRecord {
            id: device.id.clone(),
            cursor: device.cursor,
            active_ms: device.active_ms,
        };
        UserRecord {
            key: self.key,
            epoch: self.inbox.epoch,
            seq: self.inbox.seq,
            exact,
            seen: self.seen,
            removed_through: self.inbox.removed_through,
            active_ms: self.active_ms,
            devices: self.devices.all().iter().map(device).collect(),
            receipts: self.waiting.to_records(),
        }
    }
}
