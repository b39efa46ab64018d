//! A table of connections in slots that are used again.
//!
//! # Invariants
//! - An id names the value it was given out for or nothing: every use of a slot has a generation of
//!   its own (they come round after 2³² uses of one slot).
//! - Indices are dense: a free slot is used before the table grows, the warmest first.

use crate::ConnectionId;

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values named by [`ConnectionId`]s.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// What a connection costs in the table.
    #[cfg(test)]
    pub(crate) const SLOT_BYTES: usize = size_of::<Slot<T>>();

    /// Makes an empty table.
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Puts a value into a slot and returns its name. Allocates when the table grows.
    ///
    /// # Panics
    /// If all 2³² − 1 indices are taken: descriptors run out before.
    pub(crate) fn insert(&mut self, value: T) -> ConnectionId {
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return ConnectionId { index, generation: slot.generation };
        }
        let index = self.slots.len() as u32;
        assert!(index < u32::MAX, "a connection table is full");
        self.slots.push(Slot { generation: 0, value: Some(value) });
        ConnectionId { index, generation: 0 }
    }

    /// The value of a name, if it is still there.
    pub(crate) fn get_mut(&mut self, id: ConnectionId) -> Option<&mut T> {
        let slot = self.slots.get_mut(id.index as usize)?;
        if slot.generation == id.generation { slot.value.as_mut() } else { None }
    }

    /// The value of a name that the engine's owner gave.
    ///
    /// # Panics
    /// If it is not there: see [`Engine`](crate::Engine).
    pub(crate) fn open(&mut self, id: ConnectionId) -> &mut T {
        self.get_mut(id).unwrap_or_else(|| not_open(id))
    }

    /// Takes a value out and frees its slot.
    ///
    /// # Panics
    /// If it is not there: see [`Engine`](crate::Engine).
    pub(crate) fn remove(&mut self, id: ConnectionId) -> T {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation);
        let Some((generation, value)) = slot.and_then(|slot| Some((&mut slot.generation, slot.value.take()?))) else {
            not_open(id)
        };
        *generation = generation.wrapping_add(1);
        self.free.push(id.index);
        value
    }

    /// Takes all values out. The table is not to be used afterwards with names given out before.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = T> {
        self.free.clear();
        self.slots.drain(..).filter_map(|slot| slot.value)
    }
}

#[cold]
fn not_open(id: ConnectionId) -> ! {
    panic!("{id:?} is no open connection of this engine")
}

#[cfg(test)]
mod tests {
    use super::Slots;

    #[test]
    fn a_slot_used_again_has_another_generation() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        let second = slots.insert('b');
        assert_eq!(slots.remove(first), 'a');
        let third = slots.insert('c');
        assert_eq!(third.index, first.index);
        assert_ne!(third.generation, first.generation);
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        assert_eq!(slots.open(third), &mut 'c');
    }

    #[test]
    #[should_panic(expected = "c0.0 is no open connection of this engine")]
    fn an_old_id_is_refused() {
        let mut slots = Slots::new();
        let first = slots.insert(());
        slots.remove(first);
        slots.insert(());
        slots.open(first);
    }

    #[test]
    #[should_panic(expected = "c0.0 is no open connection of this engine")]
    fn an_id_is_removed_once() {
        let mut slots = Slots::new();
        let first = slots.insert(());
        slots.remove(first);
        slots.remove(first);
    }
}
