//! Who types to whom: gathered for a moment at the typist's home, then told to those who are online: a
//! user, or by way of the room's home its members. Never stored.
//!
//! # Invariants
//! - Of what a user says about one target within 100 ms only the last is told.
//! - In a room only members are told, and only of members. Who is none is not told that it is not.
//! - At most [`GATHERED_MAX`] wait in a shard; what is more is dropped, and counted.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use protocol::frame::Target;
use protocol::{PublicKey, encode};

use crate::config::Config;
use crate::connection::{Connection, State};
use crate::effect::{Effect, Effects};
use crate::envelope::Envelope;
use crate::event::Nanos;
use crate::membership::frame;
use crate::shard::Core;
use crate::store::Conversation;

/// How long what a user says about one target is gathered.
const MERGE_WAIT: Nanos = 100_000_000;

/// Users that may be typing to one target each at once: 200 bytes each, 3.3 MB, and the names of rooms.
const GATHERED_MAX: usize = 16 * 1024;

/// What somebody said last.
#[derive(Clone, Debug)]
struct Said {
    hash: u64,
    from: PublicKey,
    to: Conversation,
    is_typing: bool,
    due: Nanos,
}

/// All that is being gathered.
#[derive(Debug, Default)]
pub(crate) struct Typists {
    /// By the hash of the key and the target.
    said: HashTable<Said>,
    /// The same, soonest first.
    order: VecDeque<(u64, PublicKey, Conversation)>,
}

impl Typists {
    /// Notes what a user says. `false`: there is no room for it.
    fn note(&mut self, config: &Config, from: PublicKey, to: Conversation, is_typing: bool, now: Nanos) -> bool {
        let target = match &to {
            Conversation::User(key) => config.hash(key),
            Conversation::Room(room) => config.room_hash(room),
        };
        let hash = config.hash(&from) ^ target.rotate_left(1);
        if let Some(said) = self.said.find_mut(hash, |said| said.from == from && said.to == to) {
            said.is_typing = is_typing;
            return true;
        }
        if self.order.len() >= GATHERED_MAX {
            return false;
        }
        self.order.push_back((hash, from, to.clone()));
        let said = Said { hash, from, to, is_typing, due: now + MERGE_WAIT };
        self.said.insert_unique(hash, said, |said| said.hash);
        true
    }

    /// When the next is due.
    pub(crate) fn due_at(&self) -> Option<Nanos> {
        let (hash, from, to) = self.order.front()?;
        self.said.find(*hash, |said| said.from == *from && said.to == *to).map(|said| said.due)
    }

    fn pop_due(&mut self, now: Nanos) -> Option<Said> {
        if self.due_at().is_none_or(|due| due > now) {
            return None;
        }
        let (hash, from, to) = self.order.pop_front()?;
        let entry = self.said.find_entry(hash, |said| said.from == from && said.to == to).ok()?;
        Some(entry.remove().0)
    }
}

impl Core {
    /// A user whose home is here types to another or in a room, or has stopped.
    pub(crate) fn typing(&mut self, from: PublicKey, to: &Target<'_>, is_typing: bool) {
        let to = match *to {
            Target::User(key) => Conversation::User(key),
            Target::Room(room) | Target::RoomMember(room, _) => Conversation::Room(room.into()),
        };
        if !self.typists.note(&self.config, from, to, is_typing, self.now.nanos) {
            self.stats.typing_dropped += 1;
        }
    }

    /// Tells of those who were gathered for long enough.
    pub(crate) fn flush_typing(&mut self, effects: &mut Effects) {
        while let Some(Said { from, to, is_typing, .. }) = self.typists.pop_due(self.now.nanos) {
            let home = match &to {
                Conversation::User(key) => self.config.home(key),
                Conversation::Room(room) => self.config.home_of_room(room),
            };
            let is_here = home == self.config.shard;
            let envelope = match to {
                Conversation::User(to) if is_here => {
                    self.typist(from, to, is_typing);
                    continue;
                }
                Conversation::Room(room) if is_here => {
                    self.types_in_room(&room, from, is_typing, effects);
                    continue;
                }
                Conversation::User(to) => Envelope::Typing { from, to, is_typing },
                Conversation::Room(room) => Envelope::RoomTyping { room, from, is_typing },
            };
            effects.push(Effect::Send { to: home, envelope });
        }
    }

    /// Tells the other members of a room whose home is here, if it is a member who types.
    pub(crate) fn types_in_room(&mut self, room: &Arc<str>, from: PublicKey, is_typing: bool, effects: &mut Effects) {
        if self.rooms.of_member(room, &from).is_ok() {
            let typing = frame(|out| encode::typing(out, &Target::Room(room), is_typing, Some(&from)));
            self.tell_room(room, Some(from), &typing, effects);
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
            assert!(typists.note(&config, anna, Conversation::User(ben), is_typing, 5));
        }
        typists.note(&config, ben, Conversation::Room("den".into()), true, 6);
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
            typists.note(&config, PublicKey::from_bytes(key), Conversation::Room("den".into()), true, 0)
        });
        assert_eq!(noted.count(), GATHERED_MAX);
    }
}
