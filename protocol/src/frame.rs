//! Frames that clients send, as values borrowed from the parsed bytes.
//!
//! | type | fields | optional |
//! |---|---|---|
//! | `auth` | version publicKey deviceId signature | lobby resume |
//! | `message` | message senderPublicKey clientMessageId timestamp signature, and recipientPublicKey or roomId or both | |
//! | `lobby_sync` `ping` | | |
//! | `received` `read` | seq | |
//! | `typing` | isTyping, and recipientPublicKey or roomId | |
//! | `room_create` | roomId open | |
//! | `room_join` `room_leave` `room_members` | roomId | |
//! | `room_invite` `room_remove` | roomId publicKey | |
//! | `history` | with or roomId | beforeSeq limit |

use crate::keys::PublicKey;
use crate::signature::Signature;
use crate::timestamp::Timestamp;

/// One frame from a client, of right form. Nothing of its meaning is checked yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientFrame<'a> {
    /// Opens the session.
    Auth(Auth<'a>),
    /// Sends a message.
    Message(Message<'a>),
    /// Asks for a fresh lobby snapshot.
    LobbySync,
    /// Asks for a `pong`.
    Ping,
    /// Confirms everything up to this seq for this device.
    Received(u64),
    /// This seq was read.
    Read(u64),
    /// Starts or ends typing to somebody.
    Typing {
        /// To whom: a user or a room, never a member of a room.
        target: Target<'a>,
        /// Whether the sender is typing.
        is_typing: bool,
    },
    /// Something about a room.
    Room {
        /// The room.
        room: &'a str,
        /// What about it.
        action: RoomAction,
    },
    /// Asks for a page of history.
    History {
        /// With whom: a user or a room, never a member of a room.
        with: Target<'a>,
        /// Only messages before this seq.
        before_seq: Option<u64>,
        /// At most so many, 1 to 100; 50 if left out.
        limit: u64,
    },
}

/// The fields of an `auth` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Who.
    pub public_key: PublicKey,
    /// Which of their devices.
    pub device_id: &'a str,
    /// Over [`crate::signed_bytes::auth`].
    pub signature: Signature,
    /// Whether the client wants lobby frames.
    pub lobby: LobbyMode,
    /// From where to go on.
    pub resume: Option<Resume>,
}

/// Which lobby frames a client wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LobbyMode {
    /// Snapshot and updates.
    #[default]
    All,
    /// None; the client is visible to others all the same.
    None,
}

/// Where a device's copy of its inbox ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// The store's epoch that `seq` counts in.
    pub epoch: u64,
    /// The last seq the device has.
    pub seq: u64,
}

/// The fields of a `message` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// For whom.
    pub target: Target<'a>,
    /// The text, decoded.
    pub text: &'a str,
    /// Who says to have written it.
    pub sender: PublicKey,
    /// `clientMessageId`.
    pub id: &'a str,
    /// The sender's clock.
    pub timestamp: Timestamp,
    /// Over [`crate::signed_bytes::message`].
    pub signature: Signature,
}

/// For whom a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// One user.
    User(PublicKey),
    /// All members of a room.
    Room(&'a str),
    /// One member of a room, privately.
    RoomMember(&'a str, PublicKey),
}

impl<'a> Target<'a> {
    /// The room, if it is one.
    #[must_use]
    pub const fn room(&self) -> Option<&'a str> {
        match self {
            Self::User(_) => None,
            Self::Room(room) | Self::RoomMember(room, _) => Some(room),
        }
    }
}

/// What a room frame asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomAction {
    /// `room_create`.
    Create {
        /// Whether anyone may join.
        open: bool,
    },
    /// `room_join`.
    Join,
    /// `room_leave`.
    Leave,
    /// `room_members`.
    Members,
    /// `room_invite`.
    Invite(PublicKey),
    /// `room_remove`.
    Remove(PublicKey),
}
