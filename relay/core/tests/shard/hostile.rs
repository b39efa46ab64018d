//! What a peer can do with its bytes and its timing, and what it must not reach by it.

use std::time::Duration;

use crate::kit::{SECOND, World, masked};
use protocol::frame::LobbyMode;
use protocol::websocket::{Opcode, push_masked};
use protocol::{PublicKey, upgrade};
use relay_core::{Config, Event, Gone, ShardId};

fn ping() -> Vec<u8> {
    let mut bytes = Vec::new();
    push_masked(&mut bytes, Opcode::Ping, b"", [1, 2, 3, 4]);
    bytes
}

#[test]
fn a_message_whose_sender_is_forgotten_in_its_batch_is_refused_in_peace() {
    let mut world = World::new(1, |config| config.memory_after_leave = Duration::ZERO);
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    let forged = world.message(anna, &world.key(ben), "id-1", "hi").replace("\"hi\"", "\"ho\"");
    world.text(anna, &forged);
    world.disconnect(anna, Gone::Broken);
    world.settle();
    assert_eq!(world.shards[0].stats().messages_refused, 1);
    let anna = world.login(0, 1, "a");
    assert!(world.received(anna)[0].contains("welcome"));
}

#[test]
fn who_is_too_slow_hears_of_it_behind_a_write_as_large_as_the_outbox() {
    // Among these bounds are some that leave a few bytes free behind a write of many messages.
    for outbox_bytes_max in (12_000..13_400).step_by(20) {
        let mut world = World::new(1, |config| {
            config.limits.messages_per_second = 0;
            config.limits.outbox_bytes_max = outbox_bytes_max;
        });
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        // A small write is in flight, and all that comes behind it waits to be the next one.
        world.peers[ben].stalled = true;
        world.bytes(ben, ping());
        world.settle();
        let mut sent = 100;
        let mut send = |world: &mut World| {
            sent += 1;
            let message = world.message(anna, &world.key(ben), &sent.to_string(), &"x".repeat(900));
            world.text(anna, &message);
            world.settle();
            // With the header of the push and `"seq":N,`, which has one digit here.
            message.len() + 4 + 8
        };
        let mut free = outbox_bytes_max - 2;
        let mut push_bytes = 0;
        while push_bytes <= free {
            push_bytes = send(&mut world);
            free -= push_bytes;
        }
        assert_eq!(world.shards[0].stats().closed_too_slow, 0);
        assert!(world.read_one(ben));
        send(&mut world);
        assert_eq!(world.shards[0].stats().closed_too_slow, 1);
        assert!(!world.peers[ben].gone, "it is given time to read the close");
        world.resume(ben);
        assert_eq!(world.peers[ben].closed_with, Some(4408), "{outbox_bytes_max}");
    }
}

#[test]
fn a_flood_of_pings_before_auth_closes() {
    let mut world = World::new(1, |_| {});
    let (flood, patient) = (world.connect(0, 1, "a"), world.connect(0, 2, "b"));
    for _ in 0..100 {
        world.bytes(flood, ping());
        world.bytes(patient, ping());
    }
    world.settle();
    assert_eq!(world.peers[flood].closed_with, None);
    world.bytes(flood, ping());
    world.settle();
    assert_eq!(world.peers[flood].closed_with, Some(4429));
    let auth = world.auth(patient, LobbyMode::All);
    world.text(patient, &auth);
    world.settle();
    assert!(world.received(patient)[0].contains("welcome"));
}

#[test]
fn a_refused_frame_of_right_form_ends_a_row_of_malformed_ones() {
    let mut world = World::new(1, |_| {});
    let anna = world.login(0, 1, "a");
    for _ in 0..2 {
        for _ in 0..15 {
            world.text(anna, "{}");
        }
        world.text(anna, "{\"type\":\"room_join\",\"roomId\":\"r\"}");
    }
    world.settle();
    assert_eq!(world.received_with(anna, "\"no_such_room\"").len(), 2);
    assert_eq!(world.peers[anna].closed_with, None);
}

#[test]
fn an_error_before_auth_names_the_id_of_its_frame() {
    for (room, refused) in [("r", "\"roomId\":\"r\""), ("no room", "\"clientMessageId\":\"id-1\"")] {
        let mut world = World::new(1, |_| {});
        let anna = world.connect(0, 1, "a");
        let message = world.message(anna, &world.key(anna), "id-1", "hi");
        world.text(anna, &message.replacen('{', &format!("{{\"roomId\":\"{room}\","), 1));
        world.settle();
        let answer = world.received_with(anna, "auth_failed").concat();
        assert!(answer.contains("id-1") && answer.contains(refused), "{answer}");
        assert_eq!(world.peers[anna].closed_with, Some(4401));
    }
}

#[test]
fn a_drain_meets_a_connection_that_is_about_to_move() {
    let mut world = World::new(2, |_| {});
    let config = Config::new(ShardId(0), 2, 42);
    let home = |seed| {
        let key = ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
        config.home(&PublicKey::from(&key.verifying_key()))
    };
    let seed = (1..100).find(|&seed| home(seed) == ShardId(1)).expect("a key of the other shard");
    let anna = world.connect(0, seed, "a");
    let auth = world.auth(anna, LobbyMode::All);
    world.peers[anna].stalled = true;
    world.bytes(anna, [ping(), masked(&auth)].concat());
    world.settle();
    assert_eq!(world.shards[0].stats().handed_over, 0, "its pong is in flight");
    world.event(0, Event::Drain);
    world.settle();
    world.resume(anna);
    assert_eq!(world.peers[anna].closed_with, Some(1001));
    world.disconnect(anna, Gone::Eof);
    world.run(SECOND, SECOND);
    assert_eq!(world.shards[0].stats().connections, 0);
}

#[test]
fn sessions_that_come_and_go_within_a_batch_leave_the_lobby_right() {
    let mut world = World::new(3, |_| {});
    let watcher = world.login(0, 1, "w");
    world.run(SECOND, SECOND / 10);
    world.received(watcher);
    for round in 0..20u8 {
        for seed in 2..6 {
            let peer = world.connect(usize::from(round % 3), seed, "a");
            let auth = world.auth(peer, LobbyMode::All);
            world.text(peer, &auth);
            if (round + seed) % 3 != 0 {
                world.settle();
            }
            world.disconnect(peer, Gone::Broken);
        }
        world.run(SECOND / 50, SECOND / 50);
    }
    world.run(SECOND, SECOND / 10);
    let last = world.received_with(watcher, "lobby").pop();
    assert!(last.is_none_or(|last| last.contains("\"count\":1,")));
    assert!(world.shards.iter().all(|shard| shard.lobby_totals().count == 1));
}

#[test]
fn an_upgrade_in_single_bytes_is_one_upgrade() {
    let mut world = World::new(1, |_| {});
    let whole = world.connect(0, 1, "a");
    world.settle();
    let expected = world.received(whole);
    assert_eq!(expected.len(), 1);
    let mut request = Vec::new();
    upgrade::request("localhost", "/ws", [7; 16], &mut request);
    // A blank line in front is passed over (RFC 9112, 2.2).
    request.splice(0..0, *b"\r\n\r\n");
    let connection = relay_core::ConnectionId { index: 700, generation: 3 };
    let peer = std::net::Ipv4Addr::LOCALHOST.into();
    let mut effects = relay_core::Effects::new();
    world.shards[0].handle(Event::Accepted { connection, peer, nonce: [9; 32] }, world.now, &mut effects);
    for byte in &mut request {
        let bytes = std::slice::from_mut(byte);
        world.shards[0].handle(Event::Received { connection, bytes }, world.now, &mut effects);
    }
    world.shards[0].end_of_batch(world.now, &mut effects);
    let writes = effects.drain().filter(|effect| matches!(effect, relay_core::Effect::Write { .. }));
    assert_eq!(writes.count(), 1);
}
