//! `relay store check`: silent on a sound store, and not on others.

use std::fs;
use std::path::Path;

use relay_core::store::UserRecord;
use relay_store::{Store, check};
use rusqlite::Connection;
use tempfile::TempDir;

use crate::kit::{Making, NOW, commit, id_record, open, options, quick_dir, record, room};

/// A store with something of everything, closed.
fn filled() -> TempDir {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let mut making = Making::default();
    making.0.users.push(UserRecord { exact: true, ..record(1) });
    let mut making = making.user(2).room_message("hall", 2, &[(1, 40), (2, 1)], &[1, 2], NOW);
    for seq in 41..=80 {
        making = making.message(2, 1, seq, "hello");
    }
    making.0.rooms.push(room("hall", &[2, 1]));
    making.0.ids.extend((0..10).map(|number| id_record(number, NOW)));
    commit(&mut store, &making.0);
    commit(&mut store, &Making::default().remove(1, 45).0);
    store.close().unwrap();
    dir
}

fn problems(dir: &Path) -> String {
    let report = check(dir).unwrap();
    assert!(!report.is_sound(), "{report}");
    report.to_string()
}

#[test]
fn a_sound_store_is_told_in_numbers_and_not_changed() {
    let dir = filled();
    let before = fs::read(dir.path().join("relay.db")).unwrap();
    let report = check(dir.path()).unwrap();
    assert_eq!(
        report.to_string(),
        "2 users, 1 rooms, started 1 times\n\
         36 messages wait in 2 inboxes, 1 messages of rooms are kept as history\n\
         10 message ids of the last minutes\n\
         no problem found"
    );
    assert!(report.is_sound());
    assert!(fs::read(dir.path().join("relay.db")).unwrap() == before);
}

#[test]
fn what_is_only_in_the_wal_is_checked_too() {
    let dir = filled();
    let (mut store, _) = open(dir.path());
    commit(&mut store, &Making::default().message(2, 1, 81, "hello").0);
    drop(store);
    for _ in 0..2 {
        assert!(check(dir.path()).unwrap().to_string().contains("37 messages wait"));
    }
}

#[test]
fn every_kind_of_damage_to_a_row_is_named() {
    let damages = [
        ("UPDATE inbox SET members = x'ff' WHERE id = 9", "row 9 of inbox is damaged: it ends too early"),
        ("UPDATE inbox SET members = x'' WHERE id = 9", "row 9 of inbox is damaged: its members cannot be"),
        ("UPDATE inbox SET peer = x'00' WHERE id = 9", "row 9 of inbox is damaged: its peer cannot be"),
        ("UPDATE inbox SET sender = zeroblob(31) WHERE id = 9", "row 9 of inbox is damaged: its sender cannot be"),
        ("UPDATE inbox SET sender = zeroblob(32) WHERE id = 9", "its sender or id, which its frame has otherwise"),
        ("UPDATE inbox SET message_id = 'x' WHERE id = 9", "its sender or id, which its frame has otherwise"),
        ("UPDATE inbox SET frame = substr(frame, 2) WHERE id = 9", "row 9 of inbox is damaged: its frame cannot be"),
        ("UPDATE inbox SET members = (SELECT members FROM inbox WHERE id = 9) WHERE id = 10", "has seq 49 twice"),
        ("UPDATE history SET frame = x'00'", "row 1 of history is damaged: its frame cannot be"),
        ("UPDATE history SET members = x'8080'", "row 1 of history is damaged: it ends too early"),
        ("UPDATE users SET record = x'02' WHERE number = 1", "row 1 of users is damaged: it is of version 2"),
        (
            "UPDATE users SET record = CAST(record || x'00' AS BLOB) WHERE number = 1",
            "row 1 of users is damaged: there are bytes",
        ),
        ("UPDATE users SET record = NULL WHERE number = 1", "has messages and no record"),
        ("UPDATE users SET key = (SELECT key FROM users WHERE number = 1)", "is there twice"),
        ("UPDATE users SET key = x'00' WHERE number = 1", "row 1 of users is damaged: its key cannot be"),
        ("UPDATE rooms SET record = x'0101'", "row hall of rooms is damaged: it ends too early"),
        ("UPDATE ids SET records = x'01ff'", "row 1 of ids is damaged: it ends too early"),
        ("DELETE FROM meta WHERE name = 'seed'", "the seed is missing"),
    ];
    for (damage, expected) in damages {
        let dir = filled();
        let sql = Connection::open(dir.path().join("relay.db")).unwrap();
        sql.execute(damage, []).unwrap();
        drop(sql);
        let text = problems(dir.path());
        assert!(text.contains(expected), "{damage}: {text}");
        // A start reads what it needs, and refuses or not; it never panics.
        let _ = Store::open(&options(dir.path()), 1, NOW);
    }
}

#[test]
fn a_signature_that_does_not_fit_is_told_and_is_no_damage() {
    let dir = filled();
    let sql = Connection::open(dir.path().join("relay.db")).unwrap();
    sql.execute(
        "UPDATE inbox SET frame = CAST(replace(CAST(frame AS TEXT), 'hello', 'hallo') AS BLOB) WHERE id = 9",
        [],
    )
    .unwrap();
    drop(sql);
    let report = check(dir.path()).unwrap();
    assert!(report.is_sound());
    assert!(report.to_string().contains("1 messages have a signature that strict verification refuses"), "{report}");
}

#[test]
fn many_problems_are_counted_and_not_all_told() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let making = (1..=60).fold(Making::default().user(1), |making, seq| making.message(2, 1, seq, "a"));
    commit(&mut store, &making.0);
    store.close().unwrap();
    let sql = Connection::open(dir.path().join("relay.db")).unwrap();
    sql.execute("UPDATE inbox SET frame = x'00'", []).unwrap();
    drop(sql);
    let text = problems(dir.path());
    assert!(text.contains("60 problems:") && text.contains("… and 10 more"), "{text}");
}

#[test]
fn damaged_pages_are_found_and_nothing_panics() {
    let whole = fs::read(filled().path().join("relay.db")).unwrap();
    let pages = whole.len() / 4096;
    let mut found = 0;
    for page in 0..pages {
        // The head of each page, and its middle, where rows are.
        for (offset, fill) in [(0, 0xff), (0, 0), (2048, 0xa5)] {
            let dir = quick_dir();
            let mut bytes = whole.clone();
            bytes[page * 4096 + offset..][..64].fill(fill);
            fs::write(dir.path().join("relay.db"), bytes).unwrap();
            let checked = check(dir.path());
            found += usize::from(!checked.is_ok_and(|report| report.is_sound()));
            if let Ok((mut store, _)) = Store::open(&options(dir.path()), 1, NOW) {
                let _ = store.commit([&Making::default().user(3).message(2, 3, 1, "a").0], NOW);
            }
        }
    }
    // Pages are partly empty, and nobody misses what nobody uses.
    assert!(found >= pages, "{found} of {} damages were found", 3 * pages);
}
