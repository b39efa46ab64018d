//! Who is online, and what subscribers were told of it.
//!
//! Changes are gathered net (a user who comes and goes in between is in none of them) and flushed
//! together: the first after a quiet time at once, then one flush a tick. A flush makes a revision:
//! the announced state moves on, and one encoded frame serves every subscriber that is up to date.
//!
//! # Invariants
//! - Snapshots show an announced state, never a half-flushed one: what a subscriber was told is at
//!   every moment the state of one revision.
//! - A revision's totals are those of the announced state behind it.
//! - Updates of a subscriber that lagged are merged from the log; if the log does not reach back or
//!   the merged update would not fit one frame, a snapshot takes its place.

use std::collections::VecDeque;
use std::rc::Rc;

use hashbrown::HashTable;
use protocol::server_frame::LobbyTotals;
use protocol::{PublicKey, encode, websocket};

use crate::config::Config;
use crate::event::Nanos;

/// Net changes: a key that is noted twice, once each way, is in none.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    list: Vec<(PublicKey, bool)>,
    index: HashTable<u32>,
}

impl Changes {
    /// Notes that a key came (`true`) or went.
    fn note(&mut self, key: PublicKey, hash: u64, joined: bool, rehash: impl Fn(&PublicKey) -> u64) {
        let found = self.index.find_entry(hash, |&at| self.list[at as usize].0 == key);
        let Ok(entry) = found else {
            let at = u32::try_from(self.list.len()).expect("fewer than 2^32 keys are online");
            self.list.push((key, joined));
            self.index.insert_unique(hash, at, |&at| rehash(&self.list[at as usize].0));
            return;
        };
        let at = *entry.get() as usize;
        if self.list[at].1 == joined {
            return;
        }
        entry.remove();
        let last = self.list.len() - 1;
        if at != last {
            let moved = self.list[last].0;
            let position = self.index.find_mut(rehash(&moved), |&position| position as usize == last);
            *position.expect("every key of the list is indexed") = at as u32;
        }
        self.list.swap_remove(at);
    }

    /// Takes the change noted last.
    fn pop(&mut self, rehash: impl Fn(&PublicKey) -> u64) -> Option<(PublicKey, bool)> {
        let (key, joined) = self.list.pop()?;
        let last = self.list.len();
        let entry = self.index.find_entry(rehash(&key), |&at| at as usize == last);
        entry.expect("every key of the list is indexed").remove();
        Some((key, joined))
    }

    fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn contains(&self, key: &PublicKey, hash: u64) -> bool {
        self.index.find(hash, |&at| self.list[at as usize].0 == *key).is_some()
    }

    fn clear(&mut self) {
        self.list.clear();
        self.index.clear();
    }

    /// Splits into who joined and who left, and empties itself.
    fn take_split(&mut self, joined: &mut Vec<PublicKey>, left: &mut Vec<PublicKey>) {
        for (key, is_join) in self.list.drain(..) {
            if is_join { joined.push(key) } else { left.push(key) }
        }
        self.index.clear();
    }
}

/// The pages of one revision's snapshot, each a whole WebSocket frame.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) rev: u64,
    pub(crate) pages: Vec<Vec<u8>>,
}

/// Where a subscriber stands.
#[derive(Clone, Debug)]
pub(crate) enum Cursor {
    /// It gets a snapshot as soon as its own key is announced.
    Waiting,
    /// It is being sent a snapshot: `next` is the page to send.
    Reading { snapshot: Rc<Snapshot>, next: usize },
    /// It was told everything up to this revision.
    At(u64),
}

/// What brings a lagging subscriber up to date.
pub(crate) enum CatchUp {
    /// One merged update is in the frame buffer.
    Update,
    /// Only a snapshot does.
    Snapshot,
    /// The changes since cancelled each other out.
    Nothing,
}

/// The lobby as one shard sees it: all keys online anywhere.
#[derive(Debug)]
pub(crate) struct Lobby {
    config: Config,
    /// Announced users, in no order that means anything, and where each stands.
    users: Vec<PublicKey>,
    index: HashTable<u32>,
    totals: LobbyTotals,
    rev: u64,
    pending: Changes,
    /// Changes of this shard's own keys that the other shards were not yet told.
    outgoing: Changes,
    last_flush: Option<Nanos>,
    /// The last announced changes with their revisions, oldest first.
    log: VecDeque<(u64, PublicKey, bool)>,
    /// The log holds everything after this revision.
    log_from: u64,
    snapshot: Option<Rc<Snapshot>>,
    merged: Changes,
    joined: Vec<PublicKey>,
    left: Vec<PublicKey>,
    json: Vec<u8>,
}

/// Changes kept to merge updates from: a second of a very lively lobby.
const LOG_MAX: usize = 4096;

/// What one subscriber costs in a flush, about: one send. The tick stretches so that flushes take at
/// most half of the core.
const FLUSH_NANOS_PER_SUBSCRIBER: Nanos = 2 * 3_000;
const TICK_MAX: Nanos = 80_000_000;

impl Lobby {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            users: Vec::new(),
            index: HashTable::new(),
            totals: LobbyTotals::default(),
            rev: 0,
            pending: Changes::default(),
            outgoing: Changes::default(),
            last_flush: None,
            log: VecDeque::new(),
            log_from: 0,
            snapshot: None,
            merged: Changes::default(),
            joined: Vec::new(),
            left: Vec::new(),
            json: Vec::new(),
        }
    }

    /// A key of this shard came or went: the subscribers here and the other shards are to be told.
    pub(crate) fn note_own(&mut self, key: PublicKey, joined: bool) {
        let (config, hash) = (&self.config, self.config.hash(&key));
        self.pending.note(key, hash, joined, |key| config.hash(key));
        if config.shards > 1 {
            self.outgoing.note(key, hash, joined, |key| config.hash(key));
        }
    }

    /// A key of another shard came or went.
    pub(crate) fn note_other(&mut self, key: PublicKey, joined: bool) {
        let config = &self.config;
        self.pending.note(key, config.hash(&key), joined, |key| config.hash(key));
    }

    /// What the other shards have to be told, if anything: who joined and who left.
    pub(crate) fn take_outgoing(&mut self) -> Option<(Vec<PublicKey>, Vec<PublicKey>)> {
        if self.outgoing.is_empty() {
            return None;
        }
        let (mut joined, mut left) = (Vec::new(), Vec::new());
        self.outgoing.take_split(&mut joined, &mut left);
        Some((joined, left))
    }

    /// When the pending changes, if any, are to be flushed.
    pub(crate) fn flush_at(&self, subscribers: usize) -> Option<Nanos> {
        if self.pending.is_empty() {
            return None;
        }
        let floor = crate::config::nanos(self.config.lobby_tick);
        let wanted = FLUSH_NANOS_PER_SUBSCRIBER * subscribers as Nanos;
        let tick = wanted.min(TICK_MAX).max(floor);
        Some(self.last_flush.map_or(0, |last| last + tick))
    }

    /// Whether changes wait to be flushed.
    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Announces as many pending changes as fit one frame and gives the frame's JSON. Call until
    /// `None`.
    pub(crate) fn flush(&mut self, now: Nanos) -> Option<&[u8]> {
        if self.pending.is_empty() {
            return None;
        }
        self.last_flush = Some(now);
        self.snapshot = None;
        self.rev += 1;
        self.joined.clear();
        self.left.clear();
        if self.pending.list.len() <= encode::LOBBY_UPDATE_USERS {
            self.pending.take_split(&mut self.joined, &mut self.left);
        } else {
            let config = &self.config;
            for _ in 0..encode::LOBBY_UPDATE_USERS {
                let Some((key, joined)) = self.pending.pop(|key| config.hash(key)) else { break };
                if joined { self.joined.push(key) } else { self.left.push(key) }
            }
        }
        self.announce();
        self.json.clear();
        encode::lobby_update(&mut self.json, self.rev, &self.joined, &self.left, self.totals);
        Some(&self.json)
    }

    /// Moves the announced state by `joined` and `left`.
    fn announce(&mut self) {
        for at in 0..self.joined.len() {
            let key = self.joined[at];
            let slot = u32::try_from(self.users.len()).expect("fewer than 2^32 keys are online");
            self.users.push(key);
            let (config, users) = (&self.config, &self.users);
            self.index.insert_unique(config.hash(&key), slot, |&slot| config.hash(&users[slot as usize]));
            self.record(key, true);
        }
        for at in 0..self.left.len() {
            let key = self.left[at];
            let users = &self.users;
            let found = self.index.find_entry(self.config.hash(&key), |&slot| users[slot as usize] == key);
            let slot = found.expect("who leaves was announced").remove().0 as usize;
            let last = self.users.len() - 1;
            if slot != last {
                let hash = self.config.hash(&self.users[last]);
                let moved = self.index.find_mut(hash, |&at| at as usize == last);
                *moved.expect("every user is indexed") = slot as u32;
            }
            self.users.swap_remove(slot);
            self.record(key, false);
        }
        self.totals.count = self.users.len() as u64;
    }

    fn record(&mut self, key: PublicKey, joined: bool) {
        self.totals.digest ^= key.digest_part();
        if self.log.len() == LOG_MAX {
            self.log_from = self.log.pop_front().map_or(self.rev, |(rev, ..)| rev);
        }
        self.log.push_back((self.rev, key, joined));
    }

    pub(crate) fn rev(&self) -> u64 {
        self.rev
    }

    pub(crate) fn totals(&self) -> LobbyTotals {
        self.totals
    }

    /// Whether a snapshot now would show `key`, with nothing about it still pending.
    pub(crate) fn is_announced(&self, key: &PublicKey) -> bool {
        let hash = self.config.hash(key);
        self.index.find(hash, |&slot| self.users[slot as usize] == *key).is_some() && !self.pending.contains(key, hash)
    }

    /// The snapshot of the announced state, encoded once a revision.
    pub(crate) fn snapshot(&mut self) -> Rc<Snapshot> {
        if let Some(snapshot) = &self.snapshot {
            return Rc::clone(snapshot);
        }
        let mut pages = Vec::new();
        let mut chunks = self.users.chunks(encode::LOBBY_PAGE_USERS).peekable();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let totals = chunks.peek().is_none().then_some(self.totals);
            self.json.clear();
            encode::lobby(&mut self.json, self.rev, chunk, totals);
            let mut page = Vec::with_capacity(self.json.len() + 10);
            websocket::text_header(self.json.len(), &mut page);
            page.extend_from_slice(&self.json);
            pages.push(page);
            if totals.is_some() {
                break;
            }
        }
        let snapshot = Rc::new(Snapshot { rev: self.rev, pages });
        self.snapshot = Some(Rc::clone(&snapshot));
        snapshot
    }

    /// What a subscriber who was told everything up to `rev` still lacks. An update's JSON is given
    /// by [`Lobby::merged`].
    pub(crate) fn catch_up(&mut self, rev: u64) -> CatchUp {
        if rev < self.log_from {
            return CatchUp::Snapshot;
        }
        let config = &self.config;
        self.merged.clear();
        for &(_, key, joined) in self.log.iter().rev().take_while(|&&(at, ..)| at > rev) {
            self.merged.note(key, config.hash(&key), joined, |key| config.hash(key));
        }
        if self.merged.list.len() > encode::LOBBY_UPDATE_USERS {
            return CatchUp::Snapshot;
        }
        if self.merged.is_empty() {
            return CatchUp::Nothing;
        }
        self.joined.clear();
        self.left.clear();
        self.merged.take_split(&mut self.joined, &mut self.left);
        self.json.clear();
        encode::lobby_update(&mut self.json, self.rev, &self.joined, &self.left, self.totals);
        CatchUp::Update
    }

    /// The JSON that the last [`Lobby::catch_up`] made.
    pub(crate) fn merged(&self) -> &[u8] {
        &self.json
    }
}
