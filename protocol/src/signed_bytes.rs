//! What is signed: lines of UTF-8 joined by one `\n`, none at the end. JSON is never signed.
//!
//! ```text
//! relay-auth/v1            relay-message/v1
//! <relay name>             <senderPublicKey>
//! <nonce>                  user:<recipientPublicKey> | room:<roomId> | room:<roomId>:<recipientPublicKey>
//! <publicKey>              <clientMessageId>
//! <deviceId>               <timestamp>
//!                          <message, decoded, may hold newlines itself>
//! ```
//! Every field but the last has a form without newlines, and the message stands last: two different
//! messages never give the same bytes.

use crate::frame::{Message, Target};
use crate::keys::{Hex, PublicKey};

/// Appends the bytes that an `auth` signs.
pub fn auth(out: &mut Vec<u8>, relay_name: &str, nonce: &[u8; 32], key: &PublicKey, device_id: &str) {
    out.extend_from_slice(b"relay-auth/v1\n");
    out.extend_from_slice(relay_name.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(Hex::<64>::of(nonce).as_bytes());
    out.push(b'\n');
    out.extend_from_slice(key.to_hex().as_bytes());
    out.push(b'\n');
    out.extend_from_slice(device_id.as_bytes());
}

/// Appends the bytes that a `message` signs: all of it but the signature, whose value is not read.
pub fn message(out: &mut Vec<u8>, message: &Message<'_>) {
    out.extend_from_slice(b"relay-message/v1\n");
    out.extend_from_slice(message.sender.to_hex().as_bytes());
    out.push(b'\n');
    match message.target {
        Target::User(recipient) => {
            out.extend_from_slice(b"user:");
            out.extend_from_slice(recipient.to_hex().as_bytes());
        }
        Target::Room(room) => {
            out.extend_from_slice(b"room:");
            out.extend_from_slice(room.as_bytes());
        }
        Target::RoomMember(room, recipient) => {
            out.extend_from_slice(b"room:");
            out.extend_from_slice(room.as_bytes());
            out.push(b':');
            out.extend_from_slice(recipient.to_hex().as_bytes());
        }
    }
    out.push(b'\n');
    out.extend_from_slice(message.id.as_bytes());
    out.push(b'\n');
    out.extend_from_slice(&message.timestamp.to_text());
    out.push(b'\n');
    out.extend_from_slice(message.text.as_bytes());
}
