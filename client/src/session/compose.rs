//! Own messages: checked against what the relay takes, and signed.

use std::time::Instant;

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{Message, Target};
use protocol::keys::is_id;
use protocol::{PublicKey, Signature, Timestamp, encode, signed_bytes};
use thiserror::Error;

use super::Effect;
use super::outbox::Outgoing;
use super::state::{Phase, State, text_of};
use crate::history::{Entry, Peer, Status};

/// For whom a message is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Recipient {
    /// One user.
    User(PublicKey),
    /// All members of a room.
    Room(String),
    /// One member of a room, privately.
    RoomMember(String, PublicKey),
}

impl Recipient {
    /// The conversation that the message belongs to.
    #[must_use]
    pub fn peer(&self) -> Peer {
        match self {
            Self::User(user) => Peer::User(*user),
            Self::Room(room) | Self::RoomMember(room, _) => Peer::Room(room.clone()),
        }
    }

    /// The same, borrowed.
    #[must_use]
    pub fn as_target(&self) -> Target<'_> {
        match self {
            Self::User(user) => Target::User(*user),
            Self::Room(room) => Target::Room(room),
            Self::RoomMember(room, member) => Target::RoomMember(room, *member),
        }
    }
}

impl From<PublicKey> for Recipient {
    fn from(user: PublicKey) -> Self {
        Self::User(user)
    }
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ComposeError {
    /// There is no connection to the relay, and there will be none.
    #[error("the client has closed for good")]
    Ended,
    /// The text is empty.
    #[error("the message is empty")]
    Empty,
    /// The text is longer than the relay takes.
    #[error("the message has {chars} characters, the relay takes {chars_max}")]
    TooLong {
        /// Unicode scalar values of the text.
        chars: u64,
        /// What the relay takes.
        chars_max: u64,
    },
    /// The frame is larger than the relay takes.
    #[error("the message makes a frame of {bytes} bytes, the relay takes {bytes_max}")]
    TooLarge {
        /// Bytes of the frame.
        bytes: u64,
        /// What the relay takes.
        bytes_max: u64,
    },
    /// The id has another form, or is that of a message without an answer.
    #[error("the message id is malformed or in use")]
    Id,
    /// The room's id has another form.
    #[error("a room's id is 1 to 64 of A-Z a-z 0-9 - _ . :")]
    Room,
    /// Too many messages have no answer yet.
    #[error("{0} messages have no answer from the relay yet")]
    TooManyUnacked(usize),
}

impl State {
    pub(super) fn send(
        &mut self,
        id: String,
        to: &Recipient,
        text: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) -> Result<(), ComposeError> {
        if matches!(self.phase, Phase::Refused) {
            return Err(ComposeError::Ended);
        }
        let chars = text.chars().count() as u64;
        if chars == 0 {
            return Err(ComposeError::Empty);
        }
        if chars > self.limits.message_chars {
            return Err(ComposeError::TooLong { chars, chars_max: self.limits.message_chars });
        }
        if !is_id(&id) || self.outbox.contains(&id) {
            return Err(ComposeError::Id);
        }
        let peer = to.peer();
        if matches!(&peer, Peer::Room(room) if !is_id(room)) {
            return Err(ComposeError::Room);
        }
        if self.outbox.len() >= self.options.unacked_max {
            return Err(ComposeError::TooManyUnacked(self.outbox.len()));
        }
        let timestamp = self.clock.time(now);
        let bytes = frame_bytes(&unsigned(self.public_key, to.as_target(), text, &id, timestamp));
        if bytes > self.limits.frame_bytes {
            return Err(ComposeError::TooLarge { bytes, bytes_max: self.limits.frame_bytes });
        }
        // What it sends, this device is never to show as another's.
        self.ids.insert(self.public_key, &id);
        let entry = Entry {
            seq: None,
            sender: self.public_key,
            id: id.clone(),
            timestamp,
            text: text.to_owned(),
            status: Status::Sending,
        };
        self.history.insert(peer.clone(), entry);
        self.requests.stop_typing(&peer);
        let member = match to {
            Recipient::RoomMember(_, member) => Some(*member),
            Recipient::User(_) | Recipient::Room(_) => None,
        };
        self.outbox.push(Outgoing::new(id, peer, member, text.to_owned()));
        self.settle(now, effects);
        Ok(())
    }
}

fn unsigned<'a>(
    sender: PublicKey,
    target: Target<'a>,
    text: &'a str,
    id: &'a str,
    timestamp: Timestamp,
) -> Message<'a> {
    Message { target, text, sender, id, timestamp, signature: Signature::from_bytes([0; 64]) }
}

/// Bytes of a message's frame, whatever its signature.
fn frame_bytes(message: &Message<'_>) -> u64 {
    let mut frame = Vec::with_capacity(600 + 2 * message.text.len());
    encode::message(&mut frame, message);
    frame.len() as u64
}

/// Signs a message and gives its frame. The session knows nothing of it: for those who sign ahead.
/// Nothing is checked.
#[must_use]
pub fn sign_message(key: &SigningKey, target: Target<'_>, text: &str, id: &str, timestamp: Timestamp) -> String {
    let mut message = unsigned(PublicKey::from(&key.verifying_key()), target, text, id, timestamp);
    let mut bytes = Vec::with_capacity(600 + 2 * text.len());
    signed_bytes::message(&mut bytes, &message);
    message.signature = Signature::from_bytes(key.sign(&bytes).to_bytes());
    bytes.clear();
    encode::message(&mut bytes, &message);
    text_of(bytes)
}

/// A random UUID, version 4 (RFC 9562, 5.4), as text.
pub(super) fn random_id() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    uuid_v4(bytes)
}

fn uuid_v4(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let number = u128::from_be_bytes(bytes);
    let digits = format!("{number:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_of_version_4() {
        // The example of RFC 9562, A.3.
        let bytes = 0x919108f7_52d1_4320_9bac_f847db4148a8_u128.to_be_bytes();
        assert_eq!(uuid_v4(bytes), "919108f7-52d1-4320-9bac-f847db4148a8");
        assert_eq!(uuid_v4([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert!(is_id(&random_id()) && random_id() != random_id());
    }
}
