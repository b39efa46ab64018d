//! A poll sleeps no longer than it should, and no shorter.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use relay_engine::{EngineKind, ReadMode};

use crate::rig::{Rig, for_every_engine};

for_every_engine! { among_others:
    a_timeout_ends_a_poll,
    a_poll_without_time_does_not_wait,
    the_doorbell_ends_a_sleep_each_time,
    a_ring_before_the_sleep_is_not_lost,
    bytes_end_a_sleep,
}

fn a_timeout_ends_a_poll(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let timeout = Duration::from_millis(30);
    rig.poll(Duration::ZERO);
    // A poll may return early, but not time and again.
    let start = Instant::now();
    while start.elapsed() < timeout {
        rig.poll(timeout.saturating_sub(start.elapsed()));
    }
    assert!(rig.told.is_empty());
    assert!(rig.engine.stats().enters < 50, "{} system calls to wait once", rig.engine.stats().enters);
}

fn a_poll_without_time_does_not_wait(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    rig.listen();
    // Were each to wait for an event, the first would never return.
    for _ in 0..1000 {
        rig.poll(Duration::ZERO);
    }
    assert!(rig.told.is_empty());
}

fn the_doorbell_ends_a_sleep_each_time(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let doorbell = rig.engine.doorbell();
    let pushed = Arc::new(AtomicBool::new(false));
    let (done, next) = std::sync::mpsc::channel();
    let ringer = thread::spawn({
        let doorbell = Arc::clone(&doorbell);
        let pushed = Arc::clone(&pushed);
        move || {
            for () in next {
                pushed.store(true, Ordering::Relaxed);
                doorbell.ring();
            }
        }
    });
    for round in 0..200 {
        done.send(()).unwrap();
        // The loop of a shard, which must notice the push: each sleep alone would outlast the
        // test.
        loop {
            doorbell.announce_sleep();
            let timeout = if pushed.load(Ordering::Relaxed) { Duration::ZERO } else { Duration::from_secs(3600) };
            rig.poll(timeout);
            doorbell.awake();
            if pushed.swap(false, Ordering::Relaxed) {
                break;
            }
        }
        assert!(rig.told.is_empty(), "round {round}: {:?}", rig.told);
    }
    drop(done);
    ringer.join().unwrap();
}

fn a_ring_before_the_sleep_is_not_lost(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let doorbell = rig.engine.doorbell();
    for _ in 0..20 {
        doorbell.announce_sleep();
        assert!(doorbell.ring());
        rig.poll(Duration::from_secs(3600));
        doorbell.awake();
        doorbell.wake();
        rig.poll(Duration::from_secs(3600));
    }
    assert!(rig.told.is_empty());
}

fn bytes_end_a_sleep(kind: EngineKind) {
    let mut rig = Rig::new(kind);
    let address = rig.listen();
    let (mut client, id) = rig.pair(address);
    rig.engine.read(id, ReadMode::Continuous);
    rig.poll(Duration::ZERO);
    let writer = thread::spawn(move || {
        client.write_all(b"wake").unwrap();
        client
    });
    while rig.told.is_empty() {
        rig.poll(Duration::from_secs(3600));
    }
    assert_eq!(rig.received(id), b"wake");
    drop(writer.join().unwrap());
}
