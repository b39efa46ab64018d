//! The `clientMessageId`s of the last ten minutes, so that a message sent again is acknowledged
//! again and not delivered again.
//!
//! An id is kept as a keyed 128-bit hash of sender and id, and the signature as a keyed 64-bit one:
//! nobody who lacks the key can make two that collide, and chance does so once in 2^64 pairs. The
//! table is cut into stripes, each with its own order of arrival, so that none of them ever takes
//! long to grow.
//!
//! # Invariants
//! - An id in state `Accepted` is remembered for ten minutes after its acceptance, unless the bound
//!   on the number of ids is met first; then the oldest of its stripe goes, and is counted.
//! - Refused ids are removed: they stay free.

use std::collections::VecDeque;
use std::hash::Hasher;

use hashbrown::HashTable;
use protocol::{PublicKey, Signature, limits};
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher128};

use crate::envelope::Ticket;
use crate::event::Nanos;
use crate::store::IdRecord;

const STRIPES: usize = 64;
const MEMORY: Nanos = limits::ID_MEMORY_MS * 1_000_000;

/// Sender and id, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IdKey(pub(crate) u128);

/// A signature, hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SignatureTag(pub(crate) u64);

/// How far the message with an id has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdState {
    /// Its signature is not checked yet.
    Verifying,
    /// On its way to the recipient's shard.
    InTransit(Ticket),
    /// Acknowledged: with this seq of the sender's, or 0, and whether the recipient was online.
    Accepted { seq: u64, online: bool },
    /// Accepted before the relay started anew; the sender's other devices do not have it.
    CopyDue,
}

#[derive(Debug)]
struct Known {
    key: IdKey,
    tag: SignatureTag,
    state: IdState,
    /// When it was noted or accepted; tells an entry of `order` from an older one of the same key.
    at: Nanos,
}

/// What [`Limits::recent_ids_max`](crate::Limits::recent_ids_max) reckons with.
const _: () = assert!(size_of::<Known>() == 48);

#[derive(Debug, Default)]
struct Stripe {
    table: HashTable<Known>,
    order: VecDeque<(IdKey, Nanos)>,
}

/// All ids a shard remembers.
#[derive(Debug)]
pub(crate) struct RecentIds {
    seed: u64,
    stripe_max: usize,
    stripes: Vec<Stripe>,
    evicted: u64,
}

impl RecentIds {
    pub(crate) fn new(seed: u64, ids_max: usize) -> Self {
        let mut stripes = Vec::new();
        stripes.resize_with(STRIPES, Stripe::default);
        Self { seed, stripe_max: ids_max.div_ceil(STRIPES).max(1), stripes, evicted: 0 }
    }

    pub(crate) fn key(&self, sender: &PublicKey, id: &str) -> IdKey {
        let mut hasher = SipHasher128::new_with_keys(self.seed, self.seed.rotate_left(17));
        hasher.write(sender.as_bytes());
        hasher.write(id.as_bytes());
        IdKey(hasher.finish128().as_u128())
    }

    pub(crate) fn tag(&self, signature: &Signature) -> SignatureTag {
        let mut hasher = SipHasher13::new_with_keys(self.seed, self.seed.rotate_left(31));
        hasher.write(signature.as_bytes());
        SignatureTag(hasher.finish())
    }

    /// What is known of an id: whose signature it came with, and how far it is.
    pub(crate) fn get(&self, key: IdKey, now: Nanos) -> Option<(SignatureTag, IdState)> {
        let known = self.stripes[stripe_of(key)].table.find(key.0 as u64, |known| known.key == key)?;
        let is_accepted = matches!(known.state, IdState::Accepted { .. } | IdState::CopyDue);
        let is_over = is_accepted && (now + MEMORY).saturating_sub(known.at) > MEMORY;
        (!is_over).then_some((known.tag, known.state))
    }

    /// Notes an id that is not known, in state `Verifying`.
    pub(crate) fn note(&mut self, key: IdKey, tag: SignatureTag, now: Nanos) {
        self.enter(key, tag, IdState::Verifying, now + MEMORY);
    }

    /// Takes in an id that was accepted `age` ago, oldest first.
    pub(crate) fn restore(&mut self, record: &IdRecord, state: IdState, age: Nanos, now: Nanos) {
        if age <= MEMORY {
            self.enter(IdKey(record.key), SignatureTag(record.tag), state, now + MEMORY - age);
        }
    }

    /// Times are kept [`MEMORY`] ahead, so that there are such before the clock's start.
    fn enter(&mut self, key: IdKey, tag: SignatureTag, state: IdState, now: Nanos) {
        let stripe = &mut self.stripes[stripe_of(key)];
        while stripe.order.len() >= self.stripe_max
            || stripe.order.front().is_some_and(|&(_, at)| now.saturating_sub(at) > MEMORY)
        {
            let Some((old, at)) = stripe.order.pop_front() else { break };
            if let Ok(entry) = stripe.table.find_entry(old.0 as u64, |known| known.key == old && known.at == at) {
                self.evicted += u64::from(now.saturating_sub(at) <= MEMORY);
                entry.remove();
            }
        }
        remove(stripe, key);
        let known = Known { key, tag, state, at: now };
        stripe.table.insert_unique(key.0 as u64, known, |known| known.key.0 as u64);
        stripe.order.push_back((key, now));
    }

    /// Moves a noted id on. An id that was evicted meanwhile stays so.
    pub(crate) fn set(&mut self, key: IdKey, state: IdState) {
        let stripe = &mut self.stripes[stripe_of(key)];
        if let Some(known) = stripe.table.find_mut(key.0 as u64, |known| known.key == key) {
            known.state = state;
        }
    }

    /// Frees the id of a refused message.
    pub(crate) fn forget(&mut self, key: IdKey) {
        remove(&mut self.stripes[stripe_of(key)], key);
    }

    /// Ids that were forgotten before their time.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }
}

fn stripe_of(key: IdKey) -> usize {
    (key.0 >> 64) as usize % STRIPES
}

fn remove(stripe: &mut Stripe, key: IdKey) {
    if let Ok(entry) = stripe.table.find_entry(key.0 as u64, |known| known.key == key) {
        entry.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(max: usize) -> RecentIds {
        RecentIds::new(7, max)
    }

    #[test]
    fn an_id_is_known_for_ten_minutes_and_belongs_to_its_sender() {
        let mut ids = ids(1000);
        let (anna, ben) = (PublicKey::from_bytes([1; 32]), PublicKey::from_bytes([2; 32]));
        let tag = ids.tag(&Signature::from_bytes([5; 64]));
        let key = ids.key(&anna, "id");
        ids.note(key, tag, 10);
        let accepted = IdState::Accepted { seq: 7, online: true };
        ids.set(key, accepted);
        assert_eq!(ids.get(key, 10 + MEMORY), Some((tag, accepted)));
        assert_eq!(ids.get(key, 11 + MEMORY), None);
        assert_eq!(ids.get(ids.key(&ben, "id"), 10), None);
        ids.forget(key);
        assert_eq!(ids.get(key, 10), None);
    }

    #[test]
    fn a_freed_id_noted_again_outlives_its_first_entry() {
        let mut ids = ids(1000);
        let key = ids.key(&PublicKey::from_bytes([1; 32]), "id");
        let tag = ids.tag(&Signature::from_bytes([5; 64]));
        ids.note(key, tag, 0);
        ids.forget(key);
        ids.note(key, tag, MEMORY);
        ids.set(key, IdState::Accepted { seq: 0, online: false });
        for n in 0..10_000 {
            let other = ids.key(&PublicKey::from_bytes([2; 32]), &n.to_string());
            ids.note(other, tag, MEMORY + 1);
            ids.forget(other);
            if ids.stripes[stripe_of(key)].order.len() >= ids.stripe_max {
                break;
            }
        }
        assert!(ids.get(key, MEMORY + 1).is_some());
    }

    #[test]
    fn the_bound_holds_and_evictions_are_counted() {
        let mut ids = ids(640);
        let tag = ids.tag(&Signature::from_bytes([5; 64]));
        for n in 0..10_000u64 {
            let key = ids.key(&PublicKey::from_bytes([1; 32]), &n.to_string());
            ids.note(key, tag, n);
        }
        let held: usize = ids.stripes.iter().map(|stripe| stripe.table.len()).sum();
        assert!(held <= 640 && held > 500, "{held}");
        assert_eq!(ids.evicted() as usize, 10_000 - held);
        assert!(ids.stripes.iter().all(|stripe| stripe.order.len() <= ids.stripe_max));
    }
}
