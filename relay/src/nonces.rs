//! Nonces for challenges, fetched from the kernel many at a time.
//!
//! # Invariants
//! - Every nonce is given out once.
//! - A process that can get no randomness stops: no challenge goes out that could be guessed.

/// Bytes of one nonce.
const NONCE_BYTES: usize = 32;

/// Fetched at once: 128 nonces a system call.
const BUFFER_BYTES: usize = 4096;

/// A stock of unpredictable nonces.
pub(crate) struct Nonces {
    buffer: Box<[u8; BUFFER_BYTES]>,
    used: usize,
}

impl Nonces {
    /// Makes an empty stock: the first nonce fetches.
    pub(crate) fn new() -> Self {
        Self { buffer: Box::new([0; BUFFER_BYTES]), used: BUFFER_BYTES }
    }

    /// Takes one nonce out.
    ///
    /// # Panics
    /// If the operating system gives no randomness. On Linux that is only so where `getrandom` is
    /// forbidden by a filter.
    pub(crate) fn take(&mut self) -> [u8; NONCE_BYTES] {
        if self.used == BUFFER_BYTES {
            getrandom::fill(&mut self.buffer[..]).expect("the operating system gives randomness");
            self.used = 0;
        }
        let mut nonce = [0; NONCE_BYTES];
        let taken = &mut self.buffer[self.used..self.used + NONCE_BYTES];
        nonce.copy_from_slice(taken);
        taken.fill(0);
        self.used += NONCE_BYTES;
        nonce
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_BYTES, NONCE_BYTES, Nonces};
    use std::collections::HashSet;

    #[test]
    fn no_nonce_comes_twice_or_empty() {
        let mut nonces = Nonces::new();
        let mut seen = HashSet::from([[0; NONCE_BYTES]]);
        for _ in 0..3 * BUFFER_BYTES / NONCE_BYTES {
            assert!(seen.insert(nonces.take()));
        }
    }
}
