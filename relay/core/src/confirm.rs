//! What devices confirm: their cursors, and what follows from them.
//!
//! # Flow
//! `received` → [`Core::confirm`] → the device's cursor → the first device of a user to confirm a message
//! makes it safe (its waiter is answered, its sender gets a receipt), the last one lets it go.

use crate::envelope::Outcome;
use crate::journal::Need;
use crate::router::UserId;
use crate::shard::Core;
use crate::store::{DeviceTag, ReceiptStatus};

impl Core {
    /// A device has everything up to `seq`. Beyond the last seq it is ignored.
    pub(crate) fn confirm(&mut self, id: UserId, slot: u32, seq: u64) {
        let has_store = self.journal.has_store();
        let user = self.router.user_mut(id);
        let Some(device) = user.devices.on(slot) else { return };
        if seq > user.inbox.seq || seq <= device.cursor {
            return;
        }
        let tag = device.tag;
        let reached = if has_store { user.inbox.reach(seq, tag) } else { seq };
        self.advance(id, tag, reached);
    }

    /// Moves the cursor of a device on.
    pub(crate) fn advance(&mut self, id: UserId, tag: DeviceTag, cursor: u64) {
        let user = self.router.user_mut(id);
        let Some(device) = user.devices.all_mut().iter_mut().find(|device| device.tag == tag) else { return };
        if cursor <= device.cursor {
            return;
        }
        let own_before = std::mem::replace(&mut device.cursor, cursor);
        device.next = device.next.max(cursor + 1);
        for entry in user.inbox.entries_mut(own_before, cursor) {
            // What a device sent itself is not safe because that device has it.
            if entry.origin != Some(tag)
                && let Some(waiter) = entry.waiter.take()
            {
                let outcome =
                    Outcome::Accepted { online: entry.online, stored: false, id_stored: false, unseen: false };
                self.settled.push((waiter, outcome));
            }
        }
        let before = user.inbox.confirmed;
        if cursor > before {
            user.inbox.confirmed = cursor;
            for meta in user.metas.between(before, cursor) {
                if meta.room.is_none() {
                    self.receipts.note(&self.config, meta, user.key, ReceiptStatus::Delivered, self.now.nanos);
                }
            }
            user.metas.trim(cursor);
        }
        self.release(id);
    }

    /// A device says that a message was read. One that is too long ago is not known any more.
    pub(crate) fn read(&mut self, id: UserId, seq: u64) {
        let user = self.router.user_mut(id);
        if let Some(meta) = user.metas.read(seq) {
            self.receipts.note(&self.config, meta, user.key, ReceiptStatus::Read, self.now.nanos);
        }
    }

    /// Lets go of what every known device of a user has confirmed.
    pub(crate) fn release(&mut self, id: UserId) {
        if !self.journal.has_store() {
            return;
        }
        let user = self.router.user_mut(id);
        let floor = user.floor();
        // Of a device that is not known any more nobody waits to hear.
        for entry in user.inbox.entries_mut(0, floor).filter(|entry| !entry.history) {
            if let Some(waiter) = entry.waiter.take() {
                let outcome =
                    Outcome::Accepted { online: entry.online, stored: false, id_stored: false, unseen: false };
                self.settled.push((waiter, outcome));
            }
        }
        let before = user.inbox.kept();
        let stored = user.inbox.release(floor, &mut self.totals, &mut self.post.pool);
        if !user.seen {
            self.unseen_kept -= (before - user.inbox.kept()) as u64;
        }
        if let Some(through) = stored {
            user.record.removal = user.record.removal.max(through);
        }
        // Nothing is removed that another device lacks: that this one has it is to be stored all the same.
        if stored.is_some() || (user.devices.all().len() > 1 && !user.inbox.is_empty()) {
            self.journal.note_user(id, &mut user.record, Need::Lazy, self.now.nanos);
        }
    }
}
