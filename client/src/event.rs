//! What a session tells its user. Each event is one JSON object, named by its field `event`, with
//! the wire's own names for the other fields; `client listen` prints them one a line.
//!
//! | event | when |
//! |---|---|
//! | `welcome` | the session is open |
//! | `lobby` | a snapshot is complete and fits its count and digest |
//! | `joined`, `left` | a key came online, went offline |
//! | `lobby_diverged` | the own list does not fit the relay's count or digest; a snapshot is asked for |
//! | `message` | a message arrived, is verified, and is new |
//! | `bad_signature`, `not_for_me`, `duplicate` | a message arrived and was dropped |
//! | `gap` | messages that should have come did not, though the relay had promised them |
//! | `ack` | the relay has taken an own message |
//! | `delayed` | the relay did not want an own message yet; it is sent again |
//! | `failed` | an own message was refused, or got no answer |
//! | `receipt` | own messages were delivered or read |
//! | `typing` | somebody types, or has stopped |
//! | `room` | the answer to a request about a room |
//! | `room_update` | somebody joined or left a room |
//! | `history` | a page of history that was asked for |
//! | `error` | the relay refused a frame that was no own message |
//! | `bad_frame` | the relay sent what this client cannot read, or at the wrong time |
//! | `restarting` | the relay goes away and says when to come back |
//! | `closed` | the connection ended, or was never made |
//! | `reconnecting` | another attempt follows after a delay |

use protocol::keys::Hex;
use protocol::server_frame::ReceiptStatus;
use protocol::{PublicKey, Timestamp};
use serde::{Serialize, Serializer};

/// The reason of a message, or a request, that the relay did not answer in time.
pub const NO_ANSWER: &str = "no_answer";

/// The reason of a message that had no answer yet when the client ended.
pub const CLOSED: &str = "closed";

/// One thing that happened. Texts in it come from other people: escape them before they reach a
/// terminal ([`crate::escape`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// The session is open: messages can be composed.
    Welcome {
        /// The relay's name, as its challenge gave it and as it was expected.
        relay: String,
        /// The session's key.
        #[serde(serialize_with = "display")]
        public_key: PublicKey,
        /// The session's device.
        device_id: String,
        /// The relay's clock, which the session goes by from now on.
        #[serde(serialize_with = "display")]
        time: Timestamp,
        /// By how much that moved the session's clock, in milliseconds.
        clock_moved_ms: i64,
        /// What seqs count in.
        #[serde(serialize_with = "hex_number")]
        epoch: u64,
        /// The highest seq assigned in this key's inbox.
        seq: u64,
        /// Up to which seq everything was here already, if the session asked to go on from there.
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed_seq: Option<u64>,
        /// Whether everything after `resumed_seq` follows without a gap. If it was asked for and this
        /// is false, messages may be missing.
        recovered: bool,
        /// Milliseconds between the relay's pings.
        heartbeat_ms: u64,
        /// Bytes of the largest frame that the relay takes.
        frame_bytes: u64,
        /// Unicode scalar values of the longest message that the relay takes.
        message_chars: u64,
        /// Messages a second that the relay takes of this key; 0 is unlimited.
        messages_per_second: u64,
    },
    /// Everybody online, the own key included, in the order of the keys.
    Lobby {
        /// The snapshot's revision.
        rev: u64,
        /// Who is online.
        #[serde(serialize_with = "display_all")]
        users: Vec<PublicKey>,
    },
    /// A key came online.
    Joined {
        /// The lobby's revision then.
        rev: u64,
        /// Who.
        #[serde(serialize_with = "display")]
        public_key: PublicKey,
    },
    /// A key went offline.
    Left {
        /// The lobby's revision then.
        rev: u64,
        /// Who.
        #[serde(serialize_with = "display")]
        public_key: PublicKey,
    },
    /// The own list of who is online does not fit what the relay says. A `lobby` follows.
    LobbyDiverged {
        /// The revision at which it showed.
        rev: u64,
        /// What was wrong.
        details: String,
    },
    /// A message for this key or from another device of it: signature valid, never seen before.
    Message(ReceivedMessage),
    /// A message was dropped: its sender did not sign it, or has a key that nobody can sign with.
    BadSignature(Dropped),
    /// A message was dropped: it is neither for this key nor from it.
    NotForMe(Dropped),
    /// A message was dropped: its seq, or its sender's id, was seen before.
    Duplicate(Dropped),
    /// Messages that the relay had counted did not come, and no own message explains it.
    Gap {
        /// The first seq that is missing.
        first_seq: u64,
        /// The last; not all between are missing.
        last_seq: u64,
        /// How many are.
        missing: u64,
    },
    /// The relay has taken responsibility for an own message.
    Ack {
        /// Which.
        client_message_id: String,
        /// Whether the recipient was online.
        recipient_online: bool,
        /// Whether the relay had taken it before.
        duplicate: bool,
        /// Its seq in the own inbox, where the relay has a store.
        #[serde(skip_serializing_if = "Option::is_none")]
        seq: Option<u64>,
    },
    /// The relay did not want an own message yet. It is sent again, byte for byte the same.
    Delayed {
        /// Which.
        client_message_id: String,
        /// `rate_limited` or `overloaded`.
        reason: String,
        /// After how many milliseconds.
        retry_after_ms: u64,
    },
    /// An own message will not be sent again: the relay refused it; or, with one of
    /// [`NO_ANSWER`] and [`CLOSED`], it was not answered, and may have arrived all the same. Then an
    /// `ack` or `receipt` may still follow.
    Failed {
        /// Which.
        client_message_id: String,
        /// One of the contract's reasons, or one of this client's own.
        reason: String,
        /// One sentence for a person.
        details: String,
        /// When another attempt might do better.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// Own messages were delivered or read. Nothing proves it but the relay's word.
    Receipt {
        /// How far they got.
        #[serde(serialize_with = "status_name")]
        status: ReceiptStatus,
        /// Which.
        client_message_ids: Vec<String>,
        /// Who has or read them.
        #[serde(serialize_with = "display")]
        recipient_public_key: PublicKey,
        /// The room they were sent in.
        #[serde(skip_serializing_if = "Option::is_none")]
        room_id: Option<String>,
    },
    /// Somebody types, or has stopped. Who stops to exist does not say so: forget it after a while.
    Typing {
        /// Who.
        #[serde(serialize_with = "display")]
        sender_public_key: PublicKey,
        /// In which room; `None` if to this key.
        #[serde(skip_serializing_if = "Option::is_none")]
        room_id: Option<String>,
        /// Whether they do.
        is_typing: bool,
    },
    /// The answer to a request about a room.
    Room {
        /// The room.
        room_id: String,
        /// Who may invite and remove.
        #[serde(serialize_with = "display")]
        owner: PublicKey,
        /// Whether anyone may join.
        open: bool,
        /// Everybody in it; without the own key after leaving.
        #[serde(serialize_with = "display_all")]
        members: Vec<PublicKey>,
    },
    /// Somebody joined or left a room, perhaps this key.
    RoomUpdate {
        /// The room.
        room_id: String,
        /// Who joined.
        #[serde(serialize_with = "display_all")]
        joined: Vec<PublicKey>,
        /// Who left or was removed.
        #[serde(serialize_with = "display_all")]
        left: Vec<PublicKey>,
        /// The owner from now on.
        #[serde(serialize_with = "display")]
        owner: PublicKey,
    },
    /// A page of history that was asked for, oldest first. Each message was verified.
    History {
        /// With which user.
        #[serde(serialize_with = "display_some", skip_serializing_if = "Option::is_none")]
        with: Option<PublicKey>,
        /// Or in which room.
        #[serde(skip_serializing_if = "Option::is_none")]
        room_id: Option<String>,
        /// The messages.
        messages: Vec<ReceivedMessage>,
        /// How many were left out because their signature or their conversation was wrong.
        dropped: u64,
        /// Whether there are older ones.
        more: bool,
    },
    /// The relay refused a frame that was no own message without an answer, and says why; or, with
    /// [`NO_ANSWER`], it did not answer a request for history.
    Error {
        /// One of the contract's reasons.
        reason: String,
        /// One sentence for a person.
        details: String,
        /// The message it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        client_message_id: Option<String>,
        /// The room it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        room_id: Option<String>,
        /// When to try again.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after_ms: Option<u64>,
    },
    /// The relay sent what this client cannot read, or what has no place at that time. Dropped.
    BadFrame {
        /// What is wrong with it.
        details: String,
    },
    /// The relay goes away.
    Restarting {
        /// When to come back; the session does.
        reconnect_in_ms: u64,
    },
    /// The connection ended, or could not be made.
    Closed {
        /// The close code, if the relay sent one.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<u16>,
        /// One sentence for a person.
        details: String,
        /// Whether another attempt follows (`reconnecting`); if not, this is the last event.
        retry: bool,
    },
    /// Another attempt follows.
    Reconnecting {
        /// How many attempts in a row this makes, from 1 on.
        attempt: u32,
        /// After how many milliseconds.
        delay_ms: u64,
    },
}

impl Event {
    /// The seq that this event uses up, if it does: of a message, shown or dropped.
    #[must_use]
    pub fn seq(&self) -> Option<u64> {
        match self {
            Self::Message(message) => Some(message.seq),
            Self::BadSignature(dropped) | Self::NotForMe(dropped) | Self::Duplicate(dropped) => Some(dropped.seq),
            _ => None,
        }
    }
}

/// A message that was verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceivedMessage {
    /// Its place in the own inbox.
    pub seq: u64,
    /// Who wrote and signed it.
    #[serde(serialize_with = "display")]
    pub sender_public_key: PublicKey,
    /// The one key it is for; `None` if it is for a whole room.
    #[serde(serialize_with = "display_some", skip_serializing_if = "Option::is_none")]
    pub recipient_public_key: Option<PublicKey>,
    /// The room it was sent in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub room_id: Option<String>,
    /// The sender's id for it.
    pub client_message_id: String,
    /// The sender's clock.
    #[serde(serialize_with = "display")]
    pub timestamp: Timestamp,
    /// The text, as it was signed.
    pub message: String,
}

/// What is known of a message that was dropped. Without a valid signature all of it is a claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Its place in the own inbox.
    pub seq: u64,
    /// Who is said to have written it.
    #[serde(serialize_with = "display")]
    pub sender_public_key: PublicKey,
    /// The id that it bears.
    pub client_message_id: String,
}

fn display<S: Serializer>(value: &impl std::fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

fn display_some<S: Serializer>(value: &Option<PublicKey>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) => serializer.collect_str(value),
        None => serializer.serialize_none(),
    }
}

fn display_all<S: Serializer>(keys: &[PublicKey], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(keys.iter().map(ToString::to_string))
}

fn status_name<S: Serializer>(status: &ReceiptStatus, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.name())
}

fn hex_number<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(Hex::<16>::of(&number.to_be_bytes()).as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(event: &Event) -> String {
        serde_json::to_string(event).expect("an event is JSON")
    }

    #[test]
    fn events_read_as_the_wire_does() {
        let key = PublicKey::from_bytes([0xab; 32]);
        let hex = "ab".repeat(32);
        let message = Event::Message(ReceivedMessage {
            seq: 7,
            sender_public_key: key,
            recipient_public_key: Some(key),
            room_id: None,
            client_message_id: "m-1".into(),
            timestamp: Timestamp::from_unix_ms(0),
            message: "two\nlines".into(),
        });
        assert_eq!(
            json(&message),
            format!(r#"{{"event":"message","seq":7,"senderPublicKey":"{hex}","recipientPublicKey":"{hex}","#)
                + r#""clientMessageId":"m-1","timestamp":"1970-01-01T00:00:00.000Z","message":"two\nlines"}"#
        );
        assert_eq!(
            json(&Event::Lobby { rev: 3, users: vec![key] }),
            format!(r#"{{"event":"lobby","rev":3,"users":["{hex}"]}}"#)
        );
        let dropped = Dropped { seq: 1, sender_public_key: key, client_message_id: "x".into() };
        assert_eq!(
            json(&Event::NotForMe(dropped)),
            format!(r#"{{"event":"not_for_me","seq":1,"senderPublicKey":"{hex}","clientMessageId":"x"}}"#)
        );
        let receipt = Event::Receipt {
            status: ReceiptStatus::Read,
            client_message_ids: vec!["m-1".into()],
            recipient_public_key: key,
            room_id: None,
        };
        assert_eq!(
            json(&receipt),
            format!(r#"{{"event":"receipt","status":"read","clientMessageIds":["m-1"],"recipientPublicKey":"{hex}"}}"#)
        );
        assert_eq!(
            json(&Event::Gap { first_seq: 4, last_seq: 6, missing: 2 }),
            r#"{"event":"gap","firstSeq":4,"lastSeq":6,"missing":2}"#
        );
        assert_eq!(
            json(&Event::Closed { code: None, details: "gone".into(), retry: true }),
            r#"{"event":"closed","details":"gone","retry":true}"#
        );
    }
}
