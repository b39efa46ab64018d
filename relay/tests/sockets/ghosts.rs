//! Users whose connection ends without a word leave the lobby, at whatever moment it ends.
//!
//! The heartbeat is too slow to help here: it would take a minute, and every wait is shorter.

use std::time::Instant;

use crate::kit::{Client, Engine, Relay, User, Watcher, on_every_engine, wire};

on_every_engine! {
    after_a_reset,
    after_an_end_without_a_close,
    after_a_reset_with_bytes_unread,
    after_an_end_right_behind_the_auth,
    after_a_replacement_and_a_reset_at_once,
}

/// Waits until only the watcher is left, having made sure that both shards have told all they knew.
fn expect_nobody(relay: &Relay, watcher: &mut Watcher) {
    let markers: Vec<User> = (200..208).map(User::numbered).collect();
    let clients: Vec<Client> = markers.iter().map(|marker| Client::login(relay, marker)).collect();
    watcher.wait("all markers and nobody else", |lobby| {
        lobby.users.len() == 1 + markers.len() && markers.iter().all(|marker| lobby.users.contains(&marker.key))
    });
    clients.into_iter().for_each(Client::leave);
    watcher.wait("nobody", |lobby| lobby.users.len() == 1);
}

fn after_a_reset(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    let mut sender = Client::login(&relay, &User::numbered(101));
    for user in User::several(8) {
        let client = Client::login(&relay, &user);
        watcher.wait_joined(&user);
        let reset = Instant::now();
        client.reset();
        watcher.wait_left(&user);
        println!("gone {:?} after the reset", reset.elapsed());
        let draft = User::numbered(101).draft(&user, "are you there?");
        sender.send(&draft.frame());
        sender.expect_refusal("offline", &draft.id);
    }
}

fn after_an_end_without_a_close(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    for user in User::several(8) {
        let client = Client::login(&relay, &user);
        watcher.wait_joined(&user);
        drop(client);
        watcher.wait_left(&user);
    }
}

fn after_a_reset_with_bytes_unread(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    for user in User::several(8) {
        let mut client = Client::login(&relay, &user);
        watcher.wait_joined(&user);
        // Half a frame, and answers that nobody reads.
        let frames: Vec<String> = (0..20).map(|_| user.draft(&user, "hello").frame()).collect();
        let bytes = wire::texts(&frames);
        client.raw(&bytes[..bytes.len() - 1]);
        client.reset();
        watcher.wait_left(&user);
    }
    expect_nobody(&relay, &mut watcher);
}

fn after_an_end_right_behind_the_auth(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    for user in User::several(48) {
        let mut client = Client::open(&relay);
        let auth = client.answer(&user, "phone", "all");
        client.send(&auth);
        // The connection ends while it is on its way home, or just before or after.
        if user.key.as_bytes()[0] % 2 == 0 { client.reset() } else { drop(client) }
    }
    expect_nobody(&relay, &mut watcher);
}

fn after_a_replacement_and_a_reset_at_once(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    for user in User::several(16) {
        let first = Client::login(&relay, &user);
        watcher.wait_joined(&user);
        let mut second = Client::open(&relay);
        let auth = second.answer(&user, "phone", "none");
        second.send(&auth);
        first.reset();
        second.expect("welcome");
        second.expect_quiet();
        // The first one's end is not taken for the second one's.
        let draft = user.draft(&user, "still here");
        second.send(&draft.frame());
        let mut answers = [second.text(), second.text()];
        answers.sort();
        assert!(answers[1].contains(r#""type":"ack""#), "{}", answers[1]);
        second.reset();
        watcher.wait_left(&user);
    }
    expect_nobody(&relay, &mut watcher);
}
