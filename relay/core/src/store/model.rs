//! A store in memory: what the seam means, as code. Tests and the simulator run shards on it, and real
//! stores are compared with it.
//!
//! # Invariants
//! - What [`ModelStore::apply`] has taken is what a real store holds once it has answered that the batch is
//!   safe: a clone of the model is the disk at that moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::PublicKey;

use crate::config::Config;
use crate::store::{
    Batch, EntryRecord, IdRecord, KeptRecord, Page, PageEntry, PageOf, PageRequest, Restored, RestoredUser, RoomRecord,
    UserRecord,
};

/// A store in memory.
#[derive(Clone, Debug, Default)]
pub struct ModelStore {
    users: BTreeMap<PublicKey, UserRecord>,
    entries: BTreeMap<(PublicKey, u64), Held>,
    rooms: BTreeMap<Arc<str>, RoomRecord>,
    ids: BTreeMap<u128, IdRecord>,
}

/// An entry and its frame, whose range in the record means nothing any more.
#[derive(Clone, Debug)]
struct Held {
    record: EntryRecord,
    frame: Vec<u8>,
}

impl ModelStore {
    /// Whether a batch keeps the seam's contract: its entries are somebody's, and under seqs that are free.
    ///
    /// # Errors
    /// What breaks it.
    pub fn check(&self, batch: &Batch) -> Result<(), String> {
        for record in &batch.entries {
            let is_forgotten = batch.forgotten_users.contains(&record.user);
            let is_known = self.users.contains_key(&record.user) && !is_forgotten;
            if !is_known && !batch.users.iter().any(|user| user.key == record.user) {
                return Err(format!("{record:?} is nobody's"));
            }
            if self.entries.contains_key(&(record.user, record.seq)) && !is_forgotten {
                return Err(format!("the seq of {record:?} is taken"));
            }
        }
        Ok(())
    }

    /// Takes a batch in, whole.
    ///
    /// # Panics
    /// If it breaks the seam's contract: an entry without a user, or under a seq that is taken.
    pub fn apply(&mut self, batch: &Batch) {
        for key in &batch.forgotten_users {
            self.users.remove(key);
            self.entries.retain(|(user, _), _| user != key);
        }
        for user in &batch.users {
            self.users.insert(user.key, user.clone());
        }
        for record in &batch.entries {
            assert!(self.users.contains_key(&record.user), "{record:?} is nobody's");
            let held = Held { record: record.clone(), frame: batch.bytes[record.frame.clone()].to_vec() };
            let earlier = self.entries.insert((record.user, record.seq), held);
            assert!(earlier.is_none(), "{record:?} takes the place of {earlier:?}");
        }
        for removal in &batch.removals {
            let user = removal.user;
            let gone: Vec<u64> =
                self.entries.range((user, 0)..=(user, removal.through)).map(|(key, _)| key.1).collect();
            for seq in gone {
                let Some(held) = self.entries.get_mut(&(user, seq)) else { continue };
                held.record.inbox = false;
                if !held.record.history {
                    self.entries.remove(&(user, seq));
                }
            }
        }
        self.rooms.extend(batch.rooms.iter().map(|room| (Arc::clone(&room.id), room.clone())));
        for room in &batch.forgotten_rooms {
            self.rooms.remove(room);
        }
        for record in &batch.ids {
            let latest = self.ids.entry(record.key).or_insert(*record);
            if latest.order() <= record.order() {
                *latest = *record;
            }
        }
    }

    /// Answers a request for a page.
    #[must_use]
    pub fn page(&self, request: PageRequest) -> Page {
        let user = request.user;
        let (found, is_backward): (Vec<&Held>, bool) = match &request.what {
            PageOf::Inbox { after } => {
                let range = self.entries.range((user, after + 1)..=(user, u64::MAX));
                (range.map(|(_, held)| held).filter(|held| held.record.inbox).collect(), false)
            }
            PageOf::History { with, before, since_ms } => {
                let range = self.entries.range((user, 0)..(user, *before)).rev();
                let fits = |held: &&Held| held.record.with == *with && held.record.at_ms >= *since_ms;
                (range.map(|(_, held)| held).filter(fits).collect(), true)
            }
        };
        let mut taken = 0;
        let mut bytes_taken = 0;
        for held in &found {
            if taken == request.entries_max || taken > 0 && bytes_taken + held.frame.len() > request.bytes_max {
                break;
            }
            taken += 1;
            bytes_taken += held.frame.len();
        }
        let more = taken < found.len();
        let mut chosen = found[..taken].to_vec();
        if is_backward {
            chosen.reverse();
        }
        let mut bytes = Vec::with_capacity(bytes_taken);
        let entry = |held: &Held| {
            let start = bytes.len();
            bytes.extend_from_slice(&held.frame);
            let EntryRecord { seq, at_ms, sender, with, id, origin, .. } = held.record.clone();
            PageEntry { seq, at_ms, sender, with, id, origin, frame: start..bytes.len() }
        };
        let entries = chosen.into_iter().map(entry).collect();
        Page { request, entries, bytes, more, fault: None }
    }

    /// What belongs to one shard, at start.
    #[must_use]
    pub fn restored(&self, config: &Config) -> Restored {
        let mut restored = Restored::default();
        for (key, record) in self.users.iter().filter(|(_, record)| config.home(&record.key) == config.shard) {
            let entries: Vec<&Held> = self.entries.range((*key, 0)..=(*key, u64::MAX)).map(|(_, held)| held).collect();
            let seq_max = entries.last().map_or(0, |held| held.record.seq);
            let kept = entries.iter().filter(|held| held.record.inbox).map(|held| held.kept()).collect();
            restored.users.push(RestoredUser { record: record.clone(), seq_max, kept });
        }
        let rooms = self.rooms.values().filter(|room| config.home_of_room(&room.id) == config.shard);
        restored.rooms.extend(rooms.cloned());
        let ids = self.ids.values().filter(|record| config.home_of_hash(record.sender_hash) == config.shard);
        restored.ids.extend(ids);
        restored.ids.sort_by_key(|record| record.at_ms);
        restored
    }

    /// Entries of a user that wait in its inbox, by seq.
    #[must_use]
    pub fn inbox(&self, user: &PublicKey) -> Vec<u64> {
        let entries = self.entries.range((*user, 0)..=(*user, u64::MAX));
        entries.filter(|(_, held)| held.record.inbox).map(|((_, seq), _)| *seq).collect()
    }

    /// What is stored of a user.
    #[must_use]
    pub fn user(&self, user: &PublicKey) -> Option<&UserRecord> {
        self.users.get(user)
    }

    /// Ids that are stored.
    pub fn ids(&self) -> impl Iterator<Item = &IdRecord> {
        self.ids.values()
    }
}

impl Held {
    fn kept(&self) -> KeptRecord {
        let EntryRecord { seq, at_ms, sender, origin, .. } = self.record;
        KeptRecord { seq, bytes: self.frame.len() as u32, at_ms, sender, origin }
    }
}
