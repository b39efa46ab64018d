//! Messages through inboxes and a store in memory: when they are safe, where they wait, and when they
//! leave.

use crate::kit::{MILLISECOND, SECOND, World};
use protocol::PublicKey;
use relay_core::{Gone, StoreFault};

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

/// Two users who are online, and whose first batches are stored.
fn pair(shards: u16) -> (World, usize, usize) {
    let mut world = World::with_store(shards, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.received(anna);
    world.received(ben);
    (world, anna, ben)
}

#[test]
fn what_is_confirmed_before_its_batch_goes_is_acked_at_once_and_never_stored() {
    for shards in [1, 2, 3] {
        let (mut world, anna, ben) = pair(shards);
        world.send(anna, &key(2), "id-1", "hi");
        assert_eq!(world.pushes(ben), [(1, "id-1".to_owned())]);
        assert!(world.received_with(anna, "ack").is_empty(), "nobody answers for it yet");
        world.confirm(ben, 1);
        assert_eq!(
            world.received_with(anna, "ack"),
            [r#"{"type":"ack","clientMessageId":"id-1","recipient":"online","duplicate":false,"seq":1}"#]
        );
        world.run(3 * SECOND, 100 * MILLISECOND);
        assert_eq!(world.stored.1, 0, "it never touches the disk");
        let stats = world.shards.iter().map(|shard| shard.stats().entries_never_stored).sum::<u64>();
        assert_eq!(stats, 1);
        assert_eq!(world.disk.ids().count(), 1, "its id does");
    }
}

#[test]
fn what_nobody_confirms_is_acked_once_it_is_stored() {
    for shards in [1, 2] {
        let (mut world, anna, ben) = pair(shards);
        world.store_waits = true;
        world.send(anna, &key(2), "id-1", "hi");
        world.run(10 * MILLISECOND, MILLISECOND);
        assert_eq!(world.pushes(ben).len(), 1, "the push waits for nothing");
        assert!(world.received_with(anna, "ack").is_empty());
        world.store_waits = false;
        world.settle();
        assert_eq!(world.received_with(anna, "ack").len(), 1);
        assert_eq!(world.disk.inbox(&key(2)), [1]);
        world.confirm(ben, 1);
        assert!(world.received_with(anna, "ack").is_empty(), "it is acked once");
        world.run(2 * SECOND, 100 * MILLISECOND);
        assert!(world.disk.inbox(&key(2)).is_empty(), "what is confirmed leaves");
    }
}

#[test]
fn a_batch_goes_after_2_ms_or_with_256_messages() {
    let mut world = World::with_store(1, |config| config.limits.messages_per_second = 0);
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.disconnect(ben, Gone::Broken);
    world.commit();
    world.received(anna);
    world.send(anna, &key(2), "id-0", "hi");
    world.advance(2 * MILLISECOND - 1);
    world.settle();
    assert_eq!(world.stored.1, 0);
    world.advance(1);
    world.settle();
    assert_eq!(world.stored.1, 1);
    for n in 1..=256 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
    }
    assert_eq!(world.stored.1, 257, "256 wait for nothing");
    assert_eq!(world.received_with(anna, "ack").len(), 257);
}

#[test]
fn what_came_just_before_a_batch_goes_is_left_out_while_a_device_may_confirm_it() {
    let (mut world, anna, ben) = pair(1);
    world.send(anna, &key(2), "early", "hi");
    world.advance(3 * MILLISECOND / 2);
    world.send(anna, &key(2), "late", "hi");
    world.advance(MILLISECOND / 2);
    world.settle();
    assert_eq!((world.stored.1, world.disk.inbox(&key(2))), (1, vec![1]));
    world.confirm(ben, 2);
    world.run(10 * MILLISECOND, MILLISECOND);
    assert_eq!(world.stored.1, 1);
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 2);
    // One that is offline confirms nothing: nothing of its is left.
    world.send(anna, &key(2), "third", "hi");
    world.advance(3 * MILLISECOND / 2);
    world.send(anna, &key(2), "fourth", "hi");
    world.disconnect(ben, Gone::Broken);
    world.advance(MILLISECOND / 2);
    world.settle();
    assert_eq!(world.disk.inbox(&key(2)), [3, 4]);
}

#[test]
fn an_offline_user_finds_its_messages_and_the_sender_an_ack_that_says_so() {
    for shards in [1, 2] {
        let (mut world, anna, ben) = pair(shards);
        world.disconnect(ben, Gone::Broken);
        world.commit();
        for n in 1..=3 {
            world.send(anna, &key(2), &format!("id-{n}"), "hi");
        }
        world.commit();
        let acks = world.received_with(anna, "ack");
        assert!(acks.len() == 3 && acks.iter().all(|ack| ack.contains("\"recipient\":\"offline\"")), "{acks:?}");
        let ben = world.login(0, 2, "b");
        world.commit();
        let texts = world.received(ben);
        let at = |needle: &str| texts.iter().position(|text| text.contains(needle)).expect("it is there");
        assert!(at("\"welcome\"") < at("\"users\"") && at("\"users\"") < at("\"seq\":1,"), "{texts:?}");
        let pushed: Vec<_> = texts.iter().filter(|text| text.starts_with("{\"seq\":")).collect();
        assert_eq!(pushed.len(), 3);
        assert!(texts[0].contains("\"seq\":3,\"recovered\":false"), "{}", texts[0]);
        world.confirm(ben, 2);
        world.disconnect(ben, Gone::Broken);
        let ben = world.login(0, 2, "b");
        world.commit();
        assert_eq!(world.pushes(ben), [(3, "id-3".to_owned())], "from its last received on");
    }
}

#[test]
fn a_device_gets_what_it_has_not_confirmed_and_a_new_one_what_none_has() {
    let (mut world, anna, ben) = pair(2);
    let other = world.login(0, 2, "other");
    world.commit();
    world.received(other);
    for n in 1..=4 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
    }
    assert_eq!((world.pushes(ben).len(), world.pushes(other).len()), (4, 4));
    world.confirm(ben, 3);
    world.commit();
    assert_eq!(world.disk.inbox(&key(2)).len(), 4, "the other device has none");
    world.disconnect(other, Gone::Broken);
    let third = world.login(0, 2, "third");
    world.commit();
    assert_eq!(world.pushes(third), [(4, "id-4".to_owned())]);
    world.confirm(third, 4);
    world.confirm(ben, 4);
    world.run(2 * SECOND, 100 * MILLISECOND);
    assert_eq!(world.disk.inbox(&key(2)).len(), 4, "it is known, and behind");
    let other = world.login(0, 2, "other");
    world.commit();
    assert_eq!(world.pushes(other).len(), 4);
    world.confirm(other, 4);
    world.run(2 * SECOND, 100 * MILLISECOND);
    assert!(world.disk.inbox(&key(2)).is_empty());
}

#[test]
fn the_senders_other_devices_get_its_messages_under_the_seq_of_the_ack() {
    for shards in [1, 2] {
        let (mut world, anna, ben) = pair(shards);
        let tablet = world.login(0, 1, "tablet");
        world.commit();
        world.received(tablet);
        world.send(ben, &key(1), "to-anna", "hi");
        world.send(anna, &key(2), "from-anna", "hi");
        world.confirm(ben, 1);
        world.commit();
        let ack = world.received(anna);
        let ack = ack.iter().find(|text| text.contains("\"ack\"")).expect("an ack");
        assert!(ack.contains("\"seq\":2}"), "{ack}");
        assert_eq!(world.pushes(tablet), [(1, "to-anna".to_owned()), (2, "from-anna".to_owned())]);
        world.send(anna, &key(2), "while-away", "hi");
        world.confirm(ben, 2);
        world.commit();
        world.confirm(tablet, 2);
        world.disconnect(tablet, Gone::Broken);
        let tablet = world.login(0, 1, "tablet");
        world.commit();
        assert_eq!(world.pushes(tablet), [(3, "while-away".to_owned())]);
        // The sending device counts its own as received: nothing of it comes back.
        world.confirm(anna, 1);
        world.disconnect(anna, Gone::Broken);
        let anna = world.login(0, 1, "a");
        world.commit();
        assert_eq!(world.pushes(anna), []);
    }
}

#[test]
fn a_message_to_oneself_comes_once() {
    let (mut world, anna, _) = pair(1);
    let tablet = world.login(0, 1, "tablet");
    world.commit();
    world.received(tablet);
    world.send(anna, &key(1), "note", "remember");
    world.commit();
    let texts = world.received(anna);
    assert_eq!(texts.iter().filter(|text| text.contains("\"note\"") && text.starts_with("{\"seq\":1,")).count(), 1);
    let acks: Vec<_> = texts.iter().filter(|text| text.contains("\"ack\"")).collect();
    assert!(acks.len() == 1 && acks[0].contains("\"seq\":1}"), "{texts:?}");
    assert_eq!(world.pushes(tablet), [(1, "note".to_owned())]);
    // Confirmed by the very connection that waits for the ack.
    world.send(anna, &key(1), "note-2", "remember");
    world.confirm(anna, 2);
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 1);
}

#[test]
fn a_backlog_comes_in_pages_and_whole() {
    let mut world = World::with_store(2, |config| {
        config.limits.messages_per_second = 0;
        config.limits.unseen_sender_messages_max = 10_000;
    });
    let anna = world.login(0, 1, "a");
    world.commit();
    for n in 0..3000 {
        let message = world.message(anna, &key(2), &format!("id-{n}"), &"x".repeat(400));
        world.text(anna, &message);
        if n % 100 == 99 {
            world.commit();
        }
    }
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 3000);
    let (anna, ben) = (anna, world.login(0, 2, "b"));
    world.send(anna, &key(2), "live", "hi");
    world.commit();
    let seqs: Vec<u64> = world.pushes(ben).iter().map(|&(seq, _)| seq).collect();
    assert_eq!(seqs, (1..=3001).collect::<Vec<_>>());
    let loads: u64 = world.shards.iter().map(|shard| shard.stats().loads).sum();
    assert!((3000 * 800 / 65_536..100).contains(&loads), "{loads} pages");
    world.confirm(ben, 3001);
    world.run(2 * SECOND, 100 * MILLISECOND);
    assert_eq!(world.shards.iter().map(|shard| shard.stats().inbox_entries).sum::<u64>(), 0);
    assert!(world.disk.inbox(&key(2)).is_empty());
}

#[test]
fn a_slow_reader_of_a_backlog_holds_a_bounded_part_of_it_in_memory() {
    let mut world = World::with_store(1, |config| {
        config.limits.messages_per_second = 0;
        config.limits.unseen_sender_messages_max = 10_000;
    });
    let anna = world.login(0, 1, "a");
    world.commit();
    for n in 0..1000 {
        world.send(anna, &key(2), &format!("id-{n}"), &"x".repeat(900));
    }
    world.commit();
    let ben = world.login(0, 2, "b");
    world.peers[ben].stalled = true;
    world.commit();
    let loads = world.shards[0].stats().loads;
    assert!((1..6).contains(&loads), "{loads} pages for somebody who reads nothing");
    world.resume(ben);
    world.commit();
    assert_eq!(world.pushes(ben).len(), 1000);
    assert_eq!(world.shards[0].stats().closed_too_slow, 0);
}

#[test]
fn another_message_under_an_id_in_transit_waits_for_what_becomes_of_the_first() {
    for shards in [1, 2] {
        let (mut world, anna, ben) = pair(shards);
        world.send(anna, &key(2), "id-1", "one");
        world.send(anna, &key(2), "id-1", "another");
        assert!(world.received_with(anna, "id-1").is_empty());
        world.confirm(ben, 1);
        let answers = world.received_with(anna, "id-1");
        assert!(answers.len() == 2 && answers[0].contains("\"ack\"") && answers[1].contains("id_conflict"));
        world.disconnect(ben, Gone::Broken);
        world.commit();
        world.fault = Some(StoreFault::Full);
        world.send(anna, &key(2), "id-2", "one");
        world.send(anna, &key(2), "id-2", "another");
        world.commit();
        let answers = world.received_with(anna, "id-2");
        assert!(answers.len() == 2 && answers.iter().all(|answer| answer.contains("overloaded")), "{answers:?}");
        assert_eq!(world.shards.iter().map(|shard| shard.stats().messages_refused).sum::<u64>(), 3);
    }
}

#[test]
fn what_a_full_disk_left_in_memory_comes_in_its_place_to_a_device_that_is_behind() {
    let mut world = World::with_store(1, |_| {});
    let (anna, phone, desk) = (world.login(0, 1, "a"), world.login(0, 2, "phone"), world.login(0, 2, "desk"));
    world.commit();
    world.disconnect(desk, Gone::Broken);
    world.send(anna, &key(2), "id-1", "stored");
    world.commit();
    world.confirm(phone, 1);
    world.store_waits = true;
    world.send(anna, &key(2), "id-2", "confirmed before there is no room for it");
    world.run(5 * MILLISECOND, MILLISECOND);
    world.confirm(phone, 2);
    world.send(anna, &key(2), "id-3", "in a batch of its own");
    world.run(5 * MILLISECOND, MILLISECOND);
    let desk = world.login(0, 2, "desk");
    world.fault_once = Some(StoreFault::Full);
    world.store_waits = false;
    world.run(SECOND, 50 * MILLISECOND);
    let pushed = [(1, "id-1".to_owned()), (2, "id-2".to_owned()), (3, "id-3".to_owned())];
    assert_eq!(world.pushes(desk), pushed);
}

#[test]
fn a_full_disk_refuses_and_recovers_and_takes_no_ack_back() {
    for shards in [1, 2] {
        let (mut world, anna, ben) = pair(shards);
        world.disconnect(ben, Gone::Broken);
        world.commit();
        world.fault = Some(StoreFault::Full);
        world.send(anna, &key(2), "id-1", "hi");
        world.commit();
        let answers = world.received_with(anna, "id-1");
        assert!(answers.len() == 1 && answers[0].contains("overloaded"), "{answers:?}");
        assert!(answers[0].contains("retryAfterMs"));
        world.fault = None;
        world.run(SECOND, 50 * MILLISECOND);
        world.send(anna, &key(2), "id-1", "hi");
        world.commit();
        let acks = world.received_with(anna, "ack");
        assert!(acks.len() == 1 && acks[0].contains("\"duplicate\":false"), "its id was free: {acks:?}");
        let ben = world.login(0, 2, "b");
        world.commit();
        assert_eq!(world.pushes(ben), [(2, "id-1".to_owned())], "the refused one left a hole and no message");
    }
}

#[test]
fn live_messages_pass_while_the_disk_is_full_if_they_are_confirmed() {
    let (mut world, anna, ben) = pair(1);
    world.fault = Some(StoreFault::Full);
    world.send(anna, &key(2), "id-1", "hi");
    world.confirm(ben, 1);
    assert_eq!(world.received_with(anna, "ack").len(), 1);
    world.send(anna, &key(2), "id-2", "hi");
    world.commit();
    assert_eq!(world.received_with(anna, "overloaded").len(), 1, "nobody has confirmed it");
    world.fault = None;
    world.run(SECOND, 50 * MILLISECOND);
    assert_eq!(world.disk.ids().count(), 1, "what could not be stored is stored when it can");
}

#[test]
fn after_a_failure_nothing_is_acked_any_more() {
    let (mut world, anna, ben) = pair(1);
    world.store_waits = true;
    world.send(anna, &key(2), "id-1", "hi");
    world.advance(3 * MILLISECOND);
    world.settle();
    world.send(anna, &key(2), "id-2", "hi");
    world.fault = Some(StoreFault::Failed);
    world.store_waits = false;
    world.settle();
    assert_eq!(world.received_with(anna, "overloaded").len(), 2, "given out or not");
    world.confirm(ben, 2);
    world.fault = None;
    world.send(anna, &key(2), "id-3", "hi");
    world.commit();
    let answers = world.received(anna);
    assert!(answers.iter().any(|text| text.contains("overloaded")), "{answers:?}");
    assert!(!answers.iter().any(|text| text.contains("\"ack\"")), "{answers:?}");
    assert_eq!(world.shards[0].stats().store_failed, 1);
    assert!(!world.shards[0].has_unstored(), "nothing keeps the relay from ending");
}

#[test]
fn what_waits_for_the_answer_to_one_message_is_bounded() {
    let mut world = World::with_store(1, |_| {});
    let (anna, tablet) = (world.login(0, 1, "a"), world.login(0, 1, "tablet"));
    let ben = world.login(0, 2, "b");
    world.commit();
    world.disconnect(tablet, Gone::Broken);
    world.commit();
    world.received(anna);
    // As long as the disk is full its copy for the tablet waits.
    world.fault = Some(StoreFault::Full);
    let message = world.message(anna, &key(2), "id-1", "hi");
    let rival = world.message(anna, &key(2), "id-1", "another");
    world.text(anna, &message);
    world.settle();
    world.confirm(ben, 1);
    let mut refused = 0;
    for _ in 0..100 {
        world.text(anna, &message);
        world.text(anna, &rival);
        world.run(100 * MILLISECOND, 50 * MILLISECOND);
        refused += world.received_with(anna, "retryAfterMs").len();
        world.text(ben, r#"{"type":"ping"}"#);
    }
    world.fault = None;
    world.run(SECOND, 50 * MILLISECOND);
    let answers = world.received_with(anna, "id-1");
    let (acks, conflicts): (Vec<_>, Vec<_>) =
        answers.iter().filter(|text| !text.contains("receipt")).partition(|text| text.contains("\"ack\""));
    assert_eq!((acks.len(), conflicts.len(), refused), (33, 32, 200 - 64), "each has one answer");
    assert!(conflicts.iter().all(|text| text.contains("id_conflict")), "{conflicts:?}");
}
