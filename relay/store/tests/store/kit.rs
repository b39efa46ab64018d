//! What the tests are made of: batches in a line, signed frames, and children.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{Message, Target};
use protocol::{PublicKey, Signature, Timestamp, encode, signed_bytes};
use relay_core::store::{
    Batch, Conversation, DeviceRecord, DeviceTag, EntryRecord, IdRecord, MessageId, Page, PageOf, PageRequest, Removal,
    RoomRecord, UserRecord,
};
use relay_core::{ConnectionId, Durability};
use relay_store::{Contents, Load, Options, Progress, Store};
use tempfile::TempDir;

/// When the tests take place.
pub(crate) const NOW: i64 = 1_800_000_000_000;

/// A directory in memory, if there is one: for tests that commit often and need no disk.
pub(crate) fn quick_dir() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

pub(crate) fn options(dir: &Path) -> Options {
    Options { dir: dir.to_owned(), durability: Durability::Group, retention: Duration::from_secs(7 * 24 * 3600) }
}

pub(crate) fn open(dir: &Path) -> (Store, Contents) {
    Store::open(&options(dir), 42, NOW).unwrap_or_else(|error| panic!("{error}"))
}

/// Commits one batch.
pub(crate) fn commit(store: &mut Store, batch: &Batch) {
    store.commit([batch], NOW).unwrap_or_else(|failure| panic!("{failure}"));
}

pub(crate) fn signing_key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

pub(crate) fn key(number: u8) -> PublicKey {
    PublicKey::from(&signing_key(number).verifying_key())
}

/// A signed frame of a message.
pub(crate) fn frame(sender: u8, target: Target<'_>, id: &str, text: &str) -> Vec<u8> {
    let mut message = Message {
        target,
        text,
        sender: key(sender),
        id,
        timestamp: Timestamp::from_unix_ms(NOW),
        signature: Signature::from_bytes([0; 64]),
    };
    let mut signed = Vec::new();
    signed_bytes::message(&mut signed, &message);
    message.signature = Signature::from_bytes(signing_key(sender).sign(&signed).to_bytes());
    let mut frame = Vec::new();
    encode::message(&mut frame, &message);
    frame
}

/// Makes batches.
#[derive(Debug, Default)]
pub(crate) struct Making(pub(crate) Batch);

impl Making {
    pub(crate) fn user(mut self, number: u8) -> Self {
        self.0.users.push(record(number));
        self
    }

    pub(crate) fn exact(mut self, number: u8, seq: u64) -> Self {
        self.0.users.push(UserRecord { seq, exact: true, ..record(number) });
        self
    }

    /// A message from a user to another, in the inbox of that.
    pub(crate) fn message(mut self, from: u8, to: u8, seq: u64, text: &str) -> Self {
        let id = format!("{from}-{to}-{seq}");
        let range = self.frame(&frame(from, Target::User(key(to)), &id, text));
        self.0.entries.push(EntryRecord {
            user: key(to),
            seq,
            inbox: true,
            history: false,
            at_ms: NOW,
            sender: key(from),
            with: Conversation::User(key(from)),
            id: MessageId::new(&id).expect("an id"),
            origin: None,
            frame: range,
        });
        self
    }

    /// A message of a room: in the history of all `to` (user and seq), and waiting for the `offline`.
    pub(crate) fn room_message(mut self, room: &str, from: u8, to: &[(u8, u64)], offline: &[u8], at_ms: i64) -> Self {
        let id = format!("{room}-{from}-{}", to[0].1);
        let range = self.frame(&frame(from, Target::Room(room), &id, "to all"));
        for (user, seq) in to {
            self.0.entries.push(EntryRecord {
                user: key(*user),
                seq: *seq,
                inbox: offline.contains(user),
                history: true,
                at_ms,
                sender: key(from),
                with: Conversation::Room(room.into()),
                id: MessageId::new(&id).expect("an id"),
                origin: (*user == from).then_some(DeviceTag(u64::MAX)),
                frame: range.clone(),
            });
        }
        self
    }

    pub(crate) fn remove(mut self, user: u8, through: u64) -> Self {
        self.0.removals.push(Removal { user: key(user), through });
        self
    }

    fn frame(&mut self, frame: &[u8]) -> std::ops::Range<usize> {
        let start = self.0.bytes.len();
        self.0.bytes.extend_from_slice(frame);
        start..self.0.bytes.len()
    }
}

pub(crate) fn record(number: u8) -> UserRecord {
    UserRecord {
        key: key(number),
        epoch: u64::from(number) << 40,
        seq: 0,
        exact: false,
        seen: true,
        removed_through: 0,
        active_ms: NOW,
        devices: vec![DeviceRecord { id: "phone".into(), cursor: 0, active_ms: NOW }],
        receipts: Vec::new(),
    }
}

pub(crate) fn room(id: &str, members: &[u8]) -> RoomRecord {
    let members: Vec<_> = members.iter().map(|number| (key(*number), NOW)).collect();
    RoomRecord { id: id.into(), owner: members[0].0, open: true, members, invited: vec![key(200)] }
}

pub(crate) fn id_record(number: u64, at_ms: i64) -> IdRecord {
    IdRecord { key: u128::from(number), tag: number, sender_hash: !number, copy_due: number.is_multiple_of(2), at_ms }
}

pub(crate) fn request(user: u8, what: PageOf, entries_max: usize) -> PageRequest {
    let connection = ConnectionId { index: 3, generation: 9 };
    PageRequest { connection, user: key(user), what, entries_max, bytes_max: 64 * 1024 }
}

pub(crate) fn of_room(room: &str, before: u64, since_ms: i64) -> PageOf {
    PageOf::History { with: Conversation::Room(Arc::from(room)), before, since_ms }
}

pub(crate) fn load(store: &mut Store, request: PageRequest) -> Box<Page> {
    let mut load = Load::new(request);
    loop {
        match store.load(load) {
            Progress::Done(page) => return page,
            Progress::More(rest) => load = rest,
        }
    }
}

/// The seqs of an inbox, as its pages have them.
pub(crate) fn inbox(store: &mut Store, user: u8) -> Vec<u64> {
    let (mut seqs, mut after) = (Vec::new(), 0);
    loop {
        let page = load(store, request(user, PageOf::Inbox { after }, 3));
        assert_eq!(page.fault, None);
        seqs.extend(page.entries.iter().map(|entry| entry.seq));
        after = *seqs.last().unwrap_or(&0);
        if !page.more {
            return seqs;
        }
    }
}

/// The seqs of a page.
pub(crate) fn seqs(page: &Page) -> Vec<u64> {
    page.entries.iter().map(|entry| entry.seq).collect()
}

/// The seqs of the inbox that a user was restored with.
pub(crate) fn kept(contents: &Contents, user: u8) -> Vec<u64> {
    let user = contents.users.iter().find(|restored| restored.record.key == key(user)).expect("the user is there");
    user.kept.iter().map(|kept| kept.seq).collect()
}

/// This test binary again, for one test that is ignored otherwise.
pub(crate) fn child(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("a test has a binary"));
    command.args(["--exact", test, "--ignored", "--nocapture", "--test-threads", "1"]);
    command
}

/// The same after a shell script, in a mount namespace of its own that ends with it. `None` where the
/// system allows none, which is said.
pub(crate) fn child_in_namespace(test: &str, script: &str) -> Option<Command> {
    let is_root = rustix::process::geteuid().is_root();
    let flags: &[&str] = if is_root { &["--mount"] } else { &["--mount", "--map-root-user"] };
    let allowed = Command::new("unshare").args(flags).args(["sh", "-c", "mount -t tmpfs none /mnt"]).output();
    match allowed {
        Ok(output) if output.status.success() => {}
        _ => {
            skip(test, "no mount namespace can be had here (unshare --mount): run as root");
            return None;
        }
    }
    let run = child(test);
    let mut command = Command::new("unshare");
    command.args(flags).args(["sh", "-euc", &format!("{script}\nexec \"$@\""), "sh"]);
    command.arg(run.get_program()).args(run.get_args());
    Some(command)
}

/// Says that a test checks nothing here, past the capturing of output.
pub(crate) fn skip(test: &str, why: &str) {
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}

/// The directory that a parent test names for its child.
pub(crate) fn child_dir() -> PathBuf {
    std::env::var_os("STORE_TEST_DIR").expect("this test is run by another").into()
}

/// That a child did what it should, with what it wrote if not.
pub(crate) fn succeeded(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
}
