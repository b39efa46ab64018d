//! What a shard is told.

use std::fmt;
use std::net::IpAddr;

use crate::envelope::{Arrival, Envelope};
use crate::store::{Batch, Page, StoreFault};

/// Nanoseconds on a monotonic clock of the shell's. All shards of a relay share the clock.
pub type Nanos = u64;

/// The time, as the shell tells it with every call. `nanos` never falls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic.
    pub nanos: Nanos,
    /// Wall clock, milliseconds since the Unix epoch.
    pub unix_ms: i64,
}

/// Which shard, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

/// Names a connection of one shard. Chosen by the shell: the index is dense and used again, the
/// generation tells the uses apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId {
    /// Slot, small and dense.
    pub index: u32,
    /// Use of the slot.
    pub generation: u32,
}

impl fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}.{}", self.index, self.generation)
    }
}

/// How a connection ended at the peer's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// End of file: the peer sends no more. Writes may still reach it.
    Eof,
    /// The connection is broken both ways.
    Broken,
}

/// One thing that happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A connection was accepted.
    Accepted {
        /// Its id, not in use.
        connection: ConnectionId,
        /// The peer's address.
        peer: IpAddr,
        /// 32 unpredictable bytes for the challenge, for this connection alone.
        nonce: [u8; 32],
    },
    /// A connection was handed over from another shard.
    Arrived {
        /// Its id in this shard, not in use.
        connection: ConnectionId,
        /// What came with it.
        arrival: Box<Arrival>,
    },
    /// Bytes came in. They are unmasked in place.
    Received {
        /// The connection.
        connection: ConnectionId,
        /// Never empty.
        bytes: &'a mut [u8],
    },
    /// The buffer of [`Effect::Write`](crate::Effect::Write) has been taken whole by the network.
    Written {
        /// The connection.
        connection: ConnectionId,
        /// The buffer, to be used again.
        buffer: Vec<u8>,
    },
    /// The peer is gone. After [`Gone::Broken`] nothing more comes of the connection; after
    /// [`Gone::Eof`] only `Written`.
    Disconnected {
        /// The connection.
        connection: ConnectionId,
        /// How.
        gone: Gone,
    },
    /// Another shard sent something. Envelopes of one shard arrive in the order of their sending.
    FromShard {
        /// Who.
        from: ShardId,
        /// What.
        envelope: Envelope,
    },
    /// The queue towards a shard filled up, or has room again: while it is full, messages for that
    /// shard are refused with `overloaded`. Everything else must still get through.
    Congestion {
        /// Towards whom.
        to: ShardId,
        /// Full or not.
        full: bool,
    },
    /// What [`Effect::Store`](crate::Effect::Store) gave out is safe, or is not and will not be. Batches
    /// come back in their order.
    Stored {
        /// The batch, to be used again.
        batch: Box<Batch>,
        /// Whether it is safe.
        result: Result<(), StoreFault>,
    },
    /// The answer to [`Effect::Load`](crate::Effect::Load).
    Loaded {
        /// The entries.
        page: Box<Page>,
    },
    /// The relay goes away: tell everybody, flush, close. New connections are closed at once.
    Drain,
}
