//! The thread with its queues, on a real directory.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use protocol::PublicKey;
use relay_core::store::{Conversation, EntryRecord, MessageId, PageOf, UserRecord};
use relay_core::{Batch, ConnectionId, Durability, Event, PageRequest, StoreFault};
use relay_engine::Doorbell;
use relay_store::Options;
use tempfile::{TempDir, tempdir};

use super::{Condition, Opened, StoreLink, StoreThread, links};

/// The longest that anything is waited for.
const DEADLINE: Duration = Duration::from_secs(10);

const USER: PublicKey = PublicKey::from_bytes([7; 32]);

/// A store of two shards.
struct Stage {
    links: Vec<StoreLink>,
    thread: StoreThread,
    dir: TempDir,
}

impl Stage {
    fn start() -> Self {
        Self::on(tempdir().unwrap())
    }

    fn on(dir: TempDir) -> Self {
        let options =
            Options { dir: dir.path().to_owned(), durability: Durability::Group, retention: Duration::from_secs(60) };
        let (store, _) =
            Opened::open(&options, 5).unwrap().deal(&relay_core::Config::new(relay_core::ShardId(0), 2, 5));
        let (end, links) = links(2);
        let doorbells = vec![Arc::new(Doorbell::new().unwrap()), Arc::new(Doorbell::new().unwrap())];
        Self { links, thread: StoreThread::spawn(store, end, doorbells).unwrap(), dir }
    }

    /// The next answers of a shard, as text.
    fn answers(&mut self, shard: usize, count: usize) -> Vec<String> {
        let deadline = Instant::now() + DEADLINE;
        let mut answers = Vec::new();
        while answers.len() < count {
            assert!(Instant::now() < deadline, "only {answers:?}");
            self.links[shard].drain(|event| answers.push(describe(event)));
            thread::sleep(Duration::from_millis(1));
        }
        answers
    }
}

fn describe(event: Event<'static>) -> String {
    match event {
        Event::Stored { batch, result } => format!("batch {} {result:?}", batch.number),
        Event::Loaded { page } => {
            assert_eq!(page.request.user, USER);
            let seqs: Vec<_> = page.entries.iter().map(|entry| entry.seq).collect();
            format!("page {} {seqs:?} {:?}", page.request.connection.index, page.fault)
        }
        other => panic!("{other:?}"),
    }
}

/// A batch with a message of this seq.
fn batch(number: u64, seq: u64, urgent: bool) -> Box<Batch> {
    let user = UserRecord {
        key: USER,
        epoch: 1,
        seq: 0,
        exact: true,
        seen: true,
        removed_through: 0,
        active_ms: 0,
        devices: Vec::new(),
        receipts: Vec::new(),
    };
    let entry = EntryRecord {
        user: USER,
        seq,
        inbox: true,
        history: false,
        at_ms: 0,
        sender: USER,
        with: Conversation::User(USER),
        id: MessageId::new("id").unwrap(),
        origin: None,
        frame: 0..5,
    };
    Box::new(Batch {
        number,
        urgent,
        users: vec![user],
        entries: vec![entry],
        bytes: b"frame".to_vec(),
        ..Batch::default()
    })
}

fn request(index: u32) -> Box<PageRequest> {
    let connection = ConnectionId { index, generation: 0 };
    Box::new(PageRequest { connection, user: USER, what: PageOf::Inbox { after: 0 }, entries_max: 9, bytes_max: 900 })
}

fn search(index: u32) -> Box<PageRequest> {
    let what = PageOf::History { with: Conversation::User(USER), before: u64::MAX, since_ms: 0 };
    Box::new(PageRequest { what, ..*request(index) })
}

#[test]
fn batches_are_stored_in_their_order_and_a_page_has_what_went_before() {
    let mut stage = Stage::start();
    stage.links[0].store(batch(1, 1, false));
    stage.links[0].store(batch(2, 2, true));
    stage.links[0].load(request(8));
    assert_eq!(stage.answers(0, 3), ["batch 1 Ok(())", "batch 2 Ok(())", "page 8 [1, 2] None"]);
    assert!(stage.links[0].is_idle() && !stage.links[0].has_mail());
    let stats = stage.thread.health().stats();
    assert_eq!((stats.batches, stats.entries, stats.pages, stats.failures), (2, 2, 1, 0));
    assert!(stats.commits <= 2);
}

#[test]
fn what_nobody_waits_for_is_stored_all_the_same() {
    let mut stage = Stage::start();
    stage.links[1].store(batch(1, 1, false));
    assert!(!stage.links[1].is_idle());
    assert_eq!(stage.answers(1, 1), ["batch 1 Ok(())"]);
}

#[test]
fn a_page_waits_for_no_other_but_for_the_batches_before_it() {
    let mut stage = Stage::start();
    // Held by itself for a while: the page makes it due.
    stage.links[0].store(batch(1, 1, false));
    stage.links[0].load(request(3));
    assert_eq!(stage.answers(0, 2), ["batch 1 Ok(())", "page 3 [1] None"]);
}

#[test]
fn more_than_may_be_under_way_waits_and_is_answered() {
    let mut stage = Stage::start();
    for number in 1..=100 {
        stage.links[0].store(batch(number, number, true));
        stage.links[0].load(request(number as u32));
        stage.links[1].load(request(number as u32));
    }
    let answers = stage.answers(0, 200);
    let batches: Vec<_> = answers.iter().filter(|answer| answer.starts_with("batch")).cloned().collect();
    assert_eq!(batches, (1..=100).map(|number| format!("batch {number} Ok(())")).collect::<Vec<_>>());
    assert_eq!(stage.answers(1, 100).len(), 100);
    assert!(stage.links.iter().all(StoreLink::is_idle));
}

#[test]
fn a_page_of_an_inbox_does_not_wait_behind_searches_through_history() {
    let (end, mut links) = links(1);
    (0..100).for_each(|index| links[0].load(search(index)));
    let before = end.requests.try_iter().count();
    assert!((1..100).contains(&before), "most of them wait: {before}");
    links[0].load(request(100));
    assert_eq!(end.requests.try_iter().count(), 1);
}

#[test]
fn searches_that_wait_are_bounded_and_the_rest_is_refused() {
    let (_end, mut links) = links(1);
    (0..20_000).for_each(|index| links[0].load(search(index)));
    assert!(links[0].has_mail());
    let mut refused = Vec::new();
    links[0].drain(|event| refused.push(describe(event)));
    assert!((1..10_000).contains(&refused.len()), "{}", refused.len());
    assert_eq!(refused.last().map(String::as_str), Some("page 19999 [] Some(Full)"));
    assert!(!links[0].has_mail());
}

#[test]
fn when_the_shards_are_gone_everything_is_stored_and_closed() {
    let mut stage = Stage::start();
    stage.links[0].store(batch(1, 1, false));
    let Stage { links, thread, dir } = stage;
    drop(links);
    thread.wait(Some(Instant::now() + DEADLINE));
    assert!(dir.path().join("relay.db-wal").metadata().map_or(0, |data| data.len()) == 0, "the WAL is empty");
    let mut stage = Stage::on(dir);
    stage.links[1].load(request(4));
    assert_eq!(stage.answers(1, 1), ["page 4 [1] None"]);
}

#[test]
fn a_damaged_store_says_so_and_goes_on_answering() {
    let stage = Stage::start();
    let Stage { mut links, thread, dir } = stage;
    links[0].store(batch(1, 1, true));
    drop(links);
    thread.wait(None);
    // Not a message id: found when the page is read.
    let database = dir.path().join("relay.db");
    let bytes = std::fs::read(&database).unwrap();
    let place = bytes.windows(7).position(|window| window == b"idframe").expect("the row is there");
    let mut damaged = bytes.clone();
    damaged[place] = b'!';
    std::fs::write(&database, damaged).unwrap();

    let mut stage = Stage::on(dir);
    stage.links[0].load(request(1));
    assert_eq!(stage.answers(0, 1), ["page 1 [] Some(Failed)"]);
    let condition = stage.thread.health().condition();
    assert!(matches!(&condition, Condition::Failed(why) if why.contains("row 1 of inbox is damaged")), "{condition:?}");
    stage.links[0].store(batch(2, 2, true));
    stage.links[1].load(request(2));
    assert_eq!(stage.answers(0, 1), [format!("batch 2 {:?}", Err::<(), _>(StoreFault::Failed))]);
    assert_eq!(stage.answers(1, 1), ["page 2 [] Some(Failed)"]);
}
