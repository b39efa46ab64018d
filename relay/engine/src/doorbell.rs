//! Wakes a sleeping shard, and only a sleeping one.
//!
//! The owner of a queue sleeps in its engine; others push into the queue and ring. A ring costs a
//! system call, so it is made only when the owner said that it sleeps:
//!
//! | owner | other thread |
//! |---|---|
//! | [`announce_sleep`](Doorbell::announce_sleep): says "asleep" | pushes |
//! | fence | [`ring`](Doorbell::ring): fence |
//! | looks into its queues once more | reads "asleep" |
//! | sleeps if they are empty | writes the eventfd if it was set |
//! | [`awake`](Doorbell::awake) | |
//!
//! The owner's loop is therefore
//! ```text
//! doorbell.announce_sleep();
//! let timeout = if queues are empty { the next deadline } else { zero };
//! engine.poll(timeout, sink);
//! doorbell.awake();
//! ```
//!
//! # Invariants
//! - Whatever the interleaving, either the owner sees the push before it sleeps or the other
//!   thread sees that it sleeps: both fences are sequentially consistent, so one of them comes
//!   first. A test explores all of them (`tests/doorbell_interleavings.rs`).
//! - One announced sleep is rung at most once: whoever rings first takes the flag down. The others
//!   may rely on that ring, since the owner looks into its queues again before its next sleep.
//!
//! Absent on purpose: the queues, and a count of rings. A ring carries no news but "look again".

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use handshake::Handshake;

mod handshake;

/// The atomics of the handshake. A test puts its own in their place to explore every interleaving.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, Ordering, fence};
}

/// An eventfd that is written only while its owner sleeps. Shared through an `Arc`; each engine
/// has one and watches it.
#[derive(Debug)]
pub struct Doorbell {
    handshake: Handshake,
    event: File,
}

impl Doorbell {
    /// Makes a doorbell whose owner is awake.
    ///
    /// # Errors
    /// The operating system's, when there are no more descriptors.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: eventfd has just returned this descriptor; nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { handshake: Handshake::new(), event: File::from(owned) })
    }

    /// The eventfd for the engine to watch: readable once it was rung, until
    /// [`Doorbell::swallow`]. Non-blocking.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Says that the owner is about to sleep. The owner must look into its queues after this call
    /// and must not sleep when it finds something. Owner only.
    pub fn announce_sleep(&self) {
        self.handshake.announce_sleep();
    }

    /// Says that the owner does not sleep and needs no ring. Owner only.
    pub fn awake(&self) {
        self.handshake.awake();
    }

    /// Wakes the owner if it sleeps or is about to, and returns whether that took a write. Call it
    /// after the push that the owner is to see; once after several pushes is enough.
    pub fn ring(&self) -> bool {
        let needed = self.handshake.take_ring();
        if needed {
            self.wake();
        }
        needed
    }

    /// Wakes the owner whether it sleeps or not: its present or next sleep ends at once. For news
    /// that does not travel in a queue, such as a request to stop.
    pub fn wake(&self) {
        // The one possible failure is a counter at its maximum: then the eventfd is readable
        // already, which is all that a write is for.
        let _ = (&self.event).write(&1_u64.to_ne_bytes());
    }

    /// Takes all rings so far out of the eventfd, for engines that watch it by level. Never
    /// blocks. Owner only.
    pub fn swallow(&self) {
        let mut count = [0; size_of::<u64>()];
        // Fails when it was not rung: then there is nothing to take out.
        let _ = (&self.event).read(&mut count);
    }
}

impl AsRawFd for Doorbell {
    fn as_raw_fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::Doorbell;
    use std::io::Read;

    /// Rings in the eventfd, which are taken out.
    fn rings(doorbell: &Doorbell) -> u64 {
        let mut count = [0; 8];
        match (&doorbell.event).read_exact(&mut count) {
            Ok(()) => u64::from_ne_bytes(count),
            Err(_) => 0,
        }
    }

    #[test]
    fn an_owner_that_is_awake_is_not_rung() {
        let doorbell = Doorbell::new().unwrap();
        assert!(!doorbell.ring());
        assert_eq!(rings(&doorbell), 0);
    }

    #[test]
    fn one_sleep_is_rung_once() {
        let doorbell = Doorbell::new().unwrap();
        doorbell.announce_sleep();
        assert!(doorbell.ring());
        assert!(!doorbell.ring());
        assert_eq!(rings(&doorbell), 1);
        doorbell.announce_sleep();
        assert!(doorbell.ring());
    }

    #[test]
    fn an_owner_that_woke_by_itself_is_not_rung() {
        let doorbell = Doorbell::new().unwrap();
        doorbell.announce_sleep();
        doorbell.awake();
        assert!(!doorbell.ring());
    }

    #[test]
    fn wake_writes_always_and_swallow_takes_it_out() {
        let doorbell = Doorbell::new().unwrap();
        doorbell.wake();
        doorbell.wake();
        doorbell.swallow();
        assert_eq!(rings(&doorbell), 0);
        doorbell.swallow();
    }
}
