//! Pages of stored messages.
//!
//! # Flow
//! [`Store::load`] does a slice of a [`Load`] and gives back the page, or the rest of the load. So a
//! search through a long history holds up no commit for more than a slice.
//!
//! | page | found by |
//! |---|---|
//! | of an inbox | the index in memory: the next entries |
//! | exchanged with a user | the index, newest first: entries of the inbox with this peer |
//! | of a room | the rows of the room, newest first, that list the reader |

use std::ops::ControlFlow;

use protocol::PublicKey;
use relay_core::StoreFault;
use relay_core::store::{Conversation, DeviceTag, Page, PageEntry, PageOf, PageRequest};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::Store;
use crate::codec::{self, Malformed};
use crate::fault::Error;
use crate::history::Places;
use crate::index::{Entry, Index};

/// Rows that one slice looks at: about a millisecond.
const SLICE_ROWS: usize = 256;

/// A page on its way: what was asked, and what was found so far.
#[derive(Debug)]
pub struct Load {
    page: Box<Page>,
    /// Frames of more bytes than these are for another page.
    bytes_left: usize,
    /// Where a search goes on: below this seq, or this row of history.
    below: Option<i64>,
}

/// What came of a slice.
#[derive(Debug)]
pub enum Progress {
    /// The page, also when it could not be read: then with the fault.
    Done(Box<Page>),
    /// Not yet: to be called again.
    More(Load),
}

impl Load {
    /// Begins a load.
    #[must_use]
    pub fn new(request: PageRequest) -> Self {
        let bytes_left = request.bytes_max;
        let page = Page { request, entries: Vec::new(), bytes: Vec::new(), more: false, fault: None };
        Self { page: Box::new(page), bytes_left, below: None }
    }

    /// Ends it with a fault, empty.
    #[must_use]
    pub fn failed(mut self, fault: StoreFault) -> Box<Page> {
        self.page.entries.clear();
        self.page.bytes.clear();
        self.page.more = false;
        self.page.fault = Some(fault);
        self.page
    }

    /// Takes an entry into the page, or says that it is full.
    fn take(&mut self, found: Found<'_>) -> ControlFlow<()> {
        let Found { frame, mut entry } = found;
        let is_first = self.page.entries.is_empty();
        if self.page.entries.len() == self.page.request.entries_max || (frame.len() > self.bytes_left && !is_first) {
            self.page.more = true;
            return ControlFlow::Break(());
        }
        self.bytes_left = self.bytes_left.saturating_sub(frame.len());
        let start = self.page.bytes.len();
        self.page.bytes.extend_from_slice(frame);
        entry.frame = start..self.page.bytes.len();
        self.page.entries.push(entry);
        ControlFlow::Continue(())
    }
}

/// An entry as it lies in a row.
struct Found<'a> {
    frame: &'a [u8],
    /// With an empty range.
    entry: PageEntry,
}

impl Store {
    /// Does a slice of a load.
    pub fn load(&mut self, mut load: Load) -> Progress {
        let result = self.health().and_then(|()| {
            slice(&self.connection, &self.index, &mut self.places, &mut load).map_err(|error| self.fail(error))
        });
        match result {
            Ok(true) => {
                let mut page = load.page;
                page.entries.sort_unstable_by_key(|entry| entry.seq);
                Progress::Done(page)
            }
            Ok(false) => Progress::More(load),
            Err(failure) => Progress::Done(load.failed(failure.fault)),
        }
    }
}

/// Goes on with a load; returns whether it is done.
fn slice(sql: &Connection, index: &Index, places: &mut Places, load: &mut Load) -> Result<bool, Error> {
    match load.page.request.what.clone() {
        PageOf::Inbox { after } => inbox(sql, index, load, after),
        PageOf::History { with: Conversation::User(peer), before, since_ms } => {
            with_user(sql, index, load, &peer, before, since_ms)
        }
        PageOf::History { with: Conversation::Room(room), before, since_ms } => {
            let mut search = Search { sql, places, reader: 0, room, before, since_ms };
            let Some(number) = index.number(&load.page.request.user) else { return Ok(true) };
            search.reader = number;
            search.slice(load)
        }
    }
}

const INBOX_ROW: &str = "SELECT at_ms, sender, peer, message_id, origin, frame FROM inbox WHERE id = ?";

fn inbox(sql: &Connection, index: &Index, load: &mut Load, after: u64) -> Result<bool, Error> {
    let mut select = sql.prepare_cached(INBOX_ROW)?;
    let user = load.page.request.user;
    for Entry { seq, row } in index.entries_after(&user, after) {
        let taken = select.query_row([row], |found| Ok(inbox_entry(found, &user, seq).map(|found| load.take(found))));
        if taken?.map_err(Error::row("inbox", row))?.is_break() {
            break;
        }
    }
    Ok(true)
}

fn with_user(
    sql: &Connection,
    index: &Index,
    load: &mut Load,
    peer: &PublicKey,
    before: u64,
    since_ms: i64,
) -> Result<bool, Error> {
    let mut select = sql.prepare_cached(INBOX_ROW)?;
    let user = load.page.request.user;
    let before = load.below.map_or(before, |below| below as u64);
    for (looked_at, Entry { seq, row }) in index.entries_before(&user, before).enumerate() {
        if looked_at == SLICE_ROWS {
            load.below = Some(seq as i64 + 1);
            return Ok(false);
        }
        let taken = select.query_row([row], |found| {
            if found.get::<_, i64>(0)? < since_ms {
                return Ok(Ok(ControlFlow::Break(())));
            }
            if found.get_ref(2)? != ValueRef::Blob(peer.as_bytes()) {
                return Ok(Ok(ControlFlow::Continue(())));
            }
            Ok(inbox_entry(found, &user, seq).map(|found| load.take(found)))
        });
        if taken?.map_err(Error::row("inbox", row))?.is_break() {
            break;
        }
    }
    Ok(true)
}

/// A search through a room's history, newest first.
struct Search<'a> {
    sql: &'a Connection,
    places: &'a mut Places,
    /// The number of who reads.
    reader: i64,
    room: std::sync::Arc<str>,
    before: u64,
    since_ms: i64,
}

impl Search<'_> {
    fn slice(&mut self, load: &mut Load) -> Result<bool, Error> {
        let below = load.below.or_else(|| self.places.find(self.reader, &self.room, self.before)).unwrap_or(i64::MAX);
        let mut select = self.sql.prepare_cached(
            "SELECT id, members, at_ms FROM history WHERE room = ? AND id < ? ORDER BY id DESC LIMIT ?",
        )?;
        let mut rows = select.query(params![&*self.room, below, SLICE_ROWS as i64])?;
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            looked_at += 1;
            let id: i64 = row.get(0)?;
            load.below = Some(id);
            if row.get::<_, i64>(2)? < self.since_ms {
                return Ok(true);
            }
            let members = row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?;
            let Some(seq) = seq_of(members, self.reader).map_err(Error::row("history", id))? else { continue };
            if seq < self.before {
                if self.take(load, id, seq)?.is_break() {
                    return Ok(true);
                }
                self.places.note(self.reader, &self.room, seq, id);
            }
        }
        Ok(looked_at < SLICE_ROWS)
    }

    fn take(&self, load: &mut Load, id: i64, seq: u64) -> Result<ControlFlow<()>, Error> {
        let mut select =
            self.sql.prepare_cached("SELECT at_ms, sender, message_id, origin, frame FROM history WHERE id = ?")?;
        let user = load.page.request.user;
        let taken = select
            .query_row([id], |row| {
                let with = Conversation::Room(std::sync::Arc::clone(&self.room));
                Ok(entry(row, [0, 1, 2, 3, 4], &user, seq, with).map(|found| load.take(found)))
            })
            .optional()?;
        taken.unwrap_or(Ok(ControlFlow::Continue(()))).map_err(Error::row("history", id))
    }
}

/// The seq that a message has for this user, if it is among the members.
fn seq_of(members: &[u8], user: i64) -> Result<Option<u64>, Malformed> {
    for member in codec::members(members) {
        let member = member?;
        if member.user == user {
            return Ok(Some(member.seq));
        }
    }
    Ok(None)
}

fn inbox_entry<'a>(row: &'a Row<'_>, user: &PublicKey, seq: u64) -> Result<Found<'a>, Malformed> {
    let with = peer(row.get_ref(2).map_err(|_| Malformed::Value("peer"))?)?;
    entry(row, [0, 1, 3, 4, 5], user, seq, with)
}

/// Reads an entry of a user from the columns of its time, sender, message id, origin and frame.
fn entry<'a>(
    row: &'a Row<'_>,
    columns: [usize; 5],
    user: &PublicKey,
    seq: u64,
    with: Conversation,
) -> Result<Found<'a>, Malformed> {
    let [at_ms, sender, id, origin, frame] = columns;
    let value = |column| row.get_ref(column).map_err(|_| Malformed::Value("columns"));
    let frame = value(frame)?.as_blob().map_err(|_| Malformed::Value("frame"))?;
    let sender = key(value(sender)?).ok_or(Malformed::Value("sender"))?;
    let origin = device(value(origin)?)?;
    let entry = PageEntry {
        seq,
        at_ms: value(at_ms)?.as_i64().map_err(|_| Malformed::Value("time"))?,
        sender,
        with,
        id: codec::message_id(value(id)?.as_str().map_err(|_| Malformed::Value("message id"))?)?,
        // The row has it for the sender; to others it says nothing.
        origin: origin.filter(|_| sender == *user),
        frame: 0..0,
    };
    Ok(Found { frame, entry })
}

/// Reads a key.
pub(crate) fn key(value: ValueRef<'_>) -> Option<PublicKey> {
    Some(PublicKey::from_bytes(value.as_blob().ok()?.try_into().ok()?))
}

/// Reads whom a message was exchanged with.
pub(crate) fn peer(value: ValueRef<'_>) -> Result<Conversation, Malformed> {
    const WRONG: Malformed = Malformed::Value("peer");
    match value {
        ValueRef::Blob(_) => key(value).map(Conversation::User).ok_or(WRONG),
        ValueRef::Text(_) => value.as_str().map(|room| Conversation::Room(room.into())).map_err(|_| WRONG),
        _ => Err(WRONG),
    }
}

/// Reads a device's tag.
pub(crate) fn device(value: ValueRef<'_>) -> Result<Option<DeviceTag>, Malformed> {
    let tag = value.as_i64_or_null().map_err(|_| Malformed::Value("origin"))?;
    Ok(tag.map(|tag| DeviceTag(tag as u64)))
}
