//! What is to be stored next, and what was given out to be stored.
//!
//! # Flow
//! Messages, users, rooms and ids are noted in the *open* batch: by name only, so that what changes or is
//! confirmed before the batch is given out costs nothing. When it is due, it is written out into a
//! [`Batch`] and given out as [`Effect::Store`](crate::Effect::Store). [`Event::Stored`](crate::Event::Stored)
//! brings the box back, and the shard tells those who waited.
//!
//! A batch is due when somebody has waited for 2 ms or 256 messages came (`sync`: at the end of the
//! pass); ids wait for 100 ms, users that nobody waits for, for 1 s. A message whose recipient is online
//! is left for the next batch if it came within the last millisecond: it is about to be confirmed.
//!
//! # Invariants
//! - At most [`IN_FLIGHT_MAX`] batches are given out; while they are, the open one grows to
//!   [`OPEN_ENTRIES_MAX`] messages, and then messages are refused.
//! - Batches come back in their order.
//! - After a failed batch nothing is given out any more. After one for which there was no room, the
//!   next waits for [`PAUSE`].

use std::collections::VecDeque;
use std::sync::Arc;

use crate::event::Nanos;
use crate::router::UserId;
use crate::store::{Batch, Durability, IdRecord};

/// Batches that the store may have at once.
const IN_FLIGHT_MAX: usize = 8;

/// Messages that make a batch due at once.
const GROUP_ENTRIES: usize = 256;

/// How long somebody waits for a batch to fill.
const GROUP_WAIT: Nanos = 2_000_000;

/// How long a device that is online has to confirm before its messages are written out.
const CONFIRM_WAIT: Nanos = 1_000_000;

/// How long ids wait for a batch that goes anyhow.
const IDS_WAIT: Nanos = 100_000_000;

/// How long users wait whom nobody waits for: what they confirm meanwhile is stored once.
const USERS_WAIT: Nanos = 1_000_000_000;

/// How long nothing is tried after the store had no room.
const PAUSE: Nanos = 250_000_000;

/// Messages in the open batch.
pub(crate) const OPEN_ENTRIES_MAX: usize = 64 * 1024;

/// Ids in the open batch: 56 bytes each, 14 MB.
const OPEN_IDS_MAX: usize = 256 * 1024;

/// Users that nobody waits for, and ids, in one batch. More would hold up what comes behind it.
pub(crate) const BATCH_LAZY_USERS_MAX: usize = 1024;
pub(crate) const BATCH_IDS_MAX: usize = 8 * 1024;

/// Rooms in one batch: 20 KB each at most.
pub(crate) const BATCH_ROOMS_MAX: usize = 256;

/// What the store has of one user, as far as the journal is concerned.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Record {
    pub(crate) need: Need,
    /// The store has one. Until it says so the record goes along with every message of the user: the batch
    /// that had it may be refused, and the next one not.
    pub(crate) is_known: bool,
    /// Inbox entries up to this seq are to be removed; 0 for none.
    pub(crate) removal: u64,
    /// The store knows that seqs are being given away that it does not see, so that after a crash the
    /// user goes on in a new epoch: devices may be given any seq. Without a store it is so at once.
    pub(crate) is_open: bool,
    /// The batch that makes it so; 0 for none.
    pub(crate) opening: u64,
}

/// Whether a user's record has to be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Need {
    /// It is as it is.
    #[default]
    None,
    /// Some time.
    Lazy,
    /// With the next batch.
    Soon,
}

/// A message by name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    pub(crate) user: UserId,
    pub(crate) seq: u64,
    /// When it was noted.
    pub(crate) since: Nanos,
}

/// What is in flight of one batch, by name.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    pub(crate) entries: Vec<Name>,
    pub(crate) users: Vec<UserId>,
    /// Ids of the batch that are those of its messages: the first of its ids.
    pub(crate) entry_ids: usize,
}

/// The open batch and those given out.
#[derive(Debug)]
pub(crate) struct Journal {
    durability: Option<Durability>,
    /// The open batch: messages, users by need, ids, keys to forget, and rooms.
    pub(crate) entries: Vec<Name>,
    /// So many messages in it make it due at once.
    full_len: usize,
    pub(crate) soon: Vec<UserId>,
    pub(crate) lazy: VecDeque<UserId>,
    pub(crate) ids: VecDeque<IdRecord>,
    pub(crate) forgotten: Vec<protocol::PublicKey>,
    /// Rooms whose change is to be stored.
    pub(crate) rooms: VecDeque<Arc<str>>,
    /// Since when somebody waits, ids wait, and users wait.
    urgent_since: Option<Nanos>,
    /// Somebody waits for a user's record.
    is_urged: bool,
    ids_since: Option<Nanos>,
    lazy_since: Option<Nanos>,
    in_flight: VecDeque<Flight>,
    #[expect(clippy::vec_box, reason = "the boxes are what is used again")]
    spare_batches: Vec<Box<Batch>>,
    spare_flights: Vec<Flight>,
    last_number: u64,
    paused_until: Nanos,
    is_failed: bool,
    /// Nothing waits to fill a batch any more.
    is_draining: bool,
}

/// Why a batch is due, beside its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Due {
    /// Somebody waits for a user's record.
    pub(crate) urged: bool,
    /// Ids or records have waited for long enough.
    pub(crate) ids: bool,
    /// So have the users that nobody waits for.
    pub(crate) lazy: bool,
}

impl Journal {
    pub(crate) fn new(durability: Option<Durability>) -> Self {
        Self {
            durability,
            entries: Vec::new(),
            full_len: GROUP_ENTRIES,
            soon: Vec::new(),
            lazy: VecDeque::new(),
            ids: VecDeque::new(),
            forgotten: Vec::new(),
            rooms: VecDeque::new(),
            urgent_since: None,
            is_urged: false,
            ids_since: None,
            lazy_since: None,
            in_flight: VecDeque::new(),
            spare_batches: Vec::new(),
            spare_flights: Vec::new(),
            last_number: 0,
            paused_until: 0,
            is_failed: false,
            is_draining: false,
        }
    }

    /// Whether there is a store.
    pub(crate) fn has_store(&self) -> bool {
        self.durability.is_some()
    }

    /// Whether the store has failed, for good.
    pub(crate) fn is_failed(&self) -> bool {
        self.is_failed
    }

    /// Whether one more message may be noted.
    pub(crate) fn has_room(&self) -> bool {
        !self.is_failed && self.entries.len() < OPEN_ENTRIES_MAX && self.ids.len() < OPEN_IDS_MAX
    }

    /// Says that somebody waits for a user's record in the open batch.
    pub(crate) fn urge(&mut self, now: Nanos) {
        if self.has_store() && !self.is_failed {
            self.urgent_since.get_or_insert(now);
            self.is_urged = true;
        }
    }

    /// Notes a message.
    pub(crate) fn note_entry(&mut self, user: UserId, seq: u64, now: Nanos) {
        if self.has_store() && !self.is_failed {
            self.entries.push(Name { user, seq, since: now });
            self.urgent_since.get_or_insert(now);
        }
    }

    /// Notes that a user's record is to be stored.
    pub(crate) fn note_user(&mut self, user: UserId, record: &mut Record, need: Need, now: Nanos) {
        if !self.has_store() || self.is_failed || record.need >= need {
            return;
        }
        record.need = need;
        match need {
            Need::None => {}
            Need::Lazy => {
                self.lazy.push_back(user);
                self.lazy_since.get_or_insert(now);
            }
            Need::Soon => self.soon.push(user),
        }
        if need == Need::Soon {
            // It goes with the next batch; that there is one is seen to as for ids.
            self.ids_since.get_or_insert(now);
        }
    }

    /// Notes an accepted id.
    pub(crate) fn note_id(&mut self, record: IdRecord, now: Nanos) {
        if self.has_store() && !self.is_failed {
            self.ids.push_back(record);
            self.ids_since.get_or_insert(now);
        }
    }

    /// Notes a room whose change is to be stored; somebody waits for it.
    pub(crate) fn note_room(&mut self, room: Arc<str>, now: Nanos) {
        if self.has_store() && !self.is_failed {
            self.rooms.push_back(room);
            self.urge(now);
        }
    }

    /// Notes that a user and all of its messages are to be forgotten.
    pub(crate) fn note_forgotten(&mut self, key: protocol::PublicKey, now: Nanos) {
        if self.has_store() && !self.is_failed {
            self.forgotten.push(key);
            self.ids_since.get_or_insert(now);
        }
    }

    /// From now on nothing waits to fill a batch.
    pub(crate) fn drain(&mut self) {
        self.is_draining = true;
    }

    /// Whether something waits or is given out.
    pub(crate) fn is_busy(&self) -> bool {
        !self.is_failed && (self.waits() || !self.in_flight.is_empty())
    }

    fn waits(&self) -> bool {
        self.urgent_since.is_some() || self.ids_since.is_some() || self.lazy_since.is_some()
    }

    /// Whether the open batch is to be given out now, and why.
    pub(crate) fn due(&self, now: Nanos) -> Option<Due> {
        if self.due_at().is_none_or(|at| at > now) {
            return None;
        }
        let is_over = |since: Option<Nanos>, wait| since.is_some_and(|since| since + self.lazy_wait(wait) <= now);
        let (ids, lazy) = (is_over(self.ids_since, IDS_WAIT), is_over(self.lazy_since, USERS_WAIT));
        Some(Due { urged: self.is_urged, ids, lazy })
    }

    fn writes_all(&self) -> bool {
        self.is_draining || self.durability == Some(Durability::Sync)
    }

    /// Whether a message of an online user is left for the next batch.
    pub(crate) fn is_left(&self, name: &Name, now: Nanos) -> bool {
        !self.writes_all() && now < name.since + CONFIRM_WAIT
    }

    /// Takes back what was left of the messages, oldest first.
    pub(crate) fn leave(&mut self, entries: Vec<Name>) {
        self.full_len = entries.len() + GROUP_ENTRIES;
        self.urgent_since = entries.first().map(|name| name.since);
        self.entries = entries;
    }

    fn lazy_wait(&self, wait: Nanos) -> Nanos {
        if self.is_draining { 0 } else { wait }
    }

    /// When the open batch is to be given out; `None` if nothing waits, or nothing can be given out
    /// before a batch comes back.
    pub(crate) fn due_at(&self) -> Option<Nanos> {
        if self.is_failed || self.in_flight.len() >= IN_FLIGHT_MAX || !self.waits() {
            return None;
        }
        let at_once = self.writes_all();
        let is_full = self.entries.len() >= self.full_len;
        let urgent_wait = if at_once || is_full { 0 } else { GROUP_WAIT };
        let urgent = self.urgent_since.map(|since| since + urgent_wait);
        let ids = self.ids_since.map(|since| since + self.lazy_wait(IDS_WAIT));
        let lazy = self.lazy_since.map(|since| since + self.lazy_wait(USERS_WAIT));
        let at = [urgent, ids, lazy].into_iter().flatten().min()?;
        Some(at.max(self.paused_until))
    }

    /// Begins to write the open batch out: gives the box and the names to fill.
    pub(crate) fn begin(&mut self) -> (Box<Batch>, Flight) {
        let mut batch = self.spare_batches.pop().unwrap_or_default();
        batch.clear();
        batch.number = self.last_number + 1;
        batch.urgent = false;
        self.urgent_since = None;
        self.is_urged = false;
        (batch, self.spare_flights.pop().unwrap_or_default())
    }

    /// Gives the filled batch out. `None`: there is nothing in it after all.
    pub(crate) fn give_out(&mut self, batch: Box<Batch>, flight: Flight) -> Option<Box<Batch>> {
        if batch.is_empty() {
            self.put_back(batch, flight);
            return None;
        }
        self.last_number = batch.number;
        self.in_flight.push_back(flight);
        Some(batch)
    }

    /// The batch takes along what is in the lists. What it had no place for goes soon.
    pub(crate) fn taken_along(&mut self, due: Due, now: Nanos) {
        self.ids_since = (!self.ids.is_empty()).then(|| now.saturating_sub(IDS_WAIT));
        if !self.rooms.is_empty() {
            self.urge(now.saturating_sub(GROUP_WAIT));
        }
        if due.lazy {
            self.lazy_since = (!self.lazy.is_empty()).then(|| now.saturating_sub(USERS_WAIT));
        }
    }

    /// A batch came back: what was in it, by name.
    ///
    /// # Panics
    /// If none was given out.
    pub(crate) fn came_back(&mut self) -> Flight {
        self.in_flight.pop_front().expect("a batch comes back that was given out")
    }

    /// Takes the buffers of a batch back.
    pub(crate) fn put_back(&mut self, batch: Box<Batch>, mut flight: Flight) {
        flight.entries.clear();
        flight.users.clear();
        flight.entry_ids = 0;
        if self.spare_batches.len() < IN_FLIGHT_MAX {
            self.spare_batches.push(batch);
            self.spare_flights.push(flight);
        }
    }

    /// The store had no room.
    pub(crate) fn pause(&mut self, now: Nanos) {
        self.paused_until = now + PAUSE;
    }

    /// The store has failed: forgets what waits, and gives the messages of it.
    pub(crate) fn fail(&mut self) -> Vec<Name> {
        self.is_failed = true;
        self.soon.clear();
        self.lazy.clear();
        self.ids.clear();
        self.forgotten.clear();
        self.rooms.clear();
        (self.urgent_since, self.ids_since, self.lazy_since) = (None, None, None);
        std::mem::take(&mut self.entries)
    }
}
