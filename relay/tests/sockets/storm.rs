//! Five hundred users storm in and out, and everybody who watches ends up with the truth.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::kit::{Client, Engine, Got, Relay, User, Watcher, on_every_engine};

on_every_engine! {
    observers_converge,
}

const USERS: usize = 500;
const OBSERVERS: usize = 6;

/// A small generator (splitmix64) for a course that is the same in each run.
struct Course(u64);

impl Course {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn observers_converge(engine: Engine) {
    let relay = Relay::start(engine);
    let users = User::several(USERS);
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        // They read, and check each frame, all through the storm.
        let observers: Vec<_> = (0..OBSERVERS)
            .map(|number| {
                let (relay, is_over) = (&relay, &is_over);
                scope.spawn(move || {
                    let mut watcher = Watcher::login(relay, &User::numbered(1000 + number));
                    let mut frames = 0;
                    while !is_over.load(Ordering::Acquire) {
                        // Frames come as long as users do; one heartbeat bounds the wait.
                        if let Got::Text(text) = watcher.client.next() {
                            assert!(watcher.lobby.apply(&serde_json::from_str(&text).expect("JSON")), "{text}");
                            frames += 1;
                        }
                    }
                    (watcher, frames)
                })
            })
            .collect();

        // Each of these has a part of the users, and ends with those who are online.
        let storm: Vec<_> = users
            .chunks(USERS / 4)
            .enumerate()
            .map(|(number, part)| {
                let relay = &relay;
                scope.spawn(move || {
                    let mut course = Course(number as u64);
                    let mut online: Vec<Option<Client>> = part.iter().map(|_| None).collect();
                    for (slot, user) in online.iter_mut().zip(part) {
                        *slot = Some(Client::login(relay, user));
                    }
                    for _ in 0..2 * part.len() {
                        let at = course.next() as usize % part.len();
                        online[at] = match online[at].take() {
                            None => Some(Client::login(relay, &part[at])),
                            Some(client) => match course.next() % 4 {
                                0 => {
                                    client.leave();
                                    None
                                }
                                1 => {
                                    client.reset();
                                    None
                                }
                                2 => {
                                    drop(client);
                                    None
                                }
                                // The same device again, and the older connection just forgotten.
                                _ => Some(Client::login(relay, &part[at])),
                            },
                        };
                    }
                    online
                })
            })
            .collect();
        let online: Vec<Option<Client>> =
            storm.into_iter().flat_map(|part| part.join().expect("the storm rages")).collect();

        is_over.store(true, Ordering::Release);
        // Two more, so that each observer has a frame to wake up to and a last change to see.
        let last = [User::numbered(2000), User::numbered(2001)];
        let _last: Vec<Client> = last.iter().map(|user| Client::login(&relay, user)).collect();

        let truth: BTreeSet<String> = users
            .iter()
            .zip(&online)
            .filter(|(_, client)| client.is_some())
            .map(|(user, _)| user.key.clone())
            .chain(last.iter().map(|user| user.key.clone()))
            .chain((0..OBSERVERS).map(|number| User::numbered(1000 + number).key))
            .collect();
        println!("{} of {USERS} are online", online.iter().flatten().count());
        let mut watchers: Vec<(Watcher, usize)> =
            observers.into_iter().map(|observer| observer.join().expect("no frame breaks the contract")).collect();
        for (watcher, frames) in &mut watchers {
            watcher.wait("the truth", |lobby| lobby.users == truth);
            println!("converged, {frames} frames while the storm raged");
            // Nothing changes any more, and a snapshot says the same.
            watcher.client.send(r#"{"type":"lobby_sync"}"#);
            let snapshots = watcher.lobby.snapshots;
            watcher.wait("a fresh snapshot", |lobby| lobby.snapshots > snapshots);
            assert_eq!(watcher.lobby.users, truth);
        }
    });
}
