//! What travels between shards. Nothing here says whether the other shard is a thread or a host.

use std::net::IpAddr;

use ed25519_dalek::VerifyingKey;
use protocol::PublicKey;
use protocol::frame::LobbyMode;
use protocol::websocket::Decoder;

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
        /// For whom.
        recipient: PublicKey,
        /// The sender's frame, its bytes unmodified.
        frame: Vec<u8>,
    },
    /// The answer to `Deliver`.
    Delivered {
        /// Of which message.
        ticket: Ticket,
        /// How it went.
        outcome: Outcome,
        /// The buffer of `Deliver`, to be used again by the shard that made it.
        buffer: Vec<u8>,
    },
    /// Users whose home is the sending shard came or went. A key is in one of the lists at most.
    Lobby {
        /// Now online.
        joined: Vec<PublicKey>,
        /// Now offline.
        left: Vec<PublicKey>,
    },
}

/// What became of a message at the recipient's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Pushed to every device that is online, at least one.
    Online,
    /// No device is online, and there is no store.
    Offline,
    /// The recipient's key is not usable.
    InvalidRecipient,
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
    /// The peer's address.
    pub peer: IpAddr,
    /// The WebSocket decoder, with what it holds of a partial frame.
    pub decoder: Decoder,
    /// Bytes behind the `auth` frame that were already read.
    pub unread: Vec<u8>,
}
