//! Receipts of delivery and reading: to whom, when, and what waits for whom.

use protocol::PublicKey;
use relay_core::{Gone, StoreFault};

use crate::kit::{MILLISECOND, SECOND, World};

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

fn both(shards: u16) -> [World; 2] {
    [World::new(shards, |_| {}), World::with_store(shards, |_| {})]
}

fn read(world: &mut World, peer: usize, seq: u64) {
    world.text(peer, &format!("{{\"type\":\"read\",\"seq\":{seq}}}"));
    world.settle();
}

#[test]
fn delivered_and_read_are_merged_and_told_once() {
    for mut world in both(1).into_iter().chain(both(2)) {
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        let tablet = world.login(0, 2, "tablet");
        world.commit();
        world.received(anna);
        for n in 1..=3 {
            world.send(anna, &key(2), &format!("id-{n}"), "hi");
        }
        world.confirm(ben, 2);
        world.run(49 * MILLISECOND, MILLISECOND);
        assert!(world.received_with(anna, "receipt").is_empty(), "they are gathered");
        world.confirm(ben, 3);
        world.run(MILLISECOND, MILLISECOND);
        let from = key(2).to_hex();
        let delivered = format!(
            "{{\"type\":\"receipt\",\"status\":\"delivered\",\"clientMessageIds\":[\"id-1\",\"id-2\",\"id-3\"],\
             \"recipientPublicKey\":\"{}\"}}",
            from.as_str()
        );
        assert_eq!(world.received_with(anna, "receipt"), [delivered]);
        world.confirm(tablet, 3);
        world.commit();
        assert!(world.received_with(anna, "receipt").is_empty(), "once a key");
        for seq in [2, 2, 3, 0, 4, 1 << 52] {
            read(&mut world, tablet, seq);
        }
        world.commit();
        let told = world.received_with(anna, "receipt");
        assert!(told.len() == 1 && told[0].contains("\"read\",\"clientMessageIds\":[\"id-2\",\"id-3\"]"), "{told:?}");
    }
}

#[test]
fn sixty_four_ids_go_at_once() {
    let mut world = World::new(1, |config| config.limits.messages_per_second = 0);
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.received(anna);
    for n in 1..=70 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
    }
    world.confirm(ben, 70);
    let told = world.received_with(anna, "receipt");
    assert!(told.len() == 1 && told[0].contains("\"id-64\"]"), "{told:?}");
    world.commit();
    assert!(world.received_with(anna, "receipt")[0].contains("[\"id-65\""));
}

#[test]
fn receipts_wait_for_an_offline_sender_and_survive_a_crash() {
    for shards in [1, 2] {
        let mut world = World::with_store(shards, |_| {});
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.commit();
        world.disconnect(ben, Gone::Broken);
        world.commit();
        for n in 1..=3 {
            world.send(anna, &key(2), &format!("id-{n}"), "hi");
        }
        world.commit();
        world.disconnect(anna, Gone::Broken);
        let ben = world.login(0, 2, "b");
        world.commit();
        assert_eq!(world.pushes(ben).len(), 3);
        world.confirm(ben, 3);
        read(&mut world, ben, 1);
        world.run(2 * SECOND, 50 * MILLISECOND);
        world.crash(3 - shards);
        let anna = world.login(0, 1, "a");
        world.commit();
        let told = world.received_with(anna, "receipt");
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told.concat().contains("\"delivered\",\"clientMessageIds\":[\"id-1\",\"id-2\",\"id-3\"]"), "{told:?}");
        assert!(told.concat().contains("\"read\",\"clientMessageIds\":[\"id-1\"]"), "{told:?}");
        world.disconnect(anna, Gone::Broken);
        world.run(2 * SECOND, 50 * MILLISECOND);
        let anna = world.login(0, 1, "a");
        world.commit();
        assert!(world.received_with(anna, "receipt").is_empty(), "they are told once");
    }
}

#[test]
fn a_senders_every_device_is_told_and_nobody_of_ones_own_copies() {
    let mut world = World::with_store(2, |_| {});
    let (anna, tablet) = (world.login(0, 1, "a"), world.login(0, 1, "tablet"));
    let ben = world.login(0, 2, "b");
    world.commit();
    world.received(anna);
    world.received(tablet);
    world.send(anna, &key(2), "id-1", "hi");
    world.confirm(ben, 1);
    world.commit();
    world.confirm(tablet, 1);
    read(&mut world, tablet, 1);
    world.commit();
    assert_eq!(world.received_with(anna, "receipt").len(), 1);
    assert_eq!(world.received_with(tablet, "receipt").len(), 1);
}

#[test]
fn a_message_that_was_taken_back_is_not_told_to_be_delivered() {
    let mut world = World::with_store(1, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.fault = Some(StoreFault::Full);
    let message = world.message(anna, &key(2), "id-1", "hi");
    world.text(anna, &message);
    world.settle();
    world.run(10 * MILLISECOND, MILLISECOND);
    assert_eq!(world.received_with(anna, "overloaded").len(), 1);
    world.fault = None;
    // What it was pushed it may confirm: its sender was told that it is refused.
    world.confirm(ben, 1);
    world.run(SECOND, 10 * MILLISECOND);
    let early = world.received_with(anna, "receipt");
    assert!(early.is_empty(), "{early:?}");
    world.text(anna, &message);
    world.settle();
    world.confirm(ben, 2);
    world.run(SECOND, 10 * MILLISECOND);
    assert_eq!(world.received_with(anna, "receipt").len(), 1);
}
