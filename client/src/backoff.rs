//! How long to wait before the next attempt to connect: 1, 2, 4, 8 … at most 30 s, with full jitter
//! (a uniform share of that), so that clients of one relay do not come back all at once.

use std::time::Duration;

/// The bound of the first delay.
const FIRST: Duration = Duration::from_secs(1);
/// The bound that no delay exceeds.
const LAST: Duration = Duration::from_secs(30);

/// Counts attempts in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The delay before the next attempt; `random` is uniform over all its values.
    pub(crate) fn next_delay(&mut self, random: u32) -> Duration {
        // Six doublings pass the last bound; more could overflow.
        let bound = (FIRST * (1 << self.attempts.min(6))).min(LAST);
        self.attempts = self.attempts.saturating_add(1);
        bound.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Attempts in a row so far.
    pub(crate) fn attempts(self) -> u32 {
        self.attempts
    }

    /// Starts again at the shortest delay.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_thirty_seconds_and_starts_again() {
        let mut backoff = Backoff::default();
        let bounds: Vec<u64> = (0..8).map(|_| backoff.next_delay(u32::MAX).as_secs()).collect();
        assert_eq!(bounds, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(backoff.attempts(), 8);
        backoff.reset();
        assert_eq!(backoff.next_delay(u32::MAX), FIRST);
    }

    #[test]
    fn jitter_is_full() {
        assert_eq!(Backoff::default().next_delay(0), Duration::ZERO);
        let half = Backoff::default().next_delay(u32::MAX / 2);
        assert!((499..=500).contains(&half.as_millis()), "{half:?}");
    }
}
