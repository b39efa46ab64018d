//! Takes in what the store has of a shard's, at start.
//!
//! # Invariants
//! - Whatever was stored is there again: no message is lost, none that was removed comes back.
//! - A user whose record is not exact may have been given seqs that no record tells of: it goes on in
//!   a new epoch. Its devices were online, for all that is known, until now.

use crate::devices::Device;
use crate::effect::Effects;
use crate::inbox::KeptEntry;
use crate::receipts::Waiting;
use crate::recent_ids::IdState;
use crate::shard::Core;
use crate::store::{IdRecord, Restored, RestoredUser};

impl Core {
    pub(crate) fn restore(&mut self, restored: Restored, effects: &mut Effects) {
        let mut unseen = Vec::new();
        for user in restored.users {
            self.restore_user(user, &mut unseen);
        }
        restored.rooms.into_iter().for_each(|room| self.rooms.restore(room));
        for record in restored.ids {
            self.restore_id(&record);
        }
        self.unseen_kept = unseen.len() as u64;
        self.tell_unseen(unseen, true, effects);
    }

    fn restore_user(&mut self, restored: RestoredUser, unseen: &mut Vec<u64>) {
        let RestoredUser { record, seq_max, kept } = restored;
        let id = self.router.find_or_make(record.key, record.active_ms);
        let user = self.router.user_mut(id);
        user.seen = record.seen;
        user.waiting = Waiting::restore(record.receipts);
        user.record.is_open = !record.exact;
        user.record.is_known = true;
        let inbox = &mut user.inbox;
        // Otherwise it keeps the epoch that it was made with.
        if record.exact {
            inbox.epoch = record.epoch;
        }
        inbox.removed_through = record.removed_through;
        inbox.confirmed = record.devices.iter().map(|device| device.cursor).max().unwrap_or(0);
        inbox.seq = record.seq.max(seq_max).max(record.removed_through).max(inbox.confirmed);
        for device in record.devices {
            let tag = self.config.device_tag(&device.id);
            let active_ms = if record.exact { device.active_ms } else { self.now.unix_ms };
            let cursor = device.cursor;
            user.devices.restore(Device { id: device.id, tag, cursor, next: cursor + 1, connection: None, active_ms });
        }
        let floor = user.floor();
        for entry in kept {
            let sender_hash = self.config.hash(&entry.sender);
            let stored = KeptEntry { origin: entry.origin, at_ms: entry.at_ms, bytes: entry.bytes, is_stored: true };
            user.inbox.keep(entry.seq, sender_hash, stored, &mut self.totals);
            if !user.seen && entry.seq > floor {
                unseen.push(sender_hash);
            }
        }
        self.release(id);
    }

    fn restore_id(&mut self, record: &IdRecord) {
        let age_ms = u64::try_from(self.now.unix_ms.saturating_sub(record.at_ms)).unwrap_or(0);
        let state = if record.copy_due { IdState::CopyDue } else { IdState::Accepted { seq: 0, online: false } };
        self.ids.restore(record, state, age_ms.saturating_mul(1_000_000), self.now.nanos);
    }
}
