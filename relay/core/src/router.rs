//! The users whose home is this shard.
//!
//! # Invariants
//! - A user is found by its key, and by the keyed hash of it.
//! - A [`UserId`] outlives its user: [`Router::get`] then gives `None`, whoever has the place now.
//! - A user is forgotten only while it is offline. A user that is made anew has another epoch.

use std::collections::VecDeque;

use hashbrown::HashTable;
use protocol::PublicKey;

use crate::config::{Config, nanos};
use crate::devices::Devices;
use crate::event::Nanos;
use crate::inbox::Inbox;
use crate::journal::Record;
use crate::rate::Bucket;
use crate::receipts::{Metas, Waiting};

/// Where a user stands in the router's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserId {
    at: u32,
    generation: u32,
}

/// One key of this shard.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) key: PublicKey,
    /// The keyed hash of the key.
    pub(crate) hash: u64,
    pub(crate) devices: Devices,
    pub(crate) inbox: Inbox,
    /// Of the messages pushed lately: whom to tell when they are confirmed or read.
    pub(crate) metas: Metas,
    /// Receipts that wait for it.
    pub(crate) waiting: Waiting,
    /// What the store has of it.
    pub(crate) record: Record,
    pub(crate) messages: Bucket,
    /// Until when this key's signatures are checked alone.
    pub(crate) suspect_until: Nanos,
    /// It was online once.
    pub(crate) seen: bool,
    /// When it was last online, or first heard of.
    pub(crate) active_ms: i64,
    /// Its messages that are not answered yet.
    pub(crate) unanswered: u32,
    /// Its messages that wait for keys that were never online.
    pub(crate) unseen: u32,
    left_at: Nanos,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    user: Option<Box<User>>,
}

/// All users of a shard.
#[derive(Debug)]
pub(crate) struct Router {
    config: Config,
    index: HashTable<u32>,
    users: Vec<Place>,
    free: Vec<u32>,
    /// Who left when, oldest first, to be forgotten: without a store.
    departed: VecDeque<(Nanos, UserId)>,
    epochs_made: u64,
    online: u64,
}

impl Router {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            index: HashTable::new(),
            users: Vec::new(),
            free: Vec::new(),
            departed: VecDeque::new(),
            epochs_made: 0,
            online: 0,
        }
    }

    /// The user of a key, online or not.
    pub(crate) fn find(&self, key: &PublicKey) -> Option<UserId> {
        self.find_where(self.config.hash(key), |user| user.key == *key)
    }

    /// The user whose key has this hash.
    pub(crate) fn find_hash(&self, hash: u64) -> Option<UserId> {
        self.find_where(hash, |user| user.hash == hash)
    }

    fn find_where(&self, hash: u64, is_it: impl Fn(&User) -> bool) -> Option<UserId> {
        let users = &self.users;
        let at = *self.index.find(hash, |&at| users[at as usize].user.as_deref().is_some_and(&is_it))?;
        Some(UserId { at, generation: users[at as usize].generation })
    }

    /// The user, if it is not forgotten.
    pub(crate) fn get(&self, id: UserId) -> Option<&User> {
        let place = self.users.get(id.at as usize).filter(|place| place.generation == id.generation)?;
        place.user.as_deref()
    }

    /// The user, if it is not forgotten.
    pub(crate) fn get_mut(&mut self, id: UserId) -> Option<&mut User> {
        let place = self.users.get_mut(id.at as usize).filter(|place| place.generation == id.generation)?;
        place.user.as_deref_mut()
    }

    /// The user of a session, or one found in this call.
    pub(crate) fn user(&self, id: UserId) -> &User {
        self.get(id).expect("a user with a session is not forgotten")
    }

    /// The user of a session, or one found in this call.
    pub(crate) fn user_mut(&mut self, id: UserId) -> &mut User {
        self.get_mut(id).expect("a user with a session is not forgotten")
    }

    /// The user of a key, made if there is none.
    pub(crate) fn find_or_make(&mut self, key: PublicKey, now_ms: i64) -> UserId {
        if let Some(id) = self.find(&key) {
            return id;
        }
        let hash = self.config.hash(&key);
        let user = Box::new(User {
            key,
            hash,
            devices: Devices::default(),
            inbox: Inbox::new(self.make_epoch()),
            metas: Metas::default(),
            waiting: Waiting::default(),
            record: Record { is_open: self.config.durability.is_none(), ..Record::default() },
            messages: Bucket::default(),
            suspect_until: 0,
            seen: false,
            active_ms: now_ms,
            unanswered: 0,
            unseen: 0,
            left_at: 0,
        });
        let at = self.free.pop().unwrap_or_else(|| {
            self.users.push(Place { generation: 0, user: None });
            u32::try_from(self.users.len() - 1).expect("fewer than 2^32 users")
        });
        let place = &mut self.users[at as usize];
        place.generation = place.generation.wrapping_add(1);
        place.user = Some(user);
        let id = UserId { at, generation: place.generation };
        let users = &self.users;
        self.index.insert_unique(hash, at, |&at| users[at as usize].user.as_deref().map_or(0, |user| user.hash));
        id
    }

    /// An epoch that was never used.
    pub(crate) fn make_epoch(&mut self) -> u64 {
        self.epochs_made += 1;
        self.config.epoch(self.epochs_made)
    }

    /// Notes that the user has its first device.
    pub(crate) fn came(&mut self, id: UserId) {
        self.online += 1;
        self.user_mut(id).seen = true;
    }

    /// Notes that the user's last device has left.
    pub(crate) fn left(&mut self, id: UserId, now: Nanos, now_ms: i64) {
        self.online -= 1;
        let user = self.user_mut(id);
        user.left_at = now;
        user.active_ms = now_ms;
        if self.config.durability.is_none() {
            self.departed.push_back((now, id));
        }
    }

    /// The next user who left long enough ago to be forgotten: without a store.
    pub(crate) fn pop_departed(&mut self, now: Nanos) -> Option<UserId> {
        while self.forget_at().is_some_and(|at| at <= now) {
            let (left_at, id) = self.departed.pop_front()?;
            if self.get(id).is_some_and(|user| !user.devices.is_online() && user.left_at == left_at) {
                return Some(id);
            }
        }
        None
    }

    /// When the next user is to be forgotten.
    pub(crate) fn forget_at(&self) -> Option<Nanos> {
        self.departed.front().map(|&(at, _)| at + nanos(self.config.memory_after_leave))
    }

    /// Forgets a user and gives it.
    pub(crate) fn forget(&mut self, id: UserId) -> Option<Box<User>> {
        let place = self.users.get_mut(id.at as usize).filter(|place| place.generation == id.generation)?;
        let user = place.user.take()?;
        if let Ok(entry) = self.index.find_entry(user.hash, |&at| at == id.at) {
            entry.remove();
        }
        self.free.push(id.at);
        Some(user)
    }

    /// Places in the table, used or not.
    pub(crate) fn places(&self) -> usize {
        self.users.len()
    }

    /// The user in a place of the table.
    pub(crate) fn at_place(&self, at: usize) -> Option<UserId> {
        let place = self.users.get(at).filter(|place| place.user.is_some())?;
        Some(UserId { at: at as u32, generation: place.generation })
    }

    /// Users known, online or not.
    pub(crate) fn known(&self) -> u64 {
        self.index.len() as u64
    }

    /// Users with a device.
    pub(crate) fn online(&self) -> u64 {
        self.online
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ShardId;

    fn router() -> Router {
        Router::new(Config::new(ShardId(0), 1, 1))
    }

    #[test]
    fn a_user_is_found_by_key_and_hash_until_it_is_forgotten() {
        let mut router = router();
        let key = PublicKey::from_bytes([1; 32]);
        let id = router.find_or_make(key, 0);
        let hash = router.user(id).hash;
        assert_eq!((router.find(&key), router.find_hash(hash)), (Some(id), Some(id)));
        let epoch = router.user(id).inbox.epoch;
        router.forget(id).expect("it was there");
        assert_eq!((router.find(&key), router.find_hash(hash)), (None, None));
        let again = router.find_or_make(key, 0);
        assert!(router.get(id).is_none(), "an old id names nobody, though the place is used again");
        assert_ne!(router.user(again).inbox.epoch, epoch);
    }

    #[test]
    fn who_comes_back_in_time_is_not_forgotten() {
        let mut router = router();
        let memory = nanos(router.config.memory_after_leave);
        let id = router.find_or_make(PublicKey::from_bytes([1; 32]), 0);
        let device = crate::store::DeviceTag(1);
        let connect = |router: &mut Router| router.user_mut(id).devices.connect("a", device, 1, 0, 8);
        connect(&mut router).expect("there is room");
        router.came(id);
        router.user_mut(id).devices.disconnect(1, 0);
        router.left(id, 0, 0);
        connect(&mut router).expect("there is room");
        router.came(id);
        assert_eq!(router.pop_departed(memory), None, "it came back");
        router.user_mut(id).devices.disconnect(1, 0);
        router.left(id, memory, 0);
        assert_eq!(router.forget_at(), Some(2 * memory));
        assert_eq!(router.pop_departed(2 * memory - 1), None);
        assert_eq!(router.pop_departed(2 * memory), Some(id));
    }
}
