//! The flag between a sleeper and those who wake it: no system calls, only memory order.
//!
//! `tests/doorbell_interleavings.rs` compiles this very file against loom's atomics.

use super::sync::{AtomicBool, Ordering, fence};

/// Whether the owner sleeps, or is about to, and has not been rung yet.
#[derive(Debug)]
pub(crate) struct Handshake {
    asleep: AtomicBool,
}

impl Handshake {
    /// Starts awake.
    pub(crate) fn new() -> Self {
        Self { asleep: AtomicBool::new(false) }
    }

    /// Raises the flag. What the owner reads after this call includes every push whose
    /// [`Handshake::take_ring`] did not see the flag.
    pub(crate) fn announce_sleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Takes the flag down.
    pub(crate) fn awake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether the caller has to ring, after its push. Takes the flag down, so that of several
    /// callers one rings.
    pub(crate) fn take_ring(&self) -> bool {
        fence(Ordering::SeqCst);
        // The plain load first: an owner that is awake costs no write to a shared cache line.
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}
