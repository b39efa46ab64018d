//! One connection: its outbox and timer, and one struct for each state it can be in.
//!
//! ```text
//! Upgrading ── 101, challenge ──▶ Challenged ── good auth ──▶ Active          (home is here)
//!     │                               │            └────────▶ Moving ──▶ another shard
//!     └──────────── refused ──────────┴──▶ Closing ◀── close, fault, replaced, too slow ── Active
//! ```

use std::net::IpAddr;

use ed25519_dalek::VerifyingKey;
use protocol::PublicKey;
use protocol::websocket::Decoder;

use crate::envelope::Arrival;
use crate::event::{ConnectionId, Nanos, ShardId};
use crate::history::Reading;
use crate::lobby::Cursor;
use crate::outbox::Outbox;
use crate::rate::Bucket;
use crate::router::UserId;
use crate::store::DeviceTag;
use crate::timers::Armed;

/// What every connection has, whatever its state.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: ConnectionId,
    pub(crate) peer: IpAddr,
    pub(crate) outbox: Outbox,
    /// When bytes last came.
    pub(crate) heard_at: Nanos,
    pub(crate) armed: Armed,
    /// Its outbox overflowed in this batch: it is about to be closed, and takes nothing more.
    pub(crate) overflowed: bool,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) link: Link,
    pub(crate) state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    Upgrading(Upgrading),
    Challenged(Challenged),
    Moving(Moving),
    Active(Box<Session>),
    Closing(Closing),
}

/// Reads the HTTP request.
#[derive(Debug)]
pub(crate) struct Upgrading {
    pub(crate) nonce: [u8; 32],
    pub(crate) request: Vec<u8>,
    pub(crate) deadline: Nanos,
}

/// Waits for `auth`.
#[derive(Debug)]
pub(crate) struct Challenged {
    pub(crate) nonce: [u8; 32],
    pub(crate) decoder: Decoder,
    /// For pings and pongs.
    pub(crate) control: Bucket,
    pub(crate) deadline: Nanos,
}

/// Authenticated; waits until nothing is in flight, to be handed over.
#[derive(Debug)]
pub(crate) struct Moving {
    pub(crate) to: ShardId,
    /// Who does not read what is in flight by then is given up.
    pub(crate) deadline: Nanos,
    pub(crate) arrival: Box<Arrival>,
}

/// A session at home.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) decoder: Decoder,
    pub(crate) member: Member,
}

/// A session without its decoder, which lends the frame while the rest acts on it.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) user: UserId,
    pub(crate) key: PublicKey,
    pub(crate) verifying_key: VerifyingKey,
    pub(crate) device_id: Box<str>,
    pub(crate) tag: DeviceTag,
    /// There are messages that it was not given yet, or receipts that waited for its user.
    pub(crate) is_behind: bool,
    /// A page of its inbox is on its way.
    pub(crate) is_loading: bool,
    /// A page of history that it has asked for.
    pub(crate) reading: Option<Box<Reading>>,
    pub(crate) subscription: Option<Subscription>,
    /// For frames other than accepted messages.
    pub(crate) control: Bucket,
    pub(crate) malformed_in_a_row: u32,
    pub(crate) pinged_at: Nanos,
}

/// A session's view of the lobby.
#[derive(Debug)]
pub(crate) struct Subscription {
    pub(crate) cursor: Cursor,
    /// Its place in the shard's list of subscribers.
    pub(crate) place: u32,
    /// When it may ask for the next snapshot.
    pub(crate) sync_from: Nanos,
    /// It asked for one before that.
    pub(crate) sync_wanted: bool,
}

/// A close frame (or an HTTP refusal) is on its way; what still comes in is thrown away.
#[derive(Debug)]
pub(crate) struct Closing {
    pub(crate) deadline: Nanos,
    /// The peer sends no more.
    pub(crate) peer_done: bool,
    /// Our sending side is closed.
    pub(crate) shut: bool,
}
