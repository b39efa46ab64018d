//! Rooms: who is in them, who hears of it, and what is left of it after a crash.

use protocol::PublicKey;
use protocol::frame::Target;
use protocol::limits::{RELAY_FRAME_BYTES, ROOM_MEMBERS};
use protocol::server_frame::{ServerFrame, ServerFrameDecoder};
use relay_core::store::RoomRecord;
use relay_core::{Batch, Gone, StoreFault};

use crate::kit::{MILLISECOND, SECOND, World};

pub(crate) fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

/// What somebody is told of rooms.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A `room`: its owner and members.
    State(PublicKey, Vec<PublicKey>),
    /// A `room_update`: who joined, who left, and the owner.
    Update(Vec<PublicKey>, Vec<PublicKey>, PublicKey),
    /// An `error` about a room: its reason.
    Error(String),
}

/// What a peer was told of a room since the last call; other frames go.
pub(crate) fn told(world: &mut World, peer: usize, of: &str) -> Vec<Told> {
    let mut decoder = ServerFrameDecoder::new();
    let told = |text: String| match decoder.decode(&text) {
        Ok(ServerFrame::Room(state)) if state.room == of => Some(Told::State(state.owner, state.members)),
        Ok(ServerFrame::RoomUpdate(update)) if update.room == of => {
            Some(Told::Update(update.joined, update.left, update.owner))
        }
        Ok(ServerFrame::Error(error)) if error.room == Some(of) => Some(Told::Error(error.reason.to_owned())),
        _ => None,
    };
    world.received(peer).into_iter().filter_map(told).collect()
}

/// Sends a frame about a room.
pub(crate) fn ask(world: &mut World, peer: usize, kind: &str, room: &str) {
    let rest = if kind == "room_create" { ",\"open\":true" } else { "" };
    world.text(peer, &format!("{{\"type\":\"{kind}\",\"roomId\":\"{room}\"{rest}}}"));
}

/// Sends a frame about a room and a user.
pub(crate) fn ask_about(world: &mut World, peer: usize, kind: &str, room: &str, user: &PublicKey) {
    let user = user.to_hex();
    let frame = format!("{{\"type\":\"{kind}\",\"roomId\":\"{room}\",\"publicKey\":\"{}\"}}", user.as_str());
    world.text(peer, &frame);
}

/// Asks, waits, and gives what the asker was told.
fn answer(world: &mut World, peer: usize, kind: &str, room: &str) -> Vec<Told> {
    ask(world, peer, kind, room);
    world.commit();
    told(world, peer, room)
}

fn answer_about(world: &mut World, peer: usize, kind: &str, room: &str, user: &PublicKey) -> Vec<Told> {
    ask_about(world, peer, kind, room, user);
    world.commit();
    told(world, peer, room)
}

fn error(reason: &str) -> Vec<Told> {
    vec![Told::Error(reason.to_owned())]
}

/// Relays of 1 to 3 shards, without a store and with one.
fn worlds() -> impl Iterator<Item = World> {
    let shards = [1, 2, 3];
    shards.into_iter().flat_map(|shards| [World::new(shards, |_| {}), World::with_store(shards, |_| {})])
}

/// Logs users in, one device each, and makes them members of an open room of the first.
pub(crate) fn den(world: &mut World, seeds: &[u8]) -> Vec<usize> {
    let peers: Vec<usize> = seeds.iter().map(|&seed| world.login(0, seed, "device")).collect();
    world.commit();
    ask(world, peers[0], "room_create", "den");
    world.commit();
    for &peer in &peers[1..] {
        ask(world, peer, "room_join", "den");
        world.commit();
    }
    for &peer in &peers {
        world.received(peer);
    }
    peers
}

#[test]
fn who_asks_gets_the_room_and_every_member_hears_of_a_change() {
    for mut world in worlds() {
        let [anna, ben, tablet] =
            [(1, "a"), (2, "b"), (2, "tablet")].map(|(seed, device)| world.login(0, seed, device));
        world.commit();
        let _ = [anna, ben, tablet].map(|peer| world.received(peer));
        let (a, b) = (key(1), key(2));
        let made = answer(&mut world, anna, "room_create", "den");
        assert_eq!(made, [Told::State(a, vec![a]), Told::Update(vec![a], vec![], a)]);
        assert_eq!(told(&mut world, ben, "den"), [], "nobody else's business");
        let joined = answer(&mut world, ben, "room_join", "den");
        assert_eq!(joined, [Told::State(a, vec![a, b]), Told::Update(vec![b], vec![], a)]);
        for peer in [anna, tablet] {
            assert_eq!(told(&mut world, peer, "den"), [Told::Update(vec![b], vec![], a)]);
        }
        assert_eq!(answer(&mut world, ben, "room_join", "den"), [Told::State(a, vec![a, b])], "it changes nothing");
        assert_eq!(answer(&mut world, tablet, "room_members", "den"), [Told::State(a, vec![a, b])]);
        assert_eq!(told(&mut world, anna, "den"), []);
        let left = answer(&mut world, anna, "room_leave", "den");
        assert_eq!(left, [Told::State(b, vec![b]), Told::Update(vec![], vec![a], b)], "the longest member inherits");
        assert_eq!(told(&mut world, ben, "den"), [Told::Update(vec![], vec![a], b)]);
        let last = answer(&mut world, ben, "room_leave", "den");
        assert_eq!(last, [Told::State(b, vec![]), Told::Update(vec![], vec![b], b)]);
        assert_eq!(answer(&mut world, anna, "room_join", "den"), error("no_such_room"));
        assert_eq!(world.shards.iter().map(|shard| shard.stats().rooms).sum::<u64>(), 0);
    }
}

#[test]
fn who_may_not_is_told_why() {
    for mut world in worlds() {
        let [anna, ben, carol] = [1, 2, 3].map(|seed| world.login(0, seed, "device"));
        world.commit();
        world.text(anna, r#"{"type":"room_create","roomId":"vault","open":false}"#);
        world.commit();
        let _ = [anna, ben, carol].map(|peer| world.received(peer));
        for kind in ["room_join", "room_leave", "room_members"] {
            assert_eq!(answer(&mut world, ben, kind, "vault"), error("not_member"), "{kind}");
            assert_eq!(answer(&mut world, ben, kind, "attic"), error("no_such_room"), "{kind}");
        }
        for kind in ["room_invite", "room_remove"] {
            assert_eq!(answer_about(&mut world, ben, kind, "vault", &key(2)), error("not_member"), "{kind}");
            assert_eq!(answer_about(&mut world, ben, kind, "attic", &key(2)), error("no_such_room"), "{kind}");
        }
        assert_eq!(answer(&mut world, ben, "room_create", "vault"), error("room_exists"));
        let invited = answer_about(&mut world, anna, "room_invite", "vault", &key(2));
        assert_eq!(invited, [Told::State(key(1), vec![key(1)])], "an invitation is no membership");
        assert_eq!(told(&mut world, ben, "vault"), []);
        let joined = answer(&mut world, ben, "room_join", "vault");
        assert_eq!(joined[0], Told::State(key(1), vec![key(1), key(2)]));
        for kind in ["room_invite", "room_remove"] {
            assert_eq!(answer_about(&mut world, ben, kind, "vault", &key(3)), error("not_owner"), "{kind}");
        }
        assert_eq!(answer(&mut world, carol, "room_join", "vault"), error("not_member"));
    }
}

#[test]
fn a_removed_member_hears_of_it_and_of_nothing_more() {
    for mut world in worlds() {
        let peers = den(&mut world, &[1, 2, 3]);
        let removed = answer_about(&mut world, peers[0], "room_remove", "den", &key(2));
        let update = || Told::Update(vec![], vec![key(2)], key(1));
        assert_eq!(removed, [Told::State(key(1), vec![key(1), key(3)]), update()]);
        assert_eq!(told(&mut world, peers[1], "den"), [update()]);
        assert_eq!(told(&mut world, peers[2], "den"), [update()]);
        ask(&mut world, peers[2], "room_leave", "den");
        world.commit();
        assert_eq!(told(&mut world, peers[1], "den"), []);
        assert_eq!(answer(&mut world, peers[1], "room_members", "den"), error("not_member"));
    }
}

#[test]
fn what_a_client_sends_takes_effect_in_its_order() {
    for mut world in worlds() {
        let anna = world.login(0, 1, "device");
        world.commit();
        world.received(anna);
        for kind in ["room_create", "room_leave", "room_leave", "room_create", "room_create"] {
            ask(&mut world, anna, kind, "den");
        }
        world.commit();
        let told = told(&mut world, anna, "den");
        let errors: Vec<&Told> = told.iter().filter(|told| matches!(told, Told::Error(_))).collect();
        assert_eq!(errors, [&error("no_such_room")[0], &error("room_exists")[0]]);
        assert!(told.contains(&Told::State(key(1), vec![key(1)])), "{told:?}");
    }
}

#[test]
fn membership_outlives_connections_and_restarts_with_other_shards() {
    for (before, after) in [(1, 3), (3, 2), (2, 1)] {
        let mut world = World::with_store(before, |_| {});
        let peers = den(&mut world, &[1, 2]);
        world.text(peers[0], r#"{"type":"room_create","roomId":"vault","open":false}"#);
        ask_about(&mut world, peers[0], "room_invite", "vault", &key(3));
        world.commit();
        world.disconnect(peers[0], Gone::Broken);
        let anna = world.login(0, 1, "other");
        world.commit();
        world.received(anna);
        assert_eq!(answer(&mut world, anna, "room_members", "den"), [Told::State(key(1), vec![key(1), key(2)])]);
        world.crash(after);
        let [anna, carol] = [1, 3].map(|seed| world.login(0, seed, "device"));
        world.commit();
        let _ = [anna, carol].map(|peer| world.received(peer));
        assert_eq!(answer(&mut world, anna, "room_members", "den"), [Told::State(key(1), vec![key(1), key(2)])]);
        let joined = answer(&mut world, carol, "room_join", "vault");
        assert_eq!(joined[0], Told::State(key(1), vec![key(1), key(3)]), "the invitation survived");
        for (peer, room) in [(anna, "vault"), (carol, "vault")] {
            ask(&mut world, peer, "room_leave", room);
        }
        world.commit();
        world.restart(before);
        let anna = world.login(0, 1, "device");
        world.commit();
        world.received(anna);
        assert_eq!(answer(&mut world, anna, "room_join", "vault"), error("no_such_room"), "gone, and stays so");
        assert_eq!(answer(&mut world, anna, "room_members", "den").len(), 1);
    }
}

#[test]
fn an_answer_waits_for_the_store_and_what_was_answered_survives_a_crash() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2, 3]);
        world.store_waits = true;
        ask(&mut world, peers[1], "room_leave", "den");
        world.run(10 * MILLISECOND, MILLISECOND);
        // On its way to the store: what is asked now waits behind it.
        ask(&mut world, peers[2], "room_leave", "den");
        world.settle();
        ask(&mut world, peers[0], "room_members", "den");
        world.run(10 * MILLISECOND, MILLISECOND);
        for &peer in &peers {
            assert_eq!(told(&mut world, peer, "den"), [], "nothing of it is stored");
        }
        let mut crashed = world.disk.clone();
        world.store_waits = false;
        world.commit();
        assert_eq!(told(&mut world, peers[1], "den")[0], Told::State(key(1), vec![key(1), key(3)]));
        let third = told(&mut world, peers[2], "den");
        assert!(third.contains(&Told::State(key(1), vec![key(1)])), "{third:?}");
        let asked = told(&mut world, peers[0], "den");
        assert!(asked.contains(&Told::State(key(1), vec![key(1)])), "{asked:?}");
        std::mem::swap(&mut world.disk, &mut crashed);
        world.crash(shards);
        let anna = world.login(0, 1, "device");
        world.commit();
        world.received(anna);
        let all = vec![key(1), key(2), key(3)];
        assert_eq!(answer(&mut world, anna, "room_members", "den"), [Told::State(key(1), all)], "nothing was promised");
        std::mem::swap(&mut world.disk, &mut crashed);
        world.crash(shards);
        let anna = world.login(0, 1, "device");
        world.commit();
        world.received(anna);
        assert_eq!(answer(&mut world, anna, "room_members", "den"), [Told::State(key(1), vec![key(1)])]);
    }
}

#[test]
fn a_full_disk_refuses_a_change_and_leaves_the_room_as_it_is_stored() {
    for shards in [1, 2, 3] {
        let mut world = World::with_store(shards, |_| {});
        let peers = den(&mut world, &[1, 2, 3]);
        world.fault = Some(StoreFault::Full);
        for kind in ["room_leave", "room_create"] {
            let room = if kind == "room_create" { "attic" } else { "den" };
            ask(&mut world, peers[0], kind, room);
        }
        ask_about(&mut world, peers[0], "room_remove", "den", &key(2));
        world.run(SECOND, 10 * MILLISECOND);
        let refused = told(&mut world, peers[1], "den");
        assert_eq!(refused, [], "nobody hears of what did not happen");
        let texts = world.received(peers[0]);
        let overloaded = texts.iter().filter(|text| text.contains("overloaded") && text.contains("retryAfterMs"));
        assert_eq!(overloaded.count(), 2, "and the owner, who had left, could not remove: {texts:?}");
        world.fault = None;
        world.run(SECOND, 50 * MILLISECOND);
        let all = vec![key(1), key(2), key(3)];
        assert_eq!(answer(&mut world, peers[0], "room_members", "den"), [Told::State(key(1), all)]);
        assert_eq!(answer(&mut world, peers[0], "room_create", "attic").len(), 2, "its name is free");
        let removed = answer_about(&mut world, peers[0], "room_remove", "den", &key(2));
        assert_eq!(removed[0], Told::State(key(1), vec![key(1), key(3)]));
    }
}

#[test]
fn after_a_failed_sync_no_change_is_answered() {
    let mut world = World::with_store(2, |_| {});
    let peers = den(&mut world, &[1, 2]);
    world.fault = Some(StoreFault::Failed);
    assert_eq!(answer(&mut world, peers[1], "room_leave", "den"), error("overloaded"));
    world.fault = None;
    assert_eq!(answer(&mut world, peers[1], "room_leave", "den"), error("overloaded"));
    assert_eq!(answer(&mut world, peers[0], "room_members", "den"), [Told::State(key(1), vec![key(1), key(2)])]);
}

#[test]
fn changes_that_are_stored_together_are_told_together() {
    let mut world = World::with_store(2, |_| {});
    let peers: Vec<usize> = (1..=20).map(|seed| world.login(0, seed, "device")).collect();
    world.commit();
    ask(&mut world, peers[0], "room_create", "den");
    world.commit();
    told(&mut world, peers[0], "den");
    for &peer in &peers[1..] {
        ask(&mut world, peer, "room_join", "den");
    }
    world.commit();
    let updates = told(&mut world, peers[0], "den");
    let joined: usize = updates
        .iter()
        .map(|told| match told {
            Told::Update(joined, _, _) => joined.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(joined, 19);
    assert!(updates.len() <= 2, "{}", updates.len());
    for &peer in &peers[1..] {
        let told = told(&mut world, peer, "den");
        let Told::State(_, members) = &told[0] else { panic!("{told:?}") };
        assert_eq!(members.len(), 20);
    }
}

#[test]
fn rooms_are_bounded_in_all_and_for_each_owner() {
    let mut world = World::with_store(1, |config| {
        config.limits.rooms_max = 3;
        config.limits.owner_rooms_max = 2;
    });
    let [anna, ben] = [1, 2].map(|seed| world.login(0, seed, "device"));
    world.commit();
    for room in ["one", "two"] {
        assert_eq!(answer(&mut world, anna, "room_create", room).len(), 2);
    }
    assert_eq!(answer(&mut world, anna, "room_create", "three"), error("overloaded"));
    assert_eq!(answer(&mut world, ben, "room_create", "three").len(), 2);
    assert_eq!(answer(&mut world, ben, "room_create", "four"), error("overloaded"));
    ask(&mut world, anna, "room_leave", "one");
    world.commit();
    assert_eq!(answer(&mut world, ben, "room_create", "four").len(), 2, "what was left has made place");
    assert_eq!(world.shards[0].stats().rooms, 3);
}

#[test]
fn a_full_room_takes_nobody_and_fits_into_a_frame_and_its_messages_go_to_all() {
    let member = |n: u16| {
        let mut bytes = [7; 32];
        bytes[..2].copy_from_slice(&n.to_le_bytes());
        (PublicKey::from_bytes(bytes), i64::from(n))
    };
    let mut members: Vec<(PublicKey, i64)> = (0..ROOM_MEMBERS as u16 - 1).map(member).collect();
    members.push((key(1), 999));
    let room = RoomRecord { id: "den".into(), owner: members[0].0, open: true, members, invited: Vec::new() };
    let mut world = World::with_store(1, |_| {});
    world.disk.apply(&Batch { number: 1, rooms: vec![room], ..Batch::default() });
    world.crash(3);
    let [anna, ben] = [1, 2].map(|seed| world.login(0, seed, "device"));
    world.commit();
    let _ = [anna, ben].map(|peer| world.received(peer));
    assert_eq!(answer(&mut world, ben, "room_join", "den"), error("room_full"));
    ask(&mut world, anna, "room_members", "den");
    world.commit();
    let texts = world.received(anna);
    assert!(texts.len() == 1 && texts[0].len() <= RELAY_FRAME_BYTES && texts[0].contains("\"owner\""), "{texts:?}");
    let message = world.message_to(anna, Target::Room("den"), "id-1", "hi");
    world.text(anna, &message);
    world.commit();
    assert_eq!(world.received_with(anna, "\"ack\"").len(), 1);
    let waiting = (0..ROOM_MEMBERS as u16 - 1).filter(|&n| !world.disk.inbox(&member(n).0).is_empty());
    assert_eq!(waiting.count(), ROOM_MEMBERS - 1);
    assert_eq!(answer(&mut world, anna, "room_leave", "den").len(), 2);
    assert!(matches!(answer(&mut world, ben, "room_join", "den")[..], [Told::State(..), Told::Update(..)]));
}
