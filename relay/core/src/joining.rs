//! Devices come and go: which user they join, where they go on, and what the lobby sees of it.
//!
//! # Invariants
//! - The lobby sees a key from its first device to its last.
//! - A device is told that it recovered only if everything behind the seq it named is still there and
//!   comes to it in order. Otherwise it gets what it has not confirmed.

use protocol::PublicKey;
use protocol::frame::Resume;

use crate::effect::Effects;
use crate::journal::Need;
use crate::refusal::Closure;
use crate::router::{User, UserId};
use crate::shard::Core;
use crate::store::DeviceTag;

/// How a session begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Begun {
    pub(crate) user: UserId,
    pub(crate) recovered: bool,
    /// There is something to be given to it.
    pub(crate) is_behind: bool,
}

impl Core {
    /// Joins a connection to its user. `None`: the user has too many devices online.
    pub(crate) fn join(
        &mut self,
        key: PublicKey,
        device_id: &str,
        tag: DeviceTag,
        slot: u32,
        resume: Option<Resume>,
        effects: &mut Effects,
    ) -> Option<Begun> {
        let id = self.router.find_or_make(key, self.now.unix_ms);
        let user = self.router.user_mut(id);
        let online_max = self.config.limits.devices_max;
        // What lies behind the seq that it is told is given to a new device too, whoever has it.
        let confirmed = user.inbox.confirmed.min(user.announced_seq());
        let joined = user.devices.connect(device_id, tag, slot, confirmed, online_max)?;
        if let Some(old) = joined.replaced {
            self.stats.replaced += 1;
            if let Some(mut older) = self.slots[old as usize].connection.take() {
                self.begin_close(&mut older, Closure::REPLACED, effects);
                self.slots[old as usize].connection = Some(older);
            }
        }
        if joined.is_first {
            self.lobby.note_own(key, true);
            if !self.router.user(id).seen {
                self.was_seen(id, effects);
            }
            self.router.came(id);
        }
        let user = self.router.user_mut(id);
        if !user.record.is_open {
            self.journal.note_user(id, &mut user.record, Need::Soon, self.now.nanos);
        } else if !joined.is_known {
            self.journal.note_user(id, &mut user.record, Need::Lazy, self.now.nanos);
        }
        let recovered = joined.is_known && resume.is_some_and(|resume| user.has_all_since(resume));
        self.stats.recovered += u64::from(recovered);
        let confirmed = resume.filter(|_| recovered).map(|resume| resume.seq);
        if let Some(seq) = confirmed {
            self.confirm(id, slot, seq);
        }
        if !joined.is_known {
            // It may have pushed out another, whose mail it was.
            self.release(id);
        }
        let user = self.router.user_mut(id);
        let (seq, removed) = (user.inbox.seq, user.inbox.removed_through);
        let has_store = self.journal.has_store();
        let device = user.devices.on_mut(slot)?;
        device.next = match confirmed {
            Some(seq) => seq + 1,
            // Without a store what is gone from memory is gone: this is where it is told.
            None if !has_store => device.cursor.max(removed) + 1,
            None => device.cursor + 1,
        };
        let is_behind = device.next <= seq || !user.waiting.is_empty();
        Some(Begun { user: id, recovered, is_behind })
    }

    /// Takes a connection out of its user.
    pub(crate) fn part(&mut self, id: UserId, slot: u32) {
        let now_ms = self.now.unix_ms;
        let user = self.router.user_mut(id);
        if !user.devices.disconnect(slot, now_ms) || user.devices.is_online() {
            return;
        }
        let key = user.key;
        self.journal.note_user(id, &mut user.record, Need::Soon, self.now.nanos);
        self.router.left(id, self.now.nanos, now_ms);
        self.lobby.note_own(key, false);
        // Nobody is there to be told a seq: nothing waits for the record any more.
        self.ungate();
    }
}

impl User {
    /// Whether everything behind a seq is still there.
    fn has_all_since(&self, resume: Resume) -> bool {
        let inbox = &self.inbox;
        resume.epoch == inbox.epoch && resume.seq <= inbox.seq && resume.seq >= inbox.removed_through
    }

    /// The seq that a device may be told of. Before the store knows that seqs are given away, one of a
    /// message that is not stored yet might be given to another after a crash.
    pub(crate) fn announced_seq(&self) -> u64 {
        let unstored = self.inbox.tail().front().filter(|_| !self.record.is_open);
        unstored.map_or(self.inbox.seq, |entry| entry.seq - 1)
    }
}
