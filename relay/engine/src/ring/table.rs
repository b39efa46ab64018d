//! The connections of one engine, in slots that are used again.
//!
//! # Invariants
//! - A slot is free, open or closing. Ids name open ones only; completions also closing ones.
//! - A closing slot becomes free with the last completion of its operations, and its next use has
//!   another generation.

use std::os::fd::OwnedFd;

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

#[derive(Debug)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// All connections of one engine.
#[derive(Debug, Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
}

impl Table {
    /// Takes a slot for a socket.
    ///
    /// # Panics
    /// If all of [`INDEX_END`] slots are taken: descriptors run out before.
    pub(super) fn insert(&mut self, socket: OwnedFd) -> ConnectionId {
        let connection = Some(Connection::new(socket));
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.connection = connection;
            return ConnectionId { index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        assert!(index < INDEX_END, "more than {INDEX_END} connections");
        self.slots.push(Slot { generation: 0, connection });
        ConnectionId { index, generation: 0 }
    }

    /// The open connection that the owner names.
    ///
    /// # Panics
    /// If there is none.
    pub(super) fn open(&mut self, id: ConnectionId) -> &mut Connection {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)
            .and_then(|slot| slot.connection.as_mut())
            .filter(|connection| connection.phase != Phase::Closing)
            .unwrap_or_else(|| panic!("{id:?} is no open connection of this engine"))
    }

    /// The connection, open or closing, that an operation in flight names.
    ///
    /// # Panics
    /// If there is none: a slot is kept until its last completion.
    pub(super) fn in_flight(&mut self, id: ConnectionId) -> &mut Connection {
        self.slots
            .get_mut(id.index as usize)
            .filter(|slot| slot.generation == id.generation)
            .and_then(|slot| slot.connection.as_mut())
            .unwrap_or_else(|| panic!("{id:?} was freed with an operation in flight"))
    }

    /// Frees the slot and hands out what was in it.
    ///
    /// # Panics
    /// If the slot is free or still has operations in flight.
    pub(super) fn remove(&mut self, id: ConnectionId) -> Connection {
        assert!(!self.in_flight(id).in_flight());
        let slot = &mut self.slots[id.index as usize];
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        slot.connection.take().expect("looked up above")
    }

    /// Every connection, open or closing.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Connection> {
        self.slots.iter_mut().filter_map(|slot| slot.connection.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::{Receiving, Slot, Table};
    use std::fs::File;
    use std::os::fd::OwnedFd;

    fn socket() -> OwnedFd {
        File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_connection_takes_at_most_one_cache_line() {
        assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
    }

    #[test]
    fn a_slot_used_again_has_another_generation() {
        let mut table = Table::default();
        let first = table.insert(socket());
        table.remove(first);
        let second = table.insert(socket());
        assert_eq!(first.index, second.index);
        assert_ne!(first.generation, second.generation);
    }

    #[test]
    #[should_panic(expected = "c0.0 is no open connection")]
    fn an_old_id_is_refused() {
        let mut table = Table::default();
        let first = table.insert(socket());
        table.remove(first);
        table.insert(socket());
        table.open(first);
    }

    #[test]
    #[should_panic]
    fn a_slot_with_an_operation_in_flight_is_kept() {
        let mut table = Table::default();
        let id = table.insert(socket());
        table.open(id).receiving = Receiving::Single;
        table.remove(id);
    }
}
