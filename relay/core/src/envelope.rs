//! What travels between shards. Nothing here says whether the other shard is a thread or a host.

use std::net::IpAddr;

use ed25519_dalek::VerifyingKey;
use protocol::PublicKey;
use protocol::frame::{LobbyMode, Resume};
use protocol::websocket::Decoder;

use crate::event::ShardId;
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
    /// The answer to `Deliver`.
    Delivered {
        /// Of which message.
        ticket: Ticket,
        /// How it went.
        outcome: Outcome,
        /// A buffer in return for that of `Deliver`, to be used again by the shard that made it.
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

/// Who is to hear that a message is safe: a message in transit at some shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) shard: ShardId,
    pub(crate) ticket: Ticket,
}

/// What became of a message at the recipient's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The relay answers for it: a device has confirmed it or it is stored; without a store, it was
    /// pushed to every device that is online, at least one.
    Accepted {
        /// The recipient was online when it came.
        online: bool,
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
