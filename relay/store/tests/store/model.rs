//! The store against a model in memory, over many random commits, crashes, restarts and full disks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use relay_core::StoreFault;
use relay_core::store::Batch;

use crate::kit::{
    Making, NOW, child_dir, child_in_namespace, inbox, kept, key, load, of_room, open, quick_dir, request, seqs,
};

const USERS: u8 = 6;
const ROOM: &str = "hall";

/// What is known of each user: the last seq, what waits, and the seqs of the room's messages.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    users: BTreeMap<u8, (u64, Vec<u64>, Vec<u64>)>,
}

impl Model {
    /// Makes a random batch, and does to the model what the store should.
    fn batch(&mut self, rng: &mut ChaCha8Rng) -> Batch {
        let mut making = Making::default();
        for _ in 0..rng.random_range(1..8) {
            let number = rng.random_range(1..=USERS);
            if let Entry::Vacant(place) = self.users.entry(number) {
                place.insert(Default::default());
                making = making.user(number);
            }
            let sender = rng.random_range(100..104);
            match rng.random_range(0..10) {
                0..5 => {
                    let user = self.users.get_mut(&number).unwrap();
                    user.0 += 1;
                    user.1.push(user.0);
                    making = making.message(sender, number, user.0, "text");
                }
                5..8 => {
                    let offline: Vec<u8> = (1..=USERS).filter(|_| rng.random()).collect();
                    let mut to = Vec::new();
                    for (number, user) in &mut self.users {
                        user.0 += 1;
                        user.2.push(user.0);
                        if offline.contains(number) {
                            user.1.push(user.0);
                        }
                        to.push((*number, user.0));
                    }
                    making = making.room_message(ROOM, sender, &to, &offline, NOW);
                }
                8 => {
                    let user = self.users.get_mut(&number).unwrap();
                    let through = rng.random_range(0..=user.0);
                    // What comes behind it in the batch waits, what is removed does not.
                    if making.0.entries.iter().all(|entry| entry.user != key(number)) {
                        user.1.retain(|seq| *seq > through);
                        making = making.remove(number, through);
                    }
                }
                _ => {
                    // Applied first, so only of a batch that has nothing else of the user.
                    let is_new = making.0.users.iter().any(|user| user.key == key(number));
                    if !is_new && making.0.entries.iter().all(|entry| entry.user != key(number)) {
                        self.users.remove(&number);
                        making.0.forgotten_users.push(key(number));
                        making.0.removals.retain(|removal| removal.user != key(number));
                    }
                }
            }
        }
        making.0
    }
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
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (data, ballast) = (dir.join("data"), dir.join("ballast"));
    let (mut store, _) = open(&data);
    let mut model = Model::default();
    let mut refused = 0;
    for _ in 0..60 {
        match rng.random_range(0..10) {
            0..6 => {
                let batches: Vec<_> = (0..rng.random_range(1..4)).map(|_| model.batch(&mut rng)).collect();
                store.commit(&batches, NOW).unwrap();
            }
            6..8 if has_own_disk => {
                fill(&ballast);
                let mut changed = model.clone();
                let batches: Vec<_> = (0..8).map(|_| changed.batch(&mut rng)).collect();
                // It may fit into what the WAL has; if not, nothing may have changed.
                match store.commit(&batches, NOW) {
                    Ok(()) => model = changed,
                    Err(failure) => {
                        assert_eq!(failure.fault, StoreFault::Full, "{failure}");
                        refused += 1;
                    }
                }
                fs::remove_file(&ballast).unwrap();
            }
            6..8 => {}
            8 => {
                drop(store);
                store = open(&data).0;
            }
            _ => {
                store.close().unwrap();
                store = open(&data).0;
            }
        }
        store.tidy().unwrap();
        for (number, (_, waiting, of_the_room)) in &model.users {
            assert_eq!(&inbox(&mut store, *number), waiting, "seed {seed}, user {number}");
            let page = load(&mut store, request(*number, of_room(ROOM, u64::MAX, 0), 1000));
            assert_eq!(&seqs(&page), of_the_room, "seed {seed}, user {number} in the room");
        }
    }
    assert!(refused > 0 || !has_own_disk, "seed {seed}: the disk was never full");
    drop(store);
    let (store, contents) = open(&data);
    assert_eq!(contents.users.len(), model.users.len());
    for (number, (seq, waiting, _)) in &model.users {
        assert_eq!(&kept(&contents, *number), waiting, "seed {seed}, user {number}");
        let user = contents.users.iter().find(|restored| restored.record.key == key(*number)).unwrap();
        // What was confirmed in an inbox has left no trace of its seq: the record would have it.
        assert!(user.seq_max <= *seq && user.seq_max >= waiting.last().copied().unwrap_or(0), "seed {seed}");
    }
    drop(store);
    let report = relay_store::check(&data).unwrap();
    assert!(report.is_sound(), "seed {seed}: {report}");
}

#[test]
fn the_store_does_what_the_model_does() {
    for seed in 0..6 {
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
        crate::kit::succeeded(&child.env("STORE_TEST_DIR", dir.path()).output().unwrap());
    }
}
