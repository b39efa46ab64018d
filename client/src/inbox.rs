//! What keeps a message from being shown twice, or shown without its sender's signature. Seqs, the
//! other half of that, are in [`crate::seqs`].
//!
//! # Invariants
//! - A sender's id is new once, however often a message comes, as long as it is among the latest.
//! - Every memory is bounded, ids and keys by count.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use protocol::PublicKey;
use protocol::frame::Message;
use protocol::signature::verify_strict;
use protocol::signed_bytes;

/// Senders' ids remembered, the latest: about 100 bytes each.
const IDS_MAX: usize = 4096;

/// Senders' keys kept ready to verify with, 200 bytes each; making one costs two verifications.
const KEYS_MAX: usize = 256;

/// The latest senders' ids that were seen.
#[derive(Debug, Default)]
pub(crate) struct SeenIds {
    ids: HashSet<Arc<(PublicKey, String)>>,
    oldest_first: VecDeque<Arc<(PublicKey, String)>>,
}

impl SeenIds {
    /// Notes an id of a sender; says whether it is new.
    pub(crate) fn insert(&mut self, sender: PublicKey, id: &str) -> bool {
        let id = Arc::new((sender, id.to_owned()));
        if !self.ids.insert(Arc::clone(&id)) {
            return false;
        }
        self.oldest_first.push_back(id);
        if self.oldest_first.len() > IDS_MAX
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

/// Verifies messages, each strictly and alone.
#[derive(Debug, Default)]
pub(crate) struct Verifier {
    /// `None` for a key that nobody can sign with.
    keys: HashMap<PublicKey, Option<VerifyingKey>>,
    signed: Vec<u8>,
}

impl Verifier {
    /// Whether `message` bears its sender's signature.
    pub(crate) fn verify(&mut self, message: &Message<'_>) -> bool {
        if self.keys.len() >= KEYS_MAX && !self.keys.contains_key(&message.sender) {
            self.keys.clear();
        }
        let key = self.keys.entry(message.sender).or_insert_with(|| message.sender.to_verifying_key().ok());
        self.signed.clear();
        signed_bytes::message(&mut self.signed, message);
        key.as_ref().is_some_and(|key| verify_strict(key, &self.signed, &message.signature))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_per_sender_and_bounded() {
        let (one, two) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let mut seen = SeenIds::default();
        assert!(seen.insert(one, "a") && seen.insert(two, "a") && seen.insert(one, "b"));
        assert!(!seen.insert(one, "a"));
        for n in 0..IDS_MAX {
            assert!(seen.insert(two, &format!("n{n}")));
        }
        assert_eq!((seen.ids.len(), seen.oldest_first.len()), (IDS_MAX, IDS_MAX));
        assert!(seen.insert(one, "a"), "it was forgotten");
    }
}
