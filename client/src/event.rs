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
//! | `ack` | the relay has taken an own message |
//! | `failed` | an own message will get no ack |
//! | `error` | the relay refused a frame |
//! | `bad_frame` | the relay sent what this client cannot read, or at the wrong time |
//! | `restarting` | the relay goes away and says when to come back |
//! | `closed` | the connection ended, or was never made |
//! | `reconnecting` | another attempt follows after a delay |

use protocol::keys::Hex;
use protocol::{PublicKey, Timestamp};
use serde::{Serialize, Serializer};

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
        /// Whether everything after the resumed seq follows without a gap.
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
    /// An own message will get no ack: the connection ended first. It may have arrived all the same.
    Failed {
        /// Which.
        client_message_id: String,
    },
    /// The relay refused a frame, and says why.
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
        assert_eq!(
            json(&Event::Closed { code: None, details: "gone".into(), retry: true }),
            r#"{"event":"closed","details":"gone","retry":true}"#
        );
    }
}
