//! A user: its key, what it has sent, and what it has received.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use ed25519_dalek::{Signer, SigningKey};
use protocol::frame::{Message, Target};
use protocol::{PublicKey, Signature, Timestamp, encode, signed_bytes};

/// A message that was sent and not acked.
pub(crate) struct Sent {
    /// The frame, to be sent again as it is.
    pub(crate) frame: String,
    /// The number of its recipient.
    pub(crate) to: usize,
}

/// See the module.
pub(crate) struct User {
    number: usize,
    signing_key: SigningKey,
    key: PublicKey,
    sent: u64,
    /// By id.
    pub(crate) waiting: BTreeMap<String, Sent>,
    acked: Vec<(String, usize)>,
    /// How often each message came that was not asked for yet.
    received: HashMap<String, u32>,
    /// What this device has, for resume: epoch and seq.
    pub(crate) position: Option<(String, u64)>,
    faults: Vec<String>,
}

impl User {
    /// The same number gives the same user.
    pub(crate) fn numbered(number: usize) -> Self {
        let mut seed = [0xc7; 32];
        seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let signing_key = SigningKey::from_bytes(&seed);
        Self {
            number,
            key: PublicKey::from(&signing_key.verifying_key()),
            signing_key,
            sent: 0,
            waiting: BTreeMap::new(),
            acked: Vec::new(),
            received: HashMap::new(),
            position: None,
            faults: Vec::new(),
        }
    }

    pub(crate) fn number(&self) -> usize {
        self.number
    }

    pub(crate) fn key(&self) -> PublicKey {
        self.key
    }

    pub(crate) fn signing_key(&self) -> &SigningKey {
        &self.signing_key
    }

    /// Makes the next message for somebody, which waits for its ack from now on, and returns its frame.
    pub(crate) fn compose(&mut self, to: usize, recipient: PublicKey) -> String {
        self.sent += 1;
        let id = format!("{}-{}", self.number, self.sent);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut message = Message {
            target: Target::User(recipient),
            text: "a message of a usual length, as people write them to each other all day",
            sender: self.key,
            id: &id,
            timestamp: Timestamp::from_unix_ms(since.as_millis() as i64),
            signature: Signature::from_bytes([0; 64]),
        };
        let mut signed = Vec::new();
        signed_bytes::message(&mut signed, &message);
        message.signature = Signature::from_bytes(self.signing_key.sign(&signed).to_bytes());
        let mut frame = Vec::new();
        encode::message(&mut frame, &message);
        let frame = String::from_utf8_lossy(&frame).into_owned();
        self.waiting.insert(id, Sent { frame: frame.clone(), to });
        frame
    }

    /// An ack was read. Returns whether it is of a message that waited.
    pub(crate) fn ack(&mut self, id: &str) -> bool {
        match self.waiting.remove(id) {
            Some(sent) => {
                self.acked.push((id.to_owned(), sent.to));
                true
            }
            None => false,
        }
    }

    /// A message was read.
    pub(crate) fn receive(&mut self, id: &str) {
        *self.received.entry(id.to_owned()).or_default() += 1;
    }

    pub(crate) fn has(&self, id: &str) -> bool {
        self.received.contains_key(id)
    }

    pub(crate) fn unacked(&self) -> usize {
        self.waiting.len()
    }

    /// Messages that were acked since the last call, with the numbers of their recipients.
    pub(crate) fn take_acked(&mut self) -> Vec<(String, usize)> {
        std::mem::take(&mut self.acked)
    }

    /// Notes what must not be.
    #[expect(clippy::needless_pass_by_value, reason = "callers format it for this alone")]
    pub(crate) fn fault(&mut self, what: String) {
        self.faults.push(format!("user {}: {what}", self.number));
    }

    pub(crate) fn take_faults(&mut self) -> Vec<String> {
        std::mem::take(&mut self.faults)
    }

    /// Forgets messages that were expected and have come, and returns how often they came once more.
    pub(crate) fn forget_received(&mut self, expected: &HashSet<String>) -> u64 {
        let times = expected.iter().filter_map(|id| self.received.remove(id));
        times.map(|times| u64::from(times - 1)).sum()
    }
}
