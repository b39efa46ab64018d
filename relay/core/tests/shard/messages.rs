//! Messages through shards in memory.

use std::time::Duration;

use crate::kit::{SECOND, World};
use protocol::PublicKey;
use relay_core::Gone;

#[test]
fn a_message_goes_out_as_it_came_and_is_acknowledged() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards, |_| {});
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.received(ben);
        let message = world.message(anna, &world.key(ben), "id-1", "hi").replacen(',', " ,\t", 3);
        world.text(anna, &message);
        world.settle();
        let pushed = world.received_with(ben, "\"message\":");
        assert_eq!(pushed, [message.replacen('{', "{\"seq\":1,", 1)]);
        assert_eq!(
            world.received_with(anna, "ack"),
            [r#"{"type":"ack","clientMessageId":"id-1","recipient":"online","duplicate":false}"#]
        );
    }
}

#[test]
fn a_duplicate_is_acknowledged_again_and_not_delivered_again_even_within_one_batch() {
    for shards in [1, 2] {
        let mut world = World::new(shards, |_| {});
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.received(ben);
        let message = world.message(anna, &world.key(ben), "id-1", "hi");
        world.text(anna, &message);
        world.text(anna, &message);
        world.settle();
        world.text(anna, &message);
        world.settle();
        assert_eq!(world.received_with(ben, "seq").len(), 1);
        let acks = world.received_with(anna, "ack");
        assert_eq!(acks.iter().filter(|ack| ack.contains("\"duplicate\":false")).count(), 1, "{acks:?}");
        assert_eq!(acks.iter().filter(|ack| ack.contains("\"duplicate\":true")).count(), 2, "{acks:?}");
        let other = world.message(anna, &world.key(ben), "id-1", "another");
        world.text(anna, &other);
        world.settle();
        assert_eq!(world.received_with(anna, "id_conflict").len(), 1);
        assert!(world.received_with(ben, "seq").is_empty());
    }
}

#[test]
fn an_id_belongs_to_its_sender_for_ten_minutes() {
    let mut world = World::new(1, |config| config.heartbeat = Duration::from_secs(3600));
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    let ask = |world: &mut World, text: &str| {
        world.received(anna);
        let message = world.message(anna, &world.key(ben), "id-1", text);
        world.text(anna, &message);
        world.settle();
        world.received(anna).concat()
    };
    assert!(ask(&mut world, "one").contains("\"duplicate\":false"));
    world.now.nanos += 600 * SECOND;
    assert!(ask(&mut world, "two").contains("id_conflict"));
    world.now.nanos += 1;
    assert!(ask(&mut world, "two").contains("\"duplicate\":false"));
    let back = world.message(ben, &world.key(anna), "id-1", "back");
    world.text(ben, &back);
    world.settle();
    assert_eq!(world.received_with(ben, "\"duplicate\":false").len(), 1);
}

#[test]
fn the_id_of_a_refused_message_stays_free() {
    let mut world = World::new(2, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    let good = world.message(anna, &world.key(ben), "id-1", "hi");
    let nobody = PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[99; 32]).verifying_key());
    let offline = world.message(anna, &nobody, "id-1", "hi");
    let small_order = format!("01{}", "0".repeat(62));
    let unusable = world.message(anna, &PublicKey::from_hex(&small_order).expect("hex"), "id-1", "hi");
    for (message, reason) in [
        (good.replace("\"message\":\"hi\"", "\"message\":\"ho\""), "signature_invalid"),
        (good.replace("\"message\":\"hi\"", "\"message\":\"\""), "malformed"),
        (offline, "\"offline\""),
        (unusable, "invalid_recipient"),
    ] {
        world.text(anna, &message);
        world.settle();
        let answers = world.received_with(anna, "id-1");
        assert!(answers.len() == 1 && answers[0].contains(reason), "{reason}: {answers:?}");
    }
    // A forged one and the good one in one batch: each gets its own answer.
    world.text(anna, &good.replace("\"message\":\"hi\"", "\"message\":\"ho\""));
    world.text(anna, &good);
    world.settle();
    let answers = world.received_with(anna, "id-1").concat();
    assert!(answers.contains("signature_invalid") && answers.contains("\"duplicate\":false"), "{answers}");
    assert_eq!(world.received_with(ben, "seq\":1,").len(), 1);
}

#[test]
fn checks_come_in_the_contracts_order() {
    let mut world = World::new(1, |config| config.limits.messages_per_second = 1);
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    let answer = |world: &mut World, message: &str| {
        world.text(anna, message);
        world.settle();
        world.received_with(anna, "clientMessageId").concat()
    };
    let key = world.key(ben);
    let good = world.message(anna, &key, "id-1", "hi");
    let mismatch = world.message(ben, &key, "id-2", &"x".repeat(2000));
    assert!(answer(&mut world, &mismatch).contains("sender_mismatch"));
    assert!(answer(&mut world, &good).contains("ack"));
    let long = world.message(anna, &key, "id-3", &"é".repeat(1001));
    assert!(answer(&mut world, &long).contains("message_too_large"));
    let whole = world.message(anna, &key, "id-4", &"é".repeat(1000));
    assert!(answer(&mut world, &whole).contains("ack"));
    // The bucket is empty now: a stale one meets the rate first, a duplicate comes before it.
    let stale = world.message(anna, &key, "id-5", "hi").replace("2026-", "2025-");
    let limited = answer(&mut world, &stale);
    assert!(limited.contains("rate_limited") && limited.contains("\"retryAfterMs\":1000"), "{limited}");
    assert!(answer(&mut world, &good).contains("\"duplicate\":true"));
    world.advance(2 * SECOND);
    assert!(answer(&mut world, &stale).contains("\"reason\":\"stale_timestamp\""));
    let forged = world.message(anna, &key, "id-6", "hi").replace("\"hi\"", "\"ho\"");
    assert!(answer(&mut world, &forged).contains("signature_invalid"));
    assert!(answer(&mut world, &forged).contains("rate_limited"), "refused ones cost a token too");
}

#[test]
fn a_full_queue_towards_a_shard_is_told_as_overloaded() {
    let mut world = World::new(2, |_| {});
    let anna = world.login(0, 1, "a");
    let others: Vec<_> = (2..12).map(|seed| world.login(0, seed, "b")).collect();
    for from in 0..2 {
        for to in 0..2 {
            world.event(from, relay_core::Event::Congestion { to: relay_core::ShardId(to), full: true });
        }
    }
    world.received(anna);
    for (n, &other) in others.iter().enumerate() {
        let message = world.message(anna, &world.key(other), &n.to_string(), "hi");
        world.text(anna, &message);
    }
    world.settle();
    let answers = world.received(anna);
    let overloaded = answers.iter().filter(|answer| answer.contains("overloaded")).count();
    let acked = answers.iter().filter(|answer| answer.contains("ack")).count();
    assert!(overloaded > 0 && acked > 0 && overloaded + acked == 10, "{answers:?}");
}

#[test]
fn who_never_reads_is_closed_and_the_others_are_served() {
    let mut world = World::new(1, |config| config.limits.messages_per_second = 0);
    let (anna, ben, carl) = (world.login(0, 1, "a"), world.login(0, 2, "b"), world.login(0, 3, "c"));
    world.peers[ben].stalled = true;
    // 1,200 messages of more than 900 bytes: past the 1 MiB that may wait for one connection.
    for n in 0..1200 {
        for other in [ben, carl] {
            let message = world.message(anna, &world.key(other), &format!("{other}-{n}"), &"x".repeat(900));
            world.text(anna, &message);
        }
        world.settle();
    }
    assert_eq!(world.received_with(carl, "{\"seq\":").len(), 1200);
    assert_eq!(world.shards[0].stats().closed_too_slow, 1);
    world.resume(ben);
    assert_eq!(world.peers[ben].closed_with, Some(4408));
    world.disconnect(ben, Gone::Eof);
    world.run(SECOND, SECOND);
    assert!(world.peers[ben].gone);
}
