//! The one clock of all shards.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use relay_core::{Nanos, Now};

/// Tells the time since it was made, and the wall clock. Copies share their epoch, so that times of
/// one shard mean the same in another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    epoch: Instant,
}

impl Clock {
    /// Makes a clock whose epoch is now.
    pub(crate) fn start() -> Self {
        Self { epoch: Instant::now() }
    }

    /// The monotonic time. About 20 ns.
    pub(crate) fn nanos(self) -> Nanos {
        // Wraps after 584 years.
        self.epoch.elapsed().as_nanos() as Nanos
    }

    /// Both times. About 40 ns.
    pub(crate) fn now(self) -> Now {
        // A wall clock before 1970 is nobody's: every timestamp is then refused as stale, which the
        // clients see.
        let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        Now { nanos: self.nanos(), unix_ms }
    }
}
