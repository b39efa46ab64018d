//! When the shards of a relay that goes away may end: together, so that none sends to one that is
//! gone.

use std::sync::atomic::{AtomicBool, Ordering};

use relay_core::ShardId;

/// Which shards have nothing left. Shared by all of them.
///
/// # Invariants
/// - A shard says that it is empty only when it has no connections and nothing under way to another
///   shard; what it sent before is in the other's inbox by then. So a shard that sees everybody
///   empty, and *after that* an empty inbox of its own, will be sent no more connection.
#[derive(Debug)]
pub(crate) struct EmptyShards {
    empty: Vec<AtomicBool>,
}

impl EmptyShards {
    /// All of `shards` shards have something.
    pub(crate) fn none_of(shards: u16) -> Self {
        Self { empty: (0..shards).map(|_| AtomicBool::new(false)).collect() }
    }

    /// Says whether a shard is empty. May be taken back.
    pub(crate) fn set(&self, shard: ShardId, is_empty: bool) {
        self.empty[usize::from(shard.0)].store(is_empty, Ordering::Release);
    }

    /// Whether every shard has said so.
    pub(crate) fn are_all(&self) -> bool {
        self.empty.iter().all(|empty| empty.load(Ordering::Acquire))
    }
}
