//! What keeps the files small: expired rows go with other commits, and the WAL is copied into the
//! database between them.

use std::collections::VecDeque;

use protocol::limits::ID_MEMORY_MS;
use relay_core::StoreFault;
use rusqlite::Connection;

use crate::Store;
use crate::commit::set_meta;
use crate::fault::{Error, Failure};
use crate::index::Index;

/// How often expired rows are looked for.
const SWEEP_EVERY_MS: i64 = 1000;

/// Rows of history that one sweep deletes at most: some milliseconds.
const SWEEP_HISTORY_MAX: i64 = 2048;

/// Rows of ids that one sweep deletes at most. One is written by a commit, at most 500 a second.
const SWEEP_IDS_MAX: usize = 1024;

/// Pages of the WAL that are worth copying: 4 MiB, some tens of milliseconds at most. Less would sync
/// more often, more would hold up the commits behind it.
const CHECKPOINT_PAGES: i64 = 1000;

/// Whether a sweep is due. A clock that was set back is believed.
pub(crate) fn is_due(swept_at_ms: i64, now_ms: i64) -> bool {
    now_ms < swept_at_ms || now_ms - swept_at_ms >= SWEEP_EVERY_MS
}

/// Deletes what has expired, within a transaction. Returns how many rows of ids went.
pub(crate) fn sweep(
    sql: &Connection,
    index: &Index,
    id_rows: &VecDeque<(i64, i64)>,
    now_ms: i64,
    retention_ms: i64,
) -> Result<usize, Error> {
    let oldest_ms = now_ms.saturating_sub_unsigned(ID_MEMORY_MS);
    let expired = id_rows.iter().take(SWEEP_IDS_MAX).take_while(|(_, at_ms)| *at_ms < oldest_ms);
    let count = expired.clone().count();
    if let Some((last, _)) = expired.last() {
        sql.prepare_cached("DELETE FROM ids WHERE id <= ?")?.execute([last])?;
    }
    let last = last_expired(sql, now_ms.saturating_sub(retention_ms))?;
    if let Some(last) = last {
        sql.prepare_cached("DELETE FROM history WHERE id <= ?")?.execute([last])?;
        // Also when none is left, the next gets a number that none had.
        set_meta(sql, "history_next", index.next.history)?;
    }
    Ok(count)
}

/// The last of the first rows of history that are older than this. They are in the order of their
/// arrival; after a clock was set back, some stay until those before them go.
fn last_expired(sql: &Connection, oldest_ms: i64) -> Result<Option<i64>, Error> {
    let mut select = sql.prepare_cached("SELECT id, at_ms FROM history ORDER BY id LIMIT ?")?;
    let mut rows = select.query([SWEEP_HISTORY_MAX])?;
    let mut last = None;
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= oldest_ms {
            break;
        }
        last = Some(row.get(0)?);
    }
    Ok(last)
}

impl Store {
    /// Copies the WAL into the database if it has grown, for some tens of milliseconds then. To be
    /// called between commits.
    ///
    /// # Errors
    /// As [`Store::commit`]. A full disk here harms nothing: the WAL grows until there is room.
    pub fn tidy(&mut self) -> Result<(), Failure> {
        self.health()?;
        let wal_pages = |mode| {
            let mut checkpoint = self.connection.prepare_cached(mode)?;
            checkpoint.query_row([], |row| row.get::<_, i64>(1)).map_err(Error::from)
        };
        let result = wal_pages("PRAGMA wal_checkpoint(NOOP)").and_then(|pages| {
            if pages < CHECKPOINT_PAGES { Ok(pages) } else { wal_pages("PRAGMA wal_checkpoint(PASSIVE)") }
        });
        result.map(drop).map_err(|error| self.fail(error))
    }

    /// Whether expired rows should be looked for although nothing is to be stored: by a commit of no
    /// batches.
    #[must_use]
    pub fn wants_sweep(&self, now_ms: i64) -> bool {
        let has_expired = || {
            let oldest_ms = now_ms.saturating_sub_unsigned(ID_MEMORY_MS);
            self.id_rows.front().is_some_and(|(_, at_ms)| *at_ms < oldest_ms)
                || last_expired(&self.connection, now_ms.saturating_sub(self.retention_ms))
                    .is_ok_and(|last| last.is_some())
        };
        self.failed.is_none() && is_due(self.swept_at_ms, now_ms) && has_expired()
    }

    /// Brings everything into the one file and closes it. Not after a failure: then the files stay as
    /// they are for the next start.
    ///
    /// # Errors
    /// As [`Store::commit`]. Nothing is lost then either.
    pub fn close(mut self) -> Result<(), Failure> {
        self.health()?;
        let copied = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        match copied.map_err(|error| self.fail(error.into())) {
            // The WAL has everything: no more is promised.
            Err(Failure { fault: StoreFault::Full, .. }) | Ok(()) => Ok(()),
            Err(failure) => Err(failure),
        }
    }
}
