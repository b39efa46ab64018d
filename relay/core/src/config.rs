//! What a shard is made with.

use std::hash::Hasher;
use std::time::Duration;

use protocol::{PublicKey, limits};
use siphasher::sip::SipHasher13;

use crate::event::{Nanos, ShardId};
use crate::store::{DeviceTag, Durability};

/// How message signatures are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VerifyMode {
    /// In batches where enough wait, each alone where few do or a batch fails.
    #[default]
    Auto,
    /// Each alone.
    Strict,
    /// Not at all: recipients still do. For measuring only.
    Off,
}

/// Bounds, all of which hold per shard or per connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// `frameBytes`: bytes of a frame from a client.
    pub frame_bytes_max: usize,
    /// `messageChars`: Unicode scalar values of a message.
    pub message_chars_max: usize,
    /// `messagesPerSecond` of a key, burst twice that; 0 is unlimited.
    pub messages_per_second: u32,
    /// Frames a second from a connection that are no accepted messages; as many more in a burst.
    pub control_frames_per_second: u32,
    /// Bytes that wait for one connection, in flight included; past it the connection closes with 4408.
    pub outbox_bytes_max: usize,
    /// Devices of one key.
    pub devices_max: usize,
    /// Message ids remembered by the shard; past it the oldest go first.
    pub recent_ids_max: usize,
    /// Messages in transit to other shards.
    pub in_transit_max: usize,
    /// Bytes of the HTTP upgrade request.
    pub upgrade_bytes_max: usize,
    /// Headers of the HTTP upgrade request.
    pub upgrade_headers_max: usize,
    /// Messages that may wait in one inbox; one more is refused with `inbox_full`.
    pub inbox_messages_max: usize,
    /// Bytes of the frames that may wait in one inbox.
    pub inbox_bytes_max: u64,
    /// Messages of one sender that may wait in one inbox.
    pub inbox_sender_messages_max: usize,
    /// Messages that may wait in all inboxes of the shard. Past it a user who is online is still given 64.
    pub inboxes_messages_max: usize,
    /// Messages of one sender that may wait for keys that were never online here.
    pub unseen_sender_messages_max: usize,
    /// Messages that may wait for such keys in all, divided evenly between the shards.
    pub unseen_messages_max: usize,
    /// Rooms in all, divided evenly between the shards. One takes up to 52 KB: 500 members, and as many
    /// invitations.
    pub rooms_max: usize,
    /// Rooms that one key may make in each shard.
    pub owner_rooms_max: usize,
    /// Without a store: messages of one key that stay in memory for resume.
    pub memory_messages_max: usize,
    /// Without a store: bytes of frames that stay in memory for resume, of all keys of the shard.
    pub memory_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: limits::FRAME_BYTES,
            message_chars_max: limits::MESSAGE_CHARS,
            messages_per_second: limits::MESSAGES_PER_SECOND,
            control_frames_per_second: limits::CONTROL_FRAMES_PER_SECOND,
            outbox_bytes_max: 1024 * 1024,
            devices_max: limits::DEVICES_PER_KEY,
            // 2,000 messages a second for 10 minutes are 1.2 million. An id takes about 150 bytes, in all
            // 272 MB a shard: 48 in a table that is half full, for its tables are cleaned in place up to
            // there and double beyond it, and 32 in the order of arrival. 28 Ki ids in each of 64 tables
            // of 64 Ki places are just that half (of 7/8).
            recent_ids_max: 64 * 28 * 1024,
            in_transit_max: 64 * 1024,
            upgrade_bytes_max: 16 * 1024,
            upgrade_headers_max: 100,
            inbox_messages_max: 100_000,
            inbox_bytes_max: 64 * 1024 * 1024,
            inbox_sender_messages_max: 10_000,
            // The index of an inbox takes 24 bytes a message: 96 MB a shard.
            inboxes_messages_max: 4_000_000,
            unseen_sender_messages_max: limits::UNSEEN_SENDER_MESSAGES,
            unseen_messages_max: limits::UNSEEN_MESSAGES,
            rooms_max: 10_000,
            owner_rooms_max: 100,
            memory_messages_max: 100,
            memory_bytes_max: 64 * 1024 * 1024,
        }
    }
}

/// What a shard is made with. The same for all shards of a relay but for `shard`.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which shard.
    pub shard: ShardId,
    /// How many there are.
    pub shards: u16,
    /// Keys the hashes and makes epochs: random in a real relay, the same in all of its shards. With a
    /// store it is the store's, made once, so that homes and hashes stay what they are.
    pub seed: u64,
    /// Which start of the relay on this store it is, so that no epoch is made twice.
    pub boot: u64,
    /// The relay's name, as clients sign it.
    pub relay_name: String,
    /// How signatures are checked.
    pub verify: VerifyMode,
    /// Bounds.
    pub limits: Limits,
    /// An idle connection is pinged after this long, and dropped after three of it.
    pub heartbeat: Duration,
    /// From accept to the end of the HTTP upgrade.
    pub upgrade_timeout: Duration,
    /// From the challenge to a good `auth`.
    pub auth_timeout: Duration,
    /// How long a closed connection may take to read the close frame.
    pub close_timeout: Duration,
    /// Lobby changes are flushed at most once in this time, except the first after a quiet time.
    pub lobby_tick: Duration,
    /// Without a store: how long a key's seq is remembered after its last device left.
    pub memory_after_leave: Duration,
    /// When a message counts as safe; `None` is a relay without a store.
    pub durability: Option<Durability>,
    /// How long a message waits in an inbox at most, and a device or user is known that does not come.
    pub message_ttl: Duration,
    /// How long messages of rooms can be read again, where there is a store.
    pub retention: Duration,
}

impl Config {
    /// The defaults, as shard `shard` of `shards`.
    #[must_use]
    pub fn new(shard: ShardId, shards: u16, seed: u64) -> Self {
        Self {
            shard,
            shards,
            seed,
            boot: 0,
            relay_name: "localhost".to_owned(),
            verify: VerifyMode::Auto,
            limits: Limits::default(),
            heartbeat: Duration::from_secs(20),
            upgrade_timeout: Duration::from_secs(5),
            auth_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(2),
            lobby_tick: Duration::from_millis(20),
            memory_after_leave: Duration::from_secs(60),
            durability: None,
            message_ttl: Duration::from_secs(30 * 24 * 3600),
            retention: Duration::from_secs(7 * 24 * 3600),
        }
    }

    /// Whether messages of rooms are kept to be read again.
    #[must_use]
    pub(crate) fn keeps_history(&self) -> bool {
        self.durability.is_some() && !self.retention.is_zero()
    }

    /// The home shard of a key. Keyed, so that nobody can make keys that crowd one shard.
    #[must_use]
    pub fn home(&self, key: &PublicKey) -> ShardId {
        self.home_of_hash(self.hash(key))
    }

    /// The home shard of a key that is given as [`IdRecord::sender_hash`](crate::store::IdRecord::sender_hash).
    #[must_use]
    pub fn home_of_hash(&self, hash: u64) -> ShardId {
        let scaled = u128::from(hash) * u128::from(self.shards);
        ShardId((scaled >> 64) as u16)
    }

    /// The home shard of a room.
    #[must_use]
    pub fn home_of_room(&self, room: &str) -> ShardId {
        self.home_of_hash(self.room_hash(room))
    }

    /// The keyed hash of a room's id.
    #[must_use]
    pub(crate) fn room_hash(&self, room: &str) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed.rotate_left(13), !self.seed);
        hasher.write(room.as_bytes());
        hasher.finish()
    }

    /// The `n`th epoch that this shard makes: unlike any other of this relay or of an earlier run.
    #[must_use]
    pub(crate) fn epoch(&self, n: u64) -> u64 {
        self.hash_words(&[self.boot, u64::from(self.shard.0), n])
    }

    /// A number that is spread evenly over all words.
    #[must_use]
    pub(crate) fn hash_words(&self, words: &[u64]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed.rotate_left(7), self.seed);
        words.iter().for_each(|word| hasher.write_u64(*word));
        hasher.finish()
    }

    /// A device, by its id.
    #[must_use]
    pub fn device_tag(&self, device_id: &str) -> DeviceTag {
        let mut hasher = SipHasher13::new_with_keys(self.seed.rotate_left(23), !self.seed);
        hasher.write(device_id.as_bytes());
        DeviceTag(hasher.finish())
    }

    /// The keyed hash of a key.
    #[must_use]
    pub(crate) fn hash(&self, key: &PublicKey) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed, !self.seed);
        hasher.write(key.as_bytes());
        hasher.finish()
    }
}

/// A duration as nanoseconds.
pub(crate) fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX)
}
