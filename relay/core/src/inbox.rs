//! The messages of one user that wait to be confirmed: numbers, an index, and the bodies that only
//! memory has.
//!
//! Every message takes the next seq. With a store it is *kept*: an index entry of 24 bytes stands for
//! it until every known device has confirmed it. Its body is in the *tail* until it is stored or
//! confirmed; later it is read back in pages. Without a store there is only the tail, which holds the
//! last messages whatever is confirmed.
//!
//! # Invariants
//! - Seqs count up by one. Index and tail ascend by seq.
//! - With a store, a message that a device may still need is in the index, and in the tail unless it is
//!   stored. What is in neither is a *hole*: nobody needs it, or `removed_through` tells of it.
//! - A device that asks for everything behind a seq below `removed_through` may miss something; one that
//!   asks from there on gets all.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;
use protocol::PublicKey;

use crate::envelope::Waiter;
use crate::outbox::Pool;
use crate::store::{Conversation, DeviceTag, IdRecord, MessageId};

/// The frame of a message: one inbox's, or shared by the inboxes of a room's members.
#[derive(Debug)]
pub(crate) enum Body {
    Own(Vec<u8>),
    Shared(Arc<[u8]>),
}

impl Body {
    /// The same bytes, to be used when this is gone.
    pub(crate) fn copied(&self) -> Self {
        match self {
            Self::Own(bytes) => Self::Own(bytes.clone()),
            Self::Shared(bytes) => Self::Shared(Arc::clone(bytes)),
        }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A message whose body is in memory.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) seq: u64,
    pub(crate) at_ms: i64,
    pub(crate) sender: PublicKey,
    pub(crate) with: Conversation,
    pub(crate) id: MessageId,
    /// The user's own device that sent it.
    pub(crate) origin: Option<DeviceTag>,
    pub(crate) body: Body,
    /// It is stored for the retention time, whatever is confirmed.
    pub(crate) history: bool,
    /// Who is to hear that it is safe.
    pub(crate) waiter: Option<Waiter>,
    /// Stored with it.
    pub(crate) id_record: Option<IdRecord>,
    /// A device was online when it came.
    pub(crate) online: bool,
    /// It is in a batch that was given out.
    pub(crate) is_given_out: bool,
}

/// A message in the index.
#[derive(Clone, Copy, Debug)]
struct Kept {
    seq: u64,
    /// The sender's hash; the device's tag for the user's own messages.
    who: u64,
    /// Seconds since the Unix epoch.
    at_s: u32,
    /// Bytes of the frame, and flags above them.
    bytes: u32,
}

const STORED: u32 = 1 << 31;
const OWN: u32 = 1 << 30;
const BYTES: u32 = OWN - 1;

/// Where the next message for a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In the tail, under this seq.
    Tail(u64),
    /// Stored, under this seq.
    Stored(u64),
    /// There is none.
    None,
}

/// What all inboxes of a shard hold.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    /// Messages in the indexes.
    pub(crate) kept: u64,
    /// Bytes of their frames.
    pub(crate) kept_bytes: u64,
    /// Bytes of the frames in tails.
    pub(crate) tail_bytes: u64,
}

/// The inbox of one user.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    pub(crate) epoch: u64,
    /// The last seq assigned.
    pub(crate) seq: u64,
    /// The furthest that any device ever confirmed.
    pub(crate) confirmed: u64,
    /// Not everything up to here is still there.
    pub(crate) removed_through: u64,
    kept: VecDeque<Kept>,
    kept_bytes: u64,
    /// Kept messages of each sender; made when one could have too many.
    senders: Option<Box<HashTable<(u64, u32)>>>,
    tail: VecDeque<Entry>,
}

impl Inbox {
    /// Makes an empty inbox that counts in a new epoch.
    pub(crate) fn new(epoch: u64) -> Self {
        Self { epoch, ..Self::default() }
    }

    /// Puts a message into the index.
    pub(crate) fn keep(&mut self, seq: u64, sender_hash: u64, entry: KeptEntry, totals: &mut Totals) {
        let KeptEntry { origin, at_ms, bytes, is_stored } = entry;
        let flags = if is_stored { STORED } else { 0 } | if origin.is_some() { OWN } else { 0 };
        self.kept.push_back(Kept {
            seq,
            who: origin.map_or(sender_hash, |tag| tag.0),
            at_s: u32::try_from(at_ms / 1000).unwrap_or(0),
            bytes: bytes.min(BYTES) | flags,
        });
        self.kept_bytes += u64::from(bytes);
        totals.kept += 1;
        totals.kept_bytes += u64::from(bytes);
        if let (Some(senders), None) = (&mut self.senders, origin) {
            count(senders, sender_hash);
        }
    }

    /// Messages in the index.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Bytes of the frames of the messages in the index.
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.kept_bytes
    }

    /// Whether the index holds `max` messages of one sender or more.
    pub(crate) fn is_full_of(&mut self, sender_hash: u64, max: usize) -> bool {
        if self.kept.len() < max {
            self.senders = None;
            return false;
        }
        let senders = self.senders.get_or_insert_with(|| {
            let mut senders = HashTable::new();
            let others = self.kept.iter().filter(|kept| kept.bytes & OWN == 0);
            others.for_each(|kept| count(&mut senders, kept.who));
            Box::new(senders)
        });
        let count = senders.find(sender_hash, |&(who, _)| who == sender_hash).map_or(0, |&(_, count)| count);
        count as usize >= max
    }

    /// Puts a message into the tail, behind all others.
    pub(crate) fn add(&mut self, entry: Entry, totals: &mut Totals) {
        debug_assert!(self.tail.back().is_none_or(|last| last.seq < entry.seq), "the tail ascends");
        totals.tail_bytes += entry.body.as_bytes().len() as u64;
        self.tail.push_back(entry);
    }

    /// Messages in the tail.
    pub(crate) fn tail(&self) -> &VecDeque<Entry> {
        &self.tail
    }

    fn place(&self, seq: u64) -> Option<usize> {
        // Without holes it is as far from the first as its seq.
        let guess = usize::try_from(seq.checked_sub(self.tail.front()?.seq)?).ok()?;
        if self.tail.get(guess).is_some_and(|entry| entry.seq == seq) {
            return Some(guess);
        }
        self.tail.binary_search_by_key(&seq, |entry| entry.seq).ok()
    }

    /// A message in the tail.
    pub(crate) fn entry(&self, seq: u64) -> Option<&Entry> {
        self.place(seq).map(|at| &self.tail[at])
    }

    /// The same, to be changed.
    pub(crate) fn entry_mut(&mut self, seq: u64) -> Option<&mut Entry> {
        self.place(seq).map(|at| &mut self.tail[at])
    }

    /// The messages of the tail with seqs in `(after, through]`.
    pub(crate) fn entries_mut(&mut self, after: u64, through: u64) -> impl Iterator<Item = &mut Entry> {
        let start = self.tail.partition_point(|entry| entry.seq <= after);
        self.tail.range_mut(start..).take_while(move |entry| entry.seq <= through)
    }

    /// The first message of the index or, without a store, of the tail, with this seq or a later one.
    pub(crate) fn next_from(&self, seq: u64, has_store: bool) -> Place {
        if !has_store {
            let at = self.tail.partition_point(|entry| entry.seq < seq);
            return self.tail.get(at).map_or(Place::None, |entry| Place::Tail(entry.seq));
        }
        let at = self.kept.partition_point(|kept| kept.seq < seq);
        match self.kept.get(at) {
            None => Place::None,
            Some(kept) if self.place(kept.seq).is_some() => Place::Tail(kept.seq),
            Some(kept) => Place::Stored(kept.seq),
        }
    }

    /// How far the cursor of a device reaches that has confirmed all up to `cursor`: over what it sent
    /// itself, and over holes.
    pub(crate) fn reach(&self, cursor: u64, tag: DeviceTag) -> u64 {
        let at = self.kept.partition_point(|kept| kept.seq <= cursor);
        let is_other = |kept: &&Kept| kept.bytes & OWN == 0 || kept.who != tag.0;
        self.kept.range(at..).find(is_other).map_or(self.seq, |kept| kept.seq - 1)
    }

    /// Notes that a message was given out to the store.
    pub(crate) fn give_out(&mut self, seq: u64) {
        let at = self.kept.partition_point(|kept| kept.seq < seq);
        if let Some(kept) = self.kept.get_mut(at).filter(|kept| kept.seq == seq) {
            kept.bytes |= STORED;
        }
    }

    /// Takes a message whose body is not needed any more out of the tail.
    pub(crate) fn drop_body(&mut self, seq: u64, totals: &mut Totals, pool: &mut Pool) {
        if let Some(entry) = self.place(seq).and_then(|at| self.tail.remove(at)) {
            recycle(entry, totals, pool);
        }
    }

    /// Takes the oldest message out of the tail, for want of room: without a store.
    pub(crate) fn drop_oldest(&mut self, totals: &mut Totals, pool: &mut Pool) {
        if let Some(entry) = self.tail.pop_front() {
            self.removed_through = self.removed_through.max(entry.seq);
            recycle(entry, totals, pool);
        }
    }

    /// Takes one message away as if it had never come; `removed_through` tells of the hole.
    pub(crate) fn withdraw(&mut self, seq: u64, totals: &mut Totals, pool: &mut Pool) {
        self.drop_body(seq, totals, pool);
        if let Ok(at) = self.kept.binary_search_by_key(&seq, |kept| kept.seq)
            && let Some(kept) = self.kept.remove(at)
        {
            self.uncount(kept, totals);
        }
        self.removed_through = self.removed_through.max(seq);
    }

    /// Lets go of the messages with seqs up to `floor`. Gives the last of them that may be stored.
    pub(crate) fn release(&mut self, floor: u64, totals: &mut Totals, pool: &mut Pool) -> Option<u64> {
        let mut stored = None;
        while self.kept.front().is_some_and(|kept| kept.seq <= floor) {
            stored = self.pop_kept(totals).or(stored);
        }
        // What is to be history stays until it is stored.
        while self.tail.front().is_some_and(|entry| entry.seq <= floor && !entry.history) {
            if let Some(entry) = self.tail.pop_front() {
                self.removed_through = self.removed_through.max(entry.seq);
                recycle(entry, totals, pool);
            }
        }
        stored
    }

    /// Lets go of the stored messages that came before `before_s`, and gives each sender's hash to
    /// `gone`. Gives the last of them.
    pub(crate) fn expire(&mut self, before_s: u32, totals: &mut Totals, mut gone: impl FnMut(u64)) -> Option<u64> {
        let mut stored = None;
        while let Some(&first) = self.kept.front()
            && first.at_s < before_s
            && self.place(first.seq).is_none()
        {
            stored = self.pop_kept(totals).or(stored);
            gone(first.who);
        }
        stored
    }

    /// The sender of each message that is stored, as hashes.
    pub(crate) fn stored_senders(&self) -> Vec<u64> {
        self.kept.iter().filter(|kept| self.place(kept.seq).is_none()).map(|kept| kept.who).collect()
    }

    /// Nothing of it is needed any more.
    pub(crate) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.tail.is_empty()
    }

    fn pop_kept(&mut self, totals: &mut Totals) -> Option<u64> {
        let kept = self.kept.pop_front()?;
        self.removed_through = self.removed_through.max(kept.seq);
        self.uncount(kept, totals);
        (kept.bytes & STORED != 0).then_some(kept.seq)
    }

    fn uncount(&mut self, kept: Kept, totals: &mut Totals) {
        let bytes = u64::from(kept.bytes & BYTES);
        self.kept_bytes -= bytes;
        totals.kept -= 1;
        totals.kept_bytes -= bytes;
        if let (Some(senders), 0) = (&mut self.senders, kept.bytes & OWN)
            && let Ok(mut entry) = senders.find_entry(kept.who, |&(who, _)| who == kept.who)
        {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

/// What [`Inbox::keep`] notes of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeptEntry {
    /// The user's own device that sent it.
    pub(crate) origin: Option<DeviceTag>,
    pub(crate) at_ms: i64,
    pub(crate) bytes: u32,
    pub(crate) is_stored: bool,
}

fn count(senders: &mut HashTable<(u64, u32)>, who: u64) {
    let entry = senders.entry(who, |&(other, _)| other == who, |&(who, _)| who);
    entry.and_modify(|(_, count)| *count += 1).or_insert((who, 1));
}

fn recycle(entry: Entry, totals: &mut Totals, pool: &mut Pool) {
    totals.tail_bytes -= entry.body.as_bytes().len() as u64;
    if let Body::Own(bytes) = entry.body {
        pool.put(bytes);
    }
}
