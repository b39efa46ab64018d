//! How the store is: written by its thread, read by the admin endpoint.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Whether the store takes what it is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Condition {
    /// It does.
    #[default]
    Well,
    /// There is no room; messages that would have to be stored are refused, and the next commit tries
    /// anew.
    Full,
    /// A sync failed or the database is damaged, as the sentence says. Nothing is acked any more.
    Failed(String),
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Health {
    condition: Mutex<Condition>,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    commits: AtomicU64,
    batches: AtomicU64,
    entries: AtomicU64,
    pages: AtomicU64,
    failures: AtomicU64,
    commit_us: AtomicU64,
    commit_us_max: AtomicU64,
}

/// Counts of the store's thread. Monotonic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StoreStats {
    /// Transactions that were committed.
    pub commits: u64,
    /// Batches of shards in them.
    pub batches: u64,
    /// Messages in them, for each user once.
    pub entries: u64,
    /// Pages read for shards.
    pub pages: u64,
    /// Transactions that failed.
    pub failures: u64,
    /// Time that commits took, in microseconds.
    pub commit_us: u64,
    /// The longest of them.
    pub commit_us_max: u64,
}

impl Health {
    pub(crate) fn condition(&self) -> Condition {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the condition and returns the one before.
    pub(super) fn set(&self, condition: Condition) -> Condition {
        std::mem::replace(&mut self.condition.lock().unwrap_or_else(PoisonError::into_inner), condition)
    }

    pub(super) fn committed(&self, batches: usize, entries: usize, took: Duration) {
        let took_us = took.as_micros() as u64;
        self.counts.commits.fetch_add(1, Ordering::Relaxed);
        self.counts.batches.fetch_add(batches as u64, Ordering::Relaxed);
        self.counts.entries.fetch_add(entries as u64, Ordering::Relaxed);
        self.counts.commit_us.fetch_add(took_us, Ordering::Relaxed);
        self.counts.commit_us_max.fetch_max(took_us, Ordering::Relaxed);
    }

    pub(super) fn failed(&self) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read_page(&self) {
        self.counts.pages.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stats(&self) -> StoreStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { commits, batches, entries, pages, failures, commit_us, commit_us_max } = &self.counts;
        StoreStats {
            commits: read(commits),
            batches: read(batches),
            entries: read(entries),
            pages: read(pages),
            failures: read(failures),
            commit_us: read(commit_us),
            commit_us_max: read(commit_us_max),
        }
    }
}
