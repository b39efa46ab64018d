//! The store against the model of the seam (`relay_core::store::model`), over many random commits,
//! crashes, restarts and full disks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use relay_core::store::model::ModelStore;
use relay_core::store::{Batch, Conversation, Page, PageOf, PageRequest, Restored, UserRecord};
use relay_core::{Config, ShardId, StoreFault};
use relay_store::{Contents, Store};

use crate::kit::{
    Making, NOW, child_dir, child_in_namespace, id_record, key, load, of_room, open, quick_dir, record, request, room,
    succeeded,
};

const USERS: u8 = 6;
const ROOMS: [&str; 2] = ["hall", "garden"];

/// The model, and what batches are made from.
#[derive(Clone, Debug, Default)]
struct Truth {
    model: ModelStore,
    /// The last seq of each user that is there.
    users: BTreeMap<u8, u64>,
    ids: u64,
}

impl Truth {
    /// Makes a random batch, and gives it to the model.
    fn batch(&mut self, rng: &mut ChaCha8Rng) -> Batch {
        let mut making = Making::default();
        let number = rng.random_range(1..=USERS);
        if rng.random_range(0..8) == 0 {
            self.users.remove(&number);
            making.0.forgotten_users.push(key(number));
        }
        for _ in 0..rng.random_range(1..8) {
            let number = rng.random_range(1..=USERS);
            let is_new = !self.users.contains_key(&number);
            let seq = self.users.entry(number).or_default();
            if is_new || rng.random_range(0..6) == 0 {
                making.0.users.retain(|user| user.key != key(number));
                making.0.users.push(UserRecord { seq: *seq, active_ms: rng.random(), ..record(number) });
            }
            let sender = rng.random_range(100..104);
            match rng.random_range(0..10) {
                0..5 => {
                    *seq += 1;
                    making = making.message(sender, number, *seq, "text");
                }
                5..8 => {
                    let offline: Vec<u8> = (1..=USERS).filter(|_| rng.random()).collect();
                    let to: Vec<_> = self
                        .users
                        .iter_mut()
                        .map(|(number, seq)| {
                            *seq += 1;
                            (*number, *seq)
                        })
                        .collect();
                    let sender = if rng.random() { sender } else { number };
                    making = making.room_message(ROOMS[rng.random_range(0..2)], sender, &to, &offline, NOW);
                }
                8 => {
                    let through = rng.random_range(0..=*seq);
                    making = making.remove(number, through);
                }
                _ => {
                    self.ids += 1;
                    making.0.ids.push(id_record(rng.random_range(0..9), NOW + self.ids as i64));
                    making.0.rooms.push(room(ROOMS[rng.random_range(0..2)], &[number]));
                    if rng.random_range(0..4) == 0 {
                        making.0.forgotten_rooms.push(ROOMS[rng.random_range(0..2)].into());
                    }
                }
            }
        }
        self.model.apply(&making.0);
        making.0
    }

    /// Some pages of the store are those of the model.
    fn compare_pages(&self, store: &mut Store, rng: &mut ChaCha8Rng) {
        for number in 1..=USERS {
            let before = rng.random_range(0..60);
            let whats = [
                PageOf::Inbox { after: 0 },
                PageOf::Inbox { after: before },
                of_room(ROOMS[0], u64::MAX, 0),
                of_room(ROOMS[1], before, 0),
                of_room(ROOMS[1], u64::MAX, NOW + 1),
                PageOf::History { with: Conversation::User(key(101)), before, since_ms: 0 },
            ];
            for what in whats {
                let request = PageRequest { bytes_max: 2000, ..request(number, what, rng.random_range(1..20)) };
                let (page, expected) = (load(store, request.clone()), self.model.page(request));
                assert_eq!(shown(&page), shown(&expected), "{:?}", expected.request);
            }
        }
    }

    /// What the store has at a start is what the model has.
    fn compare_contents(&self, contents: Contents) {
        let Restored { users: mut expected, rooms, ids } = self.model.restored(&Config::new(ShardId(0), 1, 0));
        let mut users = contents.users;
        users.sort_unstable_by_key(|user| user.record.key);
        assert_eq!(users.len(), expected.len());
        for (user, expected) in users.iter().zip(&mut expected) {
            assert_eq!((&user.record, &user.kept), (&expected.record, &expected.kept));
            // It may know of seqs that are gone.
            let last = |seq_max: u64| seq_max.max(user.record.seq);
            assert!(last(user.seq_max) >= last(expected.seq_max), "{user:?}: not {}", expected.seq_max);
        }
        let mut found = contents.rooms;
        found.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        assert_eq!((found, contents.ids), (rooms, ids));
    }
}

/// A page as what can be compared.
fn shown(page: &Page) -> String {
    let frames: Vec<_> =
        page.entries.iter().map(|entry| String::from_utf8_lossy(&page.bytes[entry.frame.clone()])).collect();
    let entries: Vec<_> = page
        .entries
        .iter()
        .map(|entry| (entry.seq, entry.at_ms, entry.sender, &entry.with, entry.id, entry.origin))
        .collect();
    format!("more {}, {:?}\n{entries:#?}\n{frames:#?}", page.more, page.fault)
}

/// Takes all room of a disk.
fn fill(file: &Path) {
    let mut file = File::create(file).unwrap();
    for piece in [64 * 1024, 4096, 1] {
        while file.write_all(&vec![1; piece]).is_ok() {}
    }
}

/// Runs a store and the model side by side. On a disk of its own it is filled now and then.
fn run(seed: u64, dir: &Path, has_own_disk: bool) {
    eprintln!("seed {seed}");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (data, ballast) = (dir.join("data"), dir.join("ballast"));
    let (mut store, _) = open(&data);
    let mut truth = Truth::default();
    let mut refused = 0;
    for _ in 0..60 {
        match rng.random_range(0..10) {
            0..6 => {
                let batches: Vec<_> = (0..rng.random_range(1..4)).map(|_| truth.batch(&mut rng)).collect();
                store.commit(&batches, NOW).unwrap();
            }
            6..8 if has_own_disk => {
                fill(&ballast);
                let mut changed = truth.clone();
                let batches: Vec<_> = (0..8).map(|_| changed.batch(&mut rng)).collect();
                // It may fit into what the WAL has; if not, nothing may have changed.
                match store.commit(&batches, NOW) {
                    Ok(()) => truth = changed,
                    Err(failure) => {
                        assert_eq!(failure.fault, StoreFault::Full, "{failure}");
                        refused += 1;
                    }
                }
                fs::remove_file(&ballast).unwrap();
            }
            6..8 => {}
            end => {
                if end == 8 {
                    // As a crash leaves it.
                    drop(store);
                } else {
                    store.close().unwrap();
                }
                let contents;
                (store, contents) = open(&data);
                truth.compare_contents(contents);
            }
        }
        store.tidy().unwrap();
        truth.compare_pages(&mut store, &mut rng);
    }
    assert!(refused > 0 || !has_own_disk, "the disk was never full");
    drop(store);
    let report = relay_store::check(&data).unwrap();
    assert!(report.is_sound(), "{report}");
}

#[test]
fn the_store_does_what_the_model_does() {
    for seed in 0..8 {
        run(seed, quick_dir().path(), false);
    }
}

#[test]
#[ignore = "run by another test"]
fn the_store_does_what_the_model_does_on_a_small_disk() {
    for seed in 100..106 {
        let dir = child_dir().join(seed.to_string());
        run(seed, &dir, true);
        fs::remove_dir_all(dir).unwrap();
    }
}

#[test]
fn a_full_disk_changes_nothing() {
    let dir = quick_dir();
    let script = "mount -t tmpfs -o size=4m none \"$STORE_TEST_DIR\"";
    let child = child_in_namespace("model::the_store_does_what_the_model_does_on_a_small_disk", script);
    if let Some(mut child) = child {
        succeeded(&child.env("STORE_TEST_DIR", dir.path()).output().unwrap());
    }
}
