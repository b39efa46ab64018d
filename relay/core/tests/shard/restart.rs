//! What survives the relay: killed at any moment or restarted in peace, with as many shards or others.

use protocol::PublicKey;
use protocol::frame::Resume;
use relay_core::{Config, Gone, ShardId, StoreFault};

use crate::kit::{MILLISECOND, SECOND, World};

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

#[test]
fn no_acked_message_is_lost_by_a_crash_at_any_moment() {
    for (before, after) in [(1, 1), (2, 1), (1, 3), (3, 2)] {
        for moment in 0..24 {
            let mut world = World::with_store(before, |_| {});
            let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
            world.commit();
            world.store_waits = true;
            for n in 0..12 {
                world.send(anna, &key(2), &format!("id-{n}"), "hi");
                world.advance(MILLISECOND);
                if n == moment / 2 {
                    world.store_waits = false;
                    world.settle();
                    world.store_waits = moment % 2 == 0;
                }
                if n % 5 == 4 {
                    world.confirm(ben, n);
                }
            }
            let pushed = world.pushes(ben);
            let acked: Vec<String> = world.received_with(anna, "\"ack\"");
            let confirmed = pushed.iter().filter(|(seq, _)| *seq <= 9);
            let has: Vec<String> = confirmed.map(|(_, id)| id.clone()).collect();
            world.store_waits = false;
            world.crash(after);
            let ben = world.login(0, 2, "b");
            world.commit();
            let (_, _, recovered) = world.welcome(ben);
            assert!(!recovered);
            let again = world.pushes(ben);
            assert!(again.windows(2).all(|two| two[0].0 < two[1].0), "{again:?}");
            for n in 0..12 {
                let id = format!("id-{n}");
                let is_acked = acked.iter().any(|ack| ack.contains(&format!("\"{id}\"")));
                let arrived = has.contains(&id) || again.iter().any(|(_, other)| *other == id);
                assert!(!is_acked || arrived, "{id}, acked and lost: {moment} {again:?}");
            }
        }
    }
}

#[test]
fn after_a_crash_an_online_user_goes_on_in_a_new_epoch_and_an_offline_one_in_its_own() {
    let mut world = World::with_store(2, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    let (online_epoch, ..) = world.welcome(anna);
    let (offline_epoch, ..) = world.welcome(ben);
    for n in 0..3 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
        world.confirm(ben, n + 1);
    }
    world.disconnect(ben, Gone::Broken);
    world.run(2 * SECOND, 100 * MILLISECOND);
    world.send(anna, &key(2), "while-away", "hi");
    world.commit();
    world.crash(2);
    let ben = world.log_in_from(0, 2, "b", Resume { epoch: offline_epoch, seq: 3 });
    world.commit();
    assert_eq!(world.welcome(ben), (offline_epoch, 4, true));
    assert_eq!(world.pushes(ben), [(4, "while-away".to_owned())]);
    let anna = world.log_in_from(0, 1, "a", Resume { epoch: online_epoch, seq: 0 });
    let (epoch, _, recovered) = world.welcome(anna);
    assert!(epoch != online_epoch && !recovered, "numbers may have been given away that nobody stored");
}

#[test]
fn what_a_sender_who_leaves_at_once_sent_is_settled_all_the_same() {
    let mut world = World::with_store(1, |_| {});
    let ben = world.login(0, 2, "b");
    world.commit();
    world.store_waits = true;
    let anna = world.login(0, 1, "a");
    world.send(anna, &key(2), "id-1", "hi");
    world.confirm(ben, 1);
    world.disconnect(anna, Gone::Broken);
    world.store_waits = false;
    world.commit();
    let stats = world.shards[0].stats();
    assert_eq!((stats.messages_in, stats.messages_acked), (1, 1));
}

#[test]
fn a_message_is_stored_with_its_user_though_the_batch_before_had_no_room() {
    let mut world = World::with_store(1, |_| {});
    let anna = world.login(0, 1, "a");
    world.commit();
    world.received(anna);
    world.store_waits = true;
    world.send(anna, &key(2), "id-1", "hi");
    world.run(5 * MILLISECOND, MILLISECOND);
    world.send(anna, &key(2), "id-2", "hi");
    world.run(5 * MILLISECOND, MILLISECOND);
    world.fault_once = Some(StoreFault::Full);
    world.store_waits = false;
    world.commit();
    assert_eq!(world.received_with(anna, "overloaded").len(), 1);
    assert_eq!(world.disk.inbox(&key(2)), [2]);
    world.crash(1);
    let ben = world.login(0, 2, "b");
    world.commit();
    assert_eq!(world.pushes(ben), [(2, "id-2".to_owned())]);
}

#[test]
fn a_sender_is_refused_whose_seq_the_failed_store_will_never_make_safe() {
    let mut world = World::with_store(2, |_| {});
    let home = |seed: u8| Config::new(ShardId(0), 2, 42).home(&key(seed));
    let elsewhere = (2..).find(|&seed| home(seed) != home(1)).expect("there are two homes");
    let ben = world.login(0, elsewhere, "b");
    world.commit();
    world.store_waits = true;
    let anna = world.login(0, 1, "a");
    world.commit();
    world.send(anna, &key(elsewhere), "id-1", "hi");
    world.fault = Some(StoreFault::Failed);
    world.store_waits = false;
    world.settle();
    world.confirm(ben, 1);
    world.commit();
    assert_eq!(world.received_with(anna, "overloaded").len(), 1);
}

#[test]
fn a_device_that_was_online_in_the_crash_is_not_forgotten_before_its_time() {
    let mut world = World::with_store(1, |_| {});
    let (anna, phone, tablet) = (world.login(0, 1, "a"), world.login(0, 2, "phone"), world.login(0, 2, "tablet"));
    world.commit();
    for n in 0..3 {
        world.send(anna, &key(2), &format!("id-{n}"), "hi");
    }
    world.confirm(phone, 3);
    world.run(2 * SECOND, 100 * MILLISECOND);
    world.pushes(tablet);
    world.crash(1);
    // The tablet is away while others look after the users.
    world.run(90 * SECOND, SECOND);
    let tablet = world.login(0, 2, "tablet");
    world.commit();
    assert_eq!(world.pushes(tablet).len(), 3, "it has confirmed nothing");
}

#[test]
fn a_restart_in_peace_keeps_every_epoch_cursor_and_number() {
    for (before, after) in [(1, 1), (2, 3), (3, 1)] {
        let mut world = World::with_store(before, |_| {});
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.commit();
        let (anna_epoch, ..) = world.welcome(anna);
        let (ben_epoch, ..) = world.welcome(ben);
        for n in 0..6 {
            world.send(anna, &key(2), &format!("id-{n}"), "hi");
        }
        world.confirm(ben, 4);
        world.restart(after);
        let ben = world.log_in_from(0, 2, "b", Resume { epoch: ben_epoch, seq: 5 });
        world.commit();
        assert_eq!(world.welcome(ben), (ben_epoch, 6, true));
        assert_eq!(world.pushes(ben), [(6, "id-5".to_owned())]);
        let anna = world.log_in_from(0, 1, "a", Resume { epoch: anna_epoch, seq: 4 });
        let (epoch, seq, recovered) = world.welcome(anna);
        assert!(epoch == anna_epoch && recovered, "{seq}");
    }
}

#[test]
fn an_id_survives_and_its_ack_comes_again() {
    for (before, after) in [(1, 1), (2, 3), (3, 2)] {
        let mut world = World::with_store(before, |_| {});
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        world.commit();
        let live = world.message(anna, &key(2), "live", "hi");
        world.text(anna, &live);
        world.settle();
        world.confirm(ben, 1);
        world.commit();
        world.disconnect(ben, Gone::Broken);
        world.commit();
        let stored = world.message(anna, &key(2), "stored", "hi");
        world.text(anna, &stored);
        world.settle();
        world.run(200 * MILLISECOND, 10 * MILLISECOND);
        world.crash(after);
        let anna = world.login(0, 1, "a");
        world.commit();
        world.received(anna);
        for message in [&live, &stored] {
            world.text(anna, message);
            world.settle();
            let answers = world.received_with(anna, "clientMessageId");
            assert!(answers.len() == 1 && answers[0].contains("\"duplicate\":true"), "{answers:?}");
        }
        let other = world.message(anna, &key(2), "stored", "another");
        world.text(anna, &other);
        world.settle();
        assert_eq!(world.received_with(anna, "id_conflict").len(), 1);
        let ben = world.login(0, 2, "b");
        world.commit();
        assert_eq!(world.pushes(ben).iter().filter(|(_, id)| id == "stored").count(), 1);
        // Ten minutes after its acceptance it is free.
        world.advance(600 * SECOND);
        world.settle();
        let anna = world.login(0, 1, "a");
        world.commit();
        world.received(anna);
        world.send(anna, &key(2), "stored", "another");
        world.commit();
        assert_eq!(world.received_with(anna, "\"duplicate\":false").len(), 1);
    }
}

#[test]
fn a_crash_between_delivery_and_own_copy_is_made_good_when_the_message_comes_again() {
    let mut world = World::with_store(1, |_| {});
    let (anna, tablet) = (world.login(0, 1, "a"), world.login(0, 1, "tablet"));
    let ben = world.login(0, 2, "b");
    world.commit();
    world.disconnect(tablet, Gone::Broken);
    world.disconnect(ben, Gone::Broken);
    world.commit();
    let message = world.message(anna, &key(2), "id-1", "hi");
    world.text(anna, &message);
    world.settle();
    world.advance(2 * MILLISECOND);
    world.settle();
    assert_eq!(world.disk.inbox(&key(2)), [1]);
    assert!(world.disk.inbox(&key(1)).is_empty(), "the copy is not stored yet");
    let early = world.received_with(anna, "ack");
    assert!(early.is_empty(), "{early:?}");
    world.crash(1);
    let anna = world.login(0, 1, "a");
    world.commit();
    world.received(anna);
    world.text(anna, &message);
    world.commit();
    let acks = world.received_with(anna, "\"ack\"");
    assert!(acks.len() == 1 && acks[0].contains("\"duplicate\":true,\"seq\":"), "{acks:?}");
    let tablet = world.login(0, 1, "tablet");
    world.commit();
    assert_eq!(world.pushes(tablet).len(), 1);
    let ben = world.login(0, 2, "b");
    world.commit();
    assert_eq!(world.pushes(ben).len(), 1, "it is delivered once");
}

#[test]
fn a_copy_that_was_made_is_not_made_again_whichever_shard_stored_first() {
    for wait in 0..20 {
        let mut world = World::with_store(2, |_| {});
        let users = [(3, "a"), (3, "tablet"), (1, "b"), (1, "phone"), (8, "c")];
        let [anna, tablet, ben, phone, carol] = users.map(|(seed, device)| world.login(0, seed, device));
        world.commit();
        world.disconnect(tablet, Gone::Broken);
        world.disconnect(phone, Gone::Broken);
        world.run(2 * SECOND, 100 * MILLISECOND);
        world.received(anna);
        // The batch that has the copy is begun earlier than the one that has the message.
        world.send(carol, &key(3), "older", "hi");
        world.run(wait * 100_000, 100_000);
        let message = world.message(anna, &key(1), "id-1", "hi");
        world.text(anna, &message);
        world.settle();
        world.run(300_000, 100_000);
        world.confirm(ben, 1);
        world.run(4 * MILLISECOND, 100_000);
        assert_eq!(world.received_with(anna, "\"ack\"").len(), 1);
        world.crash(2);
        let anna = world.login(0, 3, "a");
        world.commit();
        world.text(anna, &message);
        world.commit();
        let tablet = world.login(0, 3, "tablet");
        world.commit();
        let copies = world.pushes(tablet).into_iter().filter(|(_, id)| id == "id-1").count();
        assert_eq!(copies, 1, "wait {wait}");
    }
}

#[test]
fn nothing_is_pushed_before_the_store_knows_that_numbers_are_given_away() {
    let mut world = World::with_store(1, |_| {});
    let ben = world.login(0, 2, "b");
    world.commit();
    let (epoch, ..) = world.welcome(ben);
    world.disconnect(ben, Gone::Broken);
    world.run(2 * SECOND, 100 * MILLISECOND);
    assert!(world.disk.user(&key(2)).expect("it is stored").exact);
    let anna = world.login(0, 1, "a");
    world.commit();
    world.received(anna);
    world.store_waits = true;
    let ben = world.login(0, 2, "b");
    world.send(anna, &key(2), "id-1", "hi");
    world.commit();
    assert_eq!(world.pushes(ben), [], "after a crash now, seq 1 would be another message's");
    world.crash(1);
    world.store_waits = false;
    let anna = world.login(0, 1, "a");
    world.commit();
    world.send(anna, &key(2), "id-2", "hi");
    world.commit();
    let ben = world.log_in_from(0, 2, "b", Resume { epoch, seq: 0 });
    world.commit();
    assert_eq!(world.welcome(ben), (epoch, 1, true));
    assert_eq!(world.pushes(ben), [(1, "id-2".to_owned())]);
}

#[test]
fn a_sender_who_has_just_come_is_acked_with_a_number_that_is_safe() {
    let mut world = World::with_store(1, |_| {});
    let ben = world.login(0, 2, "b");
    world.commit();
    world.store_waits = true;
    let anna = world.login(0, 1, "a");
    world.send(anna, &key(2), "id-1", "hi");
    world.confirm(ben, 1);
    world.commit();
    assert!(world.received_with(anna, "\"ack\"").is_empty());
    world.store_waits = false;
    world.commit();
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 1);
}
