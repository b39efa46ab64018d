//! Forgets what is too old: messages that wait for longer than their time to live, devices and users
//! that do not come any more. Without a store: users, a while after they left.
//!
//! # Invariants
//! - A round over all users takes about [`ROUND_STEPS`] steps of [`STEP`], so that no step takes long
//!   and nothing outlives its time by more than a round.
//! - A user is forgotten only while nothing of it is in memory or on its way to the store.

use crate::effect::Effects;
use crate::event::Nanos;
use crate::journal::Need;
use crate::router::{User, UserId};
use crate::shard::Core;

/// How often some users are looked at.
const STEP: Nanos = 1_000_000_000;

/// In how many steps all of them are.
const ROUND_STEPS: usize = 60;

/// Users looked at in each step, at least.
const STEP_USERS_MIN: usize = 1000;

/// Where the sweep is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sweep {
    place: usize,
    /// When the next step is; `None` before the first.
    at: Option<Nanos>,
}

impl Core {
    /// Looks at some users, if it is time, and forgets those who left long ago.
    pub(crate) fn sweep(&mut self, effects: &mut Effects) {
        while let Some(id) = self.router.pop_departed(self.now.nanos) {
            self.forget(id);
        }
        if !self.journal.has_store() || self.router.known() == 0 {
            return;
        }
        if *self.sweep.at.get_or_insert(self.now.nanos + STEP) > self.now.nanos {
            return;
        }
        self.sweep.at = Some(self.now.nanos + STEP);
        let places = self.router.places();
        let steps = places.min((places / ROUND_STEPS).max(STEP_USERS_MIN));
        let ttl_ms = i64::try_from(self.config.message_ttl.as_millis()).unwrap_or(i64::MAX);
        let since_ms = self.now.unix_ms.saturating_sub(ttl_ms);
        for _ in 0..steps {
            self.sweep.place = (self.sweep.place + 1) % places;
            if let Some(id) = self.router.at_place(self.sweep.place) {
                self.sweep_user(id, since_ms, effects);
            }
        }
    }

    /// When the next step is due; `None` while there is nobody to look at.
    pub(crate) fn sweep_at(&self) -> Option<Nanos> {
        self.sweep.at.filter(|_| self.router.known() > 0)
    }

    fn sweep_user(&mut self, id: UserId, since_ms: i64, effects: &mut Effects) {
        let now = self.now.nanos;
        let user = self.router.user_mut(id);
        let mut unseen = Vec::new();
        let before_s = u32::try_from(since_ms / 1000).unwrap_or(0);
        let was_seen = user.seen;
        let before = user.inbox.kept();
        let gone = |sender| {
            if !was_seen {
                unseen.push(sender);
            }
        };
        if let Some(through) = user.inbox.expire(before_s, &mut self.totals, gone) {
            self.stats.expired += (before - user.inbox.kept()) as u64;
            user.record.removal = user.record.removal.max(through);
            self.journal.note_user(id, &mut user.record, Need::Lazy, now);
        }
        if !unseen.is_empty() {
            self.unseen_kept -= unseen.len() as u64;
            self.tell_unseen(unseen, false, effects);
        }
        let user = self.router.user_mut(id);
        if user.devices.forget_before(since_ms) {
            self.journal.note_user(id, &mut user.record, Need::Lazy, now);
            self.release(id);
        }
        let user = self.router.user_mut(id);
        if !user.devices.is_online() {
            // Nobody is there to read them. What is not confirmed may be, by a device that resumes.
            user.metas.forget_confirmed(user.inbox.confirmed);
        }
        if user.is_over(since_ms) {
            let key = user.key;
            self.forget(id);
            self.journal.note_forgotten(key, now);
            self.stats.users_forgotten += 1;
        }
    }

    fn forget(&mut self, id: UserId) {
        let Some(mut user) = self.router.forget(id) else { return };
        while !user.inbox.tail().is_empty() {
            user.inbox.drop_oldest(&mut self.totals, &mut self.post.pool);
        }
    }
}

impl User {
    /// Nothing of it is needed, and it was not online since then, or never.
    fn is_over(&self, since_ms: i64) -> bool {
        !self.devices.is_online()
            && self.devices.all().is_empty()
            && self.inbox.is_empty()
            && self.record.need == Need::None
            && self.unanswered == 0
            && (self.active_ms < since_ms || !self.seen)
    }
}
