//! Mail for keys that were never online: so much of each sender, and so much in all.
//!
//! The messages wait at their recipients' homes, and each sender's are counted at the sender's home:
//! when an answer says that one waits, and when the recipients' homes tell that some do no more.
//!
//! # Invariants
//! - A sender's messages that wait for unseen keys, and those of its messages that are not answered yet
//!   and might, are never more than the bound.
//! - A shard holds at most its even part of the bound on all of them.

use crate::effect::{Effect, Effects};
use crate::envelope::Envelope;
use crate::event::ShardId;
use crate::router::{User, UserId};
use crate::shard::Core;

impl Core {
    /// Whether this shard may keep one more message for an unseen key.
    pub(crate) fn has_room_for_unseen(&self) -> bool {
        let max = self.config.limits.unseen_messages_max.div_ceil(usize::from(self.config.shards));
        self.unseen_kept < max as u64
    }

    /// Whether one more message of a sender may turn out to be for an unseen key.
    pub(crate) fn may_be_unseen(&self, sender: &User) -> bool {
        let waiting = u64::from(sender.unseen) + u64::from(sender.unanswered);
        waiting < self.config.limits.unseen_sender_messages_max as u64
    }

    /// A key is online for the first time: its mail is mail like any other now.
    pub(crate) fn was_seen(&mut self, id: UserId, effects: &mut Effects) {
        let user = self.router.user_mut(id);
        self.unseen_kept -= user.inbox.kept() as u64;
        // What is not stored yet was not counted yet.
        let senders = user.inbox.stored_senders();
        self.tell_unseen(senders, false, effects);
    }

    /// Tells the homes of senders, given as hashes, once for each message, that they `wait`, or do no
    /// more.
    pub(crate) fn tell_unseen(&mut self, mut senders: Vec<u64>, wait: bool, effects: &mut Effects) {
        senders.sort_unstable();
        let counted: Vec<(u64, u32)> =
            senders.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect();
        // Sorted by hash they are sorted by home.
        for senders in counted.chunk_by(|a, b| self.config.home_of_hash(a.0) == self.config.home_of_hash(b.0)) {
            let to: ShardId = self.config.home_of_hash(senders[0].0);
            if to == self.config.shard {
                note(&mut self.router, senders, wait);
            } else {
                effects.push(Effect::Send { to, envelope: Envelope::Unseen { senders: senders.to_vec(), wait } });
            }
        }
    }

    /// A recipients' home has told of senders whose home is here.
    pub(crate) fn unseen(&mut self, senders: &[(u64, u32)], wait: bool) {
        note(&mut self.router, senders, wait);
    }
}

fn note(router: &mut crate::router::Router, senders: &[(u64, u32)], wait: bool) {
    for &(hash, count) in senders {
        if let Some(id) = router.find_hash(hash) {
            let user = router.user_mut(id);
            user.unseen = if wait { user.unseen.saturating_add(count) } else { user.unseen.saturating_sub(count) };
        }
    }
}
