//! Explores every interleaving of a sleeper and those who ring, under loom's memory model.
//!
//! The handshake's own source file is compiled here against loom's atomics, so that neither a
//! `cfg` for the whole build nor a copy of the code is needed. Flags stand for queues, and a
//! counter for the eventfd: a sleep with an empty queue must find it rung.

use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicUsize as StdAtomicUsize, Ordering as StdOrdering};

use handshake::Handshake;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering, fence};
}

#[path = "../src/doorbell/handshake.rs"]
mod handshake;

/// What the owner shares with those who push.
struct Shared {
    handshake: Handshake,
    pushed: [AtomicBool; 2],
    event: AtomicUsize,
}

impl Shared {
    fn new() -> Self {
        Self {
            handshake: Handshake::new(),
            pushed: [AtomicBool::new(false), AtomicBool::new(false)],
            event: AtomicUsize::new(0),
        }
    }

    fn push_and_ring(&self, queue: usize) {
        // Relaxed: the handshake alone must carry the promise, whatever the queue orders.
        self.pushed[queue].store(true, Ordering::Relaxed);
        if self.handshake.take_ring() {
            self.event.fetch_add(1, Ordering::Release);
        }
    }

    fn seen(&self) -> usize {
        self.pushed.iter().filter(|pushed| pushed.load(Ordering::Relaxed)).count()
    }
}

/// One owner that sleeps until it has seen `pushers` pushes, and as many threads that push.
fn explore(pushers: usize) {
    let slept = StdArc::new(StdAtomicUsize::new(0));
    let sleeps = StdArc::clone(&slept);
    loom::model(move || {
        let shared = Arc::new(Shared::new());
        let threads: Vec<_> = (0..pushers)
            .map(|queue| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || shared.push_and_ring(queue))
            })
            .collect();

        shared.handshake.announce_sleep();
        let seen = shared.seen();
        let must_be_rung = seen < pushers;
        if must_be_rung {
            sleeps.fetch_add(1, StdOrdering::Relaxed);
        } else {
            shared.handshake.awake();
        }
        for thread in threads {
            thread.join().expect("a pusher ends");
        }
        let rings = shared.event.load(Ordering::Acquire);
        assert!(rings <= 1, "one sleep was rung {rings} times");
        if must_be_rung {
            assert_eq!(rings, 1, "the owner saw {seen} of {pushers} and slept on");
        }
    });
    assert!(slept.load(StdOrdering::Relaxed) > 0, "no interleaving slept");
}

#[test]
fn a_push_is_seen_or_the_sleeper_is_rung() {
    explore(1);
}

#[test]
fn of_two_pushers_one_rings() {
    explore(2);
}
