//! The connections of one engine and what is in flight on each.
//!
//! # Invariants
//! - A slot is free, open or closing. The owner's ids name open ones only, completions also closing
//!   ones.
//! - A closing slot becomes free with the last completion of its operations; its next use has
//!   another generation.

use std::os::fd::OwnedFd;

use crate::slots::Slots;
use crate::{ConnectionId, ReadMode};

use super::tag::INDEX_END;

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Both directions may work.
    Open,
    /// End of file was told; writing may still work.
    Ended,
    /// Failed; if it was open before, that was told.
    Broken,
    /// Closed by the owner; completions are awaited.
    Closing,
}

/// The receive in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Receiving {
    /// None.
    No,
    /// One that ends with its completion.
    Single,
    /// One that goes on.
    Multi,
    /// One that went on and is being cancelled, since only one more event is wanted. What still
    /// arrives is gathered, to be told as one.
    Cancelled,
}

/// One connection. The size matters: tens of thousands are idle.
#[derive(Debug)]
pub(super) struct Connection {
    /// The buffer that the kernel sends from; empty when no write is in flight. The kernel reads
    /// the heap block, which stays in place when the `Vec` itself moves with its slot.
    pub(super) buffer: Vec<u8>,
    /// Bytes of `buffer` sent so far.
    pub(super) written: usize,
    pub(super) socket: OwnedFd,
    pub(super) phase: Phase,
    pub(super) receiving: Receiving,
    /// What the owner asked for and has not been given.
    pub(super) wanted: Option<ReadMode>,
    pub(super) sending: bool,
    /// Close the sending side when the write in flight is done.
    pub(super) shutdown_follows: bool,
}

impl Connection {
    fn new(socket: OwnedFd) -> Self {
        Self {
            buffer: Vec::new(),
            written: 0,
            socket,
            phase: Phase::Open,
            receiving: Receiving::No,
            wanted: None,
            sending: false,
            shutdown_follows: false,
        }
    }

    /// Whether the kernel still works on an operation of this connection.
    pub(super) fn in_flight(&self) -> bool {
        self.sending || self.receiving != Receiving::No
    }
}

/// All connections of one engine.
#[derive(Debug)]
pub(super) struct Table {
    slots: Slots<Connection>,
}

impl Table {
    /// Makes an empty table.
    pub(super) fn new() -> Self {
        Self { slots: Slots::new() }
    }

    /// Takes a slot for a socket.
    ///
    /// # Panics
    /// If all of [`INDEX_END`] slots are taken: descriptors run out before.
    pub(super) fn insert(&mut self, socket: OwnedFd) -> ConnectionId {
        let id = self.slots.insert(Connection::new(socket));
        assert!(id.index < INDEX_END, "more than {INDEX_END} connections");
        id
    }

    /// The open connection that the owner names.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn open(&mut self, id: ConnectionId) -> &mut Connection {
        let connection = self.slots.open(id);
        assert!(connection.phase != Phase::Closing, "{id:?} is closed");
        connection
    }

    /// The connection, open or closing, that an operation in flight names.
    ///
    /// # Panics
    /// If there is none: a slot is kept until its last completion.
    pub(super) fn in_flight(&mut self, id: ConnectionId) -> &mut Connection {
        self.slots.open(id)
    }

    /// Frees the slot and hands out what was in it.
    ///
    /// # Panics
    /// If the slot is free or still has operations in flight.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Connection {
        // Before it leaves the slot: what the kernel uses must not be dropped.
        assert!(!self.slots.open(id).in_flight(), "{id:?} has an operation in flight");
        self.slots.remove(id)
    }

    /// Takes every connection out, open or closing.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Connection> {
        self.slots.drain()
    }
}

#[cfg(test)]
mod tests {
    use super::{Connection, Phase, Receiving, Table};
    use std::fs::File;
    use std::os::fd::OwnedFd;

    fn socket() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_connection_and_its_generation_fit_a_cache_line() {
        assert!(size_of::<(u32, Option<Connection>)>() <= 64);
    }

    #[test]
    #[should_panic(expected = "c0.0 is closed")]
    fn a_closing_connection_is_refused() {
        let mut table = Table::new();
        let id = table.insert(socket());
        table.open(id).phase = Phase::Closing;
        assert_eq!(table.in_flight(id).phase, Phase::Closing);
        table.open(id);
    }

    #[test]
    #[should_panic(expected = "c0.0 has an operation in flight")]
    fn a_slot_with_an_operation_in_flight_is_kept() {
        let mut table = Table::new();
        let id = table.insert(socket());
        table.open(id).receiving = Receiving::Single;
        table.remove(id);
    }
}
