//! `lobby_sync`: a fresh snapshot on request, at most one in two seconds.

use std::time::{Duration, Instant};

use crate::kit::{Engine, Relay, User, Watcher, on_every_engine};

on_every_engine! {
    a_fresh_snapshot_comes_on_request,
    requests_within_two_seconds_are_merged,
}

const SYNC: &str = r#"{"type":"lobby_sync"}"#;

fn a_fresh_snapshot_comes_on_request(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watchers: Vec<Watcher> = User::several(8).iter().map(|user| Watcher::login(&relay, user)).collect();
    for watcher in &mut watchers {
        watcher.client.send(SYNC);
        watcher.wait("a second snapshot", |lobby| lobby.snapshots == 2);
        watcher.wait("everybody", |lobby| lobby.users.len() == 8);
    }
}

fn requests_within_two_seconds_are_merged(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(0));
    let first_request = Instant::now();
    for _ in 0..20 {
        watcher.client.send(SYNC);
    }
    watcher.wait("a snapshot at once and one for the rest", |lobby| lobby.snapshots == 3);
    // From before the first was asked for: that cannot be shorter than between the two.
    assert!(first_request.elapsed() >= Duration::from_secs(2), "two snapshots within two seconds");
    // The other requests are used up.
    assert_eq!(watcher.client.next_by(Instant::now() + Duration::from_millis(2500)), None);
    watcher.client.send(SYNC);
    watcher.wait("one more", |lobby| lobby.snapshots == 4);
}
