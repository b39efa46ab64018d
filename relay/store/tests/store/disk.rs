//! Disks that are full, and disks that fail, for real: a small tmpfs, a block device that runs out
//! beneath its file system, and a sync that the system refuses.

use std::fs;
use std::path::Path;
use std::process::Command;

use relay_core::StoreFault;
use relay_core::store::PageOf;
use relay_store::{Failure, Store};
use tempfile::tempdir;

use crate::kit::{
    Making, NOW, child, child_dir, child_in_namespace, inbox, kept, load, open, options, request, skip, succeeded,
};

/// Messages of one batch.
const BATCH: u64 = 32;

fn batch(number: u64) -> Making {
    let text = "x".repeat(900);
    let first = number * BATCH + 1;
    (first..first + BATCH).fold(Making::default().user(1), |making, seq| making.message(2, 1, seq, &text))
}

/// Commits batches until one fails.
fn fill(store: &mut Store, from: u64) -> (u64, Failure) {
    for number in from..10_000 {
        let result = store.commit([&batch(number).0], NOW).and_then(|()| store.tidy());
        if let Err(failure) = result {
            return (number, failure);
        }
    }
    panic!("the disk does not fail");
}

#[test]
#[ignore = "run by another test"]
fn fills_its_disk() {
    let dir = child_dir();
    let ballast = dir.join("ballast");
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let (mut store, _) = open(&dir.join("data"));
    let (mut number, failure) = fill(&mut store, 0);
    assert_eq!((failure.fault, &*failure.sentence), (StoreFault::Full, "the disk is full"));
    assert!(number > 4, "the disk was full from the start");
    // As long as it is full nothing more goes in, and what is there can be read.
    let again = store.commit([&batch(number).0], NOW);
    if again.is_ok() {
        // It was the copying of the WAL that met the end, not the commit.
        number += 1;
        let (at, failure) = fill(&mut store, number);
        (number, _) = (at, assert_eq!(failure.fault, StoreFault::Full));
    }
    let there = || (1..=number * BATCH).collect::<Vec<_>>();
    assert_eq!(inbox(&mut store, 1), there());
    // A relay that is started meanwhile says why it cannot.
    drop(store);
    if let Err(error) = Store::open(&options(&dir.join("data")), 1, NOW) {
        let text = error.to_string();
        assert!(text.contains("there is no room on the disk of") && text.contains("nothing was lost"), "{text}");
    }
    fs::remove_file(&ballast).unwrap();
    let (mut store, contents) = open(&dir.join("data"));
    assert_eq!(kept(&contents, 1), there());
    fs::write(&ballast, vec![1; 1 << 20]).unwrap();
    let (mut number, _) = fill(&mut store, number);
    if inbox(&mut store, 1).len() as u64 > number * BATCH {
        number += 1;
    }
    // With room again the same store goes on, where it was.
    fs::remove_file(&ballast).unwrap();
    store.commit([&batch(number).0], NOW).unwrap();
    store.tidy().unwrap();
    number += 1;
    assert!(inbox(&mut store, 1).into_iter().eq(1..=number * BATCH));
    // What is confirmed makes room too.
    store.commit([&Making::default().remove(1, number * BATCH).0], NOW).unwrap();
    store.commit([&batch(number).0], NOW).unwrap();
    store.close().unwrap();
    assert!(relay_store::check(&dir.join("data")).unwrap().is_sound());
}

#[test]
fn a_full_disk_loses_nothing_and_is_left_with_room() {
    let dir = tempdir().unwrap();
    let script = "mount -t tmpfs -o size=3m none \"$STORE_TEST_DIR\"";
    if let Some(mut child) = child_in_namespace("disk::fills_its_disk", script) {
        succeeded(&child.env("STORE_TEST_DIR", dir.path()).output().unwrap());
    }
}

/// Commits until the sync fails; then nothing may be promised or read any more.
fn meets_a_failing_sync(dir: &Path, fail: impl FnOnce(&mut Store) -> u64) {
    let (mut store, _) = open(dir);
    let committed = fail(&mut store);
    let failure = store.commit([&Making::default().user(3).0], NOW).unwrap_err();
    assert_eq!(failure.fault, StoreFault::Failed);
    assert!(failure.sentence.starts_with("the disk failed to "), "{failure}");
    assert_eq!(store.tidy().unwrap_err(), failure);
    let page = load(&mut store, request(1, PageOf::Inbox { after: 0 }, 3));
    assert_eq!((page.entries.len(), page.fault), (0, Some(StoreFault::Failed)));
    assert_eq!(store.close().unwrap_err(), failure);
    fs::write(child_dir().join("committed"), committed.to_string()).unwrap();
}

/// What was committed before the failure is there, and the store works again.
fn recovers(dir: &Path) {
    let committed: u64 = fs::read_to_string(child_dir().join("committed")).unwrap().parse().unwrap();
    let (mut store, contents) = open(dir);
    let there = kept(&contents, 1);
    assert!(there.len() as u64 >= committed * BATCH, "{committed} batches, {} entries", there.len());
    assert!(there.iter().copied().eq(1..=there.len() as u64));
    assert_eq!(there.len() as u64 % BATCH, 0, "a batch is there in part");
    store.commit([&batch(there.len() as u64 / BATCH).0], NOW).unwrap();
    store.close().unwrap();
    assert!(relay_store::check(dir).unwrap().is_sound());
}

#[test]
#[ignore = "run by another test"]
fn meets_a_refused_sync() {
    let dir = child_dir();
    meets_a_failing_sync(&dir.join("data"), |store| {
        for number in 0..3 {
            store.commit([&batch(number).0], NOW).unwrap();
        }
        fs::write(dir.join("fail"), "").unwrap();
        let failure = store.commit([&batch(3).0], NOW).unwrap_err();
        assert_eq!((failure.fault, &*failure.sentence), (StoreFault::Failed, "the disk failed to sync"));
        // It is well again, and is not believed.
        fs::remove_file(dir.join("fail")).unwrap();
        3
    });
    recovers(&dir.join("data"));
}

#[test]
fn after_a_failed_sync_nothing_is_promised_any_more() {
    let dir = tempdir().unwrap();
    let shim = dir.path().join("failing_sync.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/failing_sync.c");
    let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&shim).arg(source).output();
    let compiled = compiled.expect("a C compiler, which SQLite was compiled with");
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    let mut child = child("disk::meets_a_refused_sync");
    child.env("STORE_TEST_DIR", dir.path()).env("LD_PRELOAD", &shim).env("FAIL_SYNC", dir.path().join("fail"));
    succeeded(&child.output().unwrap());
}

#[test]
#[ignore = "run by another test"]
fn meets_a_broken_device() {
    let dir = child_dir();
    meets_a_failing_sync(&dir.join("disk/data"), |store| {
        let (committed, failure) = fill(store, 0);
        assert_eq!(failure.fault, StoreFault::Failed, "{failure}");
        assert!(committed > 4, "the disk failed from the start");
        committed
    });
}

#[test]
#[ignore = "run by another test"]
fn finds_a_mended_device() {
    recovers(&child_dir().join("disk/data"));
}

#[test]
fn a_device_that_fails_to_write_is_noticed_and_what_was_committed_is_there_when_it_is_mended() {
    const TEST: &str = "disk::a_device_that_fails_to_write";
    if !rustix::process::geteuid().is_root() {
        return skip(TEST, "loop devices are for root");
    }
    let dir = tempdir().unwrap();
    // A file system of 64 MiB in a file that finds room for 20: what is written beyond is lost, and the
    // next sync says so. Then the space beneath comes back, and the disk as after a reboot.
    let script = "
        cd \"$STORE_TEST_DIR\"
        mkdir back disk
        mount -t tmpfs -o size=24m none back
        truncate -s 64m back/image
        mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=0 back/image
        head -c 4m /dev/zero > back/ballast
        mount -o loop,errors=continue back/image disk
        \"$@\"
        umount disk
        rm back/ballast
        fsck.ext4 -p back/image >&2 || [ $? -le 1 ]
        mount -o loop back/image disk
        set -- \"$1\" --exact disk::finds_a_mended_device --ignored --nocapture";
    let Some(mut child) = child_in_namespace("disk::meets_a_broken_device", script) else { return };
    let output = child.env("STORE_TEST_DIR", dir.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.matches("1 passed").count() == 2, "{out}\n{err}");
}
