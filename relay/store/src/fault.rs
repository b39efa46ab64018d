//! What can go wrong, in sentences for an operator.

use std::fmt;
use std::io;
use std::path::PathBuf;

use relay_core::StoreFault;
use rusqlite::ErrorCode;
use thiserror::Error;

use crate::codec::Malformed;
use crate::schema::FORMAT;

/// Why a store cannot be opened or checked.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be used.
    #[error("cannot {what} {path}: {source}: give the relay a directory that it may write, with --data")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is nothing to check.
    #[error("there is no store in {0}: name the directory that a relay was given with --data")]
    Absent(PathBuf),
    /// Another process uses it.
    #[error("{dir} is in use by {holder}: end it first, or take another directory with --data")]
    Locked {
        /// The directory.
        dir: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The database is somebody else's.
    #[error("{0} is not a relay's database: take another directory with --data")]
    Foreign(PathBuf),
    /// A newer relay wrote it.
    #[error(
        "the store in {dir} has format {found}, and this relay reads formats up to {FORMAT}: \
         start the relay that wrote it or a newer one, or take another directory with --data"
    )]
    Newer {
        /// The directory.
        dir: PathBuf,
        /// Its format.
        found: i32,
    },
    /// The disk is full.
    #[error("there is no room on the disk of {0}: make some, then start again; nothing was lost")]
    Full(PathBuf),
    /// It cannot be read.
    #[error(
        "the store in {dir} cannot be used: {why}: `relay store check {dir}` tells more; \
         put a backup in its place, or take another directory with --data"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// Why something was not stored or read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What it means.
    pub fault: StoreFault,
    /// What it was, in words.
    pub sentence: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence)
    }
}

/// Anything that goes wrong between this crate and the database.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// SQLite's, the disk's with it.
    #[error("{}", describe(.0))]
    Database(#[from] rusqlite::Error),
    /// A row holds what nobody wrote.
    #[error("row {row} of {table} is damaged: {why}")]
    Row { table: &'static str, row: String, why: Malformed },
}

impl Error {
    /// For a row that does not decode.
    pub(crate) fn row(table: &'static str, row: impl ToString) -> impl FnOnce(Malformed) -> Self {
        move |why| Self::Row { table, row: row.to_string(), why }
    }

    pub(crate) fn fault(&self) -> StoreFault {
        match self {
            Self::Database(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => StoreFault::Full,
            Self::Database(_) | Self::Row { .. } => StoreFault::Failed,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { fault: error.fault(), sentence: error.to_string() }
    }
}

/// SQLite's error with its extended code, which tells a failed write from a failed sync.
fn describe(error: &rusqlite::Error) -> String {
    use rusqlite::ffi;
    let rusqlite::Error::SqliteFailure(ffi::Error { extended_code, .. }, _) = error else {
        return error.to_string();
    };
    let what = match *extended_code {
        ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC => "the disk failed to sync",
        ffi::SQLITE_IOERR_WRITE => "the disk failed to write",
        ffi::SQLITE_IOERR_READ | ffi::SQLITE_IOERR_SHORT_READ => "the disk failed to read",
        ffi::SQLITE_IOERR_TRUNCATE => "the disk failed to shorten a file",
        ffi::SQLITE_FULL => "the disk is full",
        _ => return format!("{error} (SQLite code {extended_code})"),
    };
    what.to_owned()
}
