//! The seam to the store: what a shard wants kept, and what it gets back. Plain data; the core never
//! touches a disk.
//!
//! # Flow
//! A shard gathers what must survive in a [`Batch`] and gives it out as [`Effect::Store`]; when the
//! whole batch is safe, or cannot be, the same box comes back in [`Event::Stored`], so that its
//! buffers are used again. A page of stored entries is asked for by [`Effect::Load`] and comes in
//! [`Event::Loaded`]. At start the shell gives each shard what belongs to it by
//! [`Shard::restore`](crate::Shard::restore).
//!
//! # Invariants
//! - First in, first out for each shard: batches are applied in the order of their numbers, and a
//!   load sees every batch that was given out before it.
//! - A batch is applied whole or not at all.
//! - A user record is stored before, or in one batch with, the first entry of that user.
//! - One database serves all shards: nothing in it names a shard. Users, rooms and ids go to their
//!   homes by [`Config::home`](crate::Config::home), [`Config::home_of_room`](crate::Config::home_of_room)
//!   and [`Config::home_of_hash`](crate::Config::home_of_hash), which need the seed that the store was
//!   made with.
//!
//! [`Effect::Store`]: crate::Effect::Store
//! [`Effect::Load`]: crate::Effect::Load
//! [`Event::Stored`]: crate::Event::Stored
//! [`Event::Loaded`]: crate::Event::Loaded

pub mod model;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use protocol::keys::is_id;
pub use protocol::server_frame::ReceiptStatus;
use protocol::{PublicKey, limits};

use crate::event::ConnectionId;

/// When a message that nobody has confirmed counts as safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Once it is synced to the disk; each pass of a shard is a batch of its own.
    Sync,
    /// Once it is synced to the disk, together with all others of 2 ms or 256 messages.
    #[default]
    Group,
    /// Once the operating system has it: it survives the end of the process, not a power cut.
    Memory,
}

/// Why the store did not do what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// There is no room. Nothing of the batch was applied; the next one may find room again.
    Full,
    /// A sync failed or the database is damaged. Nothing can be trusted to be stored any more, and the
    /// store answers so to everything that follows, until the relay is started anew.
    Failed,
}

/// A `clientMessageId` in place: at most 64 ASCII bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    len: u8,
    bytes: [u8; limits::ID_BYTES],
}

impl MessageId {
    /// Copies an id; `None` if it is not of the contract's form.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        if !is_id(text) {
            return None;
        }
        let mut bytes = [0; limits::ID_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Some(Self { len: text.len() as u8, bytes })
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("an id is ASCII")
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// A device of one user, as a keyed hash of its `deviceId`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceTag(pub u64);

/// Whom a message was exchanged with, seen from the owner of the inbox.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Conversation {
    /// A user: the sender of a received message, the recipient of one's own.
    User(PublicKey),
    /// A room, also for private messages in it.
    Room(Arc<str>),
}

/// What is to be stored in one go.
#[derive(Debug, Default)]
pub struct Batch {
    /// Counts up by one from 1 in each shard and run.
    pub number: u64,
    /// Somebody waits for it. One that nobody waits for may share the sync of a later one, within a
    /// second.
    pub urgent: bool,
    /// Messages, each under its user and seq, which no record before had.
    pub entries: Vec<EntryRecord>,
    /// Inbox entries to forget; applied after `entries`.
    pub removals: Vec<Removal>,
    /// Users as they are now, in place of any record before.
    pub users: Vec<UserRecord>,
    /// Users to forget with everything of theirs; applied before all else, for the same key may be in
    /// `users` again.
    pub forgotten_users: Vec<PublicKey>,
    /// Rooms as they are now, in place of any record before.
    pub rooms: Vec<RoomRecord>,
    /// Rooms to forget.
    pub forgotten_rooms: Vec<Arc<str>>,
    /// Message ids accepted lately, to be kept for [`protocol::limits::ID_MEMORY_MS`]. A later record
    /// of one key replaces an earlier one.
    pub ids: Vec<IdRecord>,
    /// The frames of the entries, which hold ranges of it. Several may hold the same range.
    pub bytes: Vec<u8>,
}

impl Batch {
    /// Whether there is nothing to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
            && self.removals.is_empty()
            && self.users.is_empty()
            && self.forgotten_users.is_empty()
            && self.rooms.is_empty()
            && self.forgotten_rooms.is_empty()
            && self.ids.is_empty()
    }

    /// Empties it; the buffers stay.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.removals.clear();
        self.users.clear();
        self.forgotten_users.clear();
        self.rooms.clear();
        self.forgotten_rooms.clear();
        self.ids.clear();
        self.bytes.clear();
    }
}

/// One message of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRecord {
    /// Whose inbox or history it is in.
    pub user: PublicKey,
    /// Its place there.
    pub seq: u64,
    /// It waits to be confirmed, until a [`Removal`].
    pub inbox: bool,
    /// It is kept for the retention time, whatever is confirmed; the store forgets it by `at_ms`.
    pub history: bool,
    /// When the relay took it, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who wrote it.
    pub sender: PublicKey,
    /// With whom it was exchanged.
    pub with: Conversation,
    /// Its `clientMessageId`.
    pub id: MessageId,
    /// For the user's own message: the device that sent it and does not get it back.
    pub origin: Option<DeviceTag>,
    /// The sender's frame, unmodified: a range of [`Batch::bytes`].
    pub frame: Range<usize>,
}

/// Inbox entries that leave; those kept as history stay as that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Removal {
    /// Whose.
    pub user: PublicKey,
    /// Entries with this seq and all below it.
    pub through: u64,
}

/// A user without the entries of its inbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRecord {
    /// Who.
    pub key: PublicKey,
    /// What its seqs count in.
    pub epoch: u64,
    /// The last seq assigned when the record was made. Entries may have later ones.
    pub seq: u64,
    /// Nobody has seen a seq beyond the record and the stored entries. If not, the relay ended while
    /// a device was online, and the user goes on in a new epoch.
    pub exact: bool,
    /// It was online once.
    pub seen: bool,
    /// Not everything up to this seq is still there for those who ask for it.
    pub removed_through: u64,
    /// When it was last online, milliseconds since the Unix epoch; for one never seen, when the record
    /// was first made.
    pub active_ms: i64,
    /// The devices known, at most [`protocol::limits::DEVICES_PER_KEY`].
    pub devices: Vec<DeviceRecord>,
    /// Receipts that wait for it, at most 1,000 ids in all, oldest first.
    pub receipts: Vec<PendingReceipts>,
}

/// One device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceRecord {
    /// Its `deviceId`.
    pub id: Box<str>,
    /// It has confirmed everything up to this seq.
    pub cursor: u64,
    /// When it was last online, milliseconds since the Unix epoch.
    pub active_ms: i64,
}

/// Receipts of one kind from one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingReceipts {
    /// Who confirmed or read.
    pub from: PublicKey,
    /// In which room, if it was in one.
    pub room: Option<Arc<str>>,
    /// What is told.
    pub status: ReceiptStatus,
    /// Of which messages.
    pub ids: Vec<MessageId>,
}

/// A room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomRecord {
    /// Its `roomId`.
    pub id: Arc<str>,
    /// Its owner, who is a member.
    pub owner: PublicKey,
    /// Whether anyone may join.
    pub open: bool,
    /// Members and when they joined (milliseconds since the Unix epoch), the longest first.
    pub members: Vec<(PublicKey, i64)>,
    /// Keys that may join though it is not open.
    pub invited: Vec<PublicKey>,
}

/// An accepted `clientMessageId`, all of it hashed under the seed. Of several with one key the latest counts
/// ([`IdRecord::order`]), in whichever order they were stored: shards do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRecord {
    /// Sender and id.
    pub key: u128,
    /// The signature it came with.
    pub tag: u64,
    /// The sender; its home remembers the id.
    pub sender_hash: u64,
    /// The sender's other devices do not have the message yet.
    pub copy_due: bool,
    /// When it was accepted, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

impl IdRecord {
    /// What tells the latest: the time, and at the same time that no copy is due any more.
    #[must_use]
    pub fn order(&self) -> impl Ord + use<> {
        (self.at_ms, !self.copy_due)
    }
}

/// Asks for stored entries of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// For which connection; given back in the page.
    pub connection: ConnectionId,
    /// Whose entries.
    pub user: PublicKey,
    /// Which.
    pub what: PageOf,
    /// At most so many entries.
    pub entries_max: usize,
    /// At most so many bytes of frames, but at least one entry.
    pub bytes_max: usize,
}

/// Which entries of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PageOf {
    /// Inbox entries with a seq above `after`, ascending from the lowest.
    Inbox {
        /// Only above this seq.
        after: u64,
    },
    /// Entries exchanged with somebody, in inbox or history: the highest seqs below `before`,
    /// given ascending.
    History {
        /// With whom.
        with: Conversation,
        /// Only below this seq.
        before: u64,
        /// Only those not older than this, milliseconds since the Unix epoch.
        since_ms: i64,
    },
}

/// The answer to a [`PageRequest`].
#[derive(Debug)]
pub struct Page {
    /// What was asked.
    pub request: PageRequest,
    /// The entries, ascending by seq.
    pub entries: Vec<PageEntry>,
    /// The frames of the entries, which hold ranges of it.
    pub bytes: Vec<u8>,
    /// There are more in the direction asked.
    pub more: bool,
    /// The store could not read; the page is empty then.
    pub fault: Option<StoreFault>,
}

/// One entry of a [`Page`]; see [`EntryRecord`] for the fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageEntry {
    /// Its place in the inbox.
    pub seq: u64,
    /// When the relay took it.
    pub at_ms: i64,
    /// Who wrote it.
    pub sender: PublicKey,
    /// With whom it was exchanged.
    pub with: Conversation,
    /// Its `clientMessageId`.
    pub id: MessageId,
    /// The user's own device that sent it.
    pub origin: Option<DeviceTag>,
    /// The sender's frame: a range of [`Page::bytes`].
    pub frame: Range<usize>,
}

/// What the store has for one shard at start.
#[derive(Debug, Default)]
pub struct Restored {
    /// The users whose home it is.
    pub users: Vec<RestoredUser>,
    /// The rooms whose home it is.
    pub rooms: Vec<RoomRecord>,
    /// The ids whose senders' home it is, oldest first.
    pub ids: Vec<IdRecord>,
}

/// A user and the index of its inbox.
#[derive(Debug)]
pub struct RestoredUser {
    /// The user.
    pub record: UserRecord,
    /// The highest seq of any entry of this user, in inbox or history; 0 if there is none.
    pub seq_max: u64,
    /// Its inbox entries, ascending by seq.
    pub kept: Vec<KeptRecord>,
}

/// An inbox entry without its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeptRecord {
    /// Its place in the inbox.
    pub seq: u64,
    /// Bytes of its frame.
    pub bytes: u32,
    /// When the relay took it.
    pub at_ms: i64,
    /// Who wrote it.
    pub sender: PublicKey,
    /// The user's own device that sent it.
    pub origin: Option<DeviceTag>,
}
