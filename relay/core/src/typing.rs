//! Who types to whom: gathered for a moment at the typist's home, then told to those who are online.
//! Never stored.
//!
//! # Invariants
//! - Of what a user says about one target within 100 ms only the last is told.
//! - At most [`GATHERED_MAX`] wait in a shard; what is more is dropped, and counted.

use std::collections::VecDeque;

use hashbrown::HashTable;
use protocol::frame::Target;
use protocol::{PublicKey, encode};

use crate::config::Config;
use crate::connection::{Connection, State};
use crate::effect::{Effect, Effects};
use crate::envelope::Envelope;
use crate::event::Nanos;
use crate::shard::Core;

/// How long what a user says about one target is gathered.
const MERGE_WAIT: Nanos = 100_000_000;

/// Users that may be typing to one target each at once: 80 bytes each, 1.3 MB.
const GATHERED_MAX: usize = 16 * 1024;

/// What somebody said last.
#[derive(Clone, Copy, Debug)]
struct Said {
    hash: u64,
    from: PublicKey,
    to: PublicKey,
    is_typing: bool,
    due: Nanos,
}

/// All that is being gathered.
#[derive(Debug, Default)]
pub(crate) struct Typists {
    /// By the hash of both keys.
    said: HashTable<Said>,
    /// The same, soonest first.
    order: VecDeque<(u64, PublicKey, PublicKey)>,
}

impl Typists {
    /// Notes what a user says. `false`: there is no room for it.
    fn note(&mut self, config: &Config, from: PublicKey, to: PublicKey, is_typing: bool, now: Nanos) -> bool {
        let hash = config.hash(&from) ^ config.hash(&to).rotate_left(1);
        if let Some(said) = self.said.find_mut(hash, |said| (said.from, said.to) == (from, to)) {
            said.is_typing = is_typing;
            return true;
        }
        if self.order.len() >= GATHERED_MAX {
            return false;
        }
        let said = Said { hash, from, to, is_typing, due: now + MERGE_WAIT };
        self.said.insert_unique(hash, said, |said| said.hash);
        self.order.push_back((hash, from, to));
        true
    }

    /// When the next is due.
    pub(crate) fn due_at(&self) -> Option<Nanos> {
        let &(hash, from, to) = self.order.front()?;
        self.said.find(hash, |said| (said.from, said.to) == (from, to)).map(|said| said.due)
    }

    fn pop_due(&mut self, now: Nanos) -> Option<Said> {
        if self.due_at().is_none_or(|due| due > now) {
            return None;
        }
        let (hash, from, to) = self.order.pop_front()?;
        let entry = self.said.find_entry(hash, |said| (said.from, said.to) == (from, to)).ok()?;
        Some(entry.remove().0)
    }
}

impl Core {
    /// A user whose home is here types to another, or has stopped.
    pub(crate) fn typing(&mut self, from: PublicKey, to: PublicKey, is_typing: bool) {
        if !self.typists.note(&self.config, from, to, is_typing, self.now.nanos) {
            self.stats.typing_dropped += 1;
        }
    }

    /// Tells of those who were gathered for long enough.
    pub(crate) fn flush_typing(&mut self, effects: &mut Effects) {
        while let Some(Said { from, to, is_typing, .. }) = self.typists.pop_due(self.now.nanos) {
            let home = self.config.home(&to);
            if home == self.config.shard {
                self.typist(from, to, is_typing);
            } else {
                effects.push(Effect::Send { to: home, envelope: Envelope::Typing { from, to, is_typing } });
            }
        }
    }

    /// Tells a user whose home is here, if it is online.
    pub(crate) fn typist(&mut self, from: PublicKey, to: PublicKey, is_typing: bool) {
        let Some(id) = self.router.find(&to) else { return };
        for slot in self.router.user(id).devices.all().iter().filter_map(|device| device.connection) {
            let connection = self.slots[slot as usize].connection.as_deref_mut();
            if let Some(Connection { link, state: State::Active(_) }) = connection {
                self.post.text(link, |out| encode::typing(out, &Target::User(to), is_typing, Some(&from)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ShardId;

    #[test]
    fn the_last_word_within_100_ms_is_told() {
        let config = Config::new(ShardId(0), 1, 1);
        let [anna, ben] = [1, 2].map(|seed| PublicKey::from_bytes([seed; 32]));
        let mut typists = Typists::default();
        for is_typing in [true, false, true, false] {
            assert!(typists.note(&config, anna, ben, is_typing, 5));
        }
        typists.note(&config, ben, anna, true, 6);
        assert_eq!(typists.due_at(), Some(5 + MERGE_WAIT));
        assert!(typists.pop_due(4 + MERGE_WAIT).is_none());
        let said = typists.pop_due(5 + MERGE_WAIT).expect("it is due");
        assert_eq!((said.from, said.is_typing), (anna, false));
        assert!(typists.pop_due(5 + MERGE_WAIT).is_none());
        assert!(typists.pop_due(6 + MERGE_WAIT).is_some_and(|said| said.is_typing));
        assert_eq!((typists.due_at(), typists.said.len()), (None, 0));
    }

    #[test]
    fn too_many_are_not_gathered() {
        let config = Config::new(ShardId(0), 1, 1);
        let mut typists = Typists::default();
        let noted = (0..GATHERED_MAX + 10).filter(|&n| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&n.to_le_bytes());
            typists.note(&config, PublicKey::from_bytes(key), PublicKey::from_bytes([1; 32]), true, 0)
        });
        assert_eq!(noted.count(), GATHERED_MAX);
    }
}
