//! Users' public keys: 32 bytes on the inside, 64 lowercase hex digits on the wire.

use std::fmt;

use ed25519_dalek::VerifyingKey;
use thiserror::Error;

/// An Ed25519 public key as bytes: an identity, not yet known to be a usable curve point (see
/// [`PublicKey::to_verifying_key`]). Ordered by its bytes, which is also its order as hex.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

/// Why a public key is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The bytes are no point of the curve.
    #[error("the public key is not a point of the curve")]
    NotAPoint,
    /// The bytes name a point, in another way than its one canonical encoding.
    #[error("the public key is not canonically encoded")]
    NotCanonical,
    /// The point has a part of small order; no key made from a seed does.
    #[error("the public key is not in the prime-order subgroup")]
    NotPrimeOrder,
}

impl PublicKey {
    /// Wraps 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 lowercase hex digits; `None` for anything else, uppercase included.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        read_hex(text).map(Self)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lowercase hex digits.
    #[must_use]
    pub fn to_hex(&self) -> Hex<64> {
        Hex::of(&self.0)
    }

    /// The key's part of a lobby digest: its first 8 bytes, big-endian, so that the digest's 16 hex
    /// digits stand in the key's byte order.
    #[must_use]
    pub fn digest_part(&self) -> u64 {
        let mut first = [0; 8];
        first.copy_from_slice(&self.0[..8]);
        u64::from_be_bytes(first)
    }

    /// Decompresses the key for verification and checks what the relay checks once per login: the
    /// encoding is canonical and the point lies in the prime-order subgroup. Costs about two
    /// verifications; keep the result.
    ///
    /// # Errors
    /// [`KeyError`], for keys that no honest user has.
    pub fn to_verifying_key(&self) -> Result<VerifyingKey, KeyError> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| KeyError::NotAPoint)?;
        let point = key.to_edwards();
        if point.compress().as_bytes() != &self.0 {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() || !point.is_torsion_free() {
            return Err(KeyError::NotPrimeOrder);
        }
        Ok(key)
    }
}

impl From<&VerifyingKey> for PublicKey {
    fn from(key: &VerifyingKey) -> Self {
        Self(key.to_bytes())
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_hex().as_str())
    }
}

impl fmt::Debug for PublicKey {
    /// The first 8 digits only: logs never hold a full key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", &self.to_hex().as_str()[..8])
    }
}

/// `N` lowercase hex digits on the stack.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>([u8; N]);

impl<const N: usize> Hex<N> {
    /// Encodes `bytes`.
    ///
    /// # Panics
    /// If `bytes` is not exactly `N / 2` long.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len() * 2, N, "hex digits are two a byte");
        let mut digits = [0; N];
        faster_hex::hex_encode(bytes, &mut digits).expect("the buffer has two digits a byte");
        Self(digits)
    }

    /// The digits as text.
    ///
    /// # Panics
    /// Never: the digits are ASCII.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("hex digits are ASCII")
    }

    /// The digits as ASCII bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; N] {
        &self.0
    }
}

/// Reads exactly `2 * N` lowercase hex digits; `None` for anything else.
#[must_use]
pub fn read_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    faster_hex::hex_decode_with_case(digits, &mut bytes, faster_hex::CheckCase::Lower).ok()?;
    Some(bytes)
}

/// Whether `text` is a well-formed `clientMessageId`, `deviceId` or `roomId`: 1 to 64 of
/// `A-Z a-z 0-9 - _ . :`.
#[must_use]
pub fn is_id(text: &str) -> bool {
    (1..=crate::limits::ID_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
}

/// Whether `text` is a well-formed relay name: 1 to 253 of `a-z 0-9 . -`.
#[must_use]
pub fn is_relay_name(text: &str) -> bool {
    (1..=crate::limits::RELAY_NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::SigningKey;

    #[test]
    fn hex_is_lowercase_and_exact() {
        let key = PublicKey::from_bytes([0xab; 32]);
        let text = key.to_string();
        assert_eq!(text, "ab".repeat(32));
        assert_eq!(PublicKey::from_hex(&text), Some(key));
        assert_eq!(PublicKey::from_hex(&text.to_uppercase()), None);
        assert_eq!(PublicKey::from_hex(&text[1..]), None);
        assert_eq!(PublicKey::from_hex(&format!("{text}0")), None);
        assert_eq!(PublicKey::from_hex(&text.replacen('a', "g", 1)), None);
        assert_eq!(PublicKey::from_hex(&text.replacen("ab", "é", 1)), None);
        assert_eq!(format!("{key:?}"), "abababab…");
    }

    #[test]
    fn digest_part_reads_as_the_keys_first_digits() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(format!("{:016x}", PublicKey::from_bytes(bytes).digest_part()), "0102030405060708");
    }

    #[test]
    fn honest_keys_are_usable() {
        for seed in 0..8 {
            let key = SigningKey::from_bytes(&[seed; 32]).verifying_key();
            assert_eq!(PublicKey::from(&key).to_verifying_key(), Ok(key));
        }
    }

    #[test]
    fn hostile_keys_are_refused() {
        // y = 1 is the identity; y = p + 1 is the identity encoded another way (p = 2^255 - 19).
        let mut identity = [0; 32];
        identity[0] = 1;
        assert_eq!(PublicKey(identity).to_verifying_key(), Err(KeyError::NotPrimeOrder));
        let mut non_canonical = [0xff; 32];
        non_canonical[0] = 0xee;
        non_canonical[31] = 0x7f;
        assert_eq!(PublicKey(non_canonical).to_verifying_key(), Err(KeyError::NotCanonical));
        // y = 2 is on no point of the curve.
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert_eq!(PublicKey(off_curve).to_verifying_key(), Err(KeyError::NotAPoint));
        // An honest point plus the point of order two, (0, -1): prime-order part and torsion.
        let honest = SigningKey::from_bytes(&[7; 32]).verifying_key().to_edwards();
        let mut order_two = [0xff; 32];
        order_two[0] = 0xec;
        order_two[31] = 0x7f;
        let torsion = VerifyingKey::from_bytes(&order_two).expect("a point").to_edwards();
        let mixed = PublicKey((honest + torsion).compress().to_bytes());
        assert_eq!(mixed.to_verifying_key(), Err(KeyError::NotPrimeOrder));
    }

    #[test]
    fn ids_and_names() {
        assert!(is_id("A-z_0.9:") && is_id(&"x".repeat(64)));
        assert!(!is_id("") && !is_id(&"x".repeat(65)) && !is_id("a b") && !is_id("é"));
        assert!(is_relay_name("relay-1.example.org") && is_relay_name(&"a".repeat(253)));
        assert!(!is_relay_name("") && !is_relay_name("Relay") && !is_relay_name(&"a".repeat(254)));
    }
}
