//! Users and the frames they send.

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{Message, Target};
use protocol::websocket::{self, Opcode};
use protocol::{PublicKey, Signature, Timestamp, encode, signed_bytes};

/// The wall clock of every benchmark, in milliseconds since the Unix epoch:
/// 2026-11-21T12:34:56.789Z.
pub const UNIX_MS: i64 = 1_795_264_496_789;

/// The mask of every client frame: as costly as a random one, and the same in every run.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A user: a key pair made from a number.
#[derive(Clone, Debug)]
pub struct User {
    /// To sign with.
    pub signing_key: SigningKey,
    /// Who it is.
    pub public_key: PublicKey,
}

impl User {
    /// The `n`th user: the same in every run.
    #[must_use]
    pub fn nth(n: u64) -> Self {
        let mut seed = [0x5e; 32];
        seed[..8].copy_from_slice(&n.to_le_bytes());
        let signing_key = SigningKey::from_bytes(&seed);
        let public_key = PublicKey::from(&signing_key.verifying_key());
        Self { signing_key, public_key }
    }

    /// All users, from number 0.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..).map(Self::nth)
    }
}

/// A message before it is signed.
#[derive(Clone, Debug)]
pub struct Draft {
    /// For whom.
    pub recipient: PublicKey,
    /// The text.
    pub text: String,
    /// `clientMessageId`, 36 characters as a UUID has.
    pub id: String,
}

impl Draft {
    /// A message with the `n`th id.
    #[must_use]
    pub fn new(recipient: PublicKey, text: String, n: u64) -> Self {
        Self { recipient, text, id: format!("00000000-0000-4000-8000-{n:012x}") }
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn signed_bytes(&self, sender: &User) -> Vec<u8> {
        let mut bytes = Vec::new();
        signed_bytes::message(&mut bytes, &self.message(sender.public_key, Signature::from_bytes([0; 64])));
        bytes
    }

    /// The message as `sender` signs it.
    #[must_use]
    pub fn sign(&self, sender: &User) -> Message<'_> {
        let signature = sender.signing_key.sign(&self.signed_bytes(sender));
        self.message(sender.public_key, Signature::from_bytes(signature.to_bytes()))
    }

    /// The signed message as a frame's JSON.
    #[must_use]
    pub fn frame(&self, sender: &User) -> String {
        let mut json = Vec::new();
        encode::message(&mut json, &self.sign(sender));
        String::from_utf8(json).expect("frames are UTF-8")
    }

    fn message(&self, sender: PublicKey, signature: Signature) -> Message<'_> {
        Message {
            target: Target::User(self.recipient),
            text: &self.text,
            sender,
            id: &self.id,
            timestamp: Timestamp::from_unix_ms(UNIX_MS),
            signature,
        }
    }
}

/// Appends a client's text message to `out`, as it travels.
pub fn push_client_text(out: &mut Vec<u8>, json: &str) {
    websocket::push_masked(out, Opcode::Text, json.as_bytes(), MASK);
}

/// So many characters of plain English, one byte each.
#[must_use]
pub fn plain_text(chars: usize) -> String {
    "The quick brown fox jumps over the lazy dog. ".chars().cycle().take(chars).collect()
}

/// So many characters, every other one of which JSON must escape: line ends, quotes, backslashes.
#[must_use]
pub fn text_to_escape(chars: usize) -> String {
    "a\nb\"c\\".chars().cycle().take(chars).collect()
}

/// So many characters outside the Basic Multilingual Plane: four bytes each.
#[must_use]
pub fn emoji(chars: usize) -> String {
    "😀".repeat(chars)
}

/// The same JSON with everything but ASCII escaped, as Python's `json.dumps` writes it: twelve bytes
/// for an emoji.
#[must_use]
pub fn escape_non_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 3);
    for char in json.chars() {
        if char.is_ascii() {
            out.push(char);
        } else {
            let mut units = [0; 2];
            char.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::decode::FrameDecoder;
    use protocol::frame::ClientFrame;
    use protocol::signature::verify_strict;

    #[test]
    fn frames_decode_to_what_was_signed_however_they_are_escaped() {
        let (sender, recipient) = (User::nth(0), User::nth(1));
        for text in [plain_text(100), text_to_escape(100), emoji(1000)] {
            let draft = Draft::new(recipient.public_key, text, 7);
            let frame = draft.frame(&sender);
            for json in [escape_non_ascii(&frame), frame] {
                let mut decoder = FrameDecoder::new();
                let Ok(ClientFrame::Message(message)) = decoder.decode(&json) else { panic!("refused: {json}") };
                assert_eq!(message.text, draft.text);
                let signed = draft.signed_bytes(&sender);
                assert!(verify_strict(&sender.signing_key.verifying_key(), &signed, &message.signature));
            }
        }
    }
}
