//! Liveness: idle connections are pinged, silent ones dropped.

use crate::kit::{Client, Engine, Got, Relay, User, Watcher, on_every_engine, wire};

on_every_engine! {
    idle_connections_are_pinged,
    who_stays_silent_is_dropped_and_who_answers_is_not,
    frames_are_a_sign_of_life_too,
}

fn idle_connections_are_pinged(engine: Engine) {
    let relay = Relay::with(engine, &["--heartbeat", "1s"]);
    let mut clients: Vec<Client> = User::several(8).iter().map(|user| Client::login(&relay, user)).collect();
    for _ in 0..3 {
        for client in &mut clients {
            assert_eq!(client.next(), Got::Ping);
        }
    }
}

fn who_stays_silent_is_dropped_and_who_answers_is_not(engine: Engine) {
    let relay = Relay::with(engine, &["--heartbeat", "1s"]);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    let users = User::several(8);
    // Their kernels take the pings, and nobody answers: what the relay sees of a peer that is gone
    // without a word.
    let silent: Vec<Client> = users.iter().map(|user| Client::login(&relay, user)).collect();
    for user in &users {
        watcher.wait_joined(user);
    }
    for user in &users {
        watcher.wait_left(user);
    }
    // The watcher was as idle, and answered.
    watcher.client.expect_quiet();
    for mut client in silent {
        loop {
            match client.next() {
                Got::Ping | Got::Close(_) => {}
                got => break assert_eq!(got, Got::End),
            }
        }
    }
}

fn frames_are_a_sign_of_life_too(engine: Engine) {
    let relay = Relay::with(engine, &["--heartbeat", "1s"]);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    // One who is never heard shows when three heartbeats are over.
    let silent = User::numbered(0);
    let user = User::numbered(1);
    let _silent = Client::login(&relay, &silent);
    // Never reads, so never answers a ping; it only talks.
    let mut talking = Client::login(&relay, &user);
    watcher.wait_joined(&silent);
    watcher.wait_joined(&user);
    while watcher.lobby.users.contains(&silent.key) {
        talking.raw(&wire::text(r#"{"type":"ping"}"#));
        // The watcher's own pings set the pace.
        if let Got::Text(text) = watcher.client.next() {
            let frame = serde_json::from_str(&text).expect("the relay sends JSON");
            assert!(watcher.lobby.apply(&frame), "{frame}");
        }
    }
    assert!(watcher.lobby.users.contains(&user.key), "a talking client was dropped");
}
