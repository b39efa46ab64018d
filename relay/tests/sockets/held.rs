//! Fifteen thousand connections held by one relay.
//!
//! Relay and test hold an end each, so both need a limit of more than 15,000 open files; the ports
//! come from several loopback addresses.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::kit::lobby::Lobby;
use crate::kit::{Client, Engine, Relay, User, Watcher, on_every_engine, wire};

const CONNECTIONS: usize = 15_000;

on_every_engine! {
    fifteen_thousand,
}

fn fifteen_thousand(engine: Engine) {
    // The limit of open files is the process's, not the test's.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    allow_open_files(CONNECTIONS as u64 + 500);

    // A heartbeat would ask each of them to answer while others log in.
    let relay = Relay::with(engine, &["--heartbeat", "10m"]);
    let at_first = relay.resident_bytes();
    let users = User::several(CONNECTIONS);
    let mut clients: Vec<Client> = thread::scope(|scope| {
        let parts: Vec<_> = users
            .chunks(CONNECTIONS / 4)
            .zip(1..)
            .map(|(part, number)| {
                let (relay, source) = (&relay, Ipv4Addr::new(127, 0, 1, number));
                scope.spawn(move || -> Vec<Client> {
                    let login = |user| Client::open_from(relay, source).with_session(user, "phone", "none").0;
                    part.iter().map(login).collect()
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("all log in")).collect()
    });
    let resident = relay.resident_bytes();
    println!(
        "{engine}: {CONNECTIONS} sessions, {} MiB resident, {} bytes a session in user space",
        resident / 1024 / 1024,
        resident.saturating_sub(at_first) / CONNECTIONS as u64,
    );

    let mut watcher = Watcher::login(&relay, &User::numbered(CONNECTIONS));
    watcher.wait("everybody", |lobby| lobby.users.len() == CONNECTIONS + 1);
    assert!(users.iter().all(|user| watcher.lobby.users.contains(&user.key)));

    // A snapshot of this size goes out as it is read. Another one is asked for while the first is on
    // its way, and breaks nothing off.
    let (mut client, _) = Client::open_narrow(&relay).with_session(&User::numbered(CONNECTIONS + 1), "watch", "all");
    client.send(r#"{"type":"lobby_sync"}"#);
    client.send(r#"{"type":"lobby_sync"}"#);
    let mut slow = Watcher { client, lobby: Lobby::default() };
    slow.wait("everybody", |lobby| lobby.users.len() == CONNECTIONS + 2);
    slow.wait("a snapshot on request", |lobby| lobby.snapshots > 1);
    assert!(slow.lobby.pages > 15, "{} pages of at most 64 KiB", slow.lobby.pages);
    slow.client.leave();

    // Any of them can talk to any other, first and last ones too.
    for at in (0..CONNECTIONS).step_by(149) {
        let to = CONNECTIONS - 1 - at;
        if to == at {
            continue;
        }
        let draft = users[at].draft(&users[to], "hello across the crowd");
        clients[at].say(&draft);
        let (_, pushed) = clients[to].expect_push();
        assert_eq!(pushed, draft.frame());
    }
    for client in &mut clients {
        client.raw(&wire::text(r#"{"type":"ping"}"#));
    }
    for client in &mut clients {
        client.expect("pong");
    }

    drop(clients);
    let mut left = watcher.lobby.users.len();
    while left > 1 {
        watcher.wait("more to leave", |lobby| lobby.users.len() < left);
        left = watcher.lobby.users.len();
    }
}

/// Raises this process's limit as far as needed.
fn allow_open_files(files: u64) {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.current.unwrap_or(u64::MAX);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    assert!(maximum >= files, "{maximum} open files are too few here: raise the hard limit to {files}");
    if current < files {
        setrlimit(Resource::Nofile, Rlimit { current: Some(files), ..limit }).expect("the hard limit allows it");
    }
}
