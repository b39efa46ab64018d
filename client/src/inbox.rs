//! What keeps a message from being shown twice, or shown without its sender's signature.
//!
//! # Invariants
//! - A seq is new once per epoch, and a sender's id once, however often a message comes.
//! - Every memory is bounded: seqs as ranges (one, while none is missing), ids and keys by count.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use protocol::PublicKey;
use protocol::frame::Message;
use protocol::signature::verify_strict;
use protocol::signed_bytes;

/// Gaps that may stay open below the highest seq; beyond that the oldest counts as closed.
const RANGES_MAX: usize = 1024;

/// Senders' ids remembered, the latest: about 100 bytes each.
const IDS_MAX: usize = 4096;

/// Senders' keys kept ready to verify with, 200 bytes each; making one costs two verifications.
const KEYS_MAX: usize = 256;

/// The seqs that were seen, as ranges that neither overlap nor touch: first → last.
#[derive(Debug, Default)]
pub(crate) struct SeenSeqs {
    ranges: BTreeMap<u64, u64>,
}

impl SeenSeqs {
    /// Notes `seq`; says whether it is new.
    pub(crate) fn insert(&mut self, seq: u64) -> bool {
        let below = self.ranges.range(..=seq).next_back().map(|(&first, &last)| (first, last));
        if below.is_some_and(|(_, last)| seq <= last) {
            return false;
        }
        let first = match below {
            Some((first, last)) if last + 1 == seq => first,
            _ => seq,
        };
        let last = self.ranges.remove(&(seq + 1)).unwrap_or(seq);
        self.ranges.insert(first, last);
        if self.ranges.len() > RANGES_MAX {
            let oldest = self.ranges.pop_first();
            let next = self.ranges.pop_first();
            if let (Some((first, _)), Some((_, last))) = (oldest, next) {
                self.ranges.insert(first, last);
            }
        }
        true
    }

    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }
}

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
    fn a_seq_is_new_once_in_any_order() {
        // All orders of five seqs, each followed by all of them again.
        let mut orders = vec![vec![]];
        for seq in [3, 4, 5, 6, 9] {
            orders = orders
                .iter()
                .flat_map(|order: &Vec<u64>| {
                    (0..=order.len()).map(|at| {
                        let mut order = order.clone();
                        order.insert(at, seq);
                        order
                    })
                })
                .collect();
        }
        assert_eq!(orders.len(), 120);
        for order in orders {
            let mut seen = SeenSeqs::default();
            assert!(order.iter().all(|&seq| seen.insert(seq)), "{order:?}");
            assert!(!order.iter().any(|&seq| seen.insert(seq)), "{order:?}");
            assert_eq!(seen.ranges, BTreeMap::from([(3, 6), (9, 9)]), "{order:?}");
        }
    }

    #[test]
    fn gaps_are_bounded_and_the_oldest_close_first() {
        let mut seen = SeenSeqs::default();
        for n in 0..RANGES_MAX as u64 + 10 {
            assert!(seen.insert(2 * n));
        }
        assert_eq!(seen.ranges.len(), RANGES_MAX);
        assert!(!seen.insert(1), "the oldest gap counts as closed");
        assert!(seen.insert(2 * RANGES_MAX as u64 + 1), "the newest is open");
    }

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
