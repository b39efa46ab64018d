//! Pages: their bounds, their order, and long searches.

use relay_core::StoreFault;
use relay_core::store::{Conversation, PageOf};
use relay_store::{Load, Progress};

use crate::kit::{Making, NOW, commit, key, load, of_room, open, quick_dir, request, seqs};

#[test]
fn an_inbox_is_given_from_the_lowest_within_its_bounds() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let mut making = Making::default().user(1);
    for seq in 1..=20 {
        making = making.message(2, 1, seq, "text");
    }
    commit(&mut store, &making.0);
    let mut page = |after, entries_max, bytes_max| {
        let mut request = request(1, PageOf::Inbox { after }, entries_max);
        request.bytes_max = bytes_max;
        let page = load(&mut store, request);
        (seqs(&page), page.more)
    };
    assert_eq!(page(0, 3, 1 << 20), (vec![1, 2, 3], true));
    assert_eq!(page(17, 3, 1 << 20), (vec![18, 19, 20], false));
    assert_eq!(page(20, 3, 1 << 20), (vec![], false));
    // A frame is some 400 bytes: two fit into 1,000, and one is given whatever the bound.
    assert_eq!(page(4, 9, 1000), (vec![5, 6], true));
    assert_eq!(page(4, 9, 1), (vec![5], true));
    let nobody = load(&mut store, request(9, PageOf::Inbox { after: 0 }, 3));
    assert_eq!((seqs(&nobody), nobody.more, nobody.fault), (vec![], false, None));
}

#[test]
fn what_was_exchanged_with_a_user_is_what_is_unconfirmed() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    let mut making = Making::default().user(1);
    for seq in 1..=2000 {
        // Far apart, so that a search takes several slices.
        making = making.message(if seq % 400 == 0 { 3 } else { 2 }, 1, seq, "text");
    }
    commit(&mut store, &making.0);
    let with = |before, since_ms| PageOf::History { with: Conversation::User(key(3)), before, since_ms };
    let page = load(&mut store, request(1, with(u64::MAX, 0), 2));
    assert_eq!((seqs(&page), page.more), (vec![1600, 2000], true));
    let page = load(&mut store, request(1, with(1600, 0), 9));
    assert_eq!((seqs(&page), page.more), (vec![400, 800, 1200], false));
    assert_eq!(seqs(&load(&mut store, request(1, with(u64::MAX, NOW + 1), 9))), [0; 0]);
    commit(&mut store, &Making::default().remove(1, 1200).0);
    assert_eq!(seqs(&load(&mut store, request(1, with(u64::MAX, 0), 9))), [1600, 2000]);

    let mut slices = 1;
    let mut load =
        Load::new(request(1, PageOf::History { with: Conversation::User(key(4)), before: 9999, since_ms: 0 }, 9));
    while let Progress::More(rest) = store.load(load) {
        load = rest;
        slices += 1;
    }
    assert!(slices > 2, "800 rows were looked at in {slices} slices");
}

#[test]
fn a_rooms_history_is_for_its_readers_from_their_joining() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    commit(&mut store, &Making::default().user(1).user(2).0);
    for number in 1..=1500 {
        // User 2 joins with the 1,001st, and has other seqs; a third of the rows are of another room.
        let to: &[_] = if number <= 1000 { &[(1, number)] } else { &[(1, number), (2, 10 * number)] };
        let making = Making::default().room_message("hall", 1, to, &[2], NOW + number as i64);
        commit(&mut store, &making.room_message("other", 1, &[(1, 10_000 + number)], &[], NOW).0);
    }
    let mut read = |user, before, since_ms, max| {
        let page = load(&mut store, request(user, of_room("hall", before, since_ms), max));
        assert_eq!(page.fault, None);
        (seqs(&page), page.more)
    };
    assert_eq!(read(1, u64::MAX, 0, 3), (vec![1498, 1499, 1500], true));
    assert_eq!(read(2, u64::MAX, 0, 2), (vec![14_990, 15_000], true));
    assert_eq!(read(2, 10_030, 0, 9), (vec![10_010, 10_020], false));
    assert_eq!(read(1, u64::MAX, NOW + 1499, 9), (vec![1499, 1500], false));
    assert_eq!(read(3, u64::MAX, 0, 9), (vec![], false));
    // Page after page, down to the first, also by a jump that nothing leads up to.
    let (mut all, mut before) = (Vec::new(), u64::MAX);
    loop {
        let (page, more) = read(1, before, 0, 100);
        before = page[0];
        all.splice(0..0, page);
        if !more {
            break;
        }
    }
    assert!(all.iter().copied().eq(1..=1500));
    assert_eq!(read(1, 5, 0, 2), (vec![3, 4], true));
    assert_eq!(read(1, 1400, 0, 2), (vec![1398, 1399], true));
}

#[test]
fn a_page_that_cannot_be_read_says_so_and_so_does_everything_after_it() {
    let dir = quick_dir();
    let (mut store, _) = open(dir.path());
    commit(&mut store, &Making::default().user(1).message(2, 1, 1, "a").0);
    store.close().unwrap();
    let sql = rusqlite::Connection::open(dir.path().join("relay.db")).unwrap();
    sql.execute("UPDATE inbox SET message_id = 'no id'", []).unwrap();
    drop(sql);
    let (mut store, _) = open(dir.path());
    let page = load(&mut store, request(1, PageOf::Inbox { after: 0 }, 3));
    assert_eq!((seqs(&page), page.fault), (vec![], Some(StoreFault::Failed)));
    let failure = store.commit([], NOW).unwrap_err();
    assert_eq!(failure.sentence, "row 1 of inbox is damaged: its message id cannot be");
    assert_eq!(store.close().unwrap_err().fault, StoreFault::Failed);
}
