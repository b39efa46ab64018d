//! What users, senders and devices can take up, and what they must not reach by it.

use std::time::Duration;

use protocol::PublicKey;
use protocol::frame::Resume;
use relay_core::{Config, Gone};

use crate::kit::{MILLISECOND, SECOND, World};

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

/// Ben was online once and is not now; Anna is.
fn away(shards: u16, change: impl Fn(&mut Config)) -> (World, usize) {
    let mut world = World::with_store(shards, |config| {
        config.limits.messages_per_second = 0;
        change(config);
    });
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.disconnect(ben, Gone::Broken);
    world.commit();
    world.received(anna);
    (world, anna)
}

/// How many of so many messages are acked, and how many refused with `inbox_full`.
fn send_many(world: &mut World, from: usize, to: u8, name: &str, count: usize) -> (usize, usize) {
    for n in 0..count {
        world.send(from, &key(to), &format!("{name}-{n}"), "hi");
    }
    world.commit();
    let answers = world.received_with(from, name);
    let count = |needle: &str| answers.iter().filter(|answer| answer.contains(needle)).count();
    (count("\"ack\""), count("\"inbox_full\""))
}

#[test]
fn an_inbox_takes_so_many_messages_and_takes_more_when_some_left() {
    for shards in [1, 2] {
        let (mut world, anna) = away(shards, |config| config.limits.inbox_messages_max = 30);
        assert_eq!(send_many(&mut world, anna, 2, "id", 40), (30, 10));
        world.send(anna, &key(2), "id-35", "another text under the id of a refused one");
        assert_eq!(world.received_with(anna, "id-35").concat().matches("inbox_full").count(), 1, "the id is free");
        let ben = world.login(0, 2, "b");
        world.commit();
        world.confirm(ben, 20);
        world.disconnect(ben, Gone::Broken);
        assert_eq!(send_many(&mut world, anna, 2, "more", 40), (20, 20));
    }
}

#[test]
fn an_inbox_takes_so_many_bytes() {
    let (mut world, anna) = away(1, |config| config.limits.inbox_bytes_max = 4096);
    let bytes = world.message(anna, &key(2), "id-0", "hi").len();
    assert_eq!(send_many(&mut world, anna, 2, "id", 20), (4096 / bytes, 20 - 4096 / bytes));
    let stats = world.shards[0].stats();
    assert!(stats.inbox_bytes <= 4096 && stats.inbox_entries == (4096 / bytes) as u64);
}

#[test]
fn one_sender_fills_its_part_of_an_inbox_and_leaves_the_rest_to_others() {
    let (mut world, anna) = away(2, |config| config.limits.inbox_sender_messages_max = 10);
    let carl = world.login(0, 3, "c");
    world.commit();
    assert_eq!(send_many(&mut world, anna, 2, "anna", 25), (10, 15));
    assert_eq!(send_many(&mut world, carl, 2, "carl", 5), (5, 0));
    let ben = world.login(0, 2, "b");
    world.commit();
    world.confirm(ben, 4);
    world.disconnect(ben, Gone::Broken);
    assert_eq!(send_many(&mut world, anna, 2, "again", 25), (4, 21));
    assert_eq!(send_many(&mut world, carl, 2, "more", 10), (5, 5));
    // The same after a crash: the bounds are counted from what is stored.
    world.crash(1);
    let anna = world.login(0, 1, "a");
    world.commit();
    assert_eq!(send_many(&mut world, anna, 2, "third", 3), (0, 3));
}

#[test]
fn mail_for_keys_never_seen_is_bounded_for_each_sender_over_all_shards() {
    for (shards, after) in [(1, 2), (3, 3), (4, 1)] {
        let (mut world, anna) = away(shards, |_| {});
        let mut acked = 0;
        for to in 20..50 {
            acked += send_many(&mut world, anna, to, &format!("to-{to}"), 1).0;
        }
        assert_eq!(acked, 20);
        assert_eq!(send_many(&mut world, anna, 2, "known", 30), (30, 0), "who was seen is no stranger");
        let carl = world.login(0, 3, "c");
        world.commit();
        assert_eq!(send_many(&mut world, carl, 20, "carl", 25), (20, 5), "another sender has its own bound");
        world.crash(after);
        let anna = world.login(0, 1, "a");
        world.commit();
        assert_eq!(send_many(&mut world, anna, 60, "late", 1), (0, 1), "it is counted again after a crash");
        // Whoever comes is seen, and sets its senders free.
        let first = world.login(0, 20, "x");
        world.commit();
        assert_eq!(world.pushes(first).len(), 21);
        assert_eq!(send_many(&mut world, anna, 61, "free", 3), (1, 2));
    }
}

#[test]
fn mail_for_keys_never_seen_is_bounded_in_all() {
    let (mut world, anna) = away(1, |config| config.limits.unseen_messages_max = 15);
    let carl = world.login(0, 3, "c");
    world.commit();
    assert_eq!(send_many(&mut world, anna, 20, "anna", 10), (10, 0));
    assert_eq!(send_many(&mut world, carl, 21, "carl", 10), (5, 5));
    assert_eq!(send_many(&mut world, carl, 2, "known", 10), (10, 0));
}

#[test]
fn messages_users_and_devices_are_forgotten_after_their_time() {
    for shards in [1, 2] {
        let (mut world, anna) = away(shards, |config| {
            config.message_ttl = Duration::from_secs(600);
            config.heartbeat = Duration::from_secs(100_000);
        });
        assert_eq!(send_many(&mut world, anna, 2, "old", 5), (5, 0));
        assert_eq!(send_many(&mut world, anna, 40, "stranger", 20), (20, 0));
        world.run(300 * SECOND, SECOND);
        assert_eq!(send_many(&mut world, anna, 2, "young", 2), (2, 0));
        assert_eq!(world.disk.inbox(&key(2)).len(), 7);
        world.run(320 * SECOND, SECOND);
        assert_eq!(world.disk.inbox(&key(2)), [6, 7], "the young ones are left");
        assert!(world.disk.user(&key(40)).is_none(), "nothing is left of a stranger");
        assert_eq!(send_many(&mut world, anna, 41, "other", 20), (20, 0), "its senders are free again");
        world.run(320 * SECOND, SECOND);
        assert!(world.disk.inbox(&key(2)).is_empty());
        world.run(620 * SECOND, SECOND);
        assert!(world.disk.user(&key(2)).is_none(), "it did not come for as long");
        assert!(world.disk.user(&key(1)).is_some(), "who is online is not forgotten");
        let entries: u64 = world.shards.iter().map(|shard| shard.stats().inbox_entries).sum();
        assert_eq!(entries, 0);
    }
}

#[test]
fn forgetting_a_device_loses_no_mail_of_another() {
    let names = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d8", "d9", "d10", "d11"];
    let (mut world, anna) = away(1, |_| {});
    assert_eq!(send_many(&mut world, anna, 2, "id", 5), (5, 0));
    // Ben's first device is offline and has confirmed nothing. Eleven others come and go.
    for name in names {
        let device = world.login(0, 2, name);
        world.commit();
        assert_eq!(world.pushes(device).len(), 5, "{name}: none has confirmed it");
        world.disconnect(device, Gone::Broken);
        world.advance(SECOND);
    }
    let last = world.login(0, 2, "d11");
    world.commit();
    world.confirm(last, 5);
    world.run(2 * SECOND, 100 * MILLISECOND);
    assert_eq!(world.disk.inbox(&key(2)).len(), 5, "seven others are known and behind");
    let known = world.disk.user(&key(2)).expect("it is stored").devices.len();
    assert_eq!(known, 8);
    for name in &names[4..11] {
        let device = world.login(0, 2, name);
        world.commit();
        assert_eq!(world.pushes(device).len(), 5, "{name}");
        world.confirm(device, 5);
        world.disconnect(device, Gone::Broken);
    }
    world.run(2 * SECOND, 100 * MILLISECOND);
    assert!(world.disk.inbox(&key(2)).is_empty());
}

#[test]
fn eight_devices_that_are_all_behind_get_all_and_nobody_else_waits() {
    let names = ["d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"];
    let (mut world, anna) = away(2, |_| {});
    for n in 0..400 {
        world.send(anna, &key(2), &format!("id-{n}"), &"x".repeat(900));
    }
    world.commit();
    let devices: Vec<usize> = names.iter().map(|name| world.login(0, 2, name)).collect();
    let carl = world.login(0, 3, "c");
    world.commit();
    world.received(carl);
    world.send(anna, &key(3), "between", "hi");
    assert_eq!(world.pushes(carl).len(), 1);
    world.commit();
    for device in devices {
        let seqs: Vec<u64> = world.pushes(device).iter().map(|&(seq, _)| seq).collect();
        assert_eq!(seqs, (1..=400).collect::<Vec<_>>());
    }
}

#[test]
fn a_flood_of_confirmations_closes_and_confirms_nothing_beyond_the_last() {
    let (mut world, anna) = away(1, |_| {});
    let ben = world.login(0, 2, "b");
    world.commit();
    world.received(ben);
    for seq in [(1 << 53) - 1, 7, 1, 0] {
        world.confirm(ben, seq);
    }
    world.send(anna, &key(2), "id-1", "hi");
    assert_eq!(world.pushes(ben), [(1, "id-1".to_owned())]);
    world.disconnect(ben, Gone::Broken);
    let ben = world.login(0, 2, "b");
    world.commit();
    assert_eq!(world.pushes(ben).len(), 1, "what was not there could not be confirmed");
    for _ in 0..200 {
        world.confirm(ben, 1);
    }
    world.commit();
    assert_eq!(world.peers[ben].closed_with, Some(4429));
}

#[test]
fn a_full_inbox_of_ones_own_costs_a_stale_device_its_copies_and_tells_it() {
    let (mut world, anna) = away(1, |config| config.limits.inbox_messages_max = 20);
    let tablet = world.login(0, 1, "tablet");
    world.commit();
    let (epoch, ..) = world.welcome(tablet);
    world.disconnect(tablet, Gone::Broken);
    let ben = world.login(0, 2, "b");
    world.commit();
    for n in 1..=30 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
        world.confirm(ben, n);
    }
    world.commit();
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 30, "the recipient has them all");
    assert_eq!(world.shards[0].stats().copies_dropped, 10);
    let tablet = world.log_in_from(0, 1, "tablet", Resume { epoch, seq: 0 });
    world.commit();
    assert!(!world.welcome(tablet).2, "never a silent gap");
    assert_eq!(world.pushes(tablet).len(), 20);
}

#[test]
fn who_fills_the_inboxes_of_others_stops_no_live_message() {
    for shards in [1, 2] {
        let (mut world, anna) = away(shards, |config| config.limits.inboxes_messages_max = 30);
        let carol = world.login(0, 3, "c");
        world.commit();
        // Each shard's part is full of what waits for somebody who does not come.
        let (absent, present) = if shards == 1 { ([2, 2], 3) } else { ([2, 4], 3) };
        for seed in absent {
            let peer = world.login(0, seed, "device");
            world.commit();
            world.disconnect(peer, Gone::Broken);
        }
        for seed in absent {
            send_many(&mut world, anna, seed, &format!("to-{seed}"), 40);
        }
        assert_eq!(send_many(&mut world, anna, absent[0], "more", 1), (0, 1));
        for round in 0..3 {
            assert_eq!(send_many(&mut world, anna, present, &format!("live-{round}"), 64), (64, 0));
            let last = world.pushes(carol).last().expect("they came").0;
            world.confirm(carol, last);
            world.commit();
        }
        let (taken, refused) = send_many(&mut world, anna, present, "unconfirmed", 100);
        assert_eq!((taken, refused), (64, 36), "who confirms nothing takes no more than that");
    }
}
