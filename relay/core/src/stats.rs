//! Counts of what a shard did. Monotonic, but for those marked as gauges.

/// Why something was dropped without the sender's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// The recipient's outbox was full: the connection was closed with 4408.
    TooSlow,
    /// The recipient's connection was already closing.
    Closing,
}

/// Why a frame was refused: the contract's reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// `auth_failed`
    AuthFailed,
    /// `unsupported_version`
    UnsupportedVersion,
    /// `malformed`
    Malformed,
    /// `sender_mismatch`
    SenderMismatch,
    /// `message_too_large`
    MessageTooLarge,
    /// `rate_limited`
    RateLimited,
    /// `stale_timestamp`
    StaleTimestamp,
    /// `signature_invalid`
    SignatureInvalid,
    /// `invalid_recipient`
    InvalidRecipient,
    /// `offline`
    Offline,
    /// `id_conflict`
    IdConflict,
    /// `no_such_room`
    NoSuchRoom,
    /// `not_member`
    NotMember,
    /// `not_owner`
    NotOwner,
    /// `room_exists`
    RoomExists,
    /// `room_full`
    RoomFull,
    /// `inbox_full`
    InboxFull,
    /// `overloaded`
    Overloaded,
}

impl Reason {
    /// How many there are.
    pub const COUNT: usize = Self::Overloaded as usize + 1;

    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::AuthFailed,
        Self::UnsupportedVersion,
        Self::Malformed,
        Self::SenderMismatch,
        Self::MessageTooLarge,
        Self::RateLimited,
        Self::StaleTimestamp,
        Self::SignatureInvalid,
        Self::InvalidRecipient,
        Self::Offline,
        Self::IdConflict,
        Self::NoSuchRoom,
        Self::NotMember,
        Self::NotOwner,
        Self::RoomExists,
        Self::RoomFull,
        Self::InboxFull,
        Self::Overloaded,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AuthFailed => "auth_failed",
            Self::UnsupportedVersion => "unsupported_version",
            Self::Malformed => "malformed",
            Self::SenderMismatch => "sender_mismatch",
            Self::MessageTooLarge => "message_too_large",
            Self::RateLimited => "rate_limited",
            Self::StaleTimestamp => "stale_timestamp",
            Self::SignatureInvalid => "signature_invalid",
            Self::InvalidRecipient => "invalid_recipient",
            Self::Offline => "offline",
            Self::IdConflict => "id_conflict",
            Self::NoSuchRoom => "no_such_room",
            Self::NotMember => "not_member",
            Self::NotOwner => "not_owner",
            Self::RoomExists => "room_exists",
            Self::RoomFull => "room_full",
            Self::InboxFull => "inbox_full",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Counts of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections now (gauge), in any state.
    pub connections: u64,
    /// Sessions now (gauge): authenticated and at home here.
    pub sessions: u64,
    /// Keys online now (gauge) whose home is here.
    pub users: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections handed over to another shard.
    pub handed_over: u64,
    /// Sessions opened.
    pub logins: u64,
    /// Messages taken from senders in well-formed frames of their own.
    pub messages_in: u64,
    /// Messages for a local user who was online when they came, counted once however many devices.
    pub messages_delivered: u64,
    /// Messages acknowledged to their sender, duplicates left out.
    pub messages_acked: u64,
    /// Messages known already: acknowledged again and not delivered again.
    pub messages_duplicate: u64,
    /// Frames refused, by reason.
    pub refused: [u64; Reason::COUNT],
    /// Of `refused`, messages that were in `messages_in`.
    pub messages_refused: u64,
    /// Pushes to a device dropped because it reads too slowly.
    pub dropped_too_slow: u64,
    /// Pushes to a device dropped because its connection was closing.
    pub dropped_closing: u64,
    /// Sessions closed with 4408.
    pub closed_too_slow: u64,
    /// Connections dropped because they were silent.
    pub closed_silent: u64,
    /// Sessions replaced by a newer connection of the same device.
    pub replaced: u64,
    /// Connections closed with 4429.
    pub closed_too_many: u64,
    /// Signatures checked alone.
    pub verified_single: u64,
    /// Signatures checked in batches.
    pub verified_batched: u64,
    /// Batches.
    pub batches: u64,
    /// Batches that failed and were checked one by one.
    pub batches_failed: u64,
    /// Lobby flushes.
    pub lobby_flushes: u64,
    /// Lobby snapshots begun.
    pub lobby_snapshots: u64,
    /// Times a session that lagged got a merged update.
    pub lobby_merged: u64,
    /// Message ids forgotten before their time because too many were remembered.
    pub ids_evicted: u64,
    /// Users known (gauge), online or not, whose home is here.
    pub users_known: u64,
    /// Rooms (gauge) whose home is here.
    pub rooms: u64,
    /// Changes of rooms: made, left, joined, invited to.
    pub room_changes: u64,
    /// Messages of rooms taken at the room's home, private ones included.
    pub room_messages: u64,
    /// Times that a member missed one of them because its inbox was full.
    pub room_missed: u64,
    /// Messages that wait in inboxes (gauge).
    pub inbox_entries: u64,
    /// Bytes of their frames (gauge).
    pub inbox_bytes: u64,
    /// Bytes of frames in memory (gauge): not stored yet or, without a store, there for resume.
    pub tail_bytes: u64,
    /// Without a store: messages forgotten before their number, for want of memory.
    pub memory_evicted: u64,
    /// Messages refused because the recipient's inbox was full.
    pub inbox_full: u64,
    /// Copies for the sender's other devices that its own inbox had no room for; those resume.
    pub copies_dropped: u64,
    /// Batches given out to be stored.
    pub batches_given_out: u64,
    /// Messages in them.
    pub entries_given_out: u64,
    /// Of these, stored.
    pub entries_stored: u64,
    /// Messages that every device had confirmed before their batch was given out.
    pub entries_never_stored: u64,
    /// Batches that the store had no room for.
    pub store_full: u64,
    /// 1 from the moment that the store has failed (gauge): nothing is accepted any more.
    pub store_failed: u64,
    /// Pages asked of the store.
    pub loads: u64,
    /// Pages that it could not read.
    pub loads_failed: u64,
    /// Pages of history sent.
    pub history_pages: u64,
    /// Messages read back.
    pub entries_loaded: u64,
    /// Messages that should have been read back and were not there. Not 0 is a fault of the store's.
    pub entries_missing: u64,
    /// Messages that waited for longer than their time to live.
    pub expired: u64,
    /// Users forgotten because they did not come for as long.
    pub users_forgotten: u64,
    /// Sessions that went on where they were.
    pub recovered: u64,
    /// Times that somebody typed and too many did at once.
    pub typing_dropped: u64,
    /// Receipt frames sent.
    pub receipts_sent: u64,
    /// Application bytes received.
    pub bytes_in: u64,
    /// Application bytes given to the network.
    pub bytes_out: u64,
}

impl Stats {
    pub(crate) fn refuse(&mut self, reason: Reason) {
        self.refused[reason as usize] += 1;
    }

    pub(crate) fn drop_push(&mut self, reason: DropReason) {
        match reason {
            DropReason::TooSlow => self.dropped_too_slow += 1,
            DropReason::Closing => self.dropped_closing += 1,
        }
    }
}
