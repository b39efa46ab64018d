//! Signatures of one batch of events, checked together at its end.
//!
//! Everything that arrived in one pass waits here; then it is checked in batches of up to
//! [`BATCH_MAX`], or one by one where few wait. A batch that fails is checked one by one, and whoever
//! broke it is checked alone for a while, so that nobody can take the batch from the others. What a
//! batch promises is argued in [`protocol::signature`].

use ed25519_dalek::VerifyingKey;
use protocol::Signature;
use protocol::signature::{is_candidate, verify_batch, verify_strict};

use crate::config::VerifyMode;
use crate::stats::Stats;

/// The largest batch: beyond it nothing is gained for a signature, and one bad one costs more.
const BATCH_MAX: usize = 64;

/// The smallest batch that is worth it. A batch of two costs about as much as two strict checks.
const BATCH_MIN: usize = 3;

/// Checks that wait, and their results.
#[derive(Debug)]
pub(crate) struct Verifier {
    mode: VerifyMode,
    keys: Vec<VerifyingKey>,
    signatures: Vec<Signature>,
    /// Ends of each signed text in `signed`.
    ends: Vec<usize>,
    signed: Vec<u8>,
    alone: Vec<bool>,
    results: Vec<bool>,
}

impl Verifier {
    pub(crate) fn new(mode: VerifyMode) -> Self {
        Self {
            mode,
            keys: Vec::new(),
            signatures: Vec::new(),
            ends: Vec::new(),
            signed: Vec::new(),
            alone: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Adds a check. `write` appends the signed bytes.
    pub(crate) fn add(
        &mut self,
        key: &VerifyingKey,
        signature: Signature,
        alone: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        self.keys.push(*key);
        self.signatures.push(signature);
        self.alone.push(alone);
        write(&mut self.signed);
        self.ends.push(self.signed.len());
    }

    /// Makes all checks that wait. The results stand in the order of [`Verifier::add`], until
    /// [`Verifier::clear`].
    pub(crate) fn run(&mut self, stats: &mut Stats) -> &[bool] {
        let count = self.keys.len();
        self.results.clear();
        self.results.resize(count, self.mode == VerifyMode::Off);
        match self.mode {
            VerifyMode::Off => {}
            VerifyMode::Strict => (0..count).for_each(|at| self.check_alone(at, stats)),
            VerifyMode::Auto => {
                let mut start = 0;
                while start < count {
                    let end = count.min(start + BATCH_MAX);
                    self.check_together(start, end, stats);
                    start = end;
                }
            }
        }
        &self.results
    }

    /// The result of one check.
    pub(crate) fn result(&self, at: usize) -> bool {
        self.results[at]
    }

    pub(crate) fn clear(&mut self) {
        self.keys.clear();
        self.signatures.clear();
        self.ends.clear();
        self.signed.clear();
        self.alone.clear();
        self.results.clear();
    }

    fn signed(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        &self.signed[start..self.ends[at]]
    }

    fn check_alone(&mut self, at: usize, stats: &mut Stats) {
        stats.verified_single += 1;
        self.results[at] = verify_strict(&self.keys[at], self.signed(at), &self.signatures[at]);
    }

    fn check_together(&mut self, start: usize, end: usize, stats: &mut Stats) {
        let mut members = [0; BATCH_MAX];
        let mut count = 0;
        for at in start..end {
            if self.alone[at] {
                self.check_alone(at, stats);
            } else if is_candidate(&self.signatures[at]) {
                members[count] = at;
                count += 1;
            }
        }
        let members = &members[..count];
        if count >= BATCH_MIN {
            stats.batches += 1;
            if self.batch_holds(members) {
                stats.verified_batched += count as u64;
                members.iter().for_each(|&at| self.results[at] = true);
                return;
            }
            stats.batches_failed += 1;
        }
        members.iter().for_each(|&at| self.check_alone(at, stats));
    }

    fn batch_holds(&self, members: &[usize]) -> bool {
        let count = members.len();
        let mut texts: [&[u8]; BATCH_MAX] = [&[]; BATCH_MAX];
        let mut signatures = Vec::with_capacity(count);
        for (text, &at) in texts.iter_mut().zip(members) {
            *text = self.signed(at);
            signatures.push(self.signatures[at].to_dalek());
        }
        let first = members[0];
        if members[count - 1] - first + 1 == count {
            return verify_batch(&self.keys[first..first + count], &texts[..count], &signatures);
        }
        let keys: Vec<VerifyingKey> = members.iter().map(|&at| self.keys[at]).collect();
        verify_batch(&keys, &texts[..count], &signatures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    /// Checks `bad` of `count`; a suspect's check is made alone.
    fn run(mode: VerifyMode, count: usize, bad: &[usize], alone: &[usize]) -> (Vec<bool>, Stats) {
        let mut verifier = Verifier::new(mode);
        let mut stats = Stats::default();
        for at in 0..count {
            let key = SigningKey::from_bytes(&[at as u8; 32]);
            let text = [at as u8; 50];
            let signature = key.sign(if bad.contains(&at) { b"another" } else { &text });
            let signature = Signature::from_bytes(signature.to_bytes());
            verifier.add(&key.verifying_key(), signature, alone.contains(&at), |out| out.extend_from_slice(&text));
        }
        (verifier.run(&mut stats).to_vec(), stats)
    }

    #[test]
    fn every_mode_finds_exactly_the_bad_ones() {
        for count in [1, 2, 3, 64, 65, 130] {
            for bad in [&[][..], &[0], &[count - 1], &[0, count / 2]] {
                let expected: Vec<bool> = (0..count).map(|at| !bad.contains(&at)).collect();
                assert_eq!(run(VerifyMode::Auto, count, bad, &[]).0, expected);
                assert_eq!(run(VerifyMode::Strict, count, bad, &[]).0, expected);
                assert_eq!(run(VerifyMode::Off, count, bad, &[]).0, vec![true; count]);
            }
        }
    }

    #[test]
    fn few_are_checked_alone_and_many_together() {
        let (_, stats) = run(VerifyMode::Auto, BATCH_MIN - 1, &[], &[]);
        assert_eq!((stats.verified_single, stats.batches), (BATCH_MIN as u64 - 1, 0));
        let (_, stats) = run(VerifyMode::Auto, 130, &[], &[]);
        assert_eq!((stats.verified_single, stats.verified_batched, stats.batches), (2, 128, 2));
    }

    #[test]
    fn a_suspect_breaks_no_batch() {
        let (results, stats) = run(VerifyMode::Auto, 10, &[4], &[4]);
        assert_eq!(results.iter().filter(|&&good| good).count(), 9);
        assert_eq!((stats.batches, stats.batches_failed, stats.verified_single), (1, 0, 1));
    }

    #[test]
    fn a_small_order_r_is_refused_without_a_check() {
        let mut verifier = Verifier::new(VerifyMode::Auto);
        let key = SigningKey::from_bytes(&[1; 32]).verifying_key();
        let mut identity = [0; 64];
        identity[0] = 1;
        for _ in 0..4 {
            verifier.add(&key, Signature::from_bytes(identity), false, |out| out.push(0));
        }
        assert_eq!(verifier.run(&mut Stats::default()), [false; 4]);
    }
}
