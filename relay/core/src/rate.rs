//! Token buckets in eight bytes: the generic cell rate algorithm (ITU-T I.371), which keeps the
//! time at which the bucket would be full again instead of a count and a date.

use crate::event::Nanos;

/// A rate: so many a second, so many at once after a rest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    interval: Nanos,
    burst: Nanos,
}

impl Rate {
    /// `per_second` of at least one, `burst` of at least one.
    pub(crate) fn new(per_second: u32, burst: u32) -> Self {
        let interval = 1_000_000_000 / Nanos::from(per_second.max(1));
        Self { interval, burst: interval * Nanos::from(burst.max(1) - 1) }
    }
}

/// One bucket, full at first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    full_at: Nanos,
}

impl Bucket {
    /// Takes one token, or says how long until there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Nanos) -> Result<(), Nanos> {
        let full_at = self.full_at.max(now);
        let over = (full_at - now).saturating_sub(rate.burst);
        if over > 0 {
            return Err(over);
        }
        self.full_at = full_at + rate.interval;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_the_rate() {
        let rate = Rate::new(10, 20);
        let mut bucket = Bucket::default();
        let start = 5_000_000_000;
        let at_once = (0..100).filter(|_| bucket.take(rate, start).is_ok()).count();
        assert_eq!(at_once, 20);
        let wait = bucket.take(rate, start).expect_err("it is empty");
        assert_eq!(wait, 100_000_000);
        assert!(bucket.take(rate, start + wait - 1).is_err());
        assert!(bucket.take(rate, start + wait).is_ok());
        let in_a_minute = (0..600_000u64).filter(|n| bucket.take(rate, start + wait + n * 100_000).is_ok()).count();
        assert_eq!(in_a_minute, 599);
        assert_eq!((0..100).filter(|_| bucket.take(rate, start + 900_000_000_000).is_ok()).count(), 20);
    }
}
