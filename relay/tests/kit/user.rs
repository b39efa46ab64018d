//! Users: keys, and what they sign, written down from the contract.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use serde_json::json;

/// Somebody with a key.
#[derive(Clone)]
pub(crate) struct User {
    signing_key: SigningKey,
    /// The public key, as 64 hex digits.
    pub(crate) key: String,
}

impl User {
    /// The same number gives the same user.
    pub(crate) fn numbered(number: usize) -> Self {
        let mut seed = [0x5e; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let signing_key = SigningKey::from_bytes(&seed);
        let key = hex(signing_key.verifying_key().as_bytes());
        Self { signing_key, key }
    }

    /// Users `0..count`.
    pub(crate) fn several(count: usize) -> Vec<Self> {
        (0..count).map(Self::numbered).collect()
    }

    /// Signs text, as 128 hex digits.
    pub(crate) fn sign(&self, text: &str) -> String {
        hex(&self.signing_key.sign(text.as_bytes()).to_bytes())
    }

    /// The private key's seed, as 64 hex digits.
    pub(crate) fn seed(&self) -> String {
        hex(self.signing_key.as_bytes())
    }

    /// The `auth` frame that answers a challenge.
    pub(crate) fn auth(&self, relay: &str, nonce: &str, device: &str, lobby: &str) -> String {
        let signature = self.sign(&format!("relay-auth/v1\n{relay}\n{nonce}\n{}\n{device}", self.key));
        json!({
            "type": "auth", "version": 1, "publicKey": self.key, "deviceId": device,
            "signature": signature, "lobby": lobby,
        })
        .to_string()
    }

    /// A message to somebody, from now, with an id of its own.
    pub(crate) fn draft(&self, recipient: &User, text: &str) -> Draft {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Draft {
            sender: self.clone(),
            recipient: recipient.key.clone(),
            text: text.to_owned(),
            id: format!("id-{}", IDS.fetch_add(1, Ordering::Relaxed)),
            timestamp: timestamp_in(0),
        }
    }
}

/// A message before it is signed. Its fields are free to be wrong.
#[derive(Clone)]
pub(crate) struct Draft {
    pub(crate) sender: User,
    pub(crate) recipient: String,
    pub(crate) text: String,
    pub(crate) id: String,
    pub(crate) timestamp: String,
}

impl Draft {
    /// The signature that fits.
    pub(crate) fn signature(&self) -> String {
        let Self { sender, recipient, text, id, timestamp } = self;
        sender.sign(&format!("relay-message/v1\n{}\nuser:{recipient}\n{id}\n{timestamp}\n{text}", sender.key))
    }

    /// The frame, rightly signed.
    pub(crate) fn frame(&self) -> String {
        self.frame_with(&self.signature())
    }

    /// The frame with any signature.
    pub(crate) fn frame_with(&self, signature: &str) -> String {
        let Self { sender, recipient, text, id, timestamp } = self;
        json!({
            "type": "message", "recipientPublicKey": recipient, "message": text, "senderPublicKey": sender.key,
            "clientMessageId": id, "timestamp": timestamp, "signature": signature,
        })
        .to_string()
    }
}

/// The time so many milliseconds from now, as the wire has it.
pub(crate) fn timestamp_in(ms: i64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    let now_ms = i64::try_from(now.as_millis()).expect("the clock is before the year 200 million");
    protocol::Timestamp::from_unix_ms(now_ms + ms).to_string()
}

/// Lowercase hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut digits, byte| {
        write!(digits, "{byte:02x}").expect("a String takes everything");
        digits
    })
}
