//! Reading all of a store to tell whether it is sound: `relay store check`.
//!
//! What is read: SQLite's own structure, every row of every table, every frame with its signature.
//! Nothing is changed.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use protocol::decode::FrameDecoder;
use protocol::frame::{ClientFrame, Message};
use protocol::signature::verify_strict;
use protocol::{PublicKey, signed_bytes};
use rusqlite::{Connection, OpenFlags, Row};

use crate::codec::{self, Malformed};
use crate::fault::{Error, OpenError};
use crate::load;
use crate::open;
use crate::restore::{each_ids, each_room, each_user, meta};

/// Problems that are told; more are only counted.
const TOLD_MAX: usize = 50;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    boots: i64,
    users: usize,
    rooms: usize,
    inboxes: usize,
    waiting: usize,
    history: usize,
    ids: usize,
    unsigned: usize,
    problems: Vec<String>,
    untold: usize,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }

    fn problem(&mut self, what: impl fmt::Display) {
        if self.problems.len() < TOLD_MAX {
            self.problems.push(what.to_string());
        } else {
            self.untold += 1;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { boots, users, rooms, inboxes, waiting, history, ids, unsigned, problems, untold } = self;
        writeln!(f, "{users} users, {rooms} rooms, started {boots} times")?;
        writeln!(f, "{waiting} messages wait in {inboxes} inboxes, {history} messages of rooms are kept as history")?;
        writeln!(f, "{ids} message ids of the last minutes")?;
        if *unsigned > 0 {
            writeln!(f, "{unsigned} messages have a signature that strict verification refuses, as recipients will")?;
        }
        if self.is_sound() {
            return f.write_str("no problem found");
        }
        writeln!(f, "{} problems:", problems.len() + untold)?;
        problems.iter().try_for_each(|problem| writeln!(f, "  {problem}"))?;
        if *untold > 0 {
            writeln!(f, "  … and {untold} more")?;
        }
        f.write_str("put a backup in its place, or keep a copy of the directory and start anew with another")
    }
}

/// Reads all of the store in a directory.
///
/// # Errors
/// If it cannot be read at all: in use, not there, of another format, or no database.
pub fn check(dir: &Path) -> Result<Report, OpenError> {
    if !open::has_database(dir) {
        return Err(OpenError::Absent(dir.to_owned()));
    }
    let _lock = open::lock(dir)?;
    let connection = open::connect(dir, OpenFlags::empty())?;
    if open::is_new(&connection, dir)? {
        return Err(OpenError::Absent(dir.to_owned()));
    }
    let mut checker = Checker { sql: &connection, report: Report::default(), numbers: HashMap::new() };
    if let Err(error) = checker.all() {
        // What comes behind a page that cannot be read is not known.
        checker.report.problem(error);
    }
    Ok(checker.report)
}

struct Checker<'a> {
    sql: &'a Connection,
    report: Report,
    /// The key of each user's number, and up to which seq its entries are gone.
    numbers: HashMap<i64, (PublicKey, u64)>,
}

impl Checker<'_> {
    fn all(&mut self) -> Result<(), Error> {
        self.structure()?;
        self.report.boots = meta(self.sql, "boot")?.unwrap_or(0);
        if meta(self.sql, "seed")?.is_none() {
            self.report.problem("the seed is missing: ids and homes of users cannot be found again");
        }
        self.users()?;
        self.inbox()?;
        self.history()?;
        each_room(self.sql, |room| {
            self.report.rooms += 1;
            room.map_or_else(|error| self.report.problem(error), drop);
            Ok(())
        })?;
        each_ids(self.sql, |_, _, ids| {
            match ids {
                Ok(ids) => self.report.ids += ids.len(),
                Err(error) => self.report.problem(error),
            }
            Ok(())
        })
    }

    /// What SQLite says of its pages, tables and indexes.
    fn structure(&mut self) -> Result<(), Error> {
        let mut select = self.sql.prepare("PRAGMA integrity_check")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let line: String = row.get(0)?;
            if line != "ok" {
                self.report.problem(line);
            }
        }
        Ok(())
    }

    fn users(&mut self) -> Result<(), Error> {
        let mut keys = HashSet::new();
        let (report, numbers) = (&mut self.report, &mut self.numbers);
        each_user(self.sql, |row| {
            report.users += 1;
            match row {
                Err(error) => report.problem(error),
                Ok(user) => {
                    if user.record.is_none() {
                        report.problem(format_args!("user {:?} has messages and no record", user.key));
                    }
                    if !keys.insert(user.key) {
                        report.problem(format_args!("user {:?} is there twice", user.key));
                    }
                    numbers.insert(user.number, (user.key, user.removed));
                }
            }
            Ok(())
        })
    }

    fn inbox(&mut self) -> Result<(), Error> {
        let mut select =
            self.sql.prepare("SELECT id, members, peer, sender, message_id, frame, origin FROM inbox ORDER BY id")?;
        let mut rows = select.query([])?;
        let (mut places, mut frames) = (HashSet::new(), Frames::default());
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let checked = members(row).and_then(|members| {
                load::peer(value(row, 2, "peer")?)?;
                load::device(value(row, 6, "origin")?)?;
                frames.check(row, [3, 4, 5], &mut self.report)?;
                Ok(members)
            });
            match checked.map_err(Error::row("inbox", id)) {
                Err(error) => self.report.problem(error),
                Ok(members) => {
                    for member in members {
                        // A number that is not known was of a user that was forgotten.
                        let Some((key, removed)) = self.numbers.get(&member.user) else { continue };
                        if member.seq <= *removed {
                            continue;
                        }
                        self.report.waiting += 1;
                        if !places.insert((member.user, member.seq)) {
                            self.report.problem(format_args!("user {key:?} has seq {} twice", member.seq));
                        }
                    }
                }
            }
        }
        self.report.inboxes = places.iter().map(|(user, _)| user).collect::<HashSet<_>>().len();
        Ok(())
    }

    fn history(&mut self) -> Result<(), Error> {
        let mut select =
            self.sql.prepare("SELECT id, members, room, sender, message_id, frame, origin FROM history ORDER BY id")?;
        let mut rows = select.query([])?;
        let mut frames = Frames::default();
        while let Some(row) = rows.next()? {
            self.report.history += 1;
            let id: i64 = row.get(0)?;
            let checked = members(row).and_then(|_| {
                let room = value(row, 2, "room")?.as_str().map_err(|_| Malformed::Value("room"))?;
                if !protocol::keys::is_id(room) {
                    return Err(Malformed::Value("room"));
                }
                load::device(value(row, 6, "origin")?)?;
                frames.check(row, [3, 4, 5], &mut self.report)
            });
            checked.map_err(Error::row("history", id)).unwrap_or_else(|error| self.report.problem(error));
        }
        Ok(())
    }
}

fn value<'a>(row: &'a Row<'_>, column: usize, what: &'static str) -> Result<rusqlite::types::ValueRef<'a>, Malformed> {
    row.get_ref(column).map_err(|_| Malformed::Value(what))
}

fn members(row: &Row<'_>) -> Result<Vec<codec::Member>, Malformed> {
    let bytes = value(row, 1, "members")?.as_blob().map_err(|_| Malformed::Value("members"))?;
    let members = codec::members(bytes).collect::<Result<Vec<_>, _>>()?;
    if members.is_empty() { Err(Malformed::Value("members")) } else { Ok(members) }
}

/// Frames against the columns beside them, and their signatures.
#[derive(Default)]
struct Frames {
    decoder: FrameDecoder,
    signed: Vec<u8>,
}

impl Frames {
    /// Checks the frame in the columns of sender, message id and frame.
    fn check(&mut self, row: &Row<'_>, columns: [usize; 3], report: &mut Report) -> Result<(), Malformed> {
        const WRONG: Malformed = Malformed::Value("frame");
        let [sender, id, frame] = columns;
        let sender = load::key(value(row, sender, "sender")?).ok_or(Malformed::Value("sender"))?;
        let id = value(row, id, "message id")?.as_str().map_err(|_| Malformed::Value("message id"))?;
        let frame = value(row, frame, "frame")?.as_blob().map_err(|_| WRONG)?;
        let text = std::str::from_utf8(frame).map_err(|_| WRONG)?;
        let Ok(ClientFrame::Message(message)) = self.decoder.decode(text) else { return Err(WRONG) };
        if message.sender != sender || message.id != id {
            return Err(Malformed::Value("sender or id, which its frame has otherwise,"));
        }
        report.unsigned += usize::from(!is_signed(&message, &mut self.signed));
        Ok(())
    }
}

fn is_signed(message: &Message<'_>, signed: &mut Vec<u8>) -> bool {
    signed.clear();
    signed_bytes::message(signed, message);
    message.sender.to_verifying_key().is_ok_and(|key| verify_strict(&key, signed, &message.signature))
}
