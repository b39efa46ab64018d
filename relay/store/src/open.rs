//! Opening a store: the directory, its lock, the format, and what the last run left.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::Path;
use std::process;

use relay_core::Durability;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use crate::commit::{STATEMENTS, Scratch, set_meta};
use crate::fault::{Error, OpenError};
use crate::history::Places;
use crate::restore::{self, Restored, meta};
use crate::schema::{APPLICATION, FORMAT, SETTINGS, TABLES};
use crate::{Contents, Options, Store};

const DATABASE: &str = "relay.db";
const LOCK: &str = "relay.lock";

impl Store {
    /// Opens the store in a directory, or makes one, and reads what it holds. `seed` is for a new one.
    /// Blocks for as long as that takes: about a second for a million messages.
    ///
    /// # Errors
    /// [`OpenError`]. Nothing was changed then, but for a directory that may have been made.
    pub fn open(options: &Options, seed: u64, now_ms: i64) -> Result<(Self, Contents), OpenError> {
        let dir = &options.dir;
        make_dir(dir)?;
        let lock = lock(dir)?;
        let opened = connect(dir, OpenFlags::SQLITE_OPEN_CREATE).and_then(|connection| {
            prepare(&connection, options.durability, seed, dir)?;
            Ok(connection)
        });
        let connection = opened?;
        // The names of the files are on disk before anything in them is promised to be.
        sync_dir(dir)?;
        let failed = |error: Error| open_error(dir, &error);
        let number = |name| meta(&connection, name).map(|value| value.unwrap_or(0) as u64);
        let (seed, boot) = (number("seed").map_err(failed)?, number("boot").map_err(failed)?);
        let Restored { index, users, rooms, ids, id_rows } = restore::restore(&connection, now_ms).map_err(failed)?;
        let store = Self {
            connection,
            index,
            id_rows: id_rows.into(),
            places: Places::default(),
            retention_ms: i64::try_from(options.retention.as_millis()).unwrap_or(i64::MAX),
            swept_at_ms: now_ms,
            failed: None,
            scratch: Scratch::default(),
            _lock: lock,
            dir: dir.clone(),
        };
        Ok((store, Contents { seed, boot, users, rooms, ids }))
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// Makes the tables of a new database, checks the format of another, and counts the start.
fn prepare(connection: &Connection, durability: Durability, seed: u64, dir: &Path) -> Result<(), OpenError> {
    let failed = |error: rusqlite::Error| open_error(dir, &error.into());
    let is_new = is_new(connection, dir)?;
    connection.execute_batch(SETTINGS).map_err(failed)?;
    // FULL syncs the WAL at each commit, NORMAL when it is copied.
    let synchronous = match durability {
        Durability::Sync | Durability::Group => "FULL",
        Durability::Memory => "NORMAL",
    };
    connection.pragma_update(None, "synchronous", synchronous).map_err(failed)?;
    let start = || -> Result<(), Error> {
        let transaction = connection.unchecked_transaction()?;
        if is_new {
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
            transaction.pragma_update(None, "user_version", FORMAT)?;
            set_meta(&transaction, "seed", seed as i64)?;
        }
        let boot = meta(&transaction, "boot")?.unwrap_or(0) + 1;
        set_meta(&transaction, "boot", boot)?;
        Ok(transaction.commit()?)
    };
    start().map_err(|error| open_error(dir, &error))
}

/// Opens the database with an exclusive lock, as it is.
pub(crate) fn connect(dir: &Path, create: OpenFlags) -> Result<Connection, OpenError> {
    let failed = |error: rusqlite::Error| open_error(dir, &error.into());
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let connection = Connection::open_with_flags(dir.join(DATABASE), flags).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .and_then(|_| connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true))
        .and_then(|_| connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE"))
        .map_err(failed)?;
    Ok(connection)
}

/// Whether the database is empty; otherwise it is a store of a format that is known.
pub(crate) fn is_new(connection: &Connection, dir: &Path) -> Result<bool, OpenError> {
    let number = |pragma| {
        connection
            .pragma_query_value(None, pragma, |row| row.get::<_, i32>(0))
            .map_err(|error| open_error(dir, &error.into()))
    };
    if number("schema_version")? == 0 {
        return Ok(true);
    }
    if number("application_id")? != APPLICATION {
        return Err(OpenError::Foreign(dir.join(DATABASE)));
    }
    match number("user_version")? {
        FORMAT => Ok(false),
        found if found > FORMAT => Err(OpenError::Newer { dir: dir.to_owned(), found }),
        found => Err(OpenError::Damaged { dir: dir.to_owned(), why: format!("no relay wrote a format {found}") }),
    }
}

/// Whether a directory holds a database.
pub(crate) fn has_database(dir: &Path) -> bool {
    dir.join(DATABASE).is_file()
}

pub(crate) fn open_error(dir: &Path, error: &Error) -> OpenError {
    match error {
        Error::Database(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
            OpenError::Full(dir.to_owned())
        }
        _ => OpenError::Damaged { dir: dir.to_owned(), why: error.to_string() },
    }
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(io_error("make the directory", dir))?;
    // A relative name of one part has the empty path for its parent.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    sync_dir(parent)
}

fn sync_dir(dir: &Path) -> Result<(), OpenError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync the directory", dir))
}

/// Takes the directory for this process, until the file is dropped or the process ends.
pub(crate) fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let failed = io_error("lock", &path);
    let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = match opened {
        Ok(file) => file,
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => {
            // Only helps whoever meets the lock: a full disk may refuse it.
            let _ = file.set_len(0).and_then(|()| write!(file, "{}", process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&file).take(20).read_to_string(&mut pid);
            let pid = pid.trim().parse::<u32>().ok();
            let holder = pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
            Err(OpenError::Locked { dir: dir.to_owned(), holder })
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::Io { what, path: path.to_owned(), source }
}
