//! SQLite as one would write it first: a table in the order of user and seq. Each entry of a commit
//! then changes a page of its own.

use std::path::Path;

use rusqlite::{Connection, params};

use super::{Candidate, Entry, Outcome, sqlite, text};

pub(crate) struct SqliteKeyed {
    connection: Connection,
}

impl Candidate for SqliteKeyed {
    const NAME: &'static str = "sqlite-keyed";

    fn open(dir: &Path) -> Outcome<Self> {
        let connection = sqlite::connect(dir)?;
        connection
            .execute_batch(
                "CREATE TABLE IF NOT EXISTS inbox (user BLOB NOT NULL, seq INTEGER NOT NULL, frame BLOB NOT NULL,
                     PRIMARY KEY (user, seq)) STRICT, WITHOUT ROWID",
            )
            .map_err(text)?;
        Ok(Self { connection })
    }

    fn commit(&mut self, entries: &[Entry], removed: &[([u8; 32], u64)]) -> Outcome<()> {
        let transaction = self.connection.transaction().map_err(text)?;
        {
            let mut insert = transaction.prepare_cached("INSERT INTO inbox VALUES (?, ?, ?)").map_err(text)?;
            for Entry { user, seq, frame } in entries {
                insert.execute(params![user, *seq as i64, frame]).map_err(text)?;
            }
            let mut remove =
                transaction.prepare_cached("DELETE FROM inbox WHERE user = ? AND seq <= ?").map_err(text)?;
            for (user, seq) in removed {
                remove.execute(params![user, *seq as i64]).map_err(text)?;
            }
        }
        transaction.commit().map_err(text)
    }

    fn tidy(&mut self) -> Outcome<()> {
        sqlite::checkpoint(&self.connection)
    }

    fn scan(&self, each: impl FnMut([u8; 32], u64, usize)) -> Outcome<()> {
        sqlite::scan(&self.connection, each)
    }

    fn has(&self, user: &[u8; 32], seq: u64) -> Outcome<bool> {
        self.connection
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM inbox WHERE user = ? AND seq = ?)")
            .and_then(|mut select| select.query_row(params![user, seq as i64], |row| row.get(0)))
            .map_err(text)
    }
}
