//! How fast frames may go out: token buckets, so that a client stays within what the relay allows and
//! is not refused, or closed, for sending what it was asked to send.

use std::time::{Duration, Instant};

/// So many at once after a rest, then so many a second. Kept as the moment at which the bucket would
/// be full again, which needs no upkeep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    /// Zero: unlimited.
    interval: Duration,
    burst: u32,
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket. `per_second` of 0 is unlimited.
    pub(crate) fn new(per_second: u64, burst: u64) -> Self {
        let interval = Duration::from_nanos(1_000_000_000_u64.checked_div(per_second).unwrap_or(0));
        Self { interval, burst: u32::try_from(burst).unwrap_or(u32::MAX).max(1), full_at: None }
    }

    /// The same bucket, or, under another rate, a full one.
    pub(crate) fn with_rate(self, per_second: u64, burst: u64) -> Self {
        let other = Self::new(per_second, burst);
        if (other.interval, other.burst) == (self.interval, self.burst) { self } else { other }
    }

    /// When the next one may go: `now`, or later.
    pub(crate) fn ready_at(&self, now: Instant) -> Instant {
        let depth = self.interval * (self.burst - 1);
        self.full_at.and_then(|full_at| full_at.checked_sub(depth)).map_or(now, |ready| ready.max(now))
    }

    /// Takes one, whether or not one is there.
    pub(crate) fn take(&mut self, now: Instant) {
        self.full_at = Some(self.full_at.map_or(now, |full_at| full_at.max(now)) + self.interval);
    }

    /// Lets none go before `at`.
    pub(crate) fn block_until(&mut self, at: Instant) {
        let full_at = at + self.interval * (self.burst - 1);
        self.full_at = Some(self.full_at.map_or(full_at, |own| own.max(full_at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many go at `now`.
    fn drain(bucket: &mut Bucket, now: Instant) -> u32 {
        let mut taken = 0;
        while bucket.ready_at(now) <= now && taken < 1000 {
            bucket.take(now);
            taken += 1;
        }
        taken
    }

    #[test]
    fn a_burst_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(10, 20);
        assert_eq!(drain(&mut bucket, start), 20);
        assert_eq!(bucket.ready_at(start), start + Duration::from_millis(100));
        assert_eq!(drain(&mut bucket, start + Duration::from_millis(99)), 0);
        assert_eq!(drain(&mut bucket, start + Duration::from_millis(350)), 3);
        assert_eq!(drain(&mut bucket, start + Duration::from_secs(60)), 20, "no more than a burst gathers");
    }

    #[test]
    fn unlimited_and_blocked() {
        let start = Instant::now();
        let mut unlimited = Bucket::new(0, 0);
        assert_eq!(drain(&mut unlimited, start), 1000);
        let mut bucket = Bucket::new(10, 20);
        bucket.block_until(start + Duration::from_secs(2));
        assert_eq!(drain(&mut bucket, start + Duration::from_millis(1999)), 0);
        assert_eq!(drain(&mut bucket, start + Duration::from_secs(2)), 1, "and the rest has to gather");
        assert_eq!(drain(&mut bucket.with_rate(10, 20), start + Duration::from_secs(2)), 0, "the same rate");
        assert_eq!(drain(&mut bucket.with_rate(5, 10), start + Duration::from_secs(2)), 10, "another");
        assert_eq!(drain(&mut bucket.with_rate(u64::MAX, u64::MAX), start), 1000);
    }
}
