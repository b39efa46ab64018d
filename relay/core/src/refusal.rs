//! The one table of what peers do wrong: which reason or close code answers it, and what it says.

use protocol::limits::close;

use crate::envelope::RoomFault;
use crate::stats::Reason;

/// A frame is refused with an `error`; the connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Reason,
    pub(crate) details: &'static str,
}

impl Refusal {
    const fn new(reason: Reason, details: &'static str) -> Self {
        Self { reason, details }
    }

    pub(crate) const SENDER_MISMATCH: Self =
        Self::new(Reason::SenderMismatch, "senderPublicKey is not the key of this session.");
    pub(crate) const EMPTY: Self = Self::new(Reason::Malformed, "The message is empty.");
    pub(crate) const TOO_LARGE: Self =
        Self::new(Reason::MessageTooLarge, "The message has more characters than messageChars allows.");
    pub(crate) const RATE: Self =
        Self::new(Reason::RateLimited, "This key sends more messages than messagesPerSecond allows.");
    pub(crate) const STALE: Self =
        Self::new(Reason::StaleTimestamp, "The timestamp is more than 300 s from the relay's clock.");
    pub(crate) const SIGNATURE: Self =
        Self::new(Reason::SignatureInvalid, "The signature does not fit the message and the sender's key.");
    pub(crate) const RECIPIENT: Self =
        Self::new(Reason::InvalidRecipient, "recipientPublicKey is not a usable Ed25519 key.");
    pub(crate) const OFFLINE: Self = Self::new(Reason::Offline, "The recipient is not online.");
    pub(crate) const CONFLICT: Self =
        Self::new(Reason::IdConflict, "This clientMessageId was used for another message within 10 minutes.");
    pub(crate) const NO_ROOM: Self = Self::new(Reason::NoSuchRoom, "There is no such room.");
    pub(crate) const NOT_MEMBER: Self =
        Self::new(Reason::NotMember, "Only members of the room may do that, and only to members.");
    pub(crate) const NOT_OWNER: Self = Self::new(Reason::NotOwner, "Only the room's owner may do that.");
    pub(crate) const ROOM_EXISTS: Self = Self::new(Reason::RoomExists, "There is a room of that name already.");
    pub(crate) const ROOM_FULL: Self = Self::new(Reason::RoomFull, "The room has as many members as it may.");
    pub(crate) const TOO_MANY_ROOMS: Self =
        Self::new(Reason::Overloaded, "This key owns too many rooms, or the relay holds too many.");
    pub(crate) const INBOX_FULL: Self =
        Self::new(Reason::InboxFull, "The recipient's inbox has no room for this message.");
    pub(crate) const OVERLOADED: Self =
        Self::new(Reason::Overloaded, "The relay has more to do than it can; try again later.");
    pub(crate) const DEVICES: Self = Self::new(Reason::Overloaded, "This key has too many devices connected.");
    pub(crate) const SECOND_AUTH: Self = Self::new(Reason::Malformed, "This session is authenticated already.");
    pub(crate) const NO_LOBBY: Self =
        Self::new(Reason::Malformed, "This session asked for no lobby, so there is nothing to sync.");
    pub(crate) const ONE_PAGE: Self =
        Self::new(Reason::Overloaded, "One page of history at a time: ask again when the last has come.");
    pub(crate) const AUTH_KEY: Self =
        Self::new(Reason::AuthFailed, "publicKey is not a usable Ed25519 key: canonical and of prime order.");
    pub(crate) const AUTH_SIGNATURE: Self =
        Self::new(Reason::AuthFailed, "The signature does not fit the relay's name and nonce, the key and the device.");
    pub(crate) const AUTH_FIRST: Self = Self::new(Reason::AuthFailed, "The first frame must be auth.");

    /// The answer to what a room's home refuses.
    pub(crate) const fn of_room(fault: RoomFault) -> Self {
        match fault {
            RoomFault::NoSuchRoom => Self::NO_ROOM,
            RoomFault::NotMember => Self::NOT_MEMBER,
            RoomFault::NotOwner => Self::NOT_OWNER,
            RoomFault::Exists => Self::ROOM_EXISTS,
            RoomFault::Full => Self::ROOM_FULL,
            RoomFault::TooMany => Self::TOO_MANY_ROOMS,
            RoomFault::Overloaded => Self::OVERLOADED,
        }
    }
}

/// A connection is closed with a close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Closure {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

impl Closure {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }

    pub(crate) const AUTH: Self = Self::new(close::AUTH, "authentication failed");
    pub(crate) const AUTH_TIMEOUT: Self = Self::new(close::AUTH, "no auth in time");
    pub(crate) const BINARY: Self = Self::new(close::UNSUPPORTED, "binary messages are not taken");
    pub(crate) const MALFORMED: Self = Self::new(close::POLICY, "too many malformed frames");
    pub(crate) const TOO_SLOW: Self = Self::new(close::TOO_SLOW, "reads too slowly");
    pub(crate) const REPLACED: Self = Self::new(close::REPLACED, "replaced by a newer connection of this device");
    pub(crate) const TOO_MANY_FRAMES: Self = Self::new(close::TOO_MANY, "too many frames");
    pub(crate) const TOO_MANY_DEVICES: Self = Self::new(close::TOO_MANY, "too many devices");
    pub(crate) const GOING_AWAY: Self = Self::new(close::GOING_AWAY, "relay going away");

    /// The answer to a fault of framing.
    pub(crate) fn fault(fault: protocol::websocket::Fault) -> Self {
        let reason = match fault {
            protocol::websocket::Fault::Protocol(what) => what,
            protocol::websocket::Fault::InvalidUtf8 => "text is not UTF-8",
            protocol::websocket::Fault::TooLong => "message is too long",
        };
        Self { code: fault.close_code(), reason }
    }

    /// The answer to a close frame: its own code, or the normal one.
    pub(crate) fn echo(code: Option<u16>) -> Self {
        Self { code: code.unwrap_or(1000), reason: "" }
    }
}
