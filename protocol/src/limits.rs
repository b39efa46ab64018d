//! Every bound of the wire in one place. Defaults of options carry the option's name.

/// The protocol version spoken here.
pub const VERSION: u64 = 1;

/// `frameBytes`: largest frame taken from a client. A message of 1,000 scalar values is at most
/// 4,000 bytes of UTF-8, or 12,000 when each is escaped as a surrogate pair (`\ud83d\ude00`), plus
/// about 400 bytes of keys, signature and field names: 16 KiB holds it with room for white space.
pub const FRAME_BYTES: usize = 16 * 1024;

/// Largest frame the relay sends.
pub const RELAY_FRAME_BYTES: usize = 64 * 1024;

/// `messageChars`: Unicode scalar values in one message.
pub const MESSAGE_CHARS: usize = 1000;

/// `messagesPerSecond`: messages a second a key may send over all its devices.
pub const MESSAGES_PER_SECOND: u32 = 10;

/// How far a message's timestamp may be from the relay's clock, in milliseconds: 300 s.
pub const TIMESTAMP_SKEW_MS: u64 = 300 * 1000;

/// How long an accepted `clientMessageId` is remembered, in milliseconds: 10 min.
pub const ID_MEMORY_MS: u64 = 10 * 60 * 1000;

/// Frames a second, other than accepted messages, from one connection.
pub const CONTROL_FRAMES_PER_SECOND: u32 = 50;

/// Malformed frames in a row that close a connection with 1008.
pub const MALFORMED_IN_A_ROW: u32 = 20;

/// Devices of one key that may be connected at once.
pub const DEVICES_PER_KEY: usize = 8;

/// Messages of one sender that may wait for keys that were never online at the relay.
pub const UNSEEN_SENDER_MESSAGES: usize = 20;

/// Messages of all senders that may wait for such keys.
pub const UNSEEN_MESSAGES: usize = 100_000;

/// Bytes of an id (`clientMessageId`, `deviceId`, `roomId`).
pub const ID_BYTES: usize = 64;

/// Bytes of a relay's name.
pub const RELAY_NAME_BYTES: usize = 253;

/// Ids in one `receipt`.
pub const RECEIPT_IDS: usize = 64;

/// Members of a room.
pub const ROOM_MEMBERS: usize = 500;

/// Messages in one page of `history` at most.
pub const HISTORY_MESSAGES: u64 = 100;

/// The `limit` of a `history` request that names none.
pub const HISTORY_MESSAGES_DEFAULT: u64 = 50;

/// Nesting of JSON that the parser follows. The deepest frame nests twice.
pub const JSON_DEPTH: usize = 32;

/// Whole numbers on the wire are below this: 2^53, what a JavaScript number holds exactly.
pub const NUMBER_END: u64 = 1 << 53;

/// Close codes of the contract.
pub mod close {
    /// The relay goes away (drain or shutdown).
    pub const GOING_AWAY: u16 = 1001;
    /// A framing fault.
    pub const PROTOCOL: u16 = 1002;
    /// A binary message.
    pub const UNSUPPORTED: u16 = 1003;
    /// Text that is no UTF-8.
    pub const INVALID_UTF8: u16 = 1007;
    /// Too many malformed frames in a row.
    pub const POLICY: u16 = 1008;
    /// A message over `frameBytes`.
    pub const TOO_LONG: u16 = 1009;
    /// Authentication failed or came too late.
    pub const AUTH: u16 = 4401;
    /// The peer reads too slowly; it may resume later.
    pub const TOO_SLOW: u16 = 4408;
    /// A newer connection of the same device took over: do not reconnect.
    pub const REPLACED: u16 = 4409;
    /// Too many connections or frames.
    pub const TOO_MANY: u16 = 4429;
}
