//! Batches on their way to the disk: all that wait, in one transaction.
//!
//! Within a batch: users who are forgotten go first, then users and rooms as they are now, rooms that are
//! forgotten, entries, and then what leaves the inboxes.

use std::collections::HashMap;

use protocol::PublicKey;
use relay_core::store::{Batch, Conversation, DeviceTag, EntryRecord, IdRecord};
use relay_core::{StoreFault, store::UserRecord};
use rusqlite::{Connection, params};

use crate::codec::{self, Member};
use crate::fault::{Error, Failure};
use crate::index::{Entry, Index};
use crate::{Store, tidy};

/// Prepared statements that are kept: all there are.
pub(crate) const STATEMENTS: usize = 48;

/// Buffers of a commit, used again.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    gone: Vec<i64>,
    rooms: Vec<RoomMessage>,
    /// The newest message of a room in this batch with a frame that begins there.
    by_frame: HashMap<usize, usize>,
}

/// A message of a room and those who have it: two rows at most, whoever they are.
#[derive(Debug)]
struct RoomMessage {
    /// The place of its first entry in the batch.
    first: usize,
    /// The device of the sender, which the sender's own entry names.
    origin: Option<DeviceTag>,
    inbox: Vec<u8>,
    waiting: Vec<(PublicKey, u64)>,
    history: Vec<u8>,
}

impl Store {
    /// Stores batches, in their order: when it returns, all of them are safe, or nothing has changed.
    /// Blocks for the disk. With the first failure that is not for lack of room, the store has failed:
    /// everything that follows fails too.
    ///
    /// # Errors
    /// What happened, as a sentence.
    ///
    /// # Panics
    /// If a frame's range is not within its batch: a bug of the caller.
    pub fn commit<'a>(&mut self, batches: impl IntoIterator<Item = &'a Batch>, now_ms: i64) -> Result<(), Failure> {
        self.health()?;
        match self.try_commit(batches, now_ms) {
            Ok(()) => {
                self.index.keep();
                Ok(())
            }
            Err(error) => {
                self.index.roll_back();
                Err(self.fail(error))
            }
        }
    }

    fn try_commit<'a>(&mut self, batches: impl IntoIterator<Item = &'a Batch>, now_ms: i64) -> Result<(), Error> {
        self.scratch.clear();
        let transaction = self.connection.unchecked_transaction()?;
        let mut id_rows = Vec::new();
        let mut writer =
            Writer { sql: &transaction, index: &mut self.index, scratch: &mut self.scratch, id_rows: &mut id_rows };
        for batch in batches {
            writer.batch(batch)?;
        }
        let is_due = tidy::is_due(self.swept_at_ms, now_ms);
        let swept =
            if is_due { tidy::sweep(&transaction, &self.index, &self.id_rows, now_ms, self.retention_ms)? } else { 0 };
        transaction.commit()?;
        self.id_rows.drain(..swept);
        self.id_rows.extend(id_rows);
        if is_due {
            self.swept_at_ms = now_ms;
        }
        Ok(())
    }

    /// Whether the store still takes anything.
    ///
    /// # Errors
    /// Why it does not.
    pub fn health(&self) -> Result<(), Failure> {
        match &self.failed {
            None => Ok(()),
            Some(sentence) => Err(Failure { fault: StoreFault::Failed, sentence: sentence.clone() }),
        }
    }

    /// Notes a failure, for good unless there was only no room.
    pub(crate) fn fail(&mut self, error: Error) -> Failure {
        let mut failure = Failure::from(error);
        if failure.fault == StoreFault::Full && !self.connection.is_autocommit() {
            // The transaction could not be taken back, so nobody knows what it left.
            failure.fault = StoreFault::Failed;
            failure.sentence.push_str(", and what was begun could not be taken back");
        }
        if failure.fault == StoreFault::Failed {
            self.failed = Some(failure.sentence.clone());
        }
        failure
    }
}

struct Writer<'a> {
    sql: &'a Connection,
    index: &'a mut Index,
    scratch: &'a mut Scratch,
    id_rows: &'a mut Vec<(i64, i64)>,
}

impl Writer<'_> {
    fn batch(&mut self, batch: &Batch) -> Result<(), Error> {
        self.forget_users(&batch.forgotten_users)?;
        for user in &batch.users {
            self.user(user)?;
        }
        for room in &batch.rooms {
            self.scratch.bytes.clear();
            codec::encode_room(&mut self.scratch.bytes, room);
            self.sql
                .prepare_cached("INSERT OR REPLACE INTO rooms (id, record) VALUES (?, ?)")?
                .execute(params![&*room.id, self.scratch.bytes])?;
        }
        for room in &batch.forgotten_rooms {
            self.sql.prepare_cached("DELETE FROM rooms WHERE id = ?")?.execute([&**room])?;
        }
        self.entries(batch)?;
        for removal in &batch.removals {
            self.remove(&removal.user, removal.through)?;
        }
        self.delete_gone()?;
        self.ids(&batch.ids)
    }

    fn user(&mut self, user: &UserRecord) -> Result<(), Error> {
        self.scratch.bytes.clear();
        codec::encode_user(&mut self.scratch.bytes, user);
        let mark = self.index.next.history;
        match self.index.number(&user.key) {
            Some(number) => {
                self.sql.prepare_cached("UPDATE users SET mark = ?, record = ? WHERE number = ?")?.execute(params![
                    mark,
                    self.scratch.bytes,
                    number
                ])?;
            }
            None => {
                let number = self.index.enroll(user.key);
                self.sql
                    .prepare_cached("INSERT INTO users (number, key, removed, mark, record) VALUES (?, ?, 0, ?, ?)")?
                    .execute(params![number, user.key.as_bytes(), mark, self.scratch.bytes])?;
            }
        }
        Ok(())
    }

    fn forget_users(&mut self, users: &[PublicKey]) -> Result<(), Error> {
        for key in users {
            if let Some(number) = self.index.forget(key, &mut self.scratch.gone) {
                self.sql.prepare_cached("DELETE FROM users WHERE number = ?")?.execute([number])?;
            }
        }
        if !users.is_empty() {
            // Rows of several may list the number for a while: it is not given again.
            set_meta(self.sql, "user_next", self.index.next.user)?;
            self.delete_gone()?;
        }
        Ok(())
    }

    fn entries(&mut self, batch: &Batch) -> Result<(), Error> {
        for (place, entry) in batch.entries.iter().enumerate() {
            let number = self.member(&entry.user)?;
            match &entry.with {
                Conversation::User(_) => {
                    if entry.inbox {
                        self.scratch.bytes.clear();
                        codec::push_member(&mut self.scratch.bytes, Member { user: number, seq: entry.seq });
                        let row =
                            insert_inbox(self.sql, self.index, &self.scratch.bytes, entry, entry.origin, &batch.bytes)?;
                        self.index.add(entry.user, Entry { seq: entry.seq, row });
                    }
                }
                Conversation::Room(_) => self.scratch.gather(batch, place, number),
            }
        }
        self.scratch.by_frame.clear();
        for message in std::mem::take(&mut self.scratch.rooms) {
            let RoomMessage { first, origin, inbox, waiting, history } = message;
            let entry = &batch.entries[first];
            if !history.is_empty() {
                insert_history(self.sql, self.index, &history, entry, origin, &batch.bytes)?;
            }
            if !waiting.is_empty() {
                let row = insert_inbox(self.sql, self.index, &inbox, entry, origin, &batch.bytes)?;
                for (user, seq) in &waiting {
                    self.index.add(*user, Entry { seq: *seq, row });
                }
                self.index.share(row, waiting.len() as u32);
            }
        }
        Ok(())
    }

    /// The number of a user. One that was never stored is enrolled without a record, so that its
    /// messages are not lost; a start makes one for it.
    fn member(&mut self, key: &PublicKey) -> Result<i64, Error> {
        if let Some(number) = self.index.number(key) {
            return Ok(number);
        }
        let number = self.index.enroll(*key);
        self.sql
            .prepare_cached("INSERT INTO users (number, key, removed, mark, record) VALUES (?, ?, 0, 0, NULL)")?
            .execute(params![number, key.as_bytes()])?;
        Ok(number)
    }

    fn remove(&mut self, user: &PublicKey, through: u64) -> Result<(), Error> {
        if self.index.remove_through(user, through, &mut self.scratch.gone)
            && let Some(number) = self.index.number(user)
        {
            self.sql
                .prepare_cached("UPDATE users SET removed = max(removed, ?) WHERE number = ?")?
                .execute(params![through as i64, number])?;
        }
        Ok(())
    }

    fn delete_gone(&mut self) -> Result<(), Error> {
        // Neighbours lie in one page.
        self.scratch.gone.sort_unstable();
        let mut delete = self.sql.prepare_cached("DELETE FROM inbox WHERE id = ?")?;
        for row in self.scratch.gone.drain(..) {
            delete.execute([row])?;
        }
        Ok(())
    }

    fn ids(&mut self, ids: &[IdRecord]) -> Result<(), Error> {
        let Some(newest_ms) = ids.iter().map(|id| id.at_ms).max() else { return Ok(()) };
        self.scratch.bytes.clear();
        codec::encode_ids(&mut self.scratch.bytes, newest_ms, ids.iter());
        let row = self.index.next.ids;
        self.index.next.ids += 1;
        self.sql.prepare_cached("INSERT INTO ids (id, at_ms, records) VALUES (?, ?, ?)")?.execute(params![
            row,
            newest_ms,
            self.scratch.bytes
        ])?;
        self.id_rows.push((row, newest_ms));
        Ok(())
    }
}

impl Scratch {
    /// Forgets what a commit that failed had left.
    fn clear(&mut self) {
        self.gone.clear();
        self.rooms.clear();
        self.by_frame.clear();
    }

    /// Adds an entry to the message of the room that it is of.
    fn gather(&mut self, batch: &Batch, place: usize, user: i64) {
        let entry = &batch.entries[place];
        let known = self.by_frame.get(&entry.frame.start).copied();
        let at = match known.filter(|at| is_same_message(&batch.entries[self.rooms[*at].first], entry)) {
            Some(at) => at,
            None => {
                self.rooms.push(RoomMessage::new(place));
                self.by_frame.insert(entry.frame.start, self.rooms.len() - 1);
                self.rooms.len() - 1
            }
        };
        let member = Member { user, seq: entry.seq };
        let message = &mut self.rooms[at];
        message.origin = message.origin.or(entry.origin);
        if entry.inbox {
            codec::push_member(&mut message.inbox, member);
            message.waiting.push((entry.user, entry.seq));
        }
        if entry.history {
            codec::push_member(&mut message.history, member);
        }
    }
}

impl RoomMessage {
    fn new(first: usize) -> Self {
        Self { first, origin: None, inbox: Vec::new(), waiting: Vec::new(), history: Vec::new() }
    }
}

/// Whether two entries differ only in whose they are, and so in what only the sender's own has.
fn is_same_message(one: &EntryRecord, other: &EntryRecord) -> bool {
    one.frame == other.frame
        && one.at_ms == other.at_ms
        && one.sender == other.sender
        && one.with == other.with
        && one.id == other.id
}

fn column(origin: Option<DeviceTag>) -> Option<i64> {
    origin.map(|DeviceTag(tag)| tag as i64)
}

fn insert_inbox(
    sql: &Connection,
    index: &mut Index,
    members: &[u8],
    entry: &EntryRecord,
    origin: Option<DeviceTag>,
    bytes: &[u8],
) -> Result<i64, Error> {
    let mut insert = sql.prepare_cached(
        "INSERT INTO inbox (id, members, at_ms, sender, peer, message_id, origin, frame)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?;
    let row = index.next.inbox;
    index.next.inbox += 1;
    let frame = &bytes[entry.frame.clone()];
    let (sender, id, origin) = (entry.sender.as_bytes(), entry.id.as_str(), column(origin));
    match &entry.with {
        Conversation::User(peer) => {
            insert.execute(params![row, members, entry.at_ms, sender, peer.as_bytes(), id, origin, frame])?
        }
        Conversation::Room(peer) => {
            insert.execute(params![row, members, entry.at_ms, sender, &**peer, id, origin, frame])?
        }
    };
    Ok(row)
}

fn insert_history(
    sql: &Connection,
    index: &mut Index,
    members: &[u8],
    entry: &EntryRecord,
    origin: Option<DeviceTag>,
    bytes: &[u8],
) -> Result<(), Error> {
    let Conversation::Room(room) = &entry.with else { return Ok(()) };
    let row = index.next.history;
    index.next.history += 1;
    sql.prepare_cached(
        "INSERT INTO history (id, room, members, at_ms, sender, message_id, origin, frame)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        row,
        &**room,
        members,
        entry.at_ms,
        entry.sender.as_bytes(),
        entry.id.as_str(),
        column(origin),
        &bytes[entry.frame.clone()],
    ])?;
    Ok(())
}

/// Sets a number of the store.
pub(crate) fn set_meta(sql: &Connection, name: &str, value: i64) -> Result<(), Error> {
    sql.prepare_cached("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)")?.execute(params![name, value])?;
    Ok(())
}
