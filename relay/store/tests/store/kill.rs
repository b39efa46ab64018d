//! A process that is killed while it commits: whatever it had reported is there.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use tempfile::tempdir;

use crate::kit::{Making, child, child_dir, commit, kept, open};

/// Entries of one batch, each for another user.
const BATCH: u8 = 64;

#[test]
#[ignore = "run by another test"]
fn writes_until_it_is_killed() {
    let (mut store, contents) = open(&child_dir());
    let from = contents.users.first().map_or(0, |user| user.seq_max);
    let mut out = std::io::stdout();
    for seq in from + 1.. {
        let making = (1..=BATCH).fold(Making::default(), Making::user);
        commit(&mut store, &(1..=BATCH).fold(making, |making, user| making.message(200, user, seq, "text")).0);
        writeln!(out, "committed {seq}").unwrap();
        store.tidy().unwrap();
    }
}

#[test]
fn what_was_committed_outlives_a_kill_and_no_batch_is_there_in_part() {
    let dir = tempdir().unwrap();
    let mut reported = 0;
    for cycle in 0..4 {
        let mut writer = child("kill::writes_until_it_is_killed")
            .env("STORE_TEST_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let mut committed =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("committed ")?.parse().ok());
        // After so many commits, and then at some moment of the next ones.
        let last: u64 = committed.by_ref().nth(3 * cycle + 1).expect("the writer commits");
        reported = reported.max(last);
        thread::sleep(Duration::from_micros(700 * cycle as u64));
        writer.kill().unwrap();
        reported = committed.last().unwrap_or(reported);
        writer.wait().unwrap();
        let (_, contents) = open(dir.path());
        let there = kept(&contents, 1);
        assert!(there.len() as u64 >= reported, "{reported} were reported, {} are there", there.len());
        assert!(there.iter().copied().eq(1..=there.len() as u64));
        for user in 2..=BATCH {
            assert_eq!(kept(&contents, user), there, "user {user}");
        }
    }
    assert!(relay_store::check(dir.path()).unwrap().is_sound());
}
