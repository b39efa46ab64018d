//! Own messages: composed, signed, and remembered until the relay answers.

use std::time::Instant;

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{Message, Target};
use protocol::keys::is_id;
use protocol::{PublicKey, Signature, Timestamp, encode, signed_bytes};
use thiserror::Error;

use super::state::{Open, Phase, State, text_of};
use crate::history::{Entry, Peer, Status};

/// A message ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composed {
    /// Its `clientMessageId`.
    pub id: String,
    /// The text message to send. Sending it again as it is gets the same answer.
    pub frame: String,
}

/// Why a message is not composed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ComposeError {
    /// There is no open session.
    #[error("there is no connection to the relay")]
    NotOpen,
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

/// An own message without an answer.
#[derive(Debug)]
pub(super) struct Unacked {
    pub(super) id: String,
    pub(super) peer: Peer,
    /// The one member of a room that it is for.
    member: Option<PublicKey>,
    text: String,
    /// Whether it was signed anew after `stale_timestamp`.
    restamped: bool,
}

impl Unacked {
    fn target(&self) -> Target<'_> {
        match (&self.peer, self.member) {
            (Peer::User(recipient), _) => Target::User(*recipient),
            (Peer::Room(room), None) => Target::Room(room),
            (Peer::Room(room), Some(member)) => Target::RoomMember(room, member),
        }
    }
}

impl State {
    pub(super) fn compose(
        &mut self,
        id: String,
        target: Target<'_>,
        text: &str,
        now: Instant,
    ) -> Result<Composed, ComposeError> {
        let Phase::Open(Open { limits, .. }) = &self.phase else { return Err(ComposeError::NotOpen) };
        let chars = text.chars().count() as u64;
        if chars == 0 {
            return Err(ComposeError::Empty);
        }
        if chars > limits.message_chars {
            return Err(ComposeError::TooLong { chars, chars_max: limits.message_chars });
        }
        if !is_id(&id) || self.unacked.iter().any(|unacked| unacked.id == id) {
            return Err(ComposeError::Id);
        }
        let (peer, member) = match target {
            Target::User(recipient) => (Peer::User(recipient), None),
            Target::Room(room) => (Peer::Room(room.to_owned()), None),
            Target::RoomMember(room, member) => (Peer::Room(room.to_owned()), Some(member)),
        };
        if matches!(&peer, Peer::Room(room) if !is_id(room)) {
            return Err(ComposeError::Room);
        }
        if self.unacked.len() >= self.options.unacked_max {
            return Err(ComposeError::TooManyUnacked(self.unacked.len()));
        }
        let timestamp = self.clock.time(now);
        let frame = sign_message(&self.key, target, text, &id, timestamp);
        if frame.len() as u64 > limits.frame_bytes {
            return Err(ComposeError::TooLarge { bytes: frame.len() as u64, bytes_max: limits.frame_bytes });
        }
        let entry = Entry {
            seq: None,
            sender: self.public_key,
            id: id.clone(),
            timestamp,
            text: text.to_owned(),
            status: Status::Sending,
        };
        self.history.insert(peer.clone(), entry);
        self.unacked.push_back(Unacked { id: id.clone(), peer, member, text: text.to_owned(), restamped: false });
        Ok(Composed { id, frame })
    }

    /// Signs a refused message anew, with the corrected time; once only. The relay has not kept its id.
    pub(super) fn restamp(&mut self, id: &str, now: Instant) -> Option<String> {
        let timestamp = self.clock.time(now);
        let unacked = self.unacked.iter_mut().find(|unacked| unacked.id == id && !unacked.restamped)?;
        unacked.restamped = true;
        Some(sign_message(&self.key, unacked.target(), &unacked.text, id, timestamp))
    }

    pub(super) fn take_unacked(&mut self, id: &str) -> Option<Unacked> {
        let at = self.unacked.iter().position(|unacked| unacked.id == id)?;
        self.unacked.remove(at)
    }
}

/// Signs a message and gives its frame. The session knows nothing of it: for those who sign ahead.
/// Nothing is checked.
#[must_use]
pub fn sign_message(key: &SigningKey, target: Target<'_>, text: &str, id: &str, timestamp: Timestamp) -> String {
    let mut message = Message {
        target,
        text,
        sender: PublicKey::from(&key.verifying_key()),
        id,
        timestamp,
        signature: Signature::from_bytes([0; 64]),
    };
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
