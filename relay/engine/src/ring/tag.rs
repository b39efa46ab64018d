//! What travels through the kernel with each operation: `user_data`.
//!
//! | bits | field | why that many |
//! |---|---|---|
//! | 0..32 | generation | whole: nothing is cut off, nothing to argue |
//! | 32..56 | index | 16,777,216 connections an engine, past what descriptors allow |
//! | 56..64 | operation | |
//!
//! A slot is used again only after the last completion of its former use, so a completion whose
//! generation differs from its slot's cannot come: the generation is checked, not relied on. It
//! also makes a cancellation name one use of a slot and no later one.

/// What was asked of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Multishot accept; the index is a listener's.
    Accept,
    /// Receive, single or multishot.
    Receive,
    /// Send.
    Send,
    /// Multishot poll of the doorbell; no index.
    Doorbell,
    /// Cancellation; its own outcome means nothing, that of the cancelled operation does.
    Cancel,
}

/// One operation in flight: what, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) operation: Operation,
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Indexes stay below this.
pub(super) const INDEX_END: u32 = 1 << 24;

impl Tag {
    /// An operation that needs no name.
    pub(super) fn anonymous(operation: Operation) -> Self {
        Self { operation, index: 0, generation: 0 }
    }

    /// Packs the tag as the module's table says.
    pub(super) fn pack(self) -> u64 {
        debug_assert!(self.index < INDEX_END);
        (self.operation as u64) << 56 | u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// Unpacks what [`Tag::pack`] packed.
    ///
    /// # Panics
    /// If the operation is unknown: the ring holds only operations of this engine.
    pub(super) fn unpack(packed: u64) -> Self {
        let operation = match packed >> 56 {
            0 => Operation::Accept,
            1 => Operation::Receive,
            2 => Operation::Send,
            3 => Operation::Doorbell,
            4 => Operation::Cancel,
            other => unreachable!("operation {other} was never submitted"),
        };
        Self { operation, index: (packed >> 32) as u32 & (INDEX_END - 1), generation: packed as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::{INDEX_END, Operation, Tag};

    #[test]
    fn every_field_survives_at_its_ends() {
        for operation in
            [Operation::Accept, Operation::Receive, Operation::Send, Operation::Doorbell, Operation::Cancel]
        {
            for index in [0, 1, INDEX_END - 1] {
                for generation in [0, 1, u32::MAX] {
                    let tag = Tag { operation, index, generation };
                    assert_eq!(Tag::unpack(tag.pack()), tag);
                }
            }
        }
    }
}
