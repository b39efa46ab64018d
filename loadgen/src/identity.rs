//! The clients' keys, made from the run's seed: the same seed has the same users, who hash to the
//! same shards.
//!
//! Not secret: anybody can make them from the seed. They are for relays under test.

use ed25519_dalek::SigningKey;
use protocol::PublicKey;

use crate::rng::Rng;

/// Keeps the streams of keys apart from those of other uses of the seed.
const STREAM: u64 = 0x6b65_7973_0000_0000;

/// The device that every client says to be.
pub const DEVICE: &str = "loadgen";

/// The key of the client or visitor with this number. Costs about 12 µs.
#[must_use]
pub fn signing_key(seed: u64, number: u32) -> SigningKey {
    let mut rng = Rng::new(seed, STREAM | u64::from(number));
    let mut secret = [0; 32];
    for chunk in secret.as_chunks_mut::<8>().0 {
        *chunk = rng.next_u64().to_le_bytes();
    }
    SigningKey::from_bytes(&secret)
}

/// The public half of [`signing_key`].
#[must_use]
pub fn public_key(seed: u64, number: u32) -> PublicKey {
    PublicKey::from(&signing_key(seed, number).verifying_key())
}

#[cfg(test)]
mod tests {
    use super::public_key;

    #[test]
    fn keys_repeat_by_seed_and_number() {
        assert_eq!(public_key(1, 2), public_key(1, 2));
        assert_ne!(public_key(1, 2), public_key(1, 3));
        assert_ne!(public_key(1, 2), public_key(2, 2));
    }
}
