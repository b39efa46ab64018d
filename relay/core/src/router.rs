//! The users whose home is this shard: their devices, seqs and rates.
//!
//! # Invariants
//! - A user is online exactly while it has a device.
//! - A user's seq never falls while its epoch stays. A user without devices is forgotten after a
//!   while; when it comes back its epoch is another one.

use std::collections::VecDeque;

use hashbrown::HashTable;
use protocol::PublicKey;

use crate::config::{Config, nanos};
use crate::event::Nanos;
use crate::rate::Bucket;

/// Where a user stands in the router's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserId(u32);

/// The contract's bound on devices of a key; an option may be lower.
const DEVICES_MAX: usize = protocol::limits::DEVICES_PER_KEY;

/// One key of this shard.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) key: PublicKey,
    /// The last seq assigned.
    pub(crate) seq: u64,
    pub(crate) epoch: u64,
    pub(crate) messages: Bucket,
    /// Until when this key's signatures are checked alone.
    pub(crate) suspect_until: Nanos,
    devices: [u32; DEVICES_MAX],
    device_count: u8,
    left_at: Nanos,
}

impl User {
    /// The slots of the connections of this user's devices.
    pub(crate) fn devices(&self) -> &[u32] {
        &self.devices[..usize::from(self.device_count)]
    }

    pub(crate) fn is_online(&self) -> bool {
        self.device_count > 0
    }
}

/// All users of a shard.
#[derive(Debug)]
pub(crate) struct Router {
    config: Config,
    index: HashTable<u32>,
    users: Vec<Option<User>>,
    free: Vec<u32>,
    /// Who left when, oldest first, to be forgotten.
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

    /// The user of a key, online or remembered.
    pub(crate) fn find(&self, key: &PublicKey) -> Option<UserId> {
        let users = &self.users;
        let is_key = |&at: &u32| users[at as usize].as_ref().is_some_and(|user| user.key == *key);
        self.index.find(self.config.hash(key), is_key).map(|&at| UserId(at))
    }

    pub(crate) fn user(&self, id: UserId) -> &User {
        self.users[id.0 as usize].as_ref().expect("a user id is used only while the user is remembered")
    }

    pub(crate) fn user_mut(&mut self, id: UserId) -> &mut User {
        self.users[id.0 as usize].as_mut().expect("a user id is used only while the user is remembered")
    }

    /// The user of a key, made if there is none.
    pub(crate) fn find_or_make(&mut self, key: PublicKey) -> UserId {
        if let Some(id) = self.find(&key) {
            return id;
        }
        self.epochs_made += 1;
        let user = User {
            key,
            seq: 0,
            epoch: self.config.epoch(self.epochs_made),
            messages: Bucket::default(),
            suspect_until: 0,
            devices: [0; DEVICES_MAX],
            device_count: 0,
            left_at: 0,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.users.push(None);
            u32::try_from(self.users.len() - 1).expect("fewer than 2^32 users")
        });
        self.users[at as usize] = Some(user);
        let (config, users) = (&self.config, &self.users);
        let rehash = |&at: &u32| users[at as usize].as_ref().map_or(0, |user| config.hash(&user.key));
        self.index.insert_unique(config.hash(&key), at, rehash);
        UserId(at)
    }

    /// Adds a device. Says whether the user was offline before; `None` if it has too many.
    pub(crate) fn add_device(&mut self, id: UserId, connection: u32) -> Option<bool> {
        let devices_max = self.config.limits.devices_max.min(DEVICES_MAX);
        let user = self.user_mut(id);
        let count = usize::from(user.device_count);
        if count >= devices_max {
            return None;
        }
        user.devices[count] = connection;
        user.device_count += 1;
        self.online += u64::from(count == 0);
        Some(count == 0)
    }

    /// Puts a newer connection of the same device in the place of `old`.
    pub(crate) fn replace_device(&mut self, id: UserId, old: u32, new: u32) {
        let user = self.user_mut(id);
        let count = usize::from(user.device_count);
        if let Some(device) = user.devices[..count].iter_mut().find(|device| **device == old) {
            *device = new;
        }
    }

    /// Takes a device away, if the user still has it. Says whether the user is offline now.
    pub(crate) fn remove_device(&mut self, id: UserId, connection: u32, now: Nanos) -> bool {
        let user = self.user_mut(id);
        let Some(at) = user.devices().iter().position(|&device| device == connection) else {
            return false;
        };
        let last = usize::from(user.device_count) - 1;
        user.devices[at] = user.devices[last];
        user.device_count -= 1;
        if user.device_count > 0 {
            return false;
        }
        user.left_at = now;
        self.online -= 1;
        self.departed.push_back((now, id));
        true
    }

    /// Forgets users who left long enough ago.
    pub(crate) fn forget_departed(&mut self, now: Nanos) {
        let memory = nanos(self.config.memory_after_leave);
        while let Some(&(at, id)) = self.departed.front() {
            if now < at + memory {
                return;
            }
            self.departed.pop_front();
            let is_gone =
                self.users[id.0 as usize].as_ref().is_some_and(|user| !user.is_online() && user.left_at == at);
            if is_gone {
                let key = self.user(id).key;
                if let Ok(entry) = self.index.find_entry(self.config.hash(&key), |&at| at == id.0) {
                    entry.remove();
                }
                self.users[id.0 as usize] = None;
                self.free.push(id.0);
            }
        }
    }

    /// When the next user is to be forgotten.
    pub(crate) fn forget_at(&self) -> Option<Nanos> {
        self.departed.front().map(|&(at, _)| at + nanos(self.config.memory_after_leave))
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

    #[test]
    fn a_user_is_online_from_its_first_device_to_its_last() {
        let mut router = Router::new(Config::new(ShardId(0), 1, 1));
        let id = router.find_or_make(PublicKey::from_bytes([1; 32]));
        assert_eq!(router.add_device(id, 10), Some(true));
        assert_eq!(router.add_device(id, 11), Some(false));
        router.replace_device(id, 10, 12);
        assert_eq!(router.user(id).devices(), [12, 11]);
        assert!(!router.remove_device(id, 10, 5), "the replaced connection is not a device any more");
        assert!(!router.remove_device(id, 12, 5));
        assert_eq!(router.online(), 1);
        assert!(router.remove_device(id, 11, 5));
        assert_eq!(router.online(), 0);
    }

    #[test]
    fn the_ninth_device_is_one_too_many() {
        let mut router = Router::new(Config::new(ShardId(0), 1, 1));
        let id = router.find_or_make(PublicKey::from_bytes([1; 32]));
        let added = (0..9).filter(|&at| router.add_device(id, at).is_some()).count();
        assert_eq!(added, 8);
    }

    #[test]
    fn who_comes_back_in_time_goes_on_and_who_does_not_starts_anew() {
        let mut router = Router::new(Config::new(ShardId(0), 1, 1));
        let key = PublicKey::from_bytes([1; 32]);
        let memory = nanos(router.config.memory_after_leave);
        let id = router.find_or_make(key);
        let epoch = router.user(id).epoch;
        router.user_mut(id).seq = 7;
        router.add_device(id, 1);
        router.remove_device(id, 1, 0);
        router.add_device(id, 2);
        router.forget_departed(memory);
        assert_eq!(router.find(&key), Some(id), "it came back");
        router.remove_device(id, 2, memory);
        assert_eq!(router.forget_at(), Some(2 * memory));
        router.forget_departed(2 * memory - 1);
        assert_eq!(router.user(id).seq, 7);
        router.forget_departed(2 * memory);
        assert_eq!(router.find(&key), None);
        let id = router.find_or_make(key);
        assert_eq!(router.user(id).seq, 0);
        assert_ne!(router.user(id).epoch, epoch);
    }
}
