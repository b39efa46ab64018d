//! The store's thread, and the ways between it and the shards.
//!
//! # Flow
//! ```text
//! start ── Opened ── what each shard is restored with ── shards
//! shard ── StoreLink ── batches, page requests ──▶ the store's thread: one transaction for all that wait
//!       ◀── StoreLink ── what is safe, pages ─────┘
//! ```
//! | module | subject |
//! |---|---|
//! | `deal` | which shard gets what at the start |
//! | `link` | a shard's end of the queues |
//! | `worker` | the thread |
//! | `health` | how the store is, for operators |
//!
//! # Invariants
//! - The database is touched by its thread alone, after the start.
//! - No shard waits for the disk, and the disk for no shard: what a shard has under way is bounded
//!   ([`link`]), so both queues always have room.
//! - When the relay has ended in order, everything is on disk and the database is one file.
//!
//! Absent on purpose: what is stored and when (relay-core), and how (relay-store).

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded};
use relay_core::Restored;
use relay_engine::Doorbell;
use relay_store::{Contents, OpenError, Options, Store};
use tracing::{info, warn};

mod deal;
mod health;
mod link;
mod worker;

pub(crate) use health::{Condition, Health, StoreStats};
pub(crate) use link::StoreLink;

use link::{ANSWERS_MAX, Answer, Request};
use worker::Worker;

/// A store that was opened, before it has a thread.
#[derive(Debug)]
pub(crate) struct Opened {
    store: Store,
    contents: Contents,
}

/// The ends of the queues that belong to the store's thread.
#[derive(Debug)]
pub(crate) struct StoreEnd {
    requests: Receiver<Request>,
    answers: Vec<Sender<Answer>>,
}

/// The store's thread. It ends when every shard's link is gone.
#[derive(Debug)]
pub(crate) struct StoreThread {
    thread: JoinHandle<()>,
    /// Disconnects when the thread ends.
    ended: Receiver<()>,
    health: Arc<Health>,
}

impl Opened {
    /// Opens the store, with a log line of what is in it.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub(crate) fn open(options: &Options, seed: u64) -> Result<Self, OpenError> {
        let begun = Instant::now();
        let (store, contents) = Store::open(options, seed, unix_ms())?;
        let messages: usize = contents.users.iter().map(|user| user.kept.len()).sum();
        info!(
            dir = %options.dir.display(),
            boot = contents.boot,
            users = contents.users.len(),
            messages,
            rooms = contents.rooms.len(),
            took_ms = begun.elapsed().as_millis() as u64,
            "store opened"
        );
        Ok(Self { store, contents })
    }

    /// Keys all hashes.
    pub(crate) fn seed(&self) -> u64 {
        self.contents.seed
    }

    /// Which start on this store it is.
    pub(crate) fn boot(&self) -> u64 {
        self.contents.boot
    }

    /// Gives each of the shards what is at home there, in their order.
    pub(crate) fn deal(self, core: &relay_core::Config) -> (Store, Vec<Restored>) {
        (self.store, deal::deal(self.contents, core))
    }
}

/// Makes the queues between the store and so many shards, whose links come in their order.
pub(crate) fn links(shards: u16) -> (StoreEnd, Vec<StoreLink>) {
    let (requests_sender, requests) = bounded(usize::from(shards) * ANSWERS_MAX);
    let link = |shard| {
        let (answers_sender, answers) = bounded(ANSWERS_MAX);
        (answers_sender, StoreLink::new(shard, requests_sender.clone(), answers))
    };
    let (answers, links) = (0..shards).map(link).unzip();
    (StoreEnd { requests, answers }, links)
}

impl StoreThread {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives none.
    pub(crate) fn spawn(store: Store, end: StoreEnd, doorbells: Vec<Arc<Doorbell>>) -> io::Result<Self> {
        let health = Arc::new(Health::default());
        let (ended_sender, ended) = bounded(0);
        let worker = Worker::new(store, end, doorbells, Arc::clone(&health));
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || {
            worker.run();
            drop(ended_sender);
        })?;
        Ok(Self { thread, ended, health })
    }

    /// How the store is, also after its end.
    pub(crate) fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// Waits for the end of the thread, not beyond a time.
    pub(crate) fn wait(self, deadline: Option<Instant>) {
        let is_late = match deadline {
            Some(deadline) => self.ended.recv_deadline(deadline).is_err_and(|error| error.is_timeout()),
            None => false,
        };
        if is_late {
            // Whatever was acked is in the WAL; the next start finds it there.
            warn!("the store did not end in time: left behind, with nothing lost");
            return;
        }
        // A panic was logged by itself.
        let _ = self.thread.join();
    }
}

/// The wall clock. One before 1970 is nobody's.
fn unix_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests;
