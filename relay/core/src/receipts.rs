//! Receipts: who is to be told that a message was delivered or read.
//!
//! # Flow
//! A push leaves a [`Meta`] with its user. When the message is confirmed or read, its id joins the
//! others for the same sender in [`Receipts`], at the recipient's home. After 50 ms or 64 ids they go
//! to the sender's home, and there to the sender's devices, or wait in [`Waiting`] until one comes.
//!
//! # Invariants
//! - A message makes at most one receipt of each kind, and none of a kind that its meta is gone for.
//! - Metas of a user: at most [`UNCONFIRMED_MAX`], and of what is confirmed [`READ_MAX`]; the oldest go.
//! - A user has at most [`WAITING_MAX`] ids waiting; the oldest go.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use protocol::{PublicKey, encode, limits};

use crate::config::Config;
use crate::connection::{Connection, Link, State};
use crate::effect::{Effect, Effects};
use crate::envelope::Envelope;
use crate::event::Nanos;
use crate::journal::Need;
use crate::router::UserId;
use crate::shard::Core;
use crate::store::{Conversation, MessageId, PendingReceipts, ReceiptStatus};

/// Pushed messages that a user has not confirmed, with their senders; 136 bytes each.
const UNCONFIRMED_MAX: usize = 1024;

/// Messages that may still be reported as read.
const READ_MAX: usize = 256;

/// Ids that wait for one offline user.
const WAITING_MAX: usize = 1000;

/// How long receipts of one kind, from one user to another, are gathered.
const MERGE_WAIT: Nanos = 50_000_000;

/// Spare lists of ids, of 64 ids or 4 KiB each.
const SPARE_MAX: usize = 64;

/// Whose a pushed message is.
#[derive(Debug)]
pub(crate) struct Meta {
    pub(crate) seq: u64,
    pub(crate) sender: PublicKey,
    pub(crate) id: MessageId,
    /// It was sent in a room: no receipt of delivery.
    pub(crate) room: Option<Arc<str>>,
    is_read: bool,
}

impl Meta {
    pub(crate) fn new(seq: u64, sender: PublicKey, id: MessageId, with: &Conversation) -> Self {
        let room = match with {
            Conversation::User(_) => None,
            Conversation::Room(room) => Some(Arc::clone(room)),
        };
        Self { seq, sender, id, room, is_read: false }
    }
}

/// The metas of one user, ascending by seq.
#[derive(Debug, Default)]
pub(crate) struct Metas {
    list: VecDeque<Meta>,
}

impl Metas {
    /// Notes a pushed message, unless it is noted already.
    pub(crate) fn note(&mut self, meta: Meta, confirmed: u64) {
        if self.list.back().is_none_or(|last| last.seq < meta.seq) {
            self.list.push_back(meta);
        } else if let Err(at) = self.list.binary_search_by_key(&meta.seq, |meta| meta.seq) {
            // Pushed behind later ones: to a device that is behind another.
            self.list.insert(at, meta);
        }
        if self.list.len() > UNCONFIRMED_MAX {
            self.list.pop_front();
        }
        self.trim(confirmed);
    }

    /// Those with seqs in `(after, through]`.
    pub(crate) fn between(&self, after: u64, through: u64) -> impl Iterator<Item = &Meta> {
        let start = self.list.partition_point(|meta| meta.seq <= after);
        self.list.range(start..).take_while(move |meta| meta.seq <= through)
    }

    /// Forgets confirmed ones that are too many.
    pub(crate) fn trim(&mut self, confirmed: u64) {
        while self.list.len() > READ_MAX && self.list.front().is_some_and(|meta| meta.seq <= confirmed) {
            self.list.pop_front();
        }
    }

    /// Marks one as read, if it was not.
    pub(crate) fn read(&mut self, seq: u64) -> Option<&Meta> {
        let at = self.list.binary_search_by_key(&seq, |meta| meta.seq).ok()?;
        let meta = &mut self.list[at];
        if std::mem::replace(&mut meta.is_read, true) { None } else { Some(meta) }
    }

    /// Forgets one that was taken back: its sender was told so.
    pub(crate) fn forget(&mut self, seq: u64) {
        if let Ok(at) = self.list.binary_search_by_key(&seq, |meta| meta.seq) {
            self.list.remove(at);
        }
    }

    /// Forgets all that is confirmed, and gives their memory back.
    pub(crate) fn forget_confirmed(&mut self, confirmed: u64) {
        if self.list.capacity() > 0 {
            self.list.retain(|meta| meta.seq > confirmed);
            self.list.shrink_to_fit();
        }
    }
}

/// Receipts that wait for their user, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    list: VecDeque<PendingReceipts>,
    ids: usize,
}

impl Waiting {
    pub(crate) fn restore(records: Vec<PendingReceipts>) -> Self {
        let mut waiting = Self::default();
        records.into_iter().for_each(|record| waiting.add(record));
        waiting
    }

    pub(crate) fn add(&mut self, receipts: PendingReceipts) {
        self.ids += receipts.ids.len();
        let last = self.list.back_mut();
        match last
            .filter(|last| (last.from, last.status, &last.room) == (receipts.from, receipts.status, &receipts.room))
        {
            Some(last) => last.ids.extend_from_slice(&receipts.ids),
            None => self.list.push_back(receipts),
        }
        while self.ids > WAITING_MAX {
            let Some(first) = self.list.front_mut() else { break };
            let surplus = (self.ids - WAITING_MAX).min(first.ids.len());
            first.ids.drain(..surplus);
            self.ids -= surplus;
            if first.ids.is_empty() {
                self.list.pop_front();
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn to_records(&self) -> Vec<PendingReceipts> {
        self.list.iter().cloned().collect()
    }
}

/// Receipts of one kind that are being gathered.
#[derive(Debug)]
struct Gathering {
    hash: u64,
    to: PublicKey,
    receipts: PendingReceipts,
    /// Use of the place.
    generation: u32,
}

/// All receipts that are being gathered at their recipients' home.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    index: HashTable<u32>,
    places: Vec<Option<Gathering>>,
    free: Vec<u32>,
    /// Which place is due when, soonest first.
    order: VecDeque<(Nanos, u32, u32)>,
    /// Full ones, due at once.
    full: Vec<(PublicKey, PendingReceipts)>,
    spare: Vec<Vec<MessageId>>,
    generation: u32,
}

impl Receipts {
    /// Adds a message of which `from` confirmed or read.
    pub(crate) fn note(&mut self, config: &Config, meta: &Meta, from: PublicKey, status: ReceiptStatus, now: Nanos) {
        let hash = config.hash(&meta.sender) ^ config.hash(&from).rotate_left(1) ^ status as u64;
        let places = &self.places;
        let is_it = |&at: &u32| {
            places[at as usize].as_ref().is_some_and(|gathering| {
                let receipts = &gathering.receipts;
                gathering.to == meta.sender
                    && (receipts.from, receipts.status, &receipts.room) == (from, status, &meta.room)
            })
        };
        let at = match self.index.find(hash, is_it) {
            Some(&at) => at,
            None => self.make(hash, meta, from, status, now),
        };
        let Some(gathering) = &mut self.places[at as usize] else { return };
        gathering.receipts.ids.push(meta.id);
        if gathering.receipts.ids.len() >= limits::RECEIPT_IDS
            && let Some(full) = self.take(at)
        {
            self.full.push(full);
        }
    }

    fn make(&mut self, hash: u64, meta: &Meta, from: PublicKey, status: ReceiptStatus, now: Nanos) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        let ids = self.spare.pop().unwrap_or_default();
        let receipts = PendingReceipts { from, room: meta.room.clone(), status, ids };
        let gathering = Gathering { hash, to: meta.sender, receipts, generation: self.generation };
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(None);
            (self.places.len() - 1) as u32
        });
        self.places[at as usize] = Some(gathering);
        let places = &self.places;
        self.index.insert_unique(hash, at, |&at| places[at as usize].as_ref().map_or(0, |gathering| gathering.hash));
        self.order.push_back((now + MERGE_WAIT, at, self.generation));
        at
    }

    fn take(&mut self, at: u32) -> Option<(PublicKey, PendingReceipts)> {
        let gathering = self.places[at as usize].take()?;
        if let Ok(entry) = self.index.find_entry(gathering.hash, |&other| other == at) {
            entry.remove();
        }
        self.free.push(at);
        Some((gathering.to, gathering.receipts))
    }

    /// The next ones that are due, and for whom.
    fn pop_due(&mut self, now: Nanos) -> Option<(PublicKey, PendingReceipts)> {
        if let Some(full) = self.full.pop() {
            return Some(full);
        }
        while let Some(&(due, at, generation)) = self.order.front() {
            let is_it = self.places[at as usize].as_ref().is_some_and(|gathering| gathering.generation == generation);
            if is_it && due > now {
                return None;
            }
            self.order.pop_front();
            if is_it {
                return self.take(at);
            }
        }
        None
    }

    /// When the next ones are due.
    pub(crate) fn due_at(&self) -> Option<Nanos> {
        self.order.front().map(|&(due, ..)| due)
    }

    fn put_back(&mut self, mut ids: Vec<MessageId>) {
        if self.spare.len() < SPARE_MAX {
            ids.clear();
            self.spare.push(ids);
        }
    }
}

impl Core {
    /// Sends off the receipts that are due.
    pub(crate) fn flush_receipts(&mut self, effects: &mut Effects) {
        while let Some((to, receipts)) = self.receipts.pop_due(self.now.nanos) {
            let home = self.config.home(&to);
            if home == self.config.shard {
                self.receipt(&to, receipts);
            } else {
                effects.push(Effect::Send { to: home, envelope: Envelope::Receipt { to, receipts } });
            }
        }
    }

    /// Tells a user whose home is here, at once or when it comes back.
    pub(crate) fn receipt(&mut self, to: &PublicKey, receipts: PendingReceipts) {
        let Some(id) = self.router.find(to) else {
            self.receipts.put_back(receipts.ids);
            return;
        };
        let user = self.router.user_mut(id);
        if !user.devices.is_online() {
            user.waiting.add(receipts);
            self.journal.note_user(id, &mut user.record, Need::Lazy, self.now.nanos);
            return;
        }
        for slot in user.devices.all().iter().filter_map(|device| device.connection) {
            let connection = self.slots[slot as usize].connection.as_deref_mut();
            if let Some(Connection { link, state: State::Active(_) }) = connection {
                self.post.text(link, |out| encode_receipt(out, &receipts, &receipts.ids));
                self.stats.receipts_sent += 1;
            }
        }
        self.receipts.put_back(receipts.ids);
    }

    /// Gives a device the receipts that waited for its user.
    pub(crate) fn waiting_receipts(&mut self, link: &mut Link, id: UserId) {
        let user = self.router.user_mut(id);
        if user.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut user.waiting);
        self.journal.note_user(id, &mut user.record, Need::Lazy, self.now.nanos);
        for receipts in waiting.list {
            for ids in receipts.ids.chunks(limits::RECEIPT_IDS) {
                self.post.text(link, |out| encode_receipt(out, &receipts, ids));
                self.stats.receipts_sent += 1;
            }
        }
    }
}

fn encode_receipt(out: &mut Vec<u8>, receipts: &PendingReceipts, ids: &[MessageId]) {
    let ids = ids.iter().map(MessageId::as_str);
    encode::receipt(out, receipts.status, ids, &receipts.from, receipts.room.as_deref());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ShardId;

    fn id(n: usize) -> MessageId {
        MessageId::new(&n.to_string()).expect("digits are an id")
    }

    fn meta(seq: u64) -> Meta {
        let sender = PublicKey::from_bytes([1; 32]);
        Meta::new(seq, sender, id(seq as usize), &Conversation::User(sender))
    }

    fn receipts(from: u8, ids: std::ops::Range<usize>) -> PendingReceipts {
        let from = PublicKey::from_bytes([from; 32]);
        PendingReceipts { from, room: None, status: ReceiptStatus::Delivered, ids: ids.map(id).collect() }
    }

    #[test]
    fn receipts_of_one_kind_are_gathered_for_50_ms_or_64_ids() {
        let config = Config::new(ShardId(0), 1, 1);
        let mut gathered = Receipts::default();
        let from = PublicKey::from_bytes([2; 32]);
        for seq in 1..=70 {
            gathered.note(&config, &meta(seq), from, ReceiptStatus::Delivered, 10);
        }
        gathered.note(&config, &meta(1), from, ReceiptStatus::Read, 10);
        let (_, full) = gathered.pop_due(10).expect("one is full");
        assert_eq!((full.ids.len(), full.ids[63]), (64, id(64)));
        assert!(gathered.pop_due(9 + MERGE_WAIT).is_none());
        let rest = [gathered.pop_due(10 + MERGE_WAIT), gathered.pop_due(10 + MERGE_WAIT)];
        let kinds = rest.map(|rest| rest.map(|(_, receipts)| (receipts.status, receipts.ids.len())));
        assert_eq!(kinds, [Some((ReceiptStatus::Delivered, 6)), Some((ReceiptStatus::Read, 1))]);
        assert_eq!((gathered.pop_due(Nanos::MAX), gathered.due_at()), (None, None));
    }

    #[test]
    fn the_latest_thousand_ids_wait() {
        let mut waiting = Waiting::default();
        waiting.add(receipts(1, 0..600));
        waiting.add(receipts(2, 600..1000));
        waiting.add(receipts(2, 1000..1700));
        let records = waiting.to_records();
        let ids: Vec<MessageId> = records.iter().flat_map(|record| record.ids.clone()).collect();
        assert_eq!(ids, (700..1700).map(id).collect::<Vec<_>>());
        assert_eq!(Waiting::restore(records.clone()).to_records(), records);
    }

    #[test]
    fn a_meta_is_read_once_and_old_ones_go() {
        let mut metas = Metas::default();
        for seq in [1, 2, 5, 3, 5] {
            metas.note(meta(seq), 0);
        }
        assert_eq!(metas.between(1, 5).map(|meta| meta.seq).collect::<Vec<_>>(), [2, 3, 5]);
        assert!(metas.read(3).is_some() && metas.read(3).is_none() && metas.read(4).is_none());
        for seq in 6..=5000 {
            metas.note(meta(seq), 0);
        }
        assert_eq!(metas.list.len(), UNCONFIRMED_MAX);
        metas.trim(5000);
        assert_eq!(metas.list.len(), READ_MAX);
    }
}
