//! Where pages of history ended, so that the next one need not search for its beginning.

use std::collections::HashMap;
use std::sync::Arc;

/// Places that are remembered. When there are more, all are forgotten: a page is then searched for
/// from the newest.
const PLACES_MAX: usize = 4096;

/// For a user and a room: below this seq, history goes on below this row.
#[derive(Debug, Default)]
pub(crate) struct Places {
    by_reader: HashMap<(i64, Arc<str>), (u64, i64)>,
}

impl Places {
    /// The row below which the reader's messages with a seq below `before` are.
    pub(crate) fn find(&self, user: i64, room: &Arc<str>, before: u64) -> Option<i64> {
        let (seq, row) = *self.by_reader.get(&(user, Arc::clone(room)))?;
        (before <= seq).then_some(row)
    }

    /// Notes that the reader's message of this seq is in this row.
    pub(crate) fn note(&mut self, user: i64, room: &Arc<str>, seq: u64, row: i64) {
        if self.by_reader.len() >= PLACES_MAX {
            self.by_reader.clear();
        }
        self.by_reader.insert((user, Arc::clone(room)), (seq, row));
    }
}
