//! What travels between shards. Nothing here says whether the other shard is a thread or a host.

use std::net::IpAddr;
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use protocol::PublicKey;
use protocol::frame::{LobbyMode, Resume, RoomAction};
use protocol::websocket::Decoder;

use crate::event::{ConnectionId, ShardId};
use crate::store::{IdRecord, MessageId, PendingReceipts};

/// Names a message in transit at the shard that sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Slot in the sender shard's table.
    pub slot: u32,
    /// Use of the slot.
    pub generation: u32,
}

/// Something for another shard.
#[derive(Debug)]
pub enum Envelope {
    /// A verified message for a user whose home is the other shard.
    Deliver {
        /// To answer with.
        ticket: Ticket,
        /// The message.
        parcel: Parcel,
    },
    /// The answer to `Deliver` and `RoomMessage`.
    Delivered {
        /// Of which message.
        ticket: Ticket,
        /// How it went.
        outcome: Outcome,
        /// A buffer in return for that of `Deliver`, to be used again by the shard that made it; for
        /// `RoomMessage` one that was never used.
        buffer: Vec<u8>,
    },
    /// What a user confirmed or read, for the home of the sender.
    Receipt {
        /// Who sent the messages.
        to: PublicKey,
        /// What is told, by whom, and of which.
        receipts: PendingReceipts,
    },
    /// So many messages of each sender, who is given as
    /// [`IdRecord::sender_hash`](crate::store::IdRecord::sender_hash), wait for keys that were never online.
    Unseen {
        /// Senders whose home is the other shard.
        senders: Vec<(u64, u32)>,
        /// They wait from now on, and were not counted yet; or they did, and do no more.
        wait: bool,
    },
    /// A user types to one whose home is the other shard, or has stopped.
    Typing {
        /// Who.
        from: PublicKey,
        /// To whom.
        to: PublicKey,
        /// Whether it types.
        is_typing: bool,
    },
    /// A verified message for a room whose home is the other shard; answered with `Delivered`.
    RoomMessage {
        /// To answer with.
        ticket: Ticket,
        /// The message.
        message: RoomMessage,
    },
    /// A message of a room for members whose home is the other shard.
    RoomDeliver {
        /// To answer with.
        ticket: Ticket,
        /// The message, and for whom.
        share: RoomShare,
    },
    /// The answer to `RoomDeliver`, when it is safe for all of them or cannot be.
    RoomDelivered {
        /// Of which message.
        ticket: Ticket,
        /// How it went.
        outcome: Outcome,
    },
    /// A user asks something of a room whose home is the other shard.
    RoomAsk {
        /// Who asks, on a connection of the sending shard; given back in the answer.
        connection: ConnectionId,
        /// Whose connection it is.
        asker: PublicKey,
        /// Which room.
        room: Arc<str>,
        /// What.
        ask: RoomAsk,
    },
    /// The answer to `RoomAsk`.
    RoomAnswer {
        /// Who asked.
        connection: ConnectionId,
        /// Of which room.
        room: Arc<str>,
        /// What is answered.
        answer: RoomAnswer,
    },
    /// A user types in a room whose home is the other shard, or has stopped.
    RoomTyping {
        /// Which room.
        room: Arc<str>,
        /// Who.
        from: PublicKey,
        /// Whether it types.
        is_typing: bool,
    },
    /// A frame for all devices of some users whose home is the other shard, as far as they are online.
    Tell {
        /// Who.
        users: Arc<[PublicKey]>,
        /// Who among them is left out.
        except: Option<PublicKey>,
        /// The whole WebSocket frame.
        frame: Arc<[u8]>,
    },
    /// Users whose home is the sending shard came or went. A key is in one of the lists at most.
    Lobby {
        /// Now online.
        joined: Vec<PublicKey>,
        /// Now offline.
        left: Vec<PublicKey>,
    },
}

/// A verified message on its way to the recipient's home.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// For whom.
    pub recipient: PublicKey,
    /// From whom.
    pub sender: PublicKey,
    /// Its `clientMessageId`.
    pub id: MessageId,
    /// What is stored of the id together with the message; its `at_ms` is set then.
    pub id_record: IdRecord,
    /// The sender may have one more message wait for a key that was never online.
    pub may_be_unseen: bool,
    /// The sender's frame, its bytes unmodified.
    pub frame: Vec<u8>,
}

/// A verified message on its way to the room's home.
#[derive(Clone, Debug)]
pub struct RoomMessage {
    /// Which room.
    pub room: Arc<str>,
    /// The one member that it is for, if it is private.
    pub to: Option<PublicKey>,
    /// From whom.
    pub sender: PublicKey,
    /// Its `clientMessageId`.
    pub id: MessageId,
    /// The sender's frame, its bytes unmodified.
    pub frame: Arc<[u8]>,
}

/// A message of a room on its way to those of its members who live in one shard.
#[derive(Clone, Debug)]
pub struct RoomShare {
    /// Which room.
    pub room: Arc<str>,
    /// For whom; the sender may be among them.
    pub members: Arc<[PublicKey]>,
    /// From whom.
    pub sender: PublicKey,
    /// Its `clientMessageId`.
    pub id: MessageId,
    /// It is for one member alone, and refused if that one's inbox is full.
    pub is_private: bool,
    /// When the room's home took it, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The sender's frame, its bytes unmodified.
    pub frame: Arc<[u8]>,
}

/// What is asked of a room's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomAsk {
    /// What a room frame asks for.
    Act(RoomAction),
    /// Since when the asker may read what was said in it.
    Since,
}

/// What a room's home answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RoomAnswer {
    /// The room as it is stored: the whole WebSocket frame.
    State(Arc<[u8]>),
    /// To `Since`: when the asker joined, milliseconds since the Unix epoch.
    Since(i64),
    /// To `Since`: the asker may not read.
    Unread(RoomFault),
    /// To `Act`: it was not done.
    Refused(RoomFault),
}

/// Why what was asked of a room is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoomFault {
    /// There is no such room.
    NoSuchRoom,
    /// The asker, or the member that a private message is for, is not in it.
    NotMember,
    /// Only its owner may do that.
    NotOwner,
    /// A room of that name exists.
    Exists,
    /// It has as many members as it may.
    Full,
    /// The asker owns too many rooms, or there are too many in all.
    TooMany,
    /// The store has no room, or cannot keep up, or has failed.
    Overloaded,
}

/// Who is to hear that a message is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) shard: ShardId,
    pub(crate) ticket: Ticket,
    /// The ticket is that of a fan, and not of a message in transit.
    pub(crate) is_fan: bool,
}

impl Waiter {
    /// A message in transit at some shard.
    pub(crate) const fn message(shard: ShardId, ticket: Ticket) -> Self {
        Self { shard, ticket, is_fan: false }
    }

    /// A message of a room that some shard counts the answers to.
    pub(crate) const fn fan(shard: ShardId, ticket: Ticket) -> Self {
        Self { shard, ticket, is_fan: true }
    }
}

/// What became of a message at the recipient's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The relay answers for it: a device has confirmed it or it is stored; without a store, it was
    /// pushed to every device that is online, at least one; in a room, for every member.
    Accepted {
        /// The recipient was online when it came.
        online: bool,
        /// It was the store that made it safe, and not its recipients alone.
        stored: bool,
        /// Its id was stored with it.
        id_stored: bool,
        /// It waits for a key that was never online.
        unseen: bool,
    },
    /// No device is online, and there is no store.
    Offline,
    /// The recipient's key is not usable.
    InvalidRecipient,
    /// The recipient's inbox has no room for it.
    InboxFull,
    /// The store has no room, or cannot keep up, or has failed.
    Overloaded,
    /// The room's home refuses it.
    Refused(RoomFault),
}

/// An authenticated connection on its way to its home shard. The socket goes with it.
#[derive(Debug)]
pub struct Arrival {
    /// Whose it is.
    pub public_key: PublicKey,
    /// The same, ready to verify with.
    pub verifying_key: Box<VerifyingKey>,
    /// Which device.
    pub device_id: Box<str>,
    /// Which lobby frames it wants.
    pub lobby: LobbyMode,
    /// From where it wants to go on.
    pub resume: Option<Resume>,
    /// The peer's address.
    pub peer: IpAddr,
    /// The WebSocket decoder, with what it holds of a partial frame.
    pub decoder: Decoder,
    /// Bytes behind the `auth` frame that were already read.
    pub unread: Vec<u8>,
}
