//! What a shard wants done.

use crate::envelope::{Arrival, Envelope};
use crate::event::{ConnectionId, ShardId};
use crate::store::{Batch, PageRequest};

/// How far a connection is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// One [`Event::Received`](crate::Event::Received), then nothing until asked again.
    Once,
    /// Everything as it comes.
    Continuous,
}

/// One thing to do.
#[derive(Debug)]
pub enum Effect {
    /// Read from the connection.
    Read {
        /// The connection.
        connection: ConnectionId,
        /// How far.
        mode: ReadMode,
    },
    /// Write the whole buffer, then answer with [`Event::Written`](crate::Event::Written), unless
    /// the connection breaks. Never while another write of the connection is in flight.
    Write {
        /// The connection.
        connection: ConnectionId,
        /// Never empty.
        buffer: Vec<u8>,
    },
    /// Close the sending side (after the write in flight, if any).
    ShutdownWrite {
        /// The connection.
        connection: ConnectionId,
    },
    /// Close the connection and forget it: the shard has. Events that still name it are ignored.
    Close {
        /// The connection.
        connection: ConnectionId,
    },
    /// Give the connection to its home shard: the shard has forgotten it. Nothing is in flight on it.
    HandOver {
        /// The connection.
        connection: ConnectionId,
        /// Its home.
        to: ShardId,
        /// What goes with the socket.
        arrival: Box<Arrival>,
    },
    /// Send to another shard, in order, never dropped.
    Send {
        /// To whom.
        to: ShardId,
        /// What.
        envelope: Envelope,
    },
    /// Store the batch, and give it back with [`Event::Stored`](crate::Event::Stored) once it is safe.
    /// Only where [`Config::durability`](crate::Config::durability) is set, as is `Load`.
    Store(Box<Batch>),
    /// Read a page of stored entries, and give it with [`Event::Loaded`](crate::Event::Loaded).
    Load(Box<PageRequest>),
}

/// The effects of some calls, in their order: one buffer that is used again.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
}

impl Effects {
    /// Makes an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Takes the effects out, in order. The buffer stays.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> + '_ {
        self.list.drain(..)
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}
