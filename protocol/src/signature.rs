//! Signatures and how they are checked.
//!
//! # What is promised
//! Nothing passes that was not made with the sender's private key, and everything that
//! [`verify_strict`] accepts passes, one by one or in a batch.
//!
//! # Why a batch may be trusted
//! A batch checks one random linear combination of the equations `[S]B = R + [k]A` that strict
//! verification checks one by one, each weighted with its own 128-bit number. The numbers are drawn
//! from a hash over every key, message and signature of the batch, so nobody can choose signatures
//! after seeing them, and a forged equation survives with a chance of about 2^-128.
//!
//! The curve has a cofactor of 8, so points may carry a part of order 2, 4 or 8 (torsion), which a
//! weight divisible by 8 makes vanish. Three sources of torsion, three answers:
//! - in the public key A: refused once per login ([`PublicKey::to_verifying_key`]);
//! - R wholly of small order: refused by its bytes here, as strict verification does
//!   ([`is_candidate`]);
//! - R an honest point plus torsion: only the owner of the key can make one that fits (it needs S,
//!   thus the private key). A batch then accepts it now and then, strict verification never. Such a
//!   message harms nobody but its author: every client verifies strictly and drops it.
//!
//! S must be canonical (below the group's order) in both ways, so nobody but the owner can make a
//! second signature of the same message out of a first one.

use ed25519_dalek::{Signature as DalekSignature, VerifyingKey};

#[cfg(doc)]
use crate::keys::PublicKey;
use crate::keys::{Hex, read_hex};

/// A signature as 64 bytes, R then S: 128 lowercase hex digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Wraps 64 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// Reads 128 lowercase hex digits; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        read_hex(text).map(Self)
    }

    /// The 64 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The 128 lowercase hex digits.
    #[must_use]
    pub fn to_hex(&self) -> Hex<128> {
        Hex::of(&self.0)
    }

    /// The form that ed25519-dalek takes.
    #[must_use]
    pub fn to_dalek(&self) -> DalekSignature {
        DalekSignature::from_bytes(&self.0)
    }
}

impl std::fmt::Debug for Signature {
    /// The first 8 digits only.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}…", &self.to_hex().as_str()[..8])
    }
}

/// Verifies one signature strictly (RFC 8032 with ed25519-dalek's stricter rules).
/// What it costs: the benchmark `signatures`.
#[must_use]
pub fn verify_strict(key: &VerifyingKey, signed: &[u8], signature: &Signature) -> bool {
    key.verify_strict(signed, &signature.to_dalek()).is_ok()
}

/// Whether a signature may enter a batch: R is not of small order. (That S is canonical the batch
/// checks itself.) Costs a few comparisons.
#[must_use]
pub fn is_candidate(signature: &Signature) -> bool {
    let mut r = [0; 32];
    r.copy_from_slice(&signature.0[..32]);
    r[31] &= 0x7f;
    !SMALL_ORDER_Y.contains(&r)
}

/// The y coordinates of the eight points of small order, little-endian, sign bit cleared, with the
/// non-canonical encodings (y + p, p = 2^255 - 19) of those that have one. With the sign bit masked
/// away this covers every encoding that decompresses to such a point.
const SMALL_ORDER_Y: [[u8; 32]; 7] = {
    /// A number of the form `[first, filling × 30, last]`.
    const fn bytes(first: u8, filling: u8, last: u8) -> [u8; 32] {
        let mut bytes = [filling; 32];
        bytes[0] = first;
        bytes[31] = last;
        bytes
    }
    [
        // y = 1: the identity, and p + 1.
        bytes(0x01, 0x00, 0x00),
        bytes(0xee, 0xff, 0x7f),
        // y = p - 1 = -1: order two.
        bytes(0xec, 0xff, 0x7f),
        // y = 0: order four, and p.
        bytes(0x00, 0x00, 0x00),
        bytes(0xed, 0xff, 0x7f),
        // The two y of order eight, negatives of each other.
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
    ]
};

/// Verifies many signatures at once, each cheaper than alone from a few on. `true` means that each
/// was made with its key's private half (see the module about torsion); `false` says only that at
/// least one was not, or could not be checked in a batch: check each alone then.
///
/// Allocates a few vectors of the batch's length. The slices are of equal length, at least one.
#[must_use]
pub fn verify_batch(keys: &[VerifyingKey], signed: &[&[u8]], signatures: &[DalekSignature]) -> bool {
    ed25519_dalek::verify_batch(signed, signatures, keys).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer, SigningKey};

    fn signed(seed: u8, text: &[u8]) -> (VerifyingKey, DalekSignature) {
        let key = SigningKey::from_bytes(&[seed; 32]);
        (key.verifying_key(), key.sign(text))
    }

    #[test]
    fn honest_signatures_pass_alone_and_together_and_altered_ones_do_not() {
        let texts: Vec<Vec<u8>> = (0..16u8).map(|n| vec![n; 40 + usize::from(n)]).collect();
        let (keys, mut signatures): (Vec<_>, Vec<_>) =
            texts.iter().zip(0..).map(|(text, seed)| signed(seed, text)).unzip();
        let slices: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
        assert!(verify_batch(&keys, &slices, &signatures));
        for ((key, text), signature) in keys.iter().zip(&slices).zip(&signatures) {
            let signature = Signature::from_bytes(signature.to_bytes());
            assert!(is_candidate(&signature) && verify_strict(key, text, &signature));
            assert!(!verify_strict(key, b"other", &signature));
        }
        signatures.swap(3, 4);
        assert!(!verify_batch(&keys, &slices, &signatures));
    }

    #[test]
    fn the_table_holds_every_encoding_of_a_small_order_point() {
        // Every encoding whose y is in the table, with both signs, that decompresses is weak; and
        // the weak points known to the curve library are all in it.
        let mut points = 0;
        for y in SMALL_ORDER_Y {
            for sign in [0, 0x80] {
                let mut bytes = y;
                bytes[31] |= sign;
                if let Ok(key) = VerifyingKey::from_bytes(&bytes) {
                    assert!(key.is_weak(), "{bytes:02x?}");
                    points += 1;
                }
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(&bytes);
                assert!(!is_candidate(&Signature::from_bytes(signature)));
            }
        }
        assert!(points >= 8, "all eight points were met, {points} encodings in all");
    }

    #[test]
    fn a_signature_with_s_raised_by_the_order_is_refused_in_both_ways() {
        // L = 2^252 + 27742317777372353535851937790883648493, little-endian.
        const ORDER: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let (key, signature) = signed(1, b"text");
        let mut bytes = signature.to_bytes();
        let mut carry = 0u16;
        for (at, order) in ORDER.iter().enumerate() {
            let sum = u16::from(bytes[32 + at]) + u16::from(*order) + carry;
            bytes[32 + at] = sum as u8;
            carry = sum >> 8;
        }
        let raised = Signature::from_bytes(bytes);
        assert!(!verify_strict(&key, b"text", &raised));
        assert!(!verify_batch(&[key], &[b"text"], &[raised.to_dalek()]));
    }
}
