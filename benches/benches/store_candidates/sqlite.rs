//! SQLite in WAL mode as the relay's store has it: rows in the order of their arrival, so that a
//! commit fills few pages; the way from user and seq to a row is in memory, made at the start.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use rusqlite::{Connection, params};

use super::{Candidate, Entry, Outcome, text};

/// Pages of the WAL after which it is copied into the database: 4 MiB.
const CHECKPOINT_PAGES: i64 = 1000;

pub(crate) struct Sqlite {
    connection: Connection,
    rows: HashMap<[u8; 32], VecDeque<(u64, i64)>>,
}

impl Candidate for Sqlite {
    const NAME: &'static str = "sqlite";

    fn open(dir: &Path) -> Outcome<Self> {
        let connection = connect(dir)?;
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS inbox (id INTEGER PRIMARY KEY, user BLOB NOT NULL, seq INTEGER NOT NULL,
                     frame BLOB NOT NULL) STRICT",
            )
            .map_err(text)?;
        let mut rows: HashMap<_, VecDeque<_>> = HashMap::new();
        {
            let mut select = connection.prepare("SELECT user, seq, id FROM inbox").map_err(text)?;
            let mut found = select.query([]).map_err(text)?;
            while let Some(row) = found.next().map_err(text)? {
                let user: [u8; 32] = row.get(0).map_err(text)?;
                let seq: i64 = row.get(1).map_err(text)?;
                rows.entry(user).or_default().push_back((seq as u64, row.get(2).map_err(text)?));
            }
        }
        Ok(Self { connection, rows })
    }

    fn commit(&mut self, entries: &[Entry], removed: &[([u8; 32], u64)]) -> Outcome<()> {
        let transaction = self.connection.transaction().map_err(text)?;
        let mut inserted = Vec::with_capacity(entries.len());
        {
            let mut insert =
                transaction.prepare_cached("INSERT INTO inbox (user, seq, frame) VALUES (?, ?, ?)").map_err(text)?;
            for Entry { user, seq, frame } in entries {
                inserted.push((user, *seq, insert.insert(params![user, *seq as i64, frame]).map_err(text)?));
            }
            let mut remove = transaction.prepare_cached("DELETE FROM inbox WHERE id = ?").map_err(text)?;
            for (user, through) in removed {
                let rows = self.rows.get(user).into_iter().flatten();
                for (_, id) in rows.take_while(|(seq, _)| seq <= through) {
                    remove.execute([id]).map_err(text)?;
                }
            }
        }
        transaction.commit().map_err(text)?;
        for (user, seq, id) in inserted {
            self.rows.entry(*user).or_default().push_back((seq, id));
        }
        for (user, through) in removed {
            if let Some(rows) = self.rows.get_mut(user) {
                rows.drain(..rows.partition_point(|(seq, _)| seq <= through));
            }
        }
        Ok(())
    }

    fn tidy(&mut self) -> Outcome<()> {
        checkpoint(&self.connection)
    }

    fn scan(&self, each: impl FnMut([u8; 32], u64, usize)) -> Outcome<()> {
        scan(&self.connection, each)
    }

    fn has(&self, user: &[u8; 32], seq: u64) -> Outcome<bool> {
        let Some(rows) = self.rows.get(user) else { return Ok(false) };
        let Ok(place) = rows.binary_search_by_key(&seq, |(seq, _)| *seq) else { return Ok(false) };
        self.connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM inbox WHERE id = ? AND user = ? AND seq = ?)")
            .and_then(|mut select| select.query_row(params![rows[place].1, user, seq as i64], |row| row.get(0)))
            .map_err(text)
    }
}

/// Opens the database with the settings of the relay's store.
pub(crate) fn connect(dir: &Path) -> Outcome<Connection> {
    let connection = Connection::open(dir.join("candidate.db")).map_err(text)?;
    connection
        .execute_batch(
            "PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -65536;",
        )
        .map_err(text)?;
    Ok(connection)
}

/// Copies the WAL into the database if it has grown; the next commit then begins it anew.
pub(crate) fn checkpoint(connection: &Connection) -> Outcome<()> {
    let pages: i64 = connection.query_row("PRAGMA wal_checkpoint(NOOP)", [], |row| row.get(1)).map_err(text)?;
    if pages >= CHECKPOINT_PAGES {
        connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())).map_err(text)?;
    }
    Ok(())
}

pub(crate) fn scan(connection: &Connection, mut each: impl FnMut([u8; 32], u64, usize)) -> Outcome<()> {
    let mut select = connection.prepare("SELECT user, seq, length(frame) FROM inbox").map_err(text)?;
    let mut rows = select.query([]).map_err(text)?;
    while let Some(row) = rows.next().map_err(text)? {
        let (seq, length): (i64, i64) = (row.get(1).map_err(text)?, row.get(2).map_err(text)?);
        each(row.get(0).map_err(text)?, seq as u64, length as usize);
    }
    Ok(())
}
