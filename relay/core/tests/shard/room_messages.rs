//! Messages of rooms, to all members and to one: who gets them, when they are acked, and what crashes and
//! full disks leave of them.

use protocol::PublicKey;
use protocol::frame::{Resume, Target};
use relay_core::{Gone, StoreFault};

use crate::kit::{MILLISECOND, SECOND, World};
use crate::rooms::{Told, ask, ask_about, den, key, told};

/// Sends a message to a room; the batch ends.
fn say(world: &mut World, from: usize, room: &str, id: &str) -> String {
    let message = world.message_to(from, Target::Room(room), id, "hi");
    world.text(from, &message);
    world.settle();
    message
}

/// Sends a private message within a room; the batch ends.
fn whisper(world: &mut World, from: usize, room: &str, to: &PublicKey, id: &str) {
    let message = world.message_to(from, Target::RoomMember(room, *to), id, "psst");
    world.text(from, &message);
    world.settle();
}

/// The ids that a peer was pushed since the last call.
fn ids(world: &mut World, peer: usize) -> Vec<String> {
    world.pushes(peer).into_iter().map(|(_, id)| id).collect()
}

fn acks(world: &mut World, peer: usize) -> usize {
    world.received_with(peer, "\"ack\"").len()
}

/// The answers to a message, by id.
fn answers(world: &mut World, peer: usize, id: &str) -> Vec<String> {
    world.received_with(peer, &format!("\"clientMessageId\":\"{id}\""))
}

fn stat(world: &World, of: impl Fn(&relay_core::Stats) -> u64) -> u64 {
    world.shards.iter().map(|shard| of(shard.stats())).sum()
}

#[test]
fn a_message_goes_to_every_device_of_every_member_and_to_nobody_else() {
    for shards in [1, 2, 3] {
        for has_store in [false, true] {
            let mut world = if has_store { World::with_store(shards, |_| {}) } else { World::new(shards, |_| {}) };
            let peers = den(&mut world, &[1, 2, 3]);
            let others =
                [(1, "tablet"), (2, "tablet"), (4, "device")].map(|(seed, device)| world.login(0, seed, device));
            world.commit();
            let _ = others.map(|peer| world.received(peer));
            let sent = say(&mut world, peers[0], "den", "id-1");
            let pushed = world.received_with(peers[1], "id-1");
            assert_eq!(pushed, [sent.replacen('{', "{\"seq\":1,", 1)], "the sender's own bytes");
            assert_eq!(ids(&mut world, peers[2]), ["id-1"]);
            assert_eq!(ids(&mut world, others[1]), ["id-1"], "every device");
            assert_eq!(ids(&mut world, others[2]), [""; 0], "no member");
            for &peer in &peers[1..] {
                world.confirm(peer, 1);
            }
            world.commit();
            let tablet = ids(&mut world, others[0]);
            assert_eq!(tablet.len(), usize::from(has_store), "the sender's other device: {tablet:?}");
            let texts = answers(&mut world, peers[0], "id-1");
            assert!(texts.len() == 1 && texts[0].contains("\"recipient\":\"online\",\"duplicate\":false"), "{texts:?}");
            assert_eq!(texts[0].contains("\"seq\":1}"), has_store);
            assert_eq!(stat(&world, |stats| stats.room_messages), 1);
        }
    }
}

#[test]
fn it_is_acked_when_every_member_has_it_or_the_disk_has() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2, 3]);
        world.store_waits = true;
        say(&mut world, peers[0], "den", "id-1");
        world.confirm(peers[1], 1);
        world.run(20 * MILLISECOND, MILLISECOND);
        assert_eq!(acks(&mut world, peers[0]), 0, "one of two has confirmed");
        world.confirm(peers[2], 1);
        assert_eq!(acks(&mut world, peers[0]), 1, "both have");
        say(&mut world, peers[0], "den", "id-2");
        world.confirm(peers[1], 2);
        world.run(20 * MILLISECOND, MILLISECOND);
        assert_eq!(acks(&mut world, peers[0]), 0);
        world.store_waits = false;
        world.commit();
        assert_eq!(acks(&mut world, peers[0]), 1, "the disk has it for the other");
        world.confirm(peers[2], 2);
        world.commit();
        assert_eq!(acks(&mut world, peers[0]), 0, "once");
    }
}

#[test]
fn the_senders_other_devices_are_waited_for_and_history_is_not() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2]);
        world.store_waits = true;
        say(&mut world, peers[0], "den", "id-1");
        world.confirm(peers[1], 1);
        assert_eq!(acks(&mut world, peers[0]), 1);
        world.store_waits = false;
        let tablet = world.login(0, 1, "tablet");
        world.commit();
        world.received(peers[0]);
        world.store_waits = true;
        say(&mut world, peers[0], "den", "id-2");
        world.confirm(peers[1], 2);
        world.run(20 * MILLISECOND, MILLISECOND);
        assert_eq!(acks(&mut world, peers[0]), 0, "the tablet may not have it");
        world.confirm(tablet, 2);
        assert_eq!(acks(&mut world, peers[0]), 1);
    }
}

#[test]
fn a_private_message_goes_to_its_member_alone() {
    for shards in [1, 2, 3] {
        for has_store in [false, true] {
            let mut world = if has_store { World::with_store(shards, |_| {}) } else { World::new(shards, |_| {}) };
            let peers = den(&mut world, &[1, 2, 3]);
            let tablet = world.login(0, 1, "tablet");
            let outsider = world.login(0, 4, "device");
            world.commit();
            world.received(tablet);
            whisper(&mut world, peers[0], "den", &key(2), "id-1");
            world.commit();
            assert_eq!(ids(&mut world, peers[1]), ["id-1"]);
            assert_eq!(ids(&mut world, peers[2]), [""; 0]);
            assert_eq!(ids(&mut world, tablet).len(), usize::from(has_store), "the sender's other device");
            assert_eq!(acks(&mut world, peers[0]), 1);
            // Offline or not, and after any restart, it never comes to the third.
            world.disconnect(peers[1], Gone::Broken);
            world.commit();
            whisper(&mut world, peers[0], "den", &key(2), "id-2");
            world.commit();
            let texts = answers(&mut world, peers[0], "id-2");
            assert!(texts.len() == 1 && texts[0].contains("\"recipient\":\"offline\""), "{texts:?}");
            if has_store {
                world.crash(shards);
                let carol = world.login(0, 3, "device");
                let ben = world.login(0, 2, "device");
                world.commit();
                assert_eq!(ids(&mut world, carol), [""; 0]);
                assert_eq!(ids(&mut world, ben), ["id-1", "id-2"]);
                continue;
            }
            for (to, id, reason) in
                [(key(4), "id-3", "not_member"), (PublicKey::from_bytes([0xff; 32]), "id-4", "invalid")]
            {
                whisper(&mut world, peers[0], "den", &to, id);
                world.commit();
                let texts = answers(&mut world, peers[0], id);
                assert!(texts.len() == 1 && texts[0].contains(reason), "{texts:?}");
            }
            assert_eq!(ids(&mut world, outsider), [""; 0]);
        }
    }
}

#[test]
fn who_is_no_member_sends_nothing() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2]);
        let outsider = world.login(0, 4, "device");
        world.commit();
        world.received(outsider);
        for (room, reason) in [("den", "not_member"), ("attic", "no_such_room")] {
            say(&mut world, outsider, room, "id-1");
            world.commit();
            let texts = answers(&mut world, outsider, "id-1");
            assert!(texts.len() == 1 && texts[0].contains(reason), "{texts:?}");
            assert!(texts[0].contains(&format!("\"roomId\":\"{room}\"")), "{texts:?}");
        }
        whisper(&mut world, outsider, "den", &key(2), "id-2");
        world.commit();
        assert!(answers(&mut world, outsider, "id-2")[0].contains("not_member"));
        assert_eq!(ids(&mut world, peers[1]), [""; 0]);
        // The id of what was refused is free.
        ask(&mut world, outsider, "room_join", "den");
        say(&mut world, outsider, "den", "id-1");
        world.commit();
        assert!(answers(&mut world, outsider, "id-1")[0].contains("\"duplicate\":false"));
        assert_eq!(ids(&mut world, peers[1]), ["id-1"]);
    }
}

#[test]
fn nothing_leaks_to_who_was_removed_or_has_left() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2, 3]);
        say(&mut world, peers[0], "den", "before");
        // In one batch: it counts from the moment that the room's home has it, stored or not.
        world.store_waits = true;
        ask_about(&mut world, peers[0], "room_remove", "den", &key(2));
        ask(&mut world, peers[2], "room_leave", "den");
        world.run(5 * MILLISECOND, MILLISECOND);
        say(&mut world, peers[0], "den", "removed");
        world.store_waits = false;
        world.commit();
        say(&mut world, peers[0], "den", "after");
        world.commit();
        assert_eq!(ids(&mut world, peers[1]), ["before"]);
        let third = ids(&mut world, peers[2]);
        assert!(!third.contains(&"after".to_owned()), "{third:?}");
        assert_eq!(acks(&mut world, peers[0]), 3);
        say(&mut world, peers[1], "den", "back");
        world.commit();
        assert!(answers(&mut world, peers[1], "back")[0].contains("not_member"));
    }
}

#[test]
fn a_message_that_comes_again_is_a_duplicate_and_another_of_its_id_a_conflict() {
    for shards in [1, 2] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2]);
        let sent = say(&mut world, peers[0], "den", "id-1");
        world.text(peers[0], &sent);
        world.commit();
        let texts = answers(&mut world, peers[0], "id-1");
        assert_eq!(texts.iter().filter(|text| text.contains("\"duplicate\":true")).count(), 1, "{texts:?}");
        assert_eq!(texts.len(), 2);
        whisper(&mut world, peers[0], "den", &key(2), "id-1");
        world.commit();
        assert!(answers(&mut world, peers[0], "id-1")[0].contains("id_conflict"));
        assert_eq!(ids(&mut world, peers[1]), ["id-1"]);
        world.crash(shards);
        let [anna, ben] = [1, 2].map(|seed| world.login(0, seed, "device"));
        world.commit();
        world.received(anna);
        world.text(anna, &sent);
        world.commit();
        assert!(answers(&mut world, anna, "id-1")[0].contains("\"duplicate\":true"));
        assert_eq!(ids(&mut world, ben), ["id-1"], "once, for it was never confirmed");
    }
}

#[test]
fn whoever_is_away_finds_it_and_nobody_is_told_offline() {
    for shards in [1, 2, 3] {
        for has_store in [false, true] {
            let mut world = if has_store { World::with_store(shards, |_| {}) } else { World::new(shards, |_| {}) };
            let peers = den(&mut world, &[1, 2, 3]);
            world.confirm(peers[1], 0);
            let resume = {
                let ben = world.login(0, 2, "device");
                let (epoch, seq, _) = world.welcome(ben);
                world.disconnect(ben, Gone::Broken);
                Resume { epoch, seq }
            };
            world.disconnect(peers[2], Gone::Broken);
            world.commit();
            say(&mut world, peers[0], "den", "id-1");
            world.commit();
            let texts = answers(&mut world, peers[0], "id-1");
            assert!(texts.len() == 1 && texts[0].contains("\"recipient\":\"offline\""), "{texts:?}");
            let ben = world.log_in_from(0, 2, "device", resume);
            world.commit();
            assert!(world.welcome(ben).2, "it recovered");
            assert_eq!(ids(&mut world, ben), ["id-1"]);
            // Alone in a room one may still talk.
            for seed in [2, 3] {
                let peer = world.login(0, seed, "device");
                ask(&mut world, peer, "room_leave", "den");
                world.commit();
            }
            world.received(peers[0]);
            say(&mut world, peers[0], "den", "id-2");
            world.commit();
            let texts = answers(&mut world, peers[0], "id-2");
            assert!(texts.len() == 1 && texts[0].contains("\"recipient\":\"offline\""), "{texts:?}");
        }
    }
}

#[test]
fn a_member_whose_inbox_is_full_misses_it_and_is_told_so() {
    for shards in [1, 2] {
        let mut world = World::with_store(shards, |config| {
            config.limits.inbox_messages_max = 2;
            config.limits.messages_per_second = 0;
        });
        let peers = den(&mut world, &[1, 2, 3]);
        let resume = {
            let ben = world.login(0, 2, "device");
            let (epoch, seq, _) = world.welcome(ben);
            world.disconnect(ben, Gone::Broken);
            Resume { epoch, seq }
        };
        world.commit();
        for n in 1..=4 {
            say(&mut world, peers[0], "den", &format!("id-{n}"));
            world.confirm(peers[2], n);
            world.commit();
        }
        assert_eq!(acks(&mut world, peers[0]), 4, "one full inbox does not silence a room");
        assert_eq!(stat(&world, |stats| stats.room_missed), 2);
        let ben = world.log_in_from(0, 2, "device", resume);
        world.commit();
        let (_, seq, recovered) = world.welcome(ben);
        assert_eq!((seq, recovered), (4, false), "no silent gap");
        assert_eq!(world.pushes(ben), [(1, "id-1".to_owned()), (2, "id-2".to_owned())]);
        assert_eq!(ids(&mut world, peers[2]), ["id-1", "id-2", "id-3", "id-4"]);
    }
}

#[test]
fn a_private_message_for_a_full_inbox_is_refused_and_nobody_gets_it() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |config| config.limits.inbox_messages_max = 1);
        let peers = den(&mut world, &[1, 2, 3]);
        let tablet = world.login(0, 1, "tablet");
        world.disconnect(peers[1], Gone::Broken);
        world.commit();
        whisper(&mut world, peers[0], "den", &key(2), "id-1");
        world.commit();
        assert_eq!((acks(&mut world, peers[0]), ids(&mut world, tablet).len()), (1, 1));
        world.confirm(tablet, 1);
        whisper(&mut world, peers[0], "den", &key(2), "id-2");
        world.commit();
        let texts = answers(&mut world, peers[0], "id-2");
        assert!(texts.len() == 1 && texts[0].contains("inbox_full"), "{texts:?}");
        assert!(texts[0].contains("\"roomId\":\"den\""), "{texts:?}");
        assert_eq!(ids(&mut world, tablet), [""; 0]);
        let ben = world.login(0, 2, "device");
        world.commit();
        assert_eq!(world.pushes(ben), [(1, "id-1".to_owned())]);
    }
}

#[test]
fn a_private_message_to_oneself_is_for_ones_other_devices() {
    for has_store in [false, true] {
        let mut world = if has_store { World::with_store(2, |_| {}) } else { World::new(2, |_| {}) };
        let peers = den(&mut world, &[1, 2]);
        let tablet = world.login(0, 1, "tablet");
        world.commit();
        world.received(tablet);
        whisper(&mut world, peers[0], "den", &key(1), "note");
        world.commit();
        assert_eq!(acks(&mut world, peers[0]), 1);
        assert_eq!(ids(&mut world, tablet).len(), usize::from(has_store));
        assert_eq!(ids(&mut world, peers[1]), [""; 0]);
    }
}

#[test]
fn a_full_disk_refuses_it_and_it_can_be_sent_again() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2, 3]);
        world.disconnect(peers[2], Gone::Broken);
        world.commit();
        world.fault = Some(StoreFault::Full);
        let sent = say(&mut world, peers[0], "den", "id-1");
        world.run(SECOND, 10 * MILLISECOND);
        let texts = answers(&mut world, peers[0], "id-1");
        assert!(texts.len() == 1 && texts[0].contains("overloaded"), "{texts:?}");
        assert!(texts[0].contains("retryAfterMs") && texts[0].contains("\"roomId\":\"den\""), "{texts:?}");
        world.fault = None;
        world.run(SECOND, 50 * MILLISECOND);
        world.text(peers[0], &sent);
        world.commit();
        assert_eq!(acks(&mut world, peers[0]), 1);
        let carol = world.login(0, 3, "device");
        world.commit();
        assert_eq!(ids(&mut world, carol), ["id-1"]);
    }
}

#[test]
fn after_a_failed_sync_it_is_never_acked() {
    let mut world = World::with_store(2, |_| {});
    let peers = den(&mut world, &[1, 2, 3]);
    world.fault = Some(StoreFault::Failed);
    say(&mut world, peers[0], "den", "id-1");
    world.commit();
    world.fault = None;
    say(&mut world, peers[0], "den", "id-2");
    for peer in [peers[1], peers[2]] {
        world.confirm(peer, 1);
    }
    world.commit();
    let texts = world.received(peers[0]);
    assert_eq!(texts.iter().filter(|text| text.contains("overloaded")).count(), 2, "{texts:?}");
    assert!(!texts.iter().any(|text| text.contains("\"ack\"")), "{texts:?}");
}

#[test]
fn a_crash_at_any_moment_loses_nothing_that_was_acked() {
    for shards in [1, 2, 3] {
        for wait in 0..24 {
            let mut world = World::with_store(shards, |_| {});
            let peers = den(&mut world, &[1, 2, 3]);
            world.disconnect(peers[2], Gone::Broken);
            world.commit();
            world.store_waits = wait % 2 == 0;
            ask(&mut world, peers[1], "room_leave", "den");
            say(&mut world, peers[0], "den", "id-1");
            world.run(wait / 2 * MILLISECOND, MILLISECOND);
            world.store_waits = false;
            let left = told(&mut world, peers[1], "den").iter().any(|told| matches!(told, Told::State(..)));
            world.advance(wait % 3 * 500_000);
            world.settle();
            let is_acked = acks(&mut world, peers[0]) > 0;
            world.crash(shards % 3 + 1);
            let carol = world.login(0, 3, "device");
            world.commit();
            let got = ids(&mut world, carol);
            assert!(got == ["id-1"] || got.is_empty() && !is_acked, "wait {wait}: acked {is_acked}, got {got:?}");
            ask(&mut world, carol, "room_members", "den");
            world.commit();
            let Some(Told::State(_, members)) = told(&mut world, carol, "den").pop() else { panic!("no room") };
            assert!(!left || !members.contains(&key(2)), "wait {wait}: an acknowledged leave came undone");
        }
    }
}

#[test]
fn it_is_read_with_the_rooms_name_and_never_reported_as_delivered() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2]);
        say(&mut world, peers[0], "den", "id-1");
        world.confirm(peers[1], 1);
        world.commit();
        world.text(peers[1], r#"{"type":"read","seq":1}"#);
        world.commit();
        let receipts = world.received_with(peers[0], "\"receipt\"");
        assert_eq!(receipts.len(), 1, "{receipts:?}");
        assert!(receipts[0].contains("\"status\":\"read\",\"clientMessageIds\":[\"id-1\"]"), "{receipts:?}");
        assert!(receipts[0].contains("\"roomId\":\"den\""), "{receipts:?}");
    }
}

#[test]
fn typing_is_told_to_the_other_members_who_are_online() {
    for shards in [1, 2, 3] {
        let mut world = World::new(shards, |_| {});
        let peers = den(&mut world, &[1, 2, 3]);
        let outsider = world.login(0, 4, "device");
        world.commit();
        world.received(outsider);
        for is_typing in ["true", "false", "true"] {
            world.text(peers[0], &format!(r#"{{"type":"typing","roomId":"den","isTyping":{is_typing}}}"#));
            world.settle();
        }
        world.text(outsider, r#"{"type":"typing","roomId":"den","isTyping":true}"#);
        world.text(outsider, r#"{"type":"typing","roomId":"attic","isTyping":true}"#);
        world.run(90 * MILLISECOND, 10 * MILLISECOND);
        assert!(world.received_with(peers[1], "typing").is_empty(), "it is gathered");
        world.commit();
        for peer in [peers[1], peers[2]] {
            let expected = format!(
                r#"{{"type":"typing","roomId":"den","senderPublicKey":"{}","isTyping":true}}"#,
                key(1).to_hex().as_str()
            );
            assert_eq!(world.received_with(peer, "typing"), [expected]);
        }
        for peer in [peers[0], outsider] {
            assert!(world.received_with(peer, "typing").is_empty());
        }
    }
}
