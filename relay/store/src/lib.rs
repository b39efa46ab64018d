//! What the relay keeps on disk: inboxes, the history of rooms, users, rooms and message ids, in one
//! SQLite database for all shards.
//!
//! # Flow
//! ```text
//! Store::open ── lock, format, boot ── Contents: what the shards are restored with
//! Store::commit(batches) ── one transaction, one fdatasync ── all of them are safe, or none
//! Store::load ── a page of an inbox or a room's history, in slices
//! Store::tidy ── what was confirmed or has expired leaves the files
//! Store::close ── everything in the one file
//! check ── reads all of it and tells what is wrong
//! ```
//!
//! # The files
//! `relay.db`, and beside it `relay.db-wal`: what was committed lately, copied into the database by
//! and by. Both together are the store. `relay.lock` is held by the process that uses them.
//!
//! # Invariants
//! - Rows lie in the order of their arrival, so that a commit of 256 messages for 256 users fills some
//!   thirty pages and not 256, and deleting what came together frees whole pages. The way from a user
//!   and a seq to its row is in memory (`index`) and is made anew at each start.
//! - A message that several users have is one row, with the list of them.
//! - Memory changes with the disk: what a failed commit had changed is taken back.
//! - After a failed sync or a damaged page nothing is committed or read any more, and the WAL is not
//!   copied: what the kernel holds of it may no longer be what the disk has. The next start reads what
//!   the disk has, and SQLite's checksums tell where the WAL ends.
//! - A full disk changes nothing: the transaction is taken back, the next one tries anew.
//!
//! Absent on purpose: threads and clocks (the relay's shell has them; time is an argument), and any
//! decision about what is kept how long, but for the retention of history.

#![forbid(unsafe_code)]

mod check;
mod codec;
mod commit;
mod fault;
mod history;
mod index;
mod load;
mod open;
mod restore;
mod schema;
mod tidy;

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use relay_core::Durability;
use relay_core::store::{IdRecord, RestoredUser, RoomRecord};
use rusqlite::Connection;

pub use check::{Report, check};
pub use fault::{Failure, OpenError};
pub use load::{Load, Progress};

use history::Places;
use index::Index;

/// Where and how a store keeps what it is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The directory; it is made if it is not there.
    pub dir: PathBuf,
    /// [`Durability::Memory`] commits without a sync.
    pub durability: Durability,
    /// How long history is kept.
    pub retention: Duration,
}

/// What was in a store when it was opened.
#[derive(Debug)]
pub struct Contents {
    /// Keys all hashes; made with the store.
    pub seed: u64,
    /// Which start on this store it is, from 1.
    pub boot: u64,
    /// All users, with the index of their inboxes.
    pub users: Vec<RestoredUser>,
    /// All rooms.
    pub rooms: Vec<RoomRecord>,
    /// The ids accepted lately, oldest first, each key once.
    pub ids: Vec<IdRecord>,
}

/// An open store. Belongs to one thread; every call may block on the disk.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    index: Index,
    /// Rows of ids with the time of their newest, oldest first.
    id_rows: VecDeque<(i64, i64)>,
    /// Where pages of history ended.
    places: Places,
    retention_ms: i64,
    swept_at_ms: i64,
    /// Why nothing is stored or read any more.
    failed: Option<String>,
    /// The buffers of a commit.
    scratch: commit::Scratch,
    /// Held as long as the store is open; released after the connection has closed.
    _lock: File,
    dir: PathBuf,
}
