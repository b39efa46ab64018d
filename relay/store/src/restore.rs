//! What a start reads: all but the frames, and of history only what may be newer than the records of
//! users who were online when the relay ended.

use std::collections::HashMap;

use protocol::PublicKey;
use relay_core::store::{IdRecord, KeptRecord, RestoredUser, RoomRecord, UserRecord};
use rusqlite::{Connection, Row};

use crate::codec::{self, Malformed};
use crate::fault::Error;
use crate::index::{Entry, Index, Next};
use crate::load;

/// Everything that a start reads.
pub(crate) struct Restored {
    pub(crate) index: Index,
    pub(crate) users: Vec<RestoredUser>,
    pub(crate) rooms: Vec<RoomRecord>,
    pub(crate) ids: Vec<IdRecord>,
    /// Rows of ids with the time of their newest.
    pub(crate) id_rows: Vec<(i64, i64)>,
}

/// A user as its row has it.
pub(crate) struct UserRow {
    pub(crate) number: i64,
    pub(crate) key: PublicKey,
    pub(crate) removed: u64,
    pub(crate) mark: i64,
    /// `None` for one whose messages came without its record.
    pub(crate) record: Option<UserRecord>,
}

pub(crate) fn restore(sql: &Connection, now_ms: i64) -> Result<Restored, Error> {
    let mut index = Index::new(next(sql)?);
    let (mut users, mut removed, mut by_number) = (Vec::new(), Vec::new(), HashMap::new());
    let mut mark = i64::MAX;
    each_user(sql, |row| {
        let UserRow { number, key, removed: through, mark: since, record } = row?;
        index.restore_user(key, number);
        let record = record.unwrap_or_else(|| unrecorded(key, now_ms));
        if !record.exact {
            mark = mark.min(since);
        }
        by_number.insert(number, users.len());
        removed.push(through);
        users.push(RestoredUser { record, seq_max: 0, kept: Vec::new() });
        Ok(())
    })?;
    each_kept(sql, |row, found| {
        let (members, kept) = found?;
        let mut waiting = 0;
        for member in codec::members(members) {
            let member = member.map_err(Error::row("inbox", row))?;
            let Some(place) = by_number.get(&member.user).copied() else { continue };
            let user = &mut users[place];
            user.seq_max = user.seq_max.max(member.seq);
            if member.seq > removed[place] {
                index.restore_entry(&user.record.key, Entry { seq: member.seq, row });
                let origin = kept.origin.filter(|_| user.record.key == kept.sender);
                user.kept.push(KeptRecord { seq: member.seq, origin, ..kept });
                waiting += 1;
            }
        }
        index.share(row, waiting);
        Ok(())
    })?;
    let mut select = sql.prepare("SELECT id, members FROM history WHERE id >= ?")?;
    let mut rows = select.query([mark])?;
    while let Some(row) = rows.next()? {
        for member in codec::members(row.get_ref(1)?.as_blob().map_err(rusqlite::Error::from)?) {
            let member = member.map_err(Error::row("history", row.get::<_, i64>(0)?))?;
            if let Some(place) = by_number.get(&member.user) {
                users[*place].seq_max = users[*place].seq_max.max(member.seq);
            }
        }
    }
    for user in &mut users {
        user.kept.sort_unstable_by_key(|kept| kept.seq);
    }
    let mut rooms = Vec::new();
    each_room(sql, |room| {
        rooms.push(room?);
        Ok(())
    })?;
    let mut id_rows = Vec::new();
    let ids = ids(sql, &mut id_rows)?;
    index.keep();
    Ok(Restored { index, users, rooms, ids, id_rows })
}

/// A record for a user who has none. It is not exact, so that its seqs get an epoch of their own.
fn unrecorded(key: PublicKey, now_ms: i64) -> UserRecord {
    UserRecord {
        key,
        epoch: 0,
        seq: 0,
        exact: false,
        seen: false,
        removed_through: 0,
        active_ms: now_ms,
        devices: Vec::new(),
        receipts: Vec::new(),
    }
}

/// The numbers that are given next: above all that are there, and above all that were.
fn next(sql: &Connection) -> Result<Next, Error> {
    let above = |select: &str| sql.query_row(select, [], |row| row.get::<_, Option<i64>>(0));
    let next = |table: &str, column: &str| -> Result<i64, Error> {
        let last = above(&format!("SELECT max({column}) FROM {table}"))?;
        Ok(last.unwrap_or(0) + 1)
    };
    let noted = |name: &str| -> Result<i64, Error> { Ok(meta(sql, name)?.unwrap_or(1)) };
    Ok(Next {
        user: next("users", "number")?.max(noted("user_next")?),
        inbox: next("inbox", "id")?,
        history: next("history", "id")?.max(noted("history_next")?),
        ids: next("ids", "id")?,
    })
}

/// A number of the store.
pub(crate) fn meta(sql: &Connection, name: &str) -> Result<Option<i64>, Error> {
    let mut select = sql.prepare("SELECT value FROM meta WHERE name = ?")?;
    let mut rows = select.query([name])?;
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

/// Goes over the users. Its errors end it.
pub(crate) fn each_user(
    sql: &Connection,
    mut each: impl FnMut(Result<UserRow, Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut select = sql.prepare("SELECT number, key, removed, mark, record FROM users")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let number = row.get(0)?;
        each(user(number, row).map_err(Error::row("users", number)))?;
    }
    Ok(())
}

fn user(number: i64, row: &Row<'_>) -> Result<UserRow, Malformed> {
    let value = |column| row.get_ref(column).map_err(|_| Malformed::Value("columns"));
    let number_in = |column| value(column)?.as_i64().map_err(|_| Malformed::Value("numbers"));
    let key = load::key(value(1)?).ok_or(Malformed::Value("key"))?;
    let record = value(4)?.as_blob_or_null().map_err(|_| Malformed::Value("record"))?;
    let record = record.map(|record| codec::decode_user(key, record)).transpose()?;
    Ok(UserRow { number, key, removed: number_in(2)? as u64, mark: number_in(3)?, record })
}

/// Goes over the rows of the inboxes: their members, and what is the same for all of these.
fn each_kept(
    sql: &Connection,
    mut each: impl FnMut(i64, Result<(&[u8], KeptRecord), Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut select = sql.prepare("SELECT id, members, at_ms, sender, origin, length(frame) FROM inbox ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id = row.get(0)?;
        each(id, kept(row).map_err(Error::row("inbox", id)))?;
    }
    Ok(())
}

fn kept<'a>(row: &'a Row<'_>) -> Result<(&'a [u8], KeptRecord), Malformed> {
    let value = |column| row.get_ref(column).map_err(|_| Malformed::Value("columns"));
    let members = value(1)?.as_blob().map_err(|_| Malformed::Value("members"))?;
    let at_ms = value(2)?.as_i64().map_err(|_| Malformed::Value("time"))?;
    let sender = load::key(value(3)?).ok_or(Malformed::Value("sender"))?;
    let bytes = value(5)?.as_i64().ok().and_then(|bytes| u32::try_from(bytes).ok());
    let bytes = bytes.ok_or(Malformed::Value("frame"))?;
    Ok((members, KeptRecord { seq: 0, bytes, at_ms, sender, origin: load::device(value(4)?)? }))
}

/// Goes over the rooms. Its errors end it.
pub(crate) fn each_room(
    sql: &Connection,
    mut each: impl FnMut(Result<RoomRecord, Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut select = sql.prepare("SELECT id, record FROM rooms")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id: String = row.get(0)?;
        let record = row.get_ref(1)?.as_blob().map_err(|_| Malformed::Value("record"));
        let room = record.and_then(|record| codec::decode_room(&id, record));
        each(room.map_err(Error::row("rooms", id)))?;
    }
    Ok(())
}

/// The ids, each key once with its latest record, oldest first. Pushes their rows.
fn ids(sql: &Connection, id_rows: &mut Vec<(i64, i64)>) -> Result<Vec<IdRecord>, Error> {
    let mut ids = Vec::new();
    each_ids(sql, |row, at_ms, decoded| {
        id_rows.push((row, at_ms));
        decoded.map(|decoded| ids.extend(decoded))
    })?;
    ids.sort_by_key(IdRecord::order);
    let latest: HashMap<u128, usize> = ids.iter().enumerate().map(|(place, id)| (id.key, place)).collect();
    let mut place = 0;
    ids.retain(|id| {
        place += 1;
        latest.get(&id.key) == Some(&(place - 1))
    });
    Ok(ids)
}

/// Goes over the rows of ids with their times. Its errors end it.
pub(crate) fn each_ids(
    sql: &Connection,
    mut each: impl FnMut(i64, i64, Result<Vec<IdRecord>, Error>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut select = sql.prepare("SELECT id, at_ms, records FROM ids ORDER BY id")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (id, at_ms): (i64, i64) = (row.get(0)?, row.get(1)?);
        let mut ids = Vec::new();
        let decoded = row
            .get_ref(2)?
            .as_blob()
            .map_err(|_| Malformed::Value("records"))
            .and_then(|records| codec::decode_ids(&mut ids, at_ms, records));
        each(id, at_ms, decoded.map(|()| ids).map_err(Error::row("ids", id)))?;
    }
    Ok(())
}
