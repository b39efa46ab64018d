//! The tables, and the settings of a connection.
//!
//! | table | a row |
//! |---|---|
//! | `meta` | a number by its name: `seed`, `boot`, and where ids of rows go on |
//! | `users` | a user; `removed`: entries of its inbox up to there are gone even where a row of several still lists it; `mark`: the first row of history that may be newer than the record |
//! | `inbox` | a message and those who have not confirmed it |
//! | `history` | a room's message and those who may read it again |
//! | `rooms` | a room |
//! | `ids` | the ids that were accepted in one commit |
//!
//! `peer` is whom a message was exchanged with: a key as a blob, a room as text. Users are known to
//! other rows by their number, which is never given again.

/// `application_id` of the database: "RELY".
pub(crate) const APPLICATION: i32 = 0x5245_4c59;

/// `user_version` of the database: the format of its tables and records.
pub(crate) const FORMAT: i32 = 1;

/// Settings of every connection. The exclusive lock keeps the index of the WAL in this process's
/// memory; the WAL is copied by [`tidy`](crate::Store::tidy) alone.
pub(crate) const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA wal_autocheckpoint = 0;
    PRAGMA cache_size = -32768;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
    PRAGMA cell_size_check = ON;
";

/// The tables of format 1.
pub(crate) const TABLES: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY NOT NULL, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE users (
        number INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        removed INTEGER NOT NULL,
        mark INTEGER NOT NULL,
        record BLOB
    ) STRICT;
    CREATE TABLE inbox (
        id INTEGER PRIMARY KEY,
        members BLOB NOT NULL,
        at_ms INTEGER NOT NULL,
        sender BLOB NOT NULL,
        peer ANY NOT NULL,
        message_id TEXT NOT NULL,
        origin INTEGER,
        frame BLOB NOT NULL
    ) STRICT;
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        room TEXT NOT NULL,
        members BLOB NOT NULL,
        at_ms INTEGER NOT NULL,
        sender BLOB NOT NULL,
        message_id TEXT NOT NULL,
        origin INTEGER,
        frame BLOB NOT NULL
    ) STRICT;
    CREATE INDEX history_by_room ON history (room);
    CREATE TABLE rooms (id TEXT PRIMARY KEY NOT NULL, record BLOB NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE ids (id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, records BLOB NOT NULL) STRICT;
";
