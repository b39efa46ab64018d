//! Typing: merged, told to whom it concerns, and never kept.

use protocol::PublicKey;
use relay_core::Gone;

use crate::kit::{MILLISECOND, World};

fn key(seed: u8) -> PublicKey {
    PublicKey::from(&ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key())
}

fn types(world: &mut World, peer: usize, to: u8, is_typing: bool) {
    let to = key(to).to_hex();
    let frame = format!("{{\"type\":\"typing\",\"recipientPublicKey\":\"{}\",\"isTyping\":{is_typing}}}", to.as_str());
    world.text(peer, &frame);
    world.settle();
}

#[test]
fn the_peer_hears_of_it_within_100_ms_and_once() {
    for mut world in [World::new(2, |_| {}), World::with_store(2, |_| {}), World::new(1, |_| {})] {
        let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
        let (tablet, carl) = (world.login(0, 2, "tablet"), world.login(0, 3, "c"));
        world.commit();
        for is_typing in [true, false, true] {
            types(&mut world, anna, 2, is_typing);
        }
        world.run(100 * MILLISECOND, 10 * MILLISECOND);
        for peer in [ben, tablet] {
            let told = world.received_with(peer, "\"typing\"");
            assert!(told.len() == 1 && told[0].contains("\"isTyping\":true"), "{told:?}");
            assert!(told[0].contains(&format!("\"senderPublicKey\":\"{}\"", key(1).to_hex().as_str())), "{told:?}");
        }
        assert!(world.received_with(anna, "\"typing\"").is_empty());
        assert!(world.received_with(carl, "\"typing\"").is_empty());
    }
}

#[test]
fn nobody_finds_it_later_and_a_stranger_is_no_error() {
    let mut world = World::with_store(2, |_| {});
    let (anna, ben) = (world.login(0, 1, "a"), world.login(0, 2, "b"));
    world.commit();
    world.disconnect(ben, Gone::Broken);
    world.received(anna);
    types(&mut world, anna, 2, true);
    types(&mut world, anna, 9, true);
    world.commit();
    let ben = world.login(0, 2, "b");
    world.commit();
    assert!(world.received_with(ben, "\"typing\"").is_empty());
    assert!(world.received_with(anna, "\"error\"").is_empty());
}
