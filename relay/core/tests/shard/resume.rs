//! Sessions that go on where they were, or are told that they cannot; with a store and without.

use protocol::PublicKey;
use protocol::frame::Resume;
use relay_core::Gone;

use crate::kit::{MILLISECOND, SECOND, World};

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

fn both() -> [World; 2] {
    [World::new(2, |_| {}), World::with_store(2, |_| {})]
}

#[test]
fn what_was_missed_comes_in_order_behind_the_snapshot() {
    for mut world in both() {
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.commit();
        let (epoch, ..) = world.welcome(ben);
        for n in 1..=5 {
            world.send(anna, &key(2), &format!("id-{n}"), "hi");
        }
        world.commit();
        world.disconnect(ben, Gone::Broken);
        let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 3 });
        world.commit();
        let texts = world.received(ben);
        assert!(texts[0].contains("\"seq\":5,\"recovered\":true"), "{texts:?}");
        let snapshot = texts.iter().position(|text| text.contains("\"users\"")).expect("a snapshot");
        let missed: Vec<_> = texts.iter().filter(|text| text.starts_with("{\"seq\":")).collect();
        assert!(missed.len() == 2 && missed[0].contains("id-4") && missed[1].contains("id-5"), "{missed:?}");
        assert!(texts[snapshot + 1..].iter().any(|text| text.contains("id-4")), "{texts:?}");
    }
}

#[test]
fn numbers_that_cannot_be_gone_on_from_are_told() {
    for mut world in both() {
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.commit();
        let (epoch, ..) = world.welcome(ben);
        for n in 1..=3 {
            world.send(anna, &key(2), &format!("id-{n}"), "hi");
        }
        world.confirm(ben, 1);
        world.commit();
        for resume in [
            Resume { epoch: epoch ^ 1, seq: 2 },
            Resume { epoch, seq: 4 },
            Resume { epoch, seq: (1 << 53) - 1 },
            Resume { epoch: 0, seq: 0 },
        ] {
            world.disconnect(ben, Gone::Broken);
            let ben = world.log_in_from(0, 2, "b", resume);
            world.commit();
            assert_eq!(world.welcome(ben), (epoch, 3, false), "{resume:?}");
            let ids: Vec<String> = world.pushes(ben).into_iter().map(|(_, id)| id).collect();
            assert_eq!(ids, ["id-2", "id-3"], "all that it has not confirmed");
            world.disconnect(ben, Gone::Broken);
        }
    }
}

#[test]
fn resuming_confirms() {
    let mut world = World::with_store(2, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    let (epoch, ..) = world.welcome(ben);
    world.store_waits = true;
    world.send(anna, &key(2), "id-1", "hi");
    world.received(anna);
    world.disconnect(ben, Gone::Broken);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 1 });
    world.settle();
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 1, "a device has it, and says so");
    assert!(world.welcome(ben).2);
}

#[test]
fn what_every_device_has_confirmed_cannot_be_resumed_from_with_a_store() {
    let mut world = World::with_store(1, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    let (epoch, ..) = world.welcome(ben);
    for n in 1..=4 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
    }
    world.confirm(ben, 3);
    world.disconnect(ben, Gone::Broken);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 2 });
    world.commit();
    assert!(!world.welcome(ben).2);
    assert_eq!(world.pushes(ben), [(4, "id-4".to_owned())]);
    world.disconnect(ben, Gone::Broken);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 3 });
    world.commit();
    assert!(world.welcome(ben).2);
}

#[test]
fn without_a_store_the_last_hundred_stay_whatever_is_confirmed_for_a_minute_after_the_last_device() {
    let mut world = World::new(1, |config| config.limits.messages_per_second = 0);
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    let (epoch, ..) = world.welcome(ben);
    for n in 1..=150 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
    }
    world.confirm(ben, 150);
    world.disconnect(ben, Gone::Broken);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 50 });
    world.commit();
    assert_eq!(world.welcome(ben), (epoch, 150, true));
    assert_eq!(world.pushes(ben).len(), 100);
    world.disconnect(ben, Gone::Broken);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 49 });
    world.commit();
    assert_eq!(world.welcome(ben), (epoch, 150, false));
    assert_eq!(world.pushes(ben), [], "it has confirmed all");
    world.disconnect(ben, Gone::Broken);
    world.run(59 * SECOND, SECOND);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 149 });
    world.commit();
    assert!(world.welcome(ben).2);
    world.disconnect(ben, Gone::Broken);
    world.run(61 * SECOND, SECOND);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 149 });
    world.commit();
    let (later, seq, recovered) = world.welcome(ben);
    assert!(later != epoch && seq == 0 && !recovered);
    assert_eq!(world.shards[0].stats().tail_bytes, 0, "nothing of it is left");
}

#[test]
fn an_offline_recipient_is_an_error_without_a_store_though_it_is_remembered() {
    let mut world = World::new(1, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.disconnect(ben, Gone::Broken);
    world.received(anna);
    world.send(anna, &key(2), "id-1", "hi");
    assert_eq!(world.received_with(anna, "\"offline\"").len(), 1);
}

#[test]
fn memory_for_resume_is_bounded_over_all_users() {
    let mut world = World::new(1, |config| {
        config.limits.messages_per_second = 0;
        config.limits.memory_bytes_max = 64 * 1024;
    });
    let anna = world.login(0, 1, "a");
    let others: Vec<usize> = (2..10).map(|seed| world.login(0, seed, "b")).collect();
    for n in 0..60 {
        for seed in 2..10 {
            world.send(anna, &key(seed), &format!("id-{seed}-{n}"), &"x".repeat(500));
        }
    }
    let stats = world.shards[0].stats();
    assert!(stats.tail_bytes <= 64 * 1024 && stats.memory_evicted > 0, "{}", stats.tail_bytes);
    for other in others {
        assert_eq!(world.pushes(other).len(), 60, "who keeps up feels nothing of it");
    }
}

#[test]
fn a_device_that_replaces_itself_goes_on_and_the_older_connection_is_told() {
    for mut world in both() {
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.commit();
        let (epoch, ..) = world.welcome(ben);
        world.send(anna, &key(2), "id-1", "hi");
        let again = world.log_in_from(0, 2, "b", Resume { epoch, seq: 0 });
        world.run(100 * MILLISECOND, 10 * MILLISECOND);
        assert_eq!(world.peers[ben].closed_with, Some(4409));
        assert_eq!(world.welcome(again), (epoch, 1, true));
        assert_eq!(world.pushes(again).len(), 1);
    }
}
