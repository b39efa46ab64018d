//! A local history: a file of JSON lines that is only ever appended to, readable by its owner alone.
//!
//! ```text
//! {"record":"message","seq":7,"senderPublicKey":"…","recipientPublicKey":"…","clientMessageId":"…","timestamp":"…","message":"…"}
//! {"record":"status","clientMessageId":"…","status":"delivered"}
//! ```
//! A message is written once, an own one without a seq; what becomes of an own one is in the `status`
//! lines behind it, of which the last counts.
//!
//! # Invariants
//! - A line is written whole, with one call, before the program goes on: what a crash of the program
//!   can leave behind is one torn line at the end, which is passed over and ended before the next one.
//!   A crash of the machine can lose the last lines, as nothing waits for the disk.
//! - One program at a time has the file: it is locked.
//! - Reading it is bounded by `TAIL_BYTES` and `MESSAGES_MAX`, however long it has become.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protocol::{PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::event::ReceivedMessage;
use crate::session::Recipient;

/// How much of the end of the file is read.
const TAIL_BYTES: u64 = 4 * 1024 * 1024;

/// Messages of it that are kept: fewer than the ids that a session remembers.
const MESSAGES_MAX: usize = 4000;

/// Why a history file cannot be used.
#[derive(Debug, Error)]
pub enum HistoryFileError {
    /// Another program has it.
    #[error("another program is using {}: give each its own file", .0.display())]
    InUse(PathBuf),
    /// The operating system refuses; the source says why.
    #[error("cannot {operation} {}", .path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
}

/// A message of an earlier run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastMessage {
    /// Who wrote it.
    pub sender: PublicKey,
    /// For whom.
    pub to: Recipient,
    /// Its `clientMessageId`.
    pub id: String,
    /// The sender's clock.
    pub timestamp: Timestamp,
    /// The text.
    pub text: String,
    /// Of an own message, the last word that was written of it: `sent`, `delivered`, `read` or
    /// `failed`.
    pub status: Option<String>,
}

/// A history file, open and locked.
#[derive(Debug)]
pub struct HistoryFile {
    file: File,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", rename_all_fields = "camelCase")]
enum Record {
    Message {
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
        sender_public_key: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        recipient_public_key: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        room_id: Option<String>,
        client_message_id: String,
        timestamp: String,
        message: String,
    },
    Status {
        client_message_id: String,
        status: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

impl HistoryFile {
    /// Opens a file, or makes it with mode 0600, and reads the messages at its end, oldest first.
    /// Lines of another form are passed over.
    ///
    /// # Errors
    /// [`HistoryFileError`].
    pub fn open(path: &Path) -> Result<(Self, Vec<PastMessage>), HistoryFileError> {
        let io = |operation| move |error| HistoryFileError::Io { operation, path: path.to_owned(), error };
        let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let mut file = open.map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HistoryFileError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io("lock")(error)),
        }
        let bytes = file.metadata().map_err(io("inspect"))?.len();
        let start = bytes.saturating_sub(TAIL_BYTES);
        let mut tail = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(io("read"))?;
        (&file).take(TAIL_BYTES).read_to_end(&mut tail).map_err(io("read"))?;
        if tail.last().is_some_and(|&byte| byte != b'\n') {
            file.write_all(b"\n").map_err(io("write"))?;
        }
        let whole_lines = match (start, tail.iter().position(|&byte| byte == b'\n')) {
            (0, _) => &tail[..],
            (_, Some(end)) => &tail[end..],
            (_, None) => &[],
        };
        Ok((Self { file, path: path.to_owned() }, past(whole_lines)))
    }

    /// Writes a message that arrived.
    ///
    /// # Errors
    /// [`HistoryFileError::Io`].
    pub fn received(&mut self, message: &ReceivedMessage) -> Result<(), HistoryFileError> {
        self.append(&Record::Message {
            seq: Some(message.seq),
            sender_public_key: message.sender_public_key.to_string(),
            recipient_public_key: message.recipient_public_key.as_ref().map(ToString::to_string),
            room_id: message.room_id.clone(),
            client_message_id: message.client_message_id.clone(),
            timestamp: message.timestamp.to_string(),
            message: message.message.clone(),
        })
    }

    /// Writes an own message.
    ///
    /// # Errors
    /// [`HistoryFileError::Io`].
    pub fn own(
        &mut self,
        own: &PublicKey,
        to: &Recipient,
        id: &str,
        timestamp: Timestamp,
        text: &str,
    ) -> Result<(), HistoryFileError> {
        let (user, room) = match to {
            Recipient::User(user) => (Some(user), None),
            Recipient::Room(room) => (None, Some(room)),
            Recipient::RoomMember(room, member) => (Some(member), Some(room)),
        };
        self.append(&Record::Message {
            seq: None,
            sender_public_key: own.to_string(),
            recipient_public_key: user.map(ToString::to_string),
            room_id: room.cloned(),
            client_message_id: id.to_owned(),
            timestamp: timestamp.to_string(),
            message: text.to_owned(),
        })
    }

    /// Writes what became of an own message: `sent`, `delivered`, `read`, or `failed` and why.
    ///
    /// # Errors
    /// [`HistoryFileError::Io`].
    pub fn status(&mut self, id: &str, status: &str, reason: Option<&str>) -> Result<(), HistoryFileError> {
        self.append(&Record::Status {
            client_message_id: id.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
        })
    }

    fn append(&mut self, record: &Record) -> Result<(), HistoryFileError> {
        let io = |error| HistoryFileError::Io { operation: "write", path: self.path.clone(), error };
        let mut line = serde_json::to_vec(record).map_err(|error| io(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(io)
    }
}

/// The latest messages among these lines, each with its last status.
fn past(lines: &[u8]) -> Vec<PastMessage> {
    let mut messages: Vec<PastMessage> = Vec::new();
    let mut statuses = HashMap::new();
    for line in lines.split(|&byte| byte == b'\n') {
        match serde_json::from_slice(line) {
            Ok(Record::Status { client_message_id, status, .. }) => {
                statuses.insert(client_message_id, status);
            }
            Ok(record) => messages.extend(past_message(record)),
            Err(_) => {}
        }
    }
    messages.drain(..messages.len().saturating_sub(MESSAGES_MAX));
    for message in &mut messages {
        message.status = statuses.remove(&message.id);
    }
    messages
}

fn past_message(record: Record) -> Option<PastMessage> {
    let Record::Message {
        sender_public_key,
        recipient_public_key,
        room_id,
        client_message_id: id,
        timestamp,
        message: text,
        ..
    } = record
    else {
        return None;
    };
    let recipient = match recipient_public_key {
        Some(key) => Some(PublicKey::from_hex(&key)?),
        None => None,
    };
    let to = match (recipient, room_id) {
        (Some(user), None) => Recipient::User(user),
        (None, Some(room)) => Recipient::Room(room),
        (Some(member), Some(room)) => Recipient::RoomMember(room, member),
        (None, None) => return None,
    };
    let sender = PublicKey::from_hex(&sender_public_key)?;
    Some(PastMessage { sender, to, id, timestamp: Timestamp::parse(&timestamp)?, text, status: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const ME: PublicKey = PublicKey::from_bytes([1; 32]);
    const PEER: PublicKey = PublicKey::from_bytes([2; 32]);

    fn message(seq: u64, text: &str) -> ReceivedMessage {
        ReceivedMessage {
            seq,
            sender_public_key: PEER,
            recipient_public_key: Some(ME),
            room_id: None,
            client_message_id: format!("m-{seq}"),
            timestamp: Timestamp::from_unix_ms(0),
            message: text.to_owned(),
        }
    }

    fn texts(past: &[PastMessage]) -> Vec<(&str, Option<&str>)> {
        past.iter().map(|message| (message.text.as_str(), message.status.as_deref())).collect()
    }

    #[test]
    fn what_was_written_comes_back_with_its_last_status() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history");
        let (mut file, past) = HistoryFile::open(&path).expect("a new file");
        assert!(past.is_empty());
        assert_eq!(fs::metadata(&path).expect("the file").permissions().mode() & 0o7777, 0o600);
        let time = Timestamp::from_unix_ms(5);
        file.received(&message(1, "two\nlines")).expect("room");
        file.own(&ME, &Recipient::RoomMember("tea".into(), PEER), "own-1", time, "psst").expect("room");
        file.own(&ME, &Recipient::Room("tea".into()), "own-2", time, "hi all").expect("room");
        for status in ["sent", "delivered"] {
            file.status("own-1", status, None).expect("room");
        }
        file.status("own-2", "failed", Some("not_member")).expect("room");
        assert!(matches!(HistoryFile::open(&path), Err(HistoryFileError::InUse(_))), "it is locked");
        drop(file);
        let (_, past) = HistoryFile::open(&path).expect("the file");
        assert_eq!(texts(&past), [("two\nlines", None), ("psst", Some("delivered")), ("hi all", Some("failed"))]);
        assert_eq!(past[0].to, Recipient::User(ME));
        assert_eq!(past[1].to, Recipient::RoomMember("tea".into(), PEER));
        assert_eq!((past[1].sender, past[1].timestamp, past[1].id.as_str()), (ME, time, "own-1"));
        let lines = fs::read_to_string(&path).expect("text");
        assert_eq!(lines.lines().count(), 6);
        assert!(lines.ends_with(
            "{\"record\":\"status\",\"clientMessageId\":\"own-2\",\"status\":\"failed\",\"reason\":\"not_member\"}\n"
        ));
    }

    #[test]
    fn a_torn_line_harms_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history");
        let mut whole = HistoryFile::open(&path).expect("a new file").0;
        whole.received(&message(1, "one")).expect("room");
        whole.received(&message(2, "two")).expect("room");
        drop(whole);
        let content = fs::read(&path).expect("the file");
        let second = content.iter().position(|&byte| byte == b'\n').expect("two lines") + 1;
        // Torn anywhere within the second line, its newline included.
        for end in second..content.len() {
            fs::write(&path, &content[..end]).expect("write");
            let (mut file, past) = HistoryFile::open(&path).expect("the file");
            let is_whole = end + 1 == content.len();
            assert_eq!(past.len(), if is_whole { 2 } else { 1 }, "{end}");
            file.received(&message(3, "three")).expect("room");
            drop(file);
            let (_, past) = HistoryFile::open(&path).expect("the file");
            let expected: &[_] = if is_whole {
                &[("one", None), ("two", None), ("three", None)]
            } else {
                &[("one", None), ("three", None)]
            };
            assert_eq!(texts(&past), expected, "{end}");
        }
    }

    #[test]
    fn a_long_file_is_read_from_its_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("history");
        let mut file = HistoryFile::open(&path).expect("a new file").0;
        let text = "x".repeat(1000);
        for seq in 0..4100 {
            file.received(&message(seq, &text)).expect("room");
        }
        drop(file);
        let (_, past) = HistoryFile::open(&path).expect("the file");
        assert!(past.len() > 3000 && past.len() < 4000, "{}", past.len());
        assert_eq!(past.last().map(|message| message.id.as_str()), Some("m-4099"));
        // Short ones: the number of messages bounds it.
        fs::remove_file(&path).expect("remove");
        let mut file = HistoryFile::open(&path).expect("a new file").0;
        for seq in 0..4100 {
            file.received(&message(seq, "x")).expect("room");
        }
        drop(file);
        assert_eq!(HistoryFile::open(&path).expect("the file").1.len(), MESSAGES_MAX);
        assert!(matches!(HistoryFile::open(dir.path()), Err(HistoryFileError::Io { .. })));
    }
}
