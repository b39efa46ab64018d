//! The lobby: who is online, told in snapshots and deltas.

use std::thread;

use crate::kit::lobby::Lobby;
use crate::kit::{Client, Engine, Relay, User, Watcher, on_every_engine};

on_every_engine! {
    everybody_sees_everybody_come_and_go,
    a_client_without_lobby_is_seen_and_sees_nothing,
    a_large_lobby_comes_in_pages,
    snapshots_are_whole_while_users_come_and_go,
    who_does_not_read_for_a_while_catches_up,
}

fn everybody_sees_everybody_come_and_go(engine: Engine) {
    let relay = Relay::start(engine);
    let users = User::several(16);
    let mut watchers: Vec<Watcher> = Vec::new();
    for (count, user) in (1..).zip(&users) {
        watchers.push(Watcher::login(&relay, user));
        for watcher in &mut watchers {
            watcher.wait("all so far", |lobby| lobby.users.len() == count);
        }
    }
    for (count, user) in (0..users.len()).zip(&users).rev() {
        watchers.pop().expect("one a user").client.leave();
        for watcher in &mut watchers {
            watcher.wait("one less", |lobby| lobby.users.len() == count && !lobby.users.contains(&user.key));
        }
    }
}

fn a_client_without_lobby_is_seen_and_sees_nothing(engine: Engine) {
    let relay = Relay::start(engine);
    let mut watcher = Watcher::login(&relay, &User::numbered(100));
    for user in User::several(8) {
        let mut client = Client::login(&relay, &user);
        watcher.wait_joined(&user);
        // The user's own coming and the marker's were told by now, to those who want to know.
        let marker = User::numbered(101);
        let other = Watcher::login(&relay, &marker);
        watcher.wait_joined(&marker);
        other.client.leave();
        watcher.wait_left(&marker);
        client.expect_quiet();
        client.send(r#"{"type":"lobby_sync"}"#);
        client.expect_error("malformed");
        client.expect_quiet();
        client.leave();
        watcher.wait_left(&user);
    }
}

/// Logs in users without lobby, some at a time.
fn login_all(relay: &Relay, users: &[User]) -> Vec<Client> {
    thread::scope(|scope| {
        let logins: Vec<_> = users
            .chunks(users.len().div_ceil(4))
            .map(|chunk| scope.spawn(|| chunk.iter().map(|user| Client::login(relay, user)).collect::<Vec<_>>()))
            .collect();
        logins.into_iter().flat_map(|login| login.join().expect("all log in")).collect()
    })
}

fn a_large_lobby_comes_in_pages(engine: Engine) {
    let relay = Relay::start(engine);
    // A page holds at most 64 KiB, a user takes 81 bytes of it.
    let users = User::several(1000);
    let clients = login_all(&relay, &users);
    let mut watcher = Watcher::login(&relay, &User::numbered(5000));
    watcher.wait("everybody", |lobby| lobby.users.len() == users.len() + 1);
    watcher.client.send(r#"{"type":"lobby_sync"}"#);
    watcher.wait("a snapshot of everybody", |lobby| lobby.snapshots > 1);
    assert!(watcher.lobby.pages > 1, "{} pages", watcher.lobby.pages);
    assert!(users.iter().all(|user| watcher.lobby.users.contains(&user.key)));
    drop(clients);
    watcher.wait("all gone", |lobby| lobby.users.len() == 1);
}

fn snapshots_are_whole_while_users_come_and_go(engine: Engine) {
    let relay = Relay::start(engine);
    let users = User::several(900);
    let clients = login_all(&relay, &users);
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            for number in 0..60 {
                Client::login(&relay, &User::numbered(1000 + number % 7)).leave();
            }
        });
        // Each checks every page and delta against its count and digest.
        let mut number = 0;
        while !churn.is_finished() {
            number += 1;
            let mut watcher = Watcher::login(&relay, &User::numbered(2000 + number));
            watcher.client.send(r#"{"type":"lobby_sync"}"#);
            watcher.wait("a second snapshot", |lobby| lobby.snapshots > 1);
            assert!(watcher.lobby.pages > 1);
            watcher.client.leave();
        }
    });
    drop(clients);
}

fn who_does_not_read_for_a_while_catches_up(engine: Engine) {
    let relay = Relay::start(engine);
    let users = User::several(400);
    for reader in (1000..1004).map(User::numbered) {
        let (client, _) = Client::open_narrow(&relay).with_session(&reader, "phone", "all");
        let mut watcher = Watcher { client, lobby: Lobby::default() };
        // Far more is told meanwhile than its kernel and its outbox would hold one by one.
        for _ in 0..4 {
            drop(login_all(&relay, &users));
        }
        let last = login_all(&relay, &users[..10]);
        watcher.wait("the truth", |lobby| {
            lobby.users.len() == 11 && users[..10].iter().all(|user| lobby.users.contains(&user.key))
        });
        watcher.client.leave();
        drop(last);
    }
}
