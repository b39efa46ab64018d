//! Pages of history: whose, how far back, in which order, and how large.

use protocol::frame::Target;
use protocol::limits::RELAY_FRAME_BYTES;
use protocol::server_frame::{ServerFrame, ServerFrameDecoder};
use relay_core::Gone;
use std::time::Duration;

use crate::kit::{MILLISECOND, SECOND, World};
use crate::rooms::{ask, den, key};

/// The pages that a peer got since the last call: seqs and ids, and whether there is more.
fn pages(world: &mut World, peer: usize) -> Vec<(Vec<(u64, String)>, bool)> {
    let mut decoder = ServerFrameDecoder::new();
    let page = |text: String| {
        assert!(text.len() <= RELAY_FRAME_BYTES, "{} bytes", text.len());
        match decoder.decode(&text) {
            Ok(ServerFrame::History(page)) => {
                let messages = page.messages.iter().map(|pushed| (pushed.seq, pushed.message.id.to_owned()));
                Some((messages.collect(), page.more))
            }
            _ => None,
        }
    };
    world.received(peer).into_iter().filter_map(page).collect()
}

/// Asks for a page and gives its ids and whether there is more.
fn page(world: &mut World, peer: usize, ask: &str) -> (Vec<String>, bool) {
    world.text(peer, &format!("{{\"type\":\"history\",{ask}}}"));
    world.settle();
    let mut pages = pages(world, peer);
    assert_eq!(pages.len(), 1, "{ask}");
    let (messages, more) = pages.remove(0);
    assert!(messages.is_sorted_by_key(|&(seq, _)| seq), "{messages:?}");
    (messages.into_iter().map(|(_, id)| id).collect(), more)
}

fn say(world: &mut World, from: usize, id: &str, text: &str) {
    let message = world.message_to(from, Target::Room("den"), id, text);
    world.text(from, &message);
    world.settle();
}

fn names(range: impl Iterator<Item = u32>) -> Vec<String> {
    range.map(|n| format!("id-{n}")).collect()
}

#[test]
fn a_room_is_read_back_in_pages_by_all_who_were_in_it() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |config| config.limits.messages_per_second = 0);
        let peers = den(&mut world, &[1, 2, 3]);
        for n in 1..=60 {
            say(&mut world, peers[n % 2], &format!("id-{n}"), "hi");
            // Own ones take their place once they are safe.
            world.run(4 * MILLISECOND, MILLISECOND);
        }
        world.commit();
        let private = world.message_to(peers[0], Target::RoomMember("den", key(2)), "private", "psst");
        world.text(peers[0], &private);
        world.commit();
        let confirmed = |world: &mut World| {
            for &peer in &peers {
                world.confirm(peer, 61);
                world.confirm(peer, 60);
                world.received(peer);
            }
            world.run(2 * SECOND, 100 * MILLISECOND);
        };
        confirmed(&mut world);
        let all = |own: bool| {
            let mut names = names(1..=60);
            names.extend(own.then(|| "private".to_owned()));
            names
        };
        for (at, has_private) in [(0, true), (1, true), (2, false)] {
            let expected = all(has_private);
            let (newest, more) = page(&mut world, peers[at], "\"roomId\":\"den\"");
            assert_eq!((&newest[..], more), (&expected[expected.len() - 50..], true), "50 unless said otherwise");
            let mut read = Vec::new();
            let mut before = String::new();
            loop {
                world.text(peers[at], &format!("{{\"type\":\"history\",\"roomId\":\"den\"{before},\"limit\":7}}"));
                world.settle();
                let (messages, more) = pages(&mut world, peers[at]).remove(0);
                assert!(messages.len() == 7 || !more, "{messages:?}");
                before = format!(",\"beforeSeq\":{}", messages[0].0);
                read.splice(0..0, messages.into_iter().map(|(_, id)| id));
                if !more {
                    break;
                }
            }
            assert_eq!(read, expected, "shards {shards}, member {at}");
        }
        world.crash(shards % 3 + 1);
        let carol = world.login(0, 3, "device");
        world.commit();
        assert_eq!(page(&mut world, carol, "\"roomId\":\"den\",\"limit\":100"), (names(1..=60), false));
    }
}

#[test]
fn what_is_not_stored_yet_is_in_the_page_too_and_once() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2]);
        say(&mut world, peers[0], "id-1", "hi");
        world.commit();
        say(&mut world, peers[0], "id-2", "hi");
        for (step, peer) in [peers[1], peers[0], peers[1], peers[0]].into_iter().enumerate() {
            world.received(peer);
            assert_eq!(page(&mut world, peer, "\"roomId\":\"den\"").0, ["id-1", "id-2"], "step {step}");
            world.run(2 * MILLISECOND, MILLISECOND);
        }
        assert_eq!(page(&mut world, peers[1], "\"roomId\":\"den\",\"limit\":1"), (vec!["id-2".to_owned()], true));
        // Given out, and neither stored nor answered when the page is asked for.
        say(&mut world, peers[0], "id-3", "hi");
        world.store_waits = true;
        world.run(5 * MILLISECOND, MILLISECOND);
        world.received(peers[1]);
        world.text(peers[1], r#"{"type":"history","roomId":"den"}"#);
        world.settle();
        assert_eq!(pages(&mut world, peers[1]), [], "the store has not answered");
        world.text(peers[1], r#"{"type":"history","roomId":"den"}"#);
        world.settle();
        let busy = world.received_with(peers[1], "overloaded");
        assert!(busy.len() == 1 && busy[0].contains("\"roomId\":\"den\""), "one at a time: {busy:?}");
        world.store_waits = false;
        world.commit();
        let (messages, more) = pages(&mut world, peers[1]).remove(0);
        assert_eq!((messages.len(), more), (3, false), "{messages:?}");
    }
}

#[test]
fn a_new_member_sees_nothing_older_than_its_joining_and_who_is_none_sees_nothing() {
    for shards in [1, 2, 3] {
        for has_store in [false, true] {
            let mut world = if has_store { World::with_store(shards, |_| {}) } else { World::new(shards, |_| {}) };
            let peers = den(&mut world, &[1, 2]);
            let carol = world.login(0, 3, "device");
            world.commit();
            say(&mut world, peers[0], "id-1", "hi");
            world.commit();
            ask(&mut world, carol, "room_join", "den");
            world.commit();
            say(&mut world, peers[0], "id-2", "hi");
            world.commit();
            world.received(carol);
            assert_eq!(page(&mut world, carol, "\"roomId\":\"den\"").0, ["id-2"]);
            assert_eq!(page(&mut world, peers[1], "\"roomId\":\"den\"").0, ["id-1", "id-2"]);
            ask(&mut world, peers[1], "room_leave", "den");
            world.commit();
            world.received(peers[1]);
            for (room, reason) in [("den", "not_member"), ("attic", "no_such_room")] {
                world.text(peers[1], &format!("{{\"type\":\"history\",\"roomId\":\"{room}\"}}"));
                world.settle();
                let texts = world.received_with(peers[1], reason);
                assert!(texts.len() == 1 && texts[0].contains(&format!("\"roomId\":\"{room}\"")), "{texts:?}");
            }
            // Who comes back sees what is said from then on.
            ask(&mut world, peers[1], "room_join", "den");
            world.commit();
            world.received(peers[1]);
            assert_eq!(page(&mut world, peers[1], "\"roomId\":\"den\"").0, [""; 0]);
            say(&mut world, peers[0], "id-3", "hi");
            world.commit();
            assert_eq!(page(&mut world, peers[1], "\"roomId\":\"den\"").0, ["id-3"]);
        }
    }
}

#[test]
fn with_a_user_it_reaches_back_to_what_is_not_confirmed() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let [anna, ben, carol] = [1, 2, 3].map(|seed| world.login(0, seed, "device"));
        let tablet = world.login(0, 2, "tablet");
        world.commit();
        world.disconnect(tablet, Gone::Broken);
        for (from, to, id) in [(anna, 2, "id-1"), (carol, 2, "else"), (ben, 1, "id-2"), (anna, 2, "id-3")] {
            world.send(from, &key(to), id, "hi");
            world.commit();
        }
        world.received(ben);
        let with_anna = format!("\"with\":\"{}\"", key(1).to_hex().as_str());
        assert_eq!(page(&mut world, ben, &with_anna), (names(1..=3), false), "both directions");
        assert_eq!(page(&mut world, ben, &format!("{with_anna},\"limit\":1")), (names(3..=3), true));
        world.confirm(ben, 4);
        assert_eq!(page(&mut world, ben, &with_anna).0, names(1..=3), "another device has them not");
        let tablet = world.login(0, 2, "tablet");
        world.commit();
        world.confirm(tablet, 4);
        assert_eq!(page(&mut world, ben, &with_anna), (vec![], false));
        assert_eq!(
            page(&mut world, ben, &format!("\"with\":\"{}\"", key(9).to_hex().as_str())),
            (vec![], false),
            "a stranger"
        );
    }
}

#[test]
fn a_page_is_at_most_a_frame() {
    let mut world = World::with_store(2, |config| config.limits.messages_per_second = 0);
    let peers = den(&mut world, &[1, 2]);
    for n in 1..=100 {
        say(&mut world, peers[0], &format!("id-{n}"), &"x".repeat(1000));
        if n % 10 == 0 {
            world.confirm(peers[1], n);
            world.commit();
        }
    }
    world.received(peers[1]);
    let (messages, more) = page(&mut world, peers[1], "\"roomId\":\"den\",\"limit\":100");
    assert!(more && (40..60).contains(&messages.len()), "{}", messages.len());
    assert_eq!(messages, names(101 - messages.len() as u32..=100));
}

#[test]
fn it_is_kept_for_the_retention_time() {
    for (retention, expected) in [(Duration::from_secs(60), vec!["id-2"]), (Duration::ZERO, vec![])] {
        let mut world = World::with_store(1, |config| config.retention = retention);
        let peers = den(&mut world, &[1, 2]);
        say(&mut world, peers[0], "id-1", "hi");
        world.confirm(peers[1], 1);
        world.commit();
        world.run(61 * SECOND, SECOND);
        for _ in 0..2 {
            // Heartbeats would close them otherwise.
            world.text(peers[0], r#"{"type":"ping"}"#);
            world.text(peers[1], r#"{"type":"ping"}"#);
        }
        let peers = [1, 2].map(|seed| world.login(0, seed, "device"));
        world.commit();
        say(&mut world, peers[0], "id-2", "hi");
        world.confirm(peers[1], 2);
        world.commit();
        world.received(peers[1]);
        assert_eq!(page(&mut world, peers[1], "\"roomId\":\"den\"").0, expected);
    }
}

#[test]
fn a_page_that_is_full_of_what_is_not_stored_yet_skips_nothing() {
    for chars in [850, 900, 950] {
        let mut world = World::with_store(1, |config| config.limits.messages_per_second = 0);
        let peers = den(&mut world, &[1, 2]);
        say(&mut world, peers[0], "id-1", "a frame so small that it fits where none of the others does");
        world.commit();
        for n in 2..=30 {
            say(&mut world, peers[0], &format!("id-{n}"), &"\u{1F600}".repeat(chars));
        }
        world.received(peers[1]);
        let (messages, more) = page(&mut world, peers[1], "\"roomId\":\"den\",\"limit\":100");
        assert!(more && messages.len() > 10, "{messages:?}");
        assert_eq!(messages, names(31 - messages.len() as u32..=30));
    }
}
