//! What a start finds of what was committed.

use std::path::Path;
use std::time::Duration;

use relay_core::Durability;
use relay_core::store::{Conversation, DeviceTag, PageOf, PendingReceipts, ReceiptStatus, UserRecord};
use relay_store::{Options, Store};

use crate::kit::{
    Making, NOW, commit, frame, id_record, inbox, kept, key, load, of_room, open, options, quick_dir, record, request,
    room, seqs,
};

#[test]
fn everything_comes_back_after_a_close_and_after_a_crash() {
    let dir = quick_dir();
    let (mut store, contents) = open(dir.path());
    assert_eq!((contents.seed, contents.boot), (42, 1));
    let user = UserRecord {
        seq: 7,
        exact: true,
        receipts: vec![PendingReceipts {
            from: key(2),
            room: Some("hall".into()),
            status: ReceiptStatus::Read,
            ids: vec![relay_core::store::MessageId::new("a").unwrap()],
        }],
        ..record(1)
    };
    let mut making =
        Making::default().user(2).message(2, 1, 8, "hello").room_message("hall", 2, &[(1, 9), (2, 1)], &[1], NOW);
    making.0.users.push(user.clone());
    making.0.rooms.push(room("hall", &[2, 1]));
    making.0.ids.extend([id_record(1, NOW - 5), id_record(2, NOW - 9)]);
    commit(&mut store, &making.0);
    store.close().unwrap();

    for boot in 2..=3 {
        // Another seed is not taken: the store has its own.
        let (store, contents) = Store::open(&options(dir.path()), 43, NOW).unwrap();
        assert_eq!((contents.seed, contents.boot), (42, boot));
        assert_eq!(contents.users.len(), 2);
        let restored = contents.users.iter().find(|restored| restored.record.key == key(1)).unwrap();
        assert_eq!((&restored.record, restored.seq_max), (&user, 9));
        let of_message = &restored.kept[0];
        assert_eq!((of_message.seq, of_message.sender, of_message.at_ms), (8, key(2), NOW));
        let bytes = frame(2, protocol::frame::Target::User(key(1)), "2-1-8", "hello").len();
        assert_eq!((of_message.bytes as usize, restored.kept[1].seq), (bytes, 9));
        assert_eq!(contents.rooms, [room("hall", &[2, 1])]);
        assert_eq!(contents.ids, [id_record(2, NOW - 9), id_record(1, NOW - 5)]);
        // The second time as after a crash: nothing was closed.
        drop(store);
    }
}

#[test]
fn a_page_has_what_was_given_and_the_frame_byte_for_byte() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let making =
        Making::default().user(1).user(2).message(2, 1, 1, "first").room_message("hall", 1, &[(1, 2)], &[1], NOW);
    commit(&mut store, &making.0);
    let page = load(&mut store, request(1, PageOf::Inbox { after: 0 }, 10));
    let [first, second] = &page.entries[..] else { panic!("{page:?}") };
    assert_eq!((first.seq, first.at_ms, first.sender), (1, NOW, key(2)));
    assert_eq!((&first.with, first.id.as_str(), first.origin), (&Conversation::User(key(2)), "2-1-1", None));
    assert_eq!(page.bytes[first.frame.clone()], frame(2, protocol::frame::Target::User(key(1)), "2-1-1", "first"));
    assert_eq!((second.seq, &second.with), (2, &Conversation::Room("hall".into())));
    assert_eq!(second.origin, Some(DeviceTag(u64::MAX)));
    assert_eq!((page.more, page.fault, page.request.connection.index), (false, None, 3));
}

#[test]
fn what_is_confirmed_is_gone_and_stays_gone() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let mut making = Making::default().user(1).user(2).user(3);
    for seq in 1..=9 {
        making = making.message(3, 1, seq, "to one");
    }
    // A row of two users, of whom one has confirmed.
    making = making.room_message("hall", 3, &[(1, 10), (2, 1)], &[1, 2], NOW);
    commit(&mut store, &making.0);
    commit(&mut store, &Making::default().remove(1, 4).0);
    assert_eq!(inbox(&mut store, 1), [5, 6, 7, 8, 9, 10]);
    commit(&mut store, &Making::default().remove(1, 10).0);
    drop(store);
    let (mut store, contents) = open(dir.path());
    assert_eq!((kept(&contents, 1), kept(&contents, 2)), (vec![], vec![1]));
    assert_eq!(inbox(&mut store, 2), [1]);
    // A record that comes later does not bring the entry back.
    commit(&mut store, &Making::default().exact(1, 10).0);
    drop(store);
    let (mut store, contents) = open(dir.path());
    assert_eq!(kept(&contents, 1), [0; 0]);
    commit(&mut store, &Making::default().remove(2, 1).0);
    drop(store);
    assert_eq!(kept(&open(dir.path()).1, 2), [0; 0]);
}

#[test]
fn an_entry_and_its_removal_in_one_commit_leave_nothing() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let first = Making::default().user(1).message(2, 1, 1, "a").message(2, 1, 2, "b");
    let second = Making::default().remove(1, 1).message(2, 1, 3, "c");
    store.commit([&first.0, &second.0], NOW).unwrap();
    assert_eq!(inbox(&mut store, 1), [2, 3]);
    drop(store);
    assert_eq!(kept(&open(dir.path()).1, 1), [2, 3]);
}

#[test]
fn a_forgotten_user_leaves_nothing_and_its_number_is_not_given_again() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let making = Making::default().user(2).user(1).message(2, 1, 1, "a").room_message(
        "hall",
        2,
        &[(1, 2), (2, 1)],
        &[1, 2],
        NOW,
    );
    commit(&mut store, &making.0);
    let mut making = Making::default();
    making.0.forgotten_users.push(key(1));
    commit(&mut store, &making.0);
    assert_eq!((inbox(&mut store, 1), inbox(&mut store, 2)), (vec![], vec![1]));
    drop(store);
    // User 1 had the highest number; the row of the room still lists it.
    let (mut store, contents) = open(dir.path());
    assert_eq!(contents.users.len(), 1);
    commit(&mut store, &Making::default().user(3).0);
    drop(store);
    let (mut store, contents) = open(dir.path());
    assert_eq!((kept(&contents, 2), kept(&contents, 3)), (vec![1], vec![]));
    assert_eq!(seqs(&load(&mut store, request(3, of_room("hall", u64::MAX, 0), 10))), [0; 0]);
    // In one batch: whoever is forgotten and there begins anew.
    let mut making = Making::default().user(2).message(3, 2, 1, "new");
    making.0.forgotten_users.push(key(2));
    commit(&mut store, &making.0);
    assert_eq!(inbox(&mut store, 2), [1]);
}

#[test]
fn messages_without_a_record_are_not_lost() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    commit(&mut store, &Making::default().message(2, 1, 5, "a").0);
    assert_eq!(inbox(&mut store, 1), [5]);
    drop(store);
    let (mut store, contents) = open(dir.path());
    assert_eq!((kept(&contents, 1), contents.users[0].record.exact), (vec![5], false));
    commit(&mut store, &Making::default().exact(1, 5).0);
    drop(store);
    assert_eq!(open(dir.path()).1.users[0].record.seq, 5);
}

#[test]
fn the_highest_seq_counts_history_that_is_newer_than_the_record() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    commit(&mut store, &Making::default().user(1).exact(2, 6).0);
    commit(&mut store, &Making::default().room_message("hall", 1, &[(1, 11), (2, 6)], &[], NOW).0);
    commit(&mut store, &Making::default().room_message("hall", 1, &[(1, 12), (2, 7)], &[2], NOW).0);
    drop(store);
    let (_, contents) = open(dir.path());
    let seq_max = |number| {
        let user = contents.users.iter().find(|restored| restored.record.key == key(number)).unwrap();
        (user.record.seq.max(user.seq_max), user.kept.len())
    };
    assert_eq!((seq_max(1), seq_max(2)), ((12, 0), (7, 1)));
}

#[test]
fn rooms_are_replaced_and_forgotten() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let mut making = Making::default();
    making.0.rooms.extend([room("a", &[1]), room("b", &[1]), room("a", &[1, 2])]);
    commit(&mut store, &making.0);
    let mut making = Making::default();
    making.0.forgotten_rooms.push("b".into());
    commit(&mut store, &making.0);
    drop(store);
    assert_eq!(open(dir.path()).1.rooms, [room("a", &[1, 2])]);
}

#[test]
fn ids_are_kept_for_ten_minutes_and_the_latest_of_a_key_counts() {
    const MINUTE: i64 = 60_000;
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    // The last one is stored late.
    for (number, at_ms) in [(1, NOW), (2, NOW + 5 * MINUTE), (1, NOW + 6 * MINUTE), (1, NOW + 3 * MINUTE)] {
        let mut making = Making::default();
        making.0.ids.push(id_record(number, at_ms));
        store.commit([&making.0], at_ms).unwrap();
    }
    drop(store);
    let (mut store, contents) = open(dir.path());
    assert_eq!(contents.ids, [id_record(2, NOW + 5 * MINUTE), id_record(1, NOW + 6 * MINUTE)]);
    assert!(!store.wants_sweep(NOW + 10 * MINUTE));
    let later = NOW + 15 * MINUTE + 1;
    assert!(store.wants_sweep(later));
    store.commit([], later).unwrap();
    assert!(!store.wants_sweep(later + 2_000));
    drop(store);
    assert_eq!(open(dir.path()).1.ids, [id_record(1, NOW + 6 * MINUTE)]);
}

#[test]
fn history_is_kept_for_the_retention_time() {
    let dir = quick_dir();
    let an_hour = Options { retention: Duration::from_secs(3600), ..options(dir.path()) };
    let (mut store, _) = Store::open(&an_hour, 1, NOW).unwrap();
    for (seq, at_ms) in [(1, NOW), (2, NOW + 1000), (3, NOW + 3_000_000)] {
        store.commit([&Making::default().user(1).room_message("hall", 1, &[(1, seq)], &[], at_ms).0], at_ms).unwrap();
    }
    let all = |store: &mut Store| seqs(&load(store, request(1, of_room("hall", u64::MAX, 0), 10)));
    assert_eq!(all(&mut store), [1, 2, 3]);
    store.commit([], NOW + 3_600_500).unwrap();
    assert_eq!(all(&mut store), [2, 3]);
    store.commit([], NOW + 10_000_000).unwrap();
    assert_eq!(all(&mut store), [0; 0]);
    drop(store);
    // Rows go on where they were, so that a record's mark still means what it meant.
    let (mut store, _) = Store::open(&an_hour, 1, NOW).unwrap();
    commit(&mut store, &Making::default().room_message("hall", 1, &[(1, 4)], &[], NOW).0);
    drop(store);
    assert_eq!(open(dir.path()).1.users[0].seq_max, 4);
}

#[test]
fn without_syncs_it_works_the_same() {
    let dir = quick_dir();
    let in_memory = Options { durability: Durability::Memory, ..options(dir.path()) };
    let (mut store, _) = Store::open(&in_memory, 1, NOW).unwrap();
    commit(&mut store, &Making::default().user(1).message(2, 1, 1, "a").0);
    drop(store);
    assert_eq!(kept(&open(dir.path()).1, 1), [1]);
}

#[test]
fn the_wal_does_not_grow_without_end() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let text = "x".repeat(900);
    let mut making = Making::default().user(1);
    for seq in 1..=64 {
        making = making.message(2, 1, seq, &text);
    }
    let mut batch = making.0;
    for round in 0..200 {
        commit(&mut store, &batch);
        store.tidy().unwrap();
        let through = (round + 1) * 64;
        commit(&mut store, &Making::default().remove(1, through).0);
        batch.entries.iter_mut().for_each(|entry| entry.seq += 64);
    }
    let bytes =
        |dir: &Path| -> u64 { dir.read_dir().unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum() };
    // 200 times 64 messages of 1.3 KB went through, 16 MB.
    assert!(bytes(dir.path()) < 8 << 20, "{} bytes", bytes(dir.path()));
    store.close().unwrap();
    assert!(bytes(dir.path()) < 1 << 20, "{} bytes", bytes(dir.path()));
}
