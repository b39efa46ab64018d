//! Sessions and the lobby through shards in memory.

use crate::kit::{MILLISECOND, SECOND, World, masked};
use protocol::frame::LobbyMode;
use relay_core::{Event, Gone};

#[test]
fn a_login_gets_welcome_and_then_a_lobby_with_its_own_key() {
    for shards in [1, 2, 4] {
        let mut world = World::new(shards, |_| {});
        let anna = world.login(0, 1, "a");
        world.run(200 * MILLISECOND, 10 * MILLISECOND);
        let texts = world.received(anna);
        assert!(texts[0].starts_with("{\"type\":\"welcome\""), "{texts:?}");
        assert!(texts[1].starts_with("{\"type\":\"lobby\"") && texts[1].contains(world.key(anna).to_hex().as_str()));
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert_eq!(world.shards.iter().map(|shard| shard.stats().connections).sum::<u64>(), 1);
    }
}

#[test]
fn frames_behind_auth_in_the_same_segment_are_read_at_home() {
    for seed in 1..9 {
        let mut world = World::new(4, |_| {});
        let ben = world.login(0, 100, "b");
        let anna = world.connect(0, seed, "a");
        let auth = world.auth(anna, LobbyMode::None);
        let mut bytes = masked(&auth);
        bytes.extend(masked(&world.message(anna, &world.key(ben), "id-1", "at once")));
        bytes.extend(&masked("{\"type\":\"ping\"}")[..5]);
        world.bytes(anna, bytes);
        world.settle();
        world.bytes(anna, masked("{\"type\":\"ping\"}")[5..].to_vec());
        world.settle();
        let texts = world.received(anna).concat();
        assert!(texts.contains("welcome") && texts.contains("ack") && texts.contains("pong"), "{texts}");
        assert_eq!(world.received_with(ben, "at once").len(), 1);
    }
}

#[test]
fn the_first_change_is_told_at_once_and_the_next_ones_together_a_tick_later() {
    let mut world = World::new(1, |_| {});
    let watcher = world.login(0, 1, "w");
    world.run(SECOND, SECOND);
    world.received(watcher);
    world.login(0, 2, "a");
    assert_eq!(world.received_with(watcher, "lobby_update").len(), 1, "at once");
    let (ben, _) = (world.login(0, 3, "a"), world.login(0, 4, "a"));
    assert_eq!(world.received_with(watcher, "lobby_update").len(), 0);
    world.run(19 * MILLISECOND, MILLISECOND);
    assert_eq!(world.received_with(watcher, "lobby_update").len(), 0);
    world.run(MILLISECOND, MILLISECOND);
    let updates = world.received_with(watcher, "lobby_update");
    assert!(updates.len() == 1 && updates[0].contains("\"count\":4"), "{updates:?}");
    // Comes and goes within a tick: nobody needs to know.
    world.disconnect(ben, Gone::Broken);
    world.login(0, 3, "a");
    world.run(40 * MILLISECOND, 10 * MILLISECOND);
    assert_eq!(world.received_with(watcher, "lobby_update").len(), 0);
}

#[test]
fn a_watcher_that_stalls_gets_one_merged_update() {
    let mut world = World::new(1, |_| {});
    let watcher = world.login(0, 1, "w");
    world.run(SECOND, SECOND);
    world.received(watcher);
    world.peers[watcher].stalled = true;
    let mut last = 0;
    for round in 0..900 {
        if round % 2 == 0 {
            last = world.login(0, 2, "a");
        } else {
            world.disconnect(last, Gone::Broken);
        }
        world.run(20 * MILLISECOND, 20 * MILLISECOND);
    }
    let stays = world.login(0, 3, "a");
    world.run(20 * MILLISECOND, 20 * MILLISECOND);
    world.resume(watcher);
    let updates = world.received_with(watcher, "lobby_update");
    assert!(updates.len() < 500, "{}", updates.len());
    assert!(updates.last().is_some_and(|last| last.contains(world.key(stays).to_hex().as_str())));
    assert!(updates.last().is_some_and(|last| last.contains("\"count\":2")));
    assert!(world.shards[0].stats().lobby_merged > 0);
    assert_eq!(world.peers[watcher].closed_with, None);
}

#[test]
fn the_same_device_again_replaces_the_older_and_the_lobby_sees_nothing() {
    let mut world = World::new(2, |_| {});
    let watcher = world.login(0, 1, "w");
    let older = world.login(0, 2, "phone");
    world.run(SECOND, SECOND);
    world.received(watcher);
    let newer = world.login(1, 2, "phone");
    world.run(SECOND, 100 * MILLISECOND);
    assert_eq!(world.peers[older].closed_with, Some(4409));
    assert!(world.peers[older].shut);
    assert_eq!(world.received(watcher), Vec::<String>::new());
    let beside = world.login(1, 2, "laptop");
    world.disconnect(newer, Gone::Broken);
    world.run(SECOND, 100 * MILLISECOND);
    assert_eq!(world.received(watcher), Vec::<String>::new(), "the laptop is still there");
    world.disconnect(beside, Gone::Eof);
    world.run(SECOND, 100 * MILLISECOND);
    assert_eq!(world.received_with(watcher, "\"left\":[{").len(), 1);
}

#[test]
fn a_ninth_device_is_refused() {
    let mut world = World::new(1, |_| {});
    let devices = ["1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let peers: Vec<_> = devices.into_iter().map(|device| world.login(0, 1, device)).collect();
    assert_eq!(world.peers[peers[8]].closed_with, Some(4429));
    assert_eq!(world.received_with(peers[8], "overloaded").len(), 1);
    assert!(peers[..8].iter().all(|&peer| world.peers[peer].closed_with.is_none()));
}

#[test]
fn a_silent_connection_is_pinged_and_dropped_after_three_heartbeats() {
    let mut world = World::new(1, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    for second in 1..=59 {
        world.run(SECOND, SECOND);
        if second % 15 == 0 {
            world.text(ben, "{\"type\":\"ping\"}");
        }
    }
    assert!(!world.peers[anna].gone);
    assert_eq!((world.peers[anna].pings, world.peers[ben].pings), (2, 0));
    world.received(ben);
    world.run(2 * SECOND, SECOND);
    assert!(world.peers[anna].gone && !world.peers[ben].gone);
    assert_eq!(world.received_with(ben, "\"left\":[{").len(), 1);
}

#[test]
fn who_does_not_open_in_time_is_closed() {
    let mut world = World::new(1, |_| {});
    let challenged = world.connect(0, 1, "a");
    world.settle();
    let connection = relay_core::ConnectionId { index: 900, generation: 1 };
    let peer = std::net::Ipv4Addr::LOCALHOST.into();
    let mut effects = relay_core::Effects::new();
    world.shards[0].handle(Event::Accepted { connection, peer, nonce: [0; 32] }, world.now, &mut effects);
    world.advance(5 * SECOND);
    let mut effects = relay_core::Effects::new();
    world.shards[0].end_of_batch(world.now, &mut effects);
    assert!(
        effects
            .drain()
            .any(|effect| matches!(effect, relay_core::Effect::Close { connection: closed } if closed == connection))
    );
    world.run(6 * SECOND, SECOND);
    assert_eq!(world.peers[challenged].closed_with, Some(4401));
}

#[test]
fn twenty_malformed_frames_in_a_row_close() {
    let mut world = World::new(1, |_| {});
    let anna = world.login(0, 1, "a");
    for _ in 0..19 {
        world.text(anna, "{}");
    }
    world.text(anna, "{\"type\":\"ping\"}");
    for _ in 0..19 {
        world.text(anna, "{}");
    }
    world.settle();
    assert_eq!(world.peers[anna].closed_with, None);
    world.text(anna, "{}");
    world.settle();
    assert_eq!(world.peers[anna].closed_with, Some(1008));
}

#[test]
fn a_flood_of_frames_closes() {
    let mut world = World::new(1, |_| {});
    let anna = world.login(0, 1, "a");
    for _ in 0..100 {
        world.text(anna, "{\"type\":\"ping\"}");
    }
    world.settle();
    assert_eq!(world.peers[anna].closed_with, None);
    world.text(anna, "{\"type\":\"ping\"}");
    world.settle();
    assert_eq!(world.peers[anna].closed_with, Some(4429));
}

#[test]
fn lobby_sync_comes_at_most_every_two_seconds() {
    let mut world = World::new(1, |_| {});
    let anna = world.login(0, 1, "a");
    world.run(SECOND, SECOND);
    world.received(anna);
    for _ in 0..5 {
        world.text(anna, "{\"type\":\"lobby_sync\"}");
        world.settle();
    }
    assert_eq!(world.received_with(anna, "\"type\":\"lobby\"").len(), 1);
    world.run(1900 * MILLISECOND, 100 * MILLISECOND);
    assert_eq!(world.received_with(anna, "\"type\":\"lobby\"").len(), 0);
    world.run(100 * MILLISECOND, 100 * MILLISECOND);
    assert_eq!(world.received_with(anna, "\"type\":\"lobby\"").len(), 1);
    world.run(5 * SECOND, 100 * MILLISECOND);
    assert_eq!(world.received_with(anna, "\"type\":\"lobby\"").len(), 0);
}

#[test]
fn a_drain_says_goodbye_to_everybody() {
    let mut world = World::new(2, |_| {});
    let peers: Vec<_> = (1..6).map(|seed| world.login(0, seed, "a")).collect();
    let opening = world.connect(0, 9, "a");
    world.event(0, Event::Drain);
    world.event(1, Event::Drain);
    world.settle();
    for &peer in &peers {
        let last = world.received(peer).pop().expect("something");
        assert!(last.starts_with("{\"type\":\"restarting\",\"reconnectInMs\":"), "{last}");
        assert_eq!(world.peers[peer].closed_with, Some(1001));
        world.disconnect(peer, Gone::Eof);
    }
    assert_eq!(world.peers[opening].closed_with, Some(1001));
    world.run(3 * SECOND, SECOND);
    assert_eq!(world.shards.iter().map(|shard| shard.stats().connections).sum::<u64>(), 0);
}

#[test]
fn refusals_of_the_upgrade_are_flushed_and_closed() {
    let mut world = World::new(1, |_| {});
    let anna = world.connect(0, 1, "a");
    world.settle();
    assert_eq!(world.peers[anna].closed_with, None);
    let mut bare = World::new(1, |_| {});
    let connection = relay_core::ConnectionId { index: 5, generation: 1 };
    let peer = std::net::Ipv4Addr::LOCALHOST.into();
    let mut effects = relay_core::Effects::new();
    bare.shards[0].handle(Event::Accepted { connection, peer, nonce: [0; 32] }, bare.now, &mut effects);
    let mut request = *b"GET /else HTTP/1.1\r\nHost: a\r\n\r\n";
    bare.shards[0].handle(Event::Received { connection, bytes: &mut request }, bare.now, &mut effects);
    bare.shards[0].end_of_batch(bare.now, &mut effects);
    let written: Vec<u8> = effects
        .drain()
        .find_map(|effect| if let relay_core::Effect::Write { buffer, .. } = effect { Some(buffer) } else { None })
        .expect("a response");
    assert!(written.starts_with(b"HTTP/1.1 404 "));
}
