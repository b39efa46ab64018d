//! The clients' keys, made from the run's seed: the same seed has the same users, who hash to the
//! same shards.
//!
//! Not secret: anybody can make them from the seed. They are for relays under test.

use ed25519_dalek::SigningKey;
use protocol::PublicKey;

use crate::rng::Rng;

/// Keeps the streams of keys apart from those of other uses of the seed.
const STREAM: u64 = 0x6b65_7973_0000_0000;

/// Devices of one user at most, as many as a relay lets in by default.
pub const DEVICES_MAX: u32 = 8;

/// What the devices of a user call themselves.
const DEVICES: [&str; DEVICES_MAX as usize] =
    ["loadgen", "loadgen-2", "loadgen-3", "loadgen-4", "loadgen-5", "loadgen-6", "loadgen-7", "loadgen-8"];

/// What a user's device calls itself; 0 is the first.
#[must_use]
pub fn device(device: u32) -> &'static str {
    DEVICES[(device % DEVICES_MAX) as usize]
}

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
